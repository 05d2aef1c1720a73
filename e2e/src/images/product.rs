//! The product's images and the test application's: static binaries, each alone in a scratch image.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::{Image, busybox, load};
use crate::cluster::state::Record;
use crate::context::Figures;
use crate::env::{Env, VERSION};
use crate::prereq;
use crate::progress::{say, step_with};
use crate::shell::Cmd;

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

    fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Release => "release",
        }
    }

    /// Where its archives lie: what a user pushes to a registry is what they built for it, whatever was built afterwards for tests.
    fn folder(self) -> &'static str {
        match self {
            Self::Image => "",
            Self::Release => "release",
        }
    }
}

/// Binaries and the image that they go into.
const BINARIES: [(&str, &[&str], &str, &str); 3] = [
    // (package, binaries, image, directory of the Containerfile)
    ("bowline-operator", &["bowline-operator"], "bowline-operator", "operator"),
    ("bowline-proxy", &["bowline-proxy", "bowline-standby"], "bowline-proxy", "proxy"),
    ("bowline-test-app", &["test-app"], "bowline-test-app", "e2e/images/test-app"),
];

/// The name of one of our images at this version.
#[must_use]
pub fn image_name(short: &str) -> String {
    format!("localhost/{short}:{VERSION}")
}

/// Builds binaries and images and notes their sizes; returns the archives.
///
/// # Errors
/// When the compiler or buildah fails.
pub async fn build(env: &Env, profile: Profile) -> Result<Vec<PathBuf>> {
    prereq::for_images(env).await?;
    let binaries = compile(env, profile).await?;
    let mut archives = vec![];
    let mut sizes = Sizes::new(env, profile)?;
    for (_, names, image, dir) in BINARIES {
        let files: Vec<_> = names.iter().map(|name| (binaries.join(name), *name)).collect();
        let containerfile = env.root.join(dir);
        let built = Image { name: image_name(image), folder: profile.folder(), containerfile, files: files.clone() };
        let archive = built.build(env).await?;
        sizes.add(&format!("{image}_archive"), &archive)?;
        for (file, name) in files {
            sizes.add(name, &file)?;
        }
        archives.push(archive);
    }
    sizes.keep(env)?;
    if env.kubeconfig.is_some() {
        // On our own cluster it is there from the start.
        archives.push(busybox(env)?.build(env).await?);
    }
    Ok(archives)
}

/// How large archives and binaries are, by profile; figures called `images`.
struct Sizes {
    figures: Figures,
    prefix: &'static str,
}

impl Sizes {
    const FIGURES: &str = "images";
    const SUFFIX: &str = "_bytes";

    fn new(env: &Env, profile: Profile) -> Result<Self> {
        let prefix = match profile {
            Profile::Image => "test_",
            Profile::Release => "release_",
        };
        // Those of the other profile stay.
        Ok(Self { figures: Figures::read(env, Self::FIGURES)?.unwrap_or_default(), prefix })
    }

    fn add(&mut self, name: &str, file: &Path) -> Result<()> {
        let bytes = file.metadata().with_context(|| format!("cannot read {}", file.display()))?.len();
        self.figures.set(&format!("{}{name}{}", self.prefix, Self::SUFFIX), bytes);
        Ok(())
    }

    fn keep(&self, env: &Env) -> Result<()> {
        self.figures.write(env, Self::FIGURES)
    }
}

/// Says how large binaries and archives of images are.
///
/// # Errors
/// When the figures cannot be read.
pub fn tell_sizes(env: &Env, profile: Profile) -> Result<()> {
    let sizes = Sizes::new(env, profile)?;
    for (key, bytes) in sizes.figures.iter() {
        let name = key.strip_prefix(sizes.prefix).and_then(|name| name.strip_suffix(Sizes::SUFFIX));
        if let (Some(name), Some(bytes)) = (name, bytes.as_f64()) {
            let name = name.replace("_archive", ", the image's archive");
            say(format_args!("{:>6.1} MiB  {name}", bytes / 1024.0 / 1024.0));
        }
    }
    Ok(())
}

/// Builds the images and loads them on the nodes of the cluster, or says how they get to a cluster of the user's.
///
/// # Errors
/// As [`build`], and when an image cannot be loaded.
pub async fn build_and_load(env: &Env, profile: Profile) -> Result<()> {
    let archives = build(env, profile).await?;
    match load::advice(env, &archives) {
        Some(advice) => say(advice),
        None if Record::read(env)?.is_none() => say("the images are built, but no cluster is up to load them on"),
        None => load::on_all_nodes(env, &archives).await?,
    }
    Ok(())
}

/// Compiles static binaries in a target directory of their own, so that the flags do not disturb ordinary builds.
async fn compile(env: &Env, profile: Profile) -> Result<PathBuf> {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let target = env.target.join("static");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let cargo = || {
        Cmd::new(&cargo)
            .args(["build", "--profile", profile.name(), "--target", &triple, "--target-dir"])
            .args([&target])
            // A scratch image has no /dev/urandom before the runtime mounts it: ask the kernel.
            .env(
                "CARGO_ENCODED_RUSTFLAGS",
                "-Ctarget-feature=+crt-static\u{1f}--cfg=getrandom_backend=\"linux_getrandom\"",
            )
            .dir(&env.root)
    };
    let title = format!("compiling operator, proxy and test application ({})", profile.name());
    let first = !target.join(&triple).join(profile.name()).is_dir();
    let remark = || first.then(|| "some minutes the first time".to_owned());
    let select = |(package, names): (&'static str, &[&'static str])| {
        let bins = names.iter().flat_map(|name| ["--bin", *name]);
        ["--package", package].into_iter().chain(bins).collect::<Vec<_>>()
    };
    let pairs = BINARIES.map(|(package, names, ..)| (package, names));
    match profile {
        // Together: shared dependencies are compiled once.
        Profile::Image => {
            let all: Vec<_> = pairs.into_iter().flat_map(select).collect();
            step_with(&title, remark, cargo().args(all).output()).await?;
        }
        // One by one: no binary gets a feature that only another asked for.
        Profile::Release => {
            for pair in pairs {
                let title = format!("compiling {} (release)", pair.1.join(", "));
                step_with(&title, remark, cargo().args(select(pair)).output()).await?;
            }
        }
    }
    let dir = target.join(triple).join(profile.name());
    dir.canonicalize().with_context(|| format!("no binaries in {}", dir.display()))
}
