use std::{future::poll_fn, sync::atomic::Ordering};

use bowline_proxy::contract::resource::Protocol;
use bytes::Bytes;
use http::{HeaderMap, Request};

use crate::{
    application,
    mesh::{Mesh, soon},
};

pub(crate) async fn client(mesh: &Mesh) -> h2::client::SendRequest<Bytes> {
    let (send, connection) = h2::client::handshake(mesh.connect().await).await.unwrap();
    tokio::spawn(connection);
    soon("ready", send.ready()).await.unwrap()
}

pub(crate) fn call() -> Request<()> {
    let request = Request::post("http://web.shop:80/pkg.Service/Call").header("content-type", "application/grpc");
    request.header("te", "trailers").body(()).unwrap()
}

#[tokio::test]
async fn both_sides_stream_at_the_same_time_and_trailers_arrive() {
    let app = application::http2(3).await;
    for protocol in [Protocol::Detect, Protocol::Grpc] {
        let mesh = Mesh::new(app.address, protocol);
        let mut send = client(&mesh).await;
        let (response, mut up) = send.send_request(call(), false).unwrap();
        let response = soon("head", response).await.unwrap();
        assert_eq!(response.headers()["seen-authority"], "web.shop:80");
        let mut down = response.into_body();
        for n in 0..10_u8 {
            up.send_data(Bytes::from(vec![n; 100]), false).unwrap();
            let mut seen = Vec::new();
            while seen.len() < 100 {
                seen.extend(soon("echo", down.data()).await.unwrap().unwrap());
            }
            assert_eq!(seen, vec![n; 100]);
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("from-client", "1".parse().unwrap());
        up.send_trailers(trailers).unwrap();
        assert!(soon("end", down.data()).await.is_none());
        let trailers = soon("trailers", down.trailers()).await.unwrap().unwrap();
        assert_eq!(
            (&trailers["grpc-status"], &trailers["from-client"]),
            (&"0".parse().unwrap(), &"1".parse().unwrap())
        );
    }
}

#[tokio::test]
async fn an_application_gets_no_more_streams_at_once_than_it_takes() {
    let app = application::http2_with(3, h2::server::Builder::new().max_concurrent_streams(4).clone()).await;
    let mesh = Mesh::new(app.address, Protocol::Grpc);
    let mut send = client(&mesh).await;
    // None of them ends: each that waited for another one to end would wait for ever.
    let mut calls = Vec::new();
    for _ in 0..10 {
        let (response, mut up) = send.send_request(call(), false).unwrap();
        up.send_data(Bytes::from_static(b"x"), false).unwrap();
        calls.push((response, up));
    }
    let mut answers = Vec::new();
    for (response, up) in calls {
        let mut down = soon("head", response).await.unwrap().into_body();
        assert_eq!(soon("echo", down.data()).await.unwrap().unwrap(), "x");
        answers.push((down, up));
    }
    assert_eq!(app.accepted.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_cancelled_call_is_cancelled_at_the_application() {
    let (listener, address) = application::listen(3).await;
    let (told, cancelled) = tokio::sync::oneshot::channel();
    let (begin, begun) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
        begin.send(()).unwrap();
        tokio::spawn(async move { while connection.accept().await.is_some() {} });
        let _ = told.send(poll_fn(|cx| respond.poll_reset(cx)).await.unwrap());
    });
    let mesh = Mesh::new(address, Protocol::Http2);
    let mut send = client(&mesh).await;
    let (response, mut up) = send.send_request(call(), false).unwrap();
    up.send_data(Bytes::from_static(b"x"), false).unwrap();
    let waiting = tokio::spawn(response);
    soon("in flight", begun).await.unwrap();
    up.send_reset(h2::Reason::CANCEL);
    assert_eq!(soon("cancellation", cancelled).await.unwrap(), h2::Reason::CANCEL);
    assert!(soon("client", waiting).await.unwrap().is_err());
}

#[tokio::test]
async fn a_call_that_goes_nowhere_gets_a_status_of_grpc() {
    let app = application::http2(3).await;
    let mesh = Mesh::new(app.address, Protocol::Grpc);
    mesh.serve(Protocol::Grpc, Vec::new());
    let mut send = client(&mesh).await;
    let (response, _) = send.send_request(call(), true).unwrap();
    let response = soon("head", response).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "14");
    assert_eq!(response.headers()["bowline-reason"], "no-endpoints");
    assert_eq!(app.begun.load(Ordering::SeqCst), 0);
}
