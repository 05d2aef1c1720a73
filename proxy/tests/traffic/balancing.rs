use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use bowline_proxy::{
    contract::{
        reason::Reason,
        resource::{Protocol, Selection},
    },
    telemetry::metrics::Direction,
};

use tokio::net::TcpStream;

use crate::{
    application::{self, say},
    mesh::{Mesh, PATIENCE, config, eventually, id, plane, soon},
};

const WHO: &str = "GET /who HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

pub(crate) async fn who(mesh: &Mesh) -> String {
    let answer = soon("answer", say(mesh.connect().await, WHO)).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer.rsplit("\r\n\r\n").next().unwrap().to_owned()
}

/// A second endpoint with a proxy of its own, on the mesh port of the first.
pub(crate) fn second(mesh: &Mesh, application: SocketAddr) -> crate::mesh::Plane {
    let mut config = config(application.ip());
    config.mesh.set_port(mesh.server.handle.mesh.port());
    plane(config, mesh.ca.leaf(&id("server"), &mesh.bundle))
}

#[tokio::test]
async fn every_endpoint_gets_some_and_a_draining_one_nothing_new() {
    let (one, two) = (application::http1(2).await, application::http1(5).await);
    let mesh = Mesh::new(one.address, Protocol::Http1);
    let _second = second(&mesh, two.address);
    let mut endpoints = vec![mesh.endpoint(one.address, "server"), mesh.endpoint(two.address, "server")];
    mesh.serve(Protocol::Http1, endpoints.clone());
    let mut seen = HashSet::new();
    for _ in 0..60 {
        seen.insert(who(&mesh).await);
    }
    assert_eq!(seen, HashSet::from([one.address.to_string(), two.address.to_string()]));
    endpoints[0].draining = true;
    mesh.serve(Protocol::Http1, endpoints);
    for _ in 0..20 {
        assert_eq!(who(&mesh).await, two.address.to_string());
    }
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_reached_costs_no_request() {
    let app = application::http1(2).await;
    for protocol in [Protocol::Http1, Protocol::Detect] {
        let mesh = Mesh::new(app.address, protocol);
        // Nobody listens there, with and without a proxy.
        let gone = mesh.endpoint("127.0.0.77:1".parse().unwrap(), "server");
        let mut plain = gone.clone();
        plain.identity = None;
        mesh.serve(protocol, vec![mesh.endpoint(app.address, "server"), gone, plain]);
        for _ in 0..30 {
            assert_eq!(who(&mesh).await, app.address.to_string());
        }
        // Whatever was tried before, a member is spoken to with mutual TLS.
        let counted = "peer=\"spiffe://mesh.test/ns/shop/sa/client\",status_class=\"2xx\"} 30\n";
        let inbound = mesh.server.handle.metrics().encode();
        assert!(inbound.contains(counted), "{inbound}");
    }
}

#[tokio::test]
async fn without_endpoints_the_answer_says_so() {
    let app = application::http1(2).await;
    let mesh = Mesh::with(app.address, Protocol::Http1, |client, _| client.locality.node = "here".into());
    let mut elsewhere = mesh.endpoint(app.address, "server");
    (elsewhere.node, elsewhere.draining) = ("elsewhere".into(), true);
    let local = Selection { local: true, affine: false };
    mesh.serve_as(local, Protocol::Http1, vec![elsewhere.clone()]);
    let answer = soon("answer", say(mesh.connect().await, WHO)).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("bowline-reason: no-endpoints"), "{answer}");
    assert!(
        answer.contains("shop/web port 80") && answer.contains("on this node") && answer.contains("1 draining"),
        "{answer}"
    );
    assert_eq!(mesh.client.handle.metrics().refused_count(Direction::Outbound, Reason::NoEndpoints), 1);
    assert!(
        mesh.metrics().contains("service=\"shop/web\",peer=\"unknown\",status_class=\"5xx\"} 1\n"),
        "{}",
        mesh.metrics()
    );
    // About to end, but the only one that serves; then one of this node.
    elsewhere.node = "here".into();
    mesh.serve_as(local, Protocol::Http1, vec![elsewhere]);
    assert_eq!(who(&mesh).await, app.address.to_string());
    mesh.serve(Protocol::Http1, vec![mesh.endpoint(app.address, "server")]);
    assert_eq!(who(&mesh).await, app.address.to_string());
}

