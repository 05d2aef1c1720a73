//! An accepted connection whose route is known: detect → HTTP or tunnel.
//!
//! No server that speaks first is kept waiting: a declared protocol and the well-known ports decide at once; otherwise a client that
//! is silent for [`SILENCE`] gets its far end dialled, and whichever side speaks first decides. If that is a client of HTTP after all,
//! the early connection is given up and its requests go the way of requests. One that has begun with what may become HTTP, and says no
//! more for [`UNDECIDED`], is opaque.

pub(crate) mod detect;
use std::{io, net::SocketAddr, rc::Rc, sync::Arc, sync::atomic::Ordering::Relaxed, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, Interest},
    net::TcpStream,
};

use crate::{
    contract::{
        bootstrap::{Reason, tunnel::App},
        resource::Protocol,
    },
    data_path::{
        balance::balancer::Route,
        connect,
        drain::Phase,
        forward::detect::{Prefixed, Spoken, judge},
        http::{
            exchange::Context,
            local_reply::Failure,
            server::{
                http1::{self, idle::HEAD_DEADLINE},
                http2,
            },
        },
        limits::connections::Seat,
        tunnel::{self, Tunnel},
        worker::Worker,
    },
    telemetry::metrics::Direction,
};

/// How long a client may be silent before its far end is dialled.
const SILENCE: Duration = Duration::from_millis(50);
/// How long a client whose connection is refused is listened to, so that it can be told why.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long a connection is still being made for a client that has closed its side: it may want to hear the answer.
const PARTING: Duration = Duration::from_secs(5);
/// How long a client may leave it open what it speaks once it has begun to.
const UNDECIDED: Duration = Duration::from_secs(1);
/// Read at once of what a client says first.
const FIRST: usize = 1 << 10;

/// What is to be carried where.
pub(crate) struct Carried {
    pub(crate) stream: TcpStream,
    /// The port that the client connected to.
    pub(crate) port: u16,
    pub(crate) declared: Protocol,
    pub(crate) route: Route,
    pub(crate) direction: Direction,
    /// `namespace/name` of the service, for metrics of opaque connections.
    pub(crate) service: Rc<str>,
    pub(crate) seat: Seat,
}

/// Carries a connection to its end.
pub(crate) async fn carry(worker: Rc<Worker>, mut carried: Carried) {
    let mut first = BytesMut::new();
    let spoken = match carried.declared {
        Protocol::Tcp => Spoken::Opaque,
        Protocol::Detect if detect::is_opaque_port(carried.port) => Spoken::Opaque,
        Protocol::Detect => match detect_unless_silent(&mut carried.stream, &mut first).await {
            Some(spoken) => spoken,
            None => return Box::pin(dial_early(worker, carried, first)).await,
        },
        // The client speaks first; a connection kept ready may be silent for long.
        Protocol::Http1 | Protocol::Http2 | Protocol::Grpc => {
            let mut drain = worker.drain.watch();
            let spoken = tokio::select! {
                spoken = listen_in_time(&mut carried.stream, &mut first) => spoken,
                () = drain.reached(Phase::Draining) => return,
            };
            match spoken {
                Some(spoken) => spoken,
                None => {
                    let detail = format!("its first line took longer than {} s", HEAD_DEADLINE.as_secs());
                    let failure = Failure::new(Reason::BadRequest, detail);
                    return Box::pin(refuse(&worker, carried.direction, carried.stream, first, failure)).await;
                }
            }
        }
    };
    as_spoken(worker, carried, first, spoken).await;
}

async fn as_spoken(worker: Rc<Worker>, carried: Carried, first: BytesMut, spoken: Spoken) {
    let app = match spoken {
        Spoken::Http1 => App::Http1,
        Spoken::Http2 => App::Http2,
        // Larger than what HTTP needs: kept out of its connections' futures.
        Spoken::Opaque => return Box::pin(tunnel(worker, carried, first, None)).await,
    };
    let drain = worker.drain.watch();
    let context = context(worker, carried.route, carried.direction, app, carried.service, carried.seat);
    let io = Prefixed::new(first.freeze(), carried.stream);
    match spoken {
        Spoken::Http1 => http1::serve(context, io, drain).await,
        _ => {
            let io = crate::data_path::buffer::coalesce::Cork::new(io);
            Box::pin(http2::serve(context, io, drain, None)).await;
        }
    }
}

fn context(
    worker: Rc<Worker>,
    route: Route,
    direction: Direction,
    app: App,
    service: Rc<str>,
    seat: Seat,
) -> Rc<Context> {
    Rc::new(Context { worker, route, direction, app, service, tunnels: None, _seat: seat })
}

/// The client's protocol, or nothing if it said nothing that tells within [`SILENCE`].
async fn detect_unless_silent(stream: &mut TcpStream, first: &mut BytesMut) -> Option<Spoken> {
    tokio::time::timeout(SILENCE, listen(stream, first)).await.ok()
}

/// The client's protocol, or nothing if it takes too long to say what tells. How long it is silent before is its own affair.
async fn listen_in_time(stream: &mut TcpStream, first: &mut BytesMut) -> Option<Spoken> {
    if stream.readable().await.is_err() {
        return Some(Spoken::Opaque);
    }
    tokio::time::timeout(HEAD_DEADLINE, listen(stream, first)).await.ok()
}

/// Reads until it is clear what the client speaks; one that ends before that is opaque.
async fn listen(stream: &mut TcpStream, first: &mut BytesMut) -> Spoken {
    loop {
        match more(stream, first).await {
            Ok(0) | Err(_) => return Spoken::Opaque,
            Ok(_) => {
                if let Some(spoken) = judge(first) {
                    return spoken;
                }
            }
        }
    }
}

