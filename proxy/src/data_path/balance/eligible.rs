//! Which endpoints of a Service's port this pod may use: what kube-proxy would have told apart, had it been asked.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::{
    contract::resource::{Endpoint, Selection},
    data_path::balance::locality::Locality,
};

/// Those that may be given something new, and of them those that hints leave to callers from here. Where all are about to end, those that
/// still serve: better than nobody (as kube-proxy, with `ProxyTerminatingEndpoints`).
pub(crate) fn eligible<'a>(endpoints: &'a [Endpoint], selection: Selection, here: &Locality) -> Vec<&'a Endpoint> {
    // A pod of an earlier version does not know its node: then every endpoint is as good as another.
    let near = |e: &&Endpoint| !selection.local || here.node.is_empty() || e.node == here.node;
    let mut found: Vec<&Endpoint> = endpoints.iter().filter(near).filter(|e| !e.draining).collect();
    if found.is_empty() {
        found = endpoints.iter().filter(near).collect();
    } else if !selection.local {
        prefer(&mut found, &here.node, zone(endpoints, here));
    }
    if selection.affine {
        // The client is always this pod, so there is one endpoint for it, and all workers agree on it without a word.
        found = found.into_iter().max_by_key(|e| weight(here, e)).into_iter().collect();
    }
    found
}

/// Places whose callers are to use an endpoint.
type Hints = fn(&Endpoint) -> &[String];

/// Leaves those that are meant for this node, or else for this zone. Hints count only where every endpoint has some, so that nobody is
/// left out by them, and where one of them is for here (as kube-proxy, `topologyModeFromHints`).
fn prefer(ready: &mut Vec<&Endpoint>, node: &str, zone: &str) {
    let by_node: (Hints, _) = (|e| &e.for_nodes, node);
    let by_zone: (Hints, _) = (|e| &e.for_zones, zone);
    for (hinted, here) in [by_node, by_zone] {
        let is_for_here = |e: &&Endpoint| hinted(e).iter().any(|place| !here.is_empty() && place == here);
        if ready.iter().all(|e| !hinted(e).is_empty()) && ready.iter().any(is_for_here) {
            ready.retain(is_for_here);
            return;
        }
    }
}

/// The zone of this pod's node: that of an endpoint beside it, as the control plane knows the node now, or else what the pod was told when
/// it was placed. Possibly empty: then no endpoint is nearer than another.
fn zone<'a>(endpoints: &'a [Endpoint], here: &'a Locality) -> &'a str {
    let beside = |e: &&Endpoint| !here.node.is_empty() && e.node == here.node && !e.zone.is_empty();
    endpoints.iter().find(beside).map_or(&here.zone, |e| &e.zone)
}

