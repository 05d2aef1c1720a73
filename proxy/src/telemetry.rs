//! What is measured and reported. Counts and durations come in from the data path ([`metrics`]), states and errors from all parts
//! ([`health`]); OpenMetrics text (`openmetrics`), log lines ([`logs`]) and the causes behind readiness go out.

pub mod health;
pub mod logs;
pub mod metrics;
mod openmetrics;
