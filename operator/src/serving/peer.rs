//! Who is at the other end of a connection to the identity and control server: what its SNI names and its certificate proves.

use std::net::IpAddr;

use bowline_proxy::contract::spiffe::SpiffeId;
use rustls_pki_types::CertificateDer;
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use crate::runtime::{config::Config, listener::ConnectionPermit};

/// Who is at the other end of a connection.
#[derive(Debug)]
pub struct Peer {
    /// Name of the Mesh that its SNI named.
    pub mesh: String,
    /// Its address.
    pub ip: IpAddr,
    /// What its certificate proved.
    pub identity: Option<SpiffeId>,
    /// The connection's permit, which a control stream keeps in use.
    pub permit: ConnectionPermit,
}

/// The Mesh that an SNI names.
#[must_use]
pub fn mesh_of(sni: &str) -> Option<&str> {
    sni.strip_suffix(&Config::control_sni(""))
}

/// The SPIFFE ID of a verified certificate: its only URI (X509-SVID, section 2).
#[must_use]
pub fn identity(leaf: &CertificateDer<'_>) -> Option<SpiffeId> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    let mut uris = names.value.general_names.iter().filter_map(|n| match n {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let id = uris.next()?.parse().ok()?;
    uris.next().is_none().then_some(id)
}
