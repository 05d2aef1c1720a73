//! Who may: decisions about the identity of a peer, a port and the policy of this workload, and nothing else.

use crate::{
    contract::{bootstrap::ports, reason::Reason, spiffe::SpiffeId},
    data_path::failure::Failure,
};

/// Whether a connection without mutual TLS may come to `port`; `from` names its client.
pub(crate) fn plaintext_connection(is_strict: bool, port: u16, from: impl FnOnce() -> String) -> Result<(), Failure> {
    if is_strict {
        let detail = format!("{} came to port {port} in plain, and this workload is Strict", from());
        return Err(Failure::new(Reason::MtlsRequired, detail));
    }
    Ok(())
}

/// Whether a request may still come on a connection without mutual TLS that is open already.
pub(crate) fn plaintext_request(is_strict: bool) -> Result<(), Failure> {
    if is_strict {
        let detail = "it came in plain on a connection that is older than the policy: this workload is Strict now";
        return Err(Failure::new(Reason::MtlsRequired, detail));
    }
    Ok(())
}

/// Whether a client without mutual TLS may go to `port` of this pod.
pub(crate) fn plaintext_port(port: u16) -> Result<(), Failure> {
    if ports::ALL.contains(&port) {
        return Err(Failure::new(Reason::BadRequest, format!("port {port} is the proxy's own")));
    }
    Ok(())
}

/// Whether another proxy's workload may go to `port` of this pod.
pub(crate) fn peer_port(peer: &SpiffeId, port: u16) -> Result<(), Failure> {
    if ports::ALL.contains(&port) {
        let detail = format!("{peer} asked for port {port}, which is the proxy's own");
        return Err(Failure::new(Reason::BadRequest, detail));
    }
    Ok(())
}
