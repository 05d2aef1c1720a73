//! An endpoint as one worker sees it: its connections and how loaded it seems.

use std::{
    cell::{Cell, OnceCell},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use http::Uri;
use rustls_pki_types::ServerName;

use super::{
    http1::Pool1,
    http2::{Pool2, Secure},
};
use crate::{
    contract::{
        bootstrap::tunnel::{self, App},
        spiffe::SpiffeId,
    },
    telemetry::metrics::HttpSeries,
};

/// Time in which a latency that was measured once loses most of its weight.
const DECAY: Duration = Duration::from_secs(10);
/// How long an endpoint is avoided after a connection to it failed, unless there is no other. Twice as long each time that a request
/// which tried it afterwards failed too.
const AVOID: Duration = Duration::from_secs(5);
/// And at most so long.
const AVOID_MOST: Duration = Duration::from_secs(60);
/// What a failure counts as, at least: one that comes fast is no fast answer.
const FAILURE: Duration = Duration::from_secs(1);
/// An endpoint that answered so short a time ago most likely still does.
const FRESH: Duration = Duration::from_millis(10);
/// Answers in a row, until which an endpoint is doubted.
const TRUSTED: u32 = 16;

/// Address, port and identity: two that differ in one of them share nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct EndpointKey {
    pub(crate) address: SocketAddr,
    /// None: it is spoken to in plain.
    pub(crate) identity: Option<SpiffeId>,
}

/// See the module.
pub(crate) struct Endpoint {
    pub(crate) key: EndpointKey,
    mesh_port: u16,
    /// HTTP/1 connections to it at most.
    most: usize,
    pools: [OnceCell<Pool2>; 3],
    plain: OnceCell<Rc<Pool1>>,
    load: Load,
}

/// An endpoint on behalf of a service, with the series that its requests are counted in.
pub(crate) struct Candidate {
    pub(crate) endpoint: Rc<Endpoint>,
    pub(crate) series: Arc<HttpSeries>,
}

/// Peak EWMA: rises at once with a slow answer, falls slowly.
struct Load {
    micros: Cell<f64>,
    at: Cell<Instant>,
    in_flight: Cell<u32>,
    /// Answers in a row, up to [`TRUSTED`].
    good: Cell<u32>,
    avoid_until: Cell<Option<Instant>>,
    avoid_for: Cell<Duration>,
    /// One request tries whether it is back.
    probed: Cell<bool>,
}

impl Endpoint {
    pub(crate) fn new(key: EndpointKey, mesh_port: u16, most: usize) -> Self {
        let load = Load {
            micros: Cell::new(0.0),
            at: Cell::new(Instant::now()),
            in_flight: Cell::new(0),
            good: Cell::new(0),
            avoid_until: Cell::new(None),
            avoid_for: Cell::new(AVOID),
            probed: Cell::new(false),
        };
        Self { key, mesh_port, most, pools: Default::default(), plain: OnceCell::new(), load }
    }

    /// HTTP/2 connections that carry `app`: to its proxy if it has an identity, else straight to the application.
    pub(crate) fn h2(&self, app: App) -> &Pool2 {
        self.pools[app as usize].get_or_init(|| {
            let address = self.key.address;
            match &self.key.identity {
                Some(expected) => {
                    // An SNI of ours is always a valid name; should it not be, the far end refuses, and plaintext is never sent.
                    let sni = ServerName::try_from(tunnel::sni(address.port(), app));
                    let sni = sni.unwrap_or_else(|_| ServerName::from(address.ip()));
                    let to = SocketAddr::new(address.ip(), self.mesh_port);
                    Pool2::new(to, Some(Secure { sni, expected: expected.clone() }), app)
                }
                None => Pool2::new(address, None, app),
            }
        })
    }

    /// HTTP/1 connections straight to the application.
    pub(crate) fn h1(&self) -> &Rc<Pool1> {
        self.plain.get_or_init(|| Pool1::new(self.key.address, self.most))
    }

    /// Target of a CONNECT that leads here.
    pub(crate) fn authority(&self) -> Option<Uri> {
        Uri::builder().authority(self.key.address.to_string()).build().ok()
    }

    /// The expected time of one more request, microseconds times requests in flight.
    pub(crate) fn cost(&self, now: Instant) -> f64 {
        let age = now.duration_since(self.load.at.get()).as_secs_f64();
        let micros = self.load.micros.get() * (-age / DECAY.as_secs_f64()).exp();
        // One millisecond more for each in flight lets a new endpoint fill up gradually.
        (micros + 1000.0) * f64::from(self.load.in_flight.get() + 1)
    }

    /// Whether it failed a moment ago.
    pub(crate) fn is_avoided(&self, now: Instant) -> bool {
        self.load.avoid_until.get().is_some_and(|until| now < until)
    }

