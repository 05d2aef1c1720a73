//! SPIFFE IDs of workloads: `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`
//! (SPIFFE-ID specification, section 2; the path layout is ours).

use std::{fmt, str::FromStr};

/// Longest URI that the SPIFFE specification asks implementations to support, in bytes.
pub const MAX_URI_BYTES: usize = 2048;

/// Longest trust domain name, in bytes (SPIFFE-ID, section 2.1).
pub const MAX_TRUST_DOMAIN_BYTES: usize = 255;

/// Why a text is no SPIFFE ID of a workload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeError {
    /// Does not begin with `spiffe://`.
    #[error("SPIFFE ID {0:?} does not begin with spiffe://")]
    Scheme(String),
    /// Longer than [`MAX_URI_BYTES`].
    #[error("SPIFFE ID of {0} bytes is too long: at most {MAX_URI_BYTES} bytes are allowed")]
    TooLong(usize),
    /// The trust domain is empty, too long or has characters other than a-z, 0-9, dot, dash and underscore.
    #[error("trust domain {0:?} is invalid: use 1 to 255 of a-z, 0-9, '.', '-' and '_'")]
    TrustDomain(String),
    /// The path is not `/ns/NAMESPACE/sa/SERVICE-ACCOUNT`.
    #[error("SPIFFE ID {0:?} has no path of the form /ns/NAMESPACE/sa/SERVICE-ACCOUNT")]
    Path(String),
}

/// Identity of a workload. Equality is by all three parts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    uri: Box<str>,
    trust_domain: u16,
    namespace: u16,
}

impl SpiffeId {
    /// Builds the identity of a service account.
    ///
    /// # Errors
    /// When the trust domain is invalid, or namespace or service account are not DNS labels or subdomains.
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Result<Self, SpiffeError> {
        format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}").parse()
    }

    /// The whole URI.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// The trust domain, without scheme.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.uri[SCHEME.len()..usize::from(self.trust_domain)]
    }

    /// The Kubernetes namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.uri[usize::from(self.trust_domain) + NS.len()..usize::from(self.namespace)]
    }

    /// The Kubernetes service account.
    #[must_use]
    pub fn service_account(&self) -> &str {
        &self.uri[usize::from(self.namespace) + SA.len()..]
    }
}

const SCHEME: &str = "spiffe://";
const NS: &str = "/ns/";
const SA: &str = "/sa/";

/// Whether `name` may be a trust domain (SPIFFE-ID, section 2.1).
#[must_use]
pub fn is_trust_domain(name: &str) -> bool {
    (1..=MAX_TRUST_DOMAIN_BYTES).contains(&name.len())
        && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'))
}

/// Whether `name` is a Kubernetes name (RFC 1123 subdomain).
fn is_name(name: &str) -> bool {
    (1..=253).contains(&name.len()) && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-'))
}

impl FromStr for SpiffeId {
    type Err = SpiffeError;

    fn from_str(uri: &str) -> Result<Self, SpiffeError> {
        if uri.len() > MAX_URI_BYTES {
            return Err(SpiffeError::TooLong(uri.len()));
        }
        let rest = uri.strip_prefix(SCHEME).ok_or_else(|| SpiffeError::Scheme(uri.into()))?;
        let trust_domain = rest.split('/').next().unwrap_or_default();
        if !is_trust_domain(trust_domain) {
            return Err(SpiffeError::TrustDomain(trust_domain.into()));
        }
        let path = || SpiffeError::Path(uri.into());
        let (namespace, account) =
            rest[trust_domain.len()..].strip_prefix(NS).and_then(|p| p.split_once(SA)).ok_or_else(path)?;
        if !is_name(namespace) || !is_name(account) {
            return Err(path());
        }
        let trust_domain = SCHEME.len() + trust_domain.len();
        let namespace = trust_domain + NS.len() + namespace.len();
        // Both are below MAX_URI_BYTES, so they fit.
        Ok(Self { uri: uri.into(), trust_domain: trust_domain as u16, namespace: namespace as u16 })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parts_of_a_workload() {
        let id = SpiffeId::new("cluster.local", "shop", "web").unwrap();
        assert_eq!(id.as_str(), "spiffe://cluster.local/ns/shop/sa/web");
        assert_eq!((id.trust_domain(), id.namespace(), id.service_account()), ("cluster.local", "shop", "web"));
    }

    #[test]
    fn foreign_shapes_are_refused() {
        for bad in [
            "",
            "http://a/ns/b/sa/c",
            "spiffe:///ns/b/sa/c",
            "spiffe://A/ns/b/sa/c",
            "spiffe://a/b/ns/c/sa/d",
            "spiffe://a/ns//sa/c",
            "spiffe://a/ns/b/sa/",
            "spiffe://a/ns/b/sa/c/d",
            "spiffe://a/ns/b/sa/c?x",
            "spiffe://a/ns/b/sa/c#x",
            "spiffe://a:1/ns/b/sa/c",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad}");
        }
        assert_eq!(format!("spiffe://{}", "a".repeat(3000)).parse::<SpiffeId>(), Err(SpiffeError::TooLong(3009)));
    }

    proptest! {
        #[test]
        fn what_is_built_is_parsed_back(td in "[a-z0-9._-]{1,60}", ns in "[a-z0-9-]{1,63}", sa in "[a-z0-9.-]{1,100}") {
            let id = SpiffeId::new(&td, &ns, &sa).unwrap();
            prop_assert_eq!(id.trust_domain(), td.as_str());
            prop_assert_eq!(id.namespace(), ns.as_str());
            prop_assert_eq!(id.service_account(), sa.as_str());
        }

        #[test]
        fn any_text_is_judged_without_panic(s in ".*") {
            if let Ok(id) = s.parse::<SpiffeId>() {
                prop_assert_eq!(id.as_str(), s.as_str());
            }
        }
    }
}
