//! Peers that break HTTP/2 on purpose, at the mesh port, and the application that does: each loses its own connection and nobody
//! else's.

use std::{sync::Arc, sync::atomic::Ordering};

use bowline_proxy::contract::{
    resource::Protocol,
    tunnel::{self, App},
};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    application::{self, say},
    mesh::{Mesh, eventually, id, soon},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: u8 = 4;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `GET / http a`, by HPACK's static table.
const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 1, b'a'];
/// More than anybody needs to notice.
const ENOUGH: usize = 256 << 20;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A member that has begun HTTP/2 with the server's proxy.
async fn member(mesh: &Mesh, port: u16) -> TlsStream<TcpStream> {
    let current = mesh.ca.leaf(&id("client"), &mesh.bundle);
    let name = ServerName::try_from(tunnel::sni(port, App::Http1)).unwrap();
    let tcp = TcpStream::connect(mesh.server.handle.mesh).await.unwrap();
    let mut stream = TlsConnector::from(Arc::clone(&current.tls.client)).connect(name, tcp).await.unwrap();
    stream.write_all(PREFACE).await.unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    stream
}

/// Writes until the peer has closed; tells how much it took.
async fn flood(stream: TlsStream<TcpStream>, mut next: impl FnMut() -> Vec<u8>) -> usize {
    let (mut read, mut write) = tokio::io::split(stream);
    // What it says is read, so that it is not kept from saying that it ends.
    let reading = tokio::spawn(async move { tokio::io::copy(&mut read, &mut tokio::io::sink()).await });
    let mut written = 0;
    while written < ENOUGH && !reading.is_finished() {
        let bytes = next();
        if write.write_all(&bytes).await.is_err() {
            break;
        }
        written += bytes.len();
    }
    reading.abort();
    written
}

async fn is_served(mesh: &Mesh) {
    let request = "GET /who HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answer = soon("others", say(mesh.connect().await, request)).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn headers_without_end_end_the_connection() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Http1);
    let mut stream = member(&mesh, app.address.port()).await;
    stream.write_all(&frame(HEADERS, END_STREAM, 1, GET)).await.unwrap();
    // A header of 15 KiB in each, literally and never indexed.
    let mut header = vec![0x10, 1, b'x', 0x7f, 0x81, 0x77];
    header.resize(header.len() + 15 * 1024, b'y');
    let written = soon("end", flood(stream, || frame(CONTINUATION, 0, 1, &header))).await;
    assert!(written < 16 << 20, "{written} bytes of one head were taken");
    is_served(&mesh).await;
    assert_eq!(app.begun.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn streams_that_are_reset_as_soon_as_they_are_opened_hurt_nobody_else() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Http1);
    let stream = member(&mesh, app.address.port()).await;
    let mut id = 1;
    let flooding = tokio::spawn(flood(stream, move || {
        let mut batch = Vec::new();
        for _ in 0..500 {
            batch.extend(frame(HEADERS, END_STREAM | END_HEADERS, id, GET));
            batch.extend(frame(RST_STREAM, 0, id, &8_u32.to_be_bytes()));
            id += 2;
        }
        batch
    }));
    is_served(&mesh).await;
    let written = soon("end", flooding).await.unwrap();
    assert!(written < ENOUGH, "nobody ended it");
    is_served(&mesh).await;
    eventually("nothing is left of it", || mesh.server.handle.open() <= 2).await;
}

/// Whether a client of HTTP/2 opens a stream.
async fn asks(stream: &mut TcpStream) -> bool {
    let mut head = [0; PREFACE.len()];
    let mut begun = stream.read_exact(&mut head).await.is_ok();
    while begun {
        let mut head = [0; 9];
        begun = stream.read_exact(&mut head).await.is_ok();
        if head[3] == HEADERS {
            return begun;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        begun = begun && stream.read_exact(&mut vec![0; length]).await.is_ok();
    }
    false
}

#[tokio::test]
async fn an_application_that_floods_loses_its_connection() {
    // Answers every request with a head without end.
    let address = application::raw(3, |mut stream| async move {
        let _ = stream.write_all(&frame(SETTINGS, 0, 0, &[])).await;
        if !asks(&mut stream).await {
            return;
        }
        let mut header = vec![0x10, 1, b'x', 0x7f, 0x81, 0x77];
        header.resize(header.len() + 15 * 1024, b'y');
        let _ = stream.write_all(&frame(HEADERS, 0, 1, &[0x88])).await;
        while stream.write_all(&frame(CONTINUATION, 0, 1, &header)).await.is_ok() {}
    })
    .await;
    let mesh = Mesh::new(address, Protocol::Http2);
    let (send, connection) = h2::client::handshake(mesh.connect().await).await.unwrap();
    tokio::spawn(connection);
    let mut send = soon("ready", send.ready()).await.unwrap();
    let request = http::Request::get("http://web.shop:80/").body(()).unwrap();
    let (response, _) = send.send_request(request, true).unwrap();
    let response = soon("an answer in its stead", response).await.unwrap();
    assert!(response.headers().contains_key("bowline-reason"), "{response:?}");
}
