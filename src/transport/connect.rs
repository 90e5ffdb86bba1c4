//! From a server's address to an open stream: TCP or a proxy, TLS, WebSocket. Never retries.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls;

use crate::transport::dial::{dial, within};
use crate::transport::proxy::{Proxy, ProxyError, ProxyKind, connect_through};
use crate::transport::stream::Stream;
use crate::transport::tls::{TlsClient, TlsError, explain};
use crate::transport::websocket_client::{self, WebSocketError, WebSocketRequest};

const PROXY_WAIT: Duration = Duration::from_secs(20);
const HANDSHAKE_WAIT: Duration = Duration::from_secs(15);
/// For all of it.
const CONNECT_WAIT: Duration = Duration::from_secs(30);

/// How one server is reached.
#[derive(Debug, Clone)]
pub struct Route {
    pub host: Arc<str>,
    pub port: u16,
    pub proxy: Option<Proxy>,
    pub tls: Option<TlsClient>,
    pub websocket: Option<WebSocketRequest>,
}

/// Why there is no stream. Names the peer.
#[derive(Debug)]
pub enum ConnectError {
    /// The name could not be resolved.
    Lookup {
        host: Arc<str>,
        why: io::Error,
    },
    /// The name has no address.
    NoAddress {
        host: Arc<str>,
    },
    /// The last address that was tried.
    Address {
        address: SocketAddr,
        why: io::Error,
    },
    /// The proxy is not there.
    NoProxy {
        name: Box<str>,
        why: Box<ConnectError>,
    },
    /// The proxy is there, and makes no connection to the server.
    Proxy {
        name: Box<str>,
        why: ProxyError,
    },
    Tls(TlsError),
    Handshake {
        host: Arc<str>,
        why: io::Error,
    },
    WebSocket {
        host: Arc<str>,
        why: Box<WebSocketError>,
    },
    TimedOut {
        host: Arc<str>,
    },
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lookup { host, why } => write!(f, "{host}: the name cannot be resolved: {why}"),
            Self::NoAddress { host } => write!(f, "{host}: the name has no address"),
            Self::Address { address, why } => write!(f, "{address}: {why}"),
            Self::NoProxy { name, why } => write!(f, "proxy {name}: {why}"),
            Self::Proxy { name, why } => write!(f, "proxy {name}: {why}"),
            Self::Tls(why) => why.fmt(f),
            Self::Handshake { host, why } => {
                write!(f, "{host}: TLS: ")?;
                let inner = why.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
                match inner {
                    Some(inner) => explain(inner, f),
                    None => why.fmt(f),
                }
            }
            Self::WebSocket { host, why } => write!(f, "{host}: WebSocket: {why}"),
            Self::TimedOut { host } => {
                write!(f, "{host}: no connection within {} s", CONNECT_WAIT.as_secs())
            }
        }
    }
}

impl std::error::Error for ConnectError {}

/// Opens a stream, or ends within a bound.
pub async fn connect(route: &Route) -> Result<Stream, ConnectError> {
    let late = || ConnectError::TimedOut { host: Arc::clone(&route.host) };
    timeout(CONNECT_WAIT, open(route)).await.unwrap_or_else(|_| Err(late()))
}

async fn open(route: &Route) -> Result<Stream, ConnectError> {
    let socket = match &route.proxy {
        None => dial(&route.host, route.port).await?,
        Some(proxy) => through(proxy, route).await?,
    };
    let stream = match &route.tls {
        None => Stream::tcp(socket),
        Some(client) => {
            let name = client.name_for(&route.host).map_err(ConnectError::Tls)?;
            let handshake = TlsConnector::from(Arc::clone(&client.config)).connect(name, socket);
            let fault = |why| ConnectError::Handshake { host: Arc::clone(&route.host), why };
            Stream::tls(within(HANDSHAKE_WAIT, handshake).await.map_err(fault)?)
        }
    };
    let Some(request) = &route.websocket else { return Ok(stream) };
    let fault = |why| ConnectError::WebSocket { host: Arc::clone(&route.host), why: Box::new(why) };
    websocket_client::connect(stream, request).await.map(Stream::websocket).map_err(fault)
}

async fn through(proxy: &Proxy, route: &Route) -> Result<tokio::net::TcpStream, ConnectError> {
    let dialled = dial(&proxy.host, proxy.port).await;
    let mut socket =
        dialled.map_err(|why| ConnectError::NoProxy { name: name_of(proxy), why: Box::new(why) })?;
    let asked = timeout(PROXY_WAIT, connect_through(&mut socket, proxy, &route.host, route.port)).await;
    let ended = asked.unwrap_or_else(|_| Err(ProxyError::Io(io::ErrorKind::TimedOut.into())));
    ended.map_err(|why| ConnectError::Proxy { name: name_of(proxy), why })?;
    Ok(socket)
}

/// Without its login.
fn name_of(proxy: &Proxy) -> Box<str> {
    let scheme = match proxy.kind {
        ProxyKind::Http => "http",
        ProxyKind::Socks5 => "socks5",
    };
    let (open, close) = if proxy.host.contains(':') { ("[", "]") } else { ("", "") };
    format!("{scheme}://{open}{}{close}:{}", proxy.host, proxy.port).into()
}
