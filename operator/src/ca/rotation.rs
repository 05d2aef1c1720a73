//! The decisions: when an authority is replaced, which step comes next, and who holds it. Pure: no client, no clock, no key.
//!
//! Comes in: the [`ledger`], the [`policy`] of the Mesh, the [`evidence`] and the time. Goes out: [`write`](mod@write)s, which [`transition`] applies to
//! the ledger, and who is waited for ([`guard`]). [`decide`] chooses: what begins a rotation or turns one back is in [`trigger`], the steps
//! are in [`advance`]; [`origin`] says which copy of a lost state counts, [`risk`] whether trust ends before a rotation can.

pub mod advance;
pub mod decide;
pub mod evidence;
pub mod guard;
pub mod ledger;
pub mod origin;
pub mod policy;
pub mod risk;
pub mod transition;
pub mod trigger;
pub mod write;

#[cfg(test)]
mod model;
#[cfg(test)]
mod years;
