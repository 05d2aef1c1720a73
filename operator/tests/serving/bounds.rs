//! What one pod cannot take from others.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use super::*;

#[tokio::test]
async fn a_proxy_has_one_stream_the_latest() {
    let plane = start().await;
    let mut first = open(&plane, Some(ID), hello()).await.unwrap();
    let mut other = open(&plane, Some(ID), Hello { slot: "b".into(), ..hello() }).await.unwrap();
    first.resources(2).await;
    // Nobody has noticed that the first one is dead.
    for _ in 0..3 {
        let mut next = open(&plane, Some(ID), hello()).await.unwrap();
        next.resources(2).await;
        let status = tokio::time::timeout(DEADLINE, first.end()).await.expect("two streams of one slot");
        assert_eq!(status.code(), Code::Aborted, "{status:?}");
        assert!(status.message().contains("opened another stream"), "{status:?}");
        first = next;
    }
    other.resources(2).await;
    other.add(ResourceType::Service, "shop/web").await;
    other.resources(1).await;
    assert_eq!(plane.reports.of_mesh(MESH).len(), 2);
    plane.until(|plane| plane.metrics().contains(r#"bowline_control_connected_proxies{mesh="default"} 2"#)).await;
    let metrics = plane.metrics();
    assert!(metrics.contains(r#"bowline_control_streams_ended_total{reason="replaced"} 3"#), "{metrics}");
}

#[tokio::test]
async fn connections_without_a_stream_keep_no_place_from_others() {
    let plane = start().await;
    let mut streaming = open(&plane, Some(ID), hello()).await.unwrap();
    streaming.resources(2).await;
    let (tls, name) = plane.client(MESH, Some(ID));
    let mut held = Vec::new();
    // As many as one address may have, all with a certificate.
    for _ in 0..1024 {
        let tcp = TcpStream::connect(plane.address).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let mut tls = tls.connect(name.clone(), tcp).await.unwrap();
        tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        // The server's settings: it knows who this is.
        tls.read_exact(&mut [0; 9]).await.unwrap();
        held.push(tls);
    }
    let mut other = open(&plane, Some(ID), Hello { slot: "b".into(), ..hello() }).await.unwrap();
    other.resources(2).await;
    // The one that has been there for longest is in use.
    streaming.add(ResourceType::Service, "shop/web").await;
    streaming.resources(1).await;
}

#[tokio::test]
async fn streams_that_do_not_say_who_they_are_make_room() {
    let plane = start().await;
    let mut silent = JoinSet::new();
    for _ in 0..10 {
        let channel = plane.connect(MESH, Some(ID)).await.unwrap();
        for _ in 0..8 {
            let (mut client, (tx, rx)) = (ControlClient::new(channel.clone()), mpsc::channel::<ProxyMessage>(1));
            silent.spawn(async move {
                let status = client.connect(ReceiverStream::new(rx)).await.expect_err("nobody said Hello");
                drop(tx);
                status
            });
        }
    }
    let status = tokio::time::timeout(DEADLINE, silent.join_next()).await.expect("all wait").unwrap().unwrap();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    open(&plane, Some(ID), hello()).await.unwrap().resources(2).await;
    assert!(plane.metrics().contains(r#"bowline_control_streams_ended_total{reason="no-hello"}"#));
}
