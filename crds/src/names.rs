//! Labels, annotations and other names that users and their tools type.

/// API group of every resource of ours.
pub const GROUP: &str = "bowline.dev";

/// Label on a namespace: the name of the Mesh that it joins.
pub const MESH_LABEL: &str = "bowline.dev/mesh";

/// Label (or annotation) on a pod: `"false"` keeps it out of the mesh.
pub const INJECT_LABEL: &str = "bowline.dev/inject";

/// Annotation on a pod: ports whose inbound traffic is left alone, comma-separated.
pub const SKIP_INBOUND_ANNOTATION: &str = "bowline.dev/skip-inbound-ports";
/// Annotation on a pod: ports whose outbound traffic is left alone, comma-separated.
pub const SKIP_OUTBOUND_ANNOTATION: &str = "bowline.dev/skip-outbound-ports";

/// Annotation that the injector leaves on a meshed pod: the name of its Mesh.
pub const INJECTED_ANNOTATION: &str = "bowline.dev/injected";
/// Annotation that the injector leaves on a meshed pod: the proxy version that it was given.
pub const PROXY_VERSION_ANNOTATION: &str = "bowline.dev/proxy-version";

/// Label, `"true"`, that the injector leaves on a meshed pod: what a PodMonitor selects by.
pub const MESHED_LABEL: &str = "bowline.dev/meshed";

/// Annotation on a Mesh: `"true"` lets it be deleted while workloads are still in it.
pub const FORCE_DELETE_ANNOTATION: &str = "bowline.dev/force-delete";
/// Annotation on a Mesh: the fingerprint of the root that was lost for good permits a new one in its place, once.
pub const NEW_ROOT_ANNOTATION: &str = "bowline.dev/accept-new-root";

/// Annotation on a Mesh: another text than before starts a rotation of the root. See `spec.certificates.rotation.root`.
pub const ROTATE_ROOT_ANNOTATION: &str = "bowline.dev/rotate-root";
/// Annotation on a Mesh: another text than before starts a rotation of the issuing CA. See `spec.certificates.rotation.issuer`.
pub const ROTATE_ISSUER_ANNOTATION: &str = "bowline.dev/rotate-issuer";
/// Annotation on a Mesh: another text than before ends the rotation under way and goes back. See `spec.certificates.rotation.abort`.
pub const ABORT_ROTATION_ANNOTATION: &str = "bowline.dev/abort-rotation";
/// Annotation on a Mesh: fingerprints of roots whose key is compromised, comma-separated. See `spec.certificates.rotation.distrust`.
pub const DISTRUST_ANNOTATION: &str = "bowline.dev/distrust";

/// Finalizer on a Mesh.
pub const FINALIZER: &str = "bowline.dev/mesh";

/// Label on everything that the operator makes for a Mesh: that Mesh's name.
pub const OWNER_LABEL: &str = "bowline.dev/owned-by";

/// Namespaces that never join a mesh, besides the operator's own.
pub const EXEMPT_NAMESPACES: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];
