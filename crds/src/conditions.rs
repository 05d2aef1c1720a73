//! The vocabulary of conditions and their reasons: one for all resources.

/// Condition types. `Ready`, `Reconciling` and `Stalled` follow kstatus; the rest follow OpenShift's ClusterOperator.
pub mod types {
    /// Everything that the spec asks for is in place.
    pub const READY: &str = "Ready";
    /// The operator is at work on it. Absent or False when it is not.
    pub const RECONCILING: &str = "Reconciling";
    /// Nothing will happen until somebody does what the message says.
    pub const STALLED: &str = "Stalled";
    /// Workloads can join and renew their identities.
    pub const AVAILABLE: &str = "Available";
    /// A change is being carried out.
    pub const PROGRESSING: &str = "Progressing";
    /// A root or issuing CA would expire before a rotation at the present pace can end.
    pub const TRUST_AT_RISK: &str = "TrustAtRisk";
    /// It works, but not as it should: the message says what and what to do.
    pub const DEGRADED: &str = "Degraded";
}

/// Reasons, in CamelCase as Kubernetes wants them.
pub mod reasons {
    /// Nothing is left to do.
    pub const RECONCILED: &str = "Reconciled";
    /// First reconcile, or a new generation.
    pub const PROGRESSING: &str = "Progressing";
    /// The spec asks for what cannot be.
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// A namespace that the Mesh's selector matches belongs to another Mesh.
    pub const NAMESPACE_CONFLICT: &str = "NamespaceConflict";
    /// The CA's keys are gone and no copy is left in memory.
    pub const CA_STATE_LOST: &str = "CaStateLost";
    /// Deletion is held: workloads are still in the mesh.
    pub const WORKLOADS_PRESENT: &str = "WorkloadsPresent";
    /// The Mesh is being deleted.
    pub const DELETING: &str = "Deleting";
    /// A call to the API server failed; it is tried again.
    pub const API_ERROR: &str = "ApiError";
    /// The API server refuses the operator something: RBAC is not as shipped.
    pub const FORBIDDEN: &str = "Forbidden";
    /// A ResourceQuota leaves no room for what the operator writes.
    pub const QUOTA_EXCEEDED: &str = "QuotaExceeded";
    /// An admission webhook or policy refuses what the operator writes.
    pub const ADMISSION_DENIED: &str = "AdmissionDenied";
    /// The API server does not ask about the Mesh's pods (yet).
    pub const WEBHOOK_NOT_READY: &str = "WebhookNotReady";
    /// Pods that should be meshed carry no sidecar.
    pub const PODS_WITHOUT_SIDECAR: &str = "PodsWithoutSidecar";
    /// A namespace names a Mesh that does not exist.
    pub const UNKNOWN_MESH: &str = "UnknownMesh";
    /// The Mesh has no certificate authority (yet).
    pub const NO_AUTHORITY: &str = "NoAuthority";
    /// A root or issuing CA was made.
    pub const AUTHORITY_CREATED: &str = "AuthorityCreated";
    /// The issuing CA has expired.
    pub const AUTHORITY_EXPIRED: &str = "AuthorityExpired";
    /// The root ends before long.
    pub const TRUST_AT_RISK: &str = "TrustAtRisk";
    /// A step of a rotation of the CA was taken.
    pub const ROTATION: &str = "Rotation";
    /// A rotation of the CA is under way.
    pub const ROTATING: &str = "Rotating";
    /// The source of the CA offers no issuing CA that can be used.
    pub const NO_AUTHORITY_OFFERED: &str = "NoAuthorityOffered";
    /// The CA's Secret was damaged and put back from memory.
    pub const CA_STATE_RESTORED: &str = "CaStateRestored";
    /// A trust ConfigMap was edited and put back.
    pub const CONFIG_MAP_REPAIRED: &str = "ConfigMapRepaired";
    /// The condition does not hold, and that is as it should be.
    pub const AS_EXPECTED: &str = "AsExpected";
}
