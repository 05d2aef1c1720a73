//! Applications for the tests.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use crate::mesh::soon;

pub(crate) type Body = BoxBody<Bytes, Infallible>;

/// What an application lets its test see and do.
pub(crate) struct Application {
    pub(crate) address: SocketAddr,
    /// Connections accepted.
    pub(crate) accepted: Arc<AtomicUsize>,
    /// Requests begun.
    pub(crate) begun: Arc<AtomicUsize>,
    /// `/slow` waits for one permit each.
    pub(crate) release: Arc<Semaphore>,
    /// Bytes of bodies that were handed to the connection without end.
    pub(crate) sent: Arc<AtomicUsize>,
}

impl Application {
    fn new(address: SocketAddr) -> Self {
        let release = Arc::new(Semaphore::new(0));
        Self { address, accepted: Arc::default(), begun: Arc::default(), release, sent: Arc::default() }
    }
}

/// Waits until a count that has begun to grow grows no more; tells it.
pub(crate) async fn stalled(count: &AtomicUsize) -> usize {
    let (mut last, mut same) = (0, 0);
    soon("stalled", async {
        while same < 50 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            let now = count.load(Ordering::SeqCst);
            same = if now > 0 && now == last { same + 1 } else { 0 };
            last = now;
        }
    })
    .await;
    last
}

pub(crate) fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed()
}

/// Listens on a loopback address of that second octet.
pub(crate) async fn listen(octet: u8) -> (TcpListener, SocketAddr) {
    listen_on(own(octet)).await
}

/// A loopback address that no other test has: a second proxy is to have the mesh port of the first, and where nobody listens nobody is to
/// begin.
fn own(octet: u8) -> std::net::IpAddr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    [127, octet, high, low].into()
}

async fn listen_on(ip: std::net::IpAddr) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// HTTP/1.1.
pub(crate) async fn http1(octet: u8) -> Application {
    http1_on(own(octet)).await
}

/// The same on any address.
pub(crate) async fn http1_on(ip: std::net::IpAddr) -> Application {
    let (listener, address) = listen_on(ip).await;
    let app = Application::new(address);
    let (accepted, begun, release, sent) =
        (app.accepted.clone(), app.begun.clone(), app.release.clone(), app.sent.clone());
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { return };
            accepted.fetch_add(1, Ordering::SeqCst);
            let (begun, release, sent) = (begun.clone(), release.clone(), sent.clone());
            let service = service_fn(move |r| {
                begun.fetch_add(1, Ordering::SeqCst);
                answer(r, release.clone(), sent.clone(), address)
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .auto_date_header(false)
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades(),
            );
        }
    });
    app
}

async fn answer(
    mut request: Request<Incoming>,
    release: Arc<Semaphore>,
    sent: Arc<AtomicUsize>,
    address: SocketAddr,
) -> Result<Response<Body>, Infallible> {
    let status = |status: u16| Response::builder().status(status);
    let response = match request.uri().path() {
        "/slow" => {
            release.acquire().await.unwrap().forget();
            Response::new(full("slow"))
        }
        "/who" => Response::new(full(address.to_string())),
        "/none" => status(204).body(full("")).unwrap(),
        "/same" => status(304).header("etag", "\"1\"").body(full("")).unwrap(),
        "/length" => {
            let mut length = 0;
            let mut trailers = None;
            while let Some(Ok(frame)) = request.body_mut().frame().await {
                match frame.into_data() {
                    Ok(data) => length += data.len(),
                    Err(frame) => trailers = frame.into_trailers().ok(),
                }
            }
            Response::new(full(format!("{length} {}", trailers.map_or(0, |t| t.len()))))
        }
        "/large" => {
            let frames = (0..1024).map(move |_| {
                sent.fetch_add(64 << 10, Ordering::SeqCst);
                Ok(Frame::data(Bytes::from_static(&[7; 64 << 10])))
            });
            let body = StreamBody::new(tokio_stream::iter(frames));
            Response::builder().header("content-length", 64 << 20).body(BodyExt::boxed(body)).unwrap()
        }
        "/ws" => {
            let upgraded = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut io = TokioIo::new(upgraded.await.unwrap());
                let mut buffer = [0; 1024];
                loop {
                    let n = io.read(&mut buffer).await.unwrap_or(0);
                    if n == 0 || io.write_all(&buffer[..n]).await.is_err() {
                        return;
                    }
                }
            });
            let key = request.headers()["sec-websocket-key"].clone();
            let response = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
            let response = response.header("connection", "Upgrade").header("upgrade", "websocket");
            response.header("sec-websocket-accept", key).body(full("")).unwrap()
        }
        // Says exactly what arrived.
        _ => {
            let mut text = format!("{} {} {:?}\n", request.method(), request.uri(), request.version());
            for (name, value) in request.headers() {
                text.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
            }
            Response::new(full(text))
        }
    };
    Ok(response)
}

