//! Picks an endpoint: of two at random the one that is expected to answer sooner (power of two choices over peak EWMA).

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use tokio::sync::watch;

use crate::{
    contract::{
        reason::Reason,
        resource::{Endpoint, Protocol, Service, ServiceKey},
    },
    data_path::{
        balance::{attempted::Attempted, eligible::eligible, locality::Locality},
        connect::{
            endpoint::{Candidate, EndpointKey},
            registry::Endpoints,
        },
        failure::Failure,
    },
    telemetry::metrics::{Direction, Metrics, PLAINTEXT},
};

/// A port of a Service as one worker sees it.
pub(crate) struct Balancer {
    pub(crate) service: ServiceKey,
    port: u16,
    source: RefCell<watch::Receiver<Option<Arc<Service>>>>,
    /// The source has ended, and its last word was heard.
    ended: Cell<bool>,
    table: RefCell<Table>,
    random: Cell<u64>,
    parts: Parts,
}

/// What a balancer finds and counts its endpoints with.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) endpoints: Rc<Endpoints>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) locality: Rc<Locality>,
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

impl Balancer {
    pub(crate) fn new(
        service: ServiceKey,
        port: u16,
        source: watch::Receiver<Option<Arc<Service>>>,
        parts: Parts,
    ) -> Rc<Self> {
        let (source, table) = (RefCell::new(source), RefCell::default());
        let balancer = Self { service, port, source, ended: Cell::new(false), table, random: Cell::new(seed()), parts };
        balancer.rebuild();
        Rc::new(balancer)
    }

    /// Whether its Service is still followed by the control stream.
    pub(crate) fn is_live(&self) -> bool {
        self.source.borrow().has_changed().is_ok()
    }

    /// Follows another source from now on, with all connections kept.
    pub(crate) fn follow(&self, source: watch::Receiver<Option<Arc<Service>>>) {
        *self.source.borrow_mut() = source;
        self.ended.set(false);
        self.rebuild();
    }

    /// The declared protocol.
    ///
    /// # Errors
    /// When there is no such Service or port any more.
    pub(crate) fn protocol(&self) -> Result<Protocol, Failure> {
        self.refresh();
        let table = self.table.borrow();
        if table.has_port { Ok(table.protocol) } else { Err(self.nobody(&table)) }
    }

    fn refresh(&self) {
        let changed = match self.source.borrow().has_changed() {
            Ok(changed) => changed,
            // Whether it had something to say before it ended cannot be told: it is looked at once more.
            Err(_) => !self.ended.replace(true),
        };
        if changed {
            self.rebuild();
        }
    }

    fn rebuild(&self) {
        let service = self.source.borrow_mut().borrow_and_update().clone();
        let port = service.as_ref().and_then(|s| s.ports.iter().find(|p| p.port == self.port));
        let mut table = Table { exists: service.is_some(), has_port: port.is_some(), ..Table::default() };
        if let Some(port) = port {
            table.protocol = port.protocol;
            table.draining = port.endpoints.iter().filter(|e| e.draining).count();
            let selection = service.as_ref().map(|s| s.selection).unwrap_or_default();
            table.candidates = self.candidates(&eligible(&port.endpoints, selection, &self.parts.locality));
            table.local = selection.local;
        }
        // Endpoints that stay are found again with their connections before the old table lets go of them.
        let old = self.table.replace(table);
        drop(old);
    }

    fn candidates(&self, usable: &[&Endpoint]) -> Vec<Rc<Candidate>> {
        let label = self.service.to_string();
        usable
            .iter()
            .map(|e| {
                let key = EndpointKey { address: (e.ip, e.port).into(), identity: e.identity.clone() };
                let peer = e.identity.as_ref().map_or(PLAINTEXT, |id| id.as_str());
                let series = self.parts.metrics.http(Direction::Outbound, &label, peer);
                Rc::new(Candidate { endpoint: self.parts.endpoints.get(key), series })
            })
            .collect()
    }

    /// Whether there is an endpoint that was not attempted.
    pub(crate) fn has_other(&self, attempted: &Attempted) -> bool {
        self.refresh();
        self.table.borrow().candidates.iter().any(|c| !attempted.contains(&c.endpoint))
    }

    /// The endpoint for the next request.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn pick(&self, attempted: &Attempted) -> Result<Rc<Candidate>, Failure> {
        self.refresh();
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
                let good = |c: &Rc<Candidate>| !c.endpoint.load.is_ejected(now) && !attempted.contains(&c.endpoint);
                let choice = match (good(a), good(b)) {
                    (true, true) if is_better(b, a, now) => b,
                    (true, _) => a,
                    (_, true) => b,
                    // Neither is: look for any that is, at last for one not attempted by this request.
                    _ => all
                        .iter()
                        .find(|c| good(c))
                        .or_else(|| all.iter().find(|c| !attempted.contains(&c.endpoint)))
                        .unwrap_or(a),
                };
                if choice.endpoint.load.is_probe_due(now) {
                    choice.endpoint.load.probe(now);
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

/// Whether `b` is to be preferred: it is expected to answer sooner, or it was ejected and is to be probed.
fn is_better(b: &Candidate, a: &Candidate, now: Instant) -> bool {
    let (a, b) = (&a.endpoint.load, &b.endpoint.load);
    !a.is_probe_due(now) && (b.is_probe_due(now) || b.cost(now) < a.cost(now))
}

/// Never 0, different in every process and worker.
fn seed() -> u64 {
    rand::random::<u64>() | 1
}
