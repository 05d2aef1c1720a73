//! The CSR service: a pod's token and signing request come in, its leaf and the trust bundle go out. Who calls ([`authenticate`]:
//! TokenReview → caller), whether it may have an identity ([`authorize`]), then the CA signs. Nothing is written anywhere, so a refusal
//! leaves nothing behind.

pub mod authenticate;
pub mod authorize;
pub mod metrics;
pub mod rate_limit;
pub mod refused;
pub mod service;
