//! The redirect on a real kernel: two network namespaces, one as the pod, one as the world outside it.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::{
    fs::File,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::{fd::AsFd, unix::process::CommandExt},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use bowline_proxy::process::redirect::{SkipPorts, install};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::SockRef;

/// Two namespaces joined by a pair of virtual interfaces; gone with the value.
struct Net {
    pod: String,
    world: String,
}

const POD4: &str = "10.99.0.2";
const WORLD4: &str = "10.99.0.1";
const POD6: &str = "fd99::2";
const WORLD6: &str = "fd99::1";

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("the program ip (iproute2)");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Net {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let net = Self { pod: format!("bwl-pod-{number}"), world: format!("bwl-world-{number}") };
        for name in [&net.pod, &net.world] {
            ip(&format!("netns add {name}"));
            ip(&format!("-n {name} link set lo up"));
        }
        ip(&format!("-n {} link add eth0 type veth peer name eth0 netns {}", net.pod, net.world));
        for (name, v4, v6) in [(&net.pod, POD4, POD6), (&net.world, WORLD4, WORLD6)] {
            ip(&format!("-n {name} addr add {v4}/24 dev eth0"));
            ip(&format!("-n {name} addr add {v6}/64 dev eth0 nodad"));
            ip(&format!("-n {name} link set eth0 up"));
        }
        net
    }

    /// Runs `work` inside a namespace, on a thread of its own.
    fn inside<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{name}")).unwrap();
        let run = || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        thread::scope(|s| s.spawn(run).join().unwrap())
    }

    fn in_pod<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        Self::inside(&self.pod, work)
    }

    fn in_world<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        Self::inside(&self.world, work)
    }

    fn rules(&self) -> Vec<serde_json::Value> {
        let output = Command::new("ip").args(["netns", "exec", &self.pod, "nft", "-j", "list", "ruleset"]).output();
        let list: serde_json::Value = serde_json::from_slice(&output.expect("the program nft").stdout).unwrap();
        let mut rules = list["nftables"].as_array().unwrap().clone();
        for rule in &mut rules {
            // Numbered anew with every transaction.
            for kind in ["table", "chain", "rule"] {
                if let Some(object) = rule.get_mut(kind).and_then(|r| r.as_object_mut()) {
                    object.remove("handle");
                }
            }
        }
        rules
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in [&self.pod, &self.world] {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

/// Whether this can run; says so loudly when not.
fn can_run(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        // Past the capture of libtest, to whom it has passed; `cargo e2e verify` counts these lines.
        let said = format!("\nSKIPPED {test}: it makes network namespaces, which only root may; run it as root\n");
        std::io::stderr().write_all(said.as_bytes()).unwrap();
    }
    root
}

fn skip() -> SkipPorts {
    SkipPorts { inbound: vec![22], outbound: vec![25] }
}

fn listen(address: &str) -> TcpListener {
    TcpListener::bind(address).unwrap()
}

fn connect(address: &str) -> std::io::Result<TcpStream> {
    TcpStream::connect_timeout(&address.parse().unwrap(), Duration::from_secs(5))
}

/// Accepts what `connect` opened and gives where it was meant to go.
fn accept(listener: &TcpListener, connected: TcpStream) -> (TcpStream, SocketAddr) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut connected = connected;
    connected.write_all(b"x").unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.read_exact(&mut [0]).unwrap();
    let socket = SockRef::from(&stream);
    let original = if stream.peer_addr().unwrap().ip().to_canonical().is_ipv4() {
        socket.original_dst_v4()
    } else {
        socket.original_dst_v6()
    };
    let original = original.map_or_else(|_| stream.local_addr().unwrap(), |a| a.as_socket().unwrap());
    (stream, original)
}

#[test]
fn the_kernel_holds_exactly_the_rules_however_often_they_are_installed() {
    if !can_run("the_kernel_holds_exactly_the_rules_however_often_they_are_installed") {
        return;
    }
    let net = Net::new();
    assert_eq!(net.in_pod(|| install(&SkipPorts { inbound: vec![9], outbound: vec![] })).unwrap(), "inet");
    assert_eq!(net.in_pod(|| install(&skip())).unwrap(), "inet");
    let once = net.rules();
    assert_eq!(net.in_pod(|| install(&skip())).unwrap(), "inet");
    let twice = net.rules();
    assert_eq!(once, twice);

    let is = |left: serde_json::Value, right: serde_json::Value| serde_json::json!({"match": {"op": "==", "left": left, "right": right}});
    let meta = |key: &str| serde_json::json!({"meta": {"key": key}});
    let dport = serde_json::json!({"payload": {"protocol": "tcp", "field": "dport"}});
    let flags = serde_json::json!({"payload": {"protocol": "tcp", "field": "flags"}});
    let opens = is(serde_json::json!({"&": [flags, ["fin", "syn", "rst", "ack"]]}), "syn".into());
    let back = || serde_json::json!({"return": null});
    let to = |port: u16| serde_json::json!({"redirect": {"port": port}});
    let rule = |chain: &str, expr: [serde_json::Value; 2]| serde_json::json!({"rule": {"family": "inet", "table": "bowline", "chain": chain, "expr": expr}});
    let expected = [
        rule("output", [is(meta("skuid"), 15001.into()), back()]),
        rule("output", [is(meta("oif"), "lo".into()), back()]),
        rule("output", [is(dport.clone(), 25.into()), back()]),
        rule("output", [opens.clone(), to(15001)]),
        rule("prerouting", [is(meta("iif"), "lo".into()), back()]),
        rule("prerouting", [is(dport.clone(), 15008.into()), back()]),
        rule("prerouting", [is(dport.clone(), 15020.into()), back()]),
        rule("prerouting", [is(dport.clone(), 15021.into()), back()]),
        rule("prerouting", [is(dport, 22.into()), back()]),
        rule("prerouting", [opens, to(15006)]),
    ];
    let rules: Vec<_> = twice.iter().filter(|r| r.get("rule").is_some()).cloned().collect();
    assert_eq!(rules, expected);
    let chain = |name: &str| {
        serde_json::json!({"chain": {"family": "inet", "table": "bowline", "name": name, "type": "nat", "hook": name,
            "prio": -100, "policy": "accept"}})
    };
    assert!(twice.contains(&chain("output")) && twice.contains(&chain("prerouting")), "{twice:?}");
}

