//! Caches over watches that break.

use std::time::Duration;

use bowline_operator::{
    cluster::cache::{Cache, trim_meta},
    runtime::readiness::Readiness,
};
use http::{Request, Response};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, client::Body, runtime::watcher};
use serde_json::{Value, json};
use tower_test::mock;

type Handle = mock::Handle<Request<Body>, Response<Body>>;

fn namespace(name: &str, version: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "resourceVersion": version } })
}

/// Expects one request whose query contains `query`, and answers it.
async fn answer(handle: &mut Handle, query: &str, code: u16, body: String) {
    let (request, send) = handle.next_request().await.expect("a request");
    let uri = request.uri().to_string();
    assert!(uri.contains(query), "{uri} instead of {query}");
    send.send_response(Response::builder().status(code).body(Body::from(body.into_bytes())).unwrap());
}

fn list(names: &[&str], version: &str) -> String {
    let items: Vec<Value> = names.iter().map(|n| namespace(n, version)).collect();
    json!({ "apiVersion": "v1", "kind": "NamespaceList", "metadata": { "resourceVersion": version }, "items": items })
        .to_string()
}

#[tokio::test(start_paused = true)]
async fn an_expired_watch_is_listed_anew_and_keeps_what_it_knew_meanwhile() {
    let (service, mut handle) = mock::pair::<Request<Body>, Response<Body>>();
    let client = Client::new(service, "default");
    let readiness = Readiness::default();
    let gate = readiness.check("namespaces");
    let (cache, fill) = Cache::<Namespace>::new(Api::all(client), watcher::Config::default(), trim_meta, gate);
    let filling = tokio::spawn(fill);
    assert_eq!(readiness.missing(), ["namespaces"]);

    answer(
        &mut handle,
        "limit=",
        500,
        r#"{"kind":"Status","code":500,"status":"Failure","message":"","reason":""}"#.into(),
    )
    .await;
    answer(&mut handle, "limit=", 200, list(&["a"], "1")).await;
    cache.synced().await;
    assert!(readiness.missing().is_empty());

    let added = json!({ "type": "ADDED", "object": namespace("b", "2") });
    let gone = json!({ "type": "ERROR", "object": {
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old"
    } });
    answer(&mut handle, "watch=true", 200, format!("{added}\n{gone}\n")).await;
    // While it is listed anew, everything known is still there.
    let (request, send) = handle.next_request().await.expect("a list");
    assert!(!request.uri().to_string().contains("watch=true"), "{}", request.uri());
    assert_eq!(cache.all().len(), 2);
    let mut changes = cache.subscribe();
    changes.borrow_and_update();
    send.send_response(Response::new(Body::from(list(&["b", "c"], "9").into_bytes())));
    tokio::time::timeout(Duration::from_secs(5), changes.changed()).await.expect("in time").unwrap();
    let mut names: Vec<String> = cache.all().iter().map(|n| n.metadata.name.clone().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["b", "c"]);
    filling.abort();
    let _: Result<_, _> = filling.await;
}
