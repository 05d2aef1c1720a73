use std::{sync::atomic::Ordering, time::Instant};

use bowline_proxy::contract::resource::Protocol;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    application::{self, full, say},
    mesh::{Mesh, eventually, soon},
};

#[tokio::test]
async fn a_request_arrives_as_it_was_sent() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Detect);
    let request = "GET /a%20b?c=%2F HTTP/1.1\r\nHost: WEB.shop:80\r\nX-One: 1\r\nx-one: 2\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n\r\n";
    let answer = soon("answer", say(mesh.connect().await, request)).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert_eq!(body, "GET /a%20b?c=%2F HTTP/1.1\nhost: WEB.shop:80\nx-one: 1\nx-one: 2\n");
    assert!(!head.contains("bowline"), "{head}");
    eventually("counted", || mesh.metrics().contains(
        "bowline_http_requests_total{direction=\"outbound\",service=\"shop/web\",peer=\"spiffe://mesh.test/ns/shop/sa/server\",status_class=\"2xx\"} 1\n",
    )).await;
    let inbound = mesh.server.handle.metrics().encode();
    assert!(
        inbound.contains("direction=\"inbound\",service=\"shop/test\",peer=\"spiffe://mesh.test/ns/shop/sa/client\""),
        "{inbound}"
    );
}

#[tokio::test]
async fn an_application_that_says_400_says_it_in_its_own_words() {
    let refused = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    // Its second answer is a text that looks like the codec's own answer and comes in pieces.
    let app = application::raw(2, move |mut stream| async move {
        let path = application::read_head(&mut stream).await.unwrap();
        if path.starts_with("GET /text ") {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 2 * refused.len());
            for piece in [&head, refused, refused] {
                stream.write_all(piece.as_bytes()).await.unwrap();
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        } else {
            stream.write_all(refused.as_bytes()).await.unwrap();
        }
    })
    .await;
    let mesh = Mesh::new(app, Protocol::Http1);
    for _ in 0..2 {
        let answer =
            soon("answer", say(mesh.connect().await, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n") && !answer.contains("bowline"), "{answer}");
        let text = "GET /text HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let answer = soon("text", say(mesh.connect().await, text)).await;
        assert!(answer.ends_with(&refused.repeat(2)) && !answer.contains("bowline"), "{answer}");
    }
}

#[tokio::test]
async fn ipv6_is_no_different() {
    let app = application::http1_on(std::net::Ipv6Addr::LOCALHOST.into()).await;
    for protocol in [Protocol::Http1, Protocol::Detect] {
        let mesh = Mesh::new(app.address, protocol);
        assert!(mesh.server.handle.mesh.is_ipv6());
        let request = "GET /who HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let answer = soon("answer", say(mesh.connect().await, request)).await;
        assert!(answer.ends_with(&app.address.to_string()), "{answer}");
        let inbound = mesh.server.handle.metrics().encode();
        assert!(inbound.contains("peer=\"spiffe://mesh.test/ns/shop/sa/client\""), "{inbound}");
    }
}

#[tokio::test]
async fn old_and_odd_forms_pass() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Http1);
    let cases = [
        ("GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.0\n"),
        (
            "GET http://other.example/x HTTP/1.1\r\nHost: other.example\r\nConnection: close\r\n\r\n",
            "GET http://other.example/x HTTP/1.1\nhost: other.example\n",
        ),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "OPTIONS * HTTP/1.1\nhost: a\n"),
        ("DELETE /d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "DELETE /d HTTP/1.1\nhost: a\n"),
    ];
    for (request, expected) in cases {
        let answer = soon(request, say(mesh.connect().await, request)).await;
        assert!(answer.ends_with(&format!("\r\n\r\n{expected}")), "{request:?} gave {answer}");
    }
}

#[tokio::test]
async fn answers_without_a_body_have_none() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Detect);
    for (request, status, header) in [
        ("HEAD /large", "200 OK", "content-length: 67108864"),
        ("GET /none", "204 No Content", ""),
        ("GET /same", "304 Not Modified", "etag: \"1\""),
    ] {
        let request = format!("{request} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let answer = soon(&request, say(mesh.connect().await, &request)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(header), "{answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn chunks_and_trailers_are_counted_right() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Detect);
    let request = "POST /length HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n3\r\nyou\r\n0\r\n\r\n";
    let answer = soon("answer", say(mesh.connect().await, request)).await;
    assert!(answer.ends_with("8 0"), "{answer}");
}

#[tokio::test]
async fn a_client_that_expects_continue_gets_it() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Detect);
    let mut stream = mesh.connect().await;
    let head =
        "POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut interim = [0; 25];
    soon("100", stream.read_exact(&mut interim)).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    let answer = soon("answer", say(stream, "four")).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("4 0"), "{answer}");
}

