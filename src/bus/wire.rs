//! One request and its answer on a line of any kind. Serial framings carry no transaction id: an answer that comes
//! late looks like the answer to the next request. So no request leaves before the line is silent, and an answer is
//! believed only when nothing else can have been meant by it. Never decides when to try again.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_modbus::Slave;
use tokio_modbus::client::{Client as _, Context, rtu, tcp};
use tokio_modbus::slave::SlaveContext as _;

use crate::base::time::Duration;
use crate::bus::Endpoint;
use crate::bus::answer::{Asked, EXCEPTION_BIT};
use crate::bus::exchange::{error_of, exception_of, request_bytes, request_of, response_of};
use crate::bus::framing::{Framing, crc};
use crate::bus::owed::{Doubt, Owed};
use crate::bus::port;
use crate::bus::sieve::{Sieve, Stream};
use crate::bus::timing::{Timing, pause_until};
use crate::config::port::Port;
use crate::device::request::{Exception, LineError, Reply, Request, RequestKind, Response};
use crate::observe::frames::{Frames, Protocol, Recorder};

/// Modbus over Serial Line 2.1: the unit that is all of them, and how long they have before the next request (2.4.1).
const BROADCAST: u8 = 0;
const BROADCAST_PAUSE: Duration = Duration::from_millis(100);
/// More than the longest frame.
const ANSWER_BYTES_MAX: usize = 512;
/// A connection may take longer than an answer.
const CONNECT_TIMEOUT_MIN: Duration = Duration::from_secs(2);
/// Requests in a row that a connection said nothing to, not even late, after which it is taken for half open.
const SILENT_CALLS_MAX: u32 = 2;
/// The shortest frame. Fewer stray bytes cannot hide one: drivers that switch leave some.
const FRAME_BYTES_MIN: usize = 5;
/// The longest that an answer is held back to see whether another one follows.
const CONFIRM_MAX: Duration = Duration::from_secs(2);

enum Place {
    /// `host:port`
    Tcp(Arc<str>),
    Serial(Box<Port>, PathBuf),
}

pub(crate) struct Wire {
    place: Place,
    framing: Framing,
    timing: Timing,
    recorder: Recorder,
    /// Open; None before the first request, and after the line was lost.
    sieve: Option<Sieve>,
    /// Never one that has seen an error.
    context: Option<Context>,
    owed: Owed,
    /// The last frame is known to have ended.
    is_clean: bool,
    silent_calls: u32,
    /// How long the last answer was held back until it was believed.
    held_back: Duration,
}

impl Wire {
    pub(crate) fn new(endpoint: &Endpoint, frames: &Arc<Frames>) -> Self {
        let framing = endpoint.framing();
        let (place, timing) = match endpoint {
            Endpoint::Tcp { address } | Endpoint::RtuOverTcp { address } => {
                (Place::Tcp(Arc::clone(address)), Timing::of_connection(framing))
            }
            Endpoint::Rtu(port) | Endpoint::Ascii(port) => {
                (Place::Serial(Box::new(port.clone()), port.path.clone()), Timing::of_port(port, framing))
            }
        };
        let protocol = match framing {
            Framing::Tcp => Protocol::ModbusTcp,
            Framing::Rtu => Protocol::ModbusRtu,
            Framing::Ascii => Protocol::ModbusAscii,
        };
        let recorder = frames.recorder(&endpoint.to_string(), protocol);
        Self {
            place,
            framing,
            timing,
            recorder,
            sieve: None,
            context: None,
            owed: Owed::default(),
            is_clean: false,
            silent_calls: 0,
            held_back: Duration::ZERO,
        }
    }

    /// How much earlier than now the unit gave the last answer.
    pub(crate) fn held_back(&self) -> Duration {
        self.held_back
    }

    pub(crate) async fn call(&mut self, request: &Request) -> Reply {
        let was_open = self.sieve.is_some() && matches!(self.place, Place::Tcp(_));
        match self.call_once(request).await {
            // Servers close idle connections: that says nothing about the next one. A write may have been taken.
            Err(LineError::Broken(_)) if was_open && request.kind.is_read() => self.call_once(request).await,
            reply => reply,
        }
    }

    async fn call_once(&mut self, request: &Request) -> Reply {
        self.held_back = Duration::ZERO;
        let reply = self.call_open(request).await;
        self.is_clean = reply.is_ok();
        if reply.is_ok() {
            self.silent_calls = 0;
        }
        let is_lost = match &reply {
            Err(LineError::Broken(_)) => true,
            // Nothing behind it can be found in a stream of TCP.
            Err(error) => matches!(self.place, Place::Tcp(_)) && self.is_spent(error),
            Ok(_) => false,
        };
        if is_lost {
            // The adapter is gone, or was: the next request opens the path anew.
            self.sieve = None;
            self.context = None;
            self.silent_calls = 0;
        }
        reply
    }