#[test]
fn what_the_pod_sends_reaches_the_proxy_with_its_destination() {
    if !can_run("what_the_pod_sends_reaches_the_proxy_with_its_destination") {
        return;
    }
    let net = Net::new();
    net.in_pod(|| install(&skip())).unwrap();
    let proxy4 = net.in_pod(|| listen("0.0.0.0:15001"));
    let proxy6 = net.in_pod(|| listen("[::1]:15001"));
    let destination = format!("{WORLD4}:80");
    let (_, original) = accept(&proxy4, net.in_pod(|| connect(&destination)).unwrap());
    assert_eq!(original, destination.parse().unwrap());
    let destination = format!("[{WORLD6}]:80");
    let (_, original) = accept(&proxy6, net.in_pod(|| connect(&destination)).unwrap());
    assert_eq!(original, destination.parse().unwrap());

    let skipped = format!("{WORLD4}:25");
    let outside = net.in_world(|| listen(&skipped));
    let (_, original) = accept(&outside, net.in_pod(|| connect(&skipped)).unwrap());
    assert_eq!(original, skipped.parse().unwrap());

    let own = format!("{POD4}:9000");
    let app = net.in_pod(|| listen(&own));
    let (_, original) = accept(&app, net.in_pod(|| connect(&own)).unwrap());
    assert_eq!(original, own.parse().unwrap(), "the pod to itself");
}

#[test]
fn the_proxys_own_traffic_is_left_alone() {
    if !can_run("the_proxys_own_traffic_is_left_alone") {
        return;
    }
    let net = Net::new();
    net.in_pod(|| install(&skip())).unwrap();
    let proxy = net.in_pod(|| listen("0.0.0.0:15001"));
    proxy.set_nonblocking(true).unwrap();
    let outside = net.in_world(|| listen(&format!("{WORLD4}:80")));
    let script = format!("exec 3<>/dev/tcp/{WORLD4}/80 && head -c1 <&3");
    let mut child = net.in_pod(|| Command::new("bash").args(["-c", &script]).uid(15_001).spawn().unwrap());
    let (mut stream, _) = outside.accept().unwrap();
    stream.write_all(b"x").unwrap();
    drop(stream);
    assert!(child.wait().unwrap().success());
    assert!(proxy.accept().is_err(), "nothing came to the proxy");
}

#[test]
fn what_comes_from_outside_reaches_the_proxy_save_its_own_ports() {
    if !can_run("what_comes_from_outside_reaches_the_proxy_save_its_own_ports") {
        return;
    }
    let net = Net::new();
    net.in_pod(|| install(&skip())).unwrap();
    let proxy = net.in_pod(|| listen("[::]:15006"));
    for destination in [format!("{POD4}:8080"), format!("[{POD6}]:8080")] {
        let (_, original) = accept(&proxy, net.in_world(|| connect(&destination)).unwrap());
        let meant: SocketAddr = destination.parse().unwrap();
        assert_eq!((original.ip().to_canonical(), original.port()), (meant.ip(), meant.port()));
    }
    for port in [15_008, 15_020, 15_021, 22] {
        let direct = net.in_pod(|| listen(&format!("{POD4}:{port}")));
        let (_, original) = accept(&direct, net.in_world(|| connect(&format!("{POD4}:{port}"))).unwrap());
        assert_eq!(original.port(), port);
    }
}

#[test]
fn connections_from_before_the_rules_live_on() {
    if !can_run("connections_from_before_the_rules_live_on") {
        return;
    }
    let net = Net::new();
    let outside = net.in_world(|| listen(&format!("{WORLD4}:80")));
    let mut ours = net.in_pod(|| connect(&format!("{WORLD4}:80"))).unwrap();
    let (mut theirs, _) = outside.accept().unwrap();
    net.in_pod(|| install(&skip())).unwrap();
    // The first packet that the kernel tracks comes from outside, as the control plane's heartbeat does.
    theirs.write_all(b"x").unwrap();
    ours.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    ours.read_exact(&mut [0]).expect("the connection was not reset");
    ours.write_all(b"y").unwrap();
    theirs.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    theirs.read_exact(&mut [0]).expect("the connection works in both directions");
}

#[test]
fn without_the_capability_the_error_says_so() {
    if !can_run("without_the_capability_the_error_says_so") {
        return;
    }
    let net = Net::new();
    let text = net.in_pod(|| {
        let none = rustix::thread::CapabilitySet::empty();
        let sets = rustix::thread::CapabilitySets { effective: none, permitted: none, inheritable: none };
        rustix::thread::set_capabilities(None, sets).unwrap();
        install(&skip()).unwrap_err().to_string()
    });
    assert!(text.contains("NET_ADMIN"), "{text}");
}
