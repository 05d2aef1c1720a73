//! A token that was good once: signed by the cluster's own key, for a time that is over.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rcgen::{KeyPair, SigningKey as _};
use serde_json::Value;

/// The same token, an hour past its end; `key`: PEM of the P-256 key with which the API server signs tokens.
///
/// # Errors
/// When `token` is no JWT or `key` no such key.
pub fn expired(token: &str, key: &str) -> Result<String> {
    let mut parts = token.split('.');
    let (head, claims) = (parts.next().context("an empty token")?, parts.next().context("a token without claims")?);
    let mut claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims)?)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    for (claim, ago) in [("iat", 7200), ("nbf", 7200), ("exp", 3600)] {
        claims[claim] = (now - ago).into();
    }
    let signed = format!("{head}.{}", URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims)?));
    let signature = KeyPair::from_pem(key)?.sign(signed.as_bytes())?;
    Ok(format!(
        "{signed}.{}",
        URL_SAFE_NO_PAD.encode(fixed(&signature).context("a signature that is no ECDSA-Sig-Value")?)
    ))
}

/// JWS wants r and s as 32 bytes each (RFC 7518, 3.4); TLS libraries sign in DER (RFC 3279, 2.2.3).
fn fixed(der: &[u8]) -> Option<[u8; 64]> {
    let (mut fixed, mut rest) = ([0; 64], der.get(2..)?);
    for half in 0..2 {
        let length = usize::from(*rest.get(1)?);
        let number = rest.get(2..2 + length)?;
        let number = &number[number.iter().take_while(|b| **b == 0).count()..];
        fixed[half * 32..(half + 1) * 32].get_mut(32 - number.len()..)?.copy_from_slice(number);
        rest = rest.get(2 + length..)?;
    }
    Some(fixed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_padded_and_trimmed() {
        let mut der = vec![0x30, 0, 0x02, 33, 0];
        der.extend([0x80; 32]);
        der.extend([0x02, 2, 1, 2]);
        let fixed = fixed(&der).unwrap();
        assert_eq!(fixed[..32], [0x80; 32]);
        assert_eq!((fixed[61], fixed[62], fixed[63]), (0, 1, 2));
        assert!(super::fixed(&der[..20]).is_none());
    }

    #[test]
    fn only_its_time_changes() {
        let key = KeyPair::generate().unwrap();
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let token = format!("{}.{}.x", part(r#"{"alg":"ES256"}"#), part(r#"{"sub":"web","exp":9999999999}"#));
        let expired = expired(&token, &key.serialize_pem()).unwrap();
        let parts: Vec<&str> = expired.split('.').collect();
        assert_eq!(parts[0], part(r#"{"alg":"ES256"}"#));
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
        assert_eq!(claims["sub"], "web");
        assert!(claims["exp"].as_u64().unwrap() < 9_999_999_999);
        assert_eq!(URL_SAFE_NO_PAD.decode(parts[2]).unwrap().len(), 64);
    }
}
