//! What subscriptions may take, of one proxy and of all together.

use super::super::{index::Subject, key::Key};

/// Most resources that one proxy may subscribe to.
pub const MAX_SUBSCRIPTIONS: usize = 20_000;
/// Bytes that all subscriptions together may take, about: a hundred each for 5,000 proxies, and half of what the operator may have.
pub(in crate::serving::control) const ALL_BYTES: usize = 192 << 20;

/// A proxy subscribes to more than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooManySubscriptions {
    /// By itself.
    #[error("more than {MAX_SUBSCRIPTIONS} resources are subscribed: unsubscribe what is no longer used")]
    OfOne,
    /// Together with all others, of whom it subscribes to the most.
    #[error(
        "all proxies together subscribe to more than this replica holds, and this one to the most: unsubscribe what is no longer used"
    )]
    OfAll,
}

/// What a key takes in the registry, at its subscriber and at its stream, in bytes, without its text.
const KEY_BYTES: usize = 400;
/// How often its text is kept.
const COPIES: usize = 4;

/// What a subscribed key takes, about, in bytes. Compiled resources are shared, and bounded by what there is in the cluster.
pub(in crate::serving::control) fn cost(key: &Key) -> usize {
    let text = match key {
        Key::Bundle | Key::Subject(Subject::Address(_)) => 0,
        Key::Subject(Subject::Inbound(name) | Subject::Service(name)) => name.namespace.len() + name.name.len(),
    };
    KEY_BYTES + COPIES * text
}
