//! MQTT over WebSocket as a byte stream: binary messages in, binary messages out. Owns the handshake and its
//! answers; never knows where a packet begins.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::{Sink, Stream as _};
use tokio::io::ReadBuf;
use tokio_tungstenite::tungstenite::error::CapacityError;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};

use crate::transport::stream::Stream;

/// One of our messages; a larger packet is split over several [MQTT-6.0.0-2] [MQTT-6.0.0-2 of 3.1.1].
const SENT_MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// What the other end may join to one message beyond the largest packet.
const JOINED_BYTES_MAX: usize = 256 * 1024;
/// Held by every connection, idle ones too.
const READ_BUFFER_BYTES: usize = 4 * 1024;
/// Messages of ours and answers to pings that the socket has not taken: a message is taken only after the one before
/// it has left.
const WRITE_BUFFER_BYTES_MAX: usize = 4 * SENT_MESSAGE_BYTES_MAX;
/// The names of MQTT as a subprotocol, the standard's first; the other is what clients of 3.1 offer.
const SUBPROTOCOLS: [&str; 2] = [MQTT, "mqttv3.1"];
pub(super) const MQTT: &str = "mqtt";

/// Where a listener's streams begin, and how large its messages get.
#[derive(Debug, Clone)]
pub struct WebSocketSettings {
    /// Without a query, beginning with `/`.
    pub path: Arc<str>,
    /// The largest packet.
    pub packet_bytes_max: usize,
}

#[derive(Debug)]
pub(super) struct WebSocket {
    inner: WebSocketStream<Stream>,
    /// What of the last message nobody has read yet.
    rest: Bytes,
    said_close: bool,
}

/// The stream, and whether a web page of another machine's server has opened it. The library bounds the request to
/// 64 KiB and 124 headers.
pub(super) async fn accept(stream: Stream, settings: &WebSocketSettings) -> Result<(WebSocket, bool), Error> {
    let mut foreign_page = false;
    // The size of the refusal is the library's choice.
    #[allow(clippy::result_large_err)]
    let judge = |request: &Request, response: Response| {
        foreign_page = is_foreign(request.headers());
        judge(request, response, &settings.path)
    };
    let inner =
        accept_hdr_async_with_config(stream, judge, Some(config_for(settings.packet_bytes_max))).await?;
    Ok((WebSocket::new(inner), foreign_page))
}

pub(super) fn config_for(packet_bytes_max: usize) -> WebSocketConfig {
    let message_bytes_max = packet_bytes_max.saturating_add(JOINED_BYTES_MAX);
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
        .max_message_size(Some(message_bytes_max))
        .max_frame_size(Some(message_bytes_max))
}

#[allow(clippy::result_large_err)] // as the library wants it
fn judge(request: &Request, mut response: Response, path: &str) -> Result<Response, ErrorResponse> {
    if request.uri().path() != path {
        return Err(refusal(StatusCode::NOT_FOUND, "no MQTT here\n"));
    }
    let Some(protocol) = subprotocol(request.headers()) else {
        return Err(refusal(StatusCode::BAD_REQUEST, "offer the subprotocol mqtt\n"));
    };
    // [MQTT-6.0.0-4] [MQTT-6.0.0-4 of 3.1.1]
    response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    Ok(response)
}

fn refusal(status: StatusCode, words: &str) -> ErrorResponse {
    let mut response = ErrorResponse::new(Some(words.to_owned()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(words.len()));
    response
}

/// The first of ours that the client offers.
fn subprotocol(headers: &HeaderMap) -> Option<&'static str> {
    let offers = || {
        let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
        values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',').map(str::trim))
    };
    SUBPROTOCOLS.into_iter().find(|known| offers().any(|offer| offer == *known))
}

/// Whether a browser asks for a page that is not from this machine: such a page is no local client, although its
/// connection comes from here.
fn is_foreign(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return false };
    let uri = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
    let host = uri.as_ref().and_then(Uri::host);
    !matches!(host, Some("localhost" | "127.0.0.1" | "[::1]"))
}

