//! HTTP answers: text and JSON, each with the name of this pod.

use std::{collections::BTreeMap, convert::Infallible};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use serde_json::Value;

use crate::pod::pod;

/// Body of every answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Headers as JSON; several of one name are joined by a comma.
pub(crate) fn headers(map: &HeaderMap) -> BTreeMap<String, String> {
    let mut out = BTreeMap::<String, String>::new();
    for (name, value) in map {
        let value = String::from_utf8_lossy(value.as_bytes());
        out.entry(name.to_string()).and_modify(|v| *v = format!("{v},{value}")).or_insert_with(|| value.to_string());
    }
    out
}

/// A JSON answer.
pub(crate) fn json_answer(value: &Value) -> Response<Body> {
    let mut response = text(StatusCode::OK, format!("{value}\n"));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

/// A text answer; it names the pod.
pub(crate) fn text(status: StatusCode, body: String) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(body)).boxed_unsync());
    *response.status_mut() = status;
    if let Ok(name) = pod().parse() {
        response.headers_mut().insert("x-pod", name);
    }
    response
}
