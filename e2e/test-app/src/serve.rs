//! The server: opens every port, serves until SIGTERM, then lingers as long as it was told, and says farewell to whom it was told.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

use crate::{
    control, fetch, grpc,
    health::Health,
    http1::{self, Site},
    listener::{accept, listen},
    page::Page,
    pod::pod,
    tcp,
};

/// Ports of every protocol; each flag may be given several times.
#[derive(clap::Args, Clone)]
pub(crate) struct Args {
    /// HTTP/1.1 and HTTP/2 with prior knowledge.
    #[arg(long, default_values_t = [8080u16, 8081])]
    http: Vec<u16>,
    /// gRPC.
    #[arg(long, default_values_t = [9090u16])]
    grpc: Vec<u16>,
    /// TCP echo: the client speaks first.
    #[arg(long, default_values_t = [9000u16])]
    echo: Vec<u16>,
    /// TCP with a banner: the server speaks first.
    #[arg(long, default_values_t = [3306u16, 5555])]
    banner: Vec<u16>,
    /// A TCP port that is closed while `tcp` health is off.
    #[arg(long, default_value_t = 9001)]
    tcp_health: u16,
    /// Control port, loopback only.
    #[arg(long, default_value_t = control::PORT)]
    control: u16,
    /// Serve only HTTP, on this port (a second container of a pod).
    #[arg(long)]
    only_http: Option<u16>,
    /// What `/page` is made of: `http://HOST[:PORT]/PATH`; may be given several times.
    #[arg(long)]
    backend: Vec<http::Uri>,
    /// Seconds to go on serving after SIGTERM.
    #[arg(long, default_value_t = 0.0)]
    linger: f64,
    /// What to GET after that, on connections of their own and one after the other, each when the one before was answered with 200.
    #[arg(long)]
    farewell: Vec<String>,
    /// Seconds before anything is served (a slow start).
    #[arg(long, default_value_t = 0.0)]
    start_after: f64,
}

/// Serves until SIGTERM.
pub(crate) async fn run(args: Args) -> Result<()> {
    let mut term = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let starting = tokio::time::sleep(Duration::from_secs_f64(args.start_after));
    tokio::select! {
        () = starting => {}
        _ = term.recv() => return Ok(()),
    }
    let health = Arc::new(Health::default());
    let site = Arc::new(Site { health: Arc::clone(&health), page: Page::new(args.backend.clone()) });
    if let Some(port) = args.only_http {
        http(port, &site).await?;
    } else {
        for port in &args.http {
            http(*port, &site).await?;
        }
        for port in &args.grpc {
            grpc::serve(listen(*port).await?, Arc::clone(&health));
        }
        for port in &args.echo {
            accept(listen(*port).await?, |stream, _| tcp::echo(stream));
        }
        for port in &args.banner {
            accept(listen(*port).await?, |stream, _| tcp::banner(stream));
        }
        tokio::spawn(tcp::health_port(args.tcp_health, Arc::clone(&health)));
    }
    let local = TcpListener::bind(("127.0.0.1", args.control)).await.context("bind the control port")?;
    let state = Arc::new(control::State::new(Arc::clone(&health)));
    accept(local, move |stream, _| control::serve(stream, Arc::clone(&state)));
    println!("serving as {}", pod());
    term.recv().await;
    println!("SIGTERM, lingering {} s", args.linger);
    tokio::time::sleep(Duration::from_secs_f64(args.linger)).await;
    for url in &args.farewell {
        let said = fetch::get(url).await?;
        println!("farewell {url}: {said}");
        if said["status"] != 200 {
            break;
        }
    }
    println!("done");
    Ok(())
}

async fn http(port: u16, site: &Arc<Site>) -> Result<()> {
    let site = Arc::clone(site);
    accept(listen(port).await?, move |stream, peer| http1::serve(stream, peer, Arc::clone(&site)));
    Ok(())
}
