//! A stream that one task reads and writes at once, with the calls of a TCP socket. Adds nothing to what TCP costs;
//! never decides when.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWrite};

use crate::transport::stream::Stream;

/// Belongs to one thread: borrows never outlast a call.
#[derive(Debug)]
pub struct SharedStream {
    stream: RefCell<Stream>,
    /// Something that was written has not left: TLS and WebSocket encode first.
    unflushed: Cell<bool>,
}

impl SharedStream {
    pub fn new(stream: Stream) -> Self {
        Self { stream: RefCell::new(stream), unflushed: Cell::new(false) }
    }

    /// Appends what is there, as much as `input` has room for. 0: the other end has ended.
    pub fn poll_read_buf(&self, cx: &mut Context<'_>, input: &mut BytesMut) -> Poll<io::Result<usize>> {
        let mut stream = self.stream.borrow_mut();
        pin!(stream.read_buf(input)).poll(cx)
    }

    /// Whether `write` has something to do even with no bytes.
    pub fn is_unflushed(&self) -> bool {
        self.unflushed.get()
    }

    /// Takes some of the bytes and sends them. Without bytes: sends what was taken before, and returns 0.
    pub fn write<'a>(&'a self, bytes: &'a [u8]) -> impl Future<Output = io::Result<usize>> + 'a {
        poll_fn(move |cx| self.poll_write(cx, bytes))
    }

    /// What can be written without waiting.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(socket) = self.stream.borrow().as_tcp() {
            return socket.try_write(bytes);
        }
        // Nobody is woken by this call: who has more to write calls `write`.
        match self.poll_write(&mut Context::from_waker(Waker::noop()), bytes) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut stream = self.stream.borrow_mut();
        let mut written = 0;
        if !bytes.is_empty() {
            written = ready!(Pin::new(&mut *stream).poll_write(cx, bytes))?;
        }
        if stream.as_tcp().is_some() {
            return Poll::Ready(Ok(written));
        }
        let flushed = Pin::new(&mut *stream).poll_flush(cx)?;
        self.unflushed.set(flushed.is_pending());
        if bytes.is_empty() { flushed.map(|()| Ok(0)) } else { Poll::Ready(Ok(written)) }
    }

    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self.write(bytes).await?;
            let (_, rest) = bytes.split_at_checked(written).unwrap_or_default();
            bytes = rest;
        }
        Ok(())
    }

    /// Sends what was taken, says goodbye where the transport has a word for it, and ends the own direction.
    pub async fn shutdown(&self) -> io::Result<()> {
        poll_fn(|cx| Pin::new(&mut *self.stream.borrow_mut()).poll_shutdown(cx)).await
    }
}
