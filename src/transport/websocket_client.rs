//! The client's side of a WebSocket's opening: the request, and what a refusal means. Bytes are `websocket`'s.

use std::fmt;
use std::sync::Arc;

use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::client::{Request, generate_key};
use tokio_tungstenite::tungstenite::http::{self, StatusCode, header};

use crate::transport::stream::Stream;
use crate::transport::websocket::{MQTT, WebSocket, config_for};

/// Where a WebSocket is, and how large its messages get.
#[derive(Debug, Clone)]
pub struct WebSocketRequest {
    /// `host:port` for the server, which the connection may reach another way.
    pub authority: Arc<str>,
    /// With the query, beginning with `/`.
    pub path: Arc<str>,
    /// The largest packet.
    pub packet_bytes_max: usize,
}

/// Why there is no WebSocket. Never shows the query, which may hold a token.
#[derive(Debug)]
pub enum WebSocketError {
    BadRequest(http::Error),
    /// Another answer than 101.
    Refused(StatusCode),
    Failed(Error),
}

impl fmt::Display for WebSocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadRequest(why) => write!(f, "the request cannot be made: {why}"),
            Self::Refused(status) => {
                write!(f, "the server answered {status}")?;
                f.write_str(match *status {
                    StatusCode::NOT_FOUND => " (another path in the url?)",
                    StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                        " (is the query of the url still valid?)"
                    }
                    _ => "",
                })
            }
            Self::Failed(Error::Protocol(ProtocolError::SecWebSocketSubProtocolError(why))) => {
                write!(f, "no MQTT behind it: {why}")
            }
            Self::Failed(Error::Io(why)) => why.fmt(f),
            Self::Failed(why) => why.fmt(f),
        }
    }
}

/// The library bounds the answer to 64 KiB and 124 headers, and refuses what does not speak MQTT [MQTT-6.0.0-3].
pub(super) async fn connect(stream: Stream, request: &WebSocketRequest) -> Result<WebSocket, WebSocketError> {
    let upgrade = Request::get(format!("ws://{}{}", request.authority, request.path))
        .header(header::HOST, &*request.authority)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, generate_key())
        .header(header::SEC_WEBSOCKET_PROTOCOL, MQTT)
        .body(())
        .map_err(WebSocketError::BadRequest)?;
    let config = config_for(request.packet_bytes_max);
    match client_async_with_config(upgrade, stream, Some(config)).await {
        Ok((inner, _)) => Ok(WebSocket::new(inner)),
        Err(Error::Http(response)) => Err(WebSocketError::Refused(response.status())),
        Err(why) => Err(WebSocketError::Failed(why)),
    }
}
