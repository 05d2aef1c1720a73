use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use bowline_proxy::contract::resource::Protocol;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    application::{self, say},
    mesh::{Ca, Mesh, bundle, config, eventually, id, plane, revoking, soon},
};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_leaves_under_load_lose_nothing() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Http1);
    let held = {
        let mut stream = mesh.connect().await;
        stream.write_all(b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n").await.unwrap();
        let mut head = [0; 12];
        soon("upgrade", stream.read_exact(&mut head)).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 101");
        stream
    };
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, sent, to) = (Arc::clone(&stop), Arc::clone(&sent), mesh.client.handle.outbound);
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let answer = say(TcpStream::connect(to).await.unwrap(), GET).await;
                    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                    sent.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for n in 1..=10 {
        mesh.client.store.publish(mesh.ca.leaf(&id("client"), &mesh.bundle));
        mesh.server.store.publish(mesh.ca.leaf(&id("server"), &mesh.bundle));
        eventually("requests after the swap", || sent.load(Ordering::SeqCst) >= n * 20).await;
    }
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        soon("client", client).await.unwrap();
    }
    let mut held = held;
    held.write_all(b"still").await.unwrap();
    let mut all = Vec::new();
    while !all.ends_with(b"still") {
        all.push(soon("echo", held.read_u8()).await.unwrap());
    }
}

/// A server with clients of two authorities; one root is dropped.
#[tokio::test]
async fn a_dropped_root_takes_along_only_those_who_depend_on_it() {
    let app = application::raw(4, |mut stream| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let mesh = Mesh::new(app, Protocol::Tcp);
    let new = Ca::new("new root");
    let both = bundle(2, &[&mesh.ca, &new]);
    mesh.server.store.publish(new.leaf(&id("server"), &both));
    mesh.client.store.publish(mesh.ca.leaf(&id("client"), &both));
    let mut other = config([127, 0, 0, 1].into());
    other.mesh_port = mesh.server.handle.mesh.port();
    let other = plane(other, new.leaf(&id("client"), &both));
    let key = bowline_proxy::contract::resource::ServiceKey { namespace: "shop".into(), name: "web".into() };
    let ip = crate::mesh::SERVICE.parse().unwrap();
    let Some(bowline_proxy::control::state::Target::Service(_, watch)) = mesh.client.state.peek(ip) else {
        panic!("the service is known")
    };
    other.state.set_address(ip, Some(Arc::new(bowline_proxy::contract::resource::Address::Service(key.clone()))));
    other.state.set_service(key, watch.borrow().clone());

    let echo = |mut stream: TcpStream| async move {
        stream.write_all(b"x").await.unwrap();
        stream.read_exact(&mut [0; 1]).await.unwrap();
        stream
    };
    let old = soon("old", echo(mesh.connect().await)).await;
    let living = soon("new", echo(TcpStream::connect(other.handle.outbound).await.unwrap())).await;
    assert_eq!(mesh.server.handle.open(), 2);

    mesh.server.store.publish(new.leaf(&id("server"), &bundle(3, &[&new])));
    // Those of the old root get nothing new: their next connection is refused at the handshake.
    soon("refused", async {
        loop {
            let mut stream = mesh.connect().await;
            let _ = stream.write_all(b"x").await;
            if stream.read_exact(&mut [0; 1]).await.is_err() {
                return;
            }
        }
    })
    .await;
    // What they have goes on.
    let mut old = soon("still", echo(old)).await;
    let living = soon("still", echo(living)).await;
    mesh.server.store.publish(new.leaf(&id("server"), &revoking(4, &[&new], &[&mesh.ca])));
    assert!(soon("cut off", old.read(&mut [0; 1])).await.map_or(true, |n| n == 0));
    soon("still", echo(living)).await;
    soon("and new ones", echo(TcpStream::connect(other.handle.outbound).await.unwrap())).await;
}
