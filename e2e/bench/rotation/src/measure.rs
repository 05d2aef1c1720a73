//! One measurement: starts all parts, waits until every proxy is up, and follows a rotation to its end.

use std::{
    net::SocketAddr,
    path::Path,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, bail, ensure};
use bowline_crds::names::ROTATE_ROOT_ANNOTATION;
use bowline_proxy::{
    contract::spiffe::SpiffeId,
    identity::{csr, key::Key},
};
use tokio::{net::TcpListener, runtime::Runtime};

use crate::{
    api::Api,
    check,
    cluster::{self, ACCOUNT, MESH_PATH, NAMESPACE},
    fleet::{self, Fleet, Mounted},
    operator::{self, Operator},
    outcome::Outcome,
    phases::{self, Phases},
    service,
    usage::{self, Usage},
};

/// All of it takes at most so long.
const DEADLINE: Duration = Duration::from_secs(300);
/// How often it is looked how far a rotation is.
const LOOK: Duration = Duration::from_millis(10);
/// The same where every proxy is looked at.
const LOOK_AT_ALL: Duration = Duration::from_millis(50);
/// Open files for each proxy: at most two connections through the Service at a time, with two ends each.
const FILES_EACH: u64 = 8;
/// Open files of everything else.
const FILES: u64 = 500;
/// Names of threads.
const OPERATOR: &str = "bench-operator";
const PROXIES: &str = "bench-proxies";
const SERVICE: &str = "bench-service";

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub struct Bench {
    /// Simulated pods.
    pub proxies: u32,
    /// Replicas of the operator.
    pub replicas: u8,
    /// For how long leaves are signed in a loop.
    pub sign_for: Duration,
}

/// Everything that runs. Fields end in this order.
struct Lab {
    fleet: Fleet,
    operator: Operator,
    api: Api,
    mounted: Mounted,
    _proxies: Runtime,
    _service: Runtime,
    _operator: Runtime,
}

impl Bench {
    /// Measures; `dir` is made, and removed at the end.
    ///
    /// # Errors
    /// When something does not hold that must, or it takes longer than five minutes.
    pub fn measure(self, dir: &Path) -> Result<Outcome> {
        // Fails when there is one already, which is as good.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        raise_limit(u64::from(self.proxies) * FILES_EACH + FILES)?;
        let deadline = Instant::now() + DEADLINE;
        let memory_before = usage::resident_mib()?;
        let began = Instant::now();
        let lab = self.start(dir, deadline)?;
        wait(deadline, LOOK_AT_ALL, || lab.all_up(), || lab.who_is_not_up())?;
        let mut outcome = Outcome {
            proxies: self.proxies,
            replicas: self.replicas,
            start_seconds: began.elapsed().as_secs_f64(),
            optimised: !cfg!(debug_assertions),
            memory_before_mib: memory_before,
            memory_up_mib: usage::resident_mib()?,
            ..Outcome::default()
        };
        lab.rotate(deadline, &mut outcome)?;
        outcome.sign_per_second = lab.sign(self.sign_for)?;
        lab.operator.stop();
        Ok(outcome)
    }

    /// Starts the control plane, waits for the first bundle, then starts all proxies at once.
    fn start(self, dir: &Path, deadline: Instant) -> Result<Lab> {
        let (for_operator, for_service, for_proxies) =
            (runtime(OPERATOR, 2)?, runtime(SERVICE, 1)?, runtime(PROXIES, 2)?);
        let listeners = for_operator.block_on(operator::listeners(self.replicas))?;
        let addresses: Vec<SocketAddr> = listeners
            .iter()
            .map(TcpListener::local_addr)
            .collect::<Result<_, _>>()
            .context("a replica has no address")?;
        let api = cluster::build(self.proxies, &addresses.iter().map(SocketAddr::ip).collect::<Vec<_>>());
        let service = service::open(for_service.handle(), addresses, self.proxies)?;
        let mounted = Mounted::follow(&api, dir, self.proxies, service)?;
        let operator = for_operator.block_on(Operator::start(&api, listeners))?;
        wait(
            deadline,
            LOOK,
            || Ok(mounted.is_there()),
            || {
                let (count, last) = operator.faults();
                format!("there is no trust bundle; {count} reconciles failed: {}", last.unwrap_or_default())
            },
        )?;
        let fleet = Fleet::start(self.proxies, &mounted, for_proxies.handle());
        let (_operator, _service, _proxies) = (for_operator, for_service, for_proxies);
        Ok(Lab { fleet, operator, api, mounted, _proxies, _service, _operator })
    }
}

impl Lab {
    fn all_up(&self) -> Result<bool> {
        Ok(self.fleet.all().iter().all(fleet::Proxy::is_up))
    }

    fn who_is_not_up(&self) -> String {
        let down: Vec<_> = self.fleet.all().iter().filter(|p| !p.is_up()).collect();
        let why = down.first().map(|p| p.fault()).unwrap_or_default();
        format!("{} proxies are not up; the first: {why}", down.len())
    }

