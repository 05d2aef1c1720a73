//! Streams that their sender breaks off, and such as only look like it.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bowline_proxy::contract::resource::Protocol;
use bytes::Bytes;
use http::Response;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};
use tokio_rustls::server::TlsStream;

use crate::{
    application::{self, read_head},
    http2::{call, client},
    mesh::{Mesh, id, soon},
};

/// A peer that looks like a proxy of ours and does with its connections what the test wants; the Service leads to it alone.
pub(crate) async fn peer<F, R>(mesh: &Mesh, protocol: Protocol, handle: F)
where
    F: Fn(h2::server::Connection<TlsStream<TcpStream>, Bytes>) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let (_, address) = application::listen(6).await;
    let leaf = mesh.ca.leaf(&id("server"), &mesh.bundle);
    let listener = TcpListener::bind((address.ip(), mesh.server.handle.mesh.port())).await.unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(leaf.tls.server);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let stream = acceptor.accept(stream).await.unwrap();
            let connection = h2::server::Builder::new().enable_connect_protocol().handshake(stream).await.unwrap();
            tokio::spawn(handle(connection));
        }
    });
    mesh.serve(protocol, vec![mesh.endpoint(address, "server")]);
}

/// Answers with the beginning of a body, and breaks off without an error once it is told to.
async fn half<S>(mut connection: h2::server::Connection<S, Bytes>, told: oneshot::Receiver<()>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
    let mut body = respond.send_response(Response::new(()), false).unwrap();
    body.send_data(Bytes::from_static(b"half"), false).unwrap();
    let driven = async { while connection.accept().await.is_some() {} };
    tokio::select! {
        () = driven => return,
        _ = told => body.send_reset(h2::Reason::NO_ERROR),
    }
    while connection.accept().await.is_some() {}
}

#[tokio::test]
async fn half_a_body_is_not_made_a_whole_one_for_a_client_of_http2() {
    let (listener, address) = application::listen(3).await;
    let (tell, told) = oneshot::channel();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        half(h2::server::handshake(stream).await.unwrap(), told).await;
    });
    let mesh = Mesh::new(address, Protocol::Http2);
    let mut send = client(&mesh).await;
    let (response, _up) = send.send_request(call(), true).unwrap();
    let mut down = soon("head", response).await.unwrap().into_body();
    assert_eq!(soon("half", down.data()).await.unwrap().unwrap(), "half");
    tell.send(()).unwrap();
    let rest = soon("end", down.data()).await;
    assert_eq!(rest.unwrap().unwrap_err().reason(), Some(h2::Reason::NO_ERROR), "as it was said");
}

#[tokio::test]
async fn half_a_body_is_not_made_a_whole_one_for_a_client_of_http1() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Http1);
    let (tell, told) = oneshot::channel();
    let told = std::sync::Mutex::new(Some(told));
    peer(&mesh, Protocol::Http1, move |connection| half(connection, told.lock().unwrap().take().unwrap())).await;
    let mut stream = mesh.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let head = soon("head", read_head(&mut stream)).await.unwrap().to_lowercase();
    assert!(head.starts_with("http/1.1 200") && head.contains("transfer-encoding: chunked"), "{head}");
    let mut half = [0; 9];
    soon("half", stream.read_exact(&mut half)).await.unwrap();
    assert_eq!(&half, b"4\r\nhalf\r\n");
    tell.send(()).unwrap();
    let mut rest = Vec::new();
    let _ = soon("end", stream.read_to_end(&mut rest)).await;
    assert_eq!(String::from_utf8_lossy(&rest), "", "the last chunk would say that it was all");
}

#[tokio::test]
async fn a_whole_answer_that_wants_no_more_of_the_request_is_one() {
    let (listener, address) = application::listen(3).await;
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        body.send_data(Bytes::from_static(b"whole"), true).unwrap();
        // The codec resets the request with NO_ERROR then.
        drop((request, respond, body));
        while connection.accept().await.is_some() {}
    });
    let mesh = Mesh::new(address, Protocol::Http2);
    let mut send = client(&mesh).await;
    let (response, mut up) = send.send_request(call(), false).unwrap();
    up.send_data(Bytes::from_static(b"begin"), false).unwrap();
    let mut down = soon("head", response).await.unwrap().into_body();
    assert_eq!(soon("answer", down.data()).await.unwrap().unwrap(), "whole");
    assert!(soon("end", down.data()).await.is_none());
    assert!(soon("trailers", down.trailers()).await.unwrap().is_none());
    assert_eq!(soon("told", poll_fn(|cx| up.poll_reset(cx))).await.unwrap(), h2::Reason::NO_ERROR);
}

/// Opens tunnels and says back what comes through them; the first connection breaks off, or says GOAWAY, under its second tunnel.
async fn fickle<S>(mut connection: h2::server::Connection<S, Bytes>, first: bool, polite: bool)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut tunnels = 0;
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        tunnels += 1;
        if first && tunnels > 1 {
            if !polite {
                return;
            }
            // Nothing of it was processed.
            respond.send_reset(h2::Reason::REFUSED_STREAM);
            connection.graceful_shutdown();
            continue;
        }
        let mut into = respond.send_response(Response::new(()), false).unwrap();
        tokio::spawn(async move {
            let mut from = request.into_body();
            while let Some(Ok(data)) = from.data().await {
                if into.send_data(data, false).is_err() {
                    return;
                }
            }
        });
    }
}

#[tokio::test]
async fn an_opaque_connection_survives_the_end_of_the_one_that_was_to_carry_it() {
    for polite in [true, false] {
        let app = application::http1(2).await;
        let mesh = Mesh::new(app.address, Protocol::Tcp);
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        peer(&mesh, Protocol::Tcp, move |connection| {
            fickle(connection, count.fetch_add(1, Ordering::SeqCst) == 0, polite)
        })
        .await;
        let mut streams = Vec::new();
        for n in 0..3 {
            let mut stream = mesh.connect().await;
            stream.write_all(&[n]).await.unwrap();
            assert_eq!(soon("echo", stream.read_u8()).await.unwrap(), n, "polite: {polite}");
            streams.push(stream);
        }
        assert_eq!(connections.load(Ordering::SeqCst), 2);
    }
}
