//! What happens to requests, tunnels and connections comes in; metrics and lines of log go out, and traces would.

pub(crate) mod reporter;
pub(crate) mod request;
