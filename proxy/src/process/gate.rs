//! Holds the application back: waits until the slot that serves is ready, writes the redirect rules, ends. A plain blocking
//! program, for it does one thing after the other.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use crate::{
    contract::bootstrap::{env, ports},
    process::redirect::{self, RedirectError, SkipPorts},
};

/// How often readiness is asked for.
const POLL_EVERY: Duration = Duration::from_millis(50);
/// How often the reason for waiting is logged.
const LOG_EVERY: Duration = Duration::from_secs(5);
/// How long one answer may take.
const DEADLINE: Duration = Duration::from_secs(2);
/// Largest answer, in bytes.
const MAX_ANSWER: u64 = 64 << 10;

/// What the proxy answered.
#[derive(Debug, PartialEq, Eq)]
enum Readiness {
    Ready,
    NotReady(String),
}

/// Waits, then redirects.
///
/// # Errors
/// When the ports to skip are malformed or the rules cannot be written; while the proxy is not ready it waits for ever.
pub fn run(var: impl Fn(&str) -> Option<String>) -> Result<(), RedirectError> {
    let list = |name| redirect::parse_ports(name, &var(name).unwrap_or_default());
    let skip = SkipPorts { inbound: list(env::SKIP_INBOUND)?, outbound: list(env::SKIP_OUTBOUND)? };
    wait(SocketAddr::from((Ipv4Addr::LOCALHOST, ports::ADMIN)));
    let family = redirect::install(&skip)?;
    tracing::info!(family, skip_inbound = ?skip.inbound, skip_outbound = ?skip.outbound, "traffic goes through the proxy now");
    Ok(())
}

fn wait(admin: SocketAddr) {
    let began = Instant::now();
    let mut logged = began;
    loop {
        let why = match ask(admin) {
            Ok(Readiness::Ready) => {
                tracing::info!(waited_ms = began.elapsed().as_millis() as u64, "the proxy is ready");
                return;
            }
            Ok(Readiness::NotReady(why)) => why,
            Err(e) => format!("the proxy does not answer yet: {e}"),
        };
        if logged.elapsed() >= LOG_EVERY {
            logged = Instant::now();
            tracing::warn!(waited_seconds = began.elapsed().as_secs(), why, "waiting for the proxy to be ready");
        }
        thread::sleep(POLL_EVERY);
    }
}

fn ask(admin: SocketAddr) -> io::Result<Readiness> {
    let mut stream = TcpStream::connect_timeout(&admin, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    stream.write_all(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    read(&String::from_utf8_lossy(&answer)).ok_or_else(|| io::Error::other("that is no HTTP response"))
}

/// Reads status and body of a response.
fn read(answer: &str) -> Option<Readiness> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?;
    Some(if status == "200" { Readiness::Ready } else { Readiness::NotReady(body.trim().to_owned()) })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn responses_are_read() {
        assert_eq!(read("HTTP/1.1 200 OK\r\nA: b\r\n\r\n{}"), Some(Readiness::Ready));
        let reason = Readiness::NotReady("{\"reasons\":[]}".into());
        assert_eq!(read("HTTP/1.1 503 Service Unavailable\r\n\r\n{\"reasons\":[]}\n"), Some(reason));
        assert_eq!(read("SSH-2.0"), None);
        assert_eq!(read("HTTP/1.1 é\r\n\r\n"), None);
    }

    #[test]
    fn the_wait_ends_with_readiness_and_not_before() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let waiting = thread::spawn(move || wait(address));
        for response in ["HTTP/1.1 503 X\r\n\r\nno leaf", "nonsense", "HTTP/1.1 200 OK\r\n\r\n"] {
            assert!(!waiting.is_finished());
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 512];
            let _ = stream.read(&mut request).unwrap();
            stream.write_all(response.as_bytes()).unwrap();
        }
        waiting.join().unwrap();
    }
}
