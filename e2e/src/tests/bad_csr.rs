//! The certificate authority signs for nobody but the pod whose token is presented, and only what that pod is.
//!
//! Seen to fail: the good request in between shows that it is the badness that is refused; whatever is signed by mistake fails
//! its own line.

use anyhow::{Context as _, Result, bail, ensure};
use bowline_proxy::bootstrap::TOKEN_AUDIENCE;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use tonic::Code;

use crate::context::{Context, Figures, pods};
use crate::install::NAMESPACE;
use crate::meshed::authority::{self, Authority, Csr, Trust};
use crate::meshed::{self, App, MESH, SOON, app, expired, operator, spiffe};

/// Runs the test.
pub async fn run(cx: &Context) -> Result<Figures> {
    meshed::ensure(cx).await?;
    let ns = cx.temp_ns("e2e-csr", Some(MESH)).await?;
    let outside = cx.temp_ns("e2e-csr-outside", None).await?;
    app::deploy(cx, &ns, &[App::new("web"), App::new("other")]).await?;
    app::deploy(cx, &outside, &[App::new("stranger")]).await?;
    let web = cx.ready_pod(&ns, "app=web", SOON).await?;
    let other = cx.ready_pod(&ns, "app=other", SOON).await?;
    let stranger = cx.ready_pod(&outside, "app=stranger", SOON).await?;
    let trust = authority::trust(cx, &ns, MESH).await?;
    let secrets_before = secrets(cx).await?;

    let id = spiffe(&ns, "web");
    let mut asker = Asker { cx, trust: &trust, refused: 0 };
    let good = authority::token(cx, &web, TOKEN_AUDIENCE).await?;
    asker.signed(&good, &Csr::new(&[&id], &[])?.der).await.context("a good request")?;

    let audience = authority::token(cx, &web, "https://kubernetes.default.svc").await?;
    asker.refused("a token of another audience", &audience, &Csr::new(&[&id], &[])?.der).await?;
    let foreign = authority::token(cx, &other, TOKEN_AUDIENCE).await?;
    asker.refused("another pod's token", &foreign, &Csr::new(&[&id], &[])?.der).await?;
    let outsider = authority::token(cx, &stranger, TOKEN_AUDIENCE).await?;
    let its_own = spiffe(&outside, "stranger");
    asker.refused("a pod outside the mesh", &outsider, &Csr::new(&[&its_own], &[])?.der).await?;
    let deleted = token_of_deleted_pod(cx, &ns).await?;
    let its_own = spiffe(&ns, "default");
    asker.refused("the token of a pod that is gone", &deleted, &Csr::new(&[&its_own], &[])?.der).await?;
    asker.refused("a forged token", &forge(&good)?, &Csr::new(&[&id], &[])?.der).await?;
    if cx.env().kubeconfig.is_none() {
        // The signing key of somebody else's cluster is theirs.
        let key = cx.env().state.join("pki/sa.key");
        let key = std::fs::read_to_string(&key).with_context(|| format!("cannot read {}", key.display()))?;
        let expired = expired::expired(&good, &key)?;
        asker.refused("an expired token", &expired, &Csr::new(&[&id], &[])?.der).await?;
    }
    asker.refused("no token", "", &Csr::new(&[&id], &[])?.der).await?;
    asker.refused("an endless token", &"x".repeat(1 << 20), &Csr::new(&[&id], &[])?.der).await?;

    let wrong = [
        ("another namespace", vec![spiffe("kube-system", "web")], vec![]),
        ("another trust domain", vec![id.replace("cluster.local", "elsewhere.test")], vec![]),
        ("the control plane itself", vec![spiffe(NAMESPACE, operator::NAME)], vec![]),
        ("two identities", vec![id.clone(), spiffe(&ns, "other")], vec![]),
        ("a DNS name beside it", vec![id.clone()], vec!["bowline-control.bowline-system.svc"]),
        ("no identity", vec![], vec![]),
        ("no SPIFFE ID", vec!["https://example.com/".to_owned()], vec![]),
    ];
    for (what, uris, dns) in wrong {
        let uris: Vec<_> = uris.iter().map(String::as_str).collect();
        asker.refused(what, &good, &Csr::new(&uris, &dns)?.der).await?;
    }
    asker.refused("a signature that is not the key's", &good, &Csr::forged(&id)?.der).await?;
    asker.refused("no CSR at all", &good, b"nonsense").await?;
    let many: Vec<_> = (0..300).map(|n| spiffe(&ns, &format!("web-{n}"))).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    asker.refused("an oversized CSR", &good, &Csr::new(&many, &[])?.der).await?;

    let refused = asker.refused;
    asker.signed(&good, &Csr::new(&[&id], &[])?.der).await.context("a good request after all of these")?;
    ensure!(secrets(cx).await? == secrets_before, "refused requests left something in the operator's Secrets");
    healthy(cx).await?;
    Ok(Figures::new().with("refused", refused))
}

