//! Why no leaf was signed.

/// Largest certificate signing request, in bytes.
pub const MAX_CSR_BYTES: usize = 4096;

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// Larger than [`MAX_CSR_BYTES`].
    #[error("the request has {0} bytes: at most {MAX_CSR_BYTES} are allowed")]
    TooLarge(usize),
    /// No PKCS #10 in DER.
    #[error("the request is no PKCS #10 certificate signing request in DER: {0}")]
    Malformed(&'static str),
    /// Not signed by the key that is in it.
    #[error("the request is not signed with its own key")]
    Signature,
    /// Another kind of key.
    #[error("the request's key is no P-256 key: use ECDSA on P-256")]
    KeyType,
    /// Other names than the workload's own.
    #[error("the request asks for {found}: its only subject alternative name must be the URI {expected}")]
    Names {
        /// What it asks for.
        found: String,
        /// What it may ask for.
        expected: String,
    },
    /// The issuing CA has expired, or would before the leaf could be used.
    #[error("the issuing CA has expired: see the Mesh's status")]
    IssuerExpired,
    /// Nothing signs.
    #[error("there is no issuing CA that signs: see the Mesh's status")]
    NoIssuer,
    /// The signature failed.
    #[error("the leaf cannot be made: {0}")]
    Crypto(String),
}
