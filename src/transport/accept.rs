//! From an accepted socket to an open stream: TLS, WebSocket, both or none. Ends within a bound; never retries.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::tungstenite;

use crate::transport::identity::{NameFrom, name_of};
use crate::transport::server::TlsServer;
use crate::transport::stream::Stream;
use crate::transport::websocket::{self, WebSocketSettings};

/// For all handshakes of a connection together.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);

/// How the streams of one listener begin.
#[derive(Debug, Default)]
pub struct Acceptor {
    pub tls: Option<Arc<TlsServer>>,
    pub websocket: Option<WebSocketSettings>,
}

#[derive(Debug)]
pub struct Accepted {
    pub stream: Stream,
    /// Whom the client's verified certificate names. None: it showed none, or names are not asked for.
    pub certificate_name: Option<Arc<str>>,
    /// A browser opened it for a page of another machine's server.
    pub foreign_page: bool,
}

/// Why there is no stream.
#[derive(Debug)]
pub enum AcceptError {
    TimedOut,
    Tls(io::Error),
    /// The certificate is good, but holds no name of the kind that is asked for.
    Nameless(NameFrom),
    WebSocket(Box<tungstenite::Error>),
}

impl fmt::Display for AcceptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut => f.write_str("the handshake took too long"),
            Self::Tls(why) => write!(f, "TLS: {why}"),
            Self::Nameless(from) => write!(f, "the client's certificate has no name ({from:?})"),
            Self::WebSocket(why) => write!(f, "WebSocket: {why}"),
        }
    }
}

impl std::error::Error for AcceptError {}

impl From<TcpStream> for Accepted {
    fn from(socket: TcpStream) -> Self {
        Self { stream: Stream::tcp(socket), certificate_name: None, foreign_page: false }
    }
}

impl Acceptor {
    /// A socket is a stream as it is.
    pub fn is_plain(&self) -> bool {
        self.tls.is_none() && self.websocket.is_none()
    }

    /// Waits for the other end, but not for ever.
    pub async fn accept(&self, socket: TcpStream) -> Result<Accepted, AcceptError> {
        timeout(HANDSHAKE_WAIT, self.shake_hands(socket)).await.unwrap_or(Err(AcceptError::TimedOut))
    }

    async fn shake_hands(&self, socket: TcpStream) -> Result<Accepted, AcceptError> {
        let mut accepted = match &self.tls {
            Some(server) => accept_tls(server, socket).await?,
            None => Accepted::from(socket),
        };
        if let Some(settings) = &self.websocket {
            let (stream, foreign_page) = websocket::accept(accepted.stream, settings)
                .await
                .map_err(|why| AcceptError::WebSocket(Box::new(why)))?;
            accepted.stream = Stream::websocket(stream);
            accepted.foreign_page = foreign_page;
        }
        Ok(accepted)
    }
}

async fn accept_tls(server: &TlsServer, socket: TcpStream) -> Result<Accepted, AcceptError> {
    let acceptor = TlsAcceptor::from(server.config());
    let stream = acceptor.accept(socket).await.map_err(AcceptError::Tls)?;
    let certificate_name = match server.name_from() {
        Some(from) => certificate_name(&stream, from)?,
        None => None,
    };
    Ok(Accepted { stream: Stream::tls(stream), certificate_name, foreign_page: false })
}

fn certificate_name(stream: &TlsStream<TcpStream>, from: NameFrom) -> Result<Option<Arc<str>>, AcceptError> {
    let (_, connection): (_, &rustls::ServerConnection) = stream.get_ref();
    let Some(own) = connection.peer_certificates().and_then(<[_]>::first) else { return Ok(None) };
    name_of(own, from).map(Some).ok_or(AcceptError::Nameless(from))
}
