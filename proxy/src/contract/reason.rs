//! Why a proxy refused a request or connection, or failed to serve it: one vocabulary for response header, log and metric.

/// Header that names why a proxy answered in the application's stead; see [`Reason`].
pub const REASON_HEADER: &str = "bowline-reason";

/// Why a request or connection was refused or failed: one vocabulary for header, log and metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Plaintext reached a workload that wants mutual TLS.
    MtlsRequired,
    /// The peer proved no identity of the trust domain, or another one than expected.
    WrongIdentity,
    /// The Service exists and has no endpoint that may be used.
    NoEndpoints,
    /// The Service has no such port.
    UnknownPort,
    /// Nothing is known of the destination and the control plane cannot be asked.
    ControlPlaneUnavailable,
    /// No connection to the endpoint.
    ConnectFailed,
    /// The handshake with the endpoint's proxy failed.
    TlsFailed,
    /// The connection broke before an answer was complete.
    ConnectionLost,
    /// A bound was hit.
    Overloaded,
    /// The request violates its protocol.
    BadRequest,
}

impl Reason {
    /// Every reason, for metrics and documentation.
    pub const ALL: [Self; 10] = [
        Self::MtlsRequired,
        Self::WrongIdentity,
        Self::NoEndpoints,
        Self::UnknownPort,
        Self::ControlPlaneUnavailable,
        Self::ConnectFailed,
        Self::TlsFailed,
        Self::ConnectionLost,
        Self::Overloaded,
        Self::BadRequest,
    ];

    /// As it stands in header, log and metric.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MtlsRequired => "mtls-required",
            Self::WrongIdentity => "wrong-identity",
            Self::NoEndpoints => "no-endpoints",
            Self::UnknownPort => "unknown-port",
            Self::ControlPlaneUnavailable => "control-plane-unavailable",
            Self::ConnectFailed => "connect-failed",
            Self::TlsFailed => "tls-failed",
            Self::ConnectionLost => "connection-lost",
            Self::Overloaded => "overloaded",
            Self::BadRequest => "bad-request",
        }
    }
}
