//! What EndpointSlices hint at, on its way to a proxy.

use bowline_proxy::contract::{
    resource::Endpoint,
    validate::{self, ValidResource},
};

use super::*;

fn slice(name: &str, endpoints: &Value) -> Value {
    json!({
        "kind": "EndpointSlice", "addressType": "IPv4", "ports": [{ "name": "", "port": 8080 }], "endpoints": endpoints,
        "metadata": { "namespace": "shop", "name": name, "labels": { "kubernetes.io/service-name": "near" } },
    })
}

fn near() -> Index {
    let mut index = shop();
    let service = json!({ "kind": "Service", "metadata": { "namespace": "shop", "name": "near" },
        "spec": { "clusterIP": "10.96.0.78", "ports": [{ "port": 80 }] } });
    set(&mut index, &service);
    index
}

/// As a proxy reads it.
fn first(index: &Index) -> Endpoint {
    let compiled = compiled(index, "default", &Subject::Service(NamespacedName::new("shop", "near")));
    let checked = validate::resource(proto::ResourceType::Service.into(), &compiled.body).unwrap();
    let ValidResource::Service(service) = checked else { panic!("another type") };
    service.ports[0].endpoints[0].clone()
}

#[test]
fn hints_are_told() {
    let mut index = near();
    let endpoint =
        |hints: Value| json!([{ "addresses": ["10.9.0.1"], "nodeName": "node-1", "zone": "x", "hints": hints }]);
    let told = |index: &Index| {
        let endpoint = first(index);
        (endpoint.for_zones.join(" "), endpoint.for_nodes.join(" "), endpoint.node, endpoint.zone)
    };
    let owned =
        |zones: &str, nodes: &str, node: &str| (zones.to_owned(), nodes.to_owned(), node.to_owned(), "x".to_owned());
    set(&mut index, &slice("near-a", &endpoint(json!(null))));
    assert_eq!(told(&index), owned("", "", ""));

    let zones = json!([{ "name": "y" }, { "name": "x" }]);
    let touched = set(&mut index, &slice("near-a", &endpoint(json!({ "forZones": zones }))));
    assert_eq!(touched, [Subject::Service(NamespacedName::new("shop", "near"))].into());
    // The node is told, too: a caller there learns its zone from it.
    assert_eq!(told(&index), owned("x y", "", "node-1"));
    let zones = json!([{ "name": "x" }, { "name": "y" }]);
    let touched = set(&mut index, &slice("near-a", &endpoint(json!({ "forZones": zones }))));
    assert_eq!(touched, Touched::new(), "the same in another order");

    set(&mut index, &slice("near-a", &endpoint(json!({ "forNodes": [{ "name": "node-1" }] }))));
    assert_eq!(told(&index), owned("", "node-1", ""));
}

#[test]
fn an_endpoint_that_moves_between_slices_keeps_its_hints() {
    let mut index = near();
    let ending =
        json!([{ "addresses": ["10.9.0.1"], "conditions": { "ready": false, "serving": true, "terminating": true } }]);
    let ready = json!([{ "addresses": ["10.9.0.1"], "hints": { "forZones": [{ "name": "x" }] } }]);
    for (one, other) in [(&ending, &ready), (&ready, &ending)] {
        set(&mut index, &slice("near-a", one));
        set(&mut index, &slice("near-b", other));
        let endpoint = first(&index);
        assert_eq!((endpoint.draining, endpoint.for_zones), (false, vec!["x".to_owned()]));
    }
}
