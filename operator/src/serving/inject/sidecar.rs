//! The containers and volumes that a pod is given, as typed objects. The contract with the proxy is [`bowline_proxy::contract::bootstrap`].

use std::collections::BTreeMap;

use bowline_crds::mesh::LogLevel;
use bowline_proxy::contract::{
    bootstrap::{GATE, PROXY_UID, SLOTS, TOKEN_AUDIENCE, TOKEN_SECONDS, TRUST_CONFIG_MAP_PREFIX, env, paths, ports},
    probe::Probe,
};
use k8s_openapi::{
    api::core::v1::{
        Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource,
        ObjectFieldSelector, ProjectedVolumeSource, ResourceRequirements, SeccompProfile, SecurityContext,
        ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
    },
    apimachinery::pkg::api::resource::Quantity,
};

use super::ports::joined;

/// Volume with the trust bundle.
pub const TRUST_VOLUME: &str = "bowline-trust";
/// Volume with the projected token.
pub const TOKEN_VOLUME: &str = "bowline-token";
/// Volume shared by the slots.
pub const SLOTS_VOLUME: &str = "bowline-slots";
/// All three.
pub const VOLUMES: [&str; 3] = [TRUST_VOLUME, TOKEN_VOLUME, SLOTS_VOLUME];
/// Name of the metrics port, by which a PodMonitor finds it.
pub const METRICS_PORT: &str = "bowline-metrics";

/// Label of the pod that names the zone of its node.
const ZONE_LABEL: &str = "metadata.labels['topology.kubernetes.io/zone']";

/// The sidecar runs as a user of its own, so the token must be readable for others than its owner. The kubelet tightens this to 0600
/// and hands the file to the pod's group where the pod has an `fsGroup`, which every container of the pod then belongs to.
const TOKEN_MODE: i32 = 0o444;

/// What the sidecar of one pod looks like.
#[derive(Debug, Clone, PartialEq)]
pub struct Sidecar {
    /// Name of the Mesh.
    pub mesh: String,
    /// Image of slots and gate.
    pub image: String,
    /// How much it logs.
    pub log_level: LogLevel,
    /// Resources of each slot and of the gate; none where the pod has resources of its own as a whole, which bound its containers together.
    pub resources: Option<ResourceRequirements>,
    /// Name of the workload.
    pub workload: String,
    /// Ports whose inbound traffic is left alone.
    pub skip_inbound: Vec<u16>,
    /// Ports whose outbound traffic is left alone.
    pub skip_outbound: Vec<u16>,
    /// What the proxy carries out for the kubelet.
    pub probes: Vec<Probe>,
}

/// Whether a container's name is one of ours.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    name == GATE || SLOTS.contains(&name)
}

/// Whether a container is what [`containers`] makes under its name, as far as that tells it from somebody else's.
#[must_use]
pub fn is_ours(container: &Container) -> bool {
    let args: &[String] = container.args.as_deref().unwrap_or_default();
    match container.name.as_str() {
        GATE => args == ["gate"],
        slot => {
            let value = slot_value(slot);
            let tells = |e: &EnvVar| e.name == env::SLOT && e.value.as_deref() == Some(value);
            args == ["run"] && container.env.iter().flatten().any(tells)
        }
    }
}

/// Resources of each slot when the Mesh does not say.
#[must_use]
pub fn default_resources() -> ResourceRequirements {
    let quantities = |list: &[(&str, &str)]| -> BTreeMap<String, Quantity> {
        list.iter().map(|(name, value)| ((*name).to_owned(), Quantity((*value).to_owned()))).collect()
    };
    ResourceRequirements {
        requests: Some(quantities(&[("cpu", "10m"), ("memory", "24Mi")])),
        limits: Some(quantities(&[("memory", "256Mi")])),
        ..ResourceRequirements::default()
    }
}

/// Value of the environment variable [`env::PROBES`]; empty list: not set.
#[must_use]
pub fn probes_value(probes: &[Probe]) -> Option<String> {
    // Strings and numbers only: this cannot fail.
    (!probes.is_empty()).then(|| serde_json::to_string(probes).unwrap_or_default())
}

/// Both slots and the gate, in the order in which they stand at the head of `initContainers`.
#[must_use]
pub fn containers(sidecar: &Sidecar) -> Vec<Container> {
    vec![slot(sidecar, SLOTS[0]), slot(sidecar, SLOTS[1]), gate(sidecar)]
}

