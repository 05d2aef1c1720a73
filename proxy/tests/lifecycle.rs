//! The life of a serving slot as a process: from its first instruction to ready, and from SIGTERM to its end.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "control_plane/fake.rs"]
mod fake;

use std::{
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use bowline_proxy::contract::{
    bootstrap::{env, ports},
    proto::{InboundPolicy, MtlsMode, ResourceType},
};
use fake::{Ca, OPERATOR, SOON, WEB, World, resource};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::{Child, Command},
    time::{sleep, timeout},
};

/// A slot on a loopback address of its own.
struct Slot {
    process: Child,
    address: String,
    started: Instant,
}

fn address() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let process = std::process::id();
    format!("127.{}.{}.{}", 128 + (process >> 8) % 64, process % 256, NEXT.fetch_add(1, Ordering::Relaxed))
}

fn start(world: &World) -> Slot {
    start_by(world, Command::new(env!("CARGO_BIN_EXE_bowline-proxy")))
}

fn start_by(world: &World, mut program: Command) -> Slot {
    let address = address();
    let probes = r#"[{"id":"web/liveness","tcpSocket":{"port":1},"timeoutSeconds":60}]"#;
    let process = program
        .arg("run")
        .env_clear()
        .env(env::SLOT, "a")
        .env(env::POD_NAME, "web-1")
        .env(env::POD_NAMESPACE, "shop")
        .env(env::POD_IP, &address)
        .env(env::SERVICE_ACCOUNT, "web")
        // Longer than anybody here waits.
        .env(env::DRAIN_SECONDS, "600")
        .env(env::PROBES, probes)
        .env("BOWLINE_SLOTS_DIR", &world.dir)
        .env("BOWLINE_TRUST_DIR", &world.dir)
        .env("BOWLINE_TOKEN_FILE", world.dir.join("token"))
        .env("BOWLINE_BIND_ADDRESS", &address)
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    Slot { process, address, started: Instant::now() }
}

impl Slot {
    async fn get(&self, port: u16, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect((self.address.as_str(), port)).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.get(9..12)?.parse().ok()?, body.to_owned()))
    }

    async fn ready(&self) {
        let wait = async {
            let mut last = None;
            while !matches!(&last, Some((200, _))) {
                sleep(Duration::from_millis(2)).await;
                last = self.get(ports::ADMIN, "/ready").await;
            }
        };
        timeout(SOON, wait).await.expect("the proxy never became ready");
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    async fn end(&mut self) -> ExitStatus {
        timeout(SOON, self.process.wait()).await.expect("the proxy never ended").unwrap()
    }
}

/// A control plane that tells the policy of the first stream, and a slot that is ready.
async fn ready() -> (World, Slot, fake::Stream) {
    let ca = Arc::new(Ca::new("root"));
    let mut world = World::alone(Arc::clone(&ca), &ca, OPERATOR).await;
    let slot = start(&world);
    let stream = world.stream().await;
    let body = InboundPolicy { mtls_mode: MtlsMode::Strict.into(), ports: vec![] };
    stream.send(vec![resource(ResourceType::InboundPolicy, "", 1, &body)]).await;
    slot.ready().await;
    (world, slot, stream)
}

#[tokio::test]
async fn a_slot_becomes_ready_and_shows_what_it_knows() {
    let (_world, slot, _stream) = ready().await;
    eprintln!("ready after {:?}", slot.started.elapsed());
    let (status, dump) = slot.get(ports::ADMIN, "/config").await.unwrap();
    let dump: Value = serde_json::from_str(&dump).unwrap();
    assert_eq!((status, &dump["identity"]["id"]), (200, &WEB.into()));
    assert_eq!(dump["inboundPolicy"]["mtls"], "STRICT");
    assert_eq!(dump["control"]["connected"], true);
    let (status, metrics) = slot.get(ports::METRICS, "/metrics").await.unwrap();
    assert_eq!(status, 200);
    assert!(metrics.contains("bowline_control_connected 1\n") && metrics.ends_with("# EOF\n"), "{metrics}");
    assert_eq!(slot.get(ports::METRICS, "/config").await.unwrap().0, 404);
    let (status, why) = slot.get(ports::PROBES, "/probe/web/liveness").await.unwrap();
    assert_eq!(status, 503);
    assert!(why.contains("refused"), "{why}");
}

