//! Says what is going on: one line per step, with seconds, on a terminal kept up to date in place.

use std::io::{IsTerminal as _, Write as _};
use std::pin::Pin;
use std::time::{Duration, Instant};

use anyhow::Result;

/// Steps shorter than this are not worth a line of their own.
const QUIET: Duration = Duration::from_secs(1);
/// Without a terminal, how often a long step says that it is still running.
const REMINDER: Duration = Duration::from_secs(30);

/// Runs `work` as a step called `title`; anything over a second is announced and timed.
///
/// # Errors
/// Those of `work`.
pub fn step<'a, T: 'a>(
    title: &'a str,
    work: impl Future<Output = Result<T>> + 'a,
) -> impl Future<Output = Result<T>> + 'a {
    step_with(title, || None, work)
}

/// As [`step`], with a remark (such as the time left) that is asked for whenever the line is written.
///
/// # Errors
/// Those of `work`.
pub fn step_with<'a, T: 'a>(
    title: &'a str,
    remark: impl Fn() -> Option<String> + 'a,
    work: impl Future<Output = Result<T>> + 'a,
) -> impl Future<Output = Result<T>> + 'a {
    // Boxed here: what is waited for is large, and its caller need not be.
    watch(title, remark, Box::pin(work))
}

async fn watch<T, F: Future<Output = Result<T>>>(
    title: &str,
    remark: impl Fn() -> Option<String>,
    mut work: Pin<Box<F>>,
) -> Result<T> {
    let terminal = std::io::stderr().is_terminal();
    let start = Instant::now();
    let mut announced = false;
    let mut wait = QUIET;
    let result = loop {
        match tokio::time::timeout(wait, &mut work).await {
            Ok(result) => break result,
            Err(_) if terminal => {
                eprint!("\r\x1b[K{title} … {}{}", seconds(start), bracket(remark()));
                let _ = std::io::stderr().flush();
                wait = Duration::from_millis(500);
            }
            Err(_) => {
                let so_far = if announced { format!(" {}", seconds(start)) } else { String::new() };
                eprintln!("{title} …{so_far}{}", bracket(remark()));
                wait = REMINDER;
            }
        }
        announced = true;
    };
    if announced {
        let lead = if terminal { "\r\x1b[K" } else { "" };
        let verdict = if result.is_ok() { "done" } else { "FAILED" };
        eprintln!("{lead}{title}: {verdict}, {}", seconds(start));
    }
    result
}

/// One line to the person at the terminal.
pub fn say(line: impl std::fmt::Display) {
    eprintln!("{line}");
}

fn seconds(start: Instant) -> String {
    let spent = start.elapsed();
    if spent < Duration::from_secs(60) { format!("{:.1} s", spent.as_secs_f64()) } else { minutes(spent) }
}

/// `95 s` as `1 min 35 s`.
#[must_use]
pub fn minutes(spent: Duration) -> String {
    let s = spent.as_secs();
    if s < 60 { format!("{s} s") } else { format!("{} min {:02} s", s / 60, s % 60) }
}

fn bracket(remark: Option<String>) -> String {
    remark.map(|r| format!(" ({r})")).unwrap_or_default()
}
