//! Container images without a registry. In: static binaries and Containerfiles. Out: docker archives below `target/e2e/images`, loaded into
//! the containerd of every node.

pub mod base;
pub mod build;
pub mod cert_manager;
pub mod compile;
pub mod load;
pub mod product;