#[tokio::test]
async fn as_many_files_are_opened_as_may_be() {
    let ca = Arc::new(Ca::new("root"));
    let mut world = World::alone(Arc::clone(&ca), &ca, OPERATOR).await;
    // As a container runtime starts a container, with smaller numbers.
    let mut program = Command::new("prlimit");
    program.args(["--nofile=256:4096", env!("CARGO_BIN_EXE_bowline-proxy")]);
    let slot = start_by(&world, program);
    let stream = world.stream().await;
    let body = InboundPolicy { mtls_mode: MtlsMode::Strict.into(), ports: vec![] };
    stream.send(vec![resource(ResourceType::InboundPolicy, "", 1, &body)]).await;
    slot.ready().await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", slot.process.id().unwrap())).unwrap();
    let files = limits.lines().find(|l| l.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().collect::<Vec<_>>()[3..5], ["4096", "4096"], "{limits}");
    // Who says nothing for so long is given up, and leaves a file to another.
    let given_up = Duration::from_secs(5);
    // Where the machine stands still for that long, nothing was learnt.
    for _ in 0..5 {
        let began = Instant::now();
        let answered = all_are_answered(&slot).await;
        if began.elapsed() < given_up {
            return answered.unwrap();
        }
    }
    panic!("not all were answered before the first ones were given up");
}

/// Many connections, all of them open until the last one has its answer.
async fn all_are_answered(slot: &Slot) -> std::io::Result<()> {
    let mut held = Vec::new();
    for _ in 0..200 {
        for port in [ports::ADMIN, ports::METRICS] {
            held.push(TcpStream::connect((slot.address.as_str(), port)).await?);
        }
    }
    for stream in &mut held {
        stream.write_all(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n").await?;
    }
    for stream in &mut held {
        let mut head = [0; 12];
        timeout(SOON, stream.read_exact(&mut head)).await.expect("an answer")?;
        assert_eq!(&head, b"HTTP/1.1 404");
    }
    Ok(())
}

#[tokio::test]
async fn callers_who_say_nothing_lock_nobody_out() {
    let (_world, slot, _stream) = ready().await;
    for (port, path, expected) in [(ports::PROBES, "/probe/web/liveness", 503), (ports::METRICS, "/metrics", 200)] {
        let mut made_room = false;
        // Where the machine stands still for so long that the silent ones are given up for their silence, nothing was learnt.
        for _ in 0..5 {
            let mut silent = Vec::new();
            for _ in 0..300 {
                silent.push(TcpStream::connect((slot.address.as_str(), port)).await.unwrap());
            }
            assert_eq!(slot.get(port, path).await.expect("an answer").0, expected);
            // Only the oldest made room.
            assert_eq!(timeout(SOON, silent[0].read(&mut [0; 1])).await.expect("its end").unwrap(), 0);
            let unread = silent[299].try_read(&mut [0; 1]).map_err(|e| e.kind());
            if unread == Err(std::io::ErrorKind::WouldBlock) {
                made_room = true;
                break;
            }
        }
        assert!(made_room, "{path} was answered only when the silent ones were given up");
    }
}

#[tokio::test]
async fn a_connection_to_the_probes_is_for_one_request() {
    let (_world, slot, _stream) = ready().await;
    let mut stream = TcpStream::connect((slot.address.as_str(), ports::PROBES)).await.unwrap();
    stream.write_all(b"GET /probe/web/liveness HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    timeout(SOON, stream.read_to_string(&mut answer)).await.expect("its end").unwrap();
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("connection: close"), "{answer}");
}

#[tokio::test]
async fn a_slot_that_has_nothing_in_flight_ends_at_once_and_well() {
    let (_world, mut slot, _stream) = ready().await;
    slot.signal(Signal::TERM);
    assert!(slot.end().await.success());
}
