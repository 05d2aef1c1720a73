//! Projected token → TokenReview → caller.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bowline_proxy::contract::bootstrap::TOKEN_AUDIENCE;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{Api, Client, api::PostParams};
use tokio::sync::Semaphore;

use super::refused::Refused;
use crate::cluster::namespaced_name::NamespacedName;

/// Most TokenReviews at a time: the API server is asked once for every leaf, and a whole cluster may start at once.
const MAX_REVIEWS: usize = 32;
/// How long a caller waits until it may ask, and then for the answer.
const DEADLINE: Duration = Duration::from_secs(4);
/// Largest token, in bytes.
const MAX_TOKEN_BYTES: usize = 16 << 10;

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Who holds a token: a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Namespace of pod and service account.
    pub namespace: String,
    /// Service account.
    pub service_account: String,
    /// The pod that the token is bound to.
    pub pod: NamespacedName,
    /// Its UID.
    pub uid: String,
}

/// Asks the API server about tokens.
pub struct TokenReviews {
    api: Api<TokenReview>,
    permits: Arc<Semaphore>,
}

impl TokenReviews {
    /// Asks with `client`.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { api: Api::all(client), permits: Arc::new(Semaphore::new(MAX_REVIEWS)) }
    }

    /// Whose token it is.
    ///
    /// # Errors
    /// When it is nobody's, not meant for us, or cannot be judged now.
    pub async fn authenticate(&self, token: &str) -> Result<Caller, Refused> {
        if token.is_empty() {
            return Err(Refused::Unauthenticated(format!(
                "the request has no token: send one with audience {TOKEN_AUDIENCE}"
            )));
        }
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Refused::Request(format!("the token has more than {MAX_TOKEN_BYTES} bytes")));
        }
        let permit = tokio::time::timeout(DEADLINE, self.permits.acquire()).await;
        let _permit = permit.map_err(|_| Refused::Limited("too many signing requests: try again in a few seconds"))?;
        let review = TokenReview {
            spec: TokenReviewSpec { audiences: Some(vec![TOKEN_AUDIENCE.into()]), token: Some(token.into()) },
            ..TokenReview::default()
        };
        let params = PostParams::default();
        let answer = tokio::time::timeout(DEADLINE, self.api.create(&params, &review)).await;
        let answer = answer.map_err(|_| "no answer in time".to_owned()).and_then(|r| r.map_err(|e| e.to_string()));
        let review = answer.map_err(|error| {
            tracing::warn!(error, "a token cannot be reviewed");
            Refused::Unavailable("the API server cannot review the token now: try again".into())
        })?;
        caller(&review.status.unwrap_or_default())
    }
}

/// Reads the answer.
///
/// # Errors
/// When the token is not good, or is no pod's.
pub fn caller(status: &TokenReviewStatus) -> Result<Caller, Refused> {
    let unauthenticated = |why: String| Err(Refused::Unauthenticated(why));
    if status.authenticated != Some(true) {
        // The API server's own words name reasons such as an expired token or a wrong audience; they do not repeat it.
        let why: String = status.error.as_deref().unwrap_or("it is not valid").chars().take(200).collect();
        return unauthenticated(format!(
            "the token is refused: {why}; send the pod's current projected token with audience {TOKEN_AUDIENCE}"
        ));
    }
    if !status.audiences.iter().flatten().any(|a| a == TOKEN_AUDIENCE) {
        return unauthenticated(format!("the token is not meant for {TOKEN_AUDIENCE}: send one with that audience"));
    }
    let user = status.user.clone().unwrap_or_default();
    let username = user.username.unwrap_or_default();
    let account = username.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    let Some((namespace, service_account)) = account else {
        return unauthenticated("the token is no service account's: send the pod's projected token".into());
    };
    let extra: BTreeMap<String, Vec<String>> = user.extra.unwrap_or_default();
    let one = |key: &str| extra.get(key).and_then(|v| v.first()).filter(|v| !v.is_empty()).cloned();
    let (Some(pod), Some(uid)) = (one(POD_NAME), one(POD_UID)) else {
        return unauthenticated("the token is bound to no pod: send the pod's projected token".into());
    };
    Ok(Caller {
        namespace: namespace.to_owned(),
        service_account: service_account.to_owned(),
        pod: NamespacedName::new(namespace, pod),
        uid,
    })
}
