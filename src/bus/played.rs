//! Devices that are not there on serial ports whose framing is no RTU: units that speak Modbus ASCII, and instruments
//! that say lines. Never part of a running gateway.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_modbus::{ExceptionCode, Request, Response};
use tokio_serial::SerialStream;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::base::time::Duration;
use crate::bus::framing::{ascii_frame_of, ascii_frames};
use crate::bus::port::{builder_of, kind_of};
use crate::bus::simulator::{RESTART_PAUSE, Simulator, moving};
use crate::config::instrument::{Instrument, Talk};
use crate::config::model::Device;
use crate::config::port::Port;
use crate::device::request::LineError;
use crate::device::serial::sample::{self, Unplayable};

/// Taken from a port at once.
const READ_BYTES_MAX: usize = 512;
/// What is kept of a port on which no frame ends: more than the longest frame, or request.
const HELD_BYTES_MAX: usize = 2048;
/// How often an instrument speaks that talks by itself.
const TALK_EVERY: Duration = Duration::from_secs(1);
/// The bit of a function code that says that this is an exception.
const EXCEPTION_BIT: u8 = 0x80;

/// Answers on a serial port for the units of Modbus ASCII on it until it is cancelled. The first opening must succeed.
pub async fn serve_ascii(
    port: &Port,
    path: &Path,
    devices: Vec<Arc<Device>>,
    cancel: CancellationToken,
) -> Result<(), LineError> {
    let simulator = Simulator::new(&devices);
    let mut serial = open(port, path)?;
    let serve = async {
        loop {
            let ended = answer_ascii(&mut serial, &simulator).await;
            debug!(?ended, "simulated port");
            serial = reopen(port, path).await;
        }
    };
    let _: Option<()> = cancel.run_until_cancelled(serve).await;
    Ok(())
}

/// Says on a serial port what the instrument would, until it is cancelled. The first opening must succeed.
pub async fn serve_instrument(
    port: &Port,
    path: &Path,
    instrument: &Instrument,
    cancel: CancellationToken,
) -> Result<(), LineError> {
    let started = Instant::now();
    let mut serial = open(port, path)?;
    let serve = async {
        loop {
            let ended = match &instrument.talk {
                Talk::Asked { send, .. } => answer_lines(&mut serial, instrument, send, started).await,
                Talk::Free { .. } => talk(&mut serial, instrument, started).await,
            };
            debug!(?ended, "simulated port");
            serial = reopen(port, path).await;
        }
    };
    let _: Option<()> = cancel.run_until_cancelled(serve).await;
    Ok(())
}

/// Why an instrument cannot be played, where it cannot.
pub fn check_instrument(instrument: &Instrument) -> Result<(), Unplayable> {
    lines_at(instrument, Duration::ZERO).map(|_| ())
}

fn open(port: &Port, path: &Path) -> Result<SerialStream, LineError> {
    let path = path.to_string_lossy();
    SerialStream::open(&builder_of(port, &path))
        .map_err(|error| LineError::Open { path: (&*path).into(), kind: kind_of(&error) })
}

async fn reopen(port: &Port, path: &Path) -> SerialStream {
    loop {
        sleep(RESTART_PAUSE).await;
        if let Ok(serial) = open(port, path) {
            return serial;
        }
    }
}

/// Reads behind what is held, and forgets the oldest where it is too much.
async fn read_on(serial: &mut SerialStream, held: &mut Vec<u8>) -> io::Result<()> {
    let mut bytes = [0; READ_BYTES_MAX];
    let count = serial.read(&mut bytes).await?;
    if count == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    held.extend_from_slice(bytes.get(..count).unwrap_or_default());
    held.drain(..held.len().saturating_sub(HELD_BYTES_MAX));
    Ok(())
}

async fn answer_ascii(serial: &mut SerialStream, simulator: &Simulator) -> io::Result<()> {
    let mut held = Vec::new();
    loop {
        read_on(serial, &mut held).await?;
        let frames: Vec<_> = ascii_frames(&held).collect();
        let behind = frames.last().map_or(0, |(range, _)| range.end);
        held.drain(..behind);
        for (_, body) in frames {
            if let Some(answer) = answer_of(simulator, &body) {
                serial.write_all(&ascii_frame_of(&answer)).await?;
            }
        }
    }
}

