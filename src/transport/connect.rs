//! From a host and a port to an open stream: names, addresses in turn, socket options, TLS. Never retries.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls;

use crate::transport::stream::Stream;
use crate::transport::tls::{TlsClient, TlsError, explain};

const LOOKUP_WAIT: Duration = Duration::from_secs(10);
/// For one address, so that a dead one does not keep the others waiting.
const ADDRESS_WAIT: Duration = Duration::from_secs(10);
const ADDRESSES_MAX: usize = 8;
const HANDSHAKE_WAIT: Duration = Duration::from_secs(15);
/// How long what was written may stay without the peer's TCP acknowledgement.
const USER_TIMEOUT: Duration = Duration::from_secs(30);
const PROBE_AFTER: Duration = Duration::from_secs(30);
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

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
    Tls(TlsError),
    Handshake {
        host: Arc<str>,
        why: io::Error,
    },
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lookup { host, why } => write!(f, "{host}: the name cannot be resolved: {why}"),
            Self::NoAddress { host } => write!(f, "{host}: the name has no address"),
            Self::Address { address, why } => write!(f, "{address}: {why}"),
            Self::Tls(why) => why.fmt(f),
            Self::Handshake { host, why } => {
                write!(f, "{host}: TLS: ")?;
                let inner = why.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
                match inner {
                    Some(inner) => explain(inner, f),
                    None => why.fmt(f),
                }
            }
        }
    }
}

impl std::error::Error for ConnectError {}

/// Opens a stream. Ends within the waits above for at most eight addresses.
pub async fn connect(host: &Arc<str>, port: u16, tls: Option<&TlsClient>) -> Result<Stream, ConnectError> {
    let socket = connect_tcp(host, port).await?;
    let Some(client) = tls else { return Ok(Stream::tcp(socket)) };
    let connector = TlsConnector::from(Arc::clone(&client.config));
    let handshake = connector.connect(client.server_name.clone(), socket);
    let fault = |why| ConnectError::Handshake { host: Arc::clone(host), why };
    let socket = within(HANDSHAKE_WAIT, handshake).await.map_err(fault)?;
    Ok(Stream::tls(socket))
}

async fn connect_tcp(host: &Arc<str>, port: u16) -> Result<TcpStream, ConnectError> {
    let addresses = within(LOOKUP_WAIT, lookup_host((&**host, port)))
        .await
        .map_err(|why| ConnectError::Lookup { host: Arc::clone(host), why })?;
    let mut fault = ConnectError::NoAddress { host: Arc::clone(host) };
    for address in addresses.take(ADDRESSES_MAX) {
        match within(ADDRESS_WAIT, open(address)).await {
            Ok(socket) => return Ok(socket),
            Err(why) => fault = ConnectError::Address { address, why },
        }
    }
    Err(fault)
}

async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let options = SockRef::from(&socket);
    let keep_alive = TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_INTERVAL);
    options.set_tcp_keepalive(&keep_alive)?;
    // A kernel without it still has our own pings.
    let _unsupported = options.set_tcp_user_timeout(Some(USER_TIMEOUT));
    Ok(socket)
}

async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
