//! `/page`: a front end that needs others to answer, each asked in turn over pooled connections.

use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::json;

use crate::{
    pod::pod,
    response::{Body, json_answer, text},
};

/// Largest answer of a backend, in bytes.
const MAX_BYTES: usize = 1 << 20;
/// How long a backend may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// The backends of a front end.
pub(crate) struct Page {
    backends: Vec<Uri>,
    client: Client<HttpConnector, Empty<Bytes>>,
}

impl Page {
    /// A page made of what `backends` answer.
    pub(crate) fn new(backends: Vec<Uri>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self { backends, client: Client::builder(TokioExecutor::new()).build(connector) }
    }

    /// Asks all of them; one that fails makes the page fail.
    pub(crate) async fn answer(&self) -> Response<Body> {
        let mut parts = vec![];
        for backend in &self.backends {
            match tokio::time::timeout(DEADLINE, self.ask(backend.clone())).await {
                Ok(Ok((status, bytes))) if status.is_success() => {
                    parts.push(json!({ "backend": backend.to_string(), "bytes": bytes }));
                }
                Ok(Ok((status, _))) => return text(StatusCode::BAD_GATEWAY, format!("{backend} answered {status}\n")),
                Ok(Err(e)) => return text(StatusCode::BAD_GATEWAY, format!("{backend}: {e}\n")),
                Err(_) => return text(StatusCode::GATEWAY_TIMEOUT, format!("{backend} does not answer\n")),
            }
        }
        json_answer(&json!({ "pod": pod(), "parts": parts }))
    }

    async fn ask(&self, backend: Uri) -> Result<(StatusCode, usize), Box<dyn std::error::Error + Send + Sync>> {
        let response = self.client.get(backend).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BYTES).collect().await?;
        Ok((status, body.to_bytes().len()))
    }
}