/// Rendezvous hashing (Thaler and Ravishankar 1998): an endpoint that comes takes its share of the clients, and one that goes leaves all
/// others theirs. All ports of a pod weigh the same.
fn weight(here: &Locality, endpoint: &Endpoint) -> u64 {
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
            for_zones: Vec::new(),
            for_nodes: Vec::new(),
            draining,
        }
    }

    fn here(node: &str) -> Locality {
        Locality { node: node.into(), zone: String::new(), address: Some(IpAddr::from([10, 0, 1, 1])) }
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
            let here = Locality { address: Some(IpAddr::from([10, 0, 1, client])), ..Locality::default() };
            let one = last(&eligible(&all, affine, &here))[0];
            chosen.insert(one);
            let mut fewer = all.clone();
            fewer.retain(|e| e.ip == IpAddr::from([10, 0, 0, one]) || e.ip.to_string().ends_with('1'));
            assert_eq!(last(&eligible(&fewer, affine, &here)), [one], "others that go change nothing");
        }
        assert!(chosen.len() > 10, "clients spread: {chosen:?}");
    }

    /// With hints, each a list of names.
    fn hinted(n: u8, for_zones: &str, for_nodes: &str) -> Endpoint {
        let names = |text: &str| text.split_whitespace().map(ToOwned::to_owned).collect();
        Endpoint { for_zones: names(for_zones), for_nodes: names(for_nodes), ..endpoint(n, "", false) }
    }

    fn at(node: &str, zone: &str) -> Locality {
        Locality { zone: zone.into(), ..here(node) }
    }

    fn of(all: &[Endpoint], here: &Locality) -> Vec<u8> {
        last(&eligible(all, Selection::default(), here))
    }

    #[test]
    fn those_for_this_zone_are_used_where_all_are_for_some() {
        let mut all = vec![hinted(1, "x", ""), hinted(2, "y", ""), hinted(3, "z x", "")];
        assert_eq!(of(&all, &at("a", "x")), [1, 3]);
        assert_eq!(of(&all, &at("a", "y")), [2]);
        assert_eq!(of(&all, &at("a", "w")), [1, 2, 3], "nobody is for this zone");
        assert_eq!(of(&all, &at("a", "")), [1, 2, 3], "the zone is not known");
        all.push(hinted(4, "", ""));
        assert_eq!(of(&all, &at("a", "x")), [1, 2, 3, 4], "one is for nobody in particular");
    }

    #[test]
    fn those_for_this_node_come_before_those_for_its_zone() {
        let mut all = vec![hinted(1, "x", "a"), hinted(2, "x", "b c"), hinted(3, "y", "d")];
        assert_eq!(of(&all, &at("a", "x")), [1]);
        assert_eq!(of(&all, &at("c", "y")), [2], "whatever zone that is");
        assert_eq!(of(&all, &at("e", "x")), [1, 2], "nobody is for this node");
        assert_eq!(of(&all, &at("", "x")), [1, 2], "the node is not known");
        assert_eq!(of(&all, &at("e", "w")), [1, 2, 3]);
        all.push(hinted(4, "x", ""));
        assert_eq!(of(&all, &at("a", "x")), [1, 2, 4], "one is for no node, but all are for zones");
        all.push(hinted(5, "", "a"));
        assert_eq!(of(&all, &at("a", "x")), [1, 2, 3, 4, 5], "neither holds for all");
    }

    #[test]
    fn hints_of_those_about_to_end_do_not_count() {
        let drain = |mut endpoint: Endpoint| {
            endpoint.draining = true;
            endpoint
        };
        let mut all = vec![hinted(1, "x", ""), hinted(2, "y", ""), drain(hinted(3, "", "")), drain(hinted(4, "w", ""))];
        assert_eq!(of(&all, &at("a", "x")), [1]);
        assert_eq!(of(&all, &at("a", "w")), [1, 2], "the only one for this zone is about to end");
        all.drain(..2);
        assert_eq!(of(&all, &at("a", "w")), [3, 4], "all are about to end, wherever they are");
    }

    #[test]
    fn a_service_for_its_own_node_heeds_no_hints() {
        let mut all = [hinted(1, "x", "a"), hinted(2, "y", "b"), hinted(3, "x", "a")];
        (all[0].node, all[1].node) = ("a".into(), "a".into());
        let local = Selection { local: true, affine: false };
        assert_eq!(last(&eligible(&all, local, &at("a", "x"))), [1, 2]);
    }

    #[test]
    fn affinity_is_to_one_of_the_zone() {
        let all: Vec<Endpoint> = (1..=20).map(|n| hinted(n, if n > 10 { "x" } else { "y" }, "")).collect();
        let affine = Selection { local: false, affine: true };
        for client in 0..50 {
            let here = Locality { address: Some(IpAddr::from([10, 0, 1, client])), ..at("a", "x") };
            let one = last(&eligible(&all, affine, &here));
            assert!(one.len() == 1 && one[0] > 10, "{one:?}");
        }
    }

    #[test]
    fn an_endpoint_of_this_node_tells_its_zone() {
        let mut all = [hinted(1, "x", ""), hinted(2, "y", ""), endpoint(3, "a", true)];
        assert_eq!(of(&all, &at("a", "")), [1, 2]);
        all[2].zone = "y".into();
        assert_eq!(of(&all, &at("a", "")), [2], "although it is about to end itself");
        assert_eq!(of(&all, &at("a", "x")), [2], "the control plane knows better than a label of the past");
        assert_eq!(of(&all, &at("b", "x")), [1]);
        all[2].node = String::new();
        assert_eq!(of(&all, &at("", "")), [1, 2]);
    }
}
