//! What pods that are addressed directly are counted as.

use bowline_proxy::contract::{
    resource::Address,
    validate::{self, ValidResource},
};

use super::*;

/// As a proxy reads it.
fn owner(index: &Index, ip: &str) -> String {
    let compiled = compiled(index, "default", &Subject::Address(ip.parse().unwrap()));
    let checked = validate::resource(proto::ResourceType::Address.into(), &compiled.body).unwrap();
    let ValidResource::Address(address) = checked else { panic!("another type") };
    let Address::Workload(workload) = address.as_ref() else { panic!("no pod") };
    workload.owner.clone()
}

#[test]
fn pods_of_one_workload_have_one_owner() {
    let mut index = shop();
    let pod = |name: &str, ip: &str, owners: Value| {
        json!({ "kind": "Pod", "status": { "phase": "Running", "podIP": ip }, "spec": { "containers": [] },
            "metadata": { "namespace": "shop", "name": name, "labels": { "pod-template-hash": "7d4b" }, "ownerReferences": owners } })
    };
    let of = |kind: &str, name: &str| json!([{ "kind": kind, "name": name, "controller": true, "apiVersion": "v1", "uid": "u" }]);
    set(&mut index, &pod("api-7d4b-x", "10.9.0.1", of("ReplicaSet", "api-7d4b")));
    set(&mut index, &pod("api-7d4b-y", "10.9.0.2", of("ReplicaSet", "api-7d4b")));
    set(&mut index, &pod("report-29384756-z", "10.9.0.3", of("Job", "report-29384756")));
    set(&mut index, &pod("alone", "10.9.0.4", json!([])));
    let owners = ["10.9.0.1", "10.9.0.2", "10.9.0.3", "10.9.0.4"].map(|ip| owner(&index, ip));
    assert_eq!(owners, ["api", "api", "report", "alone"]);
    // Nothing is said, and kept, twice.
    assert_eq!(index.pod(&NamespacedName::new("shop", "alone")).unwrap().owner, "");
}
