//! Programs of third parties. In: Go modules pinned in `e2e/cluster/go`. Out: static programs, kept outside the checkout by the digest of
//! their pins.

pub mod build;
pub mod cert_manager;
pub mod kubernetes;