struct Asker<'a> {
    cx: &'a Context,
    trust: &'a Trust,
    refused: u32,
}

impl Asker<'_> {
    async fn signed(&self, token: &str, csr: &[u8]) -> Result<()> {
        let mut authority = Authority::connect(self.cx, self.trust).await?;
        match authority.sign(token, csr).await {
            Ok(answer) => {
                ensure!(answer.chain_der.len() >= 2, "a chain of {}", answer.chain_der.len());
                let bundle = answer.bundle.context("no bundle in the answer")?;
                ensure!(!bundle.roots_der.is_empty(), "an empty bundle in the answer");
                Ok(())
            }
            Err((code, message)) => bail!("refused with {code:?}: {message}"),
        }
    }

    /// A refusal blames the caller, says why, and shows no token.
    async fn refused(&mut self, what: &str, token: &str, csr: &[u8]) -> Result<()> {
        let mut authority = Authority::connect(self.cx, self.trust).await?;
        let Err((code, message)) = authority.sign(token, csr).await else { bail!("{what} was signed") };
        let blames = [
            Code::InvalidArgument,
            Code::Unauthenticated,
            Code::PermissionDenied,
            Code::FailedPrecondition,
            Code::NotFound,
            Code::OutOfRange,
            Code::ResourceExhausted,
        ];
        ensure!(blames.contains(&code), "{what} ended with {code:?}: {message}");
        ensure!(!message.contains("too many"), "{what} was refused for its number, not for what it is: {message}");
        ensure!(!message.is_empty(), "{what} was refused without a reason");
        ensure!(token.len() < 16 || !message.contains(token), "{what}: the refusal repeats the token");
        self.refused += 1;
        Ok(())
    }
}

/// Changes one character in the middle of the signature.
fn forge(token: &str) -> Result<String> {
    let dot = token.rfind('.').context("a token without signature")?;
    let at = dot + (token.len() - dot) / 2;
    let other = if &token[at..=at] == "A" { "B" } else { "A" };
    Ok(format!("{}{other}{}", &token[..at], &token[at + 1..]))
}

async fn token_of_deleted_pod(cx: &Context, ns: &str) -> Result<String> {
    let pod = app::pod("brief", serde_json::json!({}), serde_json::json!({ "serviceAccountName": "default" }));
    cx.apply_yaml(ns, &pod.to_string()).await?;
    let pod = cx.ready_pod(ns, "app=brief", SOON).await?;
    let token = authority::token(cx, &pod, TOKEN_AUDIENCE).await?;
    let api = Api::<Pod>::namespaced(cx.client(), ns);
    let name = pods::name(&pod);
    api.delete(&name, &DeleteParams::default().grace_period(0)).await?;
    cx.eventually(SOON, "the pod does not go", || async {
        ensure!(api.get_opt(&name).await?.is_none(), "it is there");
        Ok(())
    })
    .await?;
    Ok(token)
}

/// Names, keys and versions of the operator's Secrets.
async fn secrets(cx: &Context) -> Result<Vec<String>> {
    let list = Api::<Secret>::namespaced(cx.client(), NAMESPACE).list(&ListParams::default()).await?;
    Ok(list
        .iter()
        .map(|s| format!("{:?} {:?}", s.metadata.name, s.data.iter().flatten().collect::<Vec<_>>()))
        .collect())
}

/// Nobody crashed over it.
async fn healthy(cx: &Context) -> Result<()> {
    for pod in operator::pods(cx).await? {
        let restarts: i32 = pods::restarts(&pod).iter().map(|(_, n)| n).sum();
        ensure!(pods::is_ready(&pod) && restarts == 0, "{} restarted {restarts} times", pods::name(&pod));
    }
    Ok(())
}
