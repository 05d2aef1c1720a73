//! The balancers of one worker, by Service and port.

use std::{cell::RefCell, collections::HashMap, rc::Rc, sync::Arc, time::Instant};

use tokio::sync::watch;

use crate::{
    contract::resource::{Service, ServiceKey},
    data_path::{
        balance::balancer::{Balancer, Parts},
        connect::registry::evict_oldest,
    },
};

/// Balancers kept at most; each holds its Service's endpoints.
const MAX_BALANCERS: usize = 1024;

/// Balancers by Service and port, with the time of their last use.
type ByPort = HashMap<(ServiceKey, u16), (Rc<Balancer>, Instant)>;

/// See the module.
pub(crate) struct Balancers {
    parts: Parts,
    all: RefCell<ByPort>,
}

impl Balancers {
    pub(crate) fn new(parts: Parts) -> Self {
        Self { parts, all: RefCell::default() }
    }

    /// The balancer of a Service's port.
    pub(crate) fn get(
        &self,
        service: ServiceKey,
        port: u16,
        source: watch::Receiver<Option<Arc<Service>>>,
    ) -> Rc<Balancer> {
        let key = (service, port);
        let found = self.all.borrow_mut().get_mut(&key).map(|(balancer, used)| {
            *used = Instant::now();
            Rc::clone(balancer)
        });
        if let Some(balancer) = found {
            if !balancer.is_live() {
                balancer.follow(source);
            }
            return balancer;
        }
        let balancer = Balancer::new(key.0.clone(), port, source, self.parts.clone());
        let mut balancers = self.all.borrow_mut();
        if balancers.len() >= MAX_BALANCERS {
            evict_oldest(&mut balancers);
        }
        balancers.insert(key, (Rc::clone(&balancer), Instant::now()));
        balancer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        data_path::{
            balance::locality::Locality,
            connect::{dial::Dialer, registry::Endpoints},
            drain::Drain,
        },
        identity::store::Store,
        telemetry::metrics::Metrics,
    };

    fn balancers() -> Balancers {
        let endpoints = Rc::new(Endpoints::new(Dialer::new(Store::new(), Drain::new()), 1, 1));
        Balancers::new(Parts { endpoints, metrics: Metrics::new(), locality: Rc::new(Locality::default()) })
    }

    #[test]
    fn balancers_are_bounded_and_the_longest_unused_goes() {
        let found = balancers();
        let key = |n: usize| ServiceKey { namespace: "shop".into(), name: format!("s{n}") };
        let (_told, source) = watch::channel(None);
        for n in 0..MAX_BALANCERS {
            found.get(key(n), 80, source.clone());
        }
        found.get(key(0), 80, source.clone());
        found.get(key(MAX_BALANCERS), 80, source);
        assert_eq!(found.all.borrow().len(), MAX_BALANCERS);
        assert!(found.all.borrow().contains_key(&(key(0), 80)), "it was used a moment ago");
        assert!(!found.all.borrow().contains_key(&(key(1), 80)));
    }
}