impl WebSocket {
    pub(super) fn new(inner: WebSocketStream<Stream>) -> Self {
        Self { inner, rest: Bytes::new(), said_close: false }
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_next(cx)) {
                // Both have said goodbye.
                None => return Poll::Ready(Ok(())),
                // Packets may be split and joined [MQTT-6.0.0-2] [MQTT-6.0.0-2 of 3.1.1].
                Some(Ok(Message::Binary(bytes))) => self.rest = bytes,
                // Answered by the library with the next read or write.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_))) => {}
                // [MQTT-6.0.0-1] [MQTT-6.0.0-1 of 3.1.1]
                Some(Ok(Message::Text(_) | Message::Frame(_))) => {
                    self.say_close(CloseCode::Unsupported, cx);
                    let why = "a WebSocket message that is not binary";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
                }
                Some(Err(error)) => {
                    if let Error::Capacity(CapacityError::MessageTooLong { .. }) = error {
                        self.say_close(CloseCode::Size, cx);
                    }
                    return Poll::Ready(Err(to_io(error)));
                }
            }
        }
        let taken = self.rest.split_to(self.rest.len().min(buf.remaining()));
        buf.put_slice(taken.chunk());
        Poll::Ready(Ok(()))
    }

    /// Takes at most one message's worth, once the one before has left.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.inner).poll_ready(cx)).map_err(to_io)?;
        let (part, _) = bytes.split_at(bytes.len().min(SENT_MESSAGE_BYTES_MAX));
        let message = Message::Binary(Bytes::copy_from_slice(part));
        Pin::new(&mut self.inner).start_send(message).map_err(to_io)?;
        Poll::Ready(Ok(part.len()))
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx).map_err(to_io)
    }

    /// Says goodbye, then ends the stream below.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.said_close {
            // An error means that the other end has said it already.
            let _said = ready!(Pin::new(&mut self.inner).poll_close(cx));
            self.said_close = true;
        }
        tokio::io::AsyncWrite::poll_shutdown(Pin::new(self.inner.get_mut()), cx)
    }

    /// As far as it can be said without waiting: the connection ends anyway.
    fn say_close(&mut self, code: CloseCode, cx: &mut Context<'_>) {
        let frame = CloseFrame { code, reason: "".into() };
        if Pin::new(&mut self.inner).start_send(Message::Close(Some(frame))).is_ok() {
            let _sent = Pin::new(&mut self.inner).poll_flush(cx);
        }
        self.said_close = true;
    }
}

fn to_io(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderValue, header};

    use super::{is_foreign, subprotocol};

    #[test]
    fn the_subprotocol_is_one_of_ours() {
        let cases: [(&[&'static str], Option<&str>); 6] = [
            (&[], None),
            (&["mqtt"], Some("mqtt")),
            (&["mqttv3.1"], Some("mqttv3.1")),
            (&["mqttv3.1, mqtt"], Some("mqtt")),
            (&["chat", " mqtt "], Some("mqtt")),
            (&["MQTT", "mqtt5"], None),
        ];
        for (offers, wanted) in cases {
            let mut headers = HeaderMap::new();
            for offer in offers {
                headers.append(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(offer));
            }
            assert_eq!(subprotocol(&headers), wanted, "{offers:?}");
        }
    }

    #[test]
    fn pages_of_other_servers_are_no_local_clients() {
        let cases = [
            (None, false),
            (Some("http://localhost:8080"), false),
            (Some("http://127.0.0.1"), false),
            (Some("https://[::1]:8443"), false),
            (Some("http://localhost.evil.example"), true),
            (Some("http://192.168.1.5"), true),
            (Some("null"), true),
            (Some(""), true),
        ];
        for (origin, wanted) in cases {
            let mut headers = HeaderMap::new();
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            }
            assert_eq!(is_foreign(&headers), wanted, "{origin:?}");
        }
    }
}
