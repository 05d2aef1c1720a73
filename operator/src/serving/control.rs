//! Configuration for proxies: objects of the cluster come in, resources that each proxy subscribes to go out on its stream.
//!
//! [`watch`] takes what changed in the caches → [`view`] keeps of an object what matters → [`index`] says which resources a change
//! touches → [`compile`] makes a resource as the proxies of a Mesh see it → [`subscriptions`] know who is sent it → [`stream`] sends it.
//! Views, index and compiler are pure: this is where a policy becomes resources. What proxies acknowledge and report is kept in
//! [`reports`](super::reports).

pub mod app_protocol;
pub mod compile;
pub mod index;
pub mod key;
pub mod metrics;
mod pending_hellos;
pub mod service;
mod sessions;
pub mod stream;
pub mod subscriptions;
pub mod view;
pub mod watch;

#[cfg(test)]
mod tests;
