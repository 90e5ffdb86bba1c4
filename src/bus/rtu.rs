//! A Modbus RTU line on a serial port. RTU frames carry no transaction id: an answer that comes late, or
//! beside noise, looks like the answer to the next request. So no request leaves before the line is silent, no
//! framing survives an error, and an answer is believed only when nothing else can have been meant by it.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as TaskContext, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_modbus::Slave;
use tokio_modbus::client::{Client as _, Context, rtu};
use tokio_modbus::slave::SlaveContext as _;
use tokio_serial::{ClearBuffer, SerialPort as _, SerialPortBuilder, SerialStream};

use crate::base::time::Duration;
use crate::bus::exchange::{
    EXCEPTION_FRAME_BYTES, error_of, exception_of, request_frame_bytes, request_of, response_frame_bytes,
    response_of,
};
use crate::config::model::{DataBits, Parity, Port, StopBits};
use crate::device::request::{Exception, LineError, Reply, Request, Response};
use crate::observe::frames::Recorder;

/// Modbus over Serial Line 2.5.1.1: above this rate the silence is fixed.
const FIXED_SILENCE_BAUD_MIN: u32 = 19_200;
const FIXED_SILENCE: Duration = Duration::from_micros(1_750);
/// Adapters hand bytes over in packets: a shorter pause between two of them is no silence.
const SILENCE_MIN: Duration = Duration::from_millis(4);
/// The shortest RTU frame. Fewer stray bytes cannot hide one: drivers that switch leave some.
const FRAME_BYTES_MIN: usize = 5;
/// After this an answer that never came will not come any more.
const LATE_ANSWER_MAX: Duration = Duration::from_secs(5);
/// The longest that an answer is held back to see whether another one follows.
const CONFIRM_MAX: Duration = Duration::from_secs(2);

/// A line that never stops talking must not hold the lock.
const DRAIN_BYTES_MAX: usize = 64 * 1024;

/// Our side of the port: counts what comes in, and when.
struct Wire {
    stream: SerialStream,
    last_byte: Instant,
    received_bytes: usize,
    recorder: Recorder,
}

/// Shared by the framing, which is replaced after an error, and the line, which keeps the port open.
#[derive(Clone)]
struct SharedWire(Arc<Mutex<Wire>>);

impl SharedWire {
    fn lock(&self) -> MutexGuard<'_, Wire> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all that has come in and says how much it was.
    fn drain(&self) -> io::Result<usize> {
        let mut wire = self.lock();
        let mut scrap = [0; 256];
        let mut drained = 0;
        loop {
            match wire.stream.try_read(&mut scrap) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    drained += count;
                    wire.recorder.received(scrap.get(..count).unwrap_or(&[]));
                    wire.last_byte = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
            if drained > DRAIN_BYTES_MAX {
                break;
            }
        }
        wire.stream.clear(ClearBuffer::Input)?;
        Ok(drained)
    }
}

impl fmt::Debug for SharedWire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedWire")
    }
}

impl AsyncRead for SharedWire {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut wire = self.lock();
        let filled = buffer.filled().len();
        let poll = Pin::new(&mut wire.stream).poll_read(context, buffer);
        let count = buffer.filled().len().saturating_sub(filled);
        if count > 0 {
            wire.last_byte = Instant::now();
            wire.received_bytes = wire.received_bytes.saturating_add(count);
            wire.recorder.received(buffer.filled().get(filled..).unwrap_or(&[]));
        }
        poll
    }
}

impl AsyncWrite for SharedWire {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut wire = self.lock();
        wire.last_byte = Instant::now();
        let poll = Pin::new(&mut wire.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(count)) = poll {
            wire.recorder.sent(bytes.get(..count).unwrap_or(bytes));
        }
        poll
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        // The stream's own flush blocks the thread until the last bit has left; the time that takes is part
        // of each request's budget.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// How long things take on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timing {
    character: Duration,
    /// Before a request.
    pub(crate) silence: Duration,
}

