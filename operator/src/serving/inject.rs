//! Admission of pods, served by every replica: AdmissionReview → [`decide`] (pure) → [`sidecar`] → [`patch`] (pure) → answer.

mod body;
pub mod decide;
pub mod patch;
pub mod ports;
pub mod probes;
pub mod sidecar;
pub mod webhook;

pub use decide::{Decision, Plan, Refusal, decide};
pub use patch::patch;
pub use webhook::serve;

#[cfg(test)]
mod tests;
