//! `Mesh`: one service mesh. `spec: {}` is a good production mesh.

#![allow(unreachable_pub)] // the derive re-emits the spec inside a private module

use k8s_openapi::{
    api::core::v1::ResourceRequirements,
    apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time},
};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

mod source;
pub use source::{CertManagerSource, IssuerRef, Rotation, SecretSource, Source};

/// What a mesh is to be.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "bowline.dev",
    version = "v1alpha1",
    kind = "Mesh",
    plural = "meshes",
    shortname = "mesh",
    category = "bowline",
    doc = "One service mesh: who trusts whom, which namespaces take part, and the sidecar that their pods are given.",
    status = "MeshStatus",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')")
        .message("metadata.name must be a DNS label: 1 to 63 of a-z, 0-9 and '-'"),
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].reason"}"#,
    printcolumn = r#"{"name":"mTLS","type":"string","jsonPath":".status.mtlsMode"}"#,
    printcolumn = r#"{"name":"Version","type":"string","jsonPath":".status.version"}"#,
    printcolumn = r#"{"name":"Proxies","type":"string","jsonPath":".status.proxies.summary"}"#,
    printcolumn = r#"{"name":"Root Expiry","type":"string","jsonPath":".status.certificates.rootNotAfter"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct MeshSpec {
    /// Trust domain of every identity: `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`. Cannot be changed.
    #[serde(default = "defaults::trust_domain")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9._-]+$')").message(
            "spec.trustDomain must consist of a-z, 0-9, '.', '-' and '_' only: no scheme, slash or port"
        ),
        validation = Rule::new("self == oldSelf").message(
            "spec.trustDomain cannot be changed: every identity contains it; make a new Mesh and move namespaces over"
        )
    )]
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

/// What rules and operator both say about life spans.
pub mod rules {
    use std::time::Duration;

    /// Shortest life of a leaf.
    pub const MIN_LEAF: Duration = Duration::from_secs(60);
    /// Longest life of a leaf.
    pub const MAX_LEAF: Duration = Duration::from_secs(720 * 3600);
    /// Message for a leaf outside of these.
    pub const LEAF_RANGE: &str = "leafLifetime must lie between 1m and 720h";
    /// Message for life spans in the wrong order.
    pub const LIFETIME_ORDER: &str =
        "leafLifetime must be shorter than issuerLifetime, and issuerLifetime shorter than rootLifetime";
    /// Message for what is no duration.
    pub(super) const DURATION: &str = "must be hours, minutes and seconds such as 24h, 90m or 1h30m";
    /// What [`crate::duration::parse`] reads.
    pub(super) const DURATION_RULE: &str = "self.matches('^([0-9]{1,6}[hms])+$')";
    /// See [`LEAF_RANGE`]; texts that are no durations have been told already.
    pub(super) const LEAF_RANGE_RULE: &str = "!self.leafLifetime.matches('^([0-9]{1,6}[hms])+$') || \
        (duration(self.leafLifetime) >= duration('1m') && duration(self.leafLifetime) <= duration('720h'))";
    /// See [`LIFETIME_ORDER`].
    pub(super) const LIFETIME_ORDER_RULE: &str = "\
        ![self.leafLifetime, self.issuerLifetime, self.rootLifetime].all(d, d.matches('^([0-9]{1,6}[hms])+$')) || \
        (duration(self.leafLifetime) < duration(self.issuerLifetime) && \
        duration(self.issuerLifetime) < duration(self.rootLifetime))";
    /// Ports that every proxy keeps for itself.
    pub(super) const PORTS_RULE: &str = "self.all(p, !(p in [15000, 15001, 15006, 15008, 15020, 15021]))";
    /// Message for these.
    pub(super) const PORTS: &str =
        "ports 15000, 15001, 15006, 15008, 15020 and 15021 belong to the proxy: leave them out";
}

