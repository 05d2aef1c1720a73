//! What the machine must have: root, Go, a few Debian packages. Installs what it can, names what it cannot.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use crate::host::env::Env;
use crate::host::progress::{say, step};
use crate::host::shell::{Cmd, run, which};

/// A version of Go: major, minor, patch.
type GoVersion = (u32, u32, u32);

/// A file or program that must exist, and the Debian package that brings it.
const NEEDED: [(&str, &str); 12] = [
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
    ("openssl", "openssl"),
];

/// Makes sure that a cluster can be started on this machine.
///
/// # Errors
/// Names what is missing and the command that installs it.
pub async fn for_cluster() -> Result<()> {
    root()?;
    ensure!(
        Path::new("/sys/fs/cgroup/memory").is_dir() || Path::new("/sys/fs/cgroup/cgroup.controllers").is_file(),
        "no cgroup hierarchy at /sys/fs/cgroup: mount cgroup2 there"
    );
    packages(|_| true).await
}

/// Makes sure that this is root.
///
/// # Errors
/// Says how to become it, and what works without.
pub fn root() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "a cluster needs root for its namespaces and mounts: run `sudo -E env PATH=$PATH cargo e2e up`, \
         or set KUBECONFIG to use a cluster of yours"
    );
    Ok(())
}

/// Free bytes below which a warning is due: what a run from nothing writes, with some to spare.
const ROOM: u64 = 20 << 30;

/// Says where the disk may become full: compilers and the kubelet then fail in ways that do not name it.
pub fn warn_of_full_disks(env: &Env) {
    for (what, dir) in [("what is compiled", env.target.as_path()), ("the programs' cache", env.cache.as_path())] {
        // Where nothing can be asked nothing is known.
        let Some(free) = free_bytes(dir) else { continue };
        if free < ROOM {
            let (free, room) = (free >> 30, ROOM >> 30);
            say(format_args!(
                "only {free} GiB are free for {what} ({}): a run from nothing writes up to {room}, so make room if it fails",
                dir.display()
            ));
        }
    }
}

/// Of the file system that holds `dir`, or that would.
fn free_bytes(dir: &Path) -> Option<u64> {
    let there = dir.ancestors().find(|dir| dir.exists())?;
    let stat = rustix::fs::statvfs(there).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Makes sure that tests which need no cluster find what they compare with: the kernel's rules as `nft` prints them.
///
/// # Errors
/// Names what is missing and the command that installs it.
pub async fn for_rust_tests() -> Result<()> {
    packages(|package| matches!(package, "nftables" | "iproute2" | "util-linux" | "openssl")).await
}

/// Makes sure that images can be built; for a cluster of the user's also the one that on ours comes with the cluster.
///
/// # Errors
/// Names what is missing and the command that installs it.
pub async fn for_images(env: &Env) -> Result<()> {
    let own = env.kubeconfig.is_some();
    packages(|package| package == "buildah" || own && package == "busybox-static").await
}

/// Makes sure that Go is there and new enough for every module of `e2e/cluster/go`; returns the program.
///
/// # Errors
/// Says what was found, what is wanted and by whom, and where to get it.
pub async fn for_go(env: &Env) -> Result<String> {
    let (wanted, module) = go_wanted(env)?;
    let wanted_text = go_text(wanted);
    let advice = format!(
        "{} wants Go {wanted_text}: install that or a newer one (https://go.dev/dl/, unpacked to /usr/local/go) and put it into PATH",
        module.display()
    );
    let go = which("go").with_context(|| format!("Go is missing, and {advice}"))?;
    let go = go.to_string_lossy().into_owned();
    let said = run(&go, &["env", "GOVERSION"]).await?;
    let found = parse_go(&said).with_context(|| format!("`{go} env GOVERSION` said {said:?}, and {advice}"))?;
    ensure!(found >= wanted, "{go} is Go {}, and {advice}", go_text(found));
    Ok(go)
}

/// The newest Go that a module of the cluster asks for, and that module's `go.mod`.
fn go_wanted(env: &Env) -> Result<(GoVersion, PathBuf)> {
    let dir = env.inputs().join("go");
    let mut newest = None;
    for entry in std::fs::read_dir(&dir).with_context(|| format!("cannot look into {}", dir.display()))? {
        let path = entry?.path().join("go.mod");
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("go "));
        let version =
            line.and_then(parse_numbers).with_context(|| format!("{} has no line `go N.N`", path.display()))?;
        newest = newest.max(Some((version, path)));
    }
    newest.with_context(|| format!("no module in {}", dir.display()))
}

fn go_text((major, minor, patch): GoVersion) -> String {
    format!("{major}.{minor}.{patch}")
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

/// What `go env GOVERSION` says: `go1.26.8`, `go1.27rc1`, `go1.26.8-distribution X:experiment`.
fn parse_go(said: &str) -> Option<GoVersion> {
    parse_numbers(said.trim().strip_prefix("go")?)
}

/// The numbers that a version begins with; what is not there is 0.
fn parse_numbers(text: &str) -> Option<GoVersion> {
    let numbers = text.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
    let mut parts = numbers.split('.').map(str::parse);
    let (major, minor) = (parts.next()?.ok()?, parts.next()?.ok()?);
    Some((major, minor, parts.next().and_then(Result::ok).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_space_is_known_of_what_does_not_exist_yet() {
        let (there, not_yet) = (std::env::temp_dir(), std::env::temp_dir().join("bowline-no/such/directory"));
        assert!(free_bytes(&there).is_some_and(|free| free > 0));
        assert!(free_bytes(&not_yet).is_some_and(|free| free > 0));
    }

    #[test]
    fn tells_static_from_dynamic() {
        assert!(!is_static(&std::env::current_exe().unwrap()));
        assert!(!is_static(Path::new("/etc/passwd")));
    }

    #[test]
    fn reads_go_versions() {
        assert_eq!(parse_go("go1.26.8\n"), Some((1, 26, 8)));
        assert_eq!(parse_go("go1.26.10-debian X:greenteagc"), Some((1, 26, 10)));
        assert_eq!(parse_go("go1.27rc1"), Some((1, 27, 0)));
        assert_eq!(parse_go("go1.26"), Some((1, 26, 0)));
        assert_eq!(parse_go("devel"), None);
        assert!(parse_go("go1.26.5") < parse_go("go1.26.6") && parse_go("go1.26.9") < parse_go("go1.26.10"));
    }

    #[test]
    fn the_go_that_modules_ask_for_is_the_one_that_people_are_told_to_install() {
        let env = Env::from_process().unwrap();
        let (wanted, module) = go_wanted(&env).unwrap();
        for entry in std::fs::read_dir(env.inputs().join("go")).unwrap() {
            let text = std::fs::read_to_string(entry.unwrap().path().join("go.mod")).unwrap();
            let line = text.lines().find(|line| line.starts_with("go ")).unwrap();
            assert!(parse_numbers(&line[3..]).unwrap() <= wanted, "{line} is newer than that of {}", module.display());
        }
        let text = format!("Go {}", go_text(wanted));
        for file in ["README.md", "e2e/README.md", ".ci/run"] {
            let said = std::fs::read_to_string(env.root.join(file)).unwrap();
            assert!(said.contains(&text), "{file} does not ask for {text}, as {} does", module.display());
        }
    }
}
