//! How control streams end, and what proxies are told.

use tonic::Status;

use super::{TooMany, too_many};

/// Why a stream ended.
pub(super) enum Ended {
    Closed,
    Broken,
    Slow,
    TooMany,
    Confused(&'static str),
    Old,
    Shutdown,
}

impl Ended {
    /// Metric label, and what the proxy is told.
    pub(super) fn into_status(self) -> (&'static str, Option<Status>) {
        match self {
            Self::Closed => ("closed", None),
            Self::Broken => ("broken", None),
            Self::Slow => ("slow", Some(Status::aborted("nothing was taken from the stream for 30 seconds"))),
            Self::TooMany => ("too-many", Some(too_many(TooMany))),
            Self::Confused(what) => {
                ("confused", Some(Status::invalid_argument(format!("{what} is not expected here"))))
            }
            Self::Old => ("old", Some(Status::unavailable("the stream has served its time: open another"))),
            Self::Shutdown => ("shutdown", Some(Status::unavailable("this replica ends: open a stream to another"))),
        }
    }
}
