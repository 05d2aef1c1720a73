//! Whether trust would end before a rotation can.

use super::{
    guard::margin,
    ledger::{Entry, Ledger},
};

/// What is at risk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Risk {
    /// `root` or `issuing CA`.
    pub what: &'static str,
    /// Its fingerprint.
    pub id: String,
    /// When it expires, in seconds since the Unix epoch.
    pub not_after: u64,
    /// The seconds that a rotation may need at its present pace.
    pub needed: u64,
}

/// The first of the authorities in use that expires before a rotation at the present pace ends. A rotation waits for whom it cannot
/// reach for as long as a leaf lives, twice; one under way that has lasted for a while may last for as long again.
#[must_use]
pub fn at_risk(ledger: &Ledger, now: u64) -> Option<Risk> {
    let longest = ledger.issuers.iter().map(|i| i.longest_leaf).max().unwrap_or(ledger.leaf_seconds);
    let lasted = ledger.rotation.as_ref().map_or(0, |r| now.saturating_sub(r.began));
    let needed = 2 * (longest + margin(longest)) + lasted;
    let risk = |what: &'static str, entry: &Entry| {
        (entry.not_after < now + needed).then(|| Risk {
            what,
            id: entry.id.clone(),
            not_after: entry.not_after,
            needed,
        })
    };
    let root = ledger.active_root().and_then(|root| risk("root", root));
    root.or_else(|| ledger.active_issuer().and_then(|issuer| risk("issuing CA", issuer)))
}
