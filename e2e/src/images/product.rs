//! The product's images and the test application's: static binaries, each alone in a scratch image.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::base::busybox;
use super::build::Image;
use super::compile::{self, BINARIES, Compilation, Profile};
use super::load;
use crate::host::env::{Env, VERSION};
use crate::host::prereq;
use crate::host::progress::say;
use crate::nodes::state::Record;
use crate::report::figures::Figures;

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
    build_from(env, profile, compile::start(env, profile)).await
}

/// As [`build`], from a compilation that was started before.
async fn build_from(env: &Env, profile: Profile, compilation: Compilation) -> Result<Vec<PathBuf>> {
    prereq::for_images(env).await?;
    let binaries = compilation.finish().await?;
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
    finish_and_load(env, profile, compile::start(env, profile)).await
}

/// As [`build_and_load`], from a compilation that was started before.
///
/// # Errors
/// As [`build_and_load`].
pub async fn finish_and_load(env: &Env, profile: Profile, compilation: Compilation) -> Result<()> {
    let archives = build_from(env, profile, compilation).await?;
    match load::advice(env, &archives) {
        Some(advice) => say(advice),
        None if Record::read(env)?.is_none() => say("the images are built, but no cluster is up to load them on"),
        None => load::on_all_nodes(env, &archives).await?,
    }
    Ok(())
}
