//! Admission of pods, served by every replica: an AdmissionReview comes in, a JSON patch or a refusal goes out. [`webhook`] → [`review`] →
//! [`decide`] (pure) → [`sidecar`] → [`patch`] (pure) → answer.

mod body;
pub mod decide;
pub mod patch;
pub mod ports;
pub mod probes;
mod review;
pub mod sidecar;
pub mod webhook;

#[cfg(test)]
mod tests;