/// Unit and PDU. None: no such unit, or none that answers this.
fn answer_of(simulator: &Simulator, body: &[u8]) -> Option<Vec<u8>> {
    let (unit, pdu) = body.split_first()?;
    let function = *pdu.first()?;
    let refused = |code: ExceptionCode| vec![*unit, function | EXCEPTION_BIT, code.into()];
    let Ok(request) = Request::try_from(Bytes::copy_from_slice(pdu)) else {
        return simulator.has(*unit).then(|| refused(ExceptionCode::IllegalFunction));
    };
    let answered = simulator.answer(*unit, &request)?;
    Some(match answered.map(|response| pdu_of(&response)) {
        Ok(Some(pdu)) => [&[*unit, function][..], &pdu].concat(),
        Ok(None) => refused(ExceptionCode::IllegalFunction),
        Err(code) => refused(code),
    })
}

/// Behind the function code (Modbus Application Protocol 6). None: none of those that the simulator gives on a line.
fn pdu_of(response: &Response) -> Option<Vec<u8>> {
    let counted = |bytes: Vec<u8>| Some([vec![u8::try_from(bytes.len()).ok()?], bytes].concat());
    let pair = |first: u16, second: u16| Some([first.to_be_bytes(), second.to_be_bytes()].concat());
    let bytes_of = |words: &[u16]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
    match response {
        Response::ReadCoils(bits) | Response::ReadDiscreteInputs(bits) => {
            let byte = |eight: &[bool]| eight.iter().rev().fold(0u8, |byte, bit| byte << 1 | u8::from(*bit));
            counted(bits.chunks(8).map(byte).collect())
        }
        Response::ReadHoldingRegisters(words)
        | Response::ReadInputRegisters(words)
        | Response::ReadWriteMultipleRegisters(words) => counted(bytes_of(words)),
        Response::WriteSingleCoil(address, bit) => pair(*address, if *bit { 0xFF00 } else { 0 }),
        Response::WriteSingleRegister(address, word) => pair(*address, *word),
        Response::WriteMultipleCoils(address, count) | Response::WriteMultipleRegisters(address, count) => {
            pair(*address, *count)
        }
        Response::MaskWriteRegister(address, and, or) => Some(bytes_of(&[*address, *and, *or])),
        _ => None,
    }
}

/// One answer to each request.
async fn answer_lines(
    serial: &mut SerialStream,
    instrument: &Instrument,
    send: &[u8],
    started: Instant,
) -> io::Result<()> {
    let mut held = Vec::new();
    loop {
        read_on(serial, &mut held).await?;
        while let Some(at) = held.windows(send.len().max(1)).position(|part| part == send) {
            held.drain(..at + send.len());
            say(serial, instrument, started).await?;
        }
    }
}

async fn talk(serial: &mut SerialStream, instrument: &Instrument, started: Instant) -> io::Result<()> {
    let mut next = Instant::now();
    let mut scrap = [0; READ_BYTES_MAX];
    loop {
        tokio::select! {
            () = sleep_until(next) => {
                next += TALK_EVERY;
                say(serial, instrument, started).await?;
            }
            // It listens to nobody, and knows when its line is gone.
            read = serial.read(&mut scrap) => {
                if read? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
    }
}

async fn say(serial: &mut SerialStream, instrument: &Instrument, started: Instant) -> io::Result<()> {
    for line in lines_at(instrument, started.elapsed()).unwrap_or_default() {
        serial.write_all(&line).await?;
    }
    Ok(())
}

fn lines_at(instrument: &Instrument, elapsed: Duration) -> Result<Vec<Vec<u8>>, Unplayable> {
    sample::lines(instrument, elapsed.as_secs(), |index| {
        let point = instrument.points.get(index);
        let bounds = point.map_or((None, None), |point| (point.min, point.max));
        let unit = point.and_then(|point| point.unit.as_deref()).unwrap_or("");
        moving(unit, bounds, index, Some(elapsed))
    })
}
