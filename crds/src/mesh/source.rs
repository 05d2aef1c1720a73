//! Where root and issuing CA come from, and when they are replaced.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// When root and issuing CA are replaced. Each of `root`, `issuer` and `abort` is a text of the user's choice (a date, a ticket): what it
/// says when a Mesh is made has no effect, every change of it later has one.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Rotation {
    /// Percent of its life after which a root, an issuing CA or a certificate of the control plane is replaced.
    #[serde(default = "default_percent")]
    #[schemars(schema_with = "percent")]
    pub after_percent: u8,
    /// A change starts a rotation of the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub root: Option<String>,
    /// A change starts a rotation of the issuing CA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub issuer: Option<String>,
    /// A change ends the rotation under way and goes back to what was before. Without effect once the old issuing CA is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub abort: Option<String>,
    /// Fingerprints (SHA-256, lower-case hex, as in the status) of roots whose key is compromised: they are replaced at once and no
    /// longer trusted as soon as every proxy that can be reached has a new leaf, at the latest after six minutes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "fingerprints")]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(f, f.matches('^[0-9a-f]{64}$'))")
            .message("spec.certificates.rotation.distrust must hold SHA-256 fingerprints of 64 lower-case hex digits, as status.certificates.roots shows them")
    )]
    pub distrust: Vec<String>,
}

impl Default for Rotation {
    fn default() -> Self {
        Self { after_percent: default_percent(), root: None, issuer: None, abort: None, distrust: Vec::new() }
    }
}

/// Where root and issuing CA come from; nothing: the operator makes both.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.secret) || !has(self.certManager)")
        .message("spec.certificates.source must name a secret or certManager, not both")
)]
pub struct Source {
    /// An issuing CA that somebody else signed and put into a Secret of the operator's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretSource>,
    /// An issuing CA that cert-manager signs and renews.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_manager: Option<CertManagerSource>,
}

/// A Secret of type `kubernetes.io/tls` in the operator's namespace: `tls.crt` (the issuing CA, then further intermediates), `tls.key`
/// (P-256, PKCS #8 or SEC 1, PEM) and `ca.crt` (the root, whose key never enters the cluster).
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SecretSource {
    /// Its name. The operator's role as shipped lets it read `bowline-issuer`; any other needs a role of its own.
    #[serde(default = "default_secret")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(NAME_RULE).message(SECRET_NAME))]
    pub name: String,
}

/// A cert-manager Certificate that the operator keeps in its namespace; `issuerLifetime` is its duration.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CertManagerSource {
    /// Who signs the issuing CA.
    pub issuer_ref: IssuerRef,
    /// Name of the Certificate and of the Secret that cert-manager writes. The operator's roles as shipped cover `bowline-issuer`; any
    /// other needs a role of its own.
    #[serde(default = "default_secret")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(NAME_RULE).message(SECRET_NAME))]
    pub secret_name: String,
}

/// An issuer of cert-manager.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct IssuerRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// `Issuer` (in the operator's namespace) or `ClusterIssuer`.
    #[serde(default = "default_kind")]
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Its API group.
    #[serde(default = "default_group")]
    #[schemars(length(min = 1, max = 253))]
    pub group: String,
}

const NAME_RULE: &str = "self.matches('^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$')";
const SECRET_NAME: &str = "must be the name of a Secret: a-z, 0-9, '-' and '.'";

fn default_percent() -> u8 {
    50
}

fn default_secret() -> String {
    "bowline-issuer".into()
}

fn default_kind() -> String {
    "Issuer".into()
}

fn default_group() -> String {
    "cert-manager.io".into()
}

/// Bounded in every dimension: the API server refuses a rule whose cost it cannot bound.
fn fingerprints(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "array", "maxItems": 16, "items": { "type": "string", "maxLength": 64 } })
}

/// Later than four fifths would leave too little time for a proxy that cannot be reached.
fn percent(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "integer", "format": "int32", "minimum": 10, "maximum": 80 })
}
