//! A proxy's mesh port without the proxy: proves whatever identity it is given and answers every request. Who calls it must look at the
//! identity, or is deceived.

use std::{convert::Infallible, path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result};
use http::StatusCode;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio_rustls::TlsAcceptor;

use crate::{listener::listen, response::text};

/// Where it listens and what it proves.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The mesh port.
    #[arg(long, default_value_t = 15_008)]
    port: u16,
    /// The chain, PEM, leaf first.
    #[arg(long)]
    chain: PathBuf,
    /// The leaf's key, PEM.
    #[arg(long)]
    key: PathBuf,
    /// ALPN protocol.
    #[arg(long, default_value = "bowline/1")]
    alpn: String,
}

/// Serves until it is killed; says on standard output who got how far.
pub(crate) async fn run(args: Args) -> Result<()> {
    let acceptor = TlsAcceptor::from(Arc::new(config(&args)?));
    let listener = listen(args.port).await?;
    println!("posing on port {}", args.port);
    loop {
        // Only a lack of descriptors fails here: the next connection may find one.
        let Ok((stream, _)) = listener.accept().await else { continue };
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            println!("shook hands");
            let service = hyper::service::service_fn(|_| async {
                println!("was sent a request");
                Ok::<_, Infallible>(text(StatusCode::OK, "impostor\n".into()))
            });
            let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn config(args: &Args) -> Result<ServerConfig> {
    let chain = CertificateDer::pem_file_iter(&args.chain).with_context(|| format!("{}", args.chain.display()))?;
    let key = PrivateKeyDer::from_pem_file(&args.key).with_context(|| format!("{}", args.key.display()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain.collect::<Result<_, _>>()?, key)?;
    config.alpn_protocols = vec![args.alpn.clone().into_bytes()];
    Ok(config)
}
