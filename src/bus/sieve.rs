//! What stands between tokio-modbus and a line: puts its requests into the line's framing, and lets through what can
//! be the answer to the request under way and nothing else. Late answers of a TCP server, echoes of an adapter,
//! noise and other units' frames end here. Never waits for anything by itself.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_serial::{ClearBuffer, SerialPort as _, SerialStream};

use crate::bus::answer::Asked;
use crate::bus::framing::{Framing, ascii_of, crc, mbap_frame};
use crate::device::request::LineError;
use crate::observe::frames::Recorder;

/// What is kept of a line that talks and talks: several of the longest frames.
const INCOMING_BYTES_MAX: usize = 2048;
/// A line that never stops talking must not hold the lock.
const DRAIN_BYTES_MAX: usize = 64 * 1024;
const READ_BYTES: usize = 512;

pub(crate) enum Stream {
    Serial(SerialStream),
    Tcp(TcpStream),
}

impl Stream {
    fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Serial(serial) => serial.try_read(buffer),
            Self::Tcp(tcp) => tcp.try_read(buffer),
        }
    }

    fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Serial(serial) => Pin::new(serial).poll_read(context, buffer),
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(context, buffer),
        }
    }

    fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Serial(serial) => Pin::new(serial).poll_write(context, bytes),
            Self::Tcp(tcp) => Pin::new(tcp).poll_write(context, bytes),
        }
    }
}

/// Whether the adapter hears itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Echo {
    Unknown,
    Heard,
    None,
}

pub(crate) struct Inner {
    stream: Stream,
    recorder: Recorder,
    framing: Framing,
    asked: Option<Asked>,
    /// Nothing else answers this request.
    is_answered: bool,
    /// The request as it leaves, and how much of it has left.
    outgoing: Vec<u8>,
    sent_bytes: usize,
    /// Came in and was not let through.
    incoming: Vec<u8>,
    /// Is let through.
    answer: Vec<u8>,
    last_byte: Instant,
    /// Anything at all since the request.
    has_heard: bool,
    echo: Echo,
}

/// Shared by the framing of tokio-modbus and the line that drives it.
#[derive(Clone)]
pub(crate) struct Sieve(Arc<Mutex<Inner>>);

impl Sieve {
    pub(crate) fn new(stream: Stream, framing: Framing, recorder: Recorder) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            stream,
            recorder,
            framing,
            asked: None,
            is_answered: false,
            outgoing: Vec::new(),
            sent_bytes: 0,
            incoming: Vec::new(),
            answer: Vec::new(),
            last_byte: Instant::now(),
            has_heard: false,
            echo: Echo::Unknown,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request is about to be written. False: a part of the one before is still unsent, as on a connection whose
    /// other end takes nothing.
    pub(crate) fn begin(&self, asked: Asked) -> bool {
        let mut inner = self.lock();
        let is_stuck = inner.sent_bytes < inner.outgoing.len() && matches!(inner.stream, Stream::Tcp(_));
        inner.asked = Some(asked);
        inner.is_answered = false;
        inner.answer.clear();
        inner.has_heard = false;
        !is_stuck
    }

    pub(crate) fn last_byte(&self) -> Instant {
        self.lock().last_byte
    }

    /// Whether the other end said anything at all since the request.
    pub(crate) fn has_heard(&self) -> bool {
        self.lock().has_heard
    }

    /// What came instead of the answer.
    pub(crate) fn complaint(&self) -> LineError {
        let inner = self.lock();
        inner.asked.map_or(LineError::Timeout, |asked| asked.complaint(inner.framing, &inner.incoming))
    }

    /// Whether another answer stands behind the one that was let through.
    pub(crate) fn has_second_answer(&self) -> bool {
        let inner = self.lock();
        let Some(asked) = inner.asked else { return false };
        match inner.framing {
            Framing::Tcp => false,
            Framing::Rtu => asked.find_rtu(&inner.incoming).is_some(),
            Framing::Ascii => asked.find_ascii(&inner.incoming).is_some(),
        }
    }

