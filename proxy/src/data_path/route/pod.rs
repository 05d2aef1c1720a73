//! A pod that a client addressed itself.

use std::{cell::Cell, net::IpAddr, rc::Rc, sync::Arc};

use tokio::sync::Notify;

use crate::{
    contract::{reason::Reason, resource::Workload},
    control::state::State,
    data_path::connect::endpoint::Candidate,
};

/// See the module. When it is gone, so is the client's connection, as it would be without the mesh: the client
/// is to look up who else there is (gRPC over a headless Service does nothing else).
pub(crate) struct Pod {
    pub(super) candidate: Rc<Candidate>,
    ip: IpAddr,
    known: Arc<Workload>,
    state: Arc<State>,
    gone: Cell<bool>,
    /// A request did not get there.
    failed: Notify,
}

impl Pod {
    pub(crate) fn new(candidate: Candidate, ip: IpAddr, known: Arc<Workload>, state: Arc<State>) -> Box<Self> {
        let (candidate, gone, failed) = (Rc::new(candidate), Cell::new(false), Notify::new());
        Box::new(Self { candidate, ip, known, state, gone, failed })
    }

    /// Takes note of why a request or connection to it failed.
    pub(super) fn failed(&self, reason: Reason) {
        use Reason::{ConnectFailed, ConnectionLost, TlsFailed, WrongIdentity};
        if matches!(reason, ConnectFailed | ConnectionLost | TlsFailed | WrongIdentity) {
            self.gone.set(true);
            self.failed.notify_one();
        }
    }

    /// Whether it is known to be gone.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.get()
    }

    /// Waits until it is gone.
    pub(super) async fn until_gone(&self) {
        if self.gone.get() {
            return;
        }
        tokio::select! {
            () = self.failed.notified() => {}
            () = self.state.replaced(self.ip, &self.known) => {}
        }
        self.gone.set(true);
    }
}
