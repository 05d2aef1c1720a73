//! What rules and operator both say about a spec.

use std::time::Duration;

/// Shortest life of a leaf.
pub const MIN_LEAF: Duration = Duration::from_secs(60);
/// Longest life of a leaf.
pub const MAX_LEAF: Duration = Duration::from_secs(720 * 3600);
/// Message for a leaf outside of these.
pub const LEAF_RANGE: &str = "leafLifetime must lie between 1m and 720h";
/// Message for life spans in the wrong order.
pub const LIFETIME_ORDER: &str =
    "leafLifetime must be shorter than issuerLifetime, and issuerLifetime shorter than rootLifetime";
/// Message for what is no duration.
pub(super) const DURATION: &str = "must be hours, minutes and seconds such as 24h, 90m or 1h30m";
/// What [`crate::duration::parse`] reads.
pub(super) const DURATION_RULE: &str = "self.matches('^([0-9]{1,6}[hms])+$')";
/// See [`LEAF_RANGE`]; texts that are no durations have been told already.
pub(super) const LEAF_RANGE_RULE: &str = "!self.leafLifetime.matches('^([0-9]{1,6}[hms])+$') || \
    (duration(self.leafLifetime) >= duration('1m') && duration(self.leafLifetime) <= duration('720h'))";
/// See [`LIFETIME_ORDER`].
pub(super) const LIFETIME_ORDER_RULE: &str = "\
    ![self.leafLifetime, self.issuerLifetime, self.rootLifetime].all(d, d.matches('^([0-9]{1,6}[hms])+$')) || \
    (duration(self.leafLifetime) < duration(self.issuerLifetime) && \
    duration(self.issuerLifetime) < duration(self.rootLifetime))";
/// Ports that every proxy keeps for itself.
pub(super) const PORTS_RULE: &str = "self.all(p, !(p in [15000, 15001, 15006, 15008, 15020, 15021]))";
/// Message for these.
pub(super) const PORTS: &str = "ports 15000, 15001, 15006, 15008, 15020 and 15021 belong to the proxy: leave them out";
/// An image reference.
pub const IMAGE: &str = "spec.proxy.image must be an image reference such as NAME:TAG, without spaces";
/// See [`IMAGE`].
pub(super) const IMAGE_RULE: &str = "self.matches('^[^ \\t\\n]+$')";

/// Resources that a sidecar's requests and limits may name.
pub const RESOURCES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
/// Message for any other.
pub const RESOURCE_NAMES: &str =
    "spec.proxy.resources can bound cpu, memory and ephemeral-storage only: leave others out";
/// See [`RESOURCE_NAMES`].
pub(super) const RESOURCE_NAMES_RULE: &str = "\
    (!has(self.requests) || self.requests.all(k, k in ['cpu', 'memory', 'ephemeral-storage'])) && \
    (!has(self.limits) || self.limits.all(k, k in ['cpu', 'memory', 'ephemeral-storage']))";
/// Message for what is no quantity of a resource.
pub const QUANTITIES: &str =
    "spec.proxy.resources must hold quantities such as \"100m\" or \"64Mi\", none of them below zero";
/// See [`QUANTITIES`].
pub(super) const QUANTITIES_RULE: &str = "\
    (!has(self.requests) || self.requests.all(k, isQuantity(self.requests[k]) && \
    quantity(self.requests[k]).compareTo(quantity('0')) >= 0)) && \
    (!has(self.limits) || self.limits.all(k, isQuantity(self.limits[k]) && \
    quantity(self.limits[k]).compareTo(quantity('0')) >= 0))";
/// Message for more than the limit.
pub const REQUESTS: &str =
    "spec.proxy.resources.requests must not ask for more than spec.proxy.resources.limits allows";
/// See [`REQUESTS`]; texts that are no quantities have been told already.
pub(super) const REQUESTS_RULE: &str = "\
    !has(self.requests) || !has(self.limits) || self.requests.all(k, !(k in self.limits) || \
    !isQuantity(self.requests[k]) || !isQuantity(self.limits[k]) || \
    quantity(self.requests[k]).compareTo(quantity(self.limits[k])) <= 0)";

/// Message for an operator that does not exist.
pub const OPERATORS: &str =
    "spec.injection.namespaceSelector.matchExpressions.operator must be In, NotIn, Exists or DoesNotExist";
/// See [`OPERATORS`].
pub(super) const OPERATORS_RULE: &str = "!has(self.matchExpressions) || \
    self.matchExpressions.all(e, e.operator in ['In', 'NotIn', 'Exists', 'DoesNotExist'])";
/// Message for values where there must be none, and the reverse.
pub const VALUES: &str = "spec.injection.namespaceSelector.matchExpressions.values must not be empty with In and NotIn, and must be \
    left out with Exists and DoesNotExist";
/// See [`VALUES`].
pub(super) const VALUES_RULE: &str = "!has(self.matchExpressions) || self.matchExpressions.all(e, \
    e.operator in ['In', 'NotIn'] ? has(e.values) && size(e.values) > 0 : \
    !(e.operator in ['Exists', 'DoesNotExist']) || !has(e.values) || size(e.values) == 0)";
/// Message for what is no label's name.
pub const KEYS: &str = "spec.injection.namespaceSelector must name labels such as team or example.com/team in matchExpressions.key and matchLabels";
/// See [`KEYS`].
pub(super) const KEYS_RULE: &str = "\
    (!has(self.matchExpressions) || self.matchExpressions.all(e, e.key.matches('^([^/]{1,253}/)?[^/]{1,63}$') && \
    e.key.matches('^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?\
    [A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$'))) && \
    (!has(self.matchLabels) || self.matchLabels.all(k, k.matches('^([^/]{1,253}/)?[^/]{1,63}$') && \
    k.matches('^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?\
    [A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$')))";
/// Message for what is no label's value.
pub const LABEL_VALUES: &str = "spec.injection.namespaceSelector must hold values that a label can have: up to 63 of a-z, A-Z, 0-9, \
    '-', '_' and '.', with a letter or digit at both ends";
/// See [`LABEL_VALUES`].
pub(super) const LABEL_VALUES_RULE: &str = "\
    (!has(self.matchExpressions) || self.matchExpressions.all(e, !has(e.values) || e.values.all(v, \
    v.matches('^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$')))) && \
    (!has(self.matchLabels) || self.matchLabels.all(k, \
    self.matchLabels[k].matches('^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$')))";
