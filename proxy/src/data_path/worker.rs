//! One worker thread: builds its parts, each with what it uses, accepts at its listeners, and tidies up. Nothing of it is shared with other
//! workers or locked. Sockets come in; connections are served until the proxy drains.

use std::{
    net::TcpListener as StdListener,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpListener, TcpStream},
    task::spawn_local,
};

use crate::{
    control::state::State,
    data_path::{
        balance::{balancer::Parts, registry::Balancers},
        buffer::{trim::Trimming, windows},
        config::{Config, Destination},
        connect::{dial::Dialer, registry::Endpoints},
        drain::{Drain, Phase},
        forward::Forwarder,
        limits::{
            connections::{ConnectionLimit, ConnectionPermit, ListenerKind},
            handshakes::HandshakeLimit,
        },
        listener::{
            accept::Acceptor, destination::destination, mesh::MeshListener, outbound::OutboundListener,
            plaintext::PlaintextListener,
        },
        observe::reporter::Reporter,
        route::{inbound::InboundRoutes, outbound::OutboundRoutes},
    },
    identity::store::Store,
    telemetry::metrics::Metrics,
};

/// How often idle connections are looked for.
const SWEEP: Duration = Duration::from_secs(1);
/// How often they are while the proxy drains.
const DRAINING_SWEEP: Duration = Duration::from_millis(100);

/// Listening sockets of one worker.
pub(crate) struct Sockets {
    pub(crate) outbound: StdListener,
    pub(crate) plain: StdListener,
    pub(crate) mesh: StdListener,
}

/// The parts of one worker.
pub(crate) struct Worker {
    outbound: Rc<OutboundListener>,
    outbound_to: Destination,
    plain: Rc<PlaintextListener>,
    plain_to: Destination,
    mesh: Rc<MeshListener>,
    endpoints: Rc<Endpoints>,
    trimming: Rc<Trimming>,
    reporter: Rc<Reporter>,
    drain: Arc<Drain>,
    limit: &'static ConnectionLimit,
}

impl Worker {
    pub(crate) fn new(
        config: &Config,
        store: &Arc<Store>,
        state: &Arc<State>,
        metrics: &Arc<Metrics>,
        drain: &Arc<Drain>,
        limit: &'static ConnectionLimit,
    ) -> Self {
        let dialer = Dialer::new(Arc::clone(store), Arc::clone(drain));
        let endpoints = Rc::new(Endpoints::new(dialer, config.mesh_port, config.max_connections));
        let balancers = Balancers::new(Parts {
            endpoints: Rc::clone(&endpoints),
            metrics: Arc::clone(metrics),
            locality: Rc::new(config.locality.clone()),
        });
        let reporter = Rc::new(Reporter::new(Arc::clone(metrics)));
        let trimming = Rc::<Trimming>::default();
        let forwarder = Rc::new(Forwarder {
            reporter: Rc::clone(&reporter),
            drain: Arc::clone(drain),
            trimming: Rc::clone(&trimming),
        });
        let inbound = Rc::new(InboundRoutes {
            state: Arc::clone(state),
            endpoints: Rc::clone(&endpoints),
            metrics: Arc::clone(metrics),
            workload: config.workload.as_str().into(),
            application: config.application,
        });
        let outbound = OutboundRoutes {
            state: Arc::clone(state),
            endpoints: Rc::clone(&endpoints),
            balancers,
            metrics: Arc::clone(metrics),
        };
        let mesh = MeshListener {
            store: Arc::clone(store),
            handshakes: HandshakeLimit::default(),
            routes: Rc::clone(&inbound),
            reporter: Rc::clone(&reporter),
            drain: Arc::clone(drain),
        };
        Self {
            outbound: Rc::new(OutboundListener { routes: outbound, forwarder: Rc::clone(&forwarder) }),
            outbound_to: config.outbound_to,
            plain: Rc::new(PlaintextListener { routes: inbound, forwarder }),
            plain_to: config.plain_to,
            mesh: Rc::new(mesh),
            endpoints,
            trimming,
            reporter,
            drain: Arc::clone(drain),
            limit,
        }
    }

