//! The redirect inside the pod's network namespace: what containers send goes to the proxy, what comes for them too. `rules` says which
//! packets, `message` turns that into one atomic transaction, `netlink` hands it to the kernel.

use std::io;

use rustix::io::Errno;

mod message;
mod netlink;
mod rules;

pub use rules::SkipPorts;
use rules::{Chain, rules};

/// Table that holds the rules, alone.
pub const TABLE: &str = "bowline";
/// Most ports that can be skipped in one direction.
pub const MAX_SKIPPED: usize = 256;

/// Why the redirect is not in place.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// A list of ports is malformed.
    #[error("{name} holds {value:?}: expected are at most {MAX_SKIPPED} ports, 1 to 65535, separated by commas")]
    Ports {
        /// Environment variable.
        name: &'static str,
        /// What it holds.
        value: String,
    },
    /// The kernel does not let us.
    #[error("the kernel refused the redirect rules: permission denied; the gate needs the capability NET_ADMIN")]
    Denied,
    /// The kernel cannot.
    #[error(
        "the kernel refused the redirect rules ({family}): {error}; it needs nf_tables with nat and redirect support"
    )]
    Refused {
        /// `inet` or `ip`.
        family: &'static str,
        /// Its answer.
        error: Errno,
    },
    /// No conversation with the kernel.
    #[error("no conversation with the kernel's netfilter: {0}")]
    Netlink(#[from] io::Error),
}

/// Reads a comma-separated list of ports, ascending; empty is none.
///
/// # Errors
/// When one is no port or there are too many; `name` is the variable to be named then.
pub fn parse_ports(name: &'static str, value: &str) -> Result<Vec<u16>, RedirectError> {
    let wrong = || RedirectError::Ports { name, value: value.chars().take(200).collect() };
    let parts = value.split(',').map(str::trim).filter(|p| !p.is_empty());
    let mut out =
        parts.map(|p| p.parse::<u16>().ok().filter(|p| *p != 0).ok_or_else(wrong)).collect::<Result<Vec<_>, _>>()?;
    out.sort_unstable();
    out.dedup();
    if out.len() > MAX_SKIPPED { Err(wrong()) } else { Ok(out) }
}

/// Puts the rules in place, in one transaction that replaces those of before. For IPv4 and IPv6, or for IPv4 alone where the
/// kernel has no IPv6; gives the family.
///
/// # Errors
/// See [`RedirectError`]; nothing is changed then.
pub fn install(skip: &SkipPorts) -> Result<&'static str, RedirectError> {
    let chains = rules(skip);
    match commit(message::Family::Inet, &chains) {
        Err(RedirectError::Refused { error, .. }) if lacks_ipv6(error) => commit(message::Family::Ipv4, &chains),
        done => done,
    }
}

/// What a kernel says that has no `inet` family or no nat in it.
fn lacks_ipv6(error: Errno) -> bool {
    matches!(error, Errno::AFNOSUPPORT | Errno::OPNOTSUPP | Errno::NOENT)
}

fn commit(family: message::Family, chains: &[Chain]) -> Result<&'static str, RedirectError> {
    let (batch, last) = message::replace_table(family, TABLE, chains);
    netlink::transact(&batch, last)?.map_err(|error| match error {
        Errno::PERM | Errno::ACCESS => RedirectError::Denied,
        error => RedirectError::Refused { family: family.name(), error },
    })?;
    Ok(family.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_strictly() {
        assert_eq!(parse_ports("X", "").unwrap(), Vec::<u16>::new());
        assert_eq!(parse_ports("X", "443, 22,443,").unwrap(), vec![22, 443]);
        for bad in ["0", "x", "70000", "1-3", "-1"] {
            assert!(parse_ports("X", bad).unwrap_err().to_string().contains(bad), "{bad}");
        }
        let many: Vec<_> = (1..=257).map(|p| p.to_string()).collect();
        assert!(parse_ports("X", &many.join(",")).is_err());
    }
}
