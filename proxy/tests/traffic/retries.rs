//! Requests that fail on the way and are sent again, or not.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bowline_proxy::{
    contract::{reason::Reason, resource::Protocol},
    telemetry::metrics::Direction,
};
use bytes::Bytes;
use http::{Method, Request, Response};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    application::{self, read_head, say},
    balancing::{second, who},
    http2::client,
    mesh::{Mesh, soon},
};

/// An address on which nobody listens.
async fn nobody(octet: u8) -> std::net::SocketAddr {
    let (listener, address) = application::listen(octet).await;
    drop(listener);
    address
}

#[tokio::test]
async fn a_live_proxy_without_its_application_costs_no_request() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Http1);
    let gone = nobody(5).await;
    let other = second(&mesh, gone);
    mesh.serve(Protocol::Http1, vec![mesh.endpoint(app.address, "server"), mesh.endpoint(gone, "server")]);
    for _ in 0..30 {
        assert_eq!(who(&mesh).await, app.address.to_string());
    }
    let asked = other.handle.metrics().refused_count(Direction::Inbound, Reason::ConnectFailed);
    assert!((1..=5).contains(&asked), "the endpoint was asked {asked} times");
    let upgrade =
        "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n";
    let mesh = Mesh::new(app.address, Protocol::Http1);
    let _other = second(&mesh, gone);
    mesh.serve(Protocol::Http1, vec![mesh.endpoint(app.address, "server"), mesh.endpoint(gone, "server")]);
    for _ in 0..10 {
        let mut stream = mesh.connect().await;
        stream.write_all(upgrade.as_bytes()).await.unwrap();
        let head = soon("upgrade", read_head(&mut stream)).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    }
}

#[tokio::test]
async fn a_call_with_a_body_that_reached_nobody_may_be_repeated_by_its_client() {
    let app = application::http2(3).await;
    let mesh = Mesh::new(app.address, Protocol::Grpc);
    let gone = nobody(5).await;
    let other = second(&mesh, gone);
    mesh.serve(Protocol::Grpc, vec![mesh.endpoint(app.address, "server"), mesh.endpoint(gone, "server")]);
    let mut refused = 0;
    let mut send = client(&mesh).await;
    for _ in 0..20 {
        loop {
            send = soon("ready", send.ready()).await.unwrap();
            let (response, mut up) = send.send_request(crate::http2::call(), false).unwrap();
            up.send_data(Bytes::from_static(b"hello"), true).unwrap();
            match soon("answer", response).await {
                Ok(response) => {
                    assert_eq!(response.headers().get("bowline-reason"), None);
                    break;
                }
                Err(e) => assert_eq!(e.reason(), Some(h2::Reason::REFUSED_STREAM), "{e}"),
            }
            refused += 1;
        }
    }
    assert!((1..=3).contains(&refused), "{refused} calls were refused");
    assert!(other.handle.metrics().refused_count(Direction::Inbound, Reason::ConnectFailed) >= 1);
    // With nobody else to ask, the answer says why.
    mesh.serve(Protocol::Grpc, vec![mesh.endpoint(gone, "server")]);
    let (response, _up) = send.send_request(crate::http2::call(), false).unwrap();
    let response = soon("answer", response).await.unwrap();
    assert_eq!(response.headers()["bowline-reason"], "connect-failed");
}

#[tokio::test]
async fn nobody_but_a_proxy_is_believed_to_be_one() {
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let heads = Arc::clone(&seen);
    let address = application::raw(2, move |mut stream| {
        let heads = Arc::clone(&heads);
        async move {
            while let Ok(head) = read_head(&mut stream).await {
                heads.lock().unwrap().push(head);
                let answer = "HTTP/1.1 503 Mine\r\nbowline-reason: connect-failed\r\nbowline-upgraded: 1\r\nContent-Length: 2\r\n\r\nno";
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    let mesh = Mesh::new(address, Protocol::Http1);
    let other = application::http1(5).await;
    let _other = second(&mesh, other.address);
    mesh.policy(false);
    let plain = TcpStream::connect(mesh.server.handle.plain).await.unwrap();
    for stream in [mesh.connect().await, plain] {
        let request = "GET / HTTP/1.1\r\nHost: a\r\nbowline-http10: 1\r\nConnection: close\r\nBowline-Upgrade-Method: PUT\r\n\r\n";
        let answer = soon("answer", say(stream, request)).await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("no"), "{answer}");
        assert!(!answer.contains("bowline"), "{answer}");
    }
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 2, "{seen:?}");
    for head in seen.iter() {
        assert!(head.starts_with("GET / HTTP/1.1\r\n") && !head.to_lowercase().contains("bowline"), "{head}");
    }
}

/// Says to the first request that comes what `word` is, and serves those that follow; with no word it closes the connection.
async fn reluctant(octet: u8, word: &'static [u8]) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let address = application::raw(octet, move |mut stream| {
        let asked = Arc::clone(&count);
        async move {
            if asked.load(Ordering::SeqCst) > 0 {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    asked.fetch_add(1, Ordering::SeqCst);
                    respond.send_response(Response::new(()), true).unwrap();
                }
                return;
            }
            stream.read_exact(&mut [0; 24]).await.unwrap();
            stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            // Until the client closes: whoever closes with something unread takes back what it has said.
            while let Some(id) = next_request(&mut stream).await {
                if asked.fetch_add(1, Ordering::SeqCst) > 0 {
                    // HEADERS that end the stream, `:status: 200`
                    let answer = [&[0, 0, 1, 1, 5][..], &id, &[0x88]].concat();
                    stream.write_all(&answer).await.unwrap();
                } else if word.is_empty() {
                    return;
                } else {
                    stream.write_all(word).await.unwrap();
                }
            }
        }
    })
    .await;
    (address, asked)
}

