//! What the operator tells of a Mesh.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::mtls::MtlsMode;

/// What was found and done.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct MeshStatus {
    /// Generation that everything below is about.
    #[serde(default)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Reconciling and Stalled as kstatus reads them; Available, Progressing and Degraded.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Version of the operator that wrote this.
    #[serde(default)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The mode in force.
    #[serde(default)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtls_mode: Option<MtlsMode>,
    /// The certificate authority.
    #[serde(default)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificates: Option<CertificatesStatus>,
    /// The sidecars.
    #[serde(default)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxies: Option<ProxiesStatus>,
    /// Member namespaces.
    #[serde(default)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<NamespacesStatus>,
}

/// The certificate authority.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct CertificatesStatus {
    /// Sequence of the published trust bundle.
    #[schemars(schema_with = "schemas::count")]
    pub bundle_sequence: u64,
    /// Where root and issuing CA come from: `BuiltIn`, `Secret/NAME` or `CertManager/NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// When the root that signs expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_not_after: Option<Time>,
    /// The rotation that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<RotationStatus>,
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
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// Proxies whose leaf depends on it; counted while a rotation is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schemas::optional_count")]
    pub dependents: Option<u32>,
    /// Not valid before.
    pub not_before: Time,
    /// Not valid after.
    pub not_after: Time,
}

/// A rotation that is under way.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RotationStatus {
    /// What is replaced.
    pub kind: RotationKind,
    /// Why.
    pub cause: RotationCause,
    /// The step that it is in, as the phase of the authority that takes the next one.
    pub phase: AuthorityPhase,
    /// Begin of the rotation.
    pub began: Time,
    /// Begin of the step.
    pub since: Time,
    /// What the step waits for, and what comes after it.
    pub message: String,
    /// Proxies that are not there yet.
    #[schemars(schema_with = "schemas::count")]
    pub waiting_proxies: u32,
    /// Replicas of the operator that are not there yet.
    #[schemars(schema_with = "schemas::count")]
    pub waiting_replicas: u32,
    /// The first few of both: `NAMESPACE/POD`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting_for: Vec<String>,
    /// From when on those that were never heard of are waited for no more, because every certificate that they may hold has expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_until: Option<Time>,
}

/// What a rotation replaces.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RotationKind {
    /// Root and issuing CA.
    Root,
    /// The issuing CA below the same root.
    Issuer,
}

/// Why there is a rotation.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RotationCause {
    /// Enough of its life is over.
    Age,
    /// It has expired.
    Expired,
    /// Somebody asked for it.
    Requested,
    /// The source of the CA changed, or what it offers.
    Source,
    /// The key of the root is compromised.
    Compromised,
    /// A rotation was aborted after its root had begun to sign.
    RolledBack,
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
    #[schemars(schema_with = "schemas::count")]
    pub total: u32,
    /// Those of them whose proxy serves.
    #[schemars(schema_with = "schemas::count")]
    pub ready: u32,
    /// Pods that should carry a sidecar and do not.
    #[schemars(schema_with = "schemas::count")]
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
    #[schemars(schema_with = "schemas::count")]
    pub count: u32,
}

/// Member namespaces.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct NamespacesStatus {
    /// How many.
    #[schemars(schema_with = "schemas::count")]
    pub count: u32,
    /// The first hundred, by name.
    #[serde(default)]
    pub names: Vec<String>,
    /// The selector in force: that of the spec, or while the spec is invalid the last valid one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// Schemas where those that are derived say too much or too little.
mod schemas {
    use schemars::{Schema, SchemaGenerator, json_schema};

    /// A count that may be absent.
    pub(super) fn optional_count(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "format": "int64", "minimum": 0, "nullable": true })
    }

    /// A count: Kubernetes knows no unsigned formats.
    pub(super) fn count(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "format": "int64", "minimum": 0 })
    }
}
