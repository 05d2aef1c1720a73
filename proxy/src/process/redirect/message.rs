//! Encodes nf_tables transactions: netlink messages (linux/netlink.h) with nfnetlink headers (linux/netfilter/nfnetlink.h) and
//! attributes (linux/netfilter/nf_tables.h). The constants bear the kernel's names. Nothing here talks to anybody.

use super::rules::{Chain, Hook, Match, Statement};

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const NLA_F_NESTED: u16 = 0x8000;

const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_NEWRULE: u16 = 6;

const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_META_DREG: u16 = 1;
const NFTA_META_KEY: u16 = 2;
const NFTA_CMP_SREG: u16 = 1;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_PAYLOAD_DREG: u16 = 1;
const NFTA_PAYLOAD_BASE: u16 = 2;
const NFTA_PAYLOAD_OFFSET: u16 = 3;
const NFTA_PAYLOAD_LEN: u16 = 4;
const NFTA_BITWISE_SREG: u16 = 1;
const NFTA_BITWISE_DREG: u16 = 2;
const NFTA_BITWISE_LEN: u16 = 3;
const NFTA_BITWISE_MASK: u16 = 4;
const NFTA_BITWISE_XOR: u16 = 5;
const NFTA_IMMEDIATE_DREG: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFTA_REDIR_REG_PROTO_MIN: u16 = 1;
const NFTA_REDIR_REG_PROTO_MAX: u16 = 2;
const NFTA_REDIR_FLAGS: u16 = 3;

const NFT_REG_VERDICT: u32 = 0;
const NFT_REG_1: u32 = 1;
const NFT_CMP_EQ: u32 = 0;
const NFT_RETURN: i32 = -5;
const NFT_META_IIF: u32 = 4;
const NFT_META_OIF: u32 = 5;
const NFT_META_SKUID: u32 = 10;
const NFT_META_L4PROTO: u32 = 16;
const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = 2;
const NF_NAT_RANGE_PROTO_SPECIFIED: u32 = 2;
const NF_ACCEPT: u32 = 1;
const NF_INET_PRE_ROUTING: u32 = 0;
const NF_INET_LOCAL_OUT: u32 = 3;
/// Where destination NAT belongs (NF_IP_PRI_NAT_DST).
const PRIORITY: i32 = -100;

const IPPROTO_TCP: u8 = 6;
/// Offset of the destination port in a TCP header, in bytes.
const TCP_DPORT: u32 = 2;
/// Offset of the flags in a TCP header, in bytes (RFC 9293, section 3.1).
const TCP_FLAGS: u32 = 13;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
/// Index of the loopback interface in every network namespace (LOOPBACK_IFINDEX).
const LOOPBACK: u32 = 1;

/// Address family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// IPv4 and IPv6.
    Inet = 1,
    /// IPv4 alone.
    Ipv4 = 2,
}

impl Family {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Ipv4 => "ip",
        }
    }
}

/// The transaction that replaces a table with these chains, and the number of its last message, which the kernel acknowledges.
pub(super) fn replace_table(family: Family, table: &str, chains: &[Chain]) -> (Vec<u8>, u32) {
    let mut batch = Batch { family, bytes: Vec::with_capacity(4096), sequence: 0 };
    batch.frame(NFNL_MSG_BATCH_BEGIN);
    let named = |m: &mut Attributes| m.text(NFTA_TABLE_NAME, table);
    // Making it first lets the deletion succeed whether or not it was there.
    batch.message(NFT_MSG_NEWTABLE, NLM_F_CREATE, named);
    batch.message(NFT_MSG_DELTABLE, 0, named);
    batch.message(NFT_MSG_NEWTABLE, NLM_F_CREATE, named);
    for chain in chains {
        batch.message(NFT_MSG_NEWCHAIN, NLM_F_CREATE, |m| chain_attributes(m, table, chain));
    }
    let count: usize = chains.iter().map(|c| c.rules.len()).sum();
    let all = chains.iter().flat_map(|c| c.rules.iter().map(move |r| (c.name, r)));
    for (index, (chain, rule)) in all.enumerate() {
        let ack = if index + 1 == count { NLM_F_ACK } else { 0 };
        batch.message(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND | ack, |m| {
            m.text(NFTA_RULE_TABLE, table);
            m.text(NFTA_RULE_CHAIN, chain);
            m.nested(NFTA_RULE_EXPRESSIONS, |m| expressions(m, *rule));
        });
    }
    let last = batch.sequence;
    batch.frame(NFNL_MSG_BATCH_END);
    (batch.bytes, last)
}

