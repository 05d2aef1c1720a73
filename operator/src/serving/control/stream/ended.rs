//! How control streams end, and what proxies are told.

use tonic::Status;

use super::TooMany;

/// Why a stream ended.
pub(super) enum Ended {
    Closed,
    Broken,
    Slow,
    TooMany(TooMany),
    Replaced,
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
            Self::TooMany(error) => (reason(error), Some(too_many(error))),
            Self::Replaced => ("replaced", Some(Status::aborted("this slot of the pod has opened another stream"))),
            Self::Confused(what) => {
                ("confused", Some(Status::invalid_argument(format!("{what} is not expected here"))))
            }
            Self::Old => ("old", Some(Status::unavailable("the stream has served its time: open another"))),
            Self::Shutdown => ("shutdown", Some(Status::unavailable("this replica ends: open a stream to another"))),
        }
    }
}

/// Metric label.
pub(super) fn reason(error: TooMany) -> &'static str {
    match error {
        TooMany::OfOne => "too-many",
        TooMany::OfAll => "made-room",
    }
}

/// What a proxy is told.
pub(super) fn too_many(error: TooMany) -> Status {
    Status::resource_exhausted(error.to_string())
}