impl Timing {
    pub(crate) fn new(port: &Port) -> Self {
        let data_bits = match port.data_bits {
            DataBits::Seven => 7,
            DataBits::Eight => 8,
        };
        let parity_bits = u32::from(port.parity != Parity::None);
        let stop_bits = match port.stop_bits {
            StopBits::One => 1,
            StopBits::Two => 2,
        };
        let bits = 1 + data_bits + parity_bits + stop_bits;
        let character = Duration::from_secs(u64::from(bits)) / port.baud_rate.max(1);
        // Modbus over Serial Line 2.5.1.1: 3.5 characters.
        let standard =
            if port.baud_rate > FIXED_SILENCE_BAUD_MIN { FIXED_SILENCE } else { character * 7 / 2 };
        Self { character, silence: standard.max(SILENCE_MIN) + port.turnaround }
    }

    pub(crate) fn of_bytes(self, bytes: usize) -> Duration {
        self.character * u32::try_from(bytes).unwrap_or(u32::MAX)
    }
}

pub(crate) struct RtuLine {
    path: Arc<str>,
    builder: SerialPortBuilder,
    timing: Timing,
    wire: Option<SharedWire>,
    /// Never one that has seen an error.
    context: Option<Context>,
    /// Units that owe an answer, and when it was asked for.
    owing: BTreeMap<u8, Instant>,
    /// How long the last answer was held back until it was believed.
    held_back: Duration,
    recorder: Recorder,
}

impl RtuLine {
    pub(crate) fn new(port: &Port, recorder: Recorder) -> Self {
        let path: Arc<str> = port.path.to_string_lossy().into();
        let builder = builder_of(port, &path);
        Self {
            path,
            builder,
            timing: Timing::new(port),
            wire: None,
            context: None,
            owing: BTreeMap::new(),
            held_back: Duration::ZERO,
            recorder,
        }
    }

    /// How much earlier than now the unit gave the last answer.
    pub(crate) fn held_back(&self) -> Duration {
        self.held_back
    }

    pub(crate) async fn call(&mut self, request: &Request) -> Reply {
        self.held_back = Duration::ZERO;
        let wire = self.open_wire()?;
        let reply = self.exchange(&wire, request).await;
        if let Err(LineError::Broken(_)) = reply {
            // The adapter is gone, or was: the next request opens the path anew.
            self.wire = None;
            self.context = None;
        }
        reply
    }

    fn open_wire(&mut self) -> Result<SharedWire, LineError> {
        if let Some(wire) = &self.wire {
            return Ok(wire.clone());
        }
        let stream = SerialStream::open(&self.builder)
            .map_err(|error| LineError::Open { path: Arc::clone(&self.path), kind: kind_of(&error) })?;
        let wire =
            Wire { stream, last_byte: Instant::now(), received_bytes: 0, recorder: self.recorder.clone() };
        let wire = SharedWire(Arc::new(Mutex::new(wire)));
        self.wire = Some(wire.clone());
        Ok(wire)
    }

    async fn exchange(&mut self, wire: &SharedWire, request: &Request) -> Reply {
        self.wait_for_silence(wire, request.timeout).await?;
        let mut context = self.context.take().unwrap_or_else(|| rtu::attach(wire.clone()));
        context.set_slave(Slave(request.unit));
        wire.lock().received_bytes = 0;
        let sent = Instant::now();
        let bytes = request_frame_bytes(&request.kind) + response_frame_bytes(&request.kind);
        let deadline = sent + request.timeout + self.timing.of_bytes(bytes);
        let answer = match timeout_at(deadline, context.call(request_of(&request.kind))).await {
            Err(_) => Err(LineError::Timeout),
            Ok(Err(error)) => Err(error_of(&error)),
            Ok(Ok(Err(code))) => Ok(Err(exception_of(code))),
            Ok(Ok(Ok(response))) => response_of(&request.kind, response).map(Ok),
        };
        let reply = match answer {
            Ok(answer) => self.believed(wire, request, sent, answer).await,
            Err(error) => Err(error),
        };
        self.recorder.end();
        match &reply {
            Ok(_) => {
                self.owing.remove(&request.unit);
                // Only now: a framing that has met an error fails the next call too.
                self.context = Some(context);
            }
            Err(error) => {
                self.owing.insert(request.unit, sent);
                if !matches!(error, LineError::Broken(_)) {
                    // What was not the answer to this request leaves the true one on its way: without this
                    // wait each request would meet the answer to the one before.
                    sleep_until(deadline).await;
                }
            }
        }
        reply
    }

