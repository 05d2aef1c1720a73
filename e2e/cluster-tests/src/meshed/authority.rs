//! The mesh's certificate authority as a client sees it: tokens, certificate signing requests, answers.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use bowline_proxy::contract::bootstrap::{
    MeshInfo, TOKEN_AUDIENCE, TRUST_CONFIG_MAP_PREFIX, TRUST_KEY_BUNDLE, TRUST_KEY_MESH,
};
use bowline_proxy::contract::proto::identity_client::IdentityClient;
use bowline_proxy::contract::proto::{SignRequest, SignResponse};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServiceAccount};
use kube::Api;
use kube::api::PostParams;
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use sha2::{Digest as _, Sha256};
use tokio::time::sleep;
use tonic::Code;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::handshake::{self, Credentials};
use crate::context::{Context, pods};
use e2e::cluster::install::NAMESPACE;

/// How often one signature is asked for while the service is unable to answer, and the pause between.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);

/// What was signed, or how it was refused: code and message.
pub type Signed = Result<SignResponse, (Code, String)>;

/// What a member namespace is told of its mesh.
#[derive(Debug)]
pub struct Trust {
    /// See [`MeshInfo`].
    pub info: MeshInfo,
    /// Roots.
    pub roots: Vec<CertificateDer<'static>>,
}

/// Reads the ConfigMap of a Mesh in a member namespace.
///
/// # Errors
/// When it is missing or malformed.
pub async fn trust(cx: &Context, namespace: &str, mesh: &str) -> Result<Trust> {
    let name = format!("{TRUST_CONFIG_MAP_PREFIX}{mesh}");
    let map = Api::<ConfigMap>::namespaced(cx.client(), namespace).get(&name).await?;
    let data = map.data.with_context(|| format!("ConfigMap {namespace}/{name} is empty"))?;
    let info = data.get(TRUST_KEY_MESH).context("no mesh.json")?;
    let bundle = data.get(TRUST_KEY_BUNDLE).context("no bundle.pem")?;
    Ok(Trust {
        info: serde_json::from_str(info)?,
        roots: CertificateDer::pem_slice_iter(bundle.as_bytes()).collect::<Result<_, _>>()?,
    })
}

/// A token of a service account, bound to a pod.
///
/// # Errors
/// When the API server refuses.
pub async fn token(cx: &Context, pod: &Pod, audience: &str) -> Result<String> {
    let namespace = pod.metadata.namespace.as_deref().context("a pod without a namespace")?;
    let account = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref()).context("no service account")?;
    let bound = BoundObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: Some(pods::name(pod)),
        uid: pod.metadata.uid.clone(),
    };
    let spec = TokenRequestSpec {
        audiences: vec![audience.into()],
        bound_object_ref: Some(bound),
        expiration_seconds: Some(600),
    };
    let request = TokenRequest { spec, ..Default::default() };
    let api = Api::<ServiceAccount>::namespaced(cx.client(), namespace);
    let answer = api.create_token_request(account, &PostParams::default(), &request).await?;
    Ok(answer.status.context("no token in the answer")?.token)
}

/// A request to be signed, and its key.
pub struct Csr {
    /// PKCS #10, DER.
    pub der: Vec<u8>,
    key: KeyPair,
}

impl Csr {
    /// Asks for the given URI SANs and DNS SANs, with a fresh P-256 key.
    ///
    /// # Errors
    /// When a name cannot be encoded.
    pub fn new(uris: &[&str], dns: &[&str]) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        for uri in uris {
            params.subject_alt_names.push(SanType::URI((*uri).try_into()?));
        }
        for name in dns {
            params.subject_alt_names.push(SanType::DnsName((*name).try_into()?));
        }
        Ok(Self { der: params.serialize_request(&key)?.der().to_vec(), key })
    }

    /// The same request signed by another key than the one that it names.
    ///
    /// # Errors
    /// When a name cannot be encoded.
    pub fn forged(uri: &str) -> Result<Self> {
        let mut csr = Self::new(&[uri], &[])?;
        // The signature is the last thing in the structure: one bit of it makes it another's.
        if let Some(last) = csr.der.last_mut() {
            *last ^= 1;
        }
        Ok(csr)
    }

    /// With what was signed, a client's credentials.
    #[must_use]
    pub fn credentials(&self, answer: &SignResponse) -> Credentials {
        let chain = answer.chain_der.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        let key = PrivateKeyDer::Pkcs8(self.key.serialize_der().into());
        Credentials { chain, key }
    }
}