/// The stream of the next HEADERS; `None`: the client has closed.
async fn next_request(stream: &mut TcpStream) -> Option<[u8; 4]> {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        stream.read_exact(&mut vec![0; length as usize]).await.ok()?;
        if head[3] == 1 {
            return head[5..].try_into().ok();
        }
    }
}

/// GOAWAY that has seen nothing.
const GO_AWAY: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// RST_STREAM of the first stream with REFUSED_STREAM.
const REFUSED: &[u8] = &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 7];

#[tokio::test]
async fn what_a_server_did_not_process_is_sent_again() {
    for (word, method, body, expected) in [
        (GO_AWAY, Method::POST, false, Ok(200)),
        (REFUSED, Method::POST, false, Ok(200)),
        (GO_AWAY, Method::POST, true, Err(h2::Reason::REFUSED_STREAM)),
        (REFUSED, Method::GET, true, Err(h2::Reason::REFUSED_STREAM)),
        // It may have been processed.
        (b"", Method::GET, false, Ok(200)),
        (b"", Method::POST, false, Ok(502)),
    ] {
        let (address, asked) = reluctant(3, word).await;
        let mesh = Mesh::new(address, Protocol::Http2);
        let mut send = client(&mesh).await;
        let request = Request::builder().method(method.clone()).uri("http://web/").body(()).unwrap();
        let (response, mut up) = send.send_request(request, !body).unwrap();
        if body {
            up.send_data(Bytes::from_static(b"hello"), true).unwrap();
        }
        let answered = soon("answer", response).await.map(|r| r.status().as_u16());
        let case = format!("{word:?} {method} {body}: {answered:?}");
        assert_eq!(answered.map_err(|e| e.reason().unwrap()), expected, "{case}");
        let again = usize::from(expected == Ok(200));
        assert_eq!(asked.load(Ordering::SeqCst), 1 + again, "{case}");
    }
}

#[tokio::test]
async fn a_kept_connection_that_dies_under_a_request_fails_only_what_must_not_be_repeated() {
    let posts = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&posts);
    let address = application::raw(2, move |mut stream| {
        let count = Arc::clone(&count);
        async move {
            for first in [true, false] {
                let Ok(head) = read_head(&mut stream).await else { return };
                count.fetch_add(usize::from(head.starts_with("POST")), Ordering::SeqCst);
                if first {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                }
                // The next one is read, and nothing is said.
            }
        }
    })
    .await;
    let mesh = Mesh::new(address, Protocol::Http1);
    let mut stream = mesh.connect().await;
    for n in 0..20 {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let head = soon("answer", read_head(&mut stream)).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "request {n}: {head}");
        stream.read_exact(&mut [0; 2]).await.unwrap();
    }
    for n in 1..=4 {
        let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let answer = soon("answer", say(mesh.connect().await, request)).await;
        let lost = answer.starts_with("HTTP/1.1 502") && answer.contains("bowline-reason: connection-lost");
        assert!(lost || answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(posts.load(Ordering::SeqCst), n, "each is seen once: {answer}");
    }
}

#[tokio::test]
async fn the_last_word_of_a_service_that_goes_is_heard() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Http1);
    let mut stream = mesh.connect().await;
    stream.write_all(b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let head = soon("answer", read_head(&mut stream)).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 204"), "{head}");
    mesh.client.state.set_address(crate::mesh::SERVICE.parse().unwrap(), None);
    let answer = soon("answer", say(stream, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("bowline-reason: no-endpoints"), "{answer}");
}
