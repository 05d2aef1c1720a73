//! One condition of a status.

use std::time::SystemTime;

use bowline_crds::Mesh;
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

use crate::ca::unix_time::unix;

/// A condition without generation and time.
pub(super) struct Draft {
    kind: &'static str,
    holds: Option<bool>,
    reason: &'static str,
    message: String,
}

pub(super) fn draft(kind: &'static str, holds: bool, reason: &'static str, message: impl Into<String>) -> Draft {
    Draft { kind, holds: Some(holds), reason, message: message.into() }
}

impl Draft {
    /// The time of the last transition stays while the status does.
    pub(super) fn finish(self, mesh: &Mesh, before: &[Condition], now: SystemTime) -> Condition {
        let status = match self.holds {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        };
        let unchanged = before.iter().find(|c| c.type_ == self.kind && c.status == status);
        Condition {
            type_: self.kind.into(),
            status: status.into(),
            reason: self.reason.into(),
            message: bounded(self.message),
            observed_generation: mesh.metadata.generation,
            last_transition_time: unchanged.map_or_else(|| time(unix(now)), |c| c.last_transition_time.clone()),
        }
    }
}

/// The API takes messages of at most 32 KiB; nobody reads that many.
fn bounded(mut message: String) -> String {
    const MOST: usize = 2048;
    if message.len() > MOST {
        message.truncate(message.floor_char_boundary(MOST - 4));
        message.push_str(" ...");
    }
    message
}

/// Dates far outside of what certificates know become the epoch.
pub(super) fn time(seconds: u64) -> Time {
    let at = i64::try_from(seconds).ok().and_then(|s| Timestamp::from_second(s).ok());
    Time(at.unwrap_or(Timestamp::UNIX_EPOCH))
}
