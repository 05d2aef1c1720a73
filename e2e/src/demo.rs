//! `cargo e2e demo`: from nothing to a mesh with traffic in it, and what there is to see.

mod traffic;

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use self::traffic::Traffic;
use crate::cluster;
use crate::context::{Context, pods};
use crate::env::Env;
use crate::images::product::{Profile, build_and_load};
use crate::install;
use crate::progress::{say, step};

const SHOP: &str = "bowline-demo";
const OUTSIDE: &str = "bowline-demo-outside";
const SOON: Duration = Duration::from_secs(90);
/// How long rates are measured.
const WATCHED: Duration = Duration::from_secs(10);

/// Brings up whatever is missing, watches the traffic for a few seconds, and prints what a person wants to see.
///
/// # Errors
/// Names the step that failed.
pub async fn run(env: &Env) -> Result<()> {
    let start = Instant::now();
    cluster::up(env, None).await?;
    build_and_load(env, Profile::Image).await?;
    install::install(env).await?;
    let cx = Context::connect(env, "demo", false).await?;
    step("making the Mesh", mesh(&cx)).await?;
    step("starting a shop in the mesh, and a stranger outside", applications(&cx)).await?;
    let refused = step("the stranger calls the shop in plaintext", stranger(&cx)).await?;
    let traffic = step("watching the traffic", Box::pin(watch(&cx))).await?;
    say(format_args!("done in {:.0} s\n", start.elapsed().as_secs_f64()));

    let (bold, plain) = if std::io::stdout().is_terminal() { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
    let heading = |text: &str| println!("\n{bold}{text}{plain}");
    heading("The mesh");
    print!("{}", cx.kubectl(&["get", "mesh", "default"]).await?);
    heading("Who talks to whom, as the called side proved it (mutual TLS)");
    print!("{}", traffic.table());
    heading("A stranger without an identity");
    println!("GET http://catalog.{SHOP}/ from {OUTSIDE}: {refused}");
    heading("How to look further");
    print!("{}", hints());
    if traffic.is_silent() {
        bail!("no traffic was seen between the shop's pods: see `cargo e2e kubectl -- logs -n {SHOP} deploy/visitors`");
    }
    Ok(())
}

async fn mesh(cx: &Context) -> Result<String> {
    let sample = cx.env().root.join("config/samples/mesh.yaml");
    cx.kubectl(&["apply", "-f", &sample.to_string_lossy()]).await?;
    cx.kubectl(&["wait", "--for=condition=Ready", "mesh/default", "--timeout=60s"]).await
}

async fn applications(cx: &Context) -> Result<()> {
    let manifests = cx.env().root.join("config/samples/demo");
    // The namespace is a member before a pod is made in it: the webhook knows it by its label.
    cx.kubectl(&["apply", "-k", &manifests.to_string_lossy()]).await?;
    for (namespace, name) in
        [(SHOP, "catalog"), (SHOP, "orders"), (SHOP, "frontend"), (SHOP, "visitors"), (OUTSIDE, "stranger")]
    {
        cx.rolled_out(namespace, &format!("deployment/{name}"), SOON).await?;
    }
    Ok(())
}

/// What a pod outside the mesh gets to hear under Strict.
async fn stranger(cx: &Context) -> Result<String> {
    let pod = pods::name(&cx.ready_pod(OUTSIDE, "app=stranger", SOON).await?);
    let url = format!("http://catalog.{SHOP}/");
    let ran = cx.exec_code(OUTSIDE, &pod, "app", &["/test-app", "get", &url, "--timeout", "5"]).await?;
    let report: Value = serde_json::from_str(&ran.stdout).with_context(|| format!("the stranger said {ran:?}"))?;
    if report["status"] == 200 {
        bail!("the shop answered a stranger's plaintext, although the mesh is Strict: {report}");
    }
    let reason = report["headers"]["bowline-reason"].as_str();
    Ok(match (report["status"].as_u64(), reason, report["error"].as_str()) {
        (Some(status), Some(reason), _) => format!("refused with status {status}, bowline-reason: {reason}"),
        (Some(status), None, _) => format!("refused with status {status}"),
        (None, _, error) => format!("refused: {}", error.unwrap_or("without an answer")),
    })
}

/// Two scrapes of every proxy of the shop, and what happened in between.
async fn watch(cx: &Context) -> Result<Traffic> {
    let what = "no request was seen between the shop's pods";
    let before = cx
        .eventually(SOON, what, || async {
            let seen = Traffic::scrape(cx, SHOP).await?;
            anyhow::ensure!(!seen.is_silent(), "the counters are at rest");
            Ok(seen)
        })
        .await?;
    // A rate needs time to pass.
    tokio::time::sleep(WATCHED).await;
    Ok(Traffic::scrape(cx, SHOP).await?.since(&before))
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
            "patch mesh default --type merge -p '{\"spec\":{\"mtls\":{\"mode\":\"Permissive\"}}}'".to_owned(),
            "let the stranger in, without a restart",
        ),
    ];
    let lines = commands.map(|(command, why)| format!("  cargo e2e kubectl -- {command}\n      {why}\n"));
    lines.concat() + "  cargo e2e down\n      take it all away\n"
}

#[cfg(test)]
mod tests {
    use crate::images::product::image_name;

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
