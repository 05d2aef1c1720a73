//! `cargo e2e demo`: from nothing to a mesh with traffic in it, and what there is to see.

pub mod metrics;
mod traffic;

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use self::traffic::{Expected, Traffic};
use crate::cluster::health::is_ready;
use crate::cluster::install;
use crate::cluster::kubectl::{kubectl, kubectl_command, pods};
use crate::cluster::poll::poll;
use crate::cluster::up;
use crate::host::env::Env;
use crate::host::progress::{Steps, say, step};
use crate::images::compile::{self, Profile};
use crate::images::load;
use crate::images::product::finish_and_load;
use crate::programs::kubernetes::Programs;
use crate::report::figures::Figures;

const SHOP: &str = "bowline-demo";
const OUTSIDE: &str = "bowline-demo-outside";
const SOON: Duration = Duration::from_secs(90);
/// The header by which a proxy says why it answered by itself, and what it says to plaintext under Strict.
pub const REASON_HEADER: &str = "bowline-reason";
/// See [`REASON_HEADER`].
pub const MTLS_REQUIRED: &str = "mtls-required";
/// How long rates are measured.
const WATCHED: Duration = Duration::from_secs(10);

/// Brings up whatever is missing, watches the traffic for a few seconds, and prints what a person wants to see. Leaves figures called `demo`.
/// The caller holds the cluster's lock.
///
/// # Errors
/// Names the step that failed, or what is not as a mesh should be.
pub async fn run(env: &Env, profile: Profile) -> Result<()> {
    let start = Instant::now();
    let shown = Box::pin(show(env, profile, start)).await;
    let (figures, result) = match shown {
        Ok(figures) => (figures.with("result", "passed"), Ok(())),
        Err(e) => (Figures::new().with("result", "failed"), Err(e)),
    };
    figures.with("seconds", tenth(start.elapsed())).write(env, "demo")?;
    result
}

/// The steps, and about what each takes on this machine as it is.
fn steps(env: &Env, profile: Profile) -> Result<Steps> {
    let seconds = Duration::from_secs;
    let mut steps = vec![];
    let programs = if env.kubeconfig.is_none() { Programs::takes(env)? } else { Duration::ZERO };
    if !programs.is_zero() {
        steps.push(("building Kubernetes, and beside it our own binaries".to_owned(), programs));
    }
    // What was compiled while Go worked need not be any more: about a third.
    let compile = compile::takes(env, profile).saturating_sub(programs / 5);
    steps.push(("bringing up the cluster".into(), up::takes(env)));
    steps.push(("images of operator, proxy and test application".into(), compile + seconds(20)));
    steps.push(("installing the operator, making the Mesh".into(), seconds(20)));
    steps.push(("a shop in the mesh, a stranger outside, and what they say to each other".into(), seconds(45)));
    Ok(Steps::announce("demo", steps))
}

