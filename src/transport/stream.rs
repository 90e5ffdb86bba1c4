//! The stream itself: bytes in order and without loss [MQTT-4.2-1] [MQTT-7.1.1-1 of 3.1.1]. Counts what it has written, so that a slow connection can be told from a dead one; never
//! times anything.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::transport::websocket::WebSocket;

#[derive(Debug)]
enum Carrier {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    WebSocket(Box<WebSocket>),
}

#[derive(Debug)]
pub struct Stream {
    carrier: Carrier,
    written_bytes: u64,
}

impl Stream {
    pub fn tcp(socket: TcpStream) -> Self {
        Self { carrier: Carrier::Tcp(socket), written_bytes: 0 }
    }

    pub fn tls(socket: impl Into<TlsStream<TcpStream>>) -> Self {
        Self { carrier: Carrier::Tls(Box::new(socket.into())), written_bytes: 0 }
    }

    pub(super) fn websocket(socket: WebSocket) -> Self {
        Self { carrier: Carrier::WebSocket(Box::new(socket)), written_bytes: 0 }
    }

    pub(super) fn as_tcp(&self) -> Option<&TcpStream> {
        match &self.carrier {
            Carrier::Tcp(socket) => Some(socket),
            Carrier::Tls(_) | Carrier::WebSocket(_) => None,
        }
    }

    /// Bytes that the socket took so far, before encryption.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    fn count(&mut self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(written)) = &polled {
            self.written_bytes += *written as u64;
        }
        polled
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.carrier {
            Carrier::Tcp(socket) => Pin::new(socket).poll_read(cx, buf),
            Carrier::Tls(socket) => Pin::new(socket).poll_read(cx, buf),
            Carrier::WebSocket(socket) => socket.poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = match &mut self.carrier {
            Carrier::Tcp(socket) => Pin::new(socket).poll_write(cx, buf),
            Carrier::Tls(socket) => Pin::new(socket).poll_write(cx, buf),
            Carrier::WebSocket(socket) => socket.poll_write(cx, buf),
        };
        self.count(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.carrier {
            Carrier::Tcp(socket) => Pin::new(socket).poll_flush(cx),
            Carrier::Tls(socket) => Pin::new(socket).poll_flush(cx),
            Carrier::WebSocket(socket) => socket.poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.carrier {
            Carrier::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Carrier::Tls(socket) => Pin::new(socket).poll_shutdown(cx),
            Carrier::WebSocket(socket) => socket.poll_shutdown(cx),
        }
    }
}
