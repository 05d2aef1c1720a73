//! The endpoints of one worker: those that are used anywhere, found by address and identity, so that whoever goes to the same endpoint
//! shares its connections and its load.

use std::{
    cell::RefCell,
    collections::HashMap,
    hash::Hash,
    rc::{Rc, Weak},
    time::Instant,
};

use crate::data_path::connect::{
    dial::Dialer,
    endpoint::{Endpoint, EndpointKey},
};

/// Endpoints addressed directly that are kept for their connections.
const MAX_DIRECT: usize = 1024;

/// See the module.
pub(crate) struct Endpoints {
    dialer: Rc<Dialer>,
    mesh_port: u16,
    max_connections: usize,
    all: RefCell<HashMap<EndpointKey, Weak<Endpoint>>>,
    /// Keeps endpoints that belong to no balancer, with the time of their last use.
    direct: RefCell<HashMap<EndpointKey, (Rc<Endpoint>, Instant)>>,
}

impl Endpoints {
    /// None yet; other proxies listen on `mesh_port`, and an application gets `max_connections` of HTTP/1 at most.
    pub(crate) fn new(dialer: Dialer, mesh_port: u16, max_connections: usize) -> Self {
        let (all, direct) = (RefCell::default(), RefCell::default());
        Self { dialer: Rc::new(dialer), mesh_port, max_connections, all, direct }
    }

    /// The endpoint with its connections, whoever used it before.
    pub(crate) fn get(&self, key: EndpointKey) -> Rc<Endpoint> {
        let mut endpoints = self.all.borrow_mut();
        if let Some(endpoint) = endpoints.get(&key).and_then(Weak::upgrade) {
            return endpoint;
        }
        let endpoint =
            Rc::new(Endpoint::new(key.clone(), Rc::clone(&self.dialer), self.mesh_port, self.max_connections));
        endpoints.insert(key, Rc::downgrade(&endpoint));
        endpoint
    }

    /// An endpoint that is addressed directly; it is kept for a while after its last use.
    pub(crate) fn get_direct(&self, key: EndpointKey) -> Rc<Endpoint> {
        let endpoint = self.get(key.clone());
        let mut direct = self.direct.borrow_mut();
        if direct.len() >= MAX_DIRECT && !direct.contains_key(&key) {
            evict_oldest(&mut direct);
        }
        direct.insert(key, (Rc::clone(&endpoint), Instant::now()));
        endpoint
    }

    /// Closes connections that have been idle for long, and forgets endpoints that nobody uses.
    pub(crate) fn sweep(&self, now: Instant) {
        self.all.borrow_mut().retain(|_, e| e.strong_count() > 0);
        for endpoint in self.used() {
            endpoint.sweep(now);
        }
    }

    /// Closes every connection that carries nothing.
    pub(crate) fn close_idle(&self) {
        for endpoint in self.used() {
            endpoint.close();
        }
    }

    fn used(&self) -> Vec<Rc<Endpoint>> {
        self.all.borrow().values().filter_map(Weak::upgrade).collect()
    }
}

/// Makes room in a map whose values have the time of their last use.
pub(crate) fn evict_oldest<K: Clone + Eq + Hash, V>(map: &mut HashMap<K, (V, Instant)>) {
    let oldest = map.iter().min_by_key(|(_, (_, used))| *used).map(|(k, _)| k.clone());
    if let Some(key) = oldest {
        map.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{data_path::drain::Drain, identity::store::Store};

    fn endpoints() -> Endpoints {
        Endpoints::new(Dialer::new(Store::new(), Drain::new()), 1, 1)
    }

    #[test]
    fn endpoints_addressed_directly_are_bounded_and_the_longest_unused_goes() {
        let endpoints = endpoints();
        let key = |n: usize| EndpointKey { address: ([10, 0, (n >> 8) as u8, n as u8], 80).into(), identity: None };
        for n in 0..MAX_DIRECT {
            endpoints.get_direct(key(n));
        }
        endpoints.get_direct(key(0));
        endpoints.get_direct(key(MAX_DIRECT));
        assert_eq!(endpoints.direct.borrow().len(), MAX_DIRECT);
        assert!(endpoints.direct.borrow().contains_key(&key(0)), "it was used a moment ago");
        assert!(!endpoints.direct.borrow().contains_key(&key(1)));
    }
}
