//! Keys, certificates and kubeconfig files of a cluster. All P-256; the CA's key never leaves the state directory.
//!
//! Made with the `openssl` command: a library that signs is the dearest part of a program to compile, and this one shall answer soon.

use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::network::{API_SERVICE, node_ip};
use crate::host::shell::Cmd;

/// How long certificates are valid: longer than any cluster of this kind lives.
const DAYS: &str = "3650";

/// The certificate authority of one cluster: the directory that it fills.
pub struct Pki {
    dir: PathBuf,
}

impl Pki {
    /// Makes a new authority and everything that the control plane needs.
    ///
    /// # Errors
    /// When openssl fails or a file cannot be written.
    pub async fn create(state: &Path) -> Result<Self> {
        let this = Self { dir: state.join("pki") };
        std::fs::create_dir_all(&this.dir).with_context(|| format!("cannot make {}", this.dir.display()))?;
        let extensions = "basicConstraints = critical, CA:TRUE\n\
                          keyUsage = critical, keyCertSign, cRLSign, digitalSignature\n\
                          subjectKeyIdentifier = hash\n";
        this.certificate("ca", None, "kubernetes", extensions, false).await?;
        this.control_plane().await?;
        Ok(this)
    }

    /// Opens the authority of a running cluster.
    ///
    /// # Errors
    /// When its files are missing.
    pub fn open(state: &Path) -> Result<Self> {
        let this = Self { dir: state.join("pki") };
        for file in ["ca.crt", "ca.key"] {
            let path = this.dir.join(file);
            ensure!(path.is_file(), "the cluster's {} is missing", path.display());
        }
        Ok(this)
    }

    async fn control_plane(&self) -> Result<()> {
        let kubernetes =
            "kubernetes kubernetes.default kubernetes.default.svc kubernetes.default.svc.cluster.local localhost";
        let mut names: Vec<_> = kubernetes.split(' ').map(dns).collect();
        names.extend([Ipv4Addr::LOCALHOST, node_ip(1), API_SERVICE].map(address));
        self.leaf("apiserver", None, "kube-apiserver", &names).await?;
        self.leaf("apiserver-kubelet", Some("system:masters"), "apiserver-kubelet", &[]).await?;
        self.leaf("front", None, "front-proxy", &[]).await?;
        for (file, group, user) in [
            ("admin", Some("system:masters"), "admin"),
            ("kcm", None, "system:kube-controller-manager"),
            ("scheduler", None, "system:kube-scheduler"),
            ("proxy", None, "system:kube-proxy"),
        ] {
            self.user(file, group, user, &[]).await?;
        }
        let key = self.dir.join("sa.key");
        secret(&key, "")?;
        let generate = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out"];
        Cmd::new("openssl").args(generate).args([&key]).output().await?;
        let public = Cmd::new("openssl").args(["pkey", "-pubout", "-in"]).args([&key]).output().await?;
        Ok(std::fs::write(self.dir.join("sa.pub"), public)?)
    }

    /// Makes certificate and kubeconfig of a node.
    ///
    /// # Errors
    /// When openssl fails or a file cannot be written.
    pub async fn node(&self, number: u8) -> Result<()> {
        let name = format!("node{number}");
        let names = [dns(&name), address(node_ip(number))];
        self.user(&name, Some("system:nodes"), &format!("system:node:{name}"), &names).await
    }

