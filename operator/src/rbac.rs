//! Exactly what the operator may do; `config/rbac` says the same.

/// A rule of a Role or ClusterRole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// `true`: in the operator's own namespace only (Role); `false`: ClusterRole.
    pub own_namespace: bool,
    /// API group; empty: core.
    pub group: &'static str,
    /// Resource, possibly with subresource.
    pub resource: &'static str,
    /// Names that it is limited to; empty: all.
    pub names: &'static [&'static str],
    /// Verbs.
    pub verbs: &'static [&'static str],
    /// Who needs it, and what for.
    pub purpose: &'static str,
}

/// Watched.
const WATCH: &[&str] = &["list", "watch"];
/// Watched, and asked for what is younger than what the watch has told of.
const READ: &[&str] = &["get", "list", "watch"];

/// Every rule.
pub const RULES: &[Rule] = &[
    cluster(
        "bowline.dev",
        "meshes",
        &[],
        &["list", "watch", "patch"],
        "mesh: watch; add and remove its finalizer; inject, identity: membership",
    ),
    cluster("bowline.dev", "meshes/status", &[], &["patch"], "mesh: status"),
    cluster("", "namespaces", &[], READ, "mesh, inject, control: membership"),
    cluster("", "pods", &[], READ, "mesh: who is meshed; identity: caller exists; control: endpoints; inject: repair"),
    cluster("", "services", &[], WATCH, "control: what is called"),
    cluster("discovery.k8s.io", "endpointslices", &[], WATCH, "control: who serves it"),
    cluster(
        "",
        "configmaps",
        &[],
        &["list", "watch", "create", "patch", "update", "delete"],
        "mesh: trust bundles in member namespaces",
    ),
    cluster("authentication.k8s.io", "tokenreviews", &[], &["create"], "identity: whose token it is"),
    cluster("events.k8s.io", "events", &[], &["create", "patch"], "mesh, webhook, inject: events"),
    // Created by server-side apply, for which the API server checks `create` against the object's name.
    cluster(
        "admissionregistration.k8s.io",
        "mutatingwebhookconfigurations",
        &["bowline-inject"],
        &["get", "list", "watch", "create", "patch", "delete"],
        "webhook: its configuration",
    ),
    own("coordination.k8s.io", "leases", &[], &["create"], "leader: cannot be limited by name"),
    own("coordination.k8s.io", "leases", &["bowline-operator"], &["get", "update"], "leader: election"),
    own("", "secrets", &[], &["create"], "ca, webhook: cannot be limited by name"),
    own("", "secrets", &["bowline-ca"], &["get", "list", "watch", "update"], "ca: keys and certificates"),
    own("", "secrets", &["bowline-webhook"], &["list", "watch", "update"], "webhook: key and certificate"),
    own("", "secrets", &["bowline-issuer"], &["get"], "ca: an issuing CA that somebody else signs"),
    // Created by server-side apply, for which the API server checks `create` against the object's name.
    own(
        "cert-manager.io",
        "certificates",
        &["bowline-issuer"],
        &["get", "create", "patch", "delete"],
        "ca: has cert-manager sign an issuing CA",
    ),
];

const fn cluster(
    group: &'static str,
    resource: &'static str,
    names: &'static [&'static str],
    verbs: &'static [&'static str],
    purpose: &'static str,
) -> Rule {
    Rule { own_namespace: false, group, resource, names, verbs, purpose }
}

const fn own(
    group: &'static str,
    resource: &'static str,
    names: &'static [&'static str],
    verbs: &'static [&'static str],
    purpose: &'static str,
) -> Rule {
    Rule { own_namespace: true, group, resource, names, verbs, purpose }
}
