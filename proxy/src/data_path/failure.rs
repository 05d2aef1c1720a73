//! Why a request or connection failed: for the client as a status and a header, for metrics as a reason, for people as a detail.

use http::{StatusCode, header::HeaderName};

use crate::contract::reason::{REASON_HEADER, Reason};

/// The header that a local reply carries its reason in.
pub(crate) const REASON: HeaderName = HeaderName::from_static(REASON_HEADER);

/// A request or connection that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}: {detail}", reason.as_str())]
pub(crate) struct Failure {
    pub(crate) reason: Reason,
    /// For people: what was tried, with what result.
    pub(crate) detail: Box<str>,
    /// No application has seen the request, and there is an endpoint to send it to: its client may retry it.
    pub(crate) is_retryable: bool,
    /// Another status than the reason's own.
    status: Option<StatusCode>,
}

impl Failure {
    pub(crate) fn new(reason: Reason, detail: impl Into<Box<str>>) -> Self {
        Self { reason, detail: detail.into(), is_retryable: false, status: None }
    }

    /// The same, replied with `status`.
    pub(crate) fn with_status(self, status: StatusCode) -> Self {
        Self { status: Some(status), ..self }
    }

    /// The status of the local reply.
    pub(crate) fn status(&self) -> StatusCode {
        self.status.unwrap_or_else(|| status(self.reason))
    }
}

/// The status of the local reply for a reason.
fn status(reason: Reason) -> StatusCode {
    match reason {
        Reason::MtlsRequired => StatusCode::FORBIDDEN,
        Reason::BadRequest => StatusCode::BAD_REQUEST,
        Reason::WrongIdentity | Reason::TlsFailed | Reason::ConnectionLost => StatusCode::BAD_GATEWAY,
        Reason::NoEndpoints
        | Reason::UnknownPort
        | Reason::ControlPlaneUnavailable
        | Reason::ConnectFailed
        | Reason::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
    }
}
