//! Readers that do not read: they hold up nobody else, and what waits for them is bounded.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bowline_proxy::contract::resource::Protocol;
use bytes::Bytes;
use http::Request;
use tokio::io::AsyncWriteExt;

use crate::{
    application::{self, say},
    mesh::{Mesh, soon},
};

const CLOSING: &str = "GET /who HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn answers_that_nobody_reads_stall_nobody_else() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Http1);
    let mut unread = Vec::new();
    for _ in 0..12 {
        let mut stream = mesh.connect().await;
        stream.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        unread.push(stream);
    }
    application::stalled(&app.sent).await;
    let answer = soon("another answer", say(mesh.connect().await, CLOSING)).await;
    assert!(answer.ends_with(&app.address.to_string()), "{answer}");
}

#[tokio::test]
async fn uploads_that_nobody_reads_stall_nobody_else() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Http1);
    let mut unread = Vec::new();
    let written = Arc::<AtomicUsize>::default();
    for _ in 0..12 {
        let (mut stream, written) = (mesh.connect().await, Arc::clone(&written));
        unread.push(tokio::spawn(async move {
            // Waits for a permit and reads nothing of the body.
            let head = b"POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n";
            stream.write_all(head).await.unwrap();
            while stream.write_all(&[0; 64 << 10]).await.is_ok() {
                written.fetch_add(64 << 10, Ordering::SeqCst);
            }
        }));
    }
    application::stalled(&written).await;
    let upload = "POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
    let answer = soon("another upload", say(mesh.connect().await, upload)).await;
    assert!(answer.ends_with("5 0"), "{answer}");
    unread.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn what_waits_for_those_who_do_not_read_is_bounded_for_the_process() {
    let app = application::http2(3).await;
    let mesh = Mesh::new(app.address, Protocol::Http2);
    // Straight to the application: what it can send is what this one data plane takes.
    let mut endpoint = mesh.endpoint(app.address, "server");
    endpoint.identity = None;
    mesh.serve(Protocol::Http2, vec![endpoint]);
    let (send, connection) = h2::client::handshake(mesh.connect().await).await.unwrap();
    tokio::spawn(connection);
    let mut send = soon("ready", send.ready()).await.unwrap();
    let mut unread = Vec::new();
    for _ in 0..300 {
        let request = Request::get("http://web.shop:80/endless").body(()).unwrap();
        let (response, _) = send.send_request(request, true).unwrap();
        unread.push(soon("head", response).await.unwrap());
    }
    let taken = application::stalled(&app.sent).await;
    eprintln!("{} MiB wait for 300 readers", taken >> 20);
    assert!(taken < 100 << 20, "{} MiB for 300 readers that do not read", taken >> 20);
    let request = Request::get("http://web.shop:80/").body(()).unwrap();
    let (response, mut up) = send.send_request(request, false).unwrap();
    up.send_data(Bytes::new(), true).unwrap();
    assert!(soon("another answer", response).await.unwrap().status().is_success());
}
