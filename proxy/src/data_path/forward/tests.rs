//! A client that addressed a pod itself, over real sockets.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::LocalSet,
};

use super::*;
use crate::{
    contract::resource::{Address, Workload},
    control::state::State,
    data_path::{
        balance::{balancer::Parts, locality::Locality, registry::Balancers},
        connect::{dial::Dialer, registry::Endpoints},
        route::{attempts::Attempts, outbound::OutboundRoutes},
    },
    identity::store::Store,
    telemetry::metrics::Metrics,
};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

fn workload(pod: &str, ports: Vec<(u16, Protocol)>) -> Arc<Workload> {
    Arc::new(Workload { namespace: "shop".into(), pod: pod.into(), owner: "web".into(), identity: None, ports })
}

struct Pods {
    state: Arc<State>,
    routes: OutboundRoutes,
    forwarder: Rc<Forwarder>,
    to: SocketAddr,
    known: Arc<Workload>,
    listener: Option<TcpListener>,
}

impl Pods {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let (state, known) = (State::fixed(), workload("web-0", Vec::new()));
        let (metrics, drain) = (Metrics::new(), Drain::new());
        let endpoints = Rc::new(Endpoints::new(Dialer::new(Store::new(), Arc::clone(&drain)), 1, 1024));
        let locality = Rc::new(Locality::default());
        let parts = Parts { endpoints: Rc::clone(&endpoints), metrics: Arc::clone(&metrics), locality };
        let routes = OutboundRoutes {
            state: Arc::clone(&state),
            endpoints,
            balancers: Balancers::new(parts),
            metrics: Arc::clone(&metrics),
        };
        let (reporter, trimming) = (Rc::new(Reporter::new(metrics)), Rc::default());
        let forwarder = Rc::new(Forwarder { reporter, drain, trimming });
        let pods = Self { state, routes, forwarder, to, known: Arc::clone(&known), listener: Some(listener) };
        pods.set(Some(&known));
        pods
    }

    fn set(&self, workload: Option<&Workload>) {
        self.state.set_address(self.to.ip(), workload.map(|w| Arc::new(Address::Workload(w.clone()))));
    }

    /// A client whose connection is carried to the pod.
    async fn client(&self, declared: Protocol) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (route, service) = self.routes.to_pod(Arc::clone(&self.known), self.to);
        let (stream, direction) = (accepted.unwrap().0, Direction::Outbound);
        let to = ConnectionRoute { port: self.to.port(), declared, route, direction, service };
        let connection = Connection { stream, to, permit: ConnectionPermit::none() };
        let forwarder = Rc::clone(&self.forwarder);
        tokio::task::spawn_local(async move { forwarder.forward(connection).await });
        client.unwrap()
    }

    /// The next connection at the pod.
    async fn accept(&self) -> TcpStream {
        self.listener.as_ref().unwrap().accept().await.unwrap().0
    }
}

async fn run(test: impl Future<Output = ()>) {
    LocalSet::new().run_until(async { tokio::time::timeout(PATIENCE, test).await.unwrap() }).await;
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

async fn rest(mut stream: TcpStream) -> String {
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    rest
}

#[tokio::test]
async fn a_pod_that_cannot_be_reached_ends_its_clients_connections() {
    run(async {
        let mut pods = Pods::new().await;
        drop(pods.listener.take());
        let mut client = pods.client(Protocol::Http1).await;
        client.write_all(GET).await.unwrap();
        let answer = rest(client).await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("connection: close\r\n"), "{answer}");
        assert!(answer.contains("bowline-reason: connect-failed"), "{answer}");

        let (mut send, connection) = h2::client::handshake(pods.client(Protocol::Http2).await).await.unwrap();
        let connection = tokio::task::spawn_local(connection);
        let request = Request::get("http://web-0.web/").body(()).unwrap();
        let (response, _) = send.send_request(request, true).unwrap();
        assert_eq!(response.await.unwrap().headers()["bowline-reason"], "connect-failed");
        // Its client has not let go: the proxy ends it.
        connection.await.unwrap().unwrap();
        drop::<h2::client::SendRequest<Bytes>>(send);
    })
    .await;
}

#[tokio::test]
async fn a_pod_that_was_replaced_ends_its_clients_connections_when_they_are_idle() {
    run(async {
        let pods = Pods::new().await;
        let (mut served, mut busy) = (pods.client(Protocol::Http1).await, pods.client(Protocol::Http1).await);
        let http2 = pods.client(Protocol::Http2).await;
        let (send, http2) = h2::client::handshake(http2).await.unwrap();
        let http2 = tokio::task::spawn_local(http2);
        served.write_all(GET).await.unwrap();
        let mut pod = pods.accept().await;
        read_head(&mut pod).await;
        pod.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        assert!(!read_head(&mut served).await.contains("close"));
        busy.write_all(GET).await.unwrap();
        read_head(&mut pod).await;

        // It is still the same.
        pods.set(Some(&workload("web-0", vec![(80, Protocol::Http1)])));
        served.write_all(GET).await.unwrap();
        let mut second = pods.accept().await;
        read_head(&mut second).await;
        second.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        assert!(!read_head(&mut served).await.contains("close"));

        pods.set(Some(&workload("web-1", Vec::new())));
        assert_eq!(rest(served).await, "");
        http2.await.unwrap().unwrap();
        drop::<h2::client::SendRequest<Bytes>>(send);
        // What is in flight finishes.
        pod.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        let answer = rest(busy).await;
        assert!(answer.contains("connection: close\r\n") && answer.ends_with("ok"), "{answer}");
    })
    .await;
}

#[tokio::test]
async fn pods_of_one_workload_are_counted_together() {
    let pods = Pods::new().await;
    for n in 0..500_u16 {
        let pod = Workload { pod: format!("web-{n}"), ..Workload::clone(&pods.known) };
        let [high, low] = n.to_be_bytes();
        let (_, service) = pods.routes.to_pod(Arc::new(pod), ([10, 0, high, low], 80).into());
        assert_eq!(&*service, "shop/web");
    }
    // There is room for others.
    let other = Workload { owner: "db".into(), ..Workload::clone(&pods.known) };
    let (route, _) = pods.routes.to_pod(Arc::new(other), ([10, 9, 9, 9], 80).into());
    route.pick(&Attempts::default()).unwrap().series.unanswered();
    let text = pods.forwarder.reporter.metrics.encode();
    assert!(text.contains("service=\"shop/db\""), "{text}");
}
