//! Where a client connects to, and how.

use anyhow::{Context as _, Result, bail};
use http::Uri;
use tokio::net::TcpStream;

/// Where a URL points.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// `HOST[:PORT]`, for the Host header.
    pub(crate) authority: String,
    /// Host without brackets.
    pub(crate) host: String,
    /// Port; by default the scheme's.
    pub(crate) port: u16,
    /// Whether TLS is spoken.
    pub(crate) tls: bool,
    /// Path and query.
    pub(crate) path: String,
}

impl Target {
    /// Reads `http://HOST[:PORT]/PATH`; the scheme may be missing.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let uri: Uri = full.parse().with_context(|| format!("URL {url:?}"))?;
        let authority = uri.authority().with_context(|| format!("URL {url:?} has no host"))?;
        let (tls, port) = match uri.scheme_str() {
            Some("http") => (false, 80),
            Some("https") => (true, 443),
            _ => bail!("URL {url:?}: only http and https are spoken here"),
        };
        Ok(Self {
            authority: authority.to_string(),
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(port),
            tls,
            path: uri.path_and_query().map_or("/", |p| p.as_str()).to_owned(),
        })
    }
}

/// Resolves and connects, trying every address.
pub(crate) async fn connect(target: &Target) -> Result<TcpStream> {
    let addresses = tokio::net::lookup_host((target.host.as_str(), target.port)).await.context("resolve")?;
    let mut last = None;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(e) => last = Some(e),
        }
    }
    Err(last.map_or_else(|| anyhow::anyhow!("no address"), Into::into)).context("connect")
}
