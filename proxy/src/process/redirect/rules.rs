//! The rules as plain data: which packets of the pod are sent to the proxy.
//!
//! ```text
//! output:      skuid PROXY → return · oif lo → return · skipped ports → return · tcp SYN → redirect OUTBOUND
//! prerouting:  iif lo → return · the proxy's open ports, skipped ports → return · tcp SYN → redirect INBOUND
//! ```
//!
//! Only a connection's first packet is redirected, never one in its midst: the kernel begins to track connections with these rules,
//! so the control stream, which is older, looks new to it when next the control plane speaks, and would be reset.

use crate::contract::bootstrap::{PROXY_UID, ports};

/// Ports whose traffic is left alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SkipPorts {
    /// Of the pod, from outside.
    pub inbound: Vec<u16>,
    /// Elsewhere, from the pod.
    pub outbound: Vec<u16>,
}

/// When a rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Match {
    /// Sent by a socket of the user.
    User(u32),
    /// Leaves by the loopback interface.
    ToLoopback,
    /// Came by the loopback interface.
    FromLoopback,
    /// TCP to the port.
    Port(u16),
    /// The packet that opens a TCP connection: SYN, without ACK, RST or FIN.
    Syn,
}

/// What a rule does with a packet that matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Statement {
    /// Leaves the packet alone.
    Return,
    /// Sends the connection to a local port.
    Redirect(u16),
}

/// Where a chain hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    Prerouting,
    Output,
}

/// A chain with its rules, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) name: &'static str,
    pub(super) hook: Hook,
    pub(super) rules: Vec<(Match, Statement)>,
}

/// The rules for a pod.
pub(super) fn rules(skip: &SkipPorts) -> [Chain; 2] {
    let returns = |ports: &[u16]| ports.iter().map(|p| (Match::Port(*p), Statement::Return)).collect::<Vec<_>>();
    let mut output = vec![(Match::User(PROXY_UID as u32), Statement::Return), (Match::ToLoopback, Statement::Return)];
    output.extend(returns(&skip.outbound));
    output.push((Match::Syn, Statement::Redirect(ports::OUTBOUND)));
    let mut prerouting = vec![(Match::FromLoopback, Statement::Return)];
    prerouting.extend(returns(&ports::OPEN));
    prerouting.extend(returns(&skip.inbound));
    prerouting.push((Match::Syn, Statement::Redirect(ports::INBOUND)));
    [
        Chain { name: "output", hook: Hook::Output, rules: output },
        Chain { name: "prerouting", hook: Hook::Prerouting, rules: prerouting },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_traffic_and_open_ports_come_first_and_the_redirect_last() {
        let [output, prerouting] = rules(&SkipPorts { inbound: vec![22], outbound: vec![25, 3306] });
        assert_eq!(output.rules[0], (Match::User(15_001), Statement::Return));
        assert_eq!(output.rules[3], (Match::Port(3306), Statement::Return));
        assert_eq!(output.rules.last(), Some(&(Match::Syn, Statement::Redirect(15_001))));
        assert_eq!(prerouting.rules[0], (Match::FromLoopback, Statement::Return));
        for open in [15_008, 15_020, 15_021, 22] {
            assert!(prerouting.rules.contains(&(Match::Port(open), Statement::Return)), "{open}");
        }
        assert_eq!(prerouting.rules.last(), Some(&(Match::Syn, Statement::Redirect(15_006))));
    }
}
