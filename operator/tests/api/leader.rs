//! Two candidates and one Lease.

use std::time::Duration;

use bowline_operator::leader::{DEADLINE, Elector, LEASE};
use http::Method;
use tokio::time::{Instant, timeout};

use crate::server::{Fault, Server};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/bowline-system/leases";

fn elector(server: &Server, me: &str) -> Elector {
    Elector::new(server.client(), "bowline-system", me)
}

fn holder(server: &Server) -> String {
    let lease = server.get(&format!("{LEASES}/bowline-operator")).expect("Lease");
    lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(start_paused = true)]
async fn the_first_leads_and_the_second_waits_until_the_lease_is_given_back() {
    let server = Server::default();
    let (mut a, mut b) = (elector(&server, "a"), elector(&server, "b"));
    a.acquire().await;
    assert_eq!(holder(&server), "a");
    let kept = timeout(Duration::from_secs(60), async { tokio::join!(a.keep(), b.acquire()) });
    assert!(kept.await.is_err(), "the Lease passed on although it was renewed");
    a.release().await;
    let began = Instant::now();
    b.acquire().await;
    assert!(began.elapsed() <= Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(holder(&server), "b");
}

#[tokio::test(start_paused = true)]
async fn a_dead_leader_is_replaced_within_the_lease() {
    let server = Server::default();
    elector(&server, "a").acquire().await;
    let began = Instant::now();
    elector(&server, "b").acquire().await;
    assert!(began.elapsed() >= LEASE && began.elapsed() < LEASE + Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(holder(&server), "b");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_renew_stops_before_its_lease_ends() {
    let server = Server::default();
    let mut a = elector(&server, "a");
    a.acquire().await;
    let began = Instant::now();
    server.fail(Method::PUT, "leases", Fault::Status(500), usize::MAX);
    a.keep().await;
    assert!(began.elapsed() <= DEADLINE && DEADLINE < LEASE, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_renewal_whose_answer_is_lost_costs_nothing() {
    let server = Server::default();
    let mut a = elector(&server, "a");
    a.acquire().await;
    server.fail(Method::PUT, "leases", Fault::LostAnswer, 1);
    assert!(timeout(Duration::from_secs(60), a.keep()).await.is_err(), "the leader stepped down");
    assert_eq!(holder(&server), "a");
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_resolved_by_reading() {
    let server = Server::default();
    let mut a = elector(&server, "a");
    a.acquire().await;
    // Somebody else took it, whatever the reason: the leader notices with its next renewal.
    let path = format!("{LEASES}/bowline-operator");
    let mut lease = server.get(&path).expect("Lease");
    lease["spec"]["holderIdentity"] = "b".into();
    server.put(&path, lease);
    let began = Instant::now();
    a.keep().await;
    assert!(began.elapsed() <= Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(holder(&server), "b");
    a.release().await;
    assert_eq!(holder(&server), "b", "the Lease of another was given back");
}
