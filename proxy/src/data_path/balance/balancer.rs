//! Picks an endpoint: of two at random the one that is expected to answer sooner (power of two choices over peak EWMA).

use std::{
    cell::{Cell, RefCell},
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use tokio::sync::{Notify, watch};

use crate::{
    contract::{
        bootstrap::Reason,
        resource::{Endpoint, Protocol, Service, ServiceKey, Workload},
    },
    control::state::State,
    data_path::{
        connect::endpoint::{Candidate, EndpointKey},
        http::{exchange::Tried, local_reply::Failure},
        worker::Worker,
    },
    telemetry::metrics::{Direction, PLAINTEXT},
};

use super::eligible::eligible;

/// Where the requests of a connection go.
pub(crate) enum Route {
    /// To exactly this endpoint.
    Direct(Rc<Candidate>),
    /// To the application of this pod, for somebody who came in plain: as long as the policy lets them.
    Plain(Rc<Candidate>),
    /// To the pod that was addressed.
    Pod(Box<Pod>),
    /// To any endpoint of a Service's port.
    Balanced(Rc<Balancer>),
}

/// A pod that the client addressed itself. When it is gone, so is the client's connection, as it would be without the mesh: the client
/// is to look up who else there is (gRPC over a headless Service does nothing else).
pub(crate) struct Pod {
    candidate: Rc<Candidate>,
    ip: IpAddr,
    known: Arc<Workload>,
    over: Cell<bool>,
    /// A request did not get there.
    failed: Notify,
}

impl Pod {
    pub(crate) fn new(candidate: Candidate, ip: IpAddr, known: Arc<Workload>) -> Box<Self> {
        Box::new(Self { candidate: Rc::new(candidate), ip, known, over: Cell::new(false), failed: Notify::new() })
    }

    fn note(&self, reason: Reason) {
        use Reason::{ConnectFailed, ConnectionLost, TlsFailed, WrongIdentity};
        if matches!(reason, ConnectFailed | ConnectionLost | TlsFailed | WrongIdentity) {
            self.over.set(true);
            self.failed.notify_one();
        }
    }

    async fn wait(&self, state: &State) {
        if self.over.get() {
            return;
        }
        tokio::select! {
            () = self.failed.notified() => {}
            () = state.replaced(self.ip, &self.known) => {}
        }
        self.over.set(true);
    }
}

/// A port of a Service as one worker sees it.
pub(crate) struct Balancer {
    pub(crate) service: ServiceKey,
    port: u16,
    source: RefCell<watch::Receiver<Option<Arc<Service>>>>,
    /// The source has ended, and its last word was heard.
    ended: Cell<bool>,
    table: RefCell<Table>,
    random: Cell<u64>,
}

#[derive(Default)]
struct Table {
    exists: bool,
    has_port: bool,
    protocol: Protocol,
    /// Those that are used.
    candidates: Vec<Rc<Candidate>>,
    draining: usize,
    local: bool,
}

impl Route {
    /// The endpoint for the next request.
    pub(crate) fn pick(&self, worker: &Rc<Worker>, tried: &Tried) -> Result<Rc<Candidate>, Failure> {
        match self {
            Self::Direct(candidate) => Ok(Rc::clone(candidate)),
            // What is under way finishes, with another attempt if it takes one.
            Self::Plain(_) if tried.is_none() && worker.state.is_strict() => {
                let detail =
                    "it came in plain on a connection that is older than the policy: this workload is Strict now";
                Err(Failure::new(Reason::MtlsRequired, detail))
            }
            Self::Plain(candidate) => Ok(Rc::clone(candidate)),
            Self::Pod(pod) => Ok(Rc::clone(&pod.candidate)),
            Self::Balanced(balancer) => balancer.pick(worker, tried),
        }
    }

    /// Whether there is an endpoint that was not tried.
    pub(crate) fn has_other(&self, worker: &Rc<Worker>, tried: &Tried) -> bool {
        match self {
            Self::Direct(_) | Self::Plain(_) | Self::Pod(_) => false,
            Self::Balanced(balancer) => {
                balancer.refresh(worker);
                balancer.table.borrow().candidates.iter().any(|c| !tried.contains(&c.endpoint))
            }
        }
    }

    /// Takes note of what a request ended with.
    pub(crate) fn note(&self, failure: &Failure) {
        if let Self::Pod(pod) = self {
            pod.note(failure.reason);
        }
    }

    /// Whether connections to it are over: see [`Pod`] and [`Route::Plain`].
    pub(crate) fn is_over(&self, worker: &Worker) -> bool {
        match self {
            Self::Plain(_) => worker.state.is_strict(),
            Self::Pod(pod) => pod.over.get(),
            Self::Direct(_) | Self::Balanced(_) => false,
        }
    }

    /// Waits until connections to it are over.
    pub(crate) async fn over(&self, worker: &Worker) {
        match self {
            Self::Plain(_) => Box::pin(worker.state.strict()).await,
            Self::Pod(pod) => Box::pin(pod.wait(&worker.state)).await,
            Self::Direct(_) | Self::Balanced(_) => std::future::pending().await,
        }
    }
}

impl Balancer {
    pub(crate) fn new(
        worker: &Rc<Worker>,
        service: ServiceKey,
        port: u16,
        source: watch::Receiver<Option<Arc<Service>>>,
    ) -> Rc<Self> {
        let (source, table) = (RefCell::new(source), RefCell::default());
        let balancer = Self { service, port, source, ended: Cell::new(false), table, random: Cell::new(seed()) };
        balancer.rebuild(worker);
        Rc::new(balancer)
    }

    /// Whether its Service is still followed by the control stream.
    pub(crate) fn is_live(&self) -> bool {
        self.source.borrow().has_changed().is_ok()
    }

    /// Follows another source from now on, with all connections kept.
    pub(crate) fn follow(&self, worker: &Rc<Worker>, source: watch::Receiver<Option<Arc<Service>>>) {
        *self.source.borrow_mut() = source;
        self.ended.set(false);
        self.rebuild(worker);
    }

    /// The declared protocol.
    ///
    /// # Errors
    /// When there is no such Service or port any more.
    pub(crate) fn protocol(&self, worker: &Rc<Worker>) -> Result<Protocol, Failure> {
        self.refresh(worker);
        let table = self.table.borrow();
        if table.has_port { Ok(table.protocol) } else { Err(self.nobody(&table)) }
    }

    fn refresh(&self, worker: &Rc<Worker>) {
        let changed = match self.source.borrow().has_changed() {
            Ok(changed) => changed,
            // Whether it had something to say before it ended cannot be told: it is looked at once more.
            Err(_) => !self.ended.replace(true),
        };
        if changed {
            self.rebuild(worker);
        }
    }

    fn rebuild(&self, worker: &Rc<Worker>) {
        let service = self.source.borrow_mut().borrow_and_update().clone();
        let port = service.as_ref().and_then(|s| s.ports.iter().find(|p| p.port == self.port));
        let mut table = Table { exists: service.is_some(), has_port: port.is_some(), ..Table::default() };
        if let Some(port) = port {
            table.protocol = port.protocol;
            table.draining = port.endpoints.iter().filter(|e| e.draining).count();
            let selection = service.as_ref().map(|s| s.selection).unwrap_or_default();
            table.candidates = self.candidates(worker, &eligible(&port.endpoints, selection, &worker.config.here));
            table.local = selection.local;
        }
        // Endpoints that stay are found again with their connections before the old table lets go of them.
        let old = self.table.replace(table);
        drop(old);
    }

    fn candidates(&self, worker: &Rc<Worker>, usable: &[&Endpoint]) -> Vec<Rc<Candidate>> {
        let label = self.service.to_string();
        usable
            .iter()
            .map(|e| {
                let key = EndpointKey { address: (e.ip, e.port).into(), identity: e.identity.clone() };
                let peer = e.identity.as_ref().map_or(PLAINTEXT, |id| id.as_str());
                let series = worker.metrics.http(Direction::Outbound, &label, peer);
                Rc::new(Candidate { endpoint: worker.endpoint(key), series })
            })
            .collect()
    }

    fn pick(&self, worker: &Rc<Worker>, tried: &Tried) -> Result<Rc<Candidate>, Failure> {
        self.refresh(worker);
        let table = self.table.borrow();
        let all = &table.candidates;
        match all.len() {
            0 => Err(self.nobody(&table)),
            1 => Ok(Rc::clone(&all[0])),
            n => {
                let now = Instant::now();
                let first = self.below(n);
                let second = (first + 1 + self.below(n - 1)) % n;
                let (a, b) = (&all[first], &all[second]);
                let good = |c: &Rc<Candidate>| !c.endpoint.is_avoided(now) && !tried.contains(&c.endpoint);
                let choice = match (good(a), good(b)) {
                    (true, true) if is_better(b, a, now) => b,
                    (true, _) => a,
                    (_, true) => b,
                    // Neither is: look for any that is, at last for one not tried by this request.
                    _ => all
                        .iter()
                        .find(|c| good(c))
                        .or_else(|| all.iter().find(|c| !tried.contains(&c.endpoint)))
                        .unwrap_or(a),
                };
                if choice.endpoint.is_due(now) {
                    choice.endpoint.probe(now);
                }
                Ok(Rc::clone(choice))
            }
        }
    }

    fn nobody(&self, table: &Table) -> Failure {
        let (service, port) = (&self.service, self.port);
        if table.exists && !table.has_port {
            return Failure::new(Reason::UnknownPort, format!("service {service} has no port {port}"));
        }
        let known = if table.exists { "" } else { " (the service does not exist any more)" };
        let near = if table.local { " on this node, as its internalTrafficPolicy demands" } else { "" };
        let draining = table.draining;
        let detail = format!("service {service} port {port} has no endpoint to use{near}, {draining} draining{known}");
        Failure::new(Reason::NoEndpoints, detail)
    }

    /// A number below `n`, which is not 0 (xorshift64*, Vigna 2014; Lemire's reduction).
    fn below(&self, n: usize) -> usize {
        let mut x = self.random.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random.set(x);
        let r = x.wrapping_mul(0x2545_F491_4F6C_DD1D);
        ((u128::from(r) * n as u128) >> 64) as usize
    }
}

/// Whether `b` is to be preferred: it is expected to answer sooner, or somebody has to try whether it is back.
fn is_better(b: &Candidate, a: &Candidate, now: Instant) -> bool {
    let (a, b) = (&a.endpoint, &b.endpoint);
    !a.is_due(now) && (b.is_due(now) || b.cost(now) < a.cost(now))
}

/// Never 0, different in every process and worker.
fn seed() -> u64 {
    rand::random::<u64>() | 1
}
