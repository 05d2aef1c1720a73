//! Where the requests of a connection go, decided for each attempt of each request.

use std::{rc::Rc, sync::Arc};

use crate::{
    control::state::State,
    data_path::{
        balance::balancer::Balancer,
        connect::endpoint::Candidate,
        failure::Failure,
        route::{attempts::Attempts, permission, pod::Pod},
    },
};

/// Where the requests of a connection go.
pub(crate) enum Route {
    /// To exactly this endpoint.
    Direct(Rc<Candidate>),
    /// To the application of this pod, for a client without mutual TLS: as long as the policy permits it.
    Plaintext(Rc<Candidate>, Arc<State>),
    /// To the pod that was addressed.
    Pod(Box<Pod>),
    /// To any eligible endpoint of a Service's port.
    Balanced(Rc<Balancer>),
}

impl Route {
    /// The endpoint for the next attempt of a request.
    ///
    /// # Errors
    /// When the request is not permitted, or there is no endpoint.
    pub(crate) fn pick(&self, attempts: &Attempts) -> Result<Rc<Candidate>, Failure> {
        match self {
            Self::Direct(candidate) => Ok(Rc::clone(candidate)),
            Self::Plaintext(candidate, state) => {
                // What is in progress finishes, with another attempt if it takes one.
                if attempts.is_first() {
                    permission::plaintext_request(state.is_strict())?;
                }
                Ok(Rc::clone(candidate))
            }
            Self::Pod(pod) => Ok(Rc::clone(&pod.candidate)),
            Self::Balanced(balancer) => balancer.pick(&attempts.failed),
        }
    }

    /// Whether there is an endpoint that was not attempted.
    pub(super) fn has_other(&self, attempts: &Attempts) -> bool {
        match self {
            Self::Direct(_) | Self::Plaintext(..) | Self::Pod(_) => false,
            Self::Balanced(balancer) => balancer.has_other(&attempts.failed),
        }
    }

    /// Takes note of why a request failed for good.
    pub(super) fn failed(&self, failure: &Failure) {
        if let Self::Pod(pod) = self {
            pod.failed(failure.reason);
        }
    }

    /// Whether connections that take it are to end: see [`Pod`] and [`Route::Plaintext`].
    pub(crate) fn is_withdrawn(&self) -> bool {
        match self {
            Self::Plaintext(_, state) => state.is_strict(),
            Self::Pod(pod) => pod.is_gone(),
            Self::Direct(_) | Self::Balanced(_) => false,
        }
    }

    /// Waits until connections that take it are to end.
    pub(crate) async fn withdrawn(&self) {
        match self {
            Self::Plaintext(_, state) => Box::pin(state.strict()).await,
            Self::Pod(pod) => Box::pin(pod.until_gone()).await,
            Self::Direct(_) | Self::Balanced(_) => std::future::pending().await,
        }
    }
}
