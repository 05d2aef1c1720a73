//! Bodies that come early, late, slowly or with something behind them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bowline_proxy::contract::resource::Protocol;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Duration, sleep},
};

use crate::{
    application::{self, read_head, say},
    mesh::{Mesh, PATIENCE, soon},
};

#[tokio::test]
async fn a_get_keeps_its_chunks() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Http1);
    mesh.policy(false);
    for to in [mesh.client.handle.outbound, mesh.server.handle.plain] {
        let request = "GET /length HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        let answer = soon("answer", say(TcpStream::connect(to).await.unwrap(), request)).await;
        assert!(answer.ends_with("5 0"), "{answer}");
    }
}

#[tokio::test]
async fn trailers_of_http1_arrive_both_ways() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Http1);
    let request = "POST /length HTTP/1.1\r\nHost: a\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n";
    let answer = soon("answer", say(mesh.connect().await, request)).await;
    assert!(answer.ends_with("5 1"), "{answer}");
    let address = application::raw(2, |mut stream| async move {
        let head = read_head(&mut stream).await.unwrap().to_lowercase();
        assert!(head.contains("te: trailers"), "{head}");
        let answer =
            "HTTP/1.1 200 OK\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    let mesh = Mesh::new(address, Protocol::Http1);
    let request = "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE, close\r\n\r\n";
    let answer = soon("answer", say(mesh.connect().await, request)).await;
    assert!(answer.ends_with("2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn an_application_that_never_says_continue_gets_the_body_all_the_same() {
    let address = application::raw(2, |mut stream| async move {
        read_head(&mut stream).await.unwrap();
        let mut body = [0; 4];
        stream.read_exact(&mut body).await.unwrap();
        assert_eq!(&body, b"four");
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    })
    .await;
    let mesh = Mesh::new(address, Protocol::Http1);
    let mut stream = mesh.connect().await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let interim = soon("100", read_head(&mut stream)).await.unwrap();
    assert_eq!(interim, "HTTP/1.1 100 Continue\r\n\r\n");
    let answer = soon("answer", say(stream, "four")).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok"), "{answer}");
}

#[tokio::test]
async fn an_upload_that_outlives_its_answer_makes_nobody_wait() {
    let address = application::raw(2, |mut stream| async move {
        while let Ok(head) = read_head(&mut stream).await {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            let length = if head.starts_with("POST") { 10 } else { 0 };
            stream.read_exact(&mut vec![0; length]).await.unwrap();
        }
    })
    .await;
    let mesh = Mesh::new(address, Protocol::Http1);
    let mut upload = mesh.connect().await;
    upload.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nbegin").await.unwrap();
    let head = soon("early answer", read_head(&mut upload)).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    soon("its body", upload.read_exact(&mut [0; 2])).await.unwrap();
    for _ in 0..3 {
        let get = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let answer = soon("answer to another client", say(mesh.connect().await, get)).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

const LARGE: usize = 192 << 20;
/// Windows and socket buffers on the way hold less than this.
const HELD: usize = 64 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_does_not_read_stops_the_sender() {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let address = application::raw(2, move |mut stream| {
        let count = Arc::clone(&count);
        async move {
            read_head(&mut stream).await.unwrap();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let piece = vec![7; 64 << 10];
            while count.load(Ordering::SeqCst) < LARGE {
                stream.write_all(&piece).await.unwrap();
                count.fetch_add(piece.len(), Ordering::SeqCst);
            }
        }
    })
    .await;
    let mesh = Mesh::new(address, Protocol::Http1);
    let mut stream = mesh.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    soon("head", read_head(&mut stream)).await.unwrap();
    // Until nothing has been taken for a while.
    let (mut before, mut still) = (0, 0);
    while still < 40 {
        sleep(Duration::from_millis(10)).await;
        let now = sent.load(Ordering::SeqCst);
        still = if now == before { still + 1 } else { 0 };
        before = now;
        assert!(now < HELD, "{now} bytes were taken for a reader that does not read");
    }
    let mut rest = 0;
    let mut buffer = vec![0; 256 << 10];
    loop {
        match tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await.unwrap().unwrap() {
            0 => break,
            n => rest += n,
        }
    }
    assert_eq!(rest, LARGE);
}

#[tokio::test]
async fn a_transfer_coding_that_would_get_lost_is_refused() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Http1);
    mesh.policy(false);
    for to in [mesh.client.handle.outbound, mesh.server.handle.plain] {
        let request = "POST /length HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        let mut stream = TcpStream::connect(to).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let head = soon("refusal", read_head(&mut stream)).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 501") && head.contains("bowline-reason: bad-request"), "{head}");
    }
    assert_eq!(app.begun.load(Ordering::SeqCst), 0);
    let address = application::raw(2, |mut stream| async move {
        read_head(&mut stream).await.unwrap();
        let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
        let _ = stream.read(&mut [0; 1]).await;
    })
    .await;
    let mesh = Mesh::new(address, Protocol::Http1);
    mesh.policy(false);
    for to in [mesh.client.handle.outbound, mesh.server.handle.plain] {
        let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let answer = soon("answer", say(TcpStream::connect(to).await.unwrap(), request)).await;
        assert!(answer.starts_with("HTTP/1.1 502") && answer.contains("bowline-reason: bad-request"), "{answer}");
    }
}
