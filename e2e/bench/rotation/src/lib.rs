//! How long a rotation of the root takes with many proxies, and what it costs the operator. In: numbers of proxies and replicas. Out: an
//! [`Outcome`](outcome::Outcome).
//!
//! One process, over loopback: the operator's replicas as they are ([`operator`]) beside an API server in memory ([`api`], [`cluster`]), a
//! stand-in for their Service ([`service`]), and the proxy's own identity and control client once for every simulated pod ([`fleet`]).
//! Each part has threads of its own name, so that [`usage`] can tell who spent the processor's time. [`measure`] puts them together.
//!
//! Floors, from the ground up: `api`, `usage` < `cluster` < `service`, `operator`, `fleet` < `outcome`, `phases`, `check` < `measure`.

mod api;
mod check;
mod cluster;
mod fleet;
pub mod measure;
mod operator;
pub mod outcome;
mod phases;
mod service;
mod usage;
