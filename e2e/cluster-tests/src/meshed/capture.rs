//! Listens to everything that crosses a node's network, as an eavesdropper with access to the wire would.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Protocol, Socket, Type};

use e2e::host::env::Env;
use e2e::nodes::{network, state::Record};

/// Largest packet: a segment that the virtual devices never cut.
const PACKET: usize = 256 << 10;
/// Kernel buffer of each socket.
const BUFFER: usize = 64 << 20;
/// All protocols, in network byte order.
const ETH_P_ALL: i32 = (0x0003_u16).to_be() as i32;

/// Counts of what was seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Packets.
    pub packets: u64,
    /// Packets that contained each of the texts looked for.
    pub hits: BTreeMap<String, u64>,
}

/// A running capture on all interfaces of all nodes.
pub struct Capture {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Seen>>>,
}

impl Capture {
    /// Starts to look for `texts`, which all begin with `prefix`; when this returns, nothing is missed.
    ///
    /// # Errors
    /// When a node's network cannot be entered.
    pub fn start(env: &Env, prefix: &str, texts: &[String]) -> Result<Self> {
        let record = Record::read(env)?.context("no record of the cluster")?;
        let (stop, mut threads) = (Arc::new(AtomicBool::new(false)), vec![]);
        for node in &record.nodes {
            let path = network::node_ns_path(env, node.number);
            let (prefix, texts) = (prefix.to_owned(), texts.to_vec());
            let (stop, (ready, started)) = (Arc::clone(&stop), std::sync::mpsc::sync_channel(1));
            let thread = std::thread::Builder::new().name("capture".into()).spawn(move || {
                let socket = match open(&path) {
                    Ok(socket) => socket,
                    Err(e) => {
                        let _ = ready.send(Err(e));
                        return Ok(Seen::default());
                    }
                };
                let _ = ready.send(Ok(()));
                listen(socket, &prefix, &texts, &stop)
            })?;
            threads.push(thread);
            started.recv()??;
        }
        Ok(Self { stop, threads })
    }

    /// Ends it and adds up what all nodes saw.
    ///
    /// # Errors
    /// When reading packets failed, or the kernel dropped some: then nobody knows what they said.
    pub fn stop(self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Seen::default();
        for thread in self.threads {
            let seen = thread.join().map_err(|_| anyhow!("a capture thread panicked"))??;
            all.packets += seen.packets;
            for (text, hits) in seen.hits {
                *all.hits.entry(text).or_default() += hits;
            }
        }
        Ok(all)
    }
}

/// A packet socket inside a network namespace: it hears every interface there is or will be.
fn open(path: &PathBuf) -> Result<Socket> {
    let namespace = File::open(path).with_context(|| format!("no network namespace {}", path.display()))?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(ETH_P_ALL)))?;
    // Without a large buffer a burst is dropped, and with it what should be seen; the machine's limit is not meant for root.
    set_socket_recv_buffer_size_force(&socket, BUFFER).context("a large receive buffer is refused")?;
    let granted = socket.recv_buffer_size()?;
    ensure!(granted >= BUFFER, "the kernel grants a receive buffer of {granted} bytes instead of {BUFFER}");
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    Ok(socket)
}

fn listen(mut socket: Socket, prefix: &str, texts: &[String], stop: &AtomicBool) -> Result<Seen> {
    let mut seen = Seen::default();
    let mut packet = vec![0; PACKET];
    loop {
        match socket.read(&mut packet) {
            Ok(n) if loopback(&packet[..n]) => {}
            Ok(n) => {
                seen.packets += 1;
                // Most packets are gone through once.
                let near = if contains(&packet[..n], prefix.as_bytes()) { texts } else { &[] };
                for text in near {
                    if contains(&packet[..n], text.as_bytes()) {
                        *seen.hits.entry(text.clone()).or_default() += 1;
                    }
                }
            }
            // Silence: only now is everything read that was sent before the end.
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if stop.load(Ordering::Relaxed) {
                    return complete(&socket, seen);
                }
            }
            Err(e) if matches!(e.kind(), ErrorKind::Interrupted) || e.raw_os_error() == Some(100) => {} // ENETDOWN
            Err(e) => return Err(e).context("reading packets"),
        }
        // On a busy network there may never be silence.
        if stop.load(Ordering::Relaxed) && seen.packets % 10_000 == 9_999 {
            return complete(&socket, seen);
        }
    }
}

/// What was seen, if it is everything: the kernel counts what it had no room for. Called in the node's network namespace.
fn complete(socket: &Socket, seen: Seen) -> Result<Seen> {
    let inode = rustix::fs::fstat(socket)?.st_ino;
    let ss = Command::new("ss").args(["--packet", "--extended", "--memory", "--oneline", "--no-header"]).output();
    let ss = ss.context("`ss` cannot be run: apt-get install iproute2")?;
    let sockets = String::from_utf8_lossy(&ss.stdout).into_owned();
    let dropped = dropped(&sockets, inode)
        .with_context(|| format!("`ss` does not tell what the kernel dropped for socket {inode}: {sockets:?}"))?;
    ensure!(dropped == 0, "the kernel dropped {dropped} packets besides {} that were seen", seen.packets);
    Ok(seen)
}

/// Packets that were dropped for a socket: `skmem:(…,dN)` in its line.
fn dropped(sockets: &str, inode: u64) -> Option<u64> {
    let ours = format!("ino:{inode}");
    let line = sockets.lines().find(|line| line.split_whitespace().any(|word| word == ours))?;
    let (_, memory) = line.split_once("skmem:(")?;
    let (memory, _) = memory.split_once(')')?;
    memory.split(',').find_map(|part| part.strip_prefix('d')?.parse().ok())
}

/// Whether a frame never left the node: it has no addresses. The kubelet talks to containerd that way, about what `exec` printed.
fn loopback(packet: &[u8]) -> bool {
    packet.iter().take(12).all(|byte| *byte == 0)
}

fn contains(packet: &[u8], text: &[u8]) -> bool {
    packet.windows(text.len()).any(|window| window == text)
}

#[cfg(test)]
mod tests {
    #[test]
    fn frames_without_addresses_are_loopback() {
        assert!(super::loopback(&[0; 60]));
        assert!(!super::loopback(&[0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 8, 0]));
    }

    #[test]
    fn drops_are_read_from_the_line_of_the_socket() {
        let sockets = "p_raw UNCONN 0 0 *:* * ino:71 sk:3 <-> skmem:(r0,rb212992,t0,tb212992,f0,w0,o0,bl0,d5)\n\
                       p_raw UNCONN 0 0 *:* * ino:7 sk:4 <-> skmem:(r0,rb134217728,t0,tb212992,f0,w0,o0,bl0,d0)\n";
        assert_eq!(super::dropped(sockets, 7), Some(0));
        assert_eq!(super::dropped(sockets, 71), Some(5));
        assert_eq!(super::dropped(sockets, 1), None);
    }

    #[test]
    fn a_text_is_found_anywhere() {
        assert!(super::contains(b"xxmarkerxx", b"marker"));
        assert!(!super::contains(b"xxmarkxx", b"marker"));
    }
}
