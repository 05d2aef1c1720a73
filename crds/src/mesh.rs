//! `Mesh`: one service mesh. `spec: {}` is a good production mesh.

#![allow(unreachable_pub)] // the derive re-emits the spec inside a private module

use k8s_openapi::{api::core::v1::ResourceRequirements, apimachinery::pkg::apis::meta::v1::LabelSelector};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

mod mtls;
pub mod rules;
mod schemas;
mod source;
mod status;
pub use mtls::{Mtls, MtlsMode};
pub use source::{CertManagerSource, IssuerRef, Rotation, SecretSource, Source};
pub use status::{
    AuthorityPhase, AuthorityStatus, CertificatesStatus, MeshStatus, NamespacesStatus, ProxiesStatus, RotationCause,
    RotationKind, RotationStatus, VersionCount,
};

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
    #[x_kube(validation = Rule::new(rules::IMAGE_RULE).message(rules::IMAGE))]
    pub image: Option<String>,
    /// How much it logs.
    #[serde(default)]
    pub log_level: LogLevel,
    /// Resources of each slot. Default: requests of 10m CPU and 24Mi memory, a limit of 256Mi memory.
    #[serde(default)]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schemas::resources")]
    #[x_kube(
        validation = Rule::new(rules::RESOURCE_NAMES_RULE).message(rules::RESOURCE_NAMES),
        validation = Rule::new(rules::QUANTITIES_RULE).message(rules::QUANTITIES),
        validation = Rule::new(rules::REQUESTS_RULE).message(rules::REQUESTS)
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
    #[schemars(schema_with = "schemas::selector")]
    #[x_kube(
        validation = Rule::new(rules::OPERATORS_RULE).message(rules::OPERATORS),
        validation = Rule::new(rules::VALUES_RULE).message(rules::VALUES),
        validation = Rule::new(rules::KEYS_RULE).message(rules::KEYS),
        validation = Rule::new(rules::LABEL_VALUES_RULE).message(rules::LABEL_VALUES)
    )]
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