    /// Accepts until the proxy drains; ends when it is to be cut off.
    pub(crate) async fn run(self, sockets: Sockets) {
        self.listen(sockets);
        spawn_local(tidy_up(Rc::clone(&self.endpoints), self.trimming));
        let mut drain = self.drain.watch();
        drain.reached(Phase::Draining).await;
        tokio::select! {
            () = close_when_idle(&self.endpoints) => {}
            () = drain.reached(Phase::Forced) => {}
        }
    }

    fn listen(&self, sockets: Sockets) {
        let (outbound, to) = (Rc::clone(&self.outbound), self.outbound_to);
        self.accept(ListenerKind::Outbound, sockets.outbound, move |stream, permit| {
            let outbound = Rc::clone(&outbound);
            spawn_local(async move {
                if let Some(to) = destination(to, &stream) {
                    outbound.serve(stream, to, permit).await;
                }
            });
        });
        let (plain, to) = (Rc::clone(&self.plain), self.plain_to);
        self.accept(ListenerKind::Plain, sockets.plain, move |stream, permit| {
            let plain = Rc::clone(&plain);
            spawn_local(async move {
                if let Some(to) = destination(to, &stream) {
                    plain.serve(stream, to, permit).await;
                }
            });
        });
        let mesh = Rc::clone(&self.mesh);
        self.accept(ListenerKind::Mesh, sockets.mesh, move |stream, permit| {
            spawn_local(Rc::clone(&mesh).serve(stream, permit));
        });
    }

    fn accept(&self, kind: ListenerKind, socket: StdListener, serve: impl Fn(TcpStream, ConnectionPermit) + 'static) {
        let acceptor =
            Acceptor { kind, limit: self.limit, drain: Arc::clone(&self.drain), reporter: Rc::clone(&self.reporter) };
        match TcpListener::from_std(socket) {
            Ok(listener) => {
                spawn_local(acceptor.run(listener, serve));
            }
            Err(e) => tracing::error!(error = %e, "a listener cannot be used"),
        }
    }
}

/// Closes what has been idle for long, again and again.
async fn tidy_up(endpoints: Rc<Endpoints>, trimming: Rc<Trimming>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let now = Instant::now();
        endpoints.sweep(now);
        trimming.trim(now);
        windows::relax();
    }
}

/// While draining, connections to endpoints close as soon as nothing uses them.
async fn close_when_idle(endpoints: &Endpoints) {
    loop {
        endpoints.close_idle();
        tokio::time::sleep(DRAINING_SWEEP).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data_path::limits::connections::ConnectionPermit;

    #[tokio::test]
    async fn what_is_kept_for_each_connection_is_small() {
        let config = Config::for_pod("a/b".into(), 1);
        let limit: &'static ConnectionLimit = Box::leak(Box::new(ConnectionLimit::new(16)));
        let (store, state, metrics, drain) = (Store::new(), State::fixed(), Metrics::new(), Drain::new());
        let worker = Worker::new(&config, &store, &state, &metrics, &drain, limit);
        let (outbound, plain, mesh) = (worker.outbound, worker.plain, worker.mesh);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let stream = || TcpStream::connect(to);
        for (what, size, most) in [
            ("outbound", size_of_val(&outbound.serve(stream().await.unwrap(), to, ConnectionPermit::none())), 2560),
            ("plain inbound", size_of_val(&plain.serve(stream().await.unwrap(), to, ConnectionPermit::none())), 2560),
            ("mesh inbound", size_of_val(&mesh.serve(stream().await.unwrap(), ConnectionPermit::none())), 10_240),
        ] {
            assert!(size <= most, "{what}: {size} bytes, at most {most} are meant");
        }
    }
}