    /// Whether the answer can be the one to this request and to no other.
    async fn believed(
        &mut self,
        wire: &SharedWire,
        request: &Request,
        sent: Instant,
        answer: Result<Response, Exception>,
    ) -> Reply {
        let expected = match &answer {
            Ok(_) => response_frame_bytes(&request.kind),
            Err(_) => EXCEPTION_FRAME_BYTES,
        };
        let stray = wire.lock().received_bytes.saturating_sub(expected);
        if stray >= FRAME_BYTES_MIN {
            return Err(LineError::Untrusted);
        }
        let owed_since = self.owing.get(&request.unit).map(|asked| sent.duration_since(*asked));
        let Some(owed_since) = owed_since.filter(|since| *since <= LATE_ANSWER_MAX) else {
            return Ok(answer);
        };
        // This may be the answer to the request before. Then its own follows, as much later as it was asked.
        self.held_back = (owed_since + owed_since / 4).min(CONFIRM_MAX);
        sleep_until(Instant::now() + self.held_back).await;
        match wire.drain() {
            Ok(followed) if followed < FRAME_BYTES_MIN => Ok(answer),
            Ok(_) => Err(LineError::Untrusted),
            Err(error) => Err(LineError::Broken(error.kind())),
        }
    }

    async fn wait_for_silence(&mut self, wire: &SharedWire, within: Duration) -> Result<(), LineError> {
        let give_up = Instant::now() + within.max(self.timing.silence * 2);
        loop {
            wire.drain().map_err(|error| LineError::Broken(error.kind()))?;
            let silent_from = wire.lock().last_byte + self.timing.silence;
            let now = Instant::now();
            if now >= silent_from {
                return Ok(());
            }
            if now >= give_up {
                return Err(LineError::Busy);
            }
            sleep_until(silent_from).await;
        }
    }
}

/// The port as configured; `simulate` opens its end with the same.
pub(crate) fn builder_of(port: &Port, path: &str) -> SerialPortBuilder {
    tokio_serial::new(path, port.baud_rate)
        .data_bits(match port.data_bits {
            DataBits::Seven => tokio_serial::DataBits::Seven,
            DataBits::Eight => tokio_serial::DataBits::Eight,
        })
        .parity(match port.parity {
            Parity::None => tokio_serial::Parity::None,
            Parity::Even => tokio_serial::Parity::Even,
            Parity::Odd => tokio_serial::Parity::Odd,
        })
        .stop_bits(match port.stop_bits {
            StopBits::One => tokio_serial::StopBits::One,
            StopBits::Two => tokio_serial::StopBits::Two,
        })
        .flow_control(tokio_serial::FlowControl::None)
}

pub(crate) fn kind_of(error: &tokio_serial::Error) -> io::ErrorKind {
    match error.kind() {
        // serialport says so of a port that another program holds.
        tokio_serial::ErrorKind::NoDevice => io::ErrorKind::ResourceBusy,
        tokio_serial::ErrorKind::InvalidInput => io::ErrorKind::InvalidInput,
        tokio_serial::ErrorKind::Unknown => io::ErrorKind::Other,
        tokio_serial::ErrorKind::Io(kind) => kind,
    }
}

#[cfg(test)]
mod tests {
    use super::Timing;
    use crate::base::time::Duration;
    use crate::config::model::{DataBits, Parity, Port, StopBits};

    #[test]
    fn silence_is_three_and_a_half_characters_but_never_too_short() {
        let cases = [
            (1_200, Parity::None, StopBits::One, 29_166, 0),
            (2_400, Parity::Even, StopBits::One, 16_041, 0),
            (9_600, Parity::None, StopBits::One, 4_000, 0),
            (9_600, Parity::Even, StopBits::Two, 4_375, 0),
            (115_200, Parity::None, StopBits::One, 4_000, 0),
            (115_200, Parity::None, StopBits::One, 24_000, 20),
        ];
        for (baud_rate, parity, stop_bits, micros, turnaround_millis) in cases {
            let port = Port {
                name: "p".into(),
                path: "/dev/null".into(),
                baud_rate,
                data_bits: DataBits::Eight,
                parity,
                stop_bits,
                turnaround: Duration::from_millis(turnaround_millis),
            };
            assert_eq!(Timing::new(&port).silence.as_micros(), micros, "{baud_rate}");
        }
    }
}
