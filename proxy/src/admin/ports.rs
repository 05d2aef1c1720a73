//! The ports on which the proxy answers for itself: admin on loopback, metrics and probes on the pod's addresses.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use tokio::net::TcpListener;

use super::{
    endpoints::Admin,
    probes::Probes,
    server::{HttpResponse, KeepAlive, serve, text},
};
use crate::contract::bootstrap::ports;

/// A port is taken.
#[derive(Debug, thiserror::Error)]
#[error("port {port} on {address} cannot be opened: {source}; no other process of the pod may listen there")]
pub struct PortError {
    /// Which.
    pub port: u16,
    /// Where.
    pub address: IpAddr,
    /// Why.
    pub source: io::Error,
}

/// Opens the ports for admin, metrics and probes, on loopback and all addresses of the pod, or on `bind` alone.
///
/// # Errors
/// When a port is taken.
pub async fn open(bind: Option<IpAddr>, admin: Admin, probes: Probes) -> Result<(), PortError> {
    let public = admin.clone();
    let local = bind.unwrap_or(Ipv4Addr::LOCALHOST.into());
    let everywhere = bind.unwrap_or(Ipv6Addr::UNSPECIFIED.into());
    let listener = bind_port(local, ports::ADMIN).await?;
    tokio::spawn(serve(listener, KeepAlive::Enabled, move |r: Request<Incoming>| {
        let answer = only_get(&r).unwrap_or_else(|| admin.admin(r.uri().path()));
        std::future::ready(answer)
    }));
    let listener = bind_port(everywhere, ports::METRICS).await?;
    tokio::spawn(serve(listener, KeepAlive::Enabled, move |r: Request<Incoming>| {
        let answer = only_get(&r).unwrap_or_else(|| public.public(r.uri().path()));
        std::future::ready(answer)
    }));
    let probes = Arc::new(probes);
    let listener = bind_port(everywhere, ports::PROBES).await?;
    tokio::spawn(serve(listener, KeepAlive::Disabled, move |r: Request<Incoming>| probe(Arc::clone(&probes), r)));
    Ok(())
}

async fn probe(probes: Arc<Probes>, request: Request<Incoming>) -> HttpResponse {
    if let Some(refusal) = only_get(&request) {
        return refusal;
    }
    probes.answer(request.uri().path()).await
}

fn only_get(request: &Request<Incoming>) -> Option<HttpResponse> {
    let fine = matches!(*request.method(), Method::GET | Method::HEAD);
    (!fine).then(|| text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered"))
}

/// Opens a port; where the kernel has no IPv6, `::` means every IPv4 address.
async fn bind_port(address: IpAddr, port: u16) -> Result<TcpListener, PortError> {
    let opened = TcpListener::bind(SocketAddr::new(address, port)).await;
    let opened = match opened {
        Err(e) if address == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && e.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await
        }
        opened => opened,
    };
    opened.map_err(|source| PortError { port, address, source })
}
