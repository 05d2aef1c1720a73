//! Which of the two slots serves. They agree by a lock on a file that both see: its holder serves, the other waits for it,
//! asleep in the kernel, and takes over the moment the holder is gone, however it went. Meanwhile it answers on a Unix
//! socket what it is, and nothing else of it runs: no runtime, no leaf, no stream.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::{
        fs::{DirBuilderExt, OpenOptionsExt},
        net::UnixListener,
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use signal_hook::{consts::SIGTERM, flag};

use crate::contract::bootstrap::{VERSION, paths};

/// Stack of the thread that answers on the socket, in bytes.
const STACK: usize = 64 << 10;
/// How long a reader of the socket may take.
const WRITE_DEADLINE: Duration = Duration::from_secs(1);

/// What a slot does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Carries the pod's traffic.
    Serving,
    /// Waits for the other to end.
    Standby,
}

impl Role {
    /// As it stands in the socket's answer.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Standby => "standby",
        }
    }
}

/// A slot cannot take part.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// Neither `a` nor `b`.
    #[error("slot {0:?} is unknown: set BOWLINE_SLOT to a or b")]
    Name(String),
    /// A file of the two slots cannot be used.
    #[error("{path} cannot be used: {source}; check the pod's volume bowline-slots")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No handler, no thread.
    #[error("the slot cannot be set up: {0}")]
    System(#[from] io::Error),
}

/// The right to serve; lasts until it is dropped or the process ends.
#[derive(Debug)]
pub struct Serving {
    /// Held locked.
    _lock: File,
    exits: Arc<AtomicBool>,
    term_received: Arc<AtomicBool>,
}

impl Serving {
    /// Whether a SIGTERM came already, perhaps before anybody else could listen for it.
    #[must_use]
    pub fn received_term(&self) -> bool {
        self.term_received.load(Ordering::SeqCst)
    }

    /// From now on a SIGTERM is only noted: there is something to end in order. Until then it ends the process at once, so that none is
    /// lost that comes while a standby becomes the proxy.
    pub fn note_term(&self) {
        self.exits.store(false, Ordering::SeqCst);
    }

    /// From now on the next SIGTERM ends the process at once.
    pub fn exit_on_next_term(&self) {
        self.exits.store(true, Ordering::SeqCst);
    }
}

/// What follows from an attempt to lock without waiting.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Serve,
    Wait,
    Fail(Errno),
}

fn decide(attempt: Result<(), Errno>) -> Next {
    match attempt {
        Ok(()) => Next::Serve,
        Err(Errno::WOULDBLOCK) => Next::Wait,
        // Nobody was asked yet.
        Err(Errno::INTR) => Next::Wait,
        Err(e) => Next::Fail(e),
    }
}

/// Name of the small program that stands by, beside the proxy's: what it maps is a fraction of what the proxy maps.
pub const STANDBY_PROGRAM: &str = "bowline-standby";
/// Name of the proxy's program.
pub const PROXY_PROGRAM: &str = "bowline-proxy";

/// Replaces this process (exec) by the program `name` that lies beside this one, with the arguments `arguments`; returns only if that
/// fails.
#[must_use]
pub fn exec_sibling(name: &str, arguments: &[&str]) -> io::Error {
    match std::env::current_exe() {
        Ok(own) => Command::new(own.with_file_name(name)).args(arguments).exec(),
        Err(e) => e,
    }
}