    /// Whether a connection is of no more use.
    fn is_spent(&mut self, error: &LineError) -> bool {
        if self.sieve.as_ref().is_some_and(|sieve| !sieve.has_heard()) {
            self.silent_calls += 1;
        } else {
            self.silent_calls = 0;
        }
        match error {
            LineError::Timeout => self.silent_calls >= SILENT_CALLS_MAX,
            _ => self.framing == Framing::Tcp || self.silent_calls >= SILENT_CALLS_MAX,
        }
    }

    async fn call_open(&mut self, request: &Request) -> Reply {
        let sieve = self.open(request.timeout.max(CONNECT_TIMEOUT_MIN)).await?;
        self.wait_for_silence(&sieve, request.timeout).await?;
        if self.framing == Framing::Tcp {
            return self.ask(&sieve, request).await;
        }
        if let Some(probe) = self.probe(request) {
            match self.ask_doubting(&sieve, &probe).await {
                Err(error) => return Err(error),
                Ok(_) => self.wait_for_silence(&sieve, request.timeout).await?,
            }
        }
        self.ask_doubting(&sieve, request).await
    }

    async fn open(&mut self, within: Duration) -> Result<Sieve, LineError> {
        if let Some(sieve) = &self.sieve {
            // A connection that the server has closed meanwhile is found by reading.
            match sieve.drain() {
                Err(error) if matches!(self.place, Place::Serial(..)) => {
                    return Err(LineError::Broken(error.kind()));
                }
                Err(_) => {}
                Ok(_) => return Ok(sieve.clone()),
            }
        }
        self.context = None;
        let stream = match &self.place {
            Place::Serial(port, path) => Stream::Serial(port::open(port, path)?),
            Place::Tcp(address) => Stream::Tcp(connect(address, within).await?),
        };
        let sieve = Sieve::new(stream, self.framing, self.recorder.clone());
        self.sieve = Some(sieve.clone());
        Ok(sieve)
    }

    async fn wait_for_silence(&mut self, sieve: &Sieve, within: Duration) -> Result<(), LineError> {
        let silence = if self.is_clean { self.timing.silence } else { self.timing.doubtful_silence };
        let give_up = Instant::now() + within.max(silence * 2);
        loop {
            sieve.drain().map_err(|error| LineError::Broken(error.kind()))?;
            let silent_from = sieve.last_byte() + silence;
            let now = Instant::now();
            if now >= silent_from {
                return Ok(());
            }
            if now >= give_up {
                return Err(LineError::Busy);
            }
            pause_until(silent_from).await;
        }
    }

    /// What is asked first, where an answer would have to be doubted, so that it need not be.
    fn probe(&self, request: &Request) -> Option<Request> {
        let now = Instant::now();
        let doubt = self.owed.doubt((request.unit, &request.kind), false, now);
        let Doubt::Other(_) = doubt else { return None };
        let kind = self.owed.probe(request.unit, &request.kind, now)?;
        Some(Request { kind, ..request.clone() })
    }

    /// For framings without numbers: an answer counts where it can be no other request's.
    async fn ask_doubting(&mut self, sieve: &Sieve, request: &Request) -> Reply {
        let Request { unit, kind, .. } = request;
        let sent = Instant::now();
        if !kind.is_read() {
            self.owed.handle_write(*unit);
        }
        let reply = match self.ask(sieve, request).await {
            Ok(answer) => {
                let doubt = self.owed.doubt((*unit, kind), answer.is_err(), sent);
                self.weigh(sieve, doubt).await.map(|()| (answer, doubt))
            }
            Err(error) => Err(error),
        };
        match reply {
            Ok((answer, Doubt::SameWords)) => {
                // It was true when the unit said it; but it may have been said to an earlier request.
                self.owed.add(*unit, kind, sent);
                Ok(answer)
            }
            Ok((answer, Doubt::None | Doubt::Other(_))) => {
                self.owed.clear(*unit);
                Ok(answer)
            }
            Err(error) => {
                self.owed.add(*unit, kind, sent);
                Err(error)
            }
        }
    }

    /// Whether the answer that came can be the one to this request and to no other.
    async fn weigh(&mut self, sieve: &Sieve, doubt: Doubt) -> Result<(), LineError> {
        if sieve.has_second_answer() {
            return Err(LineError::Untrusted);
        }
        let Doubt::Other(since) = doubt else { return Ok(()) };
        // This may be the answer to the request before. Then its own follows, as much later as it was asked.
        self.held_back = (since + since / 4).min(CONFIRM_MAX);
        sleep_until(Instant::now() + self.held_back).await;
        match sieve.drain() {
            Ok(followed) if followed < FRAME_BYTES_MIN => Ok(()),
            Ok(_) => Err(LineError::Untrusted),
            Err(error) => Err(LineError::Broken(error.kind())),
        }
    }

