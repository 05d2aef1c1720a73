//! What one worker thread has for itself: endpoints with their connections, and balancers. Nothing of it is shared or locked.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::{Rc, Weak},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{
    contract::resource::{Service, ServiceKey},
    control::state::State,
    data_path::{
        balance::balancer::Balancer,
        buffer::{trim::Freed, windows},
        connect::endpoint::{Endpoint, EndpointKey},
        drain::Drain,
        http::local_reply::Failure,
        limits::connections::Handshakes,
        start::Config,
    },
    identity::store::Store,
    telemetry::metrics::{Direction, Metrics},
};

/// How often idle connections are looked for.
const SWEEP: Duration = Duration::from_secs(1);
/// Balancers kept at most; each holds its Service's endpoints.
const MAX_BALANCERS: usize = 1024;
/// Endpoints addressed directly that are kept for their connections.
const MAX_DIRECT: usize = 1024;
/// Least time between two lines of log about refusals.
const QUIET: Duration = Duration::from_secs(1);

/// Balancers by Service and port, with the time of their last use.
type Balancers = HashMap<(ServiceKey, u16), (Rc<Balancer>, Instant)>;

/// See the module.
pub(crate) struct Worker {
    pub(crate) config: Arc<Config>,
    pub(crate) store: Arc<Store>,
    pub(crate) state: Arc<State>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) drain: Arc<Drain>,
    endpoints: RefCell<HashMap<EndpointKey, Weak<Endpoint>>>,
    /// Keeps endpoints that belong to no balancer, with the time of their last use.
    direct: RefCell<HashMap<EndpointKey, (Rc<Endpoint>, Instant)>>,
    balancers: RefCell<Balancers>,
    /// Of peers who have not proved who they are.
    pub(crate) handshakes: Handshakes,
    /// What connections let go of.
    pub(crate) freed: Freed,
    logged: Cell<Option<Instant>>,
    unlogged: Cell<u64>,
}

impl Worker {
    pub(crate) fn new(
        config: Arc<Config>,
        store: Arc<Store>,
        state: Arc<State>,
        metrics: Arc<Metrics>,
        drain: Arc<Drain>,
    ) -> Rc<Self> {
        Rc::new(Self {
            config,
            store,
            state,
            metrics,
            drain,
            endpoints: RefCell::default(),
            direct: RefCell::default(),
            balancers: RefCell::default(),
            handshakes: Handshakes::default(),
            freed: Freed::default(),
            logged: Cell::new(None),
            unlogged: Cell::new(0),
        })
    }

    /// The endpoint with its connections, whoever used it before.
    pub(crate) fn endpoint(&self, key: EndpointKey) -> Rc<Endpoint> {
        let mut endpoints = self.endpoints.borrow_mut();
        if let Some(endpoint) = endpoints.get(&key).and_then(Weak::upgrade) {
            return endpoint;
        }
        let endpoint = Rc::new(Endpoint::new(key.clone(), self.config.mesh_port, self.config.max_connections));
        endpoints.insert(key, Rc::downgrade(&endpoint));
        endpoint
    }

    /// An endpoint that is addressed directly; it is kept for a while after its last use.
    pub(crate) fn direct(&self, key: EndpointKey) -> Rc<Endpoint> {
        let endpoint = self.endpoint(key.clone());
        let mut direct = self.direct.borrow_mut();
        if direct.len() >= MAX_DIRECT && !direct.contains_key(&key) {
            drop_oldest(&mut direct);
        }
        direct.insert(key, (Rc::clone(&endpoint), Instant::now()));
        endpoint
    }

