//! Nodes as processes of this machine. In: the programs of a cluster. Out: namespaces, cgroups, keys and files in which they run, and their
//! complete removal; all of it is below [`Env::state`](crate::host::env::Env::state).

pub mod audit;
pub mod cgroups;
pub mod init;
pub mod network;
pub mod node_files;
pub mod pki;
pub mod start_node;
pub mod state;
pub mod take_down;