    /// A whole rotation of the root.
    fn rotate(&self, deadline: Instant, outcome: &mut Outcome) -> Result<()> {
        let old = self.root().context("there is no root")?;
        let (cpu, signed, failed) = (Usage::now()?, self.operator.signed(), self.fleet.failures());
        let rounds = self.operator.rounds();
        let began = Instant::now();
        self.api.change(MESH_PATH, |mesh| {
            mesh["metadata"]["annotations"] = serde_json::json!({ ROTATE_ROOT_ANNOTATION: "now" })
        });
        let mut phases = Phases::new();
        let looked = || {
            let state = self.operator.state().context("there is no CA")?;
            if phases.look(&state.ledger, self.operator.signed()) {
                self.check(state.ledger.revision)?;
            }
            Ok(phases.is_over())
        };
        wait(deadline, LOOK, looked, || self.where_it_stands())?;
        let new = self.root().context("there is no root")?;
        ensure!(old != new, "the rotation ended with the root that it began with");
        wait(
            deadline,
            LOOK_AT_ALL,
            || Ok(check::ended(&self.fleet, &new).is_ok() && self.all_up()?),
            || self.where_it_stands(),
        )?;
        phases.settled();
        outcome.rotation_seconds = began.elapsed().as_secs_f64();
        check::ended(&self.fleet, &new)?;
        if let Some(fault) = self.mounted.fault() {
            bail!("the trust ConfigMap was not mounted: {fault}");
        }
        let spent = Usage::now()?;
        (outcome.operator_cpu_seconds, outcome.proxies_cpu_seconds, outcome.service_cpu_seconds) =
            (spent.since(&cpu, OPERATOR), spent.since(&cpu, PROXIES), spent.since(&cpu, SERVICE));
        outcome.memory_after_mib = usage::resident_mib()?;
        outcome.leaves = self.operator.signed() - signed;
        let now_failed = self.fleet.failures();
        (outcome.failed_attempts, outcome.ended_streams) = (now_failed.0 - failed.0, now_failed.1 - failed.1);
        let now_rounds = self.operator.rounds();
        outcome.reconciles = now_rounds.0 - rounds.0;
        outcome.reconcile_ms = (now_rounds.1 - rounds.1) * 1000.0 / outcome.reconciles.max(1) as f64;
        outcome.failed_reconciles = self.operator.faults().0;
        (outcome.phases, outcome.leaves_per_second) = (phases.seconds(), phases.leaves_per_second());
        Ok(())
    }

    /// Nobody may fail to verify anybody. ProxyId is looked at before and after a step need not fit: then it is looked once more.
    fn check(&self, revision: u64) -> Result<()> {
        let seen = check::Seen::now(&self.fleet);
        let stayed = self.operator.state().is_some_and(|s| s.ledger.revision == revision);
        if stayed { seen.check() } else { check::Seen::now(&self.fleet).check() }
    }

    fn root(&self) -> Option<Vec<u8>> {
        let state = self.operator.state()?;
        state.der(&state.ledger.active_root()?.id).ok().map(|der| der.to_vec())
    }

    fn where_it_stands(&self) -> String {
        let (count, last) = self.operator.faults();
        let phases = self.operator.state().map(|s| format!("{:?}", phases::Phase::of(&s.ledger))).unwrap_or_default();
        format!(
            "the rotation stands at {phases}; {count} reconciles failed {}; {}",
            last.unwrap_or_default(),
            self.who_is_not_up()
        )
    }

    /// Leaves that one thread signs per second, one after another.
    fn sign(&self, time: Duration) -> Result<f64> {
        let ca = self.operator.ca().context("there is no CA")?;
        let id = SpiffeId::new(&ca.trust_domain, NAMESPACE, ACCOUNT).context("the bench's identity is none")?;
        let request = csr::request(&id, &Key::generate()?)?;
        let (began, mut count) = (Instant::now(), 0_u32);
        while began.elapsed() < time {
            ca.sign_leaf(&request, &id, SystemTime::now())?;
            count += 1;
        }
        Ok(f64::from(count) / began.elapsed().as_secs_f64())
    }
}

fn runtime(name: &str, threads: usize) -> Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(threads).thread_name(name).enable_all().build().context("cannot start threads")
}

/// Waits until `done`; past the deadline it fails with `why`.
fn wait(
    deadline: Instant,
    pause: Duration,
    mut done: impl FnMut() -> Result<bool>,
    why: impl Fn() -> String,
) -> Result<()> {
    while !done()? {
        ensure!(Instant::now() < deadline, "not finished after {} s: {}", DEADLINE.as_secs(), why());
        thread::sleep(pause);
    }
    Ok(())
}

/// Allows so many open files.
fn raise_limit(files: u64) -> Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|now| now >= files) {
        return Ok(());
    }
    ensure!(
        limit.maximum.is_none_or(|most| most >= files),
        "{files} open files are needed, {} are allowed: use fewer proxies or raise the limit",
        limit.maximum.unwrap_or_default()
    );
    limit.current = Some(files);
    setrlimit(Resource::Nofile, limit).context("cannot raise the limit of open files")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_proxies_get_through_a_rotation() {
        let bench = Bench { proxies: 10, replicas: 2, sign_for: Duration::from_millis(50) };
        let dir = std::env::temp_dir().join(format!("bowline-bench-test-{}", std::process::id()));
        let outcome = bench.measure(&dir).unwrap();
        assert!(outcome.leaves >= 10 && outcome.sign_per_second > 1.0, "{outcome}");
        assert_eq!(outcome.failed_reconciles, 0, "{outcome}");
        assert!(outcome.phases.iter().any(|(name, _)| *name == "active"), "{outcome}");
        assert!(!dir.exists());
    }
}
