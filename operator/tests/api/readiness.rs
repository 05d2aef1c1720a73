//! A Mesh is not ready before the API server asks about its pods.

use std::sync::Arc;

use bowline_operator::{
    reconcile::webhook::controller::Controller,
    runtime::shutdown::Shutdown,
    serving::certificate::{ServingCertificate, state::ServingState},
    telemetry::Metrics,
};
use http::Method;
use k8s_openapi::api::{admissionregistration::v1::MutatingWebhookConfiguration, core::v1::Secret};
use serde_json::json;
use tokio::{net::TcpListener, sync::watch};

use crate::{
    server::Fault,
    world::{MESH, World, serve_webhook},
};

const CONFIGURATION: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/bowline-inject";
const SECRET: &str = "/api/v1/namespaces/bowline-system/secrets/bowline-webhook";

/// One look of the webhook's reconciler at what is there, and one of the Mesh's.
async fn look(world: &World, controller: &mut Controller) {
    let secret: Option<Secret> = world.server.get(SECRET).map(|s| serde_json::from_value(s).unwrap());
    let seen: Option<MutatingWebhookConfiguration> =
        world.server.get(CONFIGURATION).map(|c| serde_json::from_value(c).unwrap());
    controller.once(secret.as_ref(), seen.as_ref()).await;
    world.round().await.unwrap();
}

fn ready(world: &World) -> (String, String) {
    let (status, reason, _) = world.condition("default", "Ready");
    (status, reason)
}

#[tokio::test]
async fn a_mesh_is_ready_when_the_api_server_asks_about_its_pods() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let mut world = World::new();
    world.round().await.unwrap();
    world.webhook = Some(watch::Sender::default());
    world.webhook_port = listener.local_addr().unwrap().port();
    let (yes, no) = (("True".to_owned(), "Reconciled".to_owned()), ("False".to_owned(), "WebhookNotReady".to_owned()));
    world.round().await.unwrap();
    assert_eq!(ready(&world), no, "nobody has looked");
    let (_run, shutdown) = Shutdown::new();
    let serving: Arc<ServingCertificate> = Arc::default();
    let status = world.webhook.clone().unwrap();
    let reconciler = world.webhook_reconciler(world.webhook_port, &serving);
    let mut controller = Controller::new(reconciler, Metrics::default(), status);
    look(&world, &mut controller).await;
    assert_eq!(ready(&world), no, "the server has no certificate");
    assert_eq!(world.condition("default", "Degraded").0, "False", "a start is no failure");

    let secret: Secret = serde_json::from_value(world.server.get(SECRET).unwrap()).unwrap();
    let key = ServingState::read(Some(&secret)).unwrap().certified_key().unwrap();
    serving.store(Some(Arc::new(key)));
    let served = tokio::spawn(serve_webhook(&world, &serving, shutdown, listener));
    for code in [422, 403] {
        world.server.fail(Method::PATCH, "/mutatingwebhookconfigurations/", Fault::Status(code), 1);
        look(&world, &mut controller).await;
        assert_eq!(ready(&world), no, "{code}");
        let (status, reason, message) = world.condition("default", "Degraded");
        assert_eq!((status.as_str(), reason.as_str()), ("True", "WebhookNotReady"), "{code}");
        assert!(message.contains("MutatingWebhookConfiguration bowline-inject"), "{message}");
        assert_eq!(code == 403, message.contains("roles"), "{message}");
        assert_eq!(world.condition("default", "Reconciling").0, "True");
    }
    assert!(world.events().contains("WebhookNotReady"), "{}", world.events());
    look(&world, &mut controller).await;
    assert_eq!(ready(&world), yes);
    assert_eq!(world.condition("default", "Degraded").0, "False");

    // Somebody lets pods through, and the API server does not let us undo it.
    world.change(CONFIGURATION, |c| c["webhooks"][0]["failurePolicy"] = "Ignore".into());
    world.server.fail(Method::PATCH, "/mutatingwebhookconfigurations/", Fault::Status(500), 1);
    look(&world, &mut controller).await;
    assert_eq!(ready(&world), no);
    look(&world, &mut controller).await;
    assert_eq!(ready(&world), yes);

    // Namespaces that nobody asks about yet.
    world.change(MESH, |m| {
        m["spec"] = json!({ "injection": { "namespaceSelector": { "matchLabels": { "team": "red" } } } })
    });
    world.round().await.unwrap();
    assert_eq!(ready(&world), no);
    // A new leader that has not looked yet takes nobody's word back.
    world.change(MESH, |m| m["spec"] = json!({}));
    world.round().await.unwrap();
    assert_eq!(ready(&world), yes);
    drop(controller);
    world.round().await.unwrap();
    assert_eq!(ready(&world), yes);
    served.abort();
}
