//! Probes and lifecycle hooks: found in the application's containers, pointed at the proxy, which carries them out. So they keep
//! their meaning under strict mutual TLS, where the kubelet, who has no identity, could not reach the application.

use std::collections::HashSet;

use bowline_proxy::contract::{
    bootstrap::ports,
    probe::{Probe, ProbeAction},
};
use k8s_openapi::{
    api::core::v1::{Container, GRPCAction, HTTPGetAction, PodSpec, Probe as KubeProbe, TCPSocketAction},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::sidecar;

/// Seconds that a `postStart` hook may take: Kubernetes sets no bound of its own.
const POST_START_SECONDS: u32 = 3600;
/// Grace period where the pod names none.
const GRACE_SECONDS: i64 = 30;

/// A probe aims at a port of the proxy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{probe} of container {container} asks port {port}, which is the proxy's own: use another port than 15000 to 15021"
)]
pub struct ProbeError {
    /// Name of the container.
    pub container: String,
    /// Field of the probe or hook.
    pub probe: &'static str,
    /// Its port.
    pub port: u16,
}

/// Which probe or hook of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `livenessProbe`.
    Liveness,
    /// `readinessProbe`.
    Readiness,
    /// `startupProbe`.
    Startup,
    /// `lifecycle.postStart`.
    PostStart,
    /// `lifecycle.preStop`.
    PreStop,
}

impl Kind {
    /// Last part of [`Probe::id`].
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
            Self::Startup => "startup",
            Self::PostStart => "postStart",
            Self::PreStop => "preStop",
        }
    }

    /// Path of the field below its container, as a user writes it.
    #[must_use]
    pub fn field(self) -> &'static str {
        match self {
            Self::Liveness => "livenessProbe",
            Self::Readiness => "readinessProbe",
            Self::Startup => "startupProbe",
            Self::PostStart => "lifecycle.postStart",
            Self::PreStop => "lifecycle.preStop",
        }
    }
}

/// What a caller of the probes' port must know: made at admission, in the pod's spec and nowhere else, the same for as long as the pod
/// lives. Who may read the pod may ask its probes; a pod that merely reaches the port may not.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// One that nobody can guess.
    #[must_use]
    pub fn random() -> Self {
        Self(format!("{:032x}", rand::random::<u128>()))
    }

    /// The one that the probes of an earlier invocation have.
    #[must_use]
    pub fn of(probes: &[Probe]) -> Option<Self> {
        probes.iter().find_map(|p| p.id.strip_suffix(name(&p.id))?.strip_suffix('/').map(|key| Self(key.to_owned())))
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

/// `CONTAINER/KIND` of a probe's id.
#[must_use]
pub fn name(id: &str) -> &str {
    id.rmatch_indices('/').nth(1).map_or(id, |(at, _)| &id[at + 1..])
}

/// A handler to be pointed at the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    /// Whether the container is one of `initContainers`.
    pub init: bool,
    /// Its index there, before anything is inserted.
    pub index: usize,
    /// Which probe or hook.
    pub kind: Kind,
    /// Member that names the present handler: `httpGet`, `tcpSocket` or `grpc`.
    pub handler: &'static str,
    /// What the proxy is to do.
    pub probe: Probe,
}

impl Rewrite {
    /// What the kubelet asks instead.
    #[must_use]
    pub fn replacement(&self) -> HTTPGetAction {
        HTTPGetAction {
            path: Some(format!("/probe/{}", self.probe.id)),
            port: IntOrString::Int(i32::from(ports::PROBES)),
            scheme: Some("HTTP".into()),
            ..HTTPGetAction::default()
        }
    }
}

/// Every handler that must be pointed at the proxy and is not yet. `exec` and `sleep` run inside the container; a handler that names
/// a host is not asked of the pod; one that names a port that its container does not have fails either way. All stay as they are.
///
/// # Errors
/// When one aims at a port of the proxy.
pub fn find(spec: &PodSpec, key: &Key) -> Result<Vec<Rewrite>, ProbeError> {
    let grace = spec.termination_grace_period_seconds.unwrap_or(GRACE_SECONDS);
    let init = spec.init_containers.iter().flatten().enumerate().map(|(i, c)| (true, i, c));
    let main = spec.containers.iter().enumerate().map(|(i, c)| (false, i, c));
    let mut found = Vec::new();
    for (init, index, container) in init.chain(main) {
        if sidecar::is_reserved(&container.name) {
            continue;
        }
        for (kind, seconds, handler) in handlers(container, grace) {
            let Some((name, action)) = action(&handler, container) else { continue };
            let port = port_of(&action);
            if matches!(handler, Handler::Http(h) if rewritten(h).is_some()) {
                continue;
            }
            if ports::ALL.contains(&port) {
                return Err(ProbeError { container: container.name.clone(), probe: kind.field(), port });
            }
            let id = format!("{}/{}/{}", key.0, container.name, kind.as_str());
            let probe = Probe { id, action, timeout_seconds: seconds };
            found.push(Rewrite { init, index, kind, handler: name, probe });
        }
    }
    Ok(found)
}

