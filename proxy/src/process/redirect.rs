//! The redirect inside the pod's network namespace: what containers send goes to the proxy, what comes for them too. Rules are
//! plain data here ([`rules`]); [`message`] turns them into one atomic transaction, [`netlink`] hands it to the kernel.
//!
//! ```text
//! output:      skuid PROXY → return · oif lo → return · skipped ports → return · tcp SYN → redirect OUTBOUND
//! prerouting:  iif lo → return · the proxy's open ports, skipped ports → return · tcp SYN → redirect INBOUND
//! ```
//!
//! Only a connection's first packet is redirected, never one in its midst: the kernel begins to track connections with these rules,
//! so the control stream, which is older, looks new to it when next the control plane speaks, and would be reset.

use std::io;

use rustix::io::Errno;

use crate::contract::bootstrap::{PROXY_UID, ports};

mod message;
mod netlink;

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

/// Ports whose traffic is left alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Skip {
    /// Of the pod, from outside.
    pub inbound: Vec<u16>,
    /// Elsewhere, from the pod.
    pub outbound: Vec<u16>,
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

/// When a rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Match {
    /// Sent by a socket of the user.
    User(u32),
    /// Leaves by the loopback interface.
    ToLoopback,
    /// Came by the loopback interface.
    FromLoopback,
    /// TCP to the port.
    Port(u16),
    /// The packet that opens a TCP connection: SYN, without ACK, RST or FIN.
    Opens,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// Leaves the packet alone.
    Return,
    /// Sends the connection to a local port.
    Redirect(u16),
}

/// Where a chain hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    Prerouting,
    Output,
}

/// A chain with its rules, in order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) name: &'static str,
    pub(crate) hook: Hook,
    pub(crate) rules: Vec<(Match, Then)>,
}

/// The rules for a pod.
pub(crate) fn rules(skip: &Skip) -> [Chain; 2] {
    let returns = |ports: &[u16]| ports.iter().map(|p| (Match::Port(*p), Then::Return)).collect::<Vec<_>>();
    let mut output = vec![(Match::User(PROXY_UID as u32), Then::Return), (Match::ToLoopback, Then::Return)];
    output.extend(returns(&skip.outbound));
    output.push((Match::Opens, Then::Redirect(ports::OUTBOUND)));
    let mut prerouting = vec![(Match::FromLoopback, Then::Return)];
    prerouting.extend(returns(&ports::OPEN));
    prerouting.extend(returns(&skip.inbound));
    prerouting.push((Match::Opens, Then::Redirect(ports::INBOUND)));
    [
        Chain { name: "output", hook: Hook::Output, rules: output },
        Chain { name: "prerouting", hook: Hook::Prerouting, rules: prerouting },
    ]
}

/// Puts the rules in place, in one transaction that replaces those of before. For IPv4 and IPv6, or for IPv4 alone where the
/// kernel has no IPv6; gives the family.
///
/// # Errors
/// See [`RedirectError`]; nothing is changed then.
pub fn install(skip: &Skip) -> Result<&'static str, RedirectError> {
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
    fn own_traffic_and_open_ports_come_first_and_the_redirect_last() {
        let [output, prerouting] = rules(&Skip { inbound: vec![22], outbound: vec![25, 3306] });
        assert_eq!(output.rules[0], (Match::User(15_001), Then::Return));
        assert_eq!(output.rules[3], (Match::Port(3306), Then::Return));
        assert_eq!(output.rules.last(), Some(&(Match::Opens, Then::Redirect(15_001))));
        assert_eq!(prerouting.rules[0], (Match::FromLoopback, Then::Return));
        for open in [15_008, 15_020, 15_021, 22] {
            assert!(prerouting.rules.contains(&(Match::Port(open), Then::Return)), "{open}");
        }
        assert_eq!(prerouting.rules.last(), Some(&(Match::Opens, Then::Redirect(15_006))));
    }

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
