//! The way to the API server, on which nothing waits for ever. A request that nobody answers ends after [`DEADLINE`], so that it is tried
//! again on another connection. A watch may be silent: it ends when the other machine is gone (TCP keepalive, half a minute), and
//! behind a load balancer that hides this when the watcher has heard nothing for longer than the API server keeps a watch open (five
//! minutes).

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Either, Full, combinators::UnsyncBoxBody};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Client, Config,
    client::{Body, ConfigExt, retry::RetryPolicy},
};
use tower::{BoxError, Service, ServiceBuilder, retry::RetryLayer};

/// How long a request may take from its being sent to the last byte of its answer, with what the server has tried again; for a watch:
/// until it begins.
pub const DEADLINE: Duration = Duration::from_secs(20);
/// How long a connection may be silent before the other machine is asked whether it is there.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Time between two such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Questions without an answer after which the connection is dead.
const KEEPALIVE_RETRIES: u32 = 3;
/// How long what was sent may stay unacknowledged.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// No answer in time.
#[derive(Debug, thiserror::Error)]
#[error("the API server did not answer within {0:?}")]
pub struct Late(pub Duration);

impl Late {
    /// As an error of the client.
    #[must_use]
    pub fn error(within: Duration) -> kube::Error {
        kube::Error::Service(Box::new(Self(within)))
    }
}

/// A client of the API server that the process runs in or that the kubeconfig names.
///
/// # Errors
/// When there is neither, or what it says cannot be used.
pub async fn connect() -> kube::Result<Client> {
    let config = Config::infer().await.map_err(kube::Error::InferConfig)?;
    let https = config.rustls_https_connector_with_connector(connector())?;
    let http = legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(https);
    let service = ServiceBuilder::new()
        .layer_fn(Deadline)
        .layer(config.base_uri_layer())
        .option_layer(config.default_retry.then(|| RetryLayer::new(RetryPolicy::server_retry())))
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace))
}

/// TCP that notices when the other machine is gone.
fn connector() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(DEADLINE / 2));
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    tcp.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    tcp
}

/// Ends requests that are not answered within [`DEADLINE`].
#[derive(Debug, Clone)]
pub struct Deadline<S>(pub S);

/// What was collected, or a stream that may last.
type Answer = Either<Full<Bytes>, UnsyncBoxBody<Bytes, BoxError>>;

impl<S, B> Service<Request<Body>> for Deadline<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Answer>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let lasts = is_watch(request.uri());
        let answer = self.0.call(request);
        let whole = async move {
            let (parts, body) = answer.await.map_err(Into::into)?.into_parts();
            let body = if lasts {
                Either::Right(body.map_err(Into::into).boxed_unsync())
            } else {
                Either::Left(Full::new(body.collect().await.map_err(Into::into)?.to_bytes()))
            };
            Ok(Response::from_parts(parts, body))
        };
        Box::pin(async { tokio::time::timeout(DEADLINE, whole).await.unwrap_or_else(|_| Err(Late(DEADLINE).into())) })
    }
}

/// Whether the answer goes on for as long as both sides like.
fn is_watch(uri: &http::Uri) -> bool {
    uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "watch=true"))
}

#[cfg(test)]
mod tests;
