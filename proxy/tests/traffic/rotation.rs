//! Roots are replaced under living connections: A → A and B → B, as the control plane does it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use bowline_proxy::contract::resource::{Bundle, Protocol};
use bytes::Bytes;
use http::Request;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    application::{self, say},
    mesh::{Ca, Mesh, bundle, eventually, id, revoking, soon},
};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
const WEB_SOCKET: &str =
    "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n";

/// Both sides get leaves of `ca` and trust `bundle`.
fn publish(mesh: &Mesh, ca: &Ca, bundle: &Arc<Bundle>) {
    mesh.client.store.publish(ca.leaf(&id("client"), bundle));
    mesh.server.store.publish(ca.leaf(&id("server"), bundle));
}

/// What comes before the old root is dropped.
fn prepare(mesh: &Mesh, new: &Ca) {
    let both = bundle(2, &[&mesh.ca, new]);
    publish(mesh, &mesh.ca, &both);
    publish(mesh, new, &both);
}

async fn web_socket(mesh: &Mesh) -> TcpStream {
    let mut stream = mesh.connect().await;
    stream.write_all(WEB_SOCKET.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon("head", stream.read_u8()).await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101"));
    echo(&mut stream).await;
    stream
}

async fn echo(stream: &mut TcpStream) {
    stream.write_all(b"word").await.unwrap();
    let mut word = [0; 4];
    soon("echo", stream.read_exact(&mut word)).await.unwrap();
    assert_eq!(&word, b"word");
}

async fn mirror(mut stream: TcpStream) {
    let (mut read, mut write) = stream.split();
    let _ = tokio::io::copy(&mut read, &mut write).await;
}

/// Opens tunnels until one takes a new connection between the proxies: workers notice between two of their turns.
async fn elsewhere(mesh: &Mesh) -> TcpStream {
    let open = mesh.server.handle.open();
    for _ in 0..100 {
        let mut stream = mesh.connect().await;
        echo(&mut stream).await;
        if mesh.server.handle.open() > open {
            return stream;
        }
    }
    panic!("all went over the old connection")
}

/// A call that both sides stream.
struct Call {
    send: h2::client::SendRequest<Bytes>,
    up: h2::SendStream<Bytes>,
    down: h2::RecvStream,
}

impl Call {
    async fn begin(mut send: h2::client::SendRequest<Bytes>) -> Self {
        let request = Request::post("http://web.shop:80/pkg.Service/Call").header("content-type", "application/grpc");
        let (response, up) = send.send_request(request.body(()).unwrap(), false).unwrap();
        let down = soon("head", response).await.unwrap().into_body();
        let mut call = Self { send, up, down };
        assert!(call.echo().await);
        call
    }

    async fn echo(&mut self) -> bool {
        let _ = self.up.send_data(Bytes::from_static(b"word"), false);
        let seen = soon("echo", self.down.data()).await;
        seen.is_some_and(|data| data.is_ok_and(|d| d == "word"))
    }

    async fn end(mut self) {
        self.up.send_data(Bytes::new(), true).unwrap();
        while soon("end", self.down.data()).await.is_some() {}
        let trailers = soon("trailers", self.down.trailers()).await.unwrap().unwrap();
        assert_eq!(trailers["grpc-status"], "0");
    }
}

async fn connect2(mesh: &Mesh) -> h2::client::SendRequest<Bytes> {
    let (send, connection) = h2::client::handshake(mesh.connect().await).await.unwrap();
    tokio::spawn(connection);
    soon("ready", send.ready()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_and_web_sockets_outlive_a_rotation() {
    let app = application::http1(2).await;
    let mesh = Mesh::new(app.address, Protocol::Http1);
    let mut socket = web_socket(&mesh).await;
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
    let some_pass = || async {
        let from = sent.load(Ordering::SeqCst);
        eventually("requests pass", || sent.load(Ordering::SeqCst) >= from + 20).await;
    };
    // Three rotations, each with the root of the one before.
    let cas = [Ca::new("one"), Ca::new("two"), Ca::new("three")];
    let mut old = &mesh.ca;
    let mut sequence = 2;
    for new in &cas {
        for (leaves, roots) in [(old, vec![old, new]), (new, vec![old, new]), (new, vec![new])] {
            let bundle = bundle(sequence, &roots);
            // Never both sides at the same moment.
            mesh.client.store.publish(leaves.leaf(&id("client"), &bundle));
            some_pass().await;
            mesh.server.store.publish(leaves.leaf(&id("server"), &bundle));
            some_pass().await;
            sequence += 1;
        }
        old = new;
    }
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        soon("client", client).await.unwrap();
    }
    echo(&mut socket).await;
    assert!(!mesh.metrics().contains("status_class=\"5xx\""), "{}", mesh.metrics());
}

#[tokio::test]
async fn a_streaming_call_outlives_a_rotation_and_the_next_takes_a_new_connection() {
    let app = application::http2(3).await;
    let mesh = Mesh::new(app.address, Protocol::Grpc);
    let mut call = Call::begin(connect2(&mesh).await).await;
    let open = mesh.server.handle.open();
    let new = Ca::new("new root");
    prepare(&mesh, &new);
    Call::begin(call.send.clone()).await.end().await;
    assert_eq!(mesh.server.handle.open(), open, "both are trusted: nothing has to move");
    publish(&mesh, &new, &bundle(3, &[&new]));
    // Workers notice between two of their turns.
    for _ in 0..100 {
        Call::begin(call.send.clone()).await.end().await;
        assert!(call.echo().await);
        if mesh.server.handle.open() > open {
            break;
        }
    }
    assert_eq!(mesh.server.handle.open(), open + 1);
    call.end().await;
    eventually("the old connection ends with its last stream", || mesh.server.handle.open() == open).await;
}

#[tokio::test]
async fn an_opaque_connection_outlives_a_rotation_and_the_next_takes_a_new_tunnel() {
    let mesh = Mesh::new(application::raw(4, mirror).await, Protocol::Tcp);
    let mut old = mesh.connect().await;
    echo(&mut old).await;
    assert_eq!(mesh.server.handle.open(), 1);
    let new = Ca::new("new root");
    prepare(&mesh, &new);
    publish(&mesh, &new, &bundle(3, &[&new]));
    let mut next = elsewhere(&mesh).await;
    echo(&mut old).await;
    drop(old);
    eventually("the old connection ends with its last stream", || mesh.server.handle.open() == 1).await;
    echo(&mut next).await;
}

/// The peer's root is what it was; it is our own that is gone.
#[tokio::test]
async fn a_connection_with_a_leaf_of_a_dropped_root_is_given_nothing_new() {
    let mesh = Mesh::new(application::raw(4, mirror).await, Protocol::Tcp);
    let new = Ca::new("new root");
    let both = bundle(2, &[&mesh.ca, &new]);
    mesh.server.store.publish(new.leaf(&id("server"), &both));
    mesh.client.store.publish(mesh.ca.leaf(&id("client"), &both));
    let mut old = mesh.connect().await;
    echo(&mut old).await;
    assert_eq!(mesh.server.handle.open(), 1);
    mesh.client.store.publish(new.leaf(&id("client"), &bundle(3, &[&new])));
    let _next = elsewhere(&mesh).await;
    echo(&mut old).await;
}

#[tokio::test]
async fn what_stands_on_a_revoked_root_is_cut_off_at_once() {
    let (http, grpc) = (application::http1(2).await, application::http2(3).await);
    let meshes = [
        Mesh::new(http.address, Protocol::Http1),
        Mesh::new(grpc.address, Protocol::Grpc),
        Mesh::new(application::raw(4, mirror).await, Protocol::Tcp),
    ];
    let new = Ca::new("new root");
    // Whoever learns of it first cuts.
    for server_first in [true, false] {
        let mut socket = web_socket(&meshes[0]).await;
        let mut call = Call::begin(connect2(&meshes[1]).await).await;
        let mut tunnel = meshes[2].connect().await;
        echo(&mut tunnel).await;
        for mesh in &meshes {
            prepare(mesh, &new);
            let bundle = revoking(3, &[&new], &[&mesh.ca]);
            if server_first {
                mesh.server.store.publish(new.leaf(&id("server"), &bundle));
            } else {
                mesh.client.store.publish(new.leaf(&id("client"), &bundle));
            }
        }
        for stream in [&mut socket, &mut tunnel] {
            assert!(soon("cut off", stream.read(&mut [0; 1])).await.map_or(true, |n| n == 0));
        }
        soon("the stream is cut", async { while call.echo().await {} }).await;
        for mesh in &meshes {
            publish(mesh, &mesh.ca, &bundle(4, &[&mesh.ca, &new]));
        }
    }
}

#[tokio::test]
async fn what_was_left_to_finish_is_cut_off_when_its_root_turns_out_to_be_compromised() {
    let mesh = Mesh::new(application::raw(4, mirror).await, Protocol::Tcp);
    let mut old = mesh.connect().await;
    echo(&mut old).await;
    let new = Ca::new("new root");
    prepare(&mesh, &new);
    publish(&mesh, &new, &bundle(3, &[&new]));
    let mut next = elsewhere(&mesh).await;
    echo(&mut old).await;
    publish(&mesh, &new, &revoking(4, &[&new], &[&mesh.ca]));
    assert!(soon("cut off", old.read(&mut [0; 1])).await.map_or(true, |n| n == 0));
    echo(&mut next).await;
}