fn chain_attributes(m: &mut Attributes, table: &str, chain: &Chain) {
    m.text(NFTA_CHAIN_TABLE, table);
    m.text(NFTA_CHAIN_NAME, chain.name);
    m.nested(NFTA_CHAIN_HOOK, |m| {
        m.number(
            NFTA_HOOK_HOOKNUM,
            match chain.hook {
                Hook::Prerouting => NF_INET_PRE_ROUTING,
                Hook::Output => NF_INET_LOCAL_OUT,
            },
        );
        m.bytes(NFTA_HOOK_PRIORITY, &PRIORITY.to_be_bytes());
    });
    m.number(NFTA_CHAIN_POLICY, NF_ACCEPT);
    m.text(NFTA_CHAIN_TYPE, "nat");
}

fn expressions(m: &mut Attributes, (condition, statement): (Match, Statement)) {
    match condition {
        // Numbers of interfaces and users stand in the register in the machine's byte order, ports in the network's.
        Match::User(id) => meta_is(m, NFT_META_SKUID, &id.to_ne_bytes()),
        Match::ToLoopback => meta_is(m, NFT_META_OIF, &LOOPBACK.to_ne_bytes()),
        Match::FromLoopback => meta_is(m, NFT_META_IIF, &LOOPBACK.to_ne_bytes()),
        Match::Port(port) => {
            load_tcp(m, TCP_DPORT, 2);
            is(m, &port.to_be_bytes());
        }
        Match::Syn => {
            load_tcp(m, TCP_FLAGS, 1);
            expression(m, "bitwise", |m| {
                m.number(NFTA_BITWISE_SREG, NFT_REG_1);
                m.number(NFTA_BITWISE_DREG, NFT_REG_1);
                m.number(NFTA_BITWISE_LEN, 1);
                m.nested(NFTA_BITWISE_MASK, |m| m.bytes(NFTA_DATA_VALUE, &[FIN | SYN | RST | ACK]));
                m.nested(NFTA_BITWISE_XOR, |m| m.bytes(NFTA_DATA_VALUE, &[0]));
            });
            is(m, &[SYN]);
        }
    }
    match statement {
        Statement::Return => expression(m, "immediate", |m| {
            m.number(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
            m.nested(NFTA_IMMEDIATE_DATA, |m| {
                m.nested(NFTA_DATA_VERDICT, |m| m.bytes(NFTA_VERDICT_CODE, &NFT_RETURN.to_be_bytes()));
            });
        }),
        Statement::Redirect(port) => {
            expression(m, "immediate", |m| {
                m.number(NFTA_IMMEDIATE_DREG, NFT_REG_1);
                m.nested(NFTA_IMMEDIATE_DATA, |m| m.bytes(NFTA_DATA_VALUE, &port.to_be_bytes()));
            });
            expression(m, "redir", |m| {
                m.number(NFTA_REDIR_REG_PROTO_MIN, NFT_REG_1);
                m.number(NFTA_REDIR_REG_PROTO_MAX, NFT_REG_1);
                m.number(NFTA_REDIR_FLAGS, NF_NAT_RANGE_PROTO_SPECIFIED);
            });
        }
    }
}

/// Loads a field of the TCP header; of packets that are not TCP the rule speaks no more.
fn load_tcp(m: &mut Attributes, offset: u32, length: u32) {
    meta_is(m, NFT_META_L4PROTO, &[IPPROTO_TCP]);
    expression(m, "payload", |m| {
        m.number(NFTA_PAYLOAD_DREG, NFT_REG_1);
        m.number(NFTA_PAYLOAD_BASE, NFT_PAYLOAD_TRANSPORT_HEADER);
        m.number(NFTA_PAYLOAD_OFFSET, offset);
        m.number(NFTA_PAYLOAD_LEN, length);
    });
}

/// Loads packet metadata and compares it.
fn meta_is(m: &mut Attributes, key: u32, value: &[u8]) {
    expression(m, "meta", |m| {
        m.number(NFTA_META_DREG, NFT_REG_1);
        m.number(NFTA_META_KEY, key);
    });
    is(m, value);
}

/// Compares the register.
fn is(m: &mut Attributes, value: &[u8]) {
    expression(m, "cmp", |m| {
        m.number(NFTA_CMP_SREG, NFT_REG_1);
        m.number(NFTA_CMP_OP, NFT_CMP_EQ);
        m.nested(NFTA_CMP_DATA, |m| m.bytes(NFTA_DATA_VALUE, value));
    });
}

fn expression(m: &mut Attributes, name: &str, data: impl FnOnce(&mut Attributes)) {
    m.nested(NFTA_LIST_ELEM, |m| {
        m.text(NFTA_EXPR_NAME, name);
        m.nested(NFTA_EXPR_DATA, data);
    });
}

/// Messages one after the other.
struct Batch {
    family: Family,
    bytes: Vec<u8>,
    sequence: u32,
}

impl Batch {
    /// Begin or end of the transaction.
    fn frame(&mut self, kind: u16) {
        let subsystem = NFNL_SUBSYS_NFTABLES;
        self.put(kind, 0, 0, subsystem, |_| {});
    }

    fn message(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Attributes)) {
        self.put((NFNL_SUBSYS_NFTABLES << 8) | kind, flags, self.family as u8, 0, fill);
    }

    fn put(&mut self, kind: u16, flags: u16, family: u8, resource: u16, fill: impl FnOnce(&mut Attributes)) {
        let start = self.bytes.len();
        self.sequence += 1;
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&resource.to_be_bytes());
        fill(&mut Attributes(&mut self.bytes));
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }
}

