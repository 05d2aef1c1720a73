//! Processes of containers as this machine sees them.

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use rustix::process::Pid;

/// Processes of a container, from its status; none on a cluster that is not of this machine.
///
/// # Errors
/// When the container does not run.
pub fn of(status: &ContainerStatus) -> Result<Vec<Pid>> {
    let id = status.container_id.as_deref().with_context(|| format!("container {} has no ID", status.name))?;
    let id = id.rsplit('/').next().unwrap_or(id);
    let mut pids = vec![];
    for entry in std::fs::read_dir("/proc")?.flatten() {
        // Processes come and go while they are looked at.
        let cgroups = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        pids.extend(pid.filter(|_| cgroups.contains(id)));
    }
    Ok(pids)
}

/// The status of a container by its name, whatever kind of container it is.
///
/// # Errors
/// When there is none yet.
pub fn status<'a>(pod: &'a Pod, container: &str) -> Result<&'a ContainerStatus> {
    let lists = pod.status.iter().flat_map(|s| [&s.init_container_statuses, &s.container_statuses]);
    let mut found = lists.flatten().flatten().filter(|c| c.name == container);
    found.next().with_context(|| format!("no status of container {container} yet"))
}
