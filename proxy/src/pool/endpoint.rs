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

use super::{Pool1, Pool2, Secure};
use crate::{
    bootstrap::tunnel::{self, App},
    identity::spiffe::SpiffeId,
    metrics::HttpSeries,
};

/// Time in which a latency that was measured once loses most of its weight.
const DECAY: Duration = Duration::from_secs(10);
/// How long an endpoint is avoided after a connection to it failed, unless there is no other.
const AVOID: Duration = Duration::from_secs(5);

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
    avoid_until: Cell<Option<Instant>>,
}

impl Endpoint {
    pub(crate) fn new(key: EndpointKey, mesh_port: u16) -> Self {
        let load = Load {
            micros: Cell::new(0.0),
            at: Cell::new(Instant::now()),
            in_flight: Cell::new(0),
            avoid_until: Cell::new(None),
        };
        Self { key, mesh_port, pools: Default::default(), plain: OnceCell::new(), load }
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
        self.plain.get_or_init(|| Pool1::new(self.key.address))
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

    /// Whether a connection to it failed a moment ago.
    pub(crate) fn is_avoided(&self, now: Instant) -> bool {
        self.load.avoid_until.get().is_some_and(|until| now < until)
    }

    pub(crate) fn failed(&self) {
        self.load.avoid_until.set(Some(Instant::now() + AVOID));
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
        let age = now.duration_since(self.load.at.get()).as_secs_f64();
        let weight = (-age / DECAY.as_secs_f64()).exp();
        let before = self.load.micros.get();
        let next = if sample > before { sample } else { before * weight + sample * (1.0 - weight) };
        self.load.micros.set(next);
        self.load.at.set(now);
        self.load.avoid_until.set(None);
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
