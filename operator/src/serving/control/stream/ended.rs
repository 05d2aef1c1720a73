//! How control streams end, and what proxies are told.

use tonic::Status;

use super::super::subscriptions::limits::TooManySubscriptions;

/// Why a stream ended.
pub(super) enum Ended {
    Closed,
    Broken,
    Slow,
    TooMany(TooManySubscriptions),
    Replaced,
    Confused(&'static str),
    Old,
    Shutdown,
}

impl Ended {
    /// Metric label, and what the proxy is told.
    pub(in crate::serving::control) fn into_status(self) -> (&'static str, Option<Status>) {
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
pub(in crate::serving::control) fn reason(error: TooManySubscriptions) -> &'static str {
    match error {
        TooManySubscriptions::OfOne => "too-many",
        TooManySubscriptions::OfAll => "made-room",
    }
}

/// What a proxy is told.
pub(in crate::serving::control) fn too_many(error: TooManySubscriptions) -> Status {
    Status::resource_exhausted(error.to_string())
}
