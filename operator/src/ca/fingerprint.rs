//! Fingerprints: how certificates are named in the ledger, in status and on the wire.

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

/// SHA-256, lower-case hex.
#[must_use]
pub fn fingerprint(der: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(der))
}

/// The bytes of a fingerprint.
#[must_use]
pub fn digest(id: &str) -> Vec<u8> {
    let pairs = id.as_bytes().chunks(2);
    pairs.filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}