/// HTTP/2 with prior knowledge: echoes every frame as it comes, then the trailers, or `grpc-status: 0`. `/endless` never ends.
pub(crate) async fn http2(octet: u8) -> Application {
    http2_with(octet, h2::server::Builder::new()).await
}

/// The same with settings of its own.
pub(crate) async fn http2_with(octet: u8, builder: h2::server::Builder) -> Application {
    let (listener, address) = listen(octet).await;
    let app = Application::new(address);
    let (accepted, begun, sent) = (app.accepted.clone(), app.begun.clone(), app.sent.clone());
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { return };
            accepted.fetch_add(1, Ordering::SeqCst);
            let (begun, sent, builder) = (begun.clone(), sent.clone(), builder.clone());
            tokio::spawn(async move {
                let Ok(mut connection) = builder.handshake(stream).await else { return };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    begun.fetch_add(1, Ordering::SeqCst);
                    if request.uri().path() == "/endless" {
                        tokio::spawn(endless(respond, sent.clone()));
                    } else {
                        tokio::spawn(echo_stream(request, respond));
                    }
                }
            });
        }
    });
    app
}

async fn endless(mut respond: h2::server::SendResponse<Bytes>, sent: Arc<AtomicUsize>) {
    let Ok(mut send) = respond.send_response(Response::new(()), false) else { return };
    let chunk = Bytes::from_static(&[7; 64 << 10]);
    loop {
        send.reserve_capacity(chunk.len());
        let Some(Ok(room)) = std::future::poll_fn(|cx| send.poll_capacity(cx)).await else { return };
        let n = room.min(chunk.len());
        if send.send_data(chunk.slice(..n), false).is_err() {
            return;
        }
        sent.fetch_add(n, Ordering::SeqCst);
    }
}

async fn echo_stream(request: Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let authority = request.uri().authority().map(|a| a.to_string()).unwrap_or_default();
    let mut body = request.into_body();
    let head = Response::builder().header("content-type", "application/grpc").header("seen-authority", authority);
    let mut send = respond.send_response(head.body(()).unwrap(), false).unwrap();
    while let Some(data) = body.data().await {
        let Ok(data) = data else { return };
        let _ = body.flow_control().release_capacity(data.len());
        if send.send_data(data, false).is_err() {
            return;
        }
    }
    let mut trailers = body.trailers().await.ok().flatten().unwrap_or_default();
    trailers.insert("grpc-status", "0".parse().unwrap());
    let _ = send.send_trailers(trailers);
}

/// Raw bytes: every connection goes to `handle`.
pub(crate) async fn raw<F, R>(octet: u8, handle: F) -> SocketAddr
where
    F: Fn(TcpStream) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let (listener, address) = listen(octet).await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(handle(stream));
        }
    });
    address
}

/// Sends a request as it stands and reads all that comes back until the connection is closed.
pub(crate) async fn say(mut stream: TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// The head of a request or answer, as it stands on the wire.
pub(crate) async fn read_head(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}
