//! The webhook over real sockets, as the API server calls it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "serving/cluster.rs"]
mod cluster;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bowline_operator::{
    ca::Authorities, runtime::shutdown::Shutdown, serving::certificate::ServingCertificate, serving::inject::webhook,
    telemetry::Metrics,
};
use bowline_proxy::contract::spiffe::SpiffeId;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

const HOST: &str = "bowline-webhook.bowline-system.svc";
const DEADLINE: Duration = Duration::from_secs(60);

struct Webhook {
    authorities: Authorities,
    certificate: Arc<ServingCertificate>,
    metrics: Metrics,
    port: u16,
    stop: watch::Sender<bool>,
    served: JoinHandle<()>,
}

impl Webhook {
    async fn start() -> Self {
        Self::serving_on(Duration::ZERO).await
    }

    async fn serving_on(serves_on: Duration) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (stop, shutdown) = Shutdown::serving_on(serves_on);
        let (certificate, metrics) = (Arc::<ServingCertificate>::default(), Metrics::default());
        let image = "localhost/bowline-proxy:0.1.0".to_owned();
        let server = webhook::Webhook::new(cluster::memberships(), image, certificate.clone(), &metrics, shutdown);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = tokio::spawn(server.run(listener));
        Self { authorities: cluster::authorities(), certificate, metrics, port, stop, served }
    }

    fn certify(&self) {
        let id: SpiffeId = cluster::ID.parse().unwrap();
        let ca = self.authorities.mesh(cluster::MESH).unwrap();
        self.certificate.store(Some(Arc::new(ca.issue_serving(HOST, &id, SystemTime::now()).unwrap().key)));
    }

    /// Status and body of one request.
    async fn post(&self, body: &[u8]) -> std::io::Result<(u16, Value)> {
        let mut tls = self.begin(body.len(), body).await?;
        let mut answer = Vec::new();
        tokio::time::timeout(DEADLINE, tls.read_to_end(&mut answer)).await.expect("no answer")?;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| std::io::Error::other(answer.clone()))?;
        Ok((head[9..12].parse().unwrap(), serde_json::from_str(body).unwrap_or_default()))
    }

    /// A request of `length` bytes that has sent `body` so far.
    async fn begin(&self, length: usize, body: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
        let mut tls = self.connect(TcpStream::connect(("127.0.0.1", self.port)).await?).await?;
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: {HOST}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            webhook::PATH,
            length
        );
        tls.write_all(head.as_bytes()).await?;
        tls.write_all(body).await?;
        Ok(tls)
    }

    async fn connect(&self, tcp: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        for der in &self.authorities.mesh(cluster::MESH).unwrap().bundle.roots_der {
            roots.add(CertificateDer::from(der.as_slice())).unwrap();
        }
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::try_from(HOST).unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await
    }

    async fn review(&self, namespace: &str, pod: &Value) -> Value {
        self.try_review(namespace, pod).await.unwrap()
    }

    async fn try_review(&self, namespace: &str, pod: &Value) -> std::io::Result<Value> {
        let kind = json!({ "group": "", "version": "v1", "kind": "Pod" });
        let review = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "review-1", "kind": kind, "resource": { "group": "", "version": "v1", "resource": "pods" },
                "namespace": namespace, "operation": "CREATE", "userInfo": {}, "object": pod, "oldObject": null, "dryRun": true
            }
        });
        let (status, answer) = self.post(&serde_json::to_vec(&review).unwrap()).await?;
        assert_eq!(status, 200);
        assert_eq!(
            (&answer["apiVersion"], &answer["kind"]),
            (&json!("admission.k8s.io/v1"), &json!("AdmissionReview"))
        );
        assert_eq!(answer["response"]["uid"], "review-1");
        Ok(answer["response"].clone())
    }
}

fn pod() -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "generateName": "web-" },
            "spec": { "containers": [{ "name": "web", "image": "web:1" }] } })
}

