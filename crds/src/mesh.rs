//! `Mesh`: one service mesh. `spec: {}` is a good production mesh.

#![allow(unreachable_pub)] // the derive re-emits the spec inside a private module

use k8s_openapi::{
    api::core::v1::ResourceRequirements,
    apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time},
};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// What a mesh is to be.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "bowline.dev",
    version = "v1alpha1",
    kind = "Mesh",
    plural = "meshes",
    shortname = "mesh",
    category = "bowline",
    status = "MeshStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].reason"}"#,
    printcolumn = r#"{"name":"mTLS","type":"string","jsonPath":".status.mtlsMode"}"#,
    printcolumn = r#"{"name":"Version","type":"string","jsonPath":".status.version"}"#,
    printcolumn = r#"{"name":"Proxies","type":"string","jsonPath":".status.proxies.summary"}"#,
    printcolumn = r#"{"name":"Root Expiry","type":"date","jsonPath":".status.certificates.rootNotAfter"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct MeshSpec {
    /// Trust domain of every identity: `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`. Cannot be changed.
    #[serde(default = "defaults::trust_domain")]
    pub trust_domain: String,
    /// Life spans of certificates.
    #[serde(default)]
    pub certificates: Certificates,
    /// The sidecar.
    #[serde(default)]
    pub proxy: Proxy,
    /// Which namespaces and ports take part.
    #[serde(default)]
    pub injection: Injection,
    /// Whether plaintext is accepted.
    #[serde(default)]
    pub mtls: Mtls,
}

impl Default for MeshSpec {
    fn default() -> Self {
        Self {
            trust_domain: defaults::trust_domain(),
            certificates: Certificates::default(),
            proxy: Proxy::default(),
            injection: Injection::default(),
            mtls: Mtls::default(),
        }
    }
}

/// Life spans of certificates, as Go durations (`24h`, `8760h`). A leaf never outlives its issuer, an issuer never its root.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Certificates {
    /// Life of the built-in root.
    pub root_lifetime: String,
    /// Life of the issuing CA below it.
    pub issuer_lifetime: String,
    /// Life of workload certificates; renewed at half of it.
    pub leaf_lifetime: String,
}

impl Default for Certificates {
    fn default() -> Self {
        Self { root_lifetime: "87600h".into(), issuer_lifetime: "8760h".into(), leaf_lifetime: "24h".into() }
    }
}

/// The sidecar that pods are given.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct Proxy {
    /// Image. Default: the one of the operator's own version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// How much it logs.
    pub log_level: LogLevel,
    /// Resources of each slot. Default: requests of 10m CPU and 24Mi memory, a limit of 256Mi memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
}

/// How much the proxy logs.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Only failures of the proxy itself.
    Error,
    /// Failures of the proxy and of its surroundings.
    Warn,
    /// Changes of state too.
    #[default]
    Info,
    /// Every connection.
    Debug,
}

/// Which namespaces and ports take part.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct Injection {
    /// Namespaces that join besides those with the label `bowline.dev/mesh: NAME`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Ports whose inbound traffic is left alone in every pod.
    pub skip_inbound_ports: Vec<u16>,
    /// Ports whose outbound traffic is left alone in every pod.
    pub skip_outbound_ports: Vec<u16>,
}

/// Whether plaintext is accepted.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct Mtls {
    /// `Strict`: meshed pods accept only mutual TLS. `Permissive`: plaintext too, while a cluster adopts the mesh.
    pub mode: MtlsMode,
}

/// See [`Mtls::mode`].
#[derive(schemars::JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MtlsMode {
    /// Only mutual TLS.
    #[default]
    Strict,
    /// Plaintext too.
    Permissive,
}

/// Defaults that serde and the schema share.
mod defaults {
    pub(super) fn trust_domain() -> String {
        "cluster.local".into()
    }
}

/// What was found and done.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshStatus {
    /// Generation that everything below is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// See [`crate::conditions`].
    pub conditions: Vec<Condition>,
    /// Version of the operator that wrote this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The mode in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtls_mode: Option<MtlsMode>,
    /// The certificate authority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificates: Option<CertificatesStatus>,
    /// The sidecars.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxies: Option<ProxiesStatus>,
    /// Member namespaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<NamespacesStatus>,
}

/// The certificate authority.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct CertificatesStatus {
    /// Sequence of the published trust bundle.
    pub bundle_sequence: u64,
    /// When the root that signs expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_not_after: Option<Time>,
    /// Every root, oldest first.
    #[serde(default)]
    pub roots: Vec<AuthorityStatus>,
    /// Every issuing CA, oldest first.
    #[serde(default)]
    pub issuers: Vec<AuthorityStatus>,
}

/// A root or issuing CA.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AuthorityStatus {
    /// SHA-256 over the certificate's DER, lower-case hex.
    pub fingerprint: String,
    /// Where it stands in its life.
    pub phase: AuthorityPhase,
    /// Not valid before.
    pub not_before: Time,
    /// Not valid after.
    pub not_after: Time,
}

/// Where a root or issuing CA stands in its life.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuthorityPhase {
    /// Made, trusted by nobody.
    Staged,
    /// In every bundle.
    Distributed,
    /// Signs.
    Active,
    /// No longer signs; what it signed still lives.
    Retiring,
}

/// The sidecars.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct ProxiesStatus {
    /// `READY/TOTAL` for the printer column.
    pub summary: String,
    /// Live meshed pods.
    pub total: u32,
    /// Those of them whose proxy serves.
    pub ready: u32,
    /// Pods that should carry a sidecar and do not.
    pub missing: u32,
    /// Names (`NAMESPACE/POD`) of the first few of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing_pods: Vec<String>,
    /// Live meshed pods by proxy version, ascending.
    #[serde(default)]
    pub versions: Vec<VersionCount>,
}

/// How many proxies run a version.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct VersionCount {
    /// The version.
    pub version: String,
    /// How many.
    pub count: u32,
}

/// Member namespaces.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct NamespacesStatus {
    /// How many.
    pub count: u32,
    /// The first hundred, by name.
    #[serde(default)]
    pub names: Vec<String>,
}
