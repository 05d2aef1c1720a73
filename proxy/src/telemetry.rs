//! What is measured and told: counts and durations come in from the data path, states from everywhere; Prometheus text, log lines and
//! the causes behind readiness go out.

pub mod health;
pub mod logs;
pub mod metrics;
