//! Reaches into a node's network from outside: a thread inside its namespace opens connections and hands them out.
//!
//! A connection belongs to the namespace in which it was opened, whoever uses it afterwards; so nothing needs an uplink.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

/// Opening a connection takes no longer than this, on a machine that stands still meanwhile.
const CONNECT: Duration = Duration::from_secs(30);

type Opened = io::Result<std::net::TcpStream>;
type Request = (SocketAddr, oneshot::Sender<Opened>);

/// A way into one network namespace.
#[derive(Debug)]
pub struct Reach {
    requests: mpsc::UnboundedSender<Request>,
}

impl Reach {
    /// Starts the thread inside the namespace at `path`.
    ///
    /// # Errors
    /// When the namespace does not exist or may not be entered.
    pub fn open(path: &Path) -> Result<Arc<Self>> {
        let namespace = File::open(path).with_context(|| format!("no network namespace {}", path.display()))?;
        let (requests, inbox) = mpsc::unbounded_channel();
        let (entered, result) = std::sync::mpsc::sync_channel(1);
        std::thread::Builder::new().name("in-cluster".into()).spawn(move || {
            let runtime = move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(io::Error::from)
                .and_then(|()| tokio::runtime::Builder::new_current_thread().enable_all().build());
            match runtime {
                Ok(runtime) => {
                    let _ = entered.send(Ok(()));
                    runtime.block_on(serve(inbox));
                }
                Err(e) => drop(entered.send(Err(e))),
            }
        })?;
        result.recv()?.with_context(|| format!("cannot enter the network namespace {}", path.display()))?;
        Ok(Arc::new(Self { requests }))
    }

    /// Opens a connection from inside.
    ///
    /// # Errors
    /// As connecting does: refused, timed out and so on.
    pub async fn dial(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let gone = || io::Error::other("the thread inside the cluster is gone");
        let (reply, opened) = oneshot::channel();
        self.requests.send((to, reply)).map_err(|_| gone())?;
        TcpStream::from_std(opened.await.map_err(|_| gone())??)
    }

    /// Listens on a free port of 127.0.0.1 outside and passes each connection on to `to` inside, as long as the process lives.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn forward(self: &Arc<Self>, to: SocketAddr) -> Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let this = Arc::clone(self);
        tokio::spawn(async move {
            while let Ok((mut outer, _)) = listener.accept().await {
                let this = Arc::clone(&this);
                tokio::spawn(async move {
                    // When either side is lost the other is closed, and its user sees that.
                    if let Ok(mut inner) = this.dial(to).await {
                        let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
                    }
                });
            }
        });
        Ok(address)
    }
}

async fn serve(mut inbox: mpsc::UnboundedReceiver<Request>) {
    while let Some((to, reply)) = inbox.recv().await {
        tokio::spawn(async move { reply.send(connect(to).await) });
    }
}

async fn connect(to: SocketAddr) -> Opened {
    let stream = tokio::time::timeout(CONNECT, TcpStream::connect(to)).await;
    let stream = stream.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer from {to}")))??;
    stream.set_nodelay(true)?;
    stream.into_std()
}