    /// The balancer of a Service's port.
    pub(crate) fn balancer(
        self: &Rc<Self>,
        service: ServiceKey,
        port: u16,
        source: watch::Receiver<Option<Arc<Service>>>,
    ) -> Rc<Balancer> {
        let key = (service, port);
        let found = self.balancers.borrow_mut().get_mut(&key).map(|(balancer, used)| {
            *used = Instant::now();
            Rc::clone(balancer)
        });
        if let Some(balancer) = found {
            if !balancer.is_live() {
                balancer.follow(self, source);
            }
            return balancer;
        }
        let balancer = Balancer::new(self, key.0.clone(), port, source);
        let mut balancers = self.balancers.borrow_mut();
        if balancers.len() >= MAX_BALANCERS {
            drop_oldest(&mut balancers);
        }
        balancers.insert(key, (Rc::clone(&balancer), Instant::now()));
        balancer
    }

    /// Counts a refusal and, not too often, says why.
    pub(crate) fn refused(&self, direction: Direction, failure: &Failure) {
        self.metrics.refused(direction, failure.reason);
        let now = Instant::now();
        if self.logged.get().is_some_and(|at| now.duration_since(at) < QUIET) {
            self.unlogged.set(self.unlogged.get() + 1);
            return;
        }
        self.logged.set(Some(now));
        let more = self.unlogged.replace(0);
        tracing::warn!(
            direction = direction.as_str(),
            reason = failure.reason.as_str(),
            detail = &*failure.detail,
            unlogged_before = more,
            "refused"
        );
    }

    /// Closes what has been idle for long, again and again.
    pub(crate) async fn keep_clean(self: Rc<Self>) {
        loop {
            tokio::time::sleep(SWEEP).await;
            let now = Instant::now();
            let endpoints: Vec<_> = {
                let mut all = self.endpoints.borrow_mut();
                all.retain(|_, e| e.strong_count() > 0);
                all.values().filter_map(Weak::upgrade).collect()
            };
            for endpoint in endpoints {
                endpoint.sweep(now);
            }
            self.freed.give_back(now);
            windows::settle();
        }
    }

    /// Lets go of every connection that carries nothing.
    pub(crate) fn close_idle(&self) {
        let endpoints: Vec<_> = self.endpoints.borrow().values().filter_map(Weak::upgrade).collect();
        for endpoint in endpoints {
            endpoint.close();
        }
    }
}

fn drop_oldest<K: Clone + Eq + std::hash::Hash, V>(map: &mut HashMap<K, (V, Instant)>) {
    let oldest = map.iter().min_by_key(|(_, (_, used))| *used).map(|(k, _)| k.clone());
    if let Some(key) = oldest {
        map.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker() -> Rc<Worker> {
        let config = Arc::new(Config::for_pod("a/b".into(), 1));
        Worker::new(config, Store::new(), State::fixed(), Metrics::new(), Drain::new())
    }

    #[test]
    fn endpoints_addressed_directly_are_bounded_and_the_longest_unused_goes() {
        let worker = worker();
        let key = |n: usize| EndpointKey { address: ([10, 0, (n >> 8) as u8, n as u8], 80).into(), identity: None };
        for n in 0..MAX_DIRECT {
            worker.direct(key(n));
        }
        worker.direct(key(0));
        worker.direct(key(MAX_DIRECT));
        assert_eq!(worker.direct.borrow().len(), MAX_DIRECT);
        assert!(worker.direct.borrow().contains_key(&key(0)), "it was used a moment ago");
        assert!(!worker.direct.borrow().contains_key(&key(1)));
    }

    #[test]
    fn balancers_are_bounded_and_the_longest_unused_goes() {
        let worker = worker();
        let key = |n: usize| ServiceKey { namespace: "shop".into(), name: format!("s{n}") };
        let (_told, source) = watch::channel(None);
        for n in 0..MAX_BALANCERS {
            worker.balancer(key(n), 80, source.clone());
        }
        worker.balancer(key(0), 80, source.clone());
        worker.balancer(key(MAX_BALANCERS), 80, source);
        assert_eq!(worker.balancers.borrow().len(), MAX_BALANCERS);
        assert!(worker.balancers.borrow().contains_key(&(key(0), 80)), "it was used a moment ago");
        assert!(!worker.balancers.borrow().contains_key(&(key(1), 80)));
    }
}
