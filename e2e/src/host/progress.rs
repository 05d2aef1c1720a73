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

/// How far a piece of work is, by its own measure.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Between 0 and 1.
    pub done: f64,
    /// Since it began.
    pub elapsed: Duration,
}

impl Share {
    /// The time left: at the pace so far, or by what it takes from nothing while little is done.
    #[must_use]
    pub fn left(self, cold: Duration) -> Duration {
        let rest = 1.0 - self.done.clamp(0.0, 1.0);
        if self.done > 0.15 {
            return self.elapsed.mul_f64(rest / self.done);
        }
        cold.mul_f64(rest).saturating_sub(self.elapsed.mul_f64(1.0 - self.done.max(0.0)))
    }
}

/// `, about 3 min left`; nothing when nothing is left that could be told.
#[must_use]
pub fn about(left: Duration) -> String {
    if left.is_zero() { String::new() } else { format!(", about {} left", rounded(left)) }
}

/// As a person says it: `40 s`, `3 min`.
fn rounded(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 95 { format!("{} s", seconds.div_ceil(5) * 5) } else { format!("{} min", (seconds + 30) / 60) }
}

/// The steps of a command, each announced with its number and what is left of them all.
#[derive(Debug)]
pub struct Steps {
    steps: Vec<(String, Duration)>,
    begun: usize,
}

impl Steps {
    /// Says how many steps there are, and about how long they take together; each is a title and what it takes.
    #[must_use]
    pub fn announce(command: &str, steps: Vec<(String, Duration)>) -> Self {
        let this = Self { steps, begun: 0 };
        let (count, all) = (this.steps.len(), this.left());
        say(format_args!("{command}: {count} steps, about {}", rounded(all)));
        this
    }

    /// Says that the next step begins; what a machine is already through with takes no time.
    pub fn next(&mut self) {
        let left = self.left();
        if let Some((title, _)) = self.steps.get(self.begun) {
            self.begun += 1;
            say(format_args!("[{}/{}] {title}{}", self.begun, self.steps.len(), about(left)));
        }
    }

    fn left(&self) -> Duration {
        self.steps.iter().skip(self.begun).map(|(_, takes)| *takes).sum()
    }
}

fn bracket(remark: Option<String>) -> String {
    remark.map(|r| format!(" ({r})")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_the_table_first_and_the_pace_then() {
        let seconds = Duration::from_secs;
        let share = |done, elapsed| Share { done, elapsed: seconds(elapsed) };
        assert_eq!(share(0.0, 0).left(seconds(600)), seconds(600));
        assert_eq!(share(0.0, 100).left(seconds(600)), seconds(500));
        assert_eq!(share(0.0, 700).left(seconds(600)), seconds(0));
        assert_eq!(share(0.5, 100).left(seconds(600)), seconds(100));
        assert_eq!(share(1.0, 100).left(seconds(600)), seconds(0));
        assert_eq!((rounded(seconds(41)), rounded(seconds(100))), ("45 s".into(), "2 min".into()));
    }

    #[test]
    fn what_is_left_is_that_of_the_steps_to_come() {
        let steps = vec![("one".to_owned(), Duration::from_secs(60)), ("two".to_owned(), Duration::from_secs(30))];
        let mut steps = Steps { steps, begun: 0 };
        assert_eq!(steps.left(), Duration::from_secs(90));
        steps.next();
        assert_eq!(steps.left(), Duration::from_secs(30));
        steps.next();
        steps.next();
        assert_eq!(steps.left(), Duration::ZERO);
    }
}
