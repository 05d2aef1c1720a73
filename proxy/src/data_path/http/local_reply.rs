//! Answers of the proxy itself, in the application's stead: a status, why, and nothing that could be taken for the application.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{CONTENT_TYPE, HeaderName},
};

use crate::{
    contract::bootstrap::{REASON_HEADER, Reason},
    data_path::buffer::body::Payload,
};

pub(crate) const REASON: HeaderName = HeaderName::from_static(REASON_HEADER);

/// A request or connection that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}: {detail}", reason.as_str())]
pub(crate) struct Failure {
    pub(crate) reason: Reason,
    /// For people: what was tried, with what result.
    pub(crate) detail: Box<str>,
    /// No application has seen the request, and there is somebody to ask: whoever sent it may send it again.
    pub(crate) repeat: bool,
    /// Another status than the reason's own.
    status: Option<StatusCode>,
}

impl Failure {
    pub(crate) fn new(reason: Reason, detail: impl Into<Box<str>>) -> Self {
        Self { reason, detail: detail.into(), repeat: false, status: None }
    }

    /// The same, told with `status`.
    pub(crate) fn told_with(self, status: StatusCode) -> Self {
        Self { status: Some(status), ..self }
    }

    /// The status that it is told with.
    pub(crate) fn status(&self) -> StatusCode {
        self.status.unwrap_or_else(|| status(self.reason))
    }
}

/// The status that a reason is told with.
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

/// The bytes of the last answer on a connection of HTTP/1 that has no codec; `status`: code and phrase.
pub(crate) fn plain_answer(status: &str, failure: &Failure) -> String {
    let text = format!("bowline: {failure}\n");
    format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\n{REASON_HEADER}: {}\r\ncontent-type: text/plain; \
         charset=utf-8\r\ncontent-length: {}\r\n\r\n{text}",
        failure.reason.as_str(),
        text.len()
    )
}

/// Whether a request speaks gRPC, whose clients read another kind of status.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"application/grpc"))
}

/// The answer for a failure; to gRPC as a trailers-only response (gRPC over HTTP/2, "Responses").
pub(crate) fn refusal(failure: &Failure, grpc: bool) -> Response<Payload> {
    let reason = HeaderValue::from_static(failure.reason.as_str());
    let mut response = if grpc {
        let mut response = Response::new(Payload::empty());
        let code = if failure.reason == Reason::MtlsRequired { "7" } else { "14" };
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from_static(code));
        headers.insert("grpc-message", HeaderValue::from_static(failure.reason.as_str()));
        response
    } else {
        let text = format!("bowline: {failure}\n");
        let length = text.len();
        let mut response = Response::new(Payload::once(Bytes::from(text)));
        *response.status_mut() = failure.status();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        response.headers_mut().insert(http::header::CONTENT_LENGTH, HeaderValue::from(length));
        response
    };
    response.headers_mut().insert(REASON, reason);
    response
}
