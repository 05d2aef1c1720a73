//! PID 1 of a node: mounts, then starts the node's programs in order, restarts those that end, and reaps what they leave behind.
//!
//! Runs synchronously in a process of its own (`e2e node-init`). When it dies the kernel kills everything in the node.

use std::collections::HashMap;
use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::io::Errno;
use rustix::process::{WaitOptions, wait};

use super::network::{SERVICES, node_ip};
use super::{audit, node_files};

/// A program that ended is started again after this long.
const PAUSE: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(50);

/// What a node's init needs to know; passed on its command line.
#[derive(Clone, Debug)]
pub struct Node {
    /// 1 also runs the control plane.
    pub number: u8,
    /// The cluster's state directory.
    pub state: PathBuf,
}

/// Mount points outside the state that must exist: programs write there whatever they are told, each node to a tmpfs of its own.
pub const PRIVATE: [&str; 4] = ["/run", "/var/log", "/var/lib/cni", "/var/lib/kubelet"];

/// One program of the node.
#[derive(Clone)]
struct Program {
    name: &'static str,
    args: Vec<String>,
}

/// The running programs by process number.
struct Running<'a> {
    node: &'a Node,
    programs: Mutex<HashMap<i32, Program>>,
}

/// Runs the node until it is killed.
///
/// # Errors
/// When the namespaces are not its own or cannot be prepared.
pub fn run(node: &Node) -> Result<()> {
    ensure!(std::process::id() == 1, "node-init is started by `up`, as PID 1 of a node");
    prepare()?;
    let running = Running { node, programs: Mutex::default() };
    thread::scope(|scope| {
        scope.spawn(|| running.start_all());
        running.reap(scope);
    });
    Ok(())
}

/// Makes mounts private to the node, visible to its containers.
fn prepare() -> Result<()> {
    let mount = |args: &[&str]| {
        let status = Command::new("mount").args(args).status().context("cannot start mount")?;
        ensure!(status.success(), "mount {} failed", args.join(" "));
        Ok(())
    };
    mount(&["--make-rshared", "/"])?;
    for dir in PRIVATE {
        mount(&["-t", "tmpfs", "node", dir])?;
    }
    Ok(std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?)
}

