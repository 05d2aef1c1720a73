//! One AdmissionReview → its answer. Decides from memory; has no side effects, so dry runs need no care.

use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use k8s_openapi::api::core::v1::Pod;
use kube::core::{
    DynamicObject,
    admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, Operation},
};
use prometheus_client::metrics::{counter::Counter, family::Family};

use super::{
    body::{BodyError, BodyLimits},
    decide::{Decision, decide},
    patch::patch,
    probes::Key,
};
use crate::{
    cluster::lookup::MembershipLookup,
    runtime::listener::{ConnectionPermit, ReasonLabel},
};

/// Largest review, in bytes: the API server takes objects of up to 3 MiB, in JSON.
const MAX_BODY_BYTES: usize = 8 << 20;
/// Bytes of all reviews that are being read or decided. What is made of a review takes a few times as much.
const ALL_BODIES_BYTES: usize = 32 << 20;

/// Reviews pods.
#[derive(Clone)]
pub(super) struct Reviewer {
    memberships: MembershipLookup,
    image: String,
    reviews: Family<ReasonLabel, Counter>,
    bodies: BodyLimits,
}

impl Reviewer {
    /// Injects `image` where a Mesh names none; counts `reviews` by outcome.
    pub(super) fn new(memberships: MembershipLookup, image: String, reviews: Family<ReasonLabel, Counter>) -> Self {
        Self { memberships, image, reviews, bodies: BodyLimits::new(MAX_BODY_BYTES, ALL_BODIES_BYTES) }
    }
}

type Review = AdmissionReview<Pod>;

/// One request on the connection that holds `permit`.
pub(super) async fn answer(
    State(reviewer): State<Reviewer>,
    Extension(permit): Extension<ConnectionPermit>,
    body: Body,
) -> Response {
    let count = |outcome| reviewer.reviews.get_or_create(&ReasonLabel { reason: outcome }).inc();
    let read = reviewer.bodies.read(body).await;
    // Not before the whole review is there: whoever sends slowly would keep a connection for next to nothing.
    let _in_use = permit.in_use();
    // The permit is kept until the answer is there.
    let (request, _permit) = match read {
        Ok((body, permit)) => (parse(&body), Some(permit)),
        Err(error @ BodyError::TooLarge { .. }) => (Err(error.to_string()), None),
        Err(error @ (BodyError::Evicted { .. } | BodyError::Full { .. } | BodyError::Broken(_))) => {
            tracing::warn!(%error, "an admission review is not read");
            count("unread");
            return (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response();
        }
    };
    let (response, outcome) = match request {
        Ok(request) => reviewer.review(&request).await,
        Err(error) => {
            tracing::warn!(error, "an admission review cannot be read");
            (AdmissionResponse::invalid(error), "invalid")
        }
    };
    count(outcome);
    Json::<AdmissionReview<DynamicObject>>(response.into_review()).into_response()
}

fn parse(body: &[u8]) -> Result<AdmissionRequest<Pod>, String> {
    let review: Review = serde_json::from_slice(body).map_err(|e| format!("this is no AdmissionReview: {e}"))?;
    review.try_into().map_err(|_| "the AdmissionReview holds no request".to_owned())
}

impl Reviewer {
    async fn review(&self, request: &AdmissionRequest<Pod>) -> (AdmissionResponse, &'static str) {
        let allowed = AdmissionResponse::from(request);
        let (Operation::Create, Some(pod), Some(namespace)) = (&request.operation, &request.object, &request.namespace)
        else {
            return (allowed, "skipped");
        };
        let who = pod.metadata.name.as_ref().or(pod.metadata.generate_name.as_ref()).map_or("", String::as_str);
        let decision = match self.memberships.of(namespace).await {
            Ok((namespace, membership)) => decide(pod, &namespace, &membership, &self.image, &Key::random()),
            Err(error) => {
                tracing::warn!(namespace, pod = who, %error, "a pod cannot be judged");
                let message =
                    format!("Bowline cannot tell which mesh namespace {namespace} belongs to: {error}; try again");
                return (allowed.deny(message), "error");
            }
        };
        match decision {
            Decision::Skip(reason) => {
                tracing::debug!(namespace, pod = who, reason, "a pod gets no sidecar");
                (allowed, "skipped")
            }
            Decision::Refuse(refusal) => {
                tracing::info!(namespace, pod = who, reason = %refusal, "a pod is refused");
                (allowed.deny(format!("Bowline: {refusal}")), "refused")
            }
            Decision::Inject(plan) => {
                let patch = patch(pod, &plan);
                let outcome = if plan.present { "present" } else { "injected" };
                tracing::debug!(namespace, pod = who, outcome, mesh = plan.sidecar.mesh, "a pod has its sidecar");
                if patch.0.is_empty() {
                    return (allowed, outcome);
                }
                let denied = allowed.clone();
                match allowed.with_patch(patch) {
                    Ok(patched) => (patched, outcome),
                    Err(error) => (denied.deny(format!("Bowline: {error}")), "error"),
                }
            }
        }
    }
}
