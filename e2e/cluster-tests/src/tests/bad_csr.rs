//! The certificate authority signs for nobody but the pod whose token is presented, and only what that pod is.
//!
//! Seen to fail: what is refused with a bad token is signed with a good one, byte for byte, and every refusal says what it is for;
//! whatever is signed by mistake fails its own line.

use anyhow::{Context as _, Result, bail, ensure};
use bowline_operator::ca::issuance::sign_error::MAX_CSR_BYTES;
use bowline_proxy::contract::bootstrap::TOKEN_AUDIENCE;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use tonic::Code;

use crate::context::{Context, Figures, pods};
use crate::meshed::authority::{self, Csr, Trust};
use crate::meshed::{self, App, MESH, SOON, app, expired, operator, spiffe};
use e2e::cluster::install::NAMESPACE;

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
    let mut client = SigningClient { cx, trust: &trust, refused: 0 };
    let good = authority::token(cx, &web, TOKEN_AUDIENCE).await?;
    // The same request with every token: what is wrong can only be the token.
    let csr = Csr::new(&[&id], &[])?.der;
    client.signed(&good, &csr).await.context("a good request")?;
    for (what, token, word) in tokens(cx, &ns, &web, &other, &good).await? {
        client.refused(what, &token, &csr, word).await?;
    }
    let outsider = authority::token(cx, &stranger, TOKEN_AUDIENCE).await?;
    let its_own = Csr::new(&[&spiffe(&outside, "stranger")], &[])?;
    client.refused("a pod outside the mesh", &outsider, &its_own.der, "is not in Mesh").await?;
    client.signed(&good, &csr).await.context("the same request with the right token")?;
    requests(&mut client, &ns, &id, &good).await?;

    let refused = client.refused;
    client.signed(&good, &Csr::new(&[&id], &[])?.der).await.context("a good request after all of these")?;
    ensure!(secrets(cx).await? == secrets_before, "refused requests left something in the operator's Secrets");
    let restarts = healthy(cx).await?;
    Ok(Figures::new().with("refused", refused).with("container_restarts", restarts))
}

/// Tokens that prove nobody, or somebody else, and what the refusal of each must speak of.
async fn tokens(
    cx: &Context,
    ns: &str,
    web: &Pod,
    other: &Pod,
    good: &str,
) -> Result<Vec<(&'static str, String, &'static str)>> {
    let mut tokens = vec![
        ("a token of another audience", authority::token(cx, web, "https://kubernetes.default.svc").await?, "audience"),
        ("another pod's token", authority::token(cx, other, TOKEN_AUDIENCE).await?, "asks for"),
        ("the token of a pod that is gone", token_of_deleted_pod(cx, ns).await?, "token"),
        ("a forged token", forge(good)?, "the token is refused"),
        ("no token", String::new(), "no token"),
        ("an endless token", "x".repeat(1 << 20), "bytes"),
    ];
    if cx.env().kubeconfig.is_none() {
        // The signing key of somebody else's cluster is theirs.
        let key = cx.env().state.join("pki/sa.key");
        let key = std::fs::read_to_string(&key).with_context(|| format!("cannot read {}", key.display()))?;
        tokens.push(("an expired token", expired::expired(good, &key)?, "expired"));
    }
    Ok(tokens)
}

/// Requests that ask for more than the pod is, or that are none.
async fn requests(client: &mut SigningClient<'_>, ns: &str, id: &str, good: &str) -> Result<()> {
    let wrong = [
        ("another namespace", vec![spiffe("kube-system", "web")], vec![]),
        ("another trust domain", vec![id.replace("cluster.local", "elsewhere.test")], vec![]),
        ("the control plane itself", vec![spiffe(NAMESPACE, operator::NAME)], vec![]),
        ("two identities", vec![id.to_owned(), spiffe(ns, "other")], vec![]),
        ("a DNS name beside it", vec![id.to_owned()], vec!["bowline-control.bowline-system.svc"]),
        ("no identity", vec![], vec![]),
        ("no SPIFFE ID", vec!["https://example.com/".to_owned()], vec![]),
    ];
    for (what, uris, dns) in wrong {
        let uris: Vec<_> = uris.iter().map(String::as_str).collect();
        client.refused(what, good, &Csr::new(&uris, &dns)?.der, "asks for").await?;
    }
    let forged = Csr::forged(id)?.der;
    client.refused("a signature that is not the key's", good, &forged, "not signed with its own key").await?;
    client.refused("no CSR at all", good, b"nonsense", "PKCS #10").await?;
    let many: Vec<_> = (0..300).map(|n| spiffe(ns, &format!("web-{n}"))).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let oversized = Csr::new(&many, &[])?.der;
    let limit = format!("{} bytes: at most {MAX_CSR_BYTES}", oversized.len());
    client.refused("an oversized CSR", good, &oversized, &limit).await
}

struct SigningClient<'a> {
    cx: &'a Context,
    trust: &'a Trust,
    refused: u32,
}

impl SigningClient<'_> {
    async fn signed(&self, token: &str, csr: &[u8]) -> Result<()> {
        match authority::ask(self.cx, self.trust, token, csr).await? {
            Ok(answer) => {
                ensure!(answer.chain_der.len() >= 2, "a chain of {}", answer.chain_der.len());
                let bundle = answer.bundle.context("no bundle in the answer")?;
                ensure!(!bundle.roots_der.is_empty(), "an empty bundle in the answer");
                Ok(())
            }
            Err((code, message)) => bail!("refused with {code:?}: {message}"),
        }
    }

    /// A refusal blames the caller, says why (`word` is part of it), and shows no token.
    async fn refused(&mut self, what: &str, token: &str, csr: &[u8], word: &str) -> Result<()> {
        let signed = authority::ask(self.cx, self.trust, token, csr).await?;
        let Err((code, message)) = signed else { bail!("{what} was signed") };
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
        ensure!(message.contains(word), "{what} was refused for something else than {word:?}: {message}");
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

/// Nobody crashed over it; returns the restarts, of which there are none.
async fn healthy(cx: &Context) -> Result<i32> {
    for pod in operator::pods(cx).await? {
        let restarts: i32 = pods::restarts(&pod).iter().map(|(_, n)| n).sum();
        ensure!(pods::is_ready(&pod) && restarts == 0, "{} restarted {restarts} times", pods::name(&pod));
    }
    Ok(0)
}