/// A genuine leaf for a pod of the mesh, of the issuing CA that signs now.
///
/// # Errors
/// When it is not signed.
pub async fn leaf(cx: &Context, pod: &Pod, trust: &Trust, id: &str) -> Result<Credentials> {
    let csr = Csr::new(&[id], &[])?;
    let token = token(cx, pod, TOKEN_AUDIENCE).await?;
    let answer = ask(cx, trust, &token, &csr.der)
        .await?
        .map_err(|(code, message)| anyhow!("{id} is not signed: {code:?}: {message}"))?;
    Ok(csr.credentials(&answer))
}

/// Asks for a signature over a new connection, and again where the service is unable to answer now, as a proxy would: it waits for the API
/// server for some seconds only, and a machine may stand still for as long. Somebody who never becomes able has not refused.
///
/// # Errors
/// When there is no connection.
pub async fn ask(cx: &Context, trust: &Trust, token: &str, csr_der: &[u8]) -> Result<Signed> {
    for _ in 1..ATTEMPTS {
        let signed = Authority::connect(cx, trust).await?.sign(token, csr_der).await;
        if !matches!(signed, Err((Code::Unavailable, _))) {
            return Ok(signed);
        }
        // Between two attempts, and not waited for anything.
        sleep(PAUSE).await;
    }
    Ok(Authority::connect(cx, trust).await?.sign(token, csr_der).await)
}

/// SHA-256 over a certificate, as the Mesh's status shows it.
#[must_use]
pub fn fingerprint(der: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(der))
}

/// A connection to the identity service, as a proxy makes it.
pub struct Authority {
    client: IdentityClient<Channel>,
}

impl Authority {
    /// Connects from node 1 to the Service `bowline-control`, verifying the control plane by the mesh's bundle.
    ///
    /// # Errors
    /// When there is no connection or the control plane does not prove itself.
    pub async fn connect(cx: &Context, trust: &Trust) -> Result<Self> {
        let services = Api::<Service>::namespaced(cx.client(), NAMESPACE);
        let service = services.get("bowline-control").await?.spec.context("a Service without spec")?;
        let ip = service.cluster_ip.context("bowline-control has no address")?.parse::<std::net::IpAddr>()?;
        let tcp = cx.dial(ip, 15_010).await?;
        let name = ServerName::try_from(trust.info.control_sni.clone())?;
        let config = handshake::client(&trust.roots, None, b"h2")?;
        let tls =
            tokio_rustls::TlsConnector::from(config).connect(name, tcp).await.context("TLS to bowline-control")?;
        // One connection is all that there is: a second call for one is an error.
        let mut once = Some(TokioIo::new(tls));
        let connector = service_fn(move |_: Uri| {
            let connection = once.take().ok_or_else(|| std::io::Error::other("the connection was lost"));
            async move { connection }
        });
        let channel = Endpoint::from_static("http://bowline-control").connect_with_connector(connector).await?;
        Ok(Self { client: IdentityClient::new(channel) })
    }

    /// Asks for a signature.
    ///
    /// # Errors
    /// As the service refuses: code and message.
    pub async fn sign(&mut self, token: &str, csr_der: &[u8]) -> Signed {
        let now = jiff::Timestamp::now().as_millisecond();
        let request = SignRequest { token: token.into(), csr_der: csr_der.to_vec().into(), client_time_ms: now };
        let answer = self.client.sign(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| (status.code(), status.message().to_owned()))
    }
}