#[tokio::test]
async fn a_client_of_a_service_with_affinity_stays_with_one_endpoint() {
    let apps = [application::http1(2).await, application::http1(5).await, application::http1(6).await];
    let mesh = Mesh::new(apps[0].address, Protocol::Http1);
    let plain = |app: &application::Application| {
        let mut endpoint = mesh.endpoint(app.address, "server");
        endpoint.identity = None;
        endpoint
    };
    let affine = Selection { local: false, affine: true };
    mesh.serve_as(affine, Protocol::Http1, apps.iter().map(plain).collect());
    let one = who(&mesh).await;
    for _ in 0..20 {
        assert_eq!(who(&mesh).await, one);
    }
    // It goes, and another one is found.
    let others = apps.iter().filter(|a| a.address.to_string() != one).map(plain).collect();
    mesh.serve_as(affine, Protocol::Http1, others);
    assert_ne!(who(&mesh).await, one);
}

#[tokio::test]
async fn an_application_that_does_not_listen_is_told_apart() {
    let (listener, address) = application::listen(2).await;
    drop(listener);
    let mesh = Mesh::new(address, Protocol::Http1);
    let answer = soon("answer", say(mesh.connect().await, WHO)).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("bowline-reason: connect-failed"), "{answer}");
}

#[tokio::test]
async fn an_idle_connection_to_a_restarted_endpoint_is_replaced() {
    let app = application::http1(2).await;
    let mut mesh = Mesh::new(app.address, Protocol::Http1);
    assert_eq!(who(&mesh).await, app.address.to_string());
    let mut again = config(app.address.ip());
    again.mesh = mesh.server.handle.mesh;
    let old = std::mem::replace(&mut mesh.server, {
        let leaf = mesh.ca.leaf(&id("server"), &mesh.bundle);
        plane(again, leaf)
    });
    assert!(old.handle.drain(PATIENCE).await);
    for _ in 0..5 {
        assert_eq!(who(&mesh).await, app.address.to_string());
    }
    eventually("new connection", || mesh.server.handle.open() >= 1).await;
    assert_eq!(app.begun.load(Ordering::SeqCst), 6);
}

#[tokio::test]
async fn the_faster_endpoint_is_preferred() {
    // Where the machine stands still, the fast one may be as slow as the other; then nothing was learnt.
    let mut last = 0;
    for _ in 0..5 {
        let (asked, clear) = slow_one_asked().await;
        if clear {
            assert!(asked < 30, "the slow one was asked {asked} times of 100");
            return;
        }
        last = asked;
    }
    panic!("the fast one was never clearly the faster, and the slow one was asked {last} times of 100");
}

/// How often of a hundred times the slow one of two endpoints is asked, and whether it was clearly the slower.
async fn slow_one_asked() -> (usize, bool) {
    let (fast, slow) = (application::http1(2).await, application::http1(5).await);
    let mesh = Mesh::new(fast.address, Protocol::Http1);
    let _second = second(&mesh, slow.address);
    mesh.serve(Protocol::Http1, vec![mesh.endpoint(fast.address, "server"), mesh.endpoint(slow.address, "server")]);
    fast.release.add_permits(tokio::sync::Semaphore::MAX_PERMITS);
    let begun = || slow.begun.load(Ordering::SeqCst);
    // One that waits at the slow one, until the other has answered many; if another comes there, that one waits instead.
    let (mut waits, mut longest) = (None, Duration::ZERO);
    for _ in 0..200 {
        let before = begun();
        let asked = tokio::spawn(ask_slow(mesh.connect().await));
        eventually("answered or waiting", || asked.is_finished() || begun() > before).await;
        if begun() == before {
            longest = longest.max(asked.await.unwrap());
        } else if let Some((earlier, _)) = waits.replace((asked, Instant::now())) {
            slow.release.add_permits(1);
            soon("released", earlier).await.unwrap();
        }
    }
    let (waiting, since) = waits.expect("one at the slow one");
    let waited = since.elapsed();
    slow.release.add_permits(tokio::sync::Semaphore::MAX_PERMITS / 2);
    soon("released", waiting).await.unwrap();
    let (first, began) = (begun(), Instant::now());
    for _ in 0..100 {
        let before = begun();
        let took = soon("answer", ask_slow(mesh.connect().await)).await;
        if begun() == before {
            longest = longest.max(took);
        }
    }
    // In ten seconds what was learnt loses most of its weight.
    let clear = longest * 4 < waited && began.elapsed() < Duration::from_secs(5);
    (begun() - first, clear)
}

/// How long the answer took.
async fn ask_slow(stream: TcpStream) -> Duration {
    let began = Instant::now();
    assert!(say(stream, "GET /slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.ends_with("slow"));
    began.elapsed()
}