#[tokio::test]
async fn pods_are_reviewed_as_the_api_server_asks() {
    let webhook = Webhook::start().await;
    assert!(webhook.post(b"").await.is_err(), "there is no certificate yet");
    webhook.certify();

    let answer = webhook.review("shop", &pod()).await;
    assert_eq!((&answer["allowed"], &answer["patchType"]), (&json!(true), &json!("JSONPatch")));
    // kube writes bytes as an array of numbers, which the API server reads as well as base64.
    let bytes: Vec<u8> = serde_json::from_value(answer["patch"].clone()).unwrap();
    let patch: json_patch::Patch = serde_json::from_slice(&bytes).unwrap();
    let mut patched = pod();
    json_patch::patch(&mut patched, &patch).unwrap();
    assert_eq!(patched["spec"]["initContainers"][0]["name"], "bowline-a");
    // Reviewed again, as reinvocationPolicy has it: nothing is left to do.
    let again = webhook.review("shop", &patched).await;
    assert_eq!((&again["allowed"], again.get("patch")), (&json!(true), None));

    let outside = webhook.review("outside", &pod()).await;
    assert_eq!((&outside["allowed"], outside.get("patch")), (&json!(true), None));

    let mut refused = pod();
    refused["spec"]["hostNetwork"] = json!(true);
    let answer = webhook.review("shop", &refused).await;
    assert_eq!(answer["allowed"], false);
    assert!(answer["status"]["message"].as_str().unwrap().contains("remove hostNetwork"), "{answer}");
}

#[tokio::test]
async fn a_pod_does_not_slip_out_because_its_namespace_is_new() {
    let webhook = Webhook::start().await;
    webhook.certify();
    let answer = webhook.review("young", &pod()).await;
    assert!(answer.get("patch").is_some(), "{answer}");
    let answer = webhook.review("nowhere", &pod()).await;
    assert_eq!(answer["allowed"], false);
    assert!(answer["status"]["message"].as_str().unwrap().contains("try again"), "{answer}");
}

#[tokio::test]
async fn what_is_no_review_is_refused() {
    let webhook = Webhook::start().await;
    webhook.certify();
    let (status, answer) = webhook.post(b"{\"not\": \"a review\"}").await.unwrap();
    assert_eq!((status, &answer["response"]["allowed"]), (200, &json!(false)));
    let (_, answer) = webhook.post(&vec![b' '; 9 << 20]).await.unwrap_or_default();
    assert_ne!(answer["response"]["allowed"], true);
    webhook.stop.send_replace(true);
    tokio::time::timeout(DEADLINE, webhook.served).await.expect("the webhook goes on").unwrap();
}

#[tokio::test]
async fn reviews_that_never_end_make_room_for_others() {
    let webhook = Webhook::start().await;
    webhook.certify();
    let most = vec![b' '; 8 << 20];
    let mut unfinished = std::collections::VecDeque::new();
    for n in 0..8 {
        unfinished.push_back(webhook.begin(most.len(), &most[..7 << 20]).await.unwrap());
        if n >= 4 {
            // Four of them hold 28 MiB: the oldest is told so at once, long before it is given up for its slowness.
            let mut oldest = unfinished.pop_front().unwrap();
            let mut status = [0; 12];
            tokio::time::timeout(DEADLINE, oldest.read_exact(&mut status)).await.expect("no answer").unwrap();
            assert_eq!(std::str::from_utf8(&status).unwrap(), "HTTP/1.1 503");
        }
        let answer = webhook.review("shop", &pod()).await;
        assert!(answer.get("patch").is_some(), "{answer}");
    }
    assert_eq!(webhook.post(&vec![b' '; 9 << 20]).await.map_or(200, |(status, _)| status), 200);
}

