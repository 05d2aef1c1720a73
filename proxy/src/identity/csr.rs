//! The certificate signing request: nothing but the key and the SPIFFE ID.

use rcgen::{CertificateParams, DistinguishedName, SanType};

use super::key::Key;
use crate::contract::spiffe::SpiffeId;

/// A request could not be made.
#[derive(Debug, thiserror::Error)]
#[error("no certificate signing request could be made for {id}: {source}")]
pub struct CsrError {
    /// Whom it was for.
    id: SpiffeId,
    /// Why not.
    source: rcgen::Error,
}

/// A PKCS #10 request (RFC 2986), DER, for a leaf of `id` over `key`; its subject is empty and its only SAN is the SPIFFE ID.
///
/// # Errors
/// When the identity is no URI that X.509 can hold, or signing fails.
pub fn request(id: &SpiffeId, key: &Key) -> Result<Vec<u8>, CsrError> {
    let build = || {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
        Ok(params.serialize_request(key.pair())?.der().to_vec())
    };
    build().map_err(|source| CsrError { id: id.clone(), source })
}

#[cfg(test)]
mod tests {
    use x509_parser::{
        certification_request::X509CertificationRequest,
        extensions::{GeneralName, ParsedExtension},
        prelude::FromDer,
    };

    use super::*;

    #[test]
    fn a_request_holds_the_key_and_the_identity_only() {
        let id = SpiffeId::new("mesh.test", "shop", "web").unwrap();
        let key = Key::generate().unwrap();
        let der = request(&id, &key).unwrap();
        assert!(der.len() <= 4096);
        let (rest, csr) = X509CertificationRequest::from_der(&der).unwrap();
        assert!(rest.is_empty());
        assert_eq!(csr.certification_request_info.subject.iter().count(), 0);
        assert_eq!(csr.certification_request_info.subject_pki.raw, key.public_der());
        let extensions: Vec<_> = csr.requested_extensions().unwrap().collect();
        let [ParsedExtension::SubjectAlternativeName(san)] = extensions.as_slice() else {
            panic!("{extensions:?}");
        };
        assert_eq!(san.general_names, vec![GeneralName::URI(id.as_str())]);
    }
}
