//! Settings of the process, from flags or environment; the Deployment sets them.

use bowline_proxy::contract::bootstrap::VERSION;

/// Name of Deployment, ServiceAccount and Lease.
pub const OPERATOR_NAME: &str = "bowline-operator";
/// Service before the webhook server.
pub const WEBHOOK_SERVICE: &str = "bowline-webhook";
/// Service before the identity and control server.
pub const CONTROL_SERVICE: &str = "bowline-control";
/// Secret with the state of every Mesh's CA, one key `MESH.json` each.
pub const CA_SECRET: &str = "bowline-ca";
/// Secret with the webhook's serving CA and certificate.
pub const WEBHOOK_SECRET: &str = "bowline-webhook";
/// Annotation with a hash of an object's content as the operator wrote it: tells an edit from an update.
pub const CONTENT_ANNOTATION: &str = "bowline.dev/content";

/// Settings.
#[derive(clap::Parser, Debug, Clone)]
#[command(name = OPERATOR_NAME, version = VERSION, about = "Bowline's control plane")]
pub struct Config {
    /// Namespace that the operator runs in.
    #[arg(long, env = "POD_NAMESPACE", default_value = "bowline-system")]
    pub namespace: String,
    /// Name of this pod: its identity in the Lease and in events.
    #[arg(long, env = "POD_NAME")]
    pub pod_name: String,
    /// Image of the sidecar unless a Mesh says otherwise.
    #[arg(long, env = "BOWLINE_PROXY_IMAGE")]
    pub proxy_image: String,
    /// Domain of the cluster's DNS names.
    #[arg(long, env = "BOWLINE_CLUSTER_DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Port of `/metrics`, `/livez` and `/readyz`.
    #[arg(long, env = "BOWLINE_ADMIN_PORT", default_value_t = 8080)]
    pub admin_port: u16,
    /// Port of the webhook server.
    #[arg(long, env = "BOWLINE_WEBHOOK_PORT", default_value_t = 9443)]
    pub webhook_port: u16,
    /// Port of the identity and control server, the same in the pod and on the Service.
    #[arg(long, env = "BOWLINE_CONTROL_PORT", default_value_t = 15_010)]
    pub control_port: u16,
    /// Filter of the log, as tracing's EnvFilter reads it.
    #[arg(long, env = "BOWLINE_LOG", default_value = "info")]
    pub log: String,
}

impl Config {
    /// Where proxies find the identity and control service.
    #[must_use]
    pub fn control_address(&self) -> String {
        format!("{CONTROL_SERVICE}.{}.svc.{}.:{}", self.namespace, self.cluster_domain, self.control_port)
    }

    /// SNI of the identity and control service for one Mesh.
    #[must_use]
    pub fn control_sni(mesh: &str) -> String {
        format!("{mesh}.mesh.bowline.internal")
    }

    /// DNS name of the webhook's Service.
    #[must_use]
    pub fn webhook_host(&self) -> String {
        format!("{WEBHOOK_SERVICE}.{}.svc", self.namespace)
    }
}

/// SPIFFE ID in a trust domain of the control plane in this namespace.
#[must_use]
pub fn control_identity(namespace: &str, trust_domain: &str) -> String {
    format!("spiffe://{trust_domain}/ns/{namespace}/sa/{OPERATOR_NAME}")
}
