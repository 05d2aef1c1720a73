//! `Expect: 100-continue` (RFC 9110, section 10.1.1), end to end: a client is told to send its body when the application wants it, not
//! when a proxy does, so an application may still refuse before the first byte.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, Request, StatusCode, header::EXPECT};
use tokio::sync::Notify;

/// After this time a body is asked for anyway, as clients send theirs anyway: some applications never say.
const PATIENCE: Duration = Duration::from_secs(1);

/// Given when the application wants the body. Travels with a request among its extensions.
#[derive(Debug, Clone, Default)]
pub(crate) struct ContinueSignal(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    given: AtomicBool,
    changed: Notify,
}

impl ContinueSignal {
    pub(crate) fn give(&self) {
        self.0.given.store(true, Ordering::Release);
        self.0.changed.notify_waiters();
    }

    /// Gives it after a while at the latest.
    pub(crate) fn give_in_time(&self) {
        let signal = self.clone();
        tokio::task::spawn_local(async move {
            tokio::time::sleep(PATIENCE).await;
            signal.give();
        });
    }

    /// Waits until it is given.
    pub(crate) async fn given(self) {
        loop {
            let changed = Arc::clone(&self.0);
            let changed = changed.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.0.given.load(Ordering::Acquire) {
                return;
            }
            changed.await;
        }
    }
}

/// Whether a body is sent only when it is asked for.
pub(crate) fn is_expected(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|e| e.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Gives the request's signal, if it has one, when a server of HTTP/1 answers 100.
pub(crate) fn give_on_continue<B>(request: &mut Request<B>) {
    if let Some(signal) = request.extensions_mut().remove::<ContinueSignal>() {
        hyper::ext::on_informational(request, move |interim| {
            if interim.status() == StatusCode::CONTINUE {
                signal.give();
            }
        });
    }
}
