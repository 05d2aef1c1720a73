//! Builds one image from its Containerfile and keeps it as a docker archive below `target/e2e/images`.
//!
//! An image whose inputs did not change is not built again.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sha2::{Digest, Sha256};

use crate::host::env::Env;
use crate::host::progress::step;
use crate::host::shell::Cmd;
use crate::nodes::state::Process;

/// An image to build.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its full name, with tag.
    pub name: String,
    /// Where its archive lies below `target/e2e/images`: images of one name that are built in several ways are kept apart.
    pub folder: &'static str,
    /// The directory of its Containerfile.
    pub containerfile: PathBuf,
    /// Files for the build context, and their names there.
    pub files: Vec<(PathBuf, &'static str)>,
}

impl Image {
    /// Where its archive is.
    #[must_use]
    pub fn archive(&self, env: &Env) -> PathBuf {
        let short = self.name.rsplit('/').next().unwrap_or(&self.name).replace(':', "-");
        env.out.join("images").join(self.folder).join(format!("{short}.tar"))
    }

    /// Builds the archive, unless it is there with the same inputs.
    ///
    /// # Errors
    /// When buildah fails or an input is missing.
    pub async fn build(&self, env: &Env) -> Result<PathBuf> {
        let archive = self.archive(env);
        let digest = self.digest()?;
        let stamp = archive.with_extension("inputs");
        if archive.is_file() && std::fs::read_to_string(&stamp).is_ok_and(|old| old == digest) {
            return Ok(archive);
        }
        sweep(archive.parent().unwrap_or(&env.out));
        let work = archive.with_extension(format!("work-{}", std::process::id()));
        let built = step(&format!("building image {}", self.name), self.build_in(&work, &archive)).await;
        let _ = std::fs::remove_dir_all(&work);
        built?;
        std::fs::write(&stamp, digest)?;
        Ok(archive)
    }

    async fn build_in(&self, work: &Path, archive: &Path) -> Result<()> {
        let context = work.join("context");
        std::fs::create_dir_all(&context).with_context(|| format!("cannot make {}", context.display()))?;
        for (from, name) in &self.files {
            std::fs::copy(from, context.join(name)).with_context(|| format!("cannot copy {}", from.display()))?;
        }
        // A store of its own: nothing stays behind on the machine, and no two builds meet.
        let buildah = || {
            let store = ["--storage-driver", "vfs", "--root"].map(Into::into);
            let places = [work.join("root"), "--runroot".into(), work.join("run")];
            Cmd::new("buildah").args(store.into_iter().chain(places.map(PathBuf::into_os_string)))
        };
        let file = self.containerfile.join("Containerfile");
        buildah()
            .args(["bud", "--isolation", "chroot", "--timestamp", "0", "--tag", &self.name, "--file"])
            .args([&file, &context])
            .output()
            .await?;
        let fresh = work.join("image.tar");
        buildah()
            .args(["push", &self.name, &format!("docker-archive:{}:{}", fresh.display(), self.name)])
            .output()
            .await?;
        std::fs::rename(&fresh, archive).with_context(|| format!("cannot write {}", archive.display()))
    }

    fn digest(&self) -> Result<String> {
        let mut hash = Sha256::new();
        let containerfile = self.containerfile.join("Containerfile");
        for path in std::iter::once(&containerfile).chain(self.files.iter().map(|(path, _)| path)) {
            let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            hash.update(Sha256::digest(bytes));
        }
        hash.update(&self.name);
        Ok(data_encoding::HEXLOWER.encode(&hash.finalize()))
    }
}

/// Removes what builds that were killed left beside the archives: `NAME.work-PID`, whose process is gone.
fn sweep(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.rsplit_once(".work-")).and_then(|(_, pid)| pid.parse().ok());
        if pid.is_some_and(|pid: i32| Process::now(pid).is_none()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_versions_nor_profiles_share_an_archive() {
        let env = Env::from_process().unwrap();
        let archive = |name: &str, folder| {
            Image { name: name.into(), folder, containerfile: PathBuf::new(), files: vec![] }.archive(&env)
        };
        assert!(archive("localhost/bowline-proxy:0.1.0", "").ends_with("images/bowline-proxy-0.1.0.tar"));
        assert!(archive("localhost/a:0.1.0", "release").ends_with("images/release/a-0.1.0.tar"));
        assert_ne!(archive("localhost/a:0.1.0", ""), archive("localhost/a:0.1.1", ""));
    }

    #[test]
    fn what_a_killed_build_left_is_swept_and_a_running_one_is_not() {
        let dir = std::env::temp_dir().join(format!("bowline-sweep-{}", std::process::id()));
        let running = format!("a-1.work-{}", std::process::id());
        // No process has a number this high (Linux, proc(5), pid_max).
        for name in ["a-1.work-4194305", "a-1.work-x", &running] {
            std::fs::create_dir_all(dir.join(name).join("context")).unwrap();
        }
        std::fs::write(dir.join("a-1.tar"), "").unwrap();
        sweep(&dir);
        let mut left: Vec<_> =
            std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        let mut wanted = vec!["a-1.tar".to_owned(), running, "a-1.work-x".into()];
        wanted.sort();
        assert_eq!(left, wanted);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
