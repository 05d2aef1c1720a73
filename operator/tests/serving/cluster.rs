//! What there is in the cluster: one Mesh with its CA, a few namespaces and pods, and an API server that is a function.

use std::time::Duration;

use bowline_crds::{Mesh, MeshSpec};
use bowline_operator::{
    ca::{
        Authorities,
        issuance::issue,
        rotation::{
            policy::{AuthoritySource, Policy},
            write::Write,
        },
    },
    cluster::{cache::Cache, lookup::MembershipLookup, membership::Registry, mesh::rotation::Requests},
};
use http::{Request, Response};
use http_body_util::BodyExt;
use k8s_openapi::{
    ByteString,
    api::core::v1::{Namespace, Secret},
};
use kube::{Client, client::Body};
use serde_json::{Value, json};

pub(crate) const MESH: &str = "default";
pub(crate) const ID: &str = "spiffe://cluster.local/ns/shop/sa/web";
/// The operator's own namespace.
pub(crate) const SYSTEM: &str = "bowline-system";

pub(crate) fn client() -> Client {
    Client::new(tower::service_fn(api), "default")
}

pub(crate) fn registry() -> Registry {
    Registry::new(Cache::of([Mesh::new(MESH, MeshSpec::default())]), SYSTEM)
}

pub(crate) fn memberships() -> MembershipLookup {
    let namespace = |name: &str, labels: Value| -> Namespace {
        serde_json::from_value(json!({ "metadata": { "name": name, "labels": labels } })).unwrap()
    };
    let namespaces =
        Cache::of([namespace("shop", json!({ "bowline.dev/mesh": MESH })), namespace("outside", json!({}))]);
    MembershipLookup::new(client(), registry(), namespaces)
}

pub(crate) fn authorities() -> Authorities {
    let policy = Policy {
        mesh: MESH.into(),
        trust_domain: "cluster.local".into(),
        root_lifetime: Duration::from_secs(86_400 * 365),
        issuer_lifetime: Duration::from_secs(86_400 * 30),
        leaf_lifetime: Duration::from_secs(86_400),
        after_percent: 50,
        requests: Requests::default(),
        distrust: Vec::new(),
        source: AuthoritySource::BuiltIn,
        published_sequence: 0,
    };
    let state = issue::apply(None, &[Write::First], &policy, None, std::time::SystemTime::now()).unwrap();
    let data = [(format!("{MESH}.json"), ByteString(state.to_json().to_vec()))].into();
    let authorities = Authorities::new();
    authorities.observe(Some(&Secret { data: Some(data), ..Secret::default() }));
    authorities
}

/// The API server: reviews tokens by their text, and has no other pods and namespaces than the caches.
async fn api(request: Request<Body>) -> Result<Response<Body>, std::io::Error> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.map_err(std::io::Error::other)?.to_bytes();
    let (code, answer) = if path.ends_with("/tokenreviews") {
        let review: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(review["spec"]["audiences"], json!(["bowline.dev/identity"]));
        review_of(review["spec"]["token"].as_str().unwrap())
    } else if path == "/api/v1/namespaces/young" {
        let labels = json!({ "bowline.dev/mesh": MESH });
        (200, json!({ "kind": "Namespace", "apiVersion": "v1", "metadata": { "name": "young", "labels": labels } }))
    } else if path == "/api/v1/namespaces/outside" {
        (200, json!({ "kind": "Namespace", "apiVersion": "v1", "metadata": { "name": "outside" } }))
    } else if path == "/api/v1/namespaces/early" {
        let labels = json!({ "team": "early" });
        (200, json!({ "kind": "Namespace", "apiVersion": "v1", "metadata": { "name": "early", "labels": labels } }))
    } else if path == "/apis/bowline.dev/v1alpha1/meshes" {
        // One that no watch has told of yet.
        let selector = json!({ "matchLabels": { "team": "early" } });
        let mesh = |name: &str, spec: Value| {
            json!({ "apiVersion": "bowline.dev/v1alpha1", "kind": "Mesh", "metadata": { "name": name },
                    "spec": spec })
        };
        let young = mesh("young", json!({ "injection": { "namespaceSelector": selector } }));
        let items = [mesh(MESH, json!({})), young];
        (200, json!({ "apiVersion": "bowline.dev/v1alpha1", "kind": "MeshList", "metadata": {}, "items": items }))
    } else {
        (
            404,
            json!({ "kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": "not found" }),
        )
    };
    let body = Body::from(serde_json::to_vec(&answer).unwrap());
    Ok(Response::builder().status(code).header("content-type", "application/json").body(body).unwrap())
}

fn review_of(token: &str) -> (u16, Value) {
    let holder = |user: &str, pod: &str, uid: &str| {
        json!({ "authenticated": true, "audiences": ["bowline.dev/identity"], "user": {
            "username": user,
            "extra": { "authentication.kubernetes.io/pod-name": [pod], "authentication.kubernetes.io/pod-uid": [uid] }
        } })
    };
    const WEB: &str = "system:serviceaccount:shop:web";
    let status = match token {
        "good" => holder(WEB, "web-1", "uid-1"),
        "expired-secret" => json!({ "error": "[invalid bearer token, service account token has expired]" }),
        "audience-secret" => {
            let mut status = holder(WEB, "web-1", "uid-1");
            status["audiences"] = json!(["https://kubernetes.default.svc"]);
            status
        }
        "user-secret" => holder("jane", "web-1", "uid-1"),
        "podless-secret" => {
            json!({ "authenticated": true, "audiences": ["bowline.dev/identity"], "user": { "username": WEB } })
        }
        "outsider-secret" => holder("system:serviceaccount:outside:web", "web-1", "uid-1"),
        "replaced-secret" => holder(WEB, "web-1", "uid-0"),
        "ended-secret" => holder(WEB, "done", "uid-2"),
        "account-secret" => holder("system:serviceaccount:shop:admin", "web-1", "uid-1"),
        "bare-secret" => holder(WEB, "bare", "uid-3"),
        "down-secret" => {
            return (500, json!({ "kind": "Status", "status": "Failure", "code": 500, "message": "etcd is away" }));
        }
        _ => json!({ "error": "invalid bearer token" }),
    };
    (
        201,
        json!({ "kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {}, "spec": {}, "status": status }),
    )
}