/// As [`listen`]; a client that has begun and leaves it open for [`UNDECIDED`] speaks nothing that is known: it waits for an answer to
/// what it said.
async fn listen_once_begun(stream: &mut TcpStream, first: &mut BytesMut) -> Spoken {
    if first.is_empty() && stream.readable().await.is_err() {
        return Spoken::Opaque;
    }
    tokio::time::timeout(UNDECIDED, listen(stream, first)).await.unwrap_or(Spoken::Opaque)
}

async fn more(stream: &mut TcpStream, first: &mut BytesMut) -> io::Result<usize> {
    // Nothing is allocated for a client that is silent.
    stream.readable().await?;
    first.reserve(FIRST);
    stream.read_buf(first).await
}

async fn dial_early(worker: Rc<Worker>, mut carried: Carried, mut first: BytesMut) {
    let (service, seat) = (Rc::clone(&carried.service), carried.seat.clone());
    let early = context(Rc::clone(&worker), carried.route, carried.direction, App::Tcp, service, seat);
    let opened = Tunnel::open(&early).await;
    let Some(early) = Rc::into_inner(early) else { return };
    carried.route = early.route;
    let (mut far, candidate) = match opened {
        Ok(opened) => opened,
        Err(failure) => return refuse(&worker, carried.direction, carried.stream, first, failure).await,
    };
    // What came of the first bytes while dialling is judged first.
    let mut spoken = judge(&first);
    if spoken.is_none() {
        spoken = tokio::select! {
            biased;
            spoken = listen_once_begun(&mut carried.stream, &mut first) => Some(spoken),
            () = far.speaks() => None,
        };
    }
    match spoken {
        None | Some(Spoken::Opaque) => tunnel(worker, carried, first, Some((far, candidate))).await,
        Some(spoken) => {
            drop(far);
            as_spoken(worker, carried, first, spoken).await;
        }
    }
}

/// Opaque bytes to an endpoint of the route.
async fn tunnel(
    worker: Rc<Worker>,
    carried: Carried,
    first: BytesMut,
    open: Option<(Tunnel, Rc<connect::endpoint::Candidate>)>,
) {
    let Carried { stream, route, direction, service, seat, .. } = carried;
    let context = context(Rc::clone(&worker), route, direction, App::Tcp, Rc::clone(&service), seat);
    let opened = match open {
        Some(open) => Ok(open),
        None => Tunnel::open(&context).await,
    };
    match opened {
        Ok((far, candidate)) => {
            let identity = candidate.endpoint.key.identity.as_ref();
            let peer = identity.map_or(crate::telemetry::metrics::PLAINTEXT, |id| id.as_str());
            let count = worker.metrics.tcp(direction, &service, peer, identity.is_some());
            count.fetch_add(1, Relaxed);
            let _open = worker.metrics.open(direction);
            candidate.endpoint.began();
            far.carry(stream, &first, &worker, direction).await;
            candidate.endpoint.ended();
        }
        Err(failure) => {
            worker.refused(direction, &failure);
            tunnel::reset_on_close(&stream);
        }
    }
}

/// Returns when the client has gone: at once when it broke off, [`PARTING`] after it has said all that it will ever say.
async fn gone(stream: &TcpStream) {
    // A stream whose other side is closed counts as ready for priority data too (tokio).
    match stream.ready(Interest::ERROR | Interest::PRIORITY).await {
        Ok(ready) if !ready.is_error() => tokio::time::sleep(PARTING).await,
        Ok(_) | Err(_) => {}
    }
}

/// Bytes to an address that the mesh knows nothing of, unchanged and unseen.
pub(crate) async fn pass(worker: Rc<Worker>, stream: TcpStream, to: SocketAddr) {
    // For as long as the kernel tries, as without the mesh, and as the client waits.
    let connected = tokio::select! {
        biased;
        connected = TcpStream::connect(to) => connected,
        () = gone(&stream) => return,
    };
    match connected {
        Ok(server) => {
            connect::dial::prepare(&server);
            let _open = worker.metrics.open(Direction::Outbound);
            let count: Arc<_> =
                worker.metrics.tcp(Direction::Outbound, "outside", crate::telemetry::metrics::PLAINTEXT, false);
            count.fetch_add(1, Relaxed);
            Tunnel::Plain(server).carry(stream, &[], &worker, Direction::Outbound).await;
        }
        // As without the mesh, the client sees its connection fail.
        Err(e) => {
            let detail = format!("cannot connect to {to}, outside the mesh: {e}");
            worker.refused(Direction::Outbound, &Failure::new(Reason::ConnectFailed, detail));
            tunnel::reset_on_close(&stream);
        }
    }
}

/// Refuses a connection: HTTP with a status and why, anything else with a reset.
pub(crate) async fn refuse(
    worker: &Rc<Worker>,
    direction: Direction,
    mut stream: TcpStream,
    mut first: BytesMut,
    failure: Failure,
) {
    worker.refused(direction, &failure);
    let spoken = match judge(&first) {
        Some(spoken) => Ok(spoken),
        None => tokio::time::timeout(LAST_WORDS, listen(&mut stream, &mut first)).await,
    };
    let first: Bytes = first.freeze();
    let drain = worker.drain.watch();
    match spoken {
        Ok(Spoken::Http1) => http1::refuse(failure, Prefixed::new(first, stream), drain).await,
        Ok(Spoken::Http2) => http2::refuse(failure, Prefixed::new(first, stream), drain).await,
        Ok(Spoken::Opaque) | Err(_) => tunnel::reset_on_close(&stream),
    }
}
