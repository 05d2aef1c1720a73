//! The name of the workload behind a pod, for metrics: the same for all of its pods, whatever generation they are of.

use k8s_openapi::api::core::v1::Pod;

/// Label by which a Deployment tells the generations of its pods apart: the suffix of its ReplicaSets' names.
const TEMPLATE_HASH: &str = "pod-template-hash";
/// Digits at the end of the names of a CronJob's Jobs: minutes since the Unix epoch.
const CRON_DIGITS: usize = 8;
/// Longest name of an object.
const MAX_NAME: usize = 253;

/// Deployment, StatefulSet, DaemonSet, CronJob or Job that made the pod; the pod's own name if nobody did.
#[must_use]
pub fn name(pod: &Pod) -> String {
    let mut owners = pod.metadata.owner_references.iter().flatten();
    // The API server takes any text, from whoever may create pods, and this becomes a label of every caller's metrics.
    match owners.find(|o| o.controller == Some(true) && o.name.len() <= MAX_NAME) {
        Some(owner) if owner.kind == "ReplicaSet" => without_hash(&owner.name, pod).to_owned(),
        Some(owner) if owner.kind == "Job" => without_minutes(&owner.name).to_owned(),
        // A kubelet's own pods name their node, which is in their name too.
        Some(owner) if owner.kind == "Node" => without_node(own(pod), &owner.name).to_owned(),
        Some(owner) => owner.name.clone(),
        None => own(pod).to_owned(),
    }
}

fn own(pod: &Pod) -> &str {
    let generated = pod.metadata.generate_name.as_deref().map(|n| n.trim_end_matches('-'));
    pod.metadata.name.as_deref().or(generated).unwrap_or_default()
}

fn without_node<'a>(pod: &'a str, node: &str) -> &'a str {
    pod.strip_suffix(node).and_then(|name| name.strip_suffix('-')).unwrap_or(pod)
}

/// A ReplicaSet without that label was made by hand: its name is the workload's.
fn without_hash<'a>(replica_set: &'a str, pod: &Pod) -> &'a str {
    pod.metadata
        .labels
        .as_ref()
        .and_then(|l| l.get(TEMPLATE_HASH))
        .and_then(|hash| replica_set.strip_suffix(hash.as_str())?.strip_suffix('-'))
        .unwrap_or(replica_set)
}

fn without_minutes(job: &str) -> &str {
    match job.rsplit_once('-') {
        Some((name, digits)) if digits.len() == CRON_DIGITS && digits.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => job,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(yaml: &str) -> Pod {
        serde_yaml::from_str(yaml).unwrap()
    }

    #[test]
    fn generations_of_a_workload_share_its_name() {
        for (owner, labels, expected) in [
            ("{kind: ReplicaSet, name: web-7d4b9c}", "{pod-template-hash: 7d4b9c}", "web"),
            ("{kind: ReplicaSet, name: by-hand}", "{}", "by-hand"),
            ("{kind: StatefulSet, name: db}", "{}", "db"),
            ("{kind: Job, name: report-29384756}", "{}", "report"),
            ("{kind: Job, name: migrate-v2}", "{}", "migrate-v2"),
        ] {
            let owner = owner.replace('}', ", controller: true, apiVersion: v1, uid: u}");
            let yaml = format!("metadata: {{generateName: p-, labels: {labels}, ownerReferences: [{owner}]}}");
            assert_eq!(name(&pod(&yaml)), expected);
        }
        assert_eq!(name(&pod("metadata: {generateName: loose-}")), "loose");
        assert_eq!(name(&pod("metadata: {name: alone, generateName: x-}")), "alone");
        let owned = |kind: &str, owner: &str| {
            let owner = format!("{{kind: {kind}, name: {owner}, controller: true, apiVersion: v1, uid: u}}");
            name(&pod(&format!("metadata: {{name: dns-node-1, ownerReferences: [{owner}]}}")))
        };
        assert_eq!(owned("Node", "node-1"), "dns");
        assert_eq!(owned("Node", "node-2"), "dns-node-1");
        assert_eq!(owned("Thing", &"x".repeat(MAX_NAME)).len(), MAX_NAME);
        assert_eq!(owned("Thing", &"x".repeat(MAX_NAME + 1)), "dns-node-1", "no object is named so");
    }
}
