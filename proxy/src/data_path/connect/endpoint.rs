//! An endpoint as one worker sees it: its address and identity, the connections to it, and its load.

use std::{cell::OnceCell, net::SocketAddr, rc::Rc, sync::Arc, time::Instant};

use http::Uri;
use rustls_pki_types::ServerName;

use crate::{
    contract::{
        spiffe::SpiffeId,
        tunnel::{self, App},
    },
    data_path::{
        connect::{
            dial::Dialer,
            http1::Pool1,
            http2::{Pool2, Secure, Stream2},
            load::Load,
        },
        failure::Failure,
    },
    telemetry::metrics::HttpSeries,
};

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
    dialer: Rc<Dialer>,
    mesh_port: u16,
    /// HTTP/1 connections to it at most.
    max_connections: usize,
    http2: [OnceCell<Pool2>; 3],
    http1: OnceCell<Rc<Pool1>>,
    pub(crate) load: Load,
}

/// An endpoint on behalf of a service, with the series that its requests are counted in.
pub(crate) struct Candidate {
    pub(crate) endpoint: Rc<Endpoint>,
    pub(crate) series: Arc<HttpSeries>,
}

impl Endpoint {
    pub(crate) fn new(key: EndpointKey, dialer: Rc<Dialer>, mesh_port: u16, max_connections: usize) -> Self {
        let (http2, http1) = (Default::default(), OnceCell::new());
        Self { key, dialer, mesh_port, max_connections, http2, http1, load: Load::new() }
    }

    /// A stream of an HTTP/2 connection that carries `app`: to its proxy if it has an identity, else straight to the application.
    pub(crate) fn stream(&self, app: App) -> impl Future<Output = Result<Stream2, Failure>> {
        self.http2(app).stream(&self.dialer)
    }

    fn http2(&self, app: App) -> &Pool2 {
        self.http2[app as usize].get_or_init(|| {
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
    pub(crate) fn http1(&self) -> &Rc<Pool1> {
        self.http1.get_or_init(|| Pool1::new(self.key.address, self.max_connections))
    }

    /// Target of a CONNECT that leads here.
    pub(crate) fn authority(&self) -> Option<Uri> {
        Uri::builder().authority(self.key.address.to_string()).build().ok()
    }

    /// See [`Pool2::sweep`] and [`Pool1::sweep`].
    pub(crate) fn sweep(&self, now: Instant) {
        self.http2.iter().filter_map(OnceCell::get).for_each(|p| p.sweep(now));
        if let Some(pool) = self.http1.get() {
            pool.sweep(now);
        }
    }

    /// Gives up every connection; what is in flight goes on.
    pub(crate) fn close(&self) {
        self.http2.iter().filter_map(OnceCell::get).for_each(Pool2::close);
        if let Some(pool) = self.http1.get() {
            pool.close();
        }
    }
}
