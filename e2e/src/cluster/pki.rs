//! Keys, certificates and kubeconfig files of a cluster. All P-256; the CA's key never leaves the state directory.

use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use serde_json::json;

use super::network::{API_SERVICE, node_ip};

/// The certificate authority of one cluster and the directory that it fills.
pub struct Pki {
    dir: PathBuf,
    ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    /// Makes a new authority and everything that the control plane needs.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn create(state: &Path) -> Result<Self> {
        let dir = state.join("pki");
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "kubernetes");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let ca_pem = params.self_signed(&key)?.pem();
        secret(&dir.join("ca.key"), &key.serialize_pem())?;
        std::fs::write(dir.join("ca.crt"), &ca_pem)?;
        let this = Self { dir, ca_pem, issuer: Issuer::new(params, key) };
        this.control_plane()?;
        Ok(this)
    }

    /// Opens the authority of a running cluster.
    ///
    /// # Errors
    /// When its files are missing or damaged.
    pub fn open(state: &Path) -> Result<Self> {
        let dir = state.join("pki");
        let read = |name: &str| {
            let path = dir.join(name);
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let ca_pem = read("ca.crt")?;
        let issuer = Issuer::from_ca_cert_pem(&ca_pem, KeyPair::from_pem(&read("ca.key")?)?)?;
        Ok(Self { dir, ca_pem, issuer })
    }

    fn control_plane(&self) -> Result<()> {
        let kubernetes =
            "kubernetes kubernetes.default kubernetes.default.svc kubernetes.default.svc.cluster.local localhost";
        let mut names = kubernetes.split(' ').map(dns).collect::<Result<Vec<_>>>()?;
        names.extend([Ipv4Addr::LOCALHOST, node_ip(1), API_SERVICE].map(|ip| SanType::IpAddress(ip.into())));
        self.leaf("apiserver", None, "kube-apiserver", names)?;
        self.leaf("apiserver-kubelet", Some("system:masters"), "apiserver-kubelet", vec![])?;
        self.leaf("front", None, "front-proxy", vec![])?;
        for (file, group, user) in [
            ("admin", Some("system:masters"), "admin"),
            ("kcm", None, "system:kube-controller-manager"),
            ("scheduler", None, "system:kube-scheduler"),
            ("proxy", None, "system:kube-proxy"),
        ] {
            self.user(file, group, user, vec![])?;
        }
        let sa = KeyPair::generate()?;
        secret(&self.dir.join("sa.key"), &sa.serialize_pem())?;
        Ok(std::fs::write(self.dir.join("sa.pub"), sa.public_key_pem())?)
    }

    /// Makes certificate and kubeconfig of a node.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn node(&self, number: u8) -> Result<()> {
        let name = format!("node{number}");
        let names = vec![dns(&name)?, SanType::IpAddress(node_ip(number).into())];
        self.user(&name, Some("system:nodes"), &format!("system:node:{name}"), names)
    }

    /// A leaf and the kubeconfig that uses it.
    fn user(&self, file: &str, group: Option<&str>, user: &str, names: Vec<SanType>) -> Result<()> {
        self.leaf(file, group, user, names)?;
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
        secret(&path("kubeconfig"), &serde_yaml::to_string(&config)?)
    }

    fn leaf(&self, file: &str, group: Option<&str>, user: &str, names: Vec<SanType>) -> Result<()> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.subject_alt_names = names;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let pem = params.signed_by(&key, &self.issuer)?.pem();
        secret(&self.dir.join(format!("{file}.key")), &key.serialize_pem())?;
        Ok(std::fs::write(self.dir.join(format!("{file}.crt")), pem)?)
    }

    /// The CA's certificate.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }
}

fn dns(name: &str) -> Result<SanType> {
    Ok(SanType::DnsName(name.try_into()?))
}

/// Writes a file that only its owner may read.
fn secret(path: &Path, content: &str) -> Result<()> {
    let file = std::fs::File::options().create(true).write(true).truncate(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| std::io::Write::write_all(&mut file, content.as_bytes()));
    written.with_context(|| format!("cannot write {}", path.display()))
}
