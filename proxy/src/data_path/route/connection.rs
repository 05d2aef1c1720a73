//! Where a connection goes.

use std::rc::Rc;

use crate::{contract::resource::Protocol, data_path::route::request::Route, telemetry::metrics::Direction};

/// See the module.
pub(crate) struct ConnectionRoute {
    /// The port that the client connected to.
    pub(crate) port: u16,
    pub(crate) declared: Protocol,
    /// Where its requests go.
    pub(crate) route: Route,
    pub(crate) direction: Direction,
    /// `namespace/name` of the service, for metrics.
    pub(crate) service: Rc<str>,
}

/// What is declared for a port.
pub(super) fn protocol(declared: &[(u16, Protocol)], port: u16) -> Protocol {
    declared.binary_search_by_key(&port, |(p, _)| *p).map_or(Protocol::Detect, |i| declared[i].1)
}