/// A native sidecar. It has no probe: one with a startup probe would make the whole pod NotReady while it is replaced.
fn slot(sidecar: &Sidecar, name: &str) -> Container {
    let mut environment = vec![
        value(env::SLOT, slot_value(name)),
        field(env::POD_NAME, "metadata.name"),
        field(env::POD_NAMESPACE, "metadata.namespace"),
        field(env::POD_UID, "metadata.uid"),
        field(env::POD_IP, "status.podIP"),
        field(env::NODE_NAME, "spec.nodeName"),
        field(env::ZONE, ZONE_LABEL),
        field(env::SERVICE_ACCOUNT, "spec.serviceAccountName"),
        value(env::WORKLOAD, &sidecar.workload),
        value(env::LOG, log_filter(sidecar.log_level)),
    ];
    environment.extend(probes_value(&sidecar.probes).map(|json| value(env::PROBES, &json)));
    // Port names must be unique in a pod for a PodMonitor to find one target, so only the first slot declares it.
    let metrics = ContainerPort {
        name: Some(METRICS_PORT.into()),
        container_port: i32::from(ports::METRICS),
        protocol: Some("TCP".into()),
        ..ContainerPort::default()
    };
    Container {
        args: Some(vec!["run".into()]),
        env: Some(environment),
        ports: (name == SLOTS[0]).then(|| vec![metrics]),
        restart_policy: Some("Always".into()),
        security_context: Some(SecurityContext {
            run_as_user: Some(PROXY_UID),
            run_as_group: Some(PROXY_UID),
            run_as_non_root: Some(true),
            ..locked_down(&[])
        }),
        volume_mounts: Some(vec![
            mount(TRUST_VOLUME, paths::TRUST_DIR, true),
            mount(TOKEN_VOLUME, TOKEN_DIR, true),
            mount(SLOTS_VOLUME, paths::SLOTS_DIR, false),
        ]),
        ..common(sidecar, name)
    }
}

/// Holds the application back until the mesh serves, then writes the redirect rules: the only container with a capability, and it
/// has ended before any other container starts.
fn gate(sidecar: &Sidecar) -> Container {
    Container {
        args: Some(vec!["gate".into()]),
        env: Some(vec![
            value(env::LOG, log_filter(sidecar.log_level)),
            value(env::SKIP_INBOUND, &joined(&sidecar.skip_inbound)),
            value(env::SKIP_OUTBOUND, &joined(&sidecar.skip_outbound)),
        ]),
        security_context: Some(SecurityContext {
            run_as_user: Some(0),
            run_as_group: Some(0),
            run_as_non_root: Some(false),
            ..locked_down(&["NET_ADMIN"])
        }),
        // It asks the proxy's admin port, and needs no file.
        ..common(sidecar, GATE)
    }
}

fn common(sidecar: &Sidecar, name: &str) -> Container {
    Container {
        name: name.into(),
        image: Some(sidecar.image.clone()),
        image_pull_policy: Some("IfNotPresent".into()),
        resources: sidecar.resources.clone(),
        // So that `kubectl describe pod` says why a gate waits or a slot failed.
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        ..Container::default()
    }
}

fn locked_down(add: &[&str]) -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities {
            add: (!add.is_empty()).then(|| add.iter().map(|c| (*c).to_owned()).collect()),
            drop: Some(vec!["ALL".into()]),
        }),
        privileged: Some(false),
        read_only_root_filesystem: Some(true),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), ..SeccompProfile::default() }),
        ..SecurityContext::default()
    }
}

/// Trust bundle, token and the slots' directory.
#[must_use]
pub fn volumes(mesh: &str) -> Vec<Volume> {
    let token = ServiceAccountTokenProjection {
        audience: Some(TOKEN_AUDIENCE.into()),
        expiration_seconds: Some(TOKEN_SECONDS),
        path: TOKEN_FILE.into(),
    };
    vec![
        Volume {
            name: TRUST_VOLUME.into(),
            config_map: Some(ConfigMapVolumeSource {
                name: format!("{TRUST_CONFIG_MAP_PREFIX}{mesh}"),
                // The pod waits for the bundle rather than start without trust.
                optional: Some(false),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        },
        Volume {
            name: TOKEN_VOLUME.into(),
            projected: Some(ProjectedVolumeSource {
                default_mode: Some(TOKEN_MODE),
                sources: Some(vec![VolumeProjection {
                    service_account_token: Some(token),
                    ..VolumeProjection::default()
                }]),
            }),
            ..Volume::default()
        },
        Volume {
            name: SLOTS_VOLUME.into(),
            empty_dir: Some(EmptyDirVolumeSource {
                medium: Some("Memory".into()),
                size_limit: Some(Quantity("1Mi".into())),
            }),
            ..Volume::default()
        },
    ]
}

/// Directory and file of [`paths::TOKEN`]; a test holds them together.
const TOKEN_DIR: &str = "/var/run/bowline/token";
const TOKEN_FILE: &str = "token";

/// `a` or `b`.
fn slot_value(name: &str) -> &str {
    name.rsplit('-').next().unwrap_or(name)
}

fn log_filter(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
    }
}

fn value(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.into(), value: Some(value.into()), ..EnvVar::default() }
}

fn field(name: &str, path: &str) -> EnvVar {
    let field_ref = Some(ObjectFieldSelector { field_path: path.into(), ..ObjectFieldSelector::default() });
    let value_from = Some(EnvVarSource { field_ref, ..EnvVarSource::default() });
    EnvVar { name: name.into(), value_from, ..EnvVar::default() }
}

fn mount(volume: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: volume.into(),
        mount_path: path.into(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_where_the_proxy_looks() {
        assert_eq!(format!("{TOKEN_DIR}/{TOKEN_FILE}"), paths::TOKEN);
    }
}
