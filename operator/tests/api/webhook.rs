//! The webhook's certificate and configuration when their Secret is lost.

use std::{sync::Arc, time::SystemTime};

use bowline_operator::{
    reconcile::webhook::probe::probe,
    runtime::shutdown::Shutdown,
    serving::certificate::{ServingCertificate, state::ServingState},
};
use k8s_openapi::{
    ByteString,
    api::{admissionregistration::v1::MutatingWebhookConfiguration, core::v1::Secret},
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde_json::json;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::world::{ANSWERED, World, serve_webhook};

const SECRET: &str = "/api/v1/namespaces/bowline-system/secrets/bowline-webhook";
const CONFIGURATION: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/bowline-inject";

/// A replica that leads and serves.
struct Leader {
    world: World,
    serving: Arc<ServingCertificate>,
    port: u16,
    _serves: JoinHandle<()>,
    _ask: watch::Sender<bool>,
}

impl Leader {
    /// One with everything in place.
    async fn settled() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let world = World::settled().await;
        let (ask, shutdown) = Shutdown::new();
        let leader = Self::of(world, shutdown, ask).await;
        while leader.round().await {}
        assert_eq!(leader.trusted(), 1);
        leader
    }

    async fn of(world: World, shutdown: Shutdown, ask: watch::Sender<bool>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let (serving, port) = (Arc::default(), listener.local_addr().unwrap().port());
        let serves = tokio::spawn(serve_webhook(&world, &serving, shutdown, listener));
        Self { world, serving, port, _serves: serves, _ask: ask }
    }

    fn secret(&self) -> Option<Secret> {
        self.world.server.get(SECRET).map(|s| serde_json::from_value(s).unwrap())
    }

    fn configuration(&self) -> Option<MutatingWebhookConfiguration> {
        self.world.server.get(CONFIGURATION).map(|s| serde_json::from_value(s).unwrap())
    }

    fn state(&self) -> ServingState {
        ServingState::read(self.secret().as_ref()).expect("a state that can be used")
    }

    /// The same with nothing but the certificate that it serves.
    async fn without_memory(self) -> Self {
        let serves = self.serving.key();
        let (ask, shutdown) = Shutdown::new();
        let next = Self::of(self.world, shutdown, ask).await;
        next.serving.store(serves);
        next
    }

    /// How many CAs the API server trusts.
    fn trusted(&self) -> usize {
        let configuration = self.configuration().expect("a configuration");
        let ByteString(bundle) = configuration.webhooks.unwrap().remove(0).client_config.ca_bundle.unwrap();
        String::from_utf8(bundle).unwrap().matches("BEGIN").count()
    }

    /// One reconcile, and what the watch on the Secret does afterwards; whether something was written. At every moment the API server
    /// trusts what is served, or there is nothing to be trusted.
    async fn round(&self) -> bool {
        let (secret, configuration) = (self.secret(), self.configuration());
        let now = SystemTime::now();
        let reconciler = self.world.webhook_reconciler(self.port, &self.serving);
        reconciler.reconcile(secret.as_ref(), configuration.as_ref(), now).await.expect("reconciled");
        if let Some(state) = ServingState::read(self.secret().as_ref()) {
            self.serving.take(state).unwrap();
        }
        if let Some(configuration) = self.configuration() {
            let bundle = configuration.webhooks.unwrap().remove(0).client_config.ca_bundle.unwrap();
            let trusted: Vec<_> = CertificateDer::pem_slice_iter(&bundle.0).map(Result::unwrap).collect();
            let host = self.world.config().webhook_host();
            probe(self.port, &host, &trusted, ANSWERED).await.expect("what is served is not trusted");
        }
        !self.world.server.writes().is_empty()
    }
}

#[tokio::test]
async fn a_lost_certificate_is_put_back_by_whoever_remembers_it() {
    for lost in [None, Some(json!(null)), Some(json!({ "serving.json": "e30=" }))] {
        let leader = Leader::settled().await;
        let before = leader.state();
        match &lost {
            None => leader.world.server.remove(SECRET),
            Some(data) => leader.world.change(SECRET, |s| s["data"] = data.clone()),
        }
        assert!(leader.round().await, "{lost:?}");
        assert_eq!(leader.state(), before, "{lost:?}");
        assert!(!leader.round().await, "{lost:?}");
    }
}

#[tokio::test]
async fn nobody_serves_a_certificate_that_is_not_trusted_yet() {
    let leader = Leader::settled().await;
    let before = leader.state();
    // Whoever leads now does not remember; what the API server trusts is still served.
    let leader = leader.without_memory().await;
    leader.world.change(SECRET, |s| s["data"] = json!(null));
    let mut rounds = 0;
    while leader.round().await {
        rounds += 1;
        assert!(rounds < 10, "it does not come to an end");
    }
    let after = leader.state();
    assert!(!after.untrusted && after.leaf.root != before.leaf.root);
    assert_eq!(leader.trusted(), 2);
}
