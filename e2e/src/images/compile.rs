//! Compiles operator, proxy and test application for their images: static binaries, in a target directory of their own.
//!
//! It needs nothing of the cluster, so it can be started before one and go on beside it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::task::{AbortHandle, JoinHandle};

use crate::host::cargo::{Build, Progress};
use crate::host::env::Env;
use crate::host::progress::step_with;

/// How the binaries are optimised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Optimised, but linked in minutes rather than a quarter of an hour: for tests.
    Image,
    /// As released.
    Release,
}

impl Profile {
    /// As the command line asks for it.
    #[must_use]
    pub fn of(release: bool) -> Self {
        if release { Self::Release } else { Self::Image }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Release => "release",
        }
    }

    /// Where its archives lie: what a user pushes to a registry is what they built for it, whatever was built afterwards for tests.
    pub(super) fn folder(self) -> &'static str {
        match self {
            Self::Image => "",
            Self::Release => "release",
        }
    }
}

/// Binaries and the image that they go into.
pub(super) const BINARIES: [(&str, &[&str], &str, &str); 3] = [
    // (package, binaries, image, directory of the Containerfile)
    ("bowline-operator", &["bowline-operator"], "bowline-operator", "operator"),
    ("bowline-proxy", &["bowline-proxy", "bowline-standby"], "bowline-proxy", "proxy"),
    ("bowline-test-app", &["test-app"], "bowline-test-app", "e2e/images/test-app"),
];

/// What compiling them takes on two cores from nothing, for tests.
const COLD: Duration = Duration::from_secs(360);
/// The same as released: each alone, with one long link.
const COLD_RELEASE: Duration = Duration::from_secs(900);
/// When the dependencies are there.
const WARM: Duration = Duration::from_secs(30);

/// About what [`start`] takes.
#[must_use]
pub fn takes(env: &Env, profile: Profile) -> Duration {
    match profile {
        _ if dir(env, profile).is_dir() => WARM,
        Profile::Image => COLD,
        Profile::Release => COLD_RELEASE,
    }
}

/// A compilation that is under way; it ends when this is dropped.
pub struct Compilation {
    builds: JoinHandle<Result<()>>,
    abort: AbortHandle,
    progress: Progress,
    title: String,
    dir: PathBuf,
}

impl Drop for Compilation {
    fn drop(&mut self) {
        self.abort.abort();
    }
}

/// Starts compiling.
#[must_use]
pub fn start(env: &Env, profile: Profile) -> Compilation {
    let progress = Progress::new(takes(env, profile));
    let (told, here) = (progress.clone(), env.clone());
    let builds = tokio::spawn(async move {
        for build in builds(&here, profile) {
            build.run(&here, &told).await?;
        }
        Ok(())
    });
    let abort = builds.abort_handle();
    let title = format!("compiling operator, proxy and test application ({})", profile.name());
    Compilation { builds, abort, progress, title, dir: dir(env, profile) }
}

impl Compilation {
    /// Waits for its end; returns the directory of the binaries.
    ///
    /// # Errors
    /// When the compiler fails.
    pub async fn finish(mut self) -> Result<PathBuf> {
        let (title, progress) = (self.title.clone(), self.progress.clone());
        step_with(&title, || progress.remark(), async { (&mut self.builds).await? }).await?;
        self.dir.canonicalize().with_context(|| format!("no binaries in {}", self.dir.display()))
    }
}

fn triple() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

fn dir(env: &Env, profile: Profile) -> PathBuf {
    env.target.join("static").join(triple()).join(profile.name())
}

/// The runs of cargo, one after the other.
fn builds(env: &Env, profile: Profile) -> Vec<Build> {
    let build = |binaries| Build {
        binaries,
        args: vec![
            "--profile".into(),
            profile.name().into(),
            "--target".into(),
            triple().into(),
            // Of their own, so that the flags do not disturb ordinary builds.
            "--target-dir".into(),
            env.target.join("static").into(),
        ],
        // A scratch image has no /dev/urandom before the runtime mounts it: ask the kernel.
        env: vec![(
            "CARGO_ENCODED_RUSTFLAGS",
            "-Ctarget-feature=+crt-static\u{1f}--cfg=getrandom_backend=\"linux_getrandom\"".into(),
        )],
    };
    let pairs = BINARIES.map(|(package, names, ..)| (package, names));
    match profile {
        // Together: shared dependencies are compiled once.
        Profile::Image => vec![build(pairs.to_vec())],
        // One by one: no binary gets a feature that only another asked for.
        Profile::Release => pairs.map(|pair| build(vec![pair])).to_vec(),
    }
}
