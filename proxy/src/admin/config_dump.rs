//! `/config`: what holds now, as JSON for people to read. No secret is in it.

use std::sync::atomic::Ordering;

use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    contract::{
        bootstrap::VERSION,
        resource::{InboundPolicy, Service, Workload},
    },
    control::state::{State, Target},
    identity::store::{Current, Store},
    telemetry::health::Health,
};

/// Leaf, policy and destinations of the slot `slot`.
pub(super) fn config_dump(slot: &str, store: &Store, state: &State, health: &Health) -> Value {
    let current = store.current();
    let destinations: serde_json::Map<_, _> =
        state.snapshot().into_iter().map(|(ip, target)| (ip.to_string(), target_json(&target))).collect();
    json!({
        "version": VERSION,
        "slot": slot,
        "role": "serving",
        "identity": current.as_deref().map(identity_json),
        "identityError": health.identity.error(),
        "control": {
            "connected": state.is_connected(),
            "error": health.control.stream.error(),
            "rejected": health.control.rejected.load(Ordering::Relaxed),
            "resyncs": health.control.resyncs.load(Ordering::Relaxed),
        },
        "inboundPolicy": state.inbound_known().then(|| policy_json(&state.inbound_policy())),
        "destinations": destinations,
    })
}

fn identity_json(current: &Current) -> Value {
    let roots: Vec<String> = current.bundle.roots.iter().map(|r| HEXLOWER.encode(&Sha256::digest(r))).collect();
    json!({
        "id": current.id.as_str(),
        "notAfter": current.not_after,
        "issuerSha256": HEXLOWER.encode(&current.issuer_sha256),
        "generation": current.generation,
        "bundle": {"sequence": current.bundle.sequence, "rootsSha256": roots},
    })
}

fn policy_json(policy: &InboundPolicy) -> Value {
    let ports: serde_json::Map<_, _> =
        policy.ports.iter().map(|(port, protocol)| (port.to_string(), json!(protocol.as_str_name()))).collect();
    json!({"mtls": if policy.strict { "STRICT" } else { "PERMISSIVE" }, "ports": ports})
}

fn target_json(target: &Target) -> Value {
    match target {
        Target::Outside => json!("outside"),
        Target::Workload(w) => workload_json(w),
        Target::Service(key, watch) => {
            let service = watch.borrow().clone();
            json!({"service": key.to_string(), "ports": service.as_deref().map(service_json)})
        }
    }
}

fn workload_json(w: &Workload) -> Value {
    json!({
        "workload": format!("{}/{}", w.namespace, w.pod),
        "identity": w.identity.as_ref().map(|i| i.as_str()),
    })
}

fn service_json(service: &Service) -> Value {
    let ports = service.ports.iter().map(|p| {
        let endpoints: Vec<Value> = p
            .endpoints
            .iter()
            .map(|e| {
                json!({
                    "address": std::net::SocketAddr::new(e.ip, e.port).to_string(),
                    "identity": e.identity.as_ref().map(|i| i.as_str()),
                    "pod": e.pod, "zone": e.zone, "forZones": e.for_zones, "forNodes": e.for_nodes,
                    "draining": e.draining,
                })
            })
            .collect();
        (p.port.to_string(), json!({"name": p.name, "protocol": p.protocol.as_str_name(), "endpoints": endpoints}))
    });
    Value::Object(ports.collect())
}