#[tokio::test]
async fn a_replica_that_ends_reviews_until_everybody_knows() {
    const SERVES_ON: Duration = Duration::from_secs(3);
    // Where the machine stands still until it has ended, nothing was learnt.
    for _ in 0..5 {
        let webhook = Webhook::serving_on(SERVES_ON).await;
        webhook.certify();
        let began = Instant::now();
        webhook.stop.send_replace(true);
        let answer = webhook.try_review("shop", &pod()).await;
        let took = began.elapsed();
        tokio::time::timeout(DEADLINE, webhook.served).await.expect("the webhook goes on").unwrap();
        assert!(TcpStream::connect(("127.0.0.1", webhook.port)).await.is_err(), "nobody listens any more");
        match answer {
            Ok(answer) => {
                assert!(answer.get("patch").is_some(), "{answer}");
                return;
            }
            Err(error) => assert!(took >= SERVES_ON, "{error}"),
        }
    }
    panic!("nothing was reviewed in time");
}

#[tokio::test]
async fn idle_connections_of_one_address_keep_no_review_from_another() {
    // Whose handshake takes longer is given up.
    let handshake = Duration::from_secs(5);
    // Where the machine stands still for that long, nothing was learnt of who made room.
    for _ in 0..5 {
        let webhook = Webhook::start().await;
        webhook.certify();
        let began = Instant::now();
        let mut held = Vec::new();
        // More than there were places in all.
        for _ in 0..300 {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
            held.push(socket.connect(([127, 0, 0, 1], webhook.port).into()).await.unwrap());
        }
        let answer = webhook.review("shop", &pod()).await;
        assert!(answer.get("patch").is_some(), "{answer}");
        let metrics = webhook.metrics.encode().unwrap();
        let ended = held.iter().filter(|tcp| tcp.try_read(&mut [0]).is_ok_and(|n| n == 0)).count();
        if began.elapsed() < handshake {
            let made_room = metrics.lines().find_map(|l| l.split_once("reason=\"made-room\"} "));
            let made_room: u64 = made_room.expect("nobody made room").1.parse().unwrap();
            assert!(made_room >= 200, "{metrics}");
            // Those of the other address that were left may go on.
            assert!(ended < 300, "every connection of the other address was ended");
            return;
        }
    }
    panic!("it was never told in time who made room");
}

/// A review of which the head has arrived, and nothing else comes.
async fn slow(webhook: &Webhook, from: u8) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, from], 0)))?;
    let tcp = socket.connect(([127, 0, 0, 1], webhook.port).into()).await?;
    tcp.set_nodelay(true)?;
    let mut tls = webhook.connect(tcp).await?;
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: {HOST}\r\nexpect: 100-continue\r\ncontent-length: 1000\r\n\r\n",
        webhook::PATH
    );
    tls.write_all(head.as_bytes()).await?;
    // Sent when the body is asked for.
    let mut goes_on = [0; 12];
    tls.read_exact(&mut goes_on).await?;
    assert_eq!(std::str::from_utf8(&goes_on).unwrap(), "HTTP/1.1 100");
    Ok(tls)
}

#[tokio::test]
async fn reviews_that_come_slowly_keep_no_place_from_others() {
    let webhook = Webhook::start().await;
    webhook.certify();
    let mut held = Vec::new();
    // As many as there may be, of as few addresses as that takes.
    for n in 0..512_u16 {
        held.push(slow(&webhook, 2 + u8::try_from(n / 64).unwrap()).await.unwrap());
    }
    let answer = webhook.review("shop", &pod()).await;
    assert!(answer.get("patch").is_some(), "{answer}");
    drop(held);
}

#[tokio::test]
async fn a_pod_does_not_slip_out_because_its_mesh_is_new() {
    let webhook = Webhook::start().await;
    webhook.certify();
    let answer = webhook.review("early", &pod()).await;
    assert_eq!(answer["allowed"], true, "{answer}");
    let bytes: Vec<u8> = serde_json::from_value(answer["patch"].clone()).expect("the pod starts in plaintext");
    assert!(String::from_utf8(bytes).unwrap().contains("bowline-trust-young"));
}
