//! `cargo e2e verify`: everything that must hold before a change lands. In: a checkout. Out: a verdict and a time for each stage, one total.
//!
//! Every stage is a command that a developer can run alone; its whole output goes to `target/e2e/verify/STAGE.log`.

mod advisories;
mod command;
mod failures;
mod tally;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use self::command::{Logged, Show};
use self::failures::Failure;
use self::tally::{Height, Tallies};
use crate::cluster::up;
use crate::host::env::Env;
use crate::host::lock::Lock;
use crate::host::prereq;
use crate::host::progress::{Steps, minutes, say};
use crate::host::shell::which;
use crate::images::compile::{self, Profile};
use crate::programs::kubernetes::Programs;

/// The version of cargo-deny that is installed when there is none.
const CARGO_DENY: &str = "0.20.2";

/// What is left out or added.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Checks and tests that need no cluster.
    pub no_cluster: bool,
    /// The longer forms of the tests on the cluster.
    pub long: bool,
    /// Leave the cluster running at the end.
    pub keep: bool,
}

/// How a stage ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed(Vec<Failure>),
    Skipped(String),
}

struct Ended {
    name: &'static str,
    took: Duration,
    verdict: Verdict,
}

/// Runs every stage; one that fails does not keep the next from running unless that makes no sense without it.
///
/// # Errors
/// When a command cannot be started or a log cannot be written; a failing check or test is no error, but `Ok(false)`.
pub async fn verify(env: &Env, options: Options) -> Result<bool> {
    prereq::warn_of_full_disks(env);
    let mut run = Run::new(env, options)?;
    run.checks().await?;
    let built = run.rust_tests().await?;
    if options.no_cluster {
        run.skip("cluster", "left out by --no-cluster");
    } else if built {
        run.cluster(options).await?;
    } else {
        run.skip("cluster", "the workspace does not compile");
    }
    Ok(run.report())
}

struct Run<'a> {
    env: &'a Env,
    cargo: PathBuf,
    logs: PathBuf,
    since: Instant,
    ended: Vec<Ended>,
    tallies: Tallies,
    steps: Steps,
    /// The cluster's, while stages use it.
    lock: Option<Lock>,
}

/// The stages of a run, and about what each takes on two cores: what is in no cache is made.
fn stages(env: &Env, options: Options) -> Result<Vec<(String, Duration)>> {
    let made = |dir: &str, warm: u64, cold: u64| if env.target.join(dir).is_dir() { warm } else { cold };
    let mut stages = vec![("format", 5)];
    if !has_cargo_deny() {
        stages.push(("install-cargo-deny", 180));
    }
    let compiled = made("debug/deps", 60, 600);
    stages.extend([("deny", 5), ("advisories", 10), ("clippy", compiled / 2), ("build-tests", compiled)]);
    stages.push(("rust-tests", 180));
    if !options.no_cluster {
        let ours = env.kubeconfig.is_none();
        let up = up::takes(env) + if ours { Programs::takes(env)? } else { Duration::ZERO };
        stages.push(("cluster-up", up.as_secs()));
        stages.push(("images", compile::takes(env, Profile::Image).as_secs() + 20));
        stages.extend([("cluster-tests", if options.long { 3 } else { 1 } * 3600), ("demo", 60)]);
        if ours && !options.keep {
            stages.push(("cluster-down", 5));
        }
    }
    Ok(stages.into_iter().map(|(name, seconds)| (name.to_owned(), Duration::from_secs(seconds))).collect())
}

fn has_cargo_deny() -> bool {
    which("cargo-deny").is_some() || home_bin("cargo-deny").is_some_and(|file| file.is_file())
}

