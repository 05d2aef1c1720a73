//! Whether a pod gets a sidecar, and which: a pure function of the pod, its namespace and the Meshes.

use bowline_crds::{
    Mesh,
    names::{INJECT_LABEL, INJECTED_ANNOTATION, MESH_LABEL, SKIP_INBOUND_ANNOTATION, SKIP_OUTBOUND_ANNOTATION},
};
use bowline_proxy::contract::{
    bootstrap::{GATE, PROXY_UID, SLOTS, env, ports},
    probe::Probe,
};
use k8s_openapi::api::core::v1::{Container, Namespace, Pod, PodSpec};
use kube::ResourceExt;

use super::{
    ports::{PortError, skipped},
    probes::{self, Key, ProbeError, Rewrite},
    sidecar::{self, Sidecar},
};
use crate::cluster::{
    membership::Membership,
    mesh::{resources, validate::is_image},
    pod::{injected_mesh, is_static, opted_out},
    workload,
};

/// Label by which a namespace limits what its pods may do.
const POD_SECURITY: &str = "pod-security.kubernetes.io/enforce";

/// What becomes of a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// It is left as it is, for this reason.
    Skip(&'static str),
    /// It must not be created.
    Refuse(Refusal),
    /// It gets a sidecar, or keeps the one that it has.
    Inject(Box<Plan>),
}

/// What is done to a pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The sidecar.
    pub sidecar: Sidecar,
    /// Probes and hooks to be pointed at the proxy.
    pub rewrites: Vec<Rewrite>,
    /// Whether the pod has our containers already: then they stay, at the head, and only learn of further probes.
    pub present: bool,
}

/// Why a pod is not created. Each says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The namespace's label names no Mesh.
    #[error(
        "namespace {namespace} has the label {MESH_LABEL}={mesh}, but there is no Mesh {mesh}: create it, or correct the label"
    )]
    UnknownMesh {
        /// The namespace.
        namespace: String,
        /// What its label names.
        mesh: String,
    },
    /// The network is the node's.
    #[error("a pod with hostNetwork cannot be in a mesh: remove hostNetwork, or label the pod {INJECT_LABEL}=false")]
    HostNetwork,
    /// It needs Windows.
    #[error("the sidecar does not run on Windows: label the pod {INJECT_LABEL}=false")]
    Windows,
    /// Pod Security forbids the gate.
    #[error(
        "namespace {namespace} has the label {POD_SECURITY}={level}, which forbids the capability NET_ADMIN that the init container \
         {GATE} needs to redirect traffic: set the label to privileged, or label the pod {INJECT_LABEL}=false"
    )]
    PodSecurity {
        /// The namespace.
        namespace: String,
        /// `baseline` or `restricted`.
        level: String,
    },
    /// A port is taken twice.
    #[error(
        "container {container} listens on port {port}, which is the proxy's own (15000, 15001, 15006, 15008, 15020, 15021): \
         use another port, or label the pod {INJECT_LABEL}=false"
    )]
    PortCollision {
        /// The container.
        container: String,
        /// Its port.
        port: u16,
    },
    /// A probe aims at the proxy.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The proxy's user is not redirected, so nobody else may be it.
    #[error(
        "{who} runs as user {PROXY_UID}, which is the proxy's own and would bypass the mesh: set another runAsUser"
    )]
    ProxyUser {
        /// Container or pod.
        who: String,
    },
    /// A name is taken.
    #[error("container {0} has a name of Bowline's own but is not Bowline's: rename it")]
    ForeignContainer(String),
    /// A name is taken.
    #[error("volume {0} has a name of Bowline's own but is not Bowline's: rename it")]
    ForeignVolume(String),
    /// Copied from another mesh, or by halves.
    #[error(
        "the pod carries Bowline's containers {found}, but is not as Bowline made it for Mesh {mesh}: remove the containers and \
         volumes named bowline-* and the annotation {INJECTED_ANNOTATION}, which are added again, and put the containers' own probes \
         back"
    )]
    Leftover {
        /// What is there.
        found: String,
        /// The Mesh that it joins.
        mesh: String,
    },
    /// Copied without what answers it.
    #[error(
        "{probe} of container {container} asks Bowline's proxy for a probe of another pod, from which it was copied: put the \
         container's own {probe} back"
    )]
    CopiedProbe {
        /// The container.
        container: String,
        /// Field of the probe or hook.
        probe: &'static str,
    },
    /// An annotation cannot be used.
    #[error("annotation {annotation}: {error}")]
    SkipPorts {
        /// Its name.
        annotation: &'static str,
        /// What is wrong, and what to do.
        error: PortError,
    },
}

/// Decides. `image` is the default one, `key` that of the probes of a pod that has none yet.
#[must_use]
pub fn decide(pod: &Pod, namespace: &Namespace, membership: &Membership, image: &str, key: &Key) -> Decision {
    let Some(spec) = &pod.spec else { return Decision::Skip("the pod has no spec") };
    if opted_out(pod) {
        return Decision::Skip("the pod opts out");
    }
    if is_static(pod) {
        return Decision::Skip("a static pod cannot be changed");
    }
    let mesh = match membership {
        Membership::None => return Decision::Skip("the namespace is in no mesh"),
        Membership::One(mesh) => mesh,
        Membership::Unknown(mesh) => {
            let namespace = namespace.name_any();
            return Decision::Refuse(Refusal::UnknownMesh { namespace, mesh: mesh.clone() });
        }
    };
    match plan(pod, spec, namespace, mesh, image, key) {
        Ok(plan) => Decision::Inject(Box::new(plan)),
        Err(refusal) => Decision::Refuse(refusal),
    }
}

