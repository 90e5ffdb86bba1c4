//! The hand of a serial instrument: one task a port that drives its brain. Decides nothing.

use std::future::pending;
use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_serial::{ClearBuffer, SerialPort as _, SerialStream};
use tracing::debug;

use crate::base::time::Duration;
use crate::bus::Ends;
use crate::bus::port;
use crate::bus::teller::Teller;
use crate::config::instrument::{FrameEnd, Instrument as Settings};
use crate::config::model::Config;
use crate::config::port::Port;
use crate::device::command::Order;
use crate::device::effect::Effects;
use crate::device::request::LineError;
use crate::device::serial::{Do, Instrument};
use crate::observe::frames::{Frames, Protocol, Recorder};

/// Taken from the port at once.
const READ_BYTES_MAX: usize = 1024;
/// A port that takes nothing for so long is as good as gone.
const SEND_WAIT_MAX: Duration = Duration::from_secs(10);
/// Of what is thrown away before a request: a device that never stops talking must not hold it up.
const DRAIN_BYTES_MAX: usize = 64 * 1024;

/// An instrument and its port.
#[derive(Debug, Clone, PartialEq)]
pub struct InstrumentLine {
    pub gateway: Arc<str>,
    pub port: Port,
    /// Of the device.
    pub index: u16,
    pub settings: Settings,
}

/// In the order of the configuration.
pub fn lines(config: &Config) -> Vec<InstrumentLine> {
    let first = u16::try_from(config.devices.len()).unwrap_or(u16::MAX);
    let line = |(index, settings): (u16, &Settings)| {
        Some(InstrumentLine {
            gateway: Arc::clone(&config.gateway.id),
            port: config.ports.get(settings.port)?.clone(),
            index,
            settings: settings.clone(),
        })
    };
    (first..).zip(&config.instruments).filter_map(line).collect()
}

/// Drives the instrument until it is cancelled. A port that is not there is opened when it comes.
pub async fn run(line: InstrumentLine, frames: Arc<Frames>, ends: Ends) {
    let InstrumentLine { gateway, port, index, settings } = line;
    let hand = Hand {
        index,
        recorder: frames.recorder(&port.name, Protocol::Text),
        gap: settings.framing.gap,
        delimiter: match &settings.framing.end {
            FrameEnd::Delimiter(delimiter) => delimiter.clone(),
            FrameEnd::Length(_) | FrameEnd::LengthField(_) | FrameEnd::Silence => Vec::new(),
        },
        heard: Instant::now(),
        brain: Instrument::new(&gateway, index, settings, ends.clock.now()),
        port,
        stream: None,
        teller: Teller::new(ends.status.clone()),
        ends,
        orders: Vec::new(),
        out: Effects::default(),
    };
    hand.run().await;
}

struct Hand {
    index: u16,
    recorder: Recorder,
    /// After such a silence, and behind this, a frame of the record ends. May be empty.
    gap: Duration,
    delimiter: Vec<u8>,
    heard: Instant,
    brain: Instrument,
    port: Port,
    stream: Option<SerialStream>,
    teller: Teller,
    ends: Ends,
    /// Reused.
    orders: Vec<Order>,
    out: Effects,
}

impl Hand {
    async fn run(mut self) {
        let cancel = self.ends.cancel.clone();
        // Dropping the step on its way is safe: nothing is sent afterwards.
        let _ = cancel.run_until_cancelled(self.run_steps()).await;
        self.brain.handle_shutdown(self.ends.clock.now(), &mut self.out);
        self.flush();
        self.teller.tell(vec![self.brain.status()]);
    }

