//! The far end of a tunnel: a connection to an endpoint, or a stream to its proxy.

use std::{rc::Rc, sync::atomic::Ordering::Relaxed};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::{Method, Request, Version};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    contract::{
        reason::{REASON_HEADER, Reason},
        tunnel::App,
    },
    data_path::{
        buffer::send::send_chunk,
        connect::{dial, endpoint::Candidate, http2::Stream2, socket::reset_on_close},
        drain::Watch,
        failure::Failure,
        route::{attempts::Attempts, request::Route, retry::FailedAttempt},
        tunnel::copy::{copy_bidirectional, copy_http2},
    },
    telemetry::metrics::{Direction, Metrics},
};

/// See the module.
pub(crate) enum TunnelUpstream {
    /// Straight to the application or out of the mesh.
    Plain(TcpStream),
    /// A stream to its proxy.
    Mesh { into: SendStream<Bytes>, from: RecvStream, early: Option<Bytes>, _stream: Stream2 },
}

impl TunnelUpstream {
    /// Opens one to an endpoint of the route, another one if the first cannot be reached.
    pub(crate) async fn open(route: &Route) -> Result<(Self, Rc<Candidate>), Failure> {
        let mut attempts = Attempts::default();
        loop {
            let candidate = route.pick(&attempts)?;
            let opened = if candidate.endpoint.key.identity.is_some() {
                Self::mesh(&candidate).await
            } else {
                let connected = dial::connect(candidate.endpoint.key.address).await;
                connected.map(Self::Plain).map_err(|failure| FailedAttempt::undelivered(failure, None))
            };
            match opened {
                Ok(tunnel) => {
                    candidate.endpoint.load.connected();
                    return Ok((tunnel, candidate));
                }
                Err(failed) => failed.retry_tunnel(&mut attempts, route, &candidate)?,
            }
        }
    }

    async fn mesh(candidate: &Candidate) -> Result<Self, FailedAttempt> {
        let address = candidate.endpoint.key.address;
        let refused = |failure| FailedAttempt::undelivered(failure, None);
        let stream = candidate.endpoint.stream(App::Tcp).await.map_err(refused)?;
        // That of a kept connection that had ended before anybody noticed, most likely.
        let lost = |e: h2::Error| FailedAttempt::stream_lost(candidate, &e, None);
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.version_mut() = Version::HTTP_2;
        if let Some(authority) = candidate.endpoint.authority() {
            *request.uri_mut() = authority;
        }
        let (answer, into) = stream.send(request, false).map_err(lost)?;
        let answer = answer.await.map_err(lost)?;
        if !answer.status().is_success() {
            let why = answer.headers().get(REASON_HEADER).and_then(|r| r.to_str().ok()).unwrap_or("no reason given");
            return Err(refused(Failure::new(Reason::ConnectFailed, format!("the proxy at {address} refused: {why}"))));
        }
        Ok(Self::Mesh { into, from: answer.into_body(), early: None, _stream: stream })
    }

    /// Waits until the far end has something to say (or has closed).
    pub(crate) async fn speaks(&mut self) {
        match self {
            Self::Plain(stream) => {
                let _ = stream.readable().await;
            }
            Self::Mesh { from, early, .. } => {
                if early.is_none() {
                    *early = Some(match from.data().await {
                        Some(Ok(data)) => {
                            let _ = from.flow_control().release_capacity(data.len());
                            data
                        }
                        Some(Err(_)) | None => Bytes::new(),
                    });
                }
            }
        }
    }

    /// Copies until both ways have ended; `first` was read from the client already.
    pub(crate) async fn forward(
        self,
        mut client: TcpStream,
        first: &[u8],
        metrics: &Metrics,
        direction: Direction,
        drain: Watch,
    ) {
        let flow = metrics.flow(direction);
        let whole = match self {
            Self::Plain(mut server) => {
                if server.write_all(first).await.is_err() {
                    reset_on_close(&client);
                    return;
                }
                flow.received.fetch_add(first.len() as u64, Relaxed);
                let whole = copy_bidirectional(&mut client, &mut server, flow, drain).await;
                if !whole {
                    reset_on_close(&server);
                }
                whole
            }
            Self::Mesh { mut into, from, early, _stream } => {
                if let Some(early) = early {
                    if client.write_all(&early).await.is_err() {
                        return;
                    }
                    flow.sent.fetch_add(early.len() as u64, Relaxed);
                }
                if !first.is_empty() {
                    flow.received.fetch_add(first.len() as u64, Relaxed);
                    if !send_chunk(&mut into, Bytes::copy_from_slice(first), false).await {
                        reset_on_close(&client);
                        return;
                    }
                }
                copy_http2(&mut client, into, from, metrics, direction, drain).await
            }
        };
        if !whole {
            reset_on_close(&client);
        }
    }
}