fn init_containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten()
}

fn plan(
    pod: &Pod,
    spec: &PodSpec,
    namespace: &Namespace,
    mesh: &Mesh,
    image: &str,
    key: &Key,
) -> Result<Plan, Refusal> {
    check_surroundings(spec, namespace)?;
    let present = is_present(pod, spec, &mesh.name_any())?;
    check_containers(spec)?;
    let mut probes: Vec<Probe> = if present { known_probes(spec) } else { Vec::new() };
    if let Some((container, probe)) = probes::orphan(spec, &probes) {
        return Err(Refusal::CopiedProbe { container: container.to_owned(), probe: probe.field() });
    }
    let rewrites = probes::find(spec, Key::of(&probes).as_ref().unwrap_or(key))?;
    // A container that was replaced under its name since the last invocation has new probes.
    probes.retain(|known| rewrites.iter().all(|r| probes::name(&r.probe.id) != probes::name(&known.id)));
    probes.extend(rewrites.iter().map(|r| r.probe.clone()));
    // Of an invalid Mesh what no pod could have is left out, and its status says so.
    let (injection, wanted) = (&mesh.spec.injection, &mesh.spec.proxy);
    let listed = |list: &[u16], annotation: &'static str| {
        skipped(list, pod.annotations().get(annotation).map(String::as_str))
            .map_err(|error| Refusal::SkipPorts { annotation, error })
    };
    let sidecar = Sidecar {
        mesh: mesh.name_any(),
        image: wanted.image.clone().filter(|i| is_image(i)).unwrap_or_else(|| image.to_owned()),
        log_level: mesh.spec.proxy.log_level,
        resources: spec.resources.is_none().then(|| {
            let resources = wanted.resources.clone().filter(|r| resources::judge(r).is_ok());
            resources.unwrap_or_else(sidecar::default_resources)
        }),
        workload: workload::name(pod),
        skip_inbound: listed(&injection.skip_inbound_ports, SKIP_INBOUND_ANNOTATION)?,
        skip_outbound: listed(&injection.skip_outbound_ports, SKIP_OUTBOUND_ANNOTATION)?,
        probes,
    };
    Ok(Plan { sidecar, rewrites, present })
}

fn check_surroundings(spec: &PodSpec, namespace: &Namespace) -> Result<(), Refusal> {
    if spec.host_network == Some(true) {
        return Err(Refusal::HostNetwork);
    }
    let selected = spec.node_selector.as_ref().and_then(|s| s.get("kubernetes.io/os"));
    if spec.os.as_ref().is_some_and(|os| os.name == "windows") || selected.is_some_and(|os| os == "windows") {
        return Err(Refusal::Windows);
    }
    let level = namespace.labels().get(POD_SECURITY).filter(|l| matches!(l.as_str(), "baseline" | "restricted"));
    if let Some(level) = level {
        return Err(Refusal::PodSecurity { namespace: namespace.name_any(), level: level.clone() });
    }
    Ok(())
}

/// Whether our containers are there: all of them, for this Mesh, or none.
fn is_present(pod: &Pod, spec: &PodSpec, mesh: &str) -> Result<bool, Refusal> {
    let mut reserved =
        init_containers(spec).chain(&spec.containers).filter(|c| sidecar::is_reserved(&c.name)).peekable();
    if reserved.peek().is_none() {
        let volumes = spec.volumes.iter().flatten();
        return match volumes.map(|v| &v.name).find(|name| sidecar::VOLUMES.contains(&name.as_str())) {
            Some(name) => Err(Refusal::ForeignVolume(name.clone())),
            None => Ok(false),
        };
    }
    let found: Vec<&Container> = reserved.collect();
    if let Some(foreign) = found.iter().find(|c| !sidecar::is_ours(c)) {
        return Err(Refusal::ForeignContainer(foreign.name.clone()));
    }
    if found.len() == SLOTS.len() + 1 && injected_mesh(pod) == Some(mesh) {
        return Ok(true);
    }
    let names: Vec<&str> = found.iter().map(|c| c.name.as_str()).collect();
    Err(Refusal::Leftover { found: names.join(", "), mesh: mesh.to_owned() })
}

fn check_containers(spec: &PodSpec) -> Result<(), Refusal> {
    if spec.security_context.as_ref().and_then(|s| s.run_as_user) == Some(PROXY_UID) {
        return Err(Refusal::ProxyUser { who: "the pod's securityContext".into() });
    }
    for container in init_containers(spec).chain(&spec.containers).filter(|c| !sidecar::is_reserved(&c.name)) {
        if container.security_context.as_ref().and_then(|s| s.run_as_user) == Some(PROXY_UID) {
            return Err(Refusal::ProxyUser { who: format!("container {}", container.name) });
        }
        for port in container.ports.iter().flatten() {
            let tcp = port.protocol.as_deref().is_none_or(|p| p == "TCP");
            let number = u16::try_from(port.container_port).unwrap_or_default();
            if tcp && ports::ALL.contains(&number) {
                return Err(Refusal::PortCollision { container: container.name.clone(), port: number });
            }
        }
    }
    Ok(())
}

/// The probes that the sidecar of an earlier invocation was given.
fn known_probes(spec: &PodSpec) -> Vec<Probe> {
    init_containers(spec)
        .filter(|c| c.name == SLOTS[0])
        .flat_map(|c| c.env.iter().flatten())
        .find(|e| e.name == env::PROBES)
        .and_then(|e| serde_json::from_str(e.value.as_deref()?).ok())
        .unwrap_or_default()
}
