//! What one request tells, from its first attempt to the end of its response: gathered here once, for the load of its endpoint and for
//! metrics. Access logs and traces are to be told here too.

use std::{ops::Deref, rc::Rc, time::Instant};

use http::StatusCode;

use crate::{
    data_path::{connect::endpoint::Candidate, failure::Failure, observe::reporter::Reporter},
    telemetry::metrics::{Direction, UNKNOWN},
};

/// A request in flight at an endpoint; it counts as given up unless its outcome is noted.
pub(crate) struct InFlight<C: Deref<Target = Candidate>> {
    candidate: C,
    is_finished: bool,
}

impl<C: Deref<Target = Candidate>> InFlight<C> {
    pub(crate) fn new(candidate: C) -> Self {
        candidate.endpoint.load.request_started();
        Self { candidate, is_finished: false }
    }

    /// There is an answer, or none will come.
    pub(crate) fn finish(&mut self) {
        self.is_finished = true;
    }
}

impl<C: Deref<Target = Candidate>> Drop for InFlight<C> {
    fn drop(&mut self) {
        self.candidate.endpoint.load.request_ended();
        if !self.is_finished {
            self.candidate.series.unanswered();
        }
    }
}

/// An endpoint answered a request that it was sent when it `began`.
pub(crate) fn answered(candidate: &Candidate, status: StatusCode, began: Instant) {
    let now = Instant::now();
    candidate.endpoint.load.answered(now.duration_since(began), now);
    candidate.series.answered(status);
}

/// The proxy itself replies to a request of a client of `service`, with why.
pub(crate) fn refused(reporter: &Reporter, direction: Direction, service: &str, failure: &Failure) {
    reporter.refused(direction, failure);
    // Nobody answered, so nobody is named.
    reporter.metrics.http(direction, service, UNKNOWN).answered(failure.status());
}

/// Tells how long a request took when its response has ended.
pub(crate) struct ResponseTimer {
    candidate: Rc<Candidate>,
    started: Instant,
}

impl ResponseTimer {
    /// Of a request that came when it `started`.
    pub(crate) fn new(candidate: Rc<Candidate>, started: Instant) -> Self {
        Self { candidate, started }
    }
}

impl Drop for ResponseTimer {
    fn drop(&mut self) {
        self.candidate.series.took(self.started.elapsed());
    }
}
