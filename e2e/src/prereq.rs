//! What the machine must have: root, Go, a few Debian packages. Installs what it can, names what it cannot.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use crate::progress::step;
use crate::shell::{Cmd, run, which};

/// The oldest Go that builds the pinned modules.
const GO: (u32, u32) = (1, 26);

/// A file or program that must exist, and the Debian package that brings it.
const NEEDED: [(&str, &str); 11] = [
    ("runc", "runc"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("iptables", "iptables"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("mount", "mount"),
    ("buildah", "buildah"),
    ("cc", "build-essential"),
    ("busybox", "busybox-static"),
];

/// Makes sure that a cluster can be started on this machine.
///
/// # Errors
/// Names what is missing and the command that installs it.
pub async fn for_cluster() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "a cluster needs root for its namespaces and mounts: run `sudo -E env PATH=$PATH cargo e2e up`, \
         or set KUBECONFIG to use a cluster of yours"
    );
    ensure!(
        Path::new("/sys/fs/cgroup/memory").is_dir() || Path::new("/sys/fs/cgroup/cgroup.controllers").is_file(),
        "no cgroup hierarchy at /sys/fs/cgroup: mount cgroup2 there"
    );
    packages(|_| true).await
}

/// Makes sure that tests which need no cluster find what they compare with: the kernel's rules as `nft` prints them.
///
/// # Errors
/// Names what is missing and the command that installs it.
pub async fn for_rust_tests() -> Result<()> {
    packages(|package| matches!(package, "nftables" | "iproute2" | "util-linux")).await
}

/// Makes sure that images can be built.
///
/// # Errors
/// Names what is missing and the command that installs it.
pub async fn for_images() -> Result<()> {
    packages(|package| package == "buildah").await
}

/// Makes sure that Go is there and new enough.
///
/// # Errors
/// Says what to install.
pub async fn for_go() -> Result<String> {
    let advice = format!(
        "install Go {}.{} or newer (https://go.dev/dl/, unpacked to /usr/local/go) and put it into PATH",
        GO.0, GO.1
    );
    let go = which("go").with_context(|| format!("Go is missing: {advice}"))?;
    let go = go.to_string_lossy().into_owned();
    let said = run(&go, &["env", "GOVERSION"]).await?;
    let version = parse_go(&said).with_context(|| format!("`{go} env GOVERSION` said {said:?}: {advice}"))?;
    ensure!(version >= GO, "{go} is Go {}.{}: {advice}", version.0, version.1);
    Ok(go)
}

/// Installs the Debian packages that are missing among those that are `wanted`.
async fn packages(wanted: impl Fn(&str) -> bool) -> Result<()> {
    let mut missing: Vec<&str> =
        NEEDED.iter().filter(|(what, _)| !present(what)).map(|(_, package)| *package).collect();
    if which("busybox").is_some_and(|file| !is_static(&file)) {
        missing.push("busybox-static");
    }
    missing.retain(|package| wanted(package));
    missing.dedup();
    install(&missing).await
}

/// Makes sure that programs are there, each with the Debian package that brings it.
///
/// # Errors
/// Names what is missing and the command that installs it.
pub async fn programs(needed: &[(&str, &'static str)]) -> Result<()> {
    let missing: Vec<&str> = needed.iter().filter(|(what, _)| !present(what)).map(|(_, package)| *package).collect();
    install(&missing).await
}

async fn install(missing: &[&str]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let command = format!("apt-get install -y --no-install-recommends {}", missing.join(" "));
    if which("apt-get").is_none() {
        bail!("missing: {}. Install what these Debian packages contain (there: `{command}`)", missing.join(", "));
    }
    step(&format!("installing {}", missing.join(", ")), async {
        let apt = |args: &[&str]| Cmd::new("apt-get").args(args).env("DEBIAN_FRONTEND", "noninteractive").output();
        apt(&["update", "-q"]).await?;
        let mut args = vec!["install", "-q", "-y", "--no-install-recommends"];
        args.extend(missing);
        apt(&args).await.with_context(|| format!("install them by hand: `{command}`"))
    })
    .await?;
    Ok(())
}

fn present(what: &str) -> bool {
    if what.starts_with('/') { Path::new(what).exists() } else { which(what).is_some() }
}

/// Whether an ELF file (64 bit, little endian) asks for no loader: it has no program header `PT_INTERP`.
fn is_static(file: &Path) -> bool {
    let Ok(elf) = std::fs::read(file) else { return false };
    let u16_at = |at: usize| Some(usize::from(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?)));
    let u32_at = |at: usize| Some(u32::from_le_bytes(elf.get(at..at + 4)?.try_into().ok()?));
    let u64_at = |at: usize| usize::try_from(u64::from_le_bytes(elf.get(at..at + 8)?.try_into().ok()?)).ok();
    let (Some(table), Some(size), Some(count)) = (u64_at(32), u16_at(54), u16_at(56)) else { return false };
    elf.starts_with(b"\x7fELF") && !(0..count).any(|n| u32_at(table + n * size) == Some(3))
}

fn parse_go(said: &str) -> Option<(u32, u32)> {
    let mut parts = said.trim().strip_prefix("go")?.split(['.', '-', 'r', 'b']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_static_from_dynamic() {
        assert!(!is_static(&std::env::current_exe().unwrap()));
        assert!(!is_static(Path::new("/etc/passwd")));
    }

    #[test]
    fn reads_go_versions() {
        assert_eq!(parse_go("go1.26.8\n"), Some((1, 26)));
        assert_eq!(parse_go("go1.27rc1"), Some((1, 27)));
        assert_eq!(parse_go("devel"), None);
    }
}
