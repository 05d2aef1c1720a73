//! Images that every cluster needs, and those around a single program that is not ours.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::build::Image;
use crate::host::env::Env;
use crate::host::shell::{run, which};
use crate::programs::kubernetes::Programs;

/// The image that the simplest tests run, which needs nothing of ours.
///
/// # Errors
/// When busybox is not installed.
pub fn busybox(env: &Env) -> Result<Image> {
    let program = which("busybox").context("busybox-static is not installed")?;
    Ok(third_party(env, "busybox", (program, "busybox")))
}

/// An image around one program that is not ours; its Containerfile is in `e2e/images/NAME`.
#[must_use]
pub fn third_party(env: &Env, name: &str, program: (PathBuf, &'static str)) -> Image {
    let containerfile = env.root.join("e2e/images").join(name);
    Image { name: format!("localhost/{name}:1"), folder: "", containerfile, files: vec![program] }
}

/// Builds what every cluster needs: pause, CoreDNS and busybox. Returns their archives.
///
/// # Errors
/// When a compiler, buildah or an input is missing.
pub async fn base(env: &Env, programs: &Programs) -> Result<Vec<PathBuf>> {
    let pause = pause(env, &env.root.join("e2e/images/pause/pause.c")).await?;
    let images = [
        third_party(env, "pause", (pause, "pause")),
        third_party(env, "coredns", (programs.path("coredns")?, "coredns")),
        busybox(env)?,
    ];
    let mut archives = vec![];
    for image in &images {
        archives.push(image.build(env).await?);
    }
    Ok(archives)
}

/// Compiles the program that holds a pod's namespaces.
async fn pause(env: &Env, source: &Path) -> Result<PathBuf> {
    let program = env.out.join("images/pause");
    std::fs::create_dir_all(env.out.join("images"))?;
    let age = |path: &Path| path.metadata().and_then(|m| m.modified()).ok();
    if age(&program) <= age(source) {
        let (program, source) = (program.to_string_lossy(), source.to_string_lossy());
        run("cc", &["-Os", "-static", "-s", "-o", &program, &source]).await?;
    }
    Ok(program)
}
