//! A Service's endpoints come in, as the control plane knows them; the endpoint for the next request goes out.

pub(crate) mod attempted;
pub(crate) mod balancer;
mod eligible;
pub(crate) mod locality;
pub(crate) mod registry;