    /// A leaf and the kubeconfig that uses it.
    async fn user(&self, file: &str, group: Option<&str>, user: &str, names: &[String]) -> Result<()> {
        self.leaf(file, group, user, names).await?;
        let path = |suffix: &str| self.dir.join(format!("{file}.{suffix}"));
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "e2e", "cluster": {
                "server": format!("https://{}:6443", node_ip(1)),
                "certificate-authority": self.dir.join("ca.crt"),
            }}],
            "users": [{"name": file, "user": {"client-certificate": path("crt"), "client-key": path("key")}}],
            "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": file}}],
            "current-context": "e2e",
        });
        // JSON is YAML.
        secret(&path("kubeconfig"), &(serde_json::to_string_pretty(&config)? + "\n"))
    }

    async fn leaf(&self, file: &str, group: Option<&str>, user: &str, names: &[String]) -> Result<()> {
        let mut extensions = "keyUsage = critical, digitalSignature\n\
                              extendedKeyUsage = serverAuth, clientAuth\n\
                              authorityKeyIdentifier = keyid\n"
            .to_owned();
        if !names.is_empty() {
            extensions += &format!("subjectAltName = {}\n", names.join(", "));
        }
        self.certificate(file, group, user, &extensions, true).await
    }

    /// A key and a certificate over it, signed by the authority or by itself.
    async fn certificate(
        &self,
        file: &str,
        organisation: Option<&str>,
        common_name: &str,
        extensions: &str,
        by_authority: bool,
    ) -> Result<()> {
        let organisation = organisation.map(|name| format!("O = {name}\n")).unwrap_or_default();
        let config = format!(
            "[req]\nprompt = no\ndistinguished_name = subject\nx509_extensions = extensions\n\
             [subject]\n{organisation}CN = {common_name}\n[extensions]\n{extensions}"
        );
        let path = |suffix: &str| self.dir.join(format!("{file}.{suffix}"));
        // Nobody else may read it from the start.
        secret(&path("key"), "")?;
        let mut openssl = Cmd::new("openssl")
            .args(["req", "-x509", "-config", "/dev/stdin", "-days", DAYS, "-sha256", "-noenc"])
            .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-keyout"])
            .args([path("key").as_os_str(), "-out".as_ref(), path("crt").as_os_str()]);
        if by_authority {
            let (certificate, key) = (self.dir.join("ca.crt"), self.dir.join("ca.key"));
            openssl = openssl.args(["-CA".as_ref(), certificate.as_os_str(), "-CAkey".as_ref(), key.as_os_str()]);
        }
        openssl.input(config).output().await.map(drop)
    }
}

fn dns(name: &str) -> String {
    format!("DNS:{name}")
}

fn address(ip: Ipv4Addr) -> String {
    format!("IP:{ip}")
}

/// Writes a file that only its owner may read.
fn secret(path: &Path, content: &str) -> Result<()> {
    let file = std::fs::File::options().create(true).write(true).truncate(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| std::io::Write::write_all(&mut file, content.as_bytes()));
    written.with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn the_authority_signs_what_nodes_and_users_show() {
        let state = std::env::temp_dir().join(format!("bowline-pki-{}", std::process::id()));
        Pki::create(&state).await.unwrap();
        Pki::open(&state).unwrap().node(2).await.unwrap();
        let dir = state.join("pki");
        for leaf in ["apiserver", "apiserver-kubelet", "admin", "kcm", "scheduler", "proxy", "front", "node2"] {
            let (ca, leaf) = (dir.join("ca.crt"), dir.join(format!("{leaf}.crt")));
            Cmd::new("openssl").args(["verify", "-x509_strict", "-CAfile"]).args([ca, leaf]).output().await.unwrap();
        }
        let show = ["x509", "-noout", "-subject", "-ext", "subjectAltName,extendedKeyUsage", "-in"];
        let said = Cmd::new("openssl").args(show).args([dir.join("node2.crt")]).output().await.unwrap();
        for part in ["O = system:nodes, CN = system:node:node2", "DNS:node2", "IP Address:10.123.0.2", "Client"] {
            assert!(said.contains(part), "{said} lacks {part}");
        }
        for key in ["ca.key", "sa.key", "admin.key", "admin.kubeconfig"] {
            assert_eq!(dir.join(key).metadata().unwrap().permissions().mode() & 0o777, 0o600, "{key}");
        }
        assert!(std::fs::read_to_string(dir.join("sa.pub")).unwrap().starts_with("-----BEGIN PUBLIC KEY"));
        std::fs::remove_dir_all(state).unwrap();
    }
}
