//! The throw-away cluster: a real Kubernetes in namespaces of this machine, without an uplink. In: programs and images. Out: nodes that are
//! Ready, the operator installed on them, and `kubectl` for everybody above.

pub mod health;
pub mod install;
pub mod kubectl;
pub mod poll;
pub mod up;
