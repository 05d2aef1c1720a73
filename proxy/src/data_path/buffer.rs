//! Bytes on their way between two connections go in and out: the bodies of messages, what was read ahead, writes that are gathered; and
//! how many of them may wait in this process.

pub(crate) mod activity;
pub(crate) mod body;
pub(crate) mod coalesce;
pub(crate) mod expect;
pub(crate) mod prefixed;
pub(crate) mod send;
pub(crate) mod trim;
pub(crate) mod windows;