    /// Takes all that has come in. On a line without numbers it is forgotten: nothing of it can answer what is asked
    /// next. How much it was.
    pub(crate) fn drain(&self) -> io::Result<usize> {
        let mut inner = self.lock();
        let mut scrap = [0; READ_BYTES];
        let mut drained = 0;
        while drained <= DRAIN_BYTES_MAX {
            match inner.stream.try_read(&mut scrap) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    drained += count;
                    inner.take_in(scrap.get(..count).unwrap_or_default());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if inner.framing != Framing::Tcp {
            inner.incoming.clear();
        }
        if let Stream::Serial(serial) = &inner.stream {
            serial.clear(ClearBuffer::Input)?;
        }
        Ok(drained)
    }
}

impl Inner {
    fn take_in(&mut self, bytes: &[u8]) {
        self.last_byte = Instant::now();
        self.has_heard = true;
        self.recorder.received(bytes);
        self.incoming.extend_from_slice(bytes);
        if self.incoming.len() > INCOMING_BYTES_MAX {
            self.incoming.drain(..INCOMING_BYTES_MAX / 2);
        }
    }

    /// Moves what can be the answer to where it is let through.
    fn sift(&mut self) -> io::Result<()> {
        let Some(asked) = self.asked.filter(|_| !self.is_answered) else { return Ok(()) };
        match self.framing {
            Framing::Tcp => self.sift_tcp()?,
            Framing::Rtu => {
                self.strip_echo(asked);
                if let Some(range) = asked.find_rtu(&self.incoming) {
                    self.answer = self.incoming.drain(range).collect();
                }
            }
            Framing::Ascii => {
                self.strip_echo(asked);
                if let Some((range, body)) = asked.find_ascii(&self.incoming) {
                    self.incoming.drain(range);
                    let check = crc(&body);
                    self.answer = [&body[..], &check].concat();
                }
            }
        }
        self.is_answered = !self.answer.is_empty();
        if self.is_answered && !self.outgoing.is_empty() && !asked.is_like_its_answer() {
            self.echo = Echo::None;
        }
        Ok(())
    }

    /// An answer that is late has another number than the request under way.
    fn sift_tcp(&mut self) -> io::Result<()> {
        while let Some(length) = mbap_frame(&self.incoming).map_err(|_| io::ErrorKind::InvalidData)? {
            let frame: Vec<u8> = self.incoming.drain(..length).collect();
            if frame.get(..2) == self.outgoing.get(..2) {
                self.answer = frame;
                break;
            }
            tracing::debug!("an answer to an earlier request came");
        }
        Ok(())
    }

    /// The request itself in front of its answer: what an adapter hears that does not turn its receiver off.
    fn strip_echo(&mut self, asked: Asked) {
        let may_be_answer = asked.is_like_its_answer() && self.echo != Echo::Heard;
        if may_be_answer || self.outgoing.is_empty() {
            return;
        }
        let Some(at) = self.incoming.windows(self.outgoing.len()).position(|part| part == self.outgoing)
        else {
            return;
        };
        self.incoming.drain(..at + self.outgoing.len());
        self.outgoing.clear();
        self.sent_bytes = 0;
        self.echo = Echo::Heard;
    }
}

impl fmt::Debug for Sieve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sieve")
    }
}

impl AsyncRead for Sieve {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut inner = self.lock();
        loop {
            inner.sift()?;
            if !inner.answer.is_empty() {
                let count = inner.answer.len().min(buffer.remaining());
                buffer.put_slice(&inner.answer.drain(..count).collect::<Vec<u8>>());
                return Poll::Ready(Ok(()));
            }
            let mut bytes = [0; READ_BYTES];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(inner.stream.poll_read(context, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            inner.take_in(read.filled());
        }
    }
}

impl AsyncWrite for Sieve {
    /// tokio-modbus writes whole frames.
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.lock();
        inner.outgoing = if inner.framing == Framing::Ascii { ascii_of(bytes) } else { bytes.to_vec() };
        inner.sent_bytes = 0;
        Poll::Ready(Ok(bytes.len()))
    }

    /// Hands the frame to the system. A serial stream's own flush would block the thread until the last bit has left;
    /// the time that takes is part of each request's budget.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.lock();
        let Inner { stream, recorder, outgoing, sent_bytes, last_byte, .. } = &mut *inner;
        while *sent_bytes < outgoing.len() {
            let rest = outgoing.get(*sent_bytes..).unwrap_or_default();
            let count = ready!(stream.poll_write(context, rest))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            recorder.sent(rest.get(..count).unwrap_or(rest));
            *sent_bytes += count;
            *last_byte = Instant::now();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
