//! The private key of one leaf: made in memory, never written, never sent, wiped when it goes.

use std::sync::Arc;

use rustls::sign::SigningKey;
use rustls_pki_types::PrivatePkcs8KeyDer;
use zeroize::Zeroize;

/// A key could not be made or loaded.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The generator failed.
    #[error("no P-256 key could be generated: {0}; check that the kernel's random number generator works")]
    Generate(#[from] rcgen::Error),
    /// The TLS library does not take the key.
    #[error("the generated key cannot be used for TLS: {0}")]
    Load(#[from] rustls::Error),
}

/// A P-256 key pair.
pub struct Key {
    pair: rcgen::KeyPair,
}

impl Key {
    /// Makes a fresh key.
    ///
    /// # Errors
    /// When the generator fails.
    pub fn generate() -> Result<Self, KeyError> {
        Ok(Self { pair: rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)? })
    }

    /// For signing the certificate signing request.
    pub(super) fn pair(&self) -> &rcgen::KeyPair {
        &self.pair
    }

    /// The public key as it stands in a certificate: SubjectPublicKeyInfo, DER.
    #[must_use]
    pub fn public_der(&self) -> Vec<u8> {
        use rcgen::PublicKeyData;
        self.pair.subject_public_key_info()
    }

    /// The key in the form in which TLS uses it. Nothing of the encoded form remains afterwards.
    ///
    /// # Errors
    /// When the TLS library does not take it.
    pub fn into_signer(self) -> Result<Arc<dyn SigningKey>, KeyError> {
        let der = PrivatePkcs8KeyDer::from(self.pair.serialized_der());
        Ok(rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&der.into())?)
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.pair.zeroize();
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(P-256)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_another_and_none_is_printed() {
        let (a, b) = (Key::generate().unwrap(), Key::generate().unwrap());
        assert_ne!(a.public_der(), b.public_der());
        assert_eq!(format!("{a:?}"), "Key(P-256)");
        assert_eq!(a.into_signer().unwrap().algorithm(), rustls::SignatureAlgorithm::ECDSA);
    }
}