    async fn run_steps(&mut self) {
        let bell = self.ends.door.bell();
        let own = [self.index];
        self.ends.door.drives(&own, &own);
        let mut buffer = [0; READ_BYTES_MAX];
        loop {
            self.take_orders();
            let next = self.brain.next(self.ends.clock.now(), &mut self.out);
            self.flush();
            match next {
                Do::Open => self.open(),
                Do::Ask(bytes) => {
                    let drained = self.drain();
                    self.send(drained, &bytes).await;
                }
                Do::Tell(bytes) => self.send(Ok(()), &bytes).await,
                Do::Wait(until) => {
                    let until = self.told_until(Instant::from_std(self.ends.clock.to_std(until)));
                    tokio::select! {
                        // What has come is read before a silence is believed.
                        biased;
                        read = read(&mut self.stream, &mut buffer) => self.handle_read(read, &buffer),
                        () = bell.notified() => {}
                        () = sleep_until(until) => self.recorder.end(),
                    }
                }
            }
            self.flush();
        }
    }

    /// Tells what changed, or says until when to wait with it.
    fn told_until(&mut self, until: Instant) -> Instant {
        if !self.out.changed {
            return until;
        }
        if self.teller.due() > Instant::now() {
            return until.min(self.teller.due());
        }
        self.out.changed = false;
        self.teller.tell(vec![self.brain.status()]);
        until
    }

    fn open(&mut self) {
        match port::open(&self.port, &self.port.path) {
            Ok(stream) => {
                // What lay there is of nobody knows when.
                let _ = stream.clear(ClearBuffer::Input);
                self.stream = Some(stream);
                self.brain.handle_opened(self.ends.clock.now());
            }
            Err(error) => self.lose(error),
        }
    }

    fn handle_read(&mut self, read: io::Result<usize>, buffer: &[u8]) {
        match read {
            Ok(0) => self.lose(LineError::Broken(io::ErrorKind::UnexpectedEof)),
            Ok(count) => {
                let bytes = buffer.get(..count).unwrap_or(buffer);
                self.record(bytes);
                self.brain.handle_bytes(bytes, self.ends.clock.now(), &mut self.out);
            }
            Err(error) => self.lose(LineError::Broken(error.kind())),
        }
    }

    fn record(&mut self, bytes: &[u8]) {
        if self.heard.elapsed() >= self.gap {
            self.recorder.end();
        }
        self.heard = Instant::now();
        self.recorder.received(bytes);
        if !self.delimiter.is_empty() && bytes.ends_with(&self.delimiter) {
            self.recorder.end();
        }
    }

    /// Throws away what has come unasked.
    fn drain(&mut self) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let mut scrap = [0; READ_BYTES_MAX];
        let mut drained = 0;
        while drained < DRAIN_BYTES_MAX {
            match stream.try_read(&mut scrap) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => drained += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(stream.clear(ClearBuffer::Input)?)
    }

    async fn send(&mut self, drained: io::Result<()>, bytes: &[u8]) {
        let Some(stream) = &mut self.stream else { return };
        let sent = match drained {
            Ok(()) => match timeout(SEND_WAIT_MAX, stream.write_all(bytes)).await {
                Ok(sent) => sent,
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            },
            Err(error) => Err(error),
        };
        match sent {
            Ok(()) => {
                self.recorder.sent(bytes);
                self.brain.handle_sent(self.ends.clock.now(), &mut self.out);
            }
            Err(error) => self.lose(LineError::Broken(error.kind())),
        }
    }

    fn lose(&mut self, error: LineError) {
        debug!(port = &*self.port.name, %error, "no port");
        self.stream = None;
        self.brain.handle_lost(error, self.ends.clock.now(), &mut self.out);
    }

    fn take_orders(&mut self) {
        self.ends.door.take_orders(&mut self.orders);
        for order in self.orders.drain(..) {
            self.brain.handle_order(&order, self.ends.clock.now(), &mut self.out);
        }
        self.flush();
    }

    fn flush(&mut self) {
        self.ends.report(&mut self.out);
    }
}

/// Never, where there is no port.
async fn read(stream: &mut Option<SerialStream>, buffer: &mut [u8]) -> io::Result<usize> {
    match stream {
        Some(stream) => stream.read(buffer).await,
        None => pending().await,
    }
}