/// Refuses before the body, and says whether any of it came all the same.
async fn refuse_body(mut stream: tokio::net::TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(b) => head.push(b),
            Err(_) => return,
        }
    }
    assert!(String::from_utf8_lossy(&head).to_lowercase().contains("expect: 100-continue"));
    let answer = "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno";
    let _ = stream.write_all(answer.as_bytes()).await;
}

#[tokio::test]
async fn an_application_may_refuse_a_body_before_it_is_sent() {
    let address = application::raw(2, refuse_body).await;
    let mesh = Mesh::new(address, Protocol::Detect);
    mesh.policy(false);
    let plain = tokio::net::TcpStream::connect(mesh.server.handle.plain).await.unwrap();
    for stream in [mesh.connect().await, plain] {
        let head =
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n";
        let answer = soon("answer", say(stream, head)).await;
        assert!(answer.starts_with("HTTP/1.1 417") && answer.ends_with("no"), "{answer}");
    }
}

#[tokio::test]
async fn a_web_socket_echoes() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Detect);
    let mut stream = mesh.connect().await;
    let head = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(soon("head", stream.read_u8()).await.unwrap());
    }
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    for header in ["connection: upgrade", "upgrade: websocket", "sec-websocket-accept: k"] {
        assert!(answer.to_lowercase().contains(header), "{header} is missing in {answer}");
    }
    assert!(!answer.contains("bowline"), "{answer}");
    for word in ["one", "two"] {
        stream.write_all(word.as_bytes()).await.unwrap();
        let mut echo = [0; 3];
        soon("echo", stream.read_exact(&mut echo)).await.unwrap();
        assert_eq!(&echo, word.as_bytes());
    }
    stream.shutdown().await.unwrap();
    assert_eq!(soon("end", stream.read(&mut [0; 1])).await.unwrap(), 0);
}

#[tokio::test]
async fn an_upgrade_that_the_application_declines_is_an_answer() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Detect);
    let request = "GET /other HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: strange/1\r\n\r\n";
    let mut stream = mesh.connect().await;
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let n = soon("answer", stream.read(&mut answer)).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..n]);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("upgrade: strange/1"), "{answer}");
}

#[tokio::test]
async fn large_bodies_pass_both_ways() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Detect);
    let io = TokioIo::new(mesh.connect().await);
    let (mut send, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("/large").header("host", "a").body(full("")).unwrap();
    let mut response = soon("head", send.send_request(request)).await.unwrap();
    let mut length = 0;
    while let Some(frame) = soon("frame", response.body_mut().frame()).await {
        length += frame.unwrap().into_data().unwrap().len();
    }
    assert_eq!(length, 64 << 20);
    soon("ready", send.ready()).await.unwrap();
    let request = http::Request::post("/length").header("host", "a").body(full(vec![1; 64 << 20])).unwrap();
    let response = soon("answer", send.send_request(request)).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "67108864 0");
}

#[tokio::test]
async fn many_clients_share_few_connections() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Http1);
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(tokio::spawn(say(mesh.connect().await, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")));
    }
    for client in clients {
        assert!(soon("answer", client).await.unwrap().starts_with("HTTP/1.1 200"));
    }
    assert_eq!(app.begun.load(Ordering::SeqCst), 50);
    assert!(mesh.server.handle.open() <= 2, "{} connections between the proxies", mesh.server.handle.open());
}

#[tokio::test]
async fn a_kept_connection_that_the_application_closed_does_not_fail_a_request() {
    // Closes every connection after one answer without saying so.
    let address = application::raw(2, |mut stream| async move {
        let mut buffer = [0; 4096];
        if stream.read(&mut buffer).await.unwrap_or(0) > 0 {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let mesh = Mesh::new(address, Protocol::Http1);
    for n in 0..50 {
        let answer =
            soon("answer", say(mesh.connect().await, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "request {n}: {answer}");
    }
}

#[tokio::test]
async fn requests_one_after_the_other_share_one_connection_to_the_application() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Http1);
    let io = TokioIo::new(mesh.connect().await);
    let (mut send, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let began = Instant::now();
    for n in 0..300 {
        let (method, path, body) = [("GET", "/who", ""), ("GET", "/none", ""), ("POST", "/length", "hello")][n % 3];
        let request = http::Request::builder().method(method).uri(path).header("host", "a").body(full(body)).unwrap();
        soon("ready", send.ready()).await.unwrap();
        let response = soon("answer", send.send_request(request)).await.unwrap();
        assert!(response.status().is_success(), "{response:?}");
        soon("body", response.into_body().collect()).await.unwrap();
    }
    assert_eq!(app.begun.load(Ordering::SeqCst), 300);
    // One that is idle for three seconds is closed, as it may be where the machine stands still.
    let most = 1 + began.elapsed().as_secs() / 3;
    let accepted = app.accepted.load(Ordering::SeqCst);
    assert!(accepted as u64 <= most, "{accepted} connections, at most {most} are meant");
}
