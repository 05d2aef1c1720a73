//! Which endpoints of a Service's port this pod may use: what kube-proxy would have told apart, had it been asked.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::{
    control::apply::{Endpoint, Selection},
    dataplane::Here,
};

/// Those that may be given something new. Where all are about to end, those that still serve: better than nobody (as kube-proxy, with
/// `ProxyTerminatingEndpoints`).
pub(super) fn eligible<'a>(endpoints: &'a [Endpoint], selection: Selection, here: &Here) -> Vec<&'a Endpoint> {
    // A pod of an earlier version does not know its node: then every endpoint is as good as another.
    let near = |e: &&Endpoint| !selection.local || here.node.is_empty() || e.node == here.node;
    let mut found: Vec<&Endpoint> = endpoints.iter().filter(near).filter(|e| !e.draining).collect();
    if found.is_empty() {
        found = endpoints.iter().filter(near).collect();
    }
    if selection.affine {
        // The client is always this pod, so there is one endpoint for it, and all workers agree on it without a word.
        found = found.into_iter().max_by_key(|e| weight(here, e)).into_iter().collect();
    }
    found
}

/// Rendezvous hashing (Thaler and Ravishankar 1998): an endpoint that comes takes its share of the clients, and one that goes leaves all
/// others theirs. All ports of a pod weigh the same.
fn weight(here: &Here, endpoint: &Endpoint) -> u64 {
    let mut hasher = DefaultHasher::new();
    (here.address, endpoint.ip).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn endpoint(n: u8, node: &str, draining: bool) -> Endpoint {
        Endpoint {
            ip: IpAddr::from([10, 0, 0, n]),
            port: 80,
            identity: None,
            pod: String::new(),
            zone: String::new(),
            node: node.into(),
            draining,
        }
    }

    fn here(node: &str) -> Here {
        Here { node: node.into(), address: Some(IpAddr::from([10, 0, 1, 1])) }
    }

    fn last(found: &[&Endpoint]) -> Vec<u8> {
        found
            .iter()
            .map(|e| match e.ip {
                IpAddr::V4(ip) => ip.octets()[3],
                IpAddr::V6(_) => 0,
            })
            .collect()
    }

    #[test]
    fn draining_ones_are_the_last_resort() {
        let any = Selection::default();
        let mut all = vec![endpoint(1, "a", true), endpoint(2, "a", false), endpoint(3, "b", true)];
        assert_eq!(last(&eligible(&all, any, &here("a"))), [2]);
        all.remove(1);
        assert_eq!(last(&eligible(&all, any, &here("a"))), [1, 3]);
    }

    #[test]
    fn local_ones_are_those_of_this_node_and_no_others() {
        let local = Selection { local: true, affine: false };
        let all = [endpoint(1, "a", false), endpoint(2, "b", false), endpoint(3, "b", true), endpoint(4, "c", true)];
        assert_eq!(last(&eligible(&all, local, &here("b"))), [2]);
        assert_eq!(last(&eligible(&all, local, &here("c"))), [4]);
        assert!(eligible(&all, local, &here("d")).is_empty());
        assert_eq!(last(&eligible(&all, local, &here(""))), [1, 2]);
    }

    #[test]
    fn a_client_stays_with_its_endpoint_while_that_lives() {
        let affine = Selection { local: false, affine: true };
        let all: Vec<Endpoint> = (1..=20).map(|n| endpoint(n, "", false)).collect();
        let mut chosen = std::collections::BTreeSet::new();
        for client in 0..100 {
            let here = Here { node: String::new(), address: Some(IpAddr::from([10, 0, 1, client])) };
            let one = last(&eligible(&all, affine, &here))[0];
            chosen.insert(one);
            let mut fewer = all.clone();
            fewer.retain(|e| e.ip == IpAddr::from([10, 0, 0, one]) || e.ip.to_string().ends_with('1'));
            assert_eq!(last(&eligible(&fewer, affine, &here)), [one], "others that go change nothing");
        }
        assert!(chosen.len() > 10, "clients spread: {chosen:?}");
    }
}
