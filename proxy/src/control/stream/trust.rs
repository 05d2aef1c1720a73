//! Whether the connection of a control stream may go on after leaf or trust bundle changed.

use std::time::Duration;

use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::{sync::watch, time::Instant};

use crate::identity::{clock, leaf::Leaf, store::Store, tls};

const SERVER: &str = "the control plane's certificate";

/// A root was dropped on which the connection depended.
#[derive(Debug, thiserror::Error)]
#[error("the trust bundle no longer covers {0}: it is connected anew")]
pub struct Distrusted(&'static str);

/// The chains that were verified when the stream's connection was made, and whether the newest bundle still covers them.
pub(super) struct ConnectionTrust<'a> {
    server: Vec<CertificateDer<'static>>,
    leaf: &'a Leaf,
    made: UnixTime,
    changes: watch::Receiver<u64>,
    /// When to connect anew because the server's root was dropped.
    leave_at: Option<Instant>,
}

impl<'a> ConnectionTrust<'a> {
    /// Of a connection to a control plane that presented `server`, to which `leaf` was presented; `changes` of the store are judged from
    /// then on.
    pub(super) fn new(server: Vec<CertificateDer<'static>>, leaf: &'a Leaf, changes: watch::Receiver<u64>) -> Self {
        Self { server, leaf, made: UnixTime::now(), changes, leave_at: None }
    }

    /// Waits until leaf or bundle change; fails as [`ConnectionTrust::judge`] does, and when it is time to leave a server whose root was
    /// dropped.
    pub(super) async fn changed(&mut self, store: &Store) -> Result<(), Distrusted> {
        tokio::select! {
            // The store outlives the stream, so there is always a sender.
            _ = self.changes.changed() => self.judge(store),
            () = until(self.leave_at) => Err(Distrusted(SERVER)),
        }
    }

    /// Fails when the bundle in use covers one of them no longer, and another connection could be better. A server whose root an ordinary
    /// rotation dropped is left within the time over which leaves are renewed, because every proxy leaves it.
    fn judge(&mut self, store: &Store) -> Result<(), Distrusted> {
        let (Some(bundle), Some(current)) = (store.bundle(), store.leaf()) else { return Ok(()) };
        let trusted = |chain: &[CertificateDer<'static>]| tls::still_trusted(chain, &bundle.roots, self.made);
        if !trusted(&self.server) {
            if !bundle.revoked.is_empty() || bundle.renew_within_seconds == 0 {
                return Err(Distrusted(SERVER));
            }
            let within = f64::from(bundle.renew_within_seconds);
            let drawn = || Instant::now() + Duration::from_secs_f64(within * rand::random::<f64>());
            self.leave_at.get_or_insert_with(drawn);
        }
        // Without a leaf that is trusted, this connection is the best there is.
        let other = current.chain != self.leaf.chain && current.verifies(&bundle, clock::unix_seconds());
        if other && !trusted(&self.leaf.chain) {
            return Err(Distrusted("the leaf that was presented"));
        }
        Ok(())
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
