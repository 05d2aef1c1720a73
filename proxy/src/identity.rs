//! Who a workload is: its SPIFFE ID, and (with the data plane) how it gets and keeps the leaf that proves it:
//! mount → key → csr → client → leaf → store, over and over by renew.

pub mod spiffe;

#[cfg(feature = "data-plane")]
pub mod client;
#[cfg(feature = "data-plane")]
pub mod csr;
#[cfg(feature = "data-plane")]
pub mod key;
#[cfg(feature = "data-plane")]
pub mod leaf;
#[cfg(feature = "data-plane")]
pub mod mount;
#[cfg(feature = "data-plane")]
pub mod renew;
#[cfg(feature = "data-plane")]
pub mod store;
#[cfg(all(test, feature = "data-plane"))]
pub(crate) mod test_ca;
