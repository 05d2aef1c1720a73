//! Metrics of reconcilers and their queues, by the names of controller-runtime and client-go.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use tokio::time::Instant;

/// Labels `controller` and `result`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReconcileLabels {
    controller: &'static str,
    result: &'static str,
}

/// Label `controller`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ControllerLabel {
    controller: &'static str,
}

/// Label `name`, as client-go's workqueue has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabel {
    name: &'static str,
}

/// How one reconcile ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing left to do.
    Success,
    /// To be looked at again after a while.
    RequeueAfter,
    /// Failed; it is tried again.
    Error,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::RequeueAfter => "requeue_after",
            Self::Error => "error",
        }
    }
}

type Seconds = Gauge<f64, std::sync::atomic::AtomicU64>;

/// Objects of one controller, by name: since when they wait, and since when they are being reconciled.
#[derive(Default)]
struct Work {
    waiting: BTreeMap<String, Instant>,
    running: BTreeMap<String, Instant>,
}

/// See the module; cheap to clone.
#[derive(Clone)]
pub struct QueueMetrics {
    reconciles: Family<ReconcileLabels, Counter>,
    errors: Family<ControllerLabel, Counter>,
    seconds: Family<ControllerLabel, Histogram>,
    active: Family<ControllerLabel, Gauge>,
    most: Family<ControllerLabel, Gauge>,
    depth: Family<QueueLabel, Gauge>,
    adds: Family<QueueLabel, Counter>,
    retries: Family<QueueLabel, Counter>,
    queued_seconds: Family<QueueLabel, Histogram>,
    work_seconds: Family<QueueLabel, Histogram>,
    unfinished: Family<QueueLabel, Seconds>,
    longest: Family<QueueLabel, Seconds>,
    work: Arc<Mutex<BTreeMap<&'static str, Work>>>,
}

impl Default for QueueMetrics {
    fn default() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(exponential_buckets(0.005, 2.0, 14));
        Self {
            reconciles: Family::default(),
            errors: Family::default(),
            seconds: Family::new_with_constructor(histogram),
            active: Family::default(),
            most: Family::default(),
            depth: Family::default(),
            adds: Family::default(),
            retries: Family::default(),
            queued_seconds: Family::new_with_constructor(histogram),
            work_seconds: Family::new_with_constructor(histogram),
            unfinished: Family::default(),
            longest: Family::default(),
            work: Arc::default(),
        }
    }
}

impl QueueMetrics {
    pub(super) fn register(&self, r: &mut Registry) {
        r.register("controller_runtime_reconcile", "Reconciles by result", self.reconciles.clone());
        r.register("controller_runtime_reconcile_errors", "Reconciles that failed", self.errors.clone());
        r.register("controller_runtime_reconcile_time_seconds", "Seconds per reconcile", self.seconds.clone());
        r.register("controller_runtime_active_workers", "Reconciles going on", self.active.clone());
        r.register(
            "controller_runtime_max_concurrent_reconciles",
            "Most reconciles at the same time",
            self.most.clone(),
        );
        r.register("workqueue_depth", "Objects that wait for a reconcile", self.depth.clone());
        r.register("workqueue_adds", "Objects that were given to be reconciled", self.adds.clone());
        r.register("workqueue_retries", "Objects that are tried again after a failure", self.retries.clone());
        r.register(
            "workqueue_queue_duration_seconds",
            "Seconds that an object waits for its reconcile",
            self.queued_seconds.clone(),
        );
        r.register("workqueue_work_duration_seconds", "Seconds per reconcile", self.work_seconds.clone());
        r.register(
            "workqueue_unfinished_work_seconds",
            "Seconds that the reconciles going on have taken so far, added up",
            self.unfinished.clone(),
        );
        r.register(
            "workqueue_longest_running_processor_seconds",
            "Seconds that the longest reconcile going on has taken so far",
            self.longest.clone(),
        );
    }

    fn work(&self) -> MutexGuard<'_, BTreeMap<&'static str, Work>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A controller begins to work, with at most so many reconciles at the same time.
    pub fn begins(&self, controller: &'static str, most: u16) {
        self.work().entry(controller).or_default();
        self.most.get_or_create(&ControllerLabel { controller }).set(most.into());
    }

    /// These objects are to be reconciled, and there are no others.
    pub fn mark(&self, controller: &'static str, all: impl IntoIterator<Item = String>) {
        let now = Instant::now();
        let mut work = self.work();
        let waiting = &mut work.entry(controller).or_default().waiting;
        let before = std::mem::take(waiting);
        for name in all {
            let since = before.get(&name).copied();
            if since.is_none() {
                self.adds.get_or_create(&QueueLabel { name: controller }).inc();
            }
            waiting.insert(name, since.unwrap_or(now));
        }
    }

    /// The reconcile of an object begins.
    pub fn started(&self, controller: &'static str, object: &str) {
        let now = Instant::now();
        let mut work = self.work();
        let Work { waiting, running } = work.entry(controller).or_default();
        let label = QueueLabel { name: controller };
        // One that asked for it itself, at a time, did not wait.
        let since = waiting.remove(object);
        if since.is_none() {
            self.adds.get_or_create(&label).inc();
        }
        let waited = since.map(|since| now - since).unwrap_or_default();
        self.queued_seconds.get_or_create(&label).observe(waited.as_secs_f64());
        running.insert(object.to_owned(), now);
    }

    /// It ended.
    pub fn ended(&self, controller: &'static str, object: &str, outcome: Outcome) {
        let began = self.work().entry(controller).or_default().running.remove(object);
        let took = began.map(|began| began.elapsed()).unwrap_or_default().as_secs_f64();
        let (label, queue) = (ControllerLabel { controller }, QueueLabel { name: controller });
        self.seconds.get_or_create(&label).observe(took);
        self.work_seconds.get_or_create(&queue).observe(took);
        self.reconciles.get_or_create(&ReconcileLabels { controller, result: outcome.as_str() }).inc();
        // Both exist from the first reconcile on, so that a rate can be told from the first failure on.
        let (errors, retries) = (self.errors.get_or_create(&label), self.retries.get_or_create(&queue));
        if outcome == Outcome::Error {
            errors.inc();
            retries.inc();
        }
    }

    /// Nothing waits and nothing is reconciled any more: this replica leads no longer.
    pub(super) fn stop(&self) {
        for work in self.work().values_mut() {
            *work = Work::default();
        }
    }

    /// Sets what is a matter of the moment.
    pub(super) fn look(&self) {
        let (work, now) = (self.work(), Instant::now());
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        for (controller, Work { waiting, running }) in &*work {
            let (label, queue) = (ControllerLabel { controller }, QueueLabel { name: controller });
            self.active.get_or_create(&label).set(count(running.len()));
            self.depth.get_or_create(&queue).set(count(waiting.len()));
            let times = || running.values().map(|began| now.saturating_duration_since(*began));
            self.unfinished.get_or_create(&queue).set(times().sum::<Duration>().as_secs_f64());
            self.longest.get_or_create(&queue).set(times().max().unwrap_or_default().as_secs_f64());
        }
    }
}
