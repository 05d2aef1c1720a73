//! The test application against itself over loopback: what its clients report is what its server does, without a mesh in between.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    net::TcpListener,
    process::{Child, Command, Output},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use serde_json::Value;

const APP: &str = env!("CARGO_BIN_EXE_test-app");
/// For what happens in milliseconds on a machine that is not busy.
const SOON: Duration = Duration::from_secs(30);

struct Server {
    child: Child,
    ports: [u16; 6],
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ports that no other server of these tests has, and that no connection is given: they lie below the kernel's range for those, from which
/// a port that is free now may be taken before the server comes to bind it.
fn free_ports() -> [u16; 6] {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    [(); 6].map(|()| {
        loop {
            let port = NEXT.fetch_add(1, Ordering::Relaxed);
            assert!(port < 32_768, "no port is free");
            if TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port))).is_ok() {
                break port;
            }
        }
    })
}

impl Server {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(more: &[&str]) -> Self {
        let ports = free_ports();
        let flags = ["--http", "--grpc", "--echo", "--banner", "--tcp-health", "--control"];
        let args = flags.iter().zip(ports).flat_map(|(flag, port)| [(*flag).to_owned(), port.to_string()]);
        let child = Command::new(APP).arg("serve").args(args).args(more).env("POD_NAME", "me").spawn().unwrap();
        let mut server = Self { child, ports };
        let deadline = Instant::now() + SOON;
        loop {
            let said = server.ctl(&["check", "http"]);
            if said.status.success() {
                return server;
            }
            if let Some(status) = server.child.try_wait().unwrap() {
                panic!("the server ended with {status}");
            }
            assert!(Instant::now() < deadline, "the server did not start: {said:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn at(&self, which: usize) -> String {
        format!("127.0.0.1:{}", self.ports[which])
    }

    fn ctl(&self, args: &[&str]) -> Output {
        Command::new(APP).args(["ctl", "--port", &self.ports[5].to_string()]).args(args).output().unwrap()
    }
}

fn run(args: &[&str]) -> Value {
    let output = Command::new(APP).args(args).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{args:?}: {output:?}"))
}

#[test]
fn http_in_both_versions() {
    let server = Server::start();
    let url = |path: &str| format!("http://{}{path}", server.at(0));
    for (flag, version) in [(None, "HTTP/1.1"), (Some("--h2"), "HTTP/2.0")] {
        let url = url("/a/b?c=d");
        let mut args = vec!["get", &url, "-H", "x-key: value", "--body", "10"];
        args.extend(flag);
        let got = run(&args);
        assert_eq!((&got["status"], &got["version"]), (&200.into(), &version.into()), "{got}");
        let echo: Value = serde_json::from_str(got["body"].as_str().unwrap()).unwrap();
        assert_eq!(echo["path"], "/a/b?c=d");
        assert_eq!(echo["method"], "POST");
        assert_eq!(echo["headers"]["x-key"], "value");
        assert_eq!((&echo["pod"], &echo["peer"]), (&"me".into(), &"127.0.0.1".into()));
    }
    for flag in [None, Some("--h2")] {
        let url = url("/");
        let got = run(&[&["get", &url, "--text", "said"], flag.as_slice()].concat());
        let echo: Value = serde_json::from_str(got["body"].as_str().unwrap()).unwrap();
        assert_eq!((&echo["body"], &echo["method"]), (&"said".into(), &"POST".into()), "{got}");
    }
    assert_eq!(run(&["get", &url("/status/418")])["status"], 418);
    let sent = run(&["get", &url("/upload"), "--body", "3000000", "--chunked"]);
    let received = run(&["get", &url("/bytes/3000000")]);
    let upload: Value = serde_json::from_str(sent["body"].as_str().unwrap()).unwrap();
    assert_eq!((&upload["sha256"], &upload["chunked"]), (&received["sha256"], &true.into()), "{upload}");
    assert_eq!(run(&["get", &url("/chunked/100")])["lines"], 100);
    assert_eq!(run(&["get", &url("/stream/5"), "--lines", "3"])["lines"], 3);
    assert_eq!(run(&["expect", &url("/upload")])["interim"], 100);
    assert_eq!(run(&["expect", &url("/refuse")])["interim"], Value::Null);
    let chat = run(&["ws", &url("/ws"), "--text", "said"]);
    assert_eq!((&chat["echoed"], &chat["closed"]), (&10.into(), &true.into()), "{chat}");
    assert!(run(&["get", "http://127.0.0.1:1/"])["error"].is_string());
}

#[test]
fn a_page_is_made_of_its_backends() {
    let backend = Server::start();
    let url = |path: &str| format!("http://{}{path}", backend.at(0));
    let front = Server::start_with(&["--backend", &url("/bytes/10"), "--backend", &url("/")]);
    let page = run(&["get", &format!("http://{}/page", front.at(0))]);
    let page: Value = serde_json::from_str(page["body"].as_str().unwrap()).unwrap();
    assert_eq!((&page["parts"][0]["bytes"], page["parts"].as_array().unwrap().len()), (&10.into(), 2), "{page}");
    let broken = Server::start_with(&["--backend", &url("/status/500")]);
    assert_eq!(run(&["get", &format!("http://{}/page", broken.at(0))])["status"], 502);
}

#[test]
fn grpc_calls_of_every_kind() {
    let server = Server::start();
    let call = |method: &str| run(&["grpc", &server.at(1), method, "-H", "x-key: value"]);
    assert_eq!(call("unary")["headers"]["x-key"], "value");
    assert_eq!(run(&["grpc", &server.at(1), "unary", "--text", "said"])["text"], "said");
    assert_eq!(call("stream")["sequences"].as_array().unwrap().len(), 5);
    assert_eq!(call("collect")["sequences"], serde_json::json!([5]));
    assert_eq!(call("chat")["text"], "message 0;message 1;message 2;message 3;message 4;");
    let failed = call("fail");
    assert_eq!((&failed["code"], &failed["trailers"]["x-key"]), (&9.into(), &"value".into()));
    assert_eq!(call("health")["health"], "SERVING");
    assert!(server.ctl(&["health", "grpc", "off"]).status.success());
    assert_eq!(call("health")["health"], "NOT_SERVING");
}

#[test]
fn tcp_from_either_side_first() {
    let server = Server::start();
    let echo = run(&["tcp", &server.at(2), "--half-close", "--bytes", "500000"]);
    assert_eq!(echo["bye"], "bye 500004", "{echo}");
    let banner = run(&["tcp", &server.at(3), "--banner", "--half-close"]);
    assert_eq!((&banner["banner"], &banner["bye"]), (&"banner me".into(), &"bye 4".into()), "{banner}");
}

#[test]
fn load_that_runs_by_itself_counts_what_fails() {
    let server = Server::start();
    let url = format!("http://{}/", server.at(0));
    let (grpc, tcp, websocket) = (server.at(1), server.at(2), format!("http://{}/ws", server.at(0)));
    let held = ["--streams", "2", "--tcp", &tcp, "--grpc", &grpc, "--websocket", &websocket];
    let load = ["start", "--url", &url, "--rate", "200", "--seconds", "3"];
    let started = server.ctl(&[&load[..], &held[..]].concat());
    assert!(started.status.success(), "{started:?}");
    let deadline = Instant::now() + SOON;
    let report = loop {
        let report: Value = serde_json::from_slice(&server.ctl(&["report"]).stdout).unwrap();
        if report["running"] == false {
            break report;
        }
        assert!(Instant::now() < deadline, "{report}");
        std::thread::sleep(Duration::from_millis(50));
    };
    // Not faster than it was told; a machine that stands still makes it slower.
    assert!((1..=601).contains(&report["sent"].as_u64().unwrap()), "{report}");
    assert_eq!((&report["failed"], &report["streams_held"]), (&0.into(), &5.into()), "{report}");
    assert_eq!(report["streams_lost"], 0, "{report}");
    let fresh = report["fresh_connections"].as_u64().unwrap() * 5;
    assert!(fresh.abs_diff(report["sent"].as_u64().unwrap()) <= 10, "a fifth is fresh: {report}");
    // One each at least, after the end was told.
    assert!(report["events"].as_u64().unwrap() >= 5, "the streams go on: {report}");
    let nobody =
        ["load", "--url", &url, "--seconds", "0.3", "--grpc", "127.0.0.1:1", "--websocket", "http://127.0.0.1:1/"];
    let lost = run(&nobody);
    assert_eq!((&lost["streams_held"], &lost["streams_lost"]), (&0.into(), &2.into()), "{lost}");
    let broken = run(&["load", "--url", &format!("http://{}/status/503", server.at(0)), "--seconds", "2"]);
    assert_eq!(broken["failed"], broken["sent"], "{broken}");
    assert_eq!(broken["errors"]["status 503 by the application"], broken["failed"]);
}

/// The report of the load so far, once `enough` says so.
fn report_when(server: &Server, enough: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + SOON;
    loop {
        let report: Value = serde_json::from_slice(&server.ctl(&["report"]).stdout).unwrap();
        if enough(&report) {
            return report;
        }
        assert!(Instant::now() < deadline, "{report}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn stopping_waits_for_what_is_in_flight() {
    let server = Server::start();
    let load = |path: &str, timeout: &str| {
        let url = format!("http://{}{path}", server.at(0));
        let args = ["start", "--url", &url, "--rate", "50", "--seconds", "60", "--timeout", timeout];
        assert!(server.ctl(&args).status.success());
        let before = report_when(&server, |r| r["sent"].as_u64() >= Some(5));
        let told = |r: &Value| r["succeeded"].as_u64().unwrap() + r["failed"].as_u64().unwrap();
        assert!(told(&before) < before["sent"].as_u64().unwrap(), "nothing is in flight: {before}");
        let end: Value = serde_json::from_slice(&server.ctl(&["stop"]).stdout).unwrap();
        assert_eq!(told(&end), end["sent"].as_u64().unwrap(), "{end}");
        end
    };
    assert_eq!(load("/delay/1000", "30")["failed"], 0);
    let hung = load("/delay/600000", "1");
    assert_eq!(hung["failed"], hung["sent"], "{hung}");
    assert_eq!(hung["succeeded"], 0);
}

#[test]
fn what_becomes_due_beyond_the_bound_waits_its_turn() {
    let server = Server::start();
    // Twenty at a time, and each takes a fifth of a second: a hundred in a second, and twice that is due.
    let url = format!("http://{}/delay/200", server.at(0));
    let overload = |timeout: &str| {
        let args = ["load", "--url", &url, "--rate", "200", "--in-flight", "20", "--fresh-percent", "0"];
        run(&[&args[..], &["--seconds", "2", "--timeout", timeout]].concat())
    };
    let slow = overload("60");
    assert_eq!((&slow["failed"], &slow["succeeded"]), (&0.into(), &slow["sent"]), "{slow}");
    // The server takes half of that; the last ones waited for a second.
    assert!(slow["p99_ms"].as_f64().unwrap() > 400.0, "the time before their turn does not count: {slow}");
    // And who waited too long has failed.
    let late = overload("0.5");
    assert!(late["failed"].as_u64().unwrap() > 0, "{late}");
    assert_eq!(late["errors"]["timeout"], late["failed"], "{late}");
}

#[test]
fn a_stream_that_is_silent_at_the_end_is_lost() {
    let server = Server::start();
    // Two servers of one test: the one that is frozen is held by a stream of the other's load.
    let silent = Server::start();
    let (url, tcp) = (format!("http://{}/", server.at(0)), silent.at(2));
    let start = ["start", "--url", &url, "--rate", "50", "--seconds", "60", "--tcp", &tcp, "--silence", "5"];
    assert!(server.ctl(&start).status.success());
    report_when(&server, |r| r["streams_held"] == 1);
    let pid = silent.child.id().to_string();
    assert!(Command::new("kill").args(["-STOP", &pid]).status().unwrap().success());
    let end: Value = serde_json::from_slice(&server.ctl(&["stop"]).stdout).unwrap();
    assert_eq!((&end["streams_held"], &end["streams_lost"]), (&1.into(), &1.into()), "{end}");
}

#[test]
fn farewells_come_after_sigterm_and_one_after_the_other() {
    let witness = Server::start();
    let hook = |name: &str| format!("http://{}/hook/{name}", witness.at(0));
    let refused = format!("http://{}/status/503", witness.at(0));
    let (first, second, never) = (hook("first"), hook("second?wait=50"), hook("never"));
    let farewells = ["--farewell", &first, "--farewell", &second, "--farewell", &refused, "--farewell", &never];
    let mut leaver = Server::start_with(&farewells);
    let hooks = || -> Value { serde_json::from_slice(&witness.ctl(&["hooks"]).stdout).unwrap() };
    assert_eq!(hooks()["hooks"], serde_json::json!({}));
    let pid = leaver.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert!(leaver.child.wait().unwrap().success());
    assert_eq!(hooks()["hooks"], serde_json::json!({ "first": 1, "second": 1 }));
}