impl Running<'_> {
    /// Starts everything, each as soon as what it depends on answers.
    fn start_all(&self) {
        let dir = node_files::dir(&self.node.state, self.node.number);
        if self.node.number == 1 {
            if let Err(e) = audit::prepare(&self.node.state) {
                eprintln!("{e:#}");
            }
            control_plane_store_and_api(&self.node.state).into_iter().for_each(|program| self.start(program));
        }
        self.start(Program { name: "containerd", args: vec!["-c".into(), path(&dir.join("containerd.toml"))] });
        let api = SocketAddr::from((node_ip(1), 6443));
        until(|| TcpStream::connect_timeout(&api, Duration::from_secs(1)).is_ok());
        if self.node.number == 1 {
            controllers(&self.node.state).into_iter().for_each(|program| self.start(program));
        }
        self.start(Program {
            name: "kube-proxy",
            args: vec![format!("--config={}", path(&dir.join("kube-proxy.yaml")))],
        });
        until(|| UnixStream::connect(dir.join("containerd.sock")).is_ok());
        until(|| node_files::images_ready(&self.node.state, self.node.number).exists());
        self.start(kubelet(&self.node.state, &dir, self.node.number));
    }

    /// Starts a program, its output to a log of its own; tries until the machine lets it.
    fn start(&self, program: Program) {
        loop {
            // Held while the child's number is entered, so that the reaper cannot see its end before.
            let mut programs = self.lock();
            match self.spawn(&program) {
                Ok(pid) => {
                    programs.insert(pid, program);
                    return;
                }
                Err(e) => eprintln!("cannot start {}: {e:#}", program.name),
            }
            drop(programs);
            thread::sleep(PAUSE);
        }
    }

    fn spawn(&self, program: &Program) -> Result<i32> {
        let log = node_files::dir(&self.node.state, self.node.number).join("log").join(format!("{}.log", program.name));
        let log = File::options().create(true).append(true).open(log)?;
        let child = Command::new(program.name)
            .args(&program.args)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(i32::try_from(child.id())?)
    }

    /// Waits for any child, for ever: programs are started again, orphans just reaped.
    fn reap<'s>(&'s self, scope: &'s thread::Scope<'s, '_>) {
        loop {
            match wait(WaitOptions::empty()) {
                Ok(Some((pid, status))) => {
                    if let Some(program) = self.lock().remove(&pid.as_raw_nonzero().get()) {
                        eprintln!("{} ended ({status:?}), starting it again", program.name);
                        scope.spawn(move || {
                            thread::sleep(PAUSE);
                            self.start(program);
                        });
                    }
                }
                Ok(None) | Err(Errno::INTR) => {}
                // No child at the moment.
                Err(_) => thread::sleep(POLL),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i32, Program>> {
        self.programs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn control_plane_store_and_api(state: &Path) -> [Program; 2] {
    let pki = |name: &str| path(&state.join("pki").join(name));
    let etcd = vec![
        format!("--data-dir={}", path(&state.join("etcd"))),
        // The cluster is thrown away after a crash, so nothing need survive one.
        "--unsafe-no-fsync".into(),
        "--log-level=warn".into(),
    ];
    let mut api = vec![
        "--etcd-servers=http://127.0.0.1:2379".into(),
        format!("--advertise-address={}", node_ip(1)),
        format!("--service-cluster-ip-range={SERVICES}"),
        "--allow-privileged".into(),
        format!("--tls-cert-file={}", pki("apiserver.crt")),
        format!("--tls-private-key-file={}", pki("apiserver.key")),
        format!("--client-ca-file={}", pki("ca.crt")),
        "--authorization-mode=Node,RBAC".into(),
        "--enable-admission-plugins=NodeRestriction".into(),
        // Or exec and logs would try to resolve the node's name.
        "--kubelet-preferred-address-types=InternalIP".into(),
        format!("--kubelet-client-certificate={}", pki("apiserver-kubelet.crt")),
        format!("--kubelet-client-key={}", pki("apiserver-kubelet.key")),
        format!("--kubelet-certificate-authority={}", pki("ca.crt")),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        format!("--service-account-key-file={}", pki("sa.pub")),
        format!("--service-account-signing-key-file={}", pki("sa.key")),
        format!("--requestheader-client-ca-file={}", pki("ca.crt")),
        "--requestheader-allowed-names=front-proxy".into(),
        "--requestheader-username-headers=X-Remote-User".into(),
        "--requestheader-group-headers=X-Remote-Group".into(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
        format!("--proxy-client-cert-file={}", pki("front.crt")),
        format!("--proxy-client-key-file={}", pki("front.key")),
    ];
    api.extend(audit::flags(state));
    [Program { name: "etcd", args: etcd }, Program { name: "kube-apiserver", args: api }]
}

fn controllers(state: &Path) -> [Program; 2] {
    let pki = |name: &str| path(&state.join("pki").join(name));
    let manager = vec![
        format!("--kubeconfig={}", pki("kcm.kubeconfig")),
        "--use-service-account-credentials".into(),
        "--leader-elect=false".into(),
        // How soon a new node loses its not-ready taint.
        "--node-monitor-period=1s".into(),
        // At the default rate making its own clients takes five seconds.
        "--kube-api-qps=500".into(),
        "--kube-api-burst=1000".into(),
        format!("--root-ca-file={}", pki("ca.crt")),
        format!("--cluster-signing-cert-file={}", pki("ca.crt")),
        format!("--cluster-signing-key-file={}", pki("ca.key")),
        format!("--service-account-private-key-file={}", pki("sa.key")),
    ];
    let scheduler = vec![format!("--kubeconfig={}", pki("scheduler.kubeconfig")), "--leader-elect=false".into()];
    [Program { name: "kube-controller-manager", args: manager }, Program { name: "kube-scheduler", args: scheduler }]
}

fn kubelet(state: &Path, dir: &Path, number: u8) -> Program {
    let args = vec![
        format!("--config={}", path(&dir.join("kubelet.yaml"))),
        format!("--kubeconfig={}", path(&state.join(format!("pki/node{number}.kubeconfig")))),
        format!("--hostname-override=node{number}"),
        format!("--node-ip={}", node_ip(number)),
        format!("--root-dir={}", path(&dir.join("kubelet"))),
    ];
    Program { name: "kubelet", args }
}

fn until(mut ready: impl FnMut() -> bool) {
    while !ready() {
        thread::sleep(POLL);
    }
}

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