/// Attributes of a message: length, type, value, padded to four bytes.
struct Attributes<'a>(&'a mut Vec<u8>);

impl Attributes<'_> {
    fn put(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes)) {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 2]);
        self.0.extend_from_slice(&kind.to_ne_bytes());
        fill(&mut Attributes(self.0));
        // Rules are small and their number is bounded, so no attribute comes near 64 KiB.
        let length = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.put(kind, |m| m.0.extend_from_slice(value));
    }

    fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    fn text(&mut self, kind: u16, value: &str) {
        self.put(kind, |m| {
            m.0.extend_from_slice(value.as_bytes());
            m.0.push(0);
        });
    }

    fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes)) {
        self.put(kind | NLA_F_NESTED, fill);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::redirect::rules::{SkipPorts, rules};

    fn field(bytes: &[u8], at: usize) -> usize {
        u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
    }

    #[test]
    fn lengths_lead_from_message_to_message_and_the_last_rule_asks_for_an_answer() {
        let (bytes, last) = replace_table(Family::Inet, "bowline", &rules(&SkipPorts::default()));
        let (mut at, mut count, mut asked) = (0, 0, Vec::new());
        while at < bytes.len() {
            count += 1;
            assert_eq!(field(&bytes, at + 8), count, "numbered in order");
            let flags = u16::from_ne_bytes(bytes[at + 6..at + 8].try_into().unwrap());
            if flags & NLM_F_ACK != 0 {
                asked.push(count as u32);
            }
            at += field(&bytes, at);
            assert_eq!(at % 4, 0);
        }
        assert_eq!(at, bytes.len());
        assert_eq!(asked, [last]);
        // Begin, table three times, two chains, 3 + 5 rules, end.
        assert_eq!(count, 1 + 3 + 2 + 8 + 1);
    }
}
