//! How the process ends: when it is asked to, when it serves nothing new any more, and what a part came to that ended.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

/// How a long-running part ends: well on shutdown, otherwise with the reason why the process must be restarted.
pub type TaskResult = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// The process was asked to end. It serves for a while longer: until everybody knows that it ends, some still come to it.
#[derive(Debug, Clone)]
pub struct Shutdown {
    asked: watch::Receiver<bool>,
    serves_on: Duration,
    /// When it was asked.
    at: Arc<OnceLock<Instant>>,
}

impl Shutdown {
    /// The handle that asks, and the one that is asked and serves no longer.
    #[must_use]
    pub fn new() -> (watch::Sender<bool>, Self) {
        Self::serving_on(Duration::ZERO)
    }

    /// As [`Shutdown::new`], of a process that serves on for that long.
    #[must_use]
    pub fn serving_on(serves_on: Duration) -> (watch::Sender<bool>, Self) {
        let (ask, asked) = watch::channel(false);
        (ask, Self { asked, serves_on, at: Arc::default() })
    }

    /// Ends when shutdown was requested (or the asking side is gone).
    pub async fn requested(&self) {
        let mut asked = self.asked.clone();
        // An error means that the sender is gone, which ends the process too.
        let _ = asked.wait_for(|asked| *asked).await;
        self.at.get_or_init(Instant::now);
    }

    /// Ends when nothing new is served any more.
    pub async fn over(&self) {
        self.after(1.0).await;
    }

    /// Ends at some moment before that, another for each that asks, and none too early to find another replica: whoever is served for
    /// long is to leave, and not with all others at once.
    pub async fn my_turn(&self) {
        self.after(f64::midpoint(1.0, rand::random())).await;
    }

    async fn after(&self, share: f64) {
        self.requested().await;
        let at = *self.at.get_or_init(Instant::now);
        tokio::time::sleep_until(at + self.serves_on.mul_f64(share)).await;
    }

    /// Whether shutdown was requested.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        *self.asked.borrow()
    }
}
