//! Upgrades that are not quite as usual.

use std::sync::{Arc, Mutex};

use bowline_proxy::contract::{
    resource::Protocol,
    tunnel::{self, App},
};
use http::{Method, Request, Version};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    application::{self, read_head},
    mesh::{Mesh, id, soon},
};

/// Answers 404 as soon as a head is there, and only then reads the body.
async fn eager(mut stream: TcpStream, heads: Arc<Mutex<Vec<String>>>) {
    while let Ok(head) = read_head(&mut stream).await {
        heads.lock().unwrap().push(head.lines().next().unwrap().to_owned());
        stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        let length = head.to_lowercase().lines().find_map(|l| l.strip_prefix("content-length: ")?.parse().ok());
        if stream.read_exact(&mut vec![0; length.unwrap_or(0)]).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn the_body_of_an_upgrade_does_not_eat_the_next_request() {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    let address = application::raw(2, move |stream| eager(stream, Arc::clone(&seen))).await;
    let mesh = Mesh::new(address, Protocol::Http1);
    mesh.policy(false);
    for to in [mesh.client.handle.outbound, mesh.server.handle.plain] {
        let mut stream = TcpStream::connect(to).await.unwrap();
        let request =
            "POST /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: strange\r\nContent-Length: 5\r\n\r\nhello";
        for request in [request, "GET /next HTTP/1.1\r\nHost: a\r\n\r\n"] {
            stream.write_all(request.as_bytes()).await.unwrap();
            let head = soon("answer", read_head(&mut stream)).await.unwrap();
            assert!(head.starts_with("HTTP/1.1 404"), "{head}");
        }
        assert_eq!(std::mem::take(&mut *heads.lock().unwrap()), ["POST /x HTTP/1.1", "GET /next HTTP/1.1"]);
    }
}

/// Switches and echoes.
async fn switch(mut stream: TcpStream) {
    let head = read_head(&mut stream).await.unwrap().to_lowercase();
    assert!(head.starts_with("post /attach http/1.1") && head.contains("upgrade: tcp"), "{head}");
    let answer = "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n";
    stream.write_all(answer.as_bytes()).await.unwrap();
    let (mut read, mut write) = stream.split();
    let _ = tokio::io::copy(&mut read, &mut write).await;
}

#[tokio::test]
async fn an_upgrade_may_say_that_it_has_no_body() {
    let mesh = Mesh::new(application::raw(2, switch).await, Protocol::Http1);
    mesh.policy(false);
    for to in [mesh.client.handle.outbound, mesh.server.handle.plain] {
        let mut stream = TcpStream::connect(to).await.unwrap();
        let request =
            "POST /attach HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let head = soon("answer", read_head(&mut stream)).await.unwrap().to_lowercase();
        assert!(head.starts_with("http/1.1 101") && head.contains("upgrade: tcp"), "{head}");
        assert!(!head.contains("content-length"), "{head}");
        stream.write_all(b"hello").await.unwrap();
        let mut echo = [0; 5];
        soon("echo", stream.read_exact(&mut echo)).await.unwrap();
        assert_eq!(&echo, b"hello");
    }
}

#[tokio::test]
async fn a_peer_that_is_no_proxy_of_ours_cannot_smuggle_a_body_or_a_protocol() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Http1);
    let leaf = mesh.ca.leaf(&id("client"), &mesh.bundle);
    let tcp = TcpStream::connect(mesh.server.handle.mesh).await.unwrap();
    let name = tunnel::sni(app.address.port(), App::Http1).try_into().unwrap();
    let tls = tokio_rustls::TlsConnector::from(leaf.tls.client).connect(name, tcp).await.unwrap();
    let (mut send, connection) = h2::client::handshake(tls).await.unwrap();
    tokio::spawn(connection);
    for (protocol, length) in [("websocket", "5"), ("h2c", "0"), ("websocket, H2C", "0")] {
        send = soon("ready", send.ready()).await.unwrap();
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = "http://a/ws".parse().unwrap();
        request.headers_mut().insert("content-length", length.parse().unwrap());
        request.extensions_mut().insert(h2::ext::Protocol::from(protocol));
        let (response, _up) = send.send_request(request, false).unwrap();
        let response = soon("answer", response).await.unwrap();
        assert_eq!(response.status(), 400, "{protocol} {length}");
        assert_eq!(response.headers()["bowline-reason"], "bad-request");
    }
    assert_eq!(app.accepted.load(std::sync::atomic::Ordering::SeqCst), 0);
}
