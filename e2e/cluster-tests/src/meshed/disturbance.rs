//! What happens in a cluster while something else goes on: replicas of the operator die, leaders and others, and pods come and go.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::DeleteParams;
use tokio::sync::watch;
use tokio::time::sleep;

use super::caller::Caller;
use super::dice::Dice;
use super::fleet::GUEST;
use super::operator;
use super::shared::SOON;
use crate::context::{Context, Figures, pods};
use e2e::cluster::install::NAMESPACE;

/// Pods that come and go at most.
const MOST_GUESTS: u32 = 200;
/// Longest pause between two disturbances of a kind.
const PAUSE: Duration = Duration::from_millis(1500);

/// How much is disturbed.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Replicas of the operator to kill at most; the first one does not lead, the second one does.
    pub kills: u32,
    /// Of the choices.
    pub seed: u64,
}

/// How far it is, for the work that is disturbed.
#[derive(Debug, Default)]
pub struct Progress {
    kills: AtomicU32,
}

impl Progress {
    /// Whether a leader and another replica have been killed.
    #[must_use]
    pub fn is_enough(&self) -> bool {
        self.kills.load(Ordering::Relaxed) >= 2
    }
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Disturbed {
    /// Replicas that were killed while they led.
    pub leaders: u32,
    /// Others that were killed.
    pub followers: u32,
    /// Pods that were deleted, each replaced by a new one that was heard to talk to the others.
    pub guests: u32,
    /// The last words of the replicas: name and log.
    pub logs: Vec<(String, String)>,
}

impl Disturbed {
    /// Fails unless everything was disturbed: a leader and another replica killed, a pod replaced.
    ///
    /// # Errors
    /// Says what was done.
    pub fn enough(&self) -> Result<()> {
        let Self { leaders, followers, guests, .. } = self;
        ensure!(
            *leaders > 0 && *followers > 0 && *guests > 0,
            "too quiet to prove anything: {leaders} leaders and {followers} others were killed, {guests} pods replaced"
        );
        Ok(())
    }

