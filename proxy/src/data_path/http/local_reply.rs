//! Local replies: what the proxy answers itself, in the application's stead. A status, why, and nothing that could be taken for the
//! application.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header::CONTENT_TYPE};

use crate::{
    contract::reason::{REASON_HEADER, Reason},
    data_path::{
        buffer::body::MessageBody,
        failure::{Failure, REASON},
        http::response_body::ResponseBody,
    },
};

/// The bytes of the last reply on an HTTP/1 connection that has no codec; `status`: code and phrase.
pub(crate) fn raw_local_reply(status: &str, failure: &Failure) -> String {
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

/// The reply for a failure; to gRPC as a trailers-only response (gRPC over HTTP/2, "Responses").
pub(crate) fn local_reply(failure: &Failure, grpc: bool) -> Response<ResponseBody> {
    let reason = HeaderValue::from_static(failure.reason.as_str());
    let mut response = if grpc {
        let mut response = Response::new(ResponseBody::empty());
        let code = if failure.reason == Reason::MtlsRequired { "7" } else { "14" };
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from_static(code));
        headers.insert("grpc-message", HeaderValue::from_static(failure.reason.as_str()));
        response
    } else {
        let text = format!("bowline: {failure}\n");
        let length = text.len();
        let mut response = Response::new(ResponseBody::local(MessageBody::once(Bytes::from(text))));
        *response.status_mut() = failure.status();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        response.headers_mut().insert(http::header::CONTENT_LENGTH, HeaderValue::from(length));
        response
    };
    response.headers_mut().insert(REASON, reason);
    response
}
