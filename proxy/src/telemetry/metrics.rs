//! What the data plane counts. A connection (or an endpoint of a balancer) resolves its series once; a request then costs a few
//! relaxed additions and no look-up. The text is made when somebody asks for it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::contract::reason::Reason;

/// Label sets of one metric at most; whatever comes later is counted under `other`.
pub const MAX_LABEL_SETS: usize = 1000;
/// Requests have one label set for each class of status.
const MAX_HTTP_SERIES: usize = MAX_LABEL_SETS / CLASSES.len();
/// Label for what is over the bound.
const OTHER: &str = "other";
/// Peer without mutual TLS.
pub const PLAINTEXT: &str = "plaintext";
/// Peer of a request that reached nobody.
pub const UNKNOWN: &str = "unknown";

/// Classes of status; the last counts requests that got none: whoever asked gave up before.
pub(super) const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "none"];
/// Upper bounds of the latency histogram, microseconds.
pub(super) const BUCKETS: [u64; 14] = [
    500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000,
];

/// Which way traffic goes, seen from the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// To the application.
    Inbound,
    /// From the application.
    Outbound,
}

impl Direction {
    /// As it stands in labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// Requests between one service and one peer.
#[derive(Debug, Default)]
pub struct HttpSeries {
    pub(super) classes: [AtomicU64; CLASSES.len()],
    pub(super) buckets: [AtomicU64; BUCKETS.len() + 1],
    pub(super) micros: AtomicU64,
}

impl HttpSeries {
    /// Counts a request whose answer's status is known.
    pub fn answered(&self, status: http::StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len() - 1) - 1;
        self.classes[class].fetch_add(1, Relaxed);
    }

    /// Counts a request that was given up before its answer.
    pub fn unanswered(&self) {
        self.classes[CLASSES.len() - 1].fetch_add(1, Relaxed);
    }

    /// Records how long a request took, to the end of its answer.
    pub fn took(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.partition_point(|bound| *bound < micros);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.micros.fetch_add(micros, Relaxed);
    }
}

/// Opaque connections and bytes of one direction.
#[derive(Debug, Default)]
pub struct Flow {
    pub(super) open: AtomicI64,
    /// From the one who connected.
    pub received: AtomicU64,
    /// To the one who connected.
    pub sent: AtomicU64,
}

/// Counts an open connection until it is dropped.
#[derive(Debug)]
pub struct OpenConnection {
    metrics: Arc<Metrics>,
    direction: Direction,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.metrics.flow(self.direction).open.fetch_sub(1, Relaxed);
    }
}

pub(super) type HttpKey = (Direction, Box<str>, Box<str>);
pub(super) type TcpKey = (Direction, Box<str>, Box<str>, bool);

/// Everything that is counted.
#[derive(Debug, Default)]
pub struct Metrics {
    pub(super) http: Mutex<HashMap<HttpKey, Arc<HttpSeries>>>,
    pub(super) tcp: Mutex<HashMap<TcpKey, Arc<AtomicU64>>>,
    inbound: Flow,
    outbound: Flow,
    refused: [[AtomicU64; Reason::ALL.len()]; 2],
}

impl Metrics {
    /// Nothing counted yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The series of requests of a service (`namespace/name`) and a peer (SPIFFE ID or [`PLAINTEXT`]).
    #[must_use]
    pub fn http(&self, direction: Direction, service: &str, peer: &str) -> Arc<HttpSeries> {
        let mut all = self.http.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (direction, service.into(), peer.into());
        if let Some(series) = all.get(&key) {
            return Arc::clone(series);
        }
        // Two label sets stay free for `other`, one in each direction.
        let key = if all.len() + 2 < MAX_HTTP_SERIES { key } else { (direction, OTHER.into(), OTHER.into()) };
        Arc::clone(all.entry(key).or_default())
    }

    /// The counter of connections with opaque bytes.
    #[must_use]
    pub fn tcp(&self, direction: Direction, service: &str, peer: &str, tls: bool) -> Arc<AtomicU64> {
        let mut all = self.tcp.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (direction, service.into(), peer.into(), tls);
        if let Some(series) = all.get(&key) {
            return Arc::clone(series);
        }
        let key = if all.len() + 4 < MAX_LABEL_SETS { key } else { (direction, OTHER.into(), OTHER.into(), tls) };
        Arc::clone(all.entry(key).or_default())
    }

    /// Bytes and open connections of a direction.
    #[must_use]
    pub fn flow(&self, direction: Direction) -> &Flow {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }

    /// Counts a connection as open until the result is dropped.
    #[must_use]
    pub fn open(self: &Arc<Self>, direction: Direction) -> OpenConnection {
        self.flow(direction).open.fetch_add(1, Relaxed);
        OpenConnection { metrics: Arc::clone(self), direction }
    }

    /// Counts something that was refused.
    pub fn refused(&self, direction: Direction, reason: Reason) {
        self.refusals(direction, reason).fetch_add(1, Relaxed);
    }

    /// How often something was refused.
    #[must_use]
    pub fn refused_count(&self, direction: Direction, reason: Reason) -> u64 {
        self.refusals(direction, reason).load(Relaxed)
    }

    fn refusals(&self, direction: Direction, reason: Reason) -> &AtomicU64 {
        // The list holds every reason; a test says so.
        let index = Reason::ALL.iter().position(|r| *r == reason).unwrap_or_default();
        &self.refused[direction as usize][index]
    }
}

#[cfg(test)]
mod tests;
