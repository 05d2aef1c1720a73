//! Where an issuing CA comes from that the operator does not make itself: a Secret that somebody else writes, or one that cert-manager
//! writes because of a Certificate that the operator keeps.

use std::time::{Duration, SystemTime};

use bowline_crds::mesh::Source;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};

use super::{cert_manager::Certificates, external::ExternalAuthority, source_error::SourceError};
use crate::cluster::membership::Registry;

/// As status tells of it: `BuiltIn`, `Secret/NAME` or `CertManager/NAME`.
#[must_use]
pub fn name(source: &Source) -> String {
    match source {
        Source { secret: Some(secret), .. } => format!("Secret/{}", secret.name),
        Source { cert_manager: Some(from), .. } => format!("{CERT_MANAGER}{}", from.secret_name),
        Source { .. } => "BuiltIn".into(),
    }
}

const CERT_MANAGER: &str = "CertManager/";

/// Where Meshes can have their authorities from, besides the operator itself.
#[derive(Clone)]
pub struct ExternalSources {
    secrets: Api<Secret>,
    namespace: String,
    certificates: Certificates,
}

impl ExternalSources {
    /// Secrets and Certificates of `namespace`; a Certificate of a Mesh that is not in `registry` is nobody's.
    #[must_use]
    pub fn new(client: Client, namespace: &str, registry: Registry) -> Self {
        let secrets = Api::namespaced(client.clone(), namespace);
        Self { secrets, namespace: namespace.into(), certificates: Certificates::new(client, namespace, registry) }
    }

    /// What the source offers; `None`: the operator makes its own.
    ///
    /// # Errors
    /// See [`SourceError`].
    pub async fn fetch(
        &self,
        source: &Source,
        mesh: &str,
        trust_domain: &str,
        issuer_lifetime: Duration,
        now: SystemTime,
    ) -> Result<Option<ExternalAuthority>, SourceError> {
        let name = match source {
            Source { secret: Some(secret), .. } => &secret.name,
            Source { cert_manager: Some(from), .. } => {
                self.certificates.keep(from, mesh, trust_domain, issuer_lifetime).await?;
                &from.secret_name
            }
            Source { .. } => return Ok(None),
        };
        let namespace = self.namespace.clone();
        let secret = self.secrets.get_opt(name).await.map_err(|error| SourceError::Api {
            kind: "Secret",
            namespace: namespace.clone(),
            name: name.clone(),
            error,
        })?;
        let offered = ExternalAuthority::read(secret.as_ref(), trust_domain, now);
        offered.map(Some).map_err(|fault| SourceError::Secret { namespace, name: name.clone(), fault })
    }

    /// Removes what the operator keeps for a source that is no longer in use; `was`: as status told of it.
    ///
    /// # Errors
    /// That of the API server; what is gone is fine.
    pub async fn abandon(&self, mesh: &str, was: &str) -> kube::Result<()> {
        match was.strip_prefix(CERT_MANAGER) {
            Some(name) => self.certificates.remove(mesh, name).await,
            None => Ok(()),
        }
    }
}