impl<'a> Run<'a> {
    fn new(env: &'a Env, options: Options) -> Result<Self> {
        let logs = env.out.join("verify");
        std::fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
        let cargo = std::env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from);
        let tallies = Tallies::new(&env.root);
        let steps = Steps::announce("verify", stages(env, options)?);
        Ok(Self { env, cargo, logs, since: Instant::now(), ended: vec![], tallies, steps, lock: None })
    }

    async fn checks(&mut self) -> Result<()> {
        self.cargo("format", &["fmt", "--all", "--check"]).await?;
        if !has_cargo_deny() {
            let args = ["install", "--quiet", "--locked", "cargo-deny", "--version", CARGO_DENY];
            self.cargo("install-cargo-deny", &args).await?;
        }
        self.cargo("deny", &["deny", "--log-level", "error", "check", "bans", "licenses", "sources"]).await?;
        match advisories::obstacle(env_home().as_deref()).await {
            None => self.advisories().await?,
            Some(why) => {
                self.steps.next();
                self.skip("advisories", &why);
            }
        }
        let clippy = ["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"];
        self.cargo("clippy", &clippy).await?;
        Ok(())
    }

    /// Returns whether everything compiled.
    async fn rust_tests(&mut self) -> Result<bool> {
        prereq::for_rust_tests().await?;
        if !self.cargo("build-tests", &["test", "--workspace", "--no-run"]).await? {
            return Ok(false);
        }
        self.cargo("rust-tests", &["test", "--workspace", "--no-fail-fast"]).await?;
        Ok(true)
    }

    /// Holds the cluster from its start to its end, so that no other run comes between two stages.
    async fn cluster(&mut self, options: Options) -> Result<()> {
        self.lock = Some(Lock::cluster(self.env).await?);
        // Beside Kubernetes: what is not through by then the stage of the images waits for, and it tells what failed.
        let ahead = compile::start(self.env, Profile::Image);
        let up = self.e2e("cluster-up", &["up", "--nodes", "2"]).await?;
        if up && self.e2e("images", &["images"]).await? {
            drop(ahead);
            let test: &[&str] = if options.long { &["test", "--long"] } else { &["test"] };
            self.e2e("cluster-tests", test).await?;
            self.e2e("demo", &["demo"]).await?;
        }
        if self.env.kubeconfig.is_none() && !options.keep {
            self.e2e("cluster-down", &["down"]).await?;
        }
        Ok(())
    }

    /// A command of cargo: quiet, its last line as remark; what failed is shown.
    async fn cargo(&mut self, name: &'static str, args: &[&str]) -> Result<bool> {
        self.stage(name, args, Show::OnFailure).await
    }

    /// Another command of this program, as a developer calls it.
    async fn e2e(&mut self, name: &'static str, args: &[&str]) -> Result<bool> {
        let args = [&["run", "--profile", "harness", "--package", "e2e", "--"], args].concat();
        self.stage(name, &args, Show::Lines).await
    }

    /// The database may be out of reach although its server has just answered; then nothing is known, and nothing wrong.
    async fn advisories(&mut self) -> Result<()> {
        let (name, begun) = ("advisories", Instant::now());
        self.steps.next();
        let args = ["deny", "--log-level", "error", "check", name];
        let (good, lines) = self.run(name, &args, Show::OnFailure).await?;
        match advisories::unfetched(&lines) {
            Some(why) if !good => self.skip(name, &why),
            _ => self.end(name, begun, good, &lines),
        }
        Ok(())
    }

    async fn stage(&mut self, name: &'static str, args: &[&str], show: Show) -> Result<bool> {
        let begun = Instant::now();
        self.steps.next();
        let (good, lines) = self.run(name, args, show).await?;
        self.end(name, begun, good, &lines);
        Ok(good)
    }

    /// Returns whether it succeeded, and what it said.
    async fn run(&self, name: &'static str, args: &[&str], show: Show) -> Result<(bool, Vec<String>)> {
        let mut command = std::process::Command::new(&self.cargo);
        command.args(args).current_dir(&self.env.root).env("CARGO_TERM_COLOR", "never");
        command.envs(self.lock.as_ref().filter(|lock| lock.is_own()).map(Lock::hand_down));
        let logged = Logged { name, command, log: self.logs.join(format!("{name}.log")), show };
        logged.run().await
    }

    fn end(&mut self, name: &'static str, begun: Instant, good: bool, lines: &[String]) {
        self.tallies.read(lines, good);
        let verdict = if good { Verdict::Passed } else { Verdict::Failed(failures::of_stage(name, lines)) };
        self.ended.push(Ended { name, took: begun.elapsed(), verdict });
    }

    fn skip(&mut self, name: &'static str, why: &str) {
        say(format_args!("{name}: skipped, {why}"));
        self.tallies.skip();
        self.ended.push(Ended { name, took: Duration::ZERO, verdict: Verdict::Skipped(why.into()) });
    }

    /// Prints what failed, the stages, the tests by height and the total; returns whether all is well.
    fn report(&self) -> bool {
        println!();
        for Ended { name, verdict, .. } in &self.ended {
            let Verdict::Failed(failures) = verdict else { continue };
            for Failure { name: test, said } in failures {
                println!("FAILED in {name}: {test}");
                said.iter().for_each(|line| println!("    {line}"));
                println!();
            }
        }
        for Ended { name, took, verdict } in &self.ended {
            let verdict = match verdict {
                Verdict::Passed => "passed".to_owned(),
                Verdict::Failed(_) => format!("FAILED, see {}", self.logs.join(format!("{name}.log")).display()),
                Verdict::Skipped(why) => format!("skipped: {why}"),
            };
            println!("{name:<20} {:>14}  {verdict}", minutes(*took));
        }
        println!("{:<20} {:>14}", "all", minutes(self.since.elapsed()));
        println!();
        for height in Height::ALL {
            println!("{:<20} {}", height.name(), self.tallies.of(height));
        }
        let total = self.tallies.total();
        println!("{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped);
        total.failed == 0 && total.passed > 0
    }
}

fn env_home() -> Option<PathBuf> {
    std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))
}

/// Where `cargo install` puts programs, which `PATH` may lack.
fn home_bin(program: &str) -> Option<PathBuf> {
    Some(env_home()?.join("bin").join(program))
}
