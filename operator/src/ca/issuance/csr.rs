//! Checks certificate signing requests (PKCS #10): the key is one that leaves may have, and the only name is the caller's own.

use bowline_proxy::contract::spiffe::SpiffeId;
use rcgen::SubjectPublicKeyInfo;
use x509_parser::{
    certification_request::X509CertificationRequest,
    cri_attributes::ParsedCriAttribute,
    extensions::{GeneralName, ParsedExtension},
    oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY},
    prelude::FromDer,
};

use super::sign_error::{MAX_CSR_BYTES, SignError};

/// The request's public key, once everything about the request was checked.
pub(super) fn verified_key(csr_der: &[u8], id: &SpiffeId) -> Result<SubjectPublicKeyInfo, SignError> {
    if csr_der.len() > MAX_CSR_BYTES {
        return Err(SignError::TooLarge(csr_der.len()));
    }
    let (rest, csr) =
        X509CertificationRequest::from_der(csr_der).map_err(|_| SignError::Malformed("it cannot be decoded"))?;
    if !rest.is_empty() {
        return Err(SignError::Malformed("bytes follow it"));
    }
    let spki = &csr.certification_request_info.subject_pki;
    let curve = spki.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
    if spki.algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY || curve != Some(OID_EC_P256) {
        return Err(SignError::KeyType);
    }
    csr.verify_signature().map_err(|_| SignError::Signature)?;
    check_names(&csr, id)?;
    SubjectPublicKeyInfo::from_der(spki.raw).map_err(|_| SignError::KeyType)
}

/// That the only subject alternative name is the workload's SPIFFE ID.
fn check_names(csr: &X509CertificationRequest<'_>, id: &SpiffeId) -> Result<(), SignError> {
    let names: Vec<&GeneralName<'_>> = csr
        .certification_request_info
        .iter_attributes()
        .filter_map(|a| match a.parsed_attribute() {
            ParsedCriAttribute::ExtensionRequest(requested) => Some(&requested.extensions),
            _ => None,
        })
        .flatten()
        .filter_map(|e| match e.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(san) => Some(&san.general_names),
            _ => None,
        })
        .flatten()
        .collect();
    if let [GeneralName::URI(uri)] = names.as_slice()
        && *uri == id.as_str()
    {
        return Ok(());
    }
    let found = match names.as_slice() {
        [] => "no name".to_owned(),
        // Debug escapes whatever the caller put there.
        [GeneralName::URI(uri)] => format!("{:?}", uri.chars().take(300).collect::<String>()),
        several => format!("{} names", several.len()),
    };
    Err(SignError::Names { found, expected: id.as_str().to_owned() })
}
