//! Images of third-party programs that single tests need.

use anyhow::Result;

use super::build::Image;
use super::load;
use crate::host::env::Env;
use crate::host::prereq;
use crate::host::progress::say;
use crate::programs::cert_manager;

/// The image of cert-manager's controller.
pub const CERT_MANAGER: &str = "localhost/cert-manager:1";

/// Builds cert-manager's controller and its image, and loads it on the nodes, or says how it gets to a cluster of the user's.
///
/// # Errors
/// When the compiler or buildah fails, or the image cannot be loaded.
pub async fn cert_manager(env: &Env) -> Result<()> {
    prereq::for_images(env).await?;
    let image = Image {
        name: CERT_MANAGER.into(),
        folder: "",
        containerfile: env.root.join("e2e/images/cert-manager"),
        files: vec![(cert_manager::cert_manager(env).await?, "cert-manager")],
    };
    let archives = [image.build(env).await?];
    match load::advice(env, &archives) {
        Some(advice) => say(advice),
        None => load::on_all_nodes(env, &archives).await?,
    }
    Ok(())
}