    /// Sends the request and waits for what the sieve lets through.
    async fn ask(&mut self, sieve: &Sieve, request: &Request) -> Reply {
        let asked = Asked::new(request.unit, &request.kind);
        if !sieve.begin(asked) {
            return Err(LineError::Broken(io::ErrorKind::TimedOut));
        }
        if let (RequestKind::Raw { pdu }, Framing::Rtu | Framing::Ascii) = (&request.kind, self.framing) {
            return self.ask_raw(sieve, asked, (request, pdu)).await;
        }
        let mut context = self.context.take().unwrap_or_else(|| match self.framing {
            Framing::Tcp => tcp::attach(sieve.clone()),
            Framing::Rtu | Framing::Ascii => rtu::attach(sieve.clone()),
        });
        context.set_slave(Slave(request.unit));
        let bytes = self.framing.wire_bytes(request_bytes(&request.kind))
            + self.framing.wire_bytes(asked.answer_bytes());
        let deadline = Instant::now() + request.timeout + self.timing.of_bytes(bytes);
        let answer = timeout_at(deadline, context.call(request_of(&request.kind))).await;
        self.recorder.end();
        let reply = match answer {
            Err(_) => Err(sieve.complaint()),
            Ok(Err(error)) => Err(error_of(&error)),
            Ok(Ok(Err(code))) => Ok(Err(exception_of(code))),
            Ok(Ok(Ok(response))) => response_of(&request.kind, response).map(Ok),
        };
        // One of a connection counts its transactions, and so outlives an answer that did not come.
        if reply.is_ok() || (self.framing == Framing::Tcp && reply == Err(LineError::Timeout)) {
            self.context = Some(context);
        }
        reply
    }
}

impl Wire {
    /// As [`Wire::ask`], for what tokio-modbus has no words for.
    async fn ask_raw(&mut self, sieve: &Sieve, asked: Asked, (request, pdu): (&Request, &[u8])) -> Reply {
        let mut sieve = sieve.clone();
        let body = [&[request.unit], pdu].concat();
        let frame = [&body[..], &crc(&body)].concat();
        let sent = Instant::now();
        let send_bytes = self.framing.wire_bytes(body.len());
        if request.unit == BROADCAST {
            // Sent is done: nobody answers.
            let leave = async { sieve.write_all(&frame).await.and(sieve.flush().await) };
            let left = timeout(request.timeout, leave).await;
            self.recorder.end();
            let error = |kind| Err(LineError::Broken(kind));
            return match left {
                Err(_) => error(io::ErrorKind::TimedOut),
                Ok(Err(failed)) => error(failed.kind()),
                Ok(Ok(())) => {
                    sleep_until(sent + self.timing.of_bytes(send_bytes) + BROADCAST_PAUSE).await;
                    Ok(Ok(Response::Raw(pdu.to_vec())))
                }
            };
        }
        let bytes = send_bytes + self.framing.wire_bytes(asked.answer_bytes());
        let mut answer = [0; ANSWER_BYTES_MAX];
        let exchange = async {
            sieve.write_all(&frame).await?;
            sieve.flush().await?;
            // One frame, whole: the sieve lets nothing else through.
            sieve.read(&mut answer).await
        };
        let came = timeout_at(sent + request.timeout + self.timing.of_bytes(bytes), exchange).await;
        self.recorder.end();
        match came {
            Err(_) => Err(sieve.complaint()),
            Ok(Err(error)) => Err(LineError::Broken(error.kind())),
            Ok(Ok(count)) => match answer.get(..count).unwrap_or_default() {
                [_, function, code, _, _] if function & EXCEPTION_BIT != 0 => Ok(Err(Exception(*code))),
                [_, pdu @ .., _, _] if !pdu.is_empty() => Ok(Ok(Response::Raw(pdu.to_vec()))),
                _ => Err(LineError::Broken(io::ErrorKind::UnexpectedEof)),
            },
        }
    }
}

async fn connect(address: &Arc<str>, within: Duration) -> Result<TcpStream, LineError> {
    let failed = |kind| LineError::Connect { address: Arc::clone(address), kind };
    let stream = match timeout(within, TcpStream::connect(&**address)).await {
        Err(_) => return Err(failed(io::ErrorKind::TimedOut)),
        Ok(Err(error)) => return Err(failed(error.kind())),
        Ok(Ok(stream)) => stream,
    };
    stream.set_nodelay(true).map_err(|error| failed(error.kind()))?;
    Ok(stream)
}