    /// Puts it into a test's figures.
    #[must_use]
    pub fn figures(&self, figures: Figures) -> Figures {
        figures
            .with("leaders_killed", self.leaders)
            .with("followers_killed", self.followers)
            .with("pods_replaced", self.guests)
    }
}

/// Does `work`, and disturbs it until it is done.
///
/// # Errors
/// Those of `work`, and when a disturbance could not be carried out or a new pod was not understood.
pub async fn during<T>(
    cx: &Context,
    namespace: &str,
    plan: Plan,
    progress: &Progress,
    work: impl Future<Output = Result<T>>,
) -> Result<(T, Disturbed)> {
    let (end, ended) = watch::channel(false);
    let work = async {
        let done = work.await;
        end.send_replace(true);
        done
    };
    // Boxed: each of them is large.
    let kills = Box::pin(kill_replicas(cx, plan, progress, ended.clone()));
    let guests = Box::pin(replace_guests(cx, namespace, plan, ended));
    let (done, kills, guests) = tokio::join!(Box::pin(work), kills, guests);
    // Should it have failed because of a disturbance that failed, both are told.
    let done = match (done, &kills, &guests) {
        (Err(e), Err(other), _) | (Err(e), _, Err(other)) => return Err(e.context(format!("{other:#}; and"))),
        (done, ..) => done?,
    };
    let mut disturbed = kills.context("killing the operator's replicas")?;
    disturbed.guests = guests.context("pods that come and go")?;
    Ok((done, disturbed))
}

/// Waits for a moment; whether to go on.
async fn pause(dice: &mut Dice, ended: &mut watch::Receiver<bool>) -> bool {
    // Time is what is wanted here, and not waited for anything.
    tokio::select! {
        () = sleep(dice.time(PAUSE)) => {}
        _ = ended.wait_for(|ended| *ended) => {}
    }
    !*ended.borrow()
}

/// Kills one replica after the other; each time all are there again, and one of them leads.
async fn kill_replicas(
    cx: &Context,
    plan: Plan,
    progress: &Progress,
    mut ended: watch::Receiver<bool>,
) -> Result<Disturbed> {
    let (mut dice, mut disturbed) = (Dice::new(plan.seed), Disturbed::default());
    for n in 0..plan.kills {
        let (all, leader) = tokio::select! {
            complete = complete(cx) => complete?,
            _ = ended.wait_for(|ended| *ended) => break,
        };
        if *ended.borrow() || n > 0 && !pause(&mut dice, &mut ended).await {
            break;
        }
        let leads = match n {
            0 => false,
            1 => true,
            // Whose work is interrupted is the more interesting one.
            _ => dice.below(3) > 0,
        };
        let victim = all.iter().find(|pod| (pods::name(pod) == leader) == leads).context("no replica to kill")?;
        let name = pods::name(victim);
        for container in victim.spec.iter().flat_map(|s| &s.containers) {
            let log = cx.logs(NAMESPACE, &name, &container.name).await.unwrap_or_default();
            disturbed.logs.push((format!("{name} ({})", container.name), log));
        }
        // Some can still give their Lease back, others cannot.
        if n == 1 || dice.below(2) == 0 {
            operator::crash(cx, &name).await?;
        } else {
            operator::kill(cx, &name).await?;
        }
        if leads {
            disturbed.leaders += 1;
        } else {
            disturbed.followers += 1;
        }
        progress.kills.fetch_add(1, Ordering::Relaxed);
    }
    Ok(disturbed)
}

/// Waits until all replicas are ready and one of them leads; they, and who.
async fn complete(cx: &Context) -> Result<(Vec<Pod>, String)> {
    cx.eventually(2 * SOON, "the operator is not complete again after a replica was killed", || async {
        let all = operator::pods(cx).await?;
        let ready = all.iter().filter(|pod| pods::is_ready(pod)).count();
        let wanted = usize::try_from(operator::REPLICAS)?;
        ensure!(ready == wanted && all.len() == wanted, "{ready} of {} replicas are ready", all.len());
        let (leader, _) = operator::leader(cx).await?;
        ensure!(all.iter().any(|pod| pods::name(pod) == leader), "the Lease is still held by {leader}, which is gone");
        Ok((all, leader))
    })
    .await
}

/// Deletes one guest after the other; each time another comes, and talks to the servers, and is talked to by the clients' load.
async fn replace_guests(cx: &Context, namespace: &str, plan: Plan, mut ended: watch::Receiver<bool>) -> Result<u32> {
    let mut dice = Dice::new(plan.seed ^ 1);
    let selector = format!("app={GUEST}");
    let api = Api::<Pod>::namespaced(cx.client(), namespace);
    for n in 0..MOST_GUESTS {
        if !pause(&mut dice, &mut ended).await {
            return Ok(n);
        }
        let before = cx.pods(namespace, &selector).await?;
        ensure!(!before.is_empty(), "there is no guest");
        let victim = &before[dice.below(before.len())];
        let restarts: i32 = pods::restarts(victim).iter().map(|(_, n)| n).sum();
        ensure!(restarts == 0, "{} restarted {restarts} times", pods::name(victim));
        api.delete(&pods::name(victim), &DeleteParams::default()).await?;
        let new = cx
            .eventually(2 * SOON, "no new guest came for the one that was deleted", || async {
                let now = cx.pods(namespace, &selector).await?;
                let mut new = now.into_iter().filter(|pod| before.iter().all(|b| b.metadata.uid != pod.metadata.uid));
                let new = new.next().context("none is there")?;
                ensure!(pods::is_ready(&new), "{} is not ready", pods::name(&new));
                Ok(new)
            })
            .await?;
        first_words(cx, &Caller::at(cx, &new)?).await?;
    }
    bail!("the work that was to be disturbed took longer than {MOST_GUESTS} pods")
}

/// A new pod reaches those who were there before. Whoever has just lost its control plane may have to ask again for a destination that it
/// does not know yet; nothing else may go wrong.
async fn first_words(cx: &Context, guest: &Caller<'_>) -> Result<()> {
    for url in ["http://server/", "http://server:8088/"] {
        let answer = cx.eventually(SOON, "a new pod does not get to know anybody", || async {
            let report = guest.run(&["get", url]).await?;
            let unknown = report["headers"]["bowline-reason"] == "control-plane-unavailable";
            ensure!(!unknown, "{url}: {report}");
            Ok(report)
        });
        let report = answer.await?;
        ensure!(report["status"] == 200, "{url} from the new pod {} answered {report}", guest.pod);
    }
    Ok(())
}