/// A handler that asks the proxy for what the proxy was not given, as a copy of another pod's does: it would fail for ever.
#[must_use]
pub fn orphan<'a>(spec: &'a PodSpec, known: &[Probe]) -> Option<(&'a str, Kind)> {
    let ids: HashSet<&str> = known.iter().map(|p| p.id.as_str()).collect();
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let own = containers.filter(|c| !sidecar::is_reserved(&c.name));
    let mut all =
        own.flat_map(|c| handlers(c, GRACE_SECONDS).into_iter().map(move |(kind, _, handler)| (c, kind, handler)));
    all.find_map(|(container, kind, handler)| {
        let Handler::Http(http) = handler else { return None };
        let id = rewritten(http)?;
        (!ids.contains(id)).then_some((container.name.as_str(), kind))
    })
}

enum Handler<'a> {
    Http(&'a HTTPGetAction),
    Tcp(&'a TCPSocketAction),
    Grpc(&'a GRPCAction),
}

/// Handlers of a container that reach it over the network, with their time limits in seconds.
fn handlers(container: &Container, grace: i64) -> Vec<(Kind, u32, Handler<'_>)> {
    let probes = [
        (Kind::Liveness, &container.liveness_probe),
        (Kind::Readiness, &container.readiness_probe),
        (Kind::Startup, &container.startup_probe),
    ];
    let mut all: Vec<_> = probes
        .into_iter()
        .filter_map(|(kind, probe)| {
            let probe = probe.as_ref()?;
            Some((kind, seconds(i64::from(probe.timeout_seconds.unwrap_or(1))), of_probe(probe)?))
        })
        .collect();
    let lifecycle = container.lifecycle.as_ref();
    // `tcpSocket` of hooks is deprecated, and has never done anything.
    let post = lifecycle.and_then(|l| l.post_start.as_ref()?.http_get.as_ref());
    let pre = lifecycle.and_then(|l| l.pre_stop.as_ref()?.http_get.as_ref());
    all.extend(post.map(|h| (Kind::PostStart, POST_START_SECONDS, Handler::Http(h))));
    all.extend(pre.map(|h| (Kind::PreStop, seconds(grace), Handler::Http(h))));
    all
}

fn of_probe(probe: &KubeProbe) -> Option<Handler<'_>> {
    let http = probe.http_get.as_ref().map(Handler::Http);
    let tcp = probe.tcp_socket.as_ref().map(Handler::Tcp);
    http.or(tcp).or_else(|| probe.grpc.as_ref().map(Handler::Grpc))
}

fn seconds(n: i64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX).max(1)
}

/// The id of what the proxy is asked for, by a handler that was pointed at it.
fn rewritten(http: &HTTPGetAction) -> Option<&str> {
    let path = http.path.as_ref().filter(|_| http.port == IntOrString::Int(i32::from(ports::PROBES)))?;
    path.strip_prefix("/probe/")
}

/// The handler's member and what the proxy is to do; `None`: it stays as it is.
fn action(handler: &Handler<'_>, container: &Container) -> Option<(&'static str, ProbeAction)> {
    let named = |host: &Option<String>| host.as_ref().is_some_and(|h| !h.is_empty());
    match handler {
        Handler::Http(http) if !named(&http.host) => {
            let headers = http.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect();
            let path = http.path.clone().filter(|p| !p.is_empty()).unwrap_or_else(|| "/".into());
            let https = http.scheme.as_deref() == Some("HTTPS");
            let port = resolve(&http.port, container)?;
            Some(("httpGet", ProbeAction::HttpGet { host: None, port, path, https, headers }))
        }
        Handler::Tcp(tcp) if !named(&tcp.host) => {
            Some(("tcpSocket", ProbeAction::TcpSocket { host: None, port: resolve(&tcp.port, container)? }))
        }
        Handler::Grpc(grpc) => {
            let service = grpc.service.clone().unwrap_or_default();
            Some(("grpc", ProbeAction::Grpc { port: u16::try_from(grpc.port).ok()?, service }))
        }
        Handler::Http(_) | Handler::Tcp(_) => None,
    }
}

fn port_of(action: &ProbeAction) -> u16 {
    match action {
        ProbeAction::HttpGet { port, .. } | ProbeAction::TcpSocket { port, .. } | ProbeAction::Grpc { port, .. } => {
            *port
        }
    }
}

/// A number, or a name among the container's own ports.
fn resolve(port: &IntOrString, container: &Container) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|p| p.name.as_ref() == Some(name));
            match named {
                Some(port) => port.container_port,
                None => name.parse().ok()?,
            }
        }
    };
    u16::try_from(number).ok().filter(|p| *p != 0)
}
