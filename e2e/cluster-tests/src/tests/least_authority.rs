//! The operator's roles against what it really called, as the API server recorded it: every call is covered by a rule, and every rule
//! was needed. The latter can be judged only when every other test ran on this cluster; until then what was not used is a figure.
//!
//! Seen to fail: a right taken from `operator/src/rbac.rs` leaves its calls without a rule; one added is never used.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use anyhow::{Result, bail, ensure};
use bowline_operator::rbac::{RULES, Rule};
use bowline_operator::runtime::config::WEBHOOK_SECRET;
use bowline_operator::serving::certificate::state::SECRET_KEY;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::context::{Context, Figures};
use e2e::cluster::install::NAMESPACE;
use e2e::nodes::audit::{self, Call};

/// Rights for moments that no test can bring about at will, with what needs them. Tests without a cluster hold these calls.
const RARE: [(&str, &str, &str, &str); 2] = [
    ("namespaces", "", "get", "a namespace is younger than what the watch has told of"),
    ("pods", "", "get", "a pod is younger than what the watch has told of"),
];

/// Runs the test.
pub async fn run(cx: &Context) -> Result<Figures> {
    lost_certificate(cx).await?;
    let (calls, since) = audit::read(cx.env())?;
    let operator = format!("system:serviceaccount:{NAMESPACE}:bowline-operator");
    let calls: BTreeSet<Call> = calls.into_iter().filter(|call| call.user == operator).collect();
    ensure!(calls.len() > 20, "only {} different calls of the operator were recorded", calls.len());

    let beyond: Vec<String> = calls.iter().filter(|c| !c.allowed || !covered(c)).map(describe).collect();
    ensure!(beyond.is_empty(), "calls that no rule of operator/src/rbac.rs covers: {}", beyond.join("; "));

    let unused = unused(&calls);
    let (rare, unused): (Vec<_>, Vec<_>) = unused.into_iter().partition(is_rare);
    let all = everything_ran(cx, since)?;
    let told = |rights: &[Right]| rights.iter().map(Right::describe).collect::<Vec<_>>();
    if all && !unused.is_empty() {
        bail!("granted by config/rbac and never used by all tests: {}", told(&unused).join("; "));
    }
    Ok(Figures::new()
        .with("calls", calls.len())
        .with("rights", rights().len())
        .with("every_test_ran", all)
        .with("unused", told(&unused))
        .with("unused_rare", told(&rare)))
}

/// Nothing else makes the operator write the webhook's Secret again within its certificates' lives: it is emptied and put back as it was.
async fn lost_certificate(cx: &Context) -> Result<()> {
    let api = Api::<Secret>::namespaced(cx.client(), NAMESPACE);
    let before = api.get(WEBHOOK_SECRET).await?.data;
    let lost = Patch::Merge(json!({ "data": { SECRET_KEY: null } }));
    api.patch(WEBHOOK_SECRET, &PatchParams::default(), &lost).await?;
    cx.eventually(Duration::from_secs(30), "the webhook's Secret is not put back as it was", || async {
        ensure!(api.get(WEBHOOK_SECRET).await?.data == before, "it holds something else");
        Ok(())
    })
    .await
}

/// One verb of a rule, for one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Right {
    rule: &'static Rule,
    /// Empty: any.
    name: &'static str,
    verb: &'static str,
}

impl Right {
    fn describe(&self) -> String {
        let Self { rule, name, verb } = self;
        let name = if name.is_empty() { String::new() } else { format!(" {name}") };
        format!("{verb} {}{name}", rule.resource)
    }

    fn covers(&self, call: &Call) -> bool {
        let Self { rule, name, verb } = self;
        let here = !rule.own_namespace || call.namespace == NAMESPACE;
        let it = rule.group == call.group && rule.resource == call.resource;
        here && it && (name.is_empty() || *name == call.name) && does(call, verb)
    }
}

/// Server-side apply of an object that is not there is a patch, for which the API server checks `create` too.
fn does(call: &Call, verb: &str) -> bool {
    call.verb == verb || verb == "create" && call.verb == "patch" && call.created
}

fn rights() -> Vec<Right> {
    let mut all = vec![];
    for rule in RULES {
        let names = if rule.names.is_empty() { &[""][..] } else { rule.names };
        for name in names {
            all.extend(rule.verbs.iter().map(|verb| Right { rule, name, verb }));
        }
    }
    all
}

fn covered(call: &Call) -> bool {
    let covers = |verb: &str| rights().iter().any(|right| right.verb == verb && right.covers(call));
    covers(&call.verb) && (!(call.verb == "patch" && call.created) || covers("create"))
}

fn unused(calls: &BTreeSet<Call>) -> Vec<Right> {
    rights().into_iter().filter(|right| !calls.iter().any(|call| right.covers(call))).collect()
}

fn is_rare(right: &Right) -> bool {
    RARE.iter().any(|(resource, name, verb, _)| (right.rule.resource, right.name, right.verb) == (resource, name, verb))
}

fn describe(call: &Call) -> String {
    let Call { group, resource, namespace, name, verb, allowed, .. } = call;
    format!("{verb} {resource}.{group} {namespace}/{name}{}", if *allowed { "" } else { " (refused)" })
}

/// Whether every other test left its figures since then.
fn everything_ran(cx: &Context, since: SystemTime) -> Result<bool> {
    let fresh = Figures::fresh(cx.env(), since)?;
    Ok(cx.all().iter().filter(|name| **name != "least_authority").all(|name| fresh.contains(*name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(verb: &str, resource: &str, namespace: &str, name: &str) -> Call {
        Call {
            user: String::new(),
            group: String::new(),
            resource: resource.into(),
            namespace: namespace.into(),
            name: name.into(),
            verb: verb.into(),
            allowed: true,
            created: false,
        }
    }

    #[test]
    fn rules_cover_by_name_and_namespace() {
        assert!(covered(&call("get", "secrets", NAMESPACE, "bowline-ca")));
        assert!(!covered(&call("get", "secrets", NAMESPACE, "other")));
        assert!(!covered(&call("get", "secrets", "shop", "bowline-ca")));
        assert!(covered(&call("create", "secrets", NAMESPACE, "")));
        assert!(!covered(&call("delete", "pods", "shop", "web")));
    }

    #[test]
    fn an_apply_that_makes_an_object_needs_both() {
        let mut made = call("patch", "configmaps", "shop", "bowline-trust-default");
        made.created = true;
        assert!(covered(&made) && does(&made, "create") && does(&made, "patch"));
        made.resource = "pods".into();
        assert!(!covered(&made));
    }

    #[test]
    fn what_was_not_called_is_unused() {
        let all = unused(&BTreeSet::new());
        assert_eq!(all.len(), rights().len());
        let used = BTreeSet::from([call("list", "pods", "", "")]);
        assert_eq!(unused(&used).len(), all.len() - 1);
        for (resource, name, verb, _) in RARE {
            assert!(rights().iter().any(|r| (r.rule.resource, r.name, r.verb) == (resource, name, verb)), "{resource}");
        }
    }
}
