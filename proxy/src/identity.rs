//! Who a workload is: its SPIFFE ID, and (with the data plane) how it gets and keeps the leaf that proves it.

pub mod spiffe;