async fn show(env: &Env, profile: Profile, start: Instant) -> Result<Figures> {
    let mut steps = steps(env, profile)?;
    // Beside all that comes before the images: it fills the moments in which Go or the starting cluster leave a core idle.
    let compilation = compile::start(env, profile);
    if env.kubeconfig.is_none() && !Programs::takes(env)?.is_zero() {
        steps.next();
        up::prepare(env).await?;
        Programs::build(env).await?;
    }
    steps.next();
    up::up(env, None).await?;
    steps.next();
    finish_and_load(env, profile, compilation).await?;
    steps.next();
    install::install(env).await?;
    step("making the Mesh", mesh(env)).await?;
    steps.next();
    step("starting a shop in the mesh, and a stranger outside", applications(env)).await?;
    let refused = step("the stranger calls the shop in plaintext", stranger(env)).await?;
    let traffic = step("watching the traffic", Box::pin(watch(env))).await?;
    say(format_args!("done in {:.0} s\n", start.elapsed().as_secs_f64()));

    let (bold, plain) = if std::io::stdout().is_terminal() { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
    let heading = |text: &str| println!("\n{bold}{text}{plain}");
    heading("The mesh");
    print!("{}", kubectl(env, &["get", "mesh", "default"]).await?);
    heading("Who talks to whom, as the called side proved it (mutual TLS)");
    print!("{}", traffic.table());
    heading("A stranger without an identity");
    println!("GET http://catalog.{SHOP}/ from {OUTSIDE}: {refused}");
    heading("How to look further");
    print!("{}", hints());
    let silent = traffic.silent(&edges());
    if !silent.is_empty() {
        bail!(
            "no request was seen of {}: see `cargo e2e kubectl -- logs -n {SHOP} deploy/visitors -c app`",
            silent.join(", ")
        );
    }
    Ok(Figures::new().with("requests_per_second", traffic.rate()).with("edges", edges().len()))
}

/// What the manifests have talk to each other.
fn edges() -> [Expected; 3] {
    let edge = |from: &str, to| Expected { caller: format!("/ns/{SHOP}/sa/{from}"), called: to };
    [edge("visitors", "frontend"), edge("frontend", "catalog"), edge("frontend", "orders")]
}

async fn mesh(env: &Env) -> Result<String> {
    let sample = env.root.join("config/samples/mesh.yaml");
    kubectl(env, &["apply", "-f", &sample.to_string_lossy()]).await?;
    // The sample does not take back what somebody has set since, by the last of the hints for example.
    kubectl(env, &["patch", "mesh", "default", "--type=merge", "--patch", &mode("Strict")]).await?;
    let generation = kubectl(env, &["get", "mesh", "default", "--output", "jsonpath={.metadata.generation}"]).await?;
    let seen = format!("--for=jsonpath={{.status.observedGeneration}}={generation}");
    kubectl(env, &["wait", &seen, "mesh/default", "--timeout=60s"]).await?;
    kubectl(env, &["wait", "--for=condition=Ready", "mesh/default", "--timeout=60s"]).await
}

fn mode(mode: &str) -> String {
    format!(r#"{{"spec":{{"mtls":{{"mode":"{mode}"}}}}}}"#)
}

async fn applications(env: &Env) -> Result<()> {
    let manifests = env.root.join("config/samples/demo");
    // The namespace is a member before a pod is made in it: the webhook knows it by its label.
    kubectl(env, &["apply", "-k", &manifests.to_string_lossy()]).await?;
    for (namespace, name) in
        [(SHOP, "catalog"), (SHOP, "orders"), (SHOP, "frontend"), (SHOP, "visitors"), (OUTSIDE, "stranger")]
    {
        let deployment = format!("deployment/{name}");
        let pods = pods(env, namespace, &format!("app={name}")).await?;
        if pods.iter().any(|pod| load::is_outdated(env, pod)) {
            kubectl(env, &["rollout", "restart", &deployment, "--namespace", namespace]).await?;
        }
        let timeout = format!("--timeout={}s", SOON.as_secs());
        kubectl(env, &["rollout", "status", &deployment, "--namespace", namespace, &timeout]).await?;
    }
    Ok(())
}

/// What a pod outside the mesh gets to hear under Strict: that is a refusal with the reason, or the demo fails.
async fn stranger(env: &Env) -> Result<String> {
    let what = "no pod app=stranger is ready";
    let pod = poll(what, SOON, || async {
        let pods = pods(env, OUTSIDE, "app=stranger").await?;
        let ready = pods.iter().find(|pod| is_ready(pod)).and_then(|pod| pod["metadata"]["name"].as_str());
        ready.map(str::to_owned).with_context(|| format!("{} pods are there", pods.len()))
    })
    .await?;
    let url = format!("http://catalog.{SHOP}/");
    let call =
        ["exec", "--namespace", OUTSIDE, &pod, "--container", "app", "--", "/test-app", "get", &url, "--timeout", "5"];
    // Where the mesh was Permissive a moment ago, proxies hear of Strict a moment later.
    poll("the shop does not refuse a stranger's plaintext, although the mesh is Strict", SOON, || async {
        let said = kubectl_command(env)?.args(call).said().await?;
        let report = serde_json::from_str(&said).with_context(|| format!("the stranger said {said:?}"))?;
        refusal(&report)
    })
    .await
}

/// A refusal in words.
fn refusal(report: &Value) -> Result<String> {
    let reason = &report["headers"][REASON_HEADER];
    ensure!(report["status"] == 403 && reason == MTLS_REQUIRED, "{report}");
    Ok(format!("refused with status 403, {REASON_HEADER}: {MTLS_REQUIRED}"))
}

/// Two scrapes of every proxy of the shop, and what happened in between.
async fn watch(env: &Env) -> Result<Traffic> {
    let before = poll("not all of the shop's pods talk to each other", SOON, || async {
        let seen = Traffic::scrape(env, SHOP).await?;
        let silent = seen.silent(&edges());
        ensure!(silent.is_empty(), "no request was seen of {}", silent.join(", "));
        Ok(seen)
    })
    .await?;
    // A rate needs time to pass.
    tokio::time::sleep(WATCHED).await;
    Ok(Traffic::scrape(env, SHOP).await?.since(&before))
}

fn tenth(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}

fn hints() -> String {
    let commands = [
        ("get mesh default -o yaml".to_owned(), "conditions, certificates, proxies"),
        (format!("get pods -n {SHOP}"), "each with two proxy slots beside the application"),
        (format!("logs -n {SHOP} deploy/catalog -c bowline-a"), "what a proxy says"),
        (format!("get events -n {SHOP}"), "what happened"),
        (
            format!("exec -n {SHOP} deploy/frontend -c app -- /test-app get http://127.0.0.1:15000/config"),
            "what a proxy knows: identity, policy, destinations",
        ),
        (
            format!("exec -n {OUTSIDE} deploy/stranger -c app -- /test-app get http://catalog.{SHOP}/"),
            "be refused yourself",
        ),
        (
            format!("patch mesh default --type merge -p '{}'", mode("Permissive")),
            "let the stranger in, without a restart",
        ),
    ];
    let lines = commands.map(|(command, why)| format!("  cargo e2e kubectl -- {command}\n      {why}\n"));
    lines.concat() + "  cargo e2e down\n      take it all away\n"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::images::product::image_name;

    #[test]
    fn only_a_refusal_that_says_why_is_one() {
        let report = |status: u16, reason: &str| json!({ "status": status, "headers": { "bowline-reason": reason } });
        refusal(&report(403, "mtls-required")).expect("a refusal");
        for report in [
            report(403, "port-denied"),
            report(503, "mtls-required"),
            json!({ "status": 200, "headers": {} }),
            json!({ "status": 403, "headers": {} }),
            json!({ "error": "connection refused" }),
            json!({ "error": "timeout" }),
        ] {
            refusal(&report).unwrap_err();
        }
    }

    #[test]
    fn the_samples_name_the_image_of_this_version() {
        let wanted = format!("image: {}\n", image_name("bowline-test-app"));
        for text in [
            include_str!("../../config/samples/demo/shop.yaml"),
            include_str!("../../config/samples/demo/outside.yaml"),
        ] {
            let all = text.matches("image: ").count();
            assert!(all > 0 && text.matches(&wanted).count() == all, "an image is not {wanted}");
        }
    }
}
