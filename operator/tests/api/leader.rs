//! Two candidates and one Lease.

use std::time::Duration;

use bowline_operator::{
    leader::{self, DEADLINE, Elector, LEASE},
    runtime::shutdown::{Shutdown, TaskResult},
    telemetry::{MeshLabel, Metrics},
};
use http::Method;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use crate::{
    server::{Fault, Server},
    world::World,
};

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

/// What the leader measures of a Mesh while it leads.
async fn measure(metrics: Metrics) -> TaskResult {
    let label = MeshLabel { mesh: "default".into() };
    metrics.mesh_pods_without_sidecar.get_or_create(&label).set(3);
    metrics.rotation.at_risk.get_or_create(&label).set(1);
    metrics.queue.mark("mesh", ["default", "other"].map(str::to_owned));
    metrics.queue.started("mesh", "default");
    std::future::pending().await
}

const MEASURED: [&str; 4] = [
    r#"bowline_mesh_pods_without_sidecar{mesh="default"} 3"#,
    r#"bowline_ca_trust_at_risk{mesh="default"} 1"#,
    r#"workqueue_depth{name="mesh"} 1"#,
    r#"controller_runtime_active_workers{controller="mesh"} 1"#,
];

fn leads(metrics: &Metrics) -> bool {
    let text = metrics.encode().unwrap();
    let leads = text.contains(r#"leader_election_master_status{name="bowline-operator"} 1"#);
    // Said by every replica from the start, or nobody could be told that none leads.
    assert!(leads || text.contains(r#"leader_election_master_status{name="bowline-operator"} 0"#), "{text}");
    for line in MEASURED {
        assert_eq!(text.contains(line), leads, "{line}, leading {leads}:\n{text}");
    }
    leads
}

#[tokio::test(start_paused = true)]
async fn whoever_leads_no_longer_says_nothing_more_of_meshes() {
    let world = World::settled().await;
    let (_ask, shutdown) = Shutdown::new();
    let replica = |name: &str| {
        let (metrics, (lead, led)) = (Metrics::default(), watch::channel(false));
        let measured = metrics.clone();
        let work = move || measure(measured.clone());
        let elector = elector(&world.server, name);
        let runs = tokio::spawn(leader::run(elector, lead, metrics.clone(), shutdown.clone(), work));
        (metrics, led, runs)
    };
    let (a, mut a_leads, _a) = replica("a");
    timeout(LEASE, a_leads.wait_for(|leads| *leads)).await.expect("a leads").unwrap();
    let (b, mut b_leads, _b) = replica("b");
    tokio::time::sleep(LEASE).await;
    assert_eq!((leads(&a), leads(&b)), (true, false));

    let path = format!("{LEASES}/bowline-operator");
    let mut lease = world.server.get(&path).expect("Lease");
    lease["spec"]["holderIdentity"] = "b".into();
    world.server.put(&path, lease);
    timeout(LEASE, a_leads.wait_for(|leads| !*leads)).await.expect("a notices").unwrap();
    timeout(LEASE, b_leads.wait_for(|leads| *leads)).await.expect("b leads").unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((leads(&a), leads(&b)), (false, true));
}