/// Life spans of certificates, as Go durations (`24h`, `8760h`). A leaf never outlives its issuer, an issuer never its root. A change
/// applies to what is made from then on.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(rules::LEAF_RANGE_RULE).message(rules::LEAF_RANGE),
    validation = Rule::new(rules::LIFETIME_ORDER_RULE).message(rules::LIFETIME_ORDER)
)]
pub struct Certificates {
    /// Life of the built-in root.
    #[serde(default = "defaults::root_lifetime")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = Rule::new(rules::DURATION_RULE).message(rules::DURATION))]
    pub root_lifetime: String,
    /// Life of the issuing CA below it; replaced at half of it.
    #[serde(default = "defaults::issuer_lifetime")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = Rule::new(rules::DURATION_RULE).message(rules::DURATION))]
    pub issuer_lifetime: String,
    /// Life of workload certificates, 1m to 720h; renewed at half of it.
    #[serde(default = "defaults::leaf_lifetime")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = Rule::new(rules::DURATION_RULE).message(rules::DURATION))]
    pub leaf_lifetime: String,
    /// When root and issuing CA are replaced.
    #[serde(default)]
    pub rotation: Rotation,
    /// Where root and issuing CA come from. Default: the operator makes them. A change is a rotation.
    #[serde(default)]
    pub source: Source,
}

impl Default for Certificates {
    fn default() -> Self {
        Self {
            root_lifetime: defaults::root_lifetime(),
            issuer_lifetime: defaults::issuer_lifetime(),
            leaf_lifetime: defaults::leaf_lifetime(),
            rotation: Rotation::default(),
            source: Source::default(),
        }
    }
}

/// The sidecar that pods are given.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct Proxy {
    /// Image. Default: the one of the operator's own version.
    #[serde(default)]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[x_kube(
        validation = Rule::new("self.matches('^[^ \\t\\n]+$')").message("spec.proxy.image must be an image reference such as NAME:TAG, without spaces")
    )]
    pub image: Option<String>,
    /// How much it logs.
    #[serde(default)]
    pub log_level: LogLevel,
    /// Resources of each slot. Default: requests of 10m CPU and 24Mi memory, a limit of 256Mi memory.
    #[serde(default)]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schemas::resources")]
    #[x_kube(
        validation = Rule::new(
            "(!has(self.requests) || self.requests.all(k, isQuantity(self.requests[k]))) && \
             (!has(self.limits) || self.limits.all(k, isQuantity(self.limits[k])))"
        )
        .message("spec.proxy.resources must hold quantities such as \"100m\" or \"64Mi\"")
    )]
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
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct Injection {
    /// Namespaces that join besides those with the label `bowline.dev/mesh: NAME`. An empty selector takes all but the system's.
    #[serde(default)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Ports whose inbound traffic is left alone in every pod.
    #[serde(default)]
    #[schemars(schema_with = "schemas::ports")]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new(rules::PORTS_RULE).message(rules::PORTS)
    )]
    pub skip_inbound_ports: Vec<u16>,
    /// Ports whose outbound traffic is left alone in every pod.
    #[serde(default)]
    #[schemars(schema_with = "schemas::ports")]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new(rules::PORTS_RULE).message(rules::PORTS)
    )]
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

    pub(super) fn root_lifetime() -> String {
        "87600h".into()
    }

    pub(super) fn issuer_lifetime() -> String {
        "8760h".into()
    }

    pub(super) fn leaf_lifetime() -> String {
        "24h".into()
    }
}

/// Schemas where those that are derived say too much or too little.
mod schemas {
    use schemars::{Schema, SchemaGenerator, json_schema};

    pub(super) fn ports(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "array",
            "maxItems": 64,
            "items": { "type": "integer", "format": "int32", "minimum": 1, "maximum": 65535 }
        })
    }

    /// Requests and limits only: a sidecar has no use for claims.
    pub(super) fn resources(_: &mut SchemaGenerator) -> Schema {
        let quantities = json_schema!({
            "type": "object",
            "maxProperties": 16,
            "additionalProperties": { "type": "string", "maxLength": 32 }
        });
        json_schema!({
            "type": "object",
            "nullable": true,
            "properties": { "limits": quantities, "requests": quantities }
        })
    }

    /// A count that may be absent.
    pub(super) fn optional_count(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "format": "int64", "minimum": 0, "nullable": true })
    }

    /// A count: Kubernetes knows no unsigned formats.
    pub(super) fn count(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "format": "int64", "minimum": 0 })
    }
}

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
}