/// Waits until this slot may serve. A SIGTERM ends the process with status 0, then and until [`Serving::note_term`]. When the other slot
/// serves, `busy` is called first: it may turn the process into a smaller one.
///
/// # Errors
/// When the files of the two slots cannot be used.
pub fn take(dir: &Path, slot: &str, busy: impl FnOnce()) -> Result<Serving, SlotError> {
    if !matches!(slot, "a" | "b") {
        return Err(SlotError::Name(slot.chars().take(40).collect()));
    }
    // As PID 1 of a container a process has no default handler, so without this one it would ignore SIGTERM.
    let exits = Arc::new(AtomicBool::new(true));
    flag::register_conditional_shutdown(SIGTERM, 0, Arc::clone(&exits))?;
    let term_received = Arc::new(AtomicBool::new(false));
    flag::register(SIGTERM, Arc::clone(&term_received))?;
    let file = |path: &Path, source| SlotError::File { path: path.into(), source };
    DirBuilder::new().recursive(true).mode(0o770).create(dir).map_err(|e| file(dir, e))?;
    let name = paths::SERVING_LOCK.rsplit('/').next().unwrap_or_default();
    let path = dir.join(name);
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o660)
        .open(&path)
        .map_err(|e| file(&path, e))?;
    let socket = dir.join(format!("{slot}.sock"));
    match decide(flock(&lock, FlockOperation::NonBlockingLockExclusive)) {
        Next::Serve => answer_as(&socket, Role::Serving)?,
        Next::Wait => {
            busy();
            let serving = answer(&socket, Role::Standby)?;
            loop {
                match flock(&lock, FlockOperation::LockExclusive) {
                    Ok(()) => break,
                    Err(Errno::INTR) => {}
                    Err(e) => return Err(file(&path, e.into())),
                }
            }
            serving.store(true, Ordering::SeqCst);
        }
        Next::Fail(e) => return Err(file(&path, e.into())),
    }
    Ok(Serving { _lock: lock, exits, term_received })
}

fn answer_as(socket: &Path, role: Role) -> Result<(), SlotError> {
    answer(socket, role).map(drop)
}

/// Answers on `socket` until the process ends; gives the switch by which a standby becomes the one that serves.
fn answer(socket: &Path, role: Role) -> Result<Arc<AtomicBool>, SlotError> {
    let file = |source| SlotError::File { path: socket.into(), source };
    match std::fs::remove_file(socket) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(file(e)),
        // What a former life of this slot left behind; nobody else uses the name.
        _ => {}
    }
    let listener = UnixListener::bind(socket).map_err(file)?;
    let serving = Arc::new(AtomicBool::new(role == Role::Serving));
    let switch = Arc::clone(&serving);
    thread::Builder::new().name("slot".into()).stack_size(STACK).spawn(move || {
        for connection in listener.incoming() {
            let Ok(mut connection) = connection else {
                // Out of descriptors: nothing better to do than not to spin.
                thread::sleep(WRITE_DEADLINE);
                continue;
            };
            let role = if serving.load(Ordering::SeqCst) { Role::Serving } else { Role::Standby };
            let _ = connection.set_write_timeout(Some(WRITE_DEADLINE));
            // A reader that went away needs no answer.
            let _ = connection.write_all(line(role).as_bytes());
        }
    })?;
    Ok(switch)
}

fn line(role: Role) -> String {
    format!("{{\"version\":\"{VERSION}\",\"role\":\"{}\"}}\n", role.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gets_the_lock_serves_and_who_does_not_waits() {
        assert_eq!(decide(Ok(())), Next::Serve);
        assert_eq!(decide(Err(Errno::WOULDBLOCK)), Next::Wait);
        assert_eq!(decide(Err(Errno::INTR)), Next::Wait);
        assert_eq!(decide(Err(Errno::NOLCK)), Next::Fail(Errno::NOLCK));
    }

    #[test]
    fn the_answer_is_one_line_of_json() {
        let text = line(Role::Standby);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value, serde_json::json!({"version": VERSION, "role": "standby"}));
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn who_may_serve_and_has_not_begun_to_ends_at_once_when_told_to() {
        let dir = std::env::temp_dir().join(format!("bowline-take-{}", std::process::id()));
        let serving = take(&dir, "a", || ()).unwrap();
        assert!(serving.exits.load(Ordering::SeqCst));
        serving.note_term();
        assert!(!serving.exits.load(Ordering::SeqCst));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_foreign_slot_is_refused() {
        let refused = take(Path::new("/nonexistent"), "c", || ()).unwrap_err();
        assert!(refused.to_string().contains("BOWLINE_SLOT"));
    }
}
