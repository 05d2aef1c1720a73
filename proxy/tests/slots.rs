//! The two slots as processes: one serves, the other stands by and takes over whatever becomes of the first.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::{
    io::Read,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use bowline_proxy::contract::bootstrap::{VERSION, env};
use rustix::process::{Pid, Signal, kill_process};

/// For what happens in milliseconds on a machine that is not busy.
const SOON: Duration = Duration::from_secs(30);

/// Much longer than anybody here waits: what ends has not drained for as long as it may.
const DRAIN_SECONDS: &str = "600";

/// A pod with two slots on a loopback address of its own.
struct Pod {
    dir: PathBuf,
    address: String,
}

struct Slot {
    process: Child,
    socket: PathBuf,
}

impl Pod {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let (process, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(format!("bowline-slots-{process}-{number}"));
        let address = format!("127.{}.{}.{number}", 64 + (process >> 8) % 64, process % 256);
        Self { dir, address }
    }

    fn start(&self, slot: &str) -> Slot {
        self.start_program(slot, env!("CARGO_BIN_EXE_bowline-proxy").as_ref())
    }

    fn start_program(&self, slot: &str, program: &Path) -> Slot {
        let process = Command::new(program)
            .arg("run")
            .env_clear()
            .env(env::SLOT, slot)
            .env(env::POD_NAME, "web-1")
            .env(env::POD_NAMESPACE, "shop")
            .env(env::POD_IP, &self.address)
            .env(env::SERVICE_ACCOUNT, "web")
            .env(env::DRAIN_SECONDS, DRAIN_SECONDS)
            .env("BOWLINE_SLOTS_DIR", &self.dir)
            .env("BOWLINE_TRUST_DIR", &self.dir)
            .env("BOWLINE_BIND_ADDRESS", &self.address)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Slot { process, socket: self.dir.join(format!("{slot}.sock")) }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn role(socket: &Path) -> Option<String> {
    let mut line = String::new();
    UnixStream::connect(socket).ok()?.read_to_string(&mut line).ok()?;
    let value: serde_json::Value = serde_json::from_str(&line).ok()?;
    assert_eq!(value["version"], VERSION);
    Some(value["role"].as_str()?.to_owned())
}

impl Slot {
    fn until(&self, expected: &str) {
        let deadline = Instant::now() + SOON;
        // A standby says that it serves as soon as it may, and gives the lock back once more to become the proxy: whoever came meanwhile
        // would serve in its place.
        let is_it = || expected != "serving" || self.program() == "bowline-proxy";
        while !is_it() || role(&self.socket).as_deref() != Some(expected) {
            assert!(Instant::now() < deadline, "{} never was {expected}", self.socket.display());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Name of the program that it is at the moment.
    fn program(&self) -> String {
        let name = std::fs::read_to_string(format!("/proc/{}/comm", self.process.id()));
        name.unwrap_or_default().trim_end().to_owned()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    fn end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "{} never ended", self.socket.display());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn the_standby_takes_over_when_the_other_is_killed_and_back_again() {
    let pod = Pod::new();
    let mut a = pod.start("a");
    a.until("serving");
    let mut b = pod.start("b");
    b.until("standby");
    assert_eq!(role(&a.socket).as_deref(), Some("serving"), "a newcomer takes nothing away");
    a.signal(Signal::KILL);
    b.until("serving");
    a.end();
    let a = pod.start("a");
    a.until("standby");
    b.signal(Signal::TERM);
    assert!(b.end().success());
    a.until("serving");
}

#[test]
fn a_standby_ends_at_once_and_well_when_told_to() {
    let pod = Pod::new();
    let a = pod.start("a");
    a.until("serving");
    let mut b = pod.start("b");
    b.until("standby");
    b.signal(Signal::TERM);
    assert!(b.end().success());
    assert_eq!(role(&a.socket).as_deref(), Some("serving"));
}

#[test]
fn when_both_are_gone_the_first_to_come_back_serves() {
    let pod = Pod::new();
    for slot in ["a", "b"] {
        pod.start(slot).until("serving");
    }
    let b = pod.start("b");
    b.until("serving");
    let a = pod.start("a");
    a.until("standby");
}

/// How often a process was put on a processor, with all its threads.
fn wakings(process: u32) -> u64 {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let of_thread = |thread: PathBuf| -> u64 {
        // Time on a processor, time of waiting for one, times it got one.
        let line = std::fs::read_to_string(thread.join("schedstat")).unwrap();
        line.split_whitespace().nth(2).unwrap().parse().unwrap()
    };
    threads.map(|thread| of_thread(thread.unwrap().path())).sum()
}

#[test]
fn a_standby_uses_no_processor() {
    let pod = Pod::new();
    let a = pod.start("a");
    a.until("serving");
    let b = pod.start("b");
    b.until("standby");
    // It may still be busy with the end of the last answer; one that polls never comes to rest.
    let deadline = Instant::now() + SOON;
    loop {
        let before = wakings(b.process.id());
        thread::sleep(Duration::from_millis(500));
        let woken = wakings(b.process.id()) - before;
        if woken == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "woken {woken} times in half a second");
    }
}

#[test]
fn a_standby_holds_next_to_no_memory_of_its_own() {
    let pod = Pod::new();
    let a = pod.start("a");
    a.until("serving");
    let b = pod.start("b");
    b.until("standby");
    let status = std::fs::read_to_string(format!("/proc/{}/status", b.process.id())).unwrap();
    let kib = |name: &str| -> u64 {
        let line = status.lines().find(|l| l.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    eprintln!("standby: {} KiB resident, {} KiB of its own", kib("VmRSS:"), kib("RssAnon:"));
    // The program's own pages come on top; they depend on how it was built.
    assert!(kib("RssAnon:") <= 1024, "{status}");
}

#[test]
fn without_the_small_program_the_proxy_stands_by_itself() {
    let pod = Pod::new();
    let alone = pod.dir.with_extension("program");
    std::fs::create_dir_all(&alone).unwrap();
    let program = alone.join("bowline-proxy");
    // By another process: what this one has open for writing when a neighbour forks cannot be executed until that has executed something.
    assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_bowline-proxy")).arg(&program).status().unwrap().success());
    let mut a = pod.start_program("a", &program);
    a.until("serving");
    let b = pod.start_program("b", &program);
    b.until("standby");
    a.signal(Signal::KILL);
    a.end();
    b.until("serving");
    std::fs::remove_dir_all(alone).unwrap();
}