    /// Whether it was avoided for long enough and nobody has tried it since.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.load.avoid_until.get().is_some_and(|until| until <= now)
    }

    /// Somebody tries whether it is back; meanwhile the others avoid it.
    pub(crate) fn probe(&self, now: Instant) {
        self.load.probed.set(true);
        self.load.avoid_until.set(Some(now + self.load.avoid_for.get()));
    }

    /// Whether a request is to be prepared for being sent again: it costs a copy, which a busy endpoint need not pay.
    pub(crate) fn is_doubtful(&self, now: Instant) -> bool {
        self.load.good.get() < TRUSTED || now.duration_since(self.load.at.get()) > FRESH
    }

    /// It could not be reached, which took so long to know.
    pub(crate) fn failed(&self, after: Duration) {
        self.lost(after);
        let load = &self.load;
        // What fails together counts once.
        match (load.avoid_until.get(), load.probed.replace(false)) {
            (None, _) => load.avoid_for.set(AVOID),
            (Some(_), true) => load.avoid_for.set((load.avoid_for.get() * 2).min(AVOID_MOST)),
            (Some(_), false) => {}
        }
        load.avoid_until.set(Some(load.at.get() + load.avoid_for.get()));
    }

    /// An opaque connection reached it: it is back.
    pub(crate) fn reached(&self) {
        if self.load.avoid_until.take().is_some() {
            self.load.micros.set(0.0);
            self.load.probed.set(false);
        }
    }

    /// It was reached and gave no answer of its own.
    pub(crate) fn lost(&self, after: Duration) {
        let now = Instant::now();
        let load = &self.load;
        let age = now.duration_since(load.at.get()).as_secs_f64();
        let before = load.micros.get() * (-age / DECAY.as_secs_f64()).exp();
        load.micros.set(before.max(after.max(FAILURE).as_secs_f64() * 1e6));
        load.at.set(now);
        load.good.set(0);
    }

    pub(crate) fn began(&self) {
        self.load.in_flight.set(self.load.in_flight.get() + 1);
    }

    pub(crate) fn ended(&self) {
        self.load.in_flight.set(self.load.in_flight.get().saturating_sub(1));
    }

    /// Takes in how long an answer took to begin.
    pub(crate) fn answered(&self, after: Duration, now: Instant) {
        let sample = after.as_secs_f64() * 1e6;
        let load = &self.load;
        let age = now.duration_since(load.at.get()).as_secs_f64();
        let weight = (-age / DECAY.as_secs_f64()).exp();
        let before = load.micros.get();
        let back = load.avoid_until.take().is_some();
        let next = if back || sample > before { sample } else { before * weight + sample * (1.0 - weight) };
        load.micros.set(next);
        load.at.set(now);
        load.good.set((load.good.get() + 1).min(TRUSTED));
        load.probed.set(false);
    }

    /// See [`Pool2::sweep`] and [`Pool1::sweep`].
    pub(crate) fn sweep(&self, now: Instant) {
        self.pools.iter().filter_map(OnceCell::get).for_each(|p| p.sweep(now));
        if let Some(plain) = self.plain.get() {
            plain.sweep(now);
        }
    }

    /// Gives up every connection; what is in flight goes on.
    pub(crate) fn close(&self) {
        self.pools.iter().filter_map(OnceCell::get).for_each(Pool2::close);
        if let Some(plain) = self.plain.get() {
            plain.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> Endpoint {
        Endpoint::new(EndpointKey { address: ([127, 0, 0, 1], 1).into(), identity: None }, 1, 1)
    }

    #[test]
    fn after_a_failure_one_request_tries_and_the_next_waits_longer() {
        let e = endpoint();
        e.failed(Duration::ZERO);
        e.failed(Duration::ZERO);
        let mut wait = AVOID;
        for _ in 0..6 {
            let failed = e.load.at.get();
            assert!(e.is_avoided(failed + wait - FRESH) && !e.is_due(failed + wait - FRESH), "{wait:?}");
            let now = failed + wait;
            assert!(!e.is_avoided(now) && e.is_due(now), "{wait:?}");
            e.probe(now);
            assert!(e.is_avoided(now) && !e.is_due(now), "the others do not try");
            e.failed(Duration::ZERO);
            wait = (wait * 2).min(AVOID_MOST);
        }
        assert_eq!(wait, AVOID_MOST);
        let now = e.load.at.get();
        assert!(e.cost(now) >= 1e6, "a fast failure is no fast answer: {}", e.cost(now));
        e.answered(FRESH, now);
        assert!(!e.is_avoided(now) && !e.is_due(now));
        assert!(e.cost(now) < 2e4, "it starts afresh: {}", e.cost(now));
        e.failed(Duration::from_secs(5));
        e.reached();
        assert!(!e.is_avoided(now) && !e.is_due(now) && e.cost(now) < 2e4);
        e.failed(Duration::from_secs(5));
        assert!(e.cost(e.load.at.get()) >= 5e6 && !e.is_avoided(e.load.at.get() + AVOID));
    }

    #[test]
    fn an_endpoint_is_doubted_until_it_answered_often_and_a_moment_ago() {
        let e = endpoint();
        let now = Instant::now() + FRESH;
        for _ in 0..TRUSTED {
            assert!(e.is_doubtful(now));
            e.answered(FRESH, now);
        }
        assert!(!e.is_doubtful(now + FRESH / 2));
        assert!(e.is_doubtful(now + FRESH * 2));
        e.lost(FRESH);
        assert!(e.is_doubtful(e.load.at.get()));
    }
}
