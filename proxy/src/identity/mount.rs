//! What the kubelet mounts: mesh, trust bundle and token. Read anew at every attempt, so whatever rotates arrives by itself.

use std::{
    io,
    path::{Path, PathBuf},
};

use rustls_pki_types::{CertificateDer, pem::PemObject};
use zeroize::Zeroizing;

use crate::contract::{
    bootstrap::{MeshInfo, TRUST_KEY_BUNDLE, TRUST_KEY_MESH, paths},
    proto,
    resource::Bundle,
    validate::{InvalidResource, trust_bundle},
};

/// Largest token that is sent, in bytes.
const MAX_TOKEN_BYTES: usize = 64 << 10;

/// What is mounted cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A file cannot be read.
    #[error("{path} cannot be read: {source}; check the pod's volumes {volume}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
        /// The volume that it comes from.
        volume: &'static str,
    },
    /// `mesh.json` is not what the operator writes.
    #[error("{path} is malformed: {source}; the operator restores the ConfigMap that it comes from")]
    Mesh {
        /// Which.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// `bundle.pem` is not what the operator writes.
    #[error("{path} holds no usable trust bundle: {reason}; the operator restores the ConfigMap that it comes from")]
    Bundle {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The token is empty or absurdly large.
    #[error("token in {path} has {bytes} bytes: 1 to {MAX_TOKEN_BYTES} are expected; the kubelet writes it anew")]
    Token {
        /// Which.
        path: PathBuf,
        /// Its size.
        bytes: usize,
    },
}

/// Where things are mounted.
#[derive(Debug, Clone)]
pub struct Mounts {
    /// Directory with `mesh.json` and `bundle.pem`.
    pub trust: PathBuf,
    /// Projected token.
    pub token: PathBuf,
}

impl Default for Mounts {
    fn default() -> Self {
        Self { trust: paths::TRUST_DIR.into(), token: paths::TOKEN.into() }
    }
}

impl Mounts {
    /// Reads mesh and trust bundle.
    ///
    /// # Errors
    /// When a file is missing or malformed.
    pub fn trust(&self) -> Result<(MeshInfo, Bundle), MountError> {
        let path = self.trust.join(TRUST_KEY_MESH);
        let text = read(&path, "bowline-trust")?;
        let mesh: MeshInfo = serde_json::from_slice(&text).map_err(|source| MountError::Mesh { path, source })?;
        let path = self.trust.join(TRUST_KEY_BUNDLE);
        let pem = read(&path, "bowline-trust")?;
        let bundle = parse(&mesh, &pem).map_err(|reason| MountError::Bundle { path, reason })?;
        Ok((mesh, bundle))
    }

    /// Reads the token.
    ///
    /// # Errors
    /// When it is missing or cannot be a token.
    pub fn token(&self) -> Result<Zeroizing<String>, MountError> {
        let bytes = Zeroizing::new(read(&self.token, "bowline-token")?);
        let text = std::str::from_utf8(&bytes).unwrap_or_default().trim();
        if text.is_empty() || text.len() > MAX_TOKEN_BYTES {
            return Err(MountError::Token { path: self.token.clone(), bytes: bytes.len() });
        }
        Ok(Zeroizing::new(text.to_owned()))
    }
}

fn read(path: &Path, volume: &'static str) -> Result<Vec<u8>, MountError> {
    std::fs::read(path).map_err(|source| MountError::Read { path: path.into(), source, volume })
}

fn parse(mesh: &MeshInfo, pem: &[u8]) -> Result<Bundle, String> {
    let roots: Vec<Vec<u8>> = CertificateDer::pem_slice_iter(pem)
        .map(|c| c.map(|c| c.to_vec()))
        .collect::<Result<_, _>>()
        .map_err(|e| format!("invalid PEM: {e:?}"))?;
    let message = proto::TrustBundle {
        trust_domain: mesh.trust_domain.clone(),
        sequence: mesh.bundle_sequence,
        roots_der: roots,
        issuers_sha256: digests(&mesh.issuers_sha256)?,
        renew_within_seconds: mesh.renew_within_seconds,
        revoked_sha256: digests(&mesh.revoked_sha256)?,
    };
    trust_bundle(message).map_err(|e: InvalidResource| e.to_string())
}

/// Bytes of lower-case hex digits.
fn digests(all: &[String]) -> Result<Vec<Vec<u8>>, String> {
    let digest = |text: &String| {
        let pairs = text.as_bytes().chunks(2).map(|pair| {
            let pair = std::str::from_utf8(pair).ok().filter(|p| p.len() == 2);
            pair.and_then(|p| u8::from_str_radix(p, 16).ok())
        });
        pairs.collect::<Option<Vec<u8>>>().ok_or_else(|| "mesh.json holds a digest that is no hex".to_owned())
    };
    all.iter().map(digest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounts(name: &str) -> Mounts {
        let dir = std::env::temp_dir().join(format!("bowline-mount-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Mounts { token: dir.join("token"), trust: dir }
    }

    #[test]
    fn mesh_and_bundle_belong_together() {
        let m = mounts("whole");
        let root = rcgen::generate_simple_self_signed(vec!["root".into()]).unwrap();
        std::fs::write(m.trust.join("bundle.pem"), root.cert.pem().repeat(2)).unwrap();
        std::fs::write(
            m.trust.join("mesh.json"),
            r#"{"mesh":"m","trustDomain":"mesh.test","bundleSequence":7,"controlAddress":"a:1","controlSni":"s",
                "controlIdentity":"spiffe://mesh.test/ns/a/sa/b","later":1}"#,
        )
        .unwrap();
        let (mesh, bundle) = m.trust().unwrap();
        assert_eq!((mesh.mesh.as_str(), bundle.sequence), ("m", 7));
        assert_eq!(bundle.roots, vec![root.cert.der().to_vec(); 2]);
        std::fs::remove_dir_all(&m.trust).unwrap();
    }

    #[test]
    fn what_is_missing_or_malformed_is_named() {
        let m = mounts("broken");
        assert!(m.trust().unwrap_err().to_string().contains("mesh.json"));
        std::fs::write(m.trust.join("mesh.json"), "{}").unwrap();
        assert!(matches!(m.trust(), Err(MountError::Mesh { .. })));
        assert!(m.token().unwrap_err().to_string().contains("bowline-token"));
        std::fs::write(&m.token, " \n").unwrap();
        assert!(matches!(m.token(), Err(MountError::Token { bytes: 2, .. })));
        std::fs::write(&m.token, "abc\n").unwrap();
        assert_eq!(m.token().unwrap().as_str(), "abc");
        std::fs::remove_dir_all(&m.trust).unwrap();
    }
}
