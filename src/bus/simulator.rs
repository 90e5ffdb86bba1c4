//! Devices that are not there: Modbus servers that answer for the points of a configuration with moving
//! values and hold what is written. Never part of a running gateway.

use std::collections::{BTreeMap, BTreeSet};
use std::f64::consts::TAU;
use std::future::{Ready, ready};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};
use tokio_modbus::prelude::{ConformityLevel, DeviceIdObject, ReadDeviceIdentificationResponse};
use tokio_modbus::server::{Service, rtu, rtu_over_tcp, tcp};
use tokio_modbus::{ExceptionCode, Request, Response, SlaveRequest};
use tokio_serial::SerialStream;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::base::time::Duration;
use crate::bus::port::{builder_of, kind_of};
use crate::config::model::{Device, Point, Table, ValueType};
use crate::config::port::Port;
use crate::config::sunspec::models::model;
use crate::config::sunspec::{END, HEADER_REGISTERS, MARK, Map};
use crate::device::map::encode::{Raw, encode};
use crate::device::map::{Exponent, decode_words};
use crate::device::plan::{self, Limits};
use crate::device::request::LineError;
use crate::device::value::{BitsValue, NamedBits, Value};

/// TCP connections to one simulated address.
const CONNECTIONS_MAX: usize = 16;
/// Between a failure of a server and its next start.
pub(crate) const RESTART_PAUSE: Duration = Duration::from_millis(100);
/// How long a value takes to come round.
const PERIOD_SECS: f64 = 60.0;
/// How long a bit keeps its value.
const TOGGLE_SECS: u64 = 10;
/// What a point holds from which others have their scale.
const EXPONENT: Exponent = -1;
/// Vendor, product code and revision.
const IDENTIFICATION: [(u8, &str); 3] = [(0, "Tidegate"), (1, "simulate"), (2, env!("CARGO_PKG_VERSION"))];
/// Powers of ten that a value is lowered by until it fits its registers.
const LOWER_MAX: u32 = 12;

/// Answers on a listener for the devices of one address until it is cancelled.
pub async fn serve_tcp(listener: TcpListener, devices: Vec<Arc<Device>>, cancel: CancellationToken) {
    let host = Host::new(&devices, Absent::Refused);
    let on_connected = |stream, _| ready(host.admit(stream));
    let server = tcp::Server::new(listener);
    keep_serving("server", cancel, || server.serve(&on_connected, |error| note(&error))).await;
}

/// Answers on a listener as a converter does that has these devices on its line, until it is cancelled.
pub async fn serve_rtu_over_tcp(listener: TcpListener, devices: Vec<Arc<Device>>, cancel: CancellationToken) {
    let host = Host::new(&devices, Absent::Silent);
    let on_connected = |stream, _| ready(host.admit(stream));
    let server = rtu_over_tcp::Server::new(listener);
    keep_serving("converter", cancel, || server.serve(&on_connected, |error| note(&error))).await;
}

async fn keep_serving<F>(what: &'static str, cancel: CancellationToken, serve: impl Fn() -> F)
where
    F: Future<Output = io::Result<()>>,
{
    let serve = async {
        loop {
            // It ends where a connection cannot be accepted or its peer is gone at once.
            let ended = serve().await;
            debug!(?ended, "simulated {what}");
            sleep(RESTART_PAUSE).await;
        }
    };
    let _: Option<()> = cancel.run_until_cancelled(serve).await;
}

fn note(error: &io::Error) {
    debug!(%error, "simulated connection");
}

/// Answers on a serial port for the devices on it until it is cancelled. The first opening must succeed.
pub async fn serve_rtu(
    port: &Port,
    path: &Path,
    devices: Vec<Arc<Device>>,
    cancel: CancellationToken,
) -> Result<(), LineError> {
    let path = path.to_string_lossy();
    let builder = builder_of(port, &path);
    let simulator = Arc::new(Simulator::new(&devices));
    let mut serial = SerialStream::open(&builder)
        .map_err(|error| LineError::Open { path: (&*path).into(), kind: kind_of(&error) })?;
    while !cancel.is_cancelled() {
        let behind = Behind { simulator: Arc::clone(&simulator), absent: Absent::Silent, _permit: None };
        // It ends at the first frame that cannot be read.
        let ended = rtu::Server::new(serial).serve_until(behind, cancel.clone().cancelled_owned()).await;
        debug!(?ended, "simulated port");
        serial = loop {
            if cancel.is_cancelled() {
                return Ok(());
            }
            match SerialStream::open(&builder) {
                Ok(serial) => break serial,
                Err(_) => sleep(RESTART_PAUSE).await,
            }
        };
    }
    Ok(())
}

/// What becomes of a request to a unit that is not there.
#[derive(Clone, Copy)]
enum Absent {
    /// A gateway says so.
    Refused,
    /// As on a line.
    Silent,
}

/// A listener's devices, and room for those who ask them.
struct Host {
    simulator: Arc<Simulator>,
    absent: Absent,
    permits: Arc<Semaphore>,
}

impl Host {
    fn new(devices: &[Arc<Device>], absent: Absent) -> Self {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        Self { simulator: Arc::new(Simulator::new(devices)), absent, permits }
    }

    /// None: no room.
    fn admit(&self, stream: TcpStream) -> io::Result<Option<(Behind, TcpStream)>> {
        stream.set_nodelay(true)?;
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok();
        let simulator = Arc::clone(&self.simulator);
        Ok(permit.map(|permit| (Behind { simulator, absent: self.absent, _permit: Some(permit) }, stream)))
    }
}

/// What stands behind a connection.
struct Behind {
    simulator: Arc<Simulator>,
    absent: Absent,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Service for Behind {
    type Request = SlaveRequest<'static>;
    type Response = Option<Response>;
    type Exception = ExceptionCode;
    type Future = Ready<Result<Option<Response>, ExceptionCode>>;

    fn call(&self, request: Self::Request) -> Self::Future {
        let answer = self.simulator.answer(request.slave, &request.request);
        ready(match (answer, self.absent) {
            (None, Absent::Refused) => Err(ExceptionCode::GatewayTargetDevice),
            (answer, _) => answer.transpose(),
        })
    }
}

/// The devices of one line and what they hold.
pub(crate) struct Simulator {
    units: BTreeMap<u8, Unit>,
    started: Instant,
}

struct Unit {
    points: Vec<Point>,
    /// The points from which others have their scale.
    scales: BTreeSet<usize>,
    /// Table, first address and how many: the points, and the gaps that a gateway reads along.
    spans: Vec<(Table, u16, u16)>,
    /// What was written.
    held: Mutex<BTreeMap<(Table, u16), u16>>,
}

impl Simulator {
    pub(crate) fn new(devices: &[Arc<Device>]) -> Self {
        let units = devices.iter().map(|device| (device.link.unit(), Unit::new(device)));
        Self { units: units.collect(), started: Instant::now() }
    }

    pub(crate) fn has(&self, unit: u8) -> bool {
        self.units.contains_key(&unit)
    }

    /// None: no such unit.
    pub(crate) fn answer(&self, unit: u8, request: &Request<'_>) -> Option<Result<Response, ExceptionCode>> {
        Some(self.units.get(&unit)?.answer(request, self.started.elapsed()))
    }
}

impl Unit {
    fn new(device: &Device) -> Self {
        let due: Vec<usize> = (0..device.points.len()).collect();
        let blocks = plan::blocks(&device.points, &due, &Limits::of(device));
        let mut spans: Vec<(Table, u16, u16)> = Vec::new();
        for block in &blocks {
            match spans.last_mut() {
                // However a gateway cuts its reads.
                Some((table, start, length))
                    if *table == block.table
                        && block.address.saturating_sub(start.saturating_add(*length)) <= device.max_gap =>
                {
                    *length = (*length).max((block.address - *start).saturating_add(block.count));
                }
                _ => spans.push((block.table, block.address, block.count)),
            }
        }
        let mut held = BTreeMap::new();
        if device.has_sunspec() {
            let map = Map::nominal(&device.points);
            let length = map.end().saturating_sub(map.base).saturating_add(HEADER_REGISTERS);
            spans.push((Table::Holding, map.base, length));
            held = chain(&map).into_iter().map(|(at, word)| ((Table::Holding, at), word)).collect();
        }
        Self {
            points: device.points.clone(),
            scales: device.points.iter().filter_map(|point| point.scale_from).collect(),
            spans,
            held: Mutex::new(held),
        }
    }

    fn answer(&self, request: &Request<'_>, elapsed: Duration) -> Result<Response, ExceptionCode> {
        let bits = |words: Vec<u16>| words.into_iter().map(|word| word != 0).collect();
        match request {
            Request::ReadCoils(address, count) => {
                Ok(Response::ReadCoils(bits(self.read(Table::Coil, *address, *count, elapsed)?)))
            }
            Request::ReadDiscreteInputs(address, count) => Ok(Response::ReadDiscreteInputs(bits(
                self.read(Table::Discrete, *address, *count, elapsed)?,
            ))),
            Request::ReadHoldingRegisters(address, count) => {
                Ok(Response::ReadHoldingRegisters(self.read(Table::Holding, *address, *count, elapsed)?))
            }
            Request::ReadInputRegisters(address, count) => {
                Ok(Response::ReadInputRegisters(self.read(Table::Input, *address, *count, elapsed)?))
            }
            Request::WriteSingleCoil(address, bit) => {
                self.write(Table::Coil, *address, &[u16::from(*bit)])?;
                Ok(Response::WriteSingleCoil(*address, *bit))
            }
            Request::WriteMultipleCoils(address, bits) => {
                let words: Vec<u16> = bits.iter().map(|bit| u16::from(*bit)).collect();
                self.write(Table::Coil, *address, &words)?;
                Ok(Response::WriteMultipleCoils(*address, count_of(&words)))
            }
            Request::WriteSingleRegister(address, word) => {
                self.write(Table::Holding, *address, &[*word])?;
                Ok(Response::WriteSingleRegister(*address, *word))
            }
            Request::WriteMultipleRegisters(address, words) => {
                self.write(Table::Holding, *address, words)?;
                Ok(Response::WriteMultipleRegisters(*address, count_of(words)))
            }
            Request::MaskWriteRegister(address, and, or) => {
                let word = *self.read(Table::Holding, *address, 1, elapsed)?.first().unwrap_or(&0);
                self.write(Table::Holding, *address, &[(word & and) | (or & !and)])?;
                Ok(Response::MaskWriteRegister(*address, *and, *or))
            }
            Request::ReadWriteMultipleRegisters(address, count, write_address, words) => {
                self.check(Table::Holding, *address, *count)?;
                self.write(Table::Holding, *write_address, words)?;
                Ok(Response::ReadWriteMultipleRegisters(self.read(
                    Table::Holding,
                    *address,
                    *count,
                    elapsed,
                )?))
            }
            Request::ReadDeviceIdentification(code, _) => {
                let objects = IDENTIFICATION
                    .iter()
                    .map(|(id, text)| DeviceIdObject { id: *id, value: Bytes::from_static(text.as_bytes()) });
                Ok(Response::ReadDeviceIdentification(ReadDeviceIdentificationResponse {
                    read_code: *code,
                    conformity_level: ConformityLevel::BasicIdentificationStreamOnly,
                    more_follows: false,
                    next_object_id: 0,
                    device_id_objects: objects.collect(),
                }))
            }
            _ => Err(ExceptionCode::IllegalFunction),
        }
    }

    /// Modbus Application Protocol 7, code 2: an address that no point has, nor lies between them.
    fn check(&self, table: Table, address: u16, count: u16) -> Result<(), ExceptionCode> {
        let count_max = match table {
            Table::Coil | Table::Discrete => plan::BITS_MAX,
            Table::Holding | Table::Input => plan::REGISTERS_MAX,
        };
        if count == 0 || count > count_max {
            return Err(ExceptionCode::IllegalDataValue);
        }
        let (first, end) = (u32::from(address), u32::from(address) + u32::from(count));
        let is_known = self.spans.iter().any(|(of, start, length)| {
            *of == table && u32::from(*start) <= first && end <= u32::from(*start) + u32::from(*length)
        });
        if is_known { Ok(()) } else { Err(ExceptionCode::IllegalDataAddress) }
    }

    fn read(
        &self,
        table: Table,
        address: u16,
        count: u16,
        elapsed: Duration,
    ) -> Result<Vec<u16>, ExceptionCode> {
        self.check(table, address, count)?;
        let mut image = BTreeMap::new();
        let of_table = self.points.iter().enumerate().filter(|(_, point)| point.source.table == table);
        for (index, point) in of_table {
            let words = if self.scales.contains(&index) {
                scale_words(point)
            } else {
                words_at(point, index, elapsed)
            };
            for (at, word) in (point.source.address..).zip(words) {
                image.insert(at, word);
            }
        }
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let word = |at| held.get(&(table, at)).or_else(|| image.get(&at)).copied().unwrap_or(0);
        Ok((address..=u16::MAX).take(usize::from(count)).map(word).collect())
    }

    fn write(&self, table: Table, address: u16, words: &[u16]) -> Result<(), ExceptionCode> {
        self.check(table, address, count_of(words))?;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.extend((address..=u16::MAX).zip(words).map(|(at, word)| ((table, at), *word)));
        Ok(())
    }
}

/// The mark, the headers of the models, how many modules they have, and the end.
fn chain(map: &Map) -> Vec<(u16, u16)> {
    let pair = |at: u16, words: [u16; 2]| (at..).zip(words);
    let mut words: Vec<(u16, u16)> = pair(map.base, MARK).collect();
    for placed in &map.models {
        words.extend(pair(placed.address.saturating_sub(HEADER_REGISTERS), [placed.number, placed.length]));
        let Some(model) = model(placed.number).filter(|model| model.lengths.1 > 0) else { continue };
        if let Some(count) = model.field("N", false) {
            let modules = placed.length.saturating_sub(model.lengths.0) / model.lengths.1;
            words.push((placed.address.saturating_add(count.offset), modules));
        }
    }
    words.extend(pair(map.end(), [END, 0]));
    words
}

fn count_of(words: &[u16]) -> u16 {
    u16::try_from(words.len()).unwrap_or(u16::MAX)
}

fn scale_words(point: &Point) -> Vec<u16> {
    match encode(point, &Value::Signed(EXPONENT.into()), 0) {
        Ok(Raw::Words(words)) => words,
        // It has no sign: the exponent is 0.
        _ => zeros(point),
    }
}

fn zeros(point: &Point) -> Vec<u16> {
    vec![0; usize::from(point.value_type.registers())]
}

/// What values of a point are scaled with.
fn exponent_of(point: &Point) -> Exponent {
    if point.scale_from.is_some() { EXPONENT } else { 0 }
}

/// A point's registers (or bits) at a time. What may be written keeps its first value until it is.
fn words_at(point: &Point, index: usize, elapsed: Duration) -> Vec<u16> {
    let elapsed = if point.writable { Duration::ZERO } else { elapsed };
    match encoded(point, index, elapsed) {
        Some(Raw::Bit(bit)) => vec![u16::from(bit)],
        Some(Raw::Words(words)) => words,
        Some(Raw::Masked(masked)) => masked.into_iter().map(|masked| masked.bits).collect(),
        None => zeros(point),
    }
}

fn encoded(point: &Point, index: usize, elapsed: Duration) -> Option<Raw> {
    let turn = elapsed.as_secs() / TOGGLE_SECS + index as u64;
    let one_of = |count: usize| usize::try_from(turn).unwrap_or(0).checked_rem(count);
    if point.value_type == ValueType::Bool {
        return encode(point, &Value::Bool(turn % 2 == 1), 0).ok();
    }
    if let ValueType::String { registers } = point.value_type {
        let text: String = point.name.chars().take(usize::from(registers) * 2).collect();
        return encode(point, &Value::Text(text.into()), 0).ok();
    }
    if let Some(label) = one_of(point.labels.len()).and_then(|at| point.labels.get(at)) {
        let number = i64::try_from(label.number).ok()?;
        return encode(point, &Value::Signed(number), 0).ok();
    }
    if !point.bits.is_empty() {
        // Each bit for a while, and numbers that count.
        let parts = point.bits.iter().enumerate().map(|(at, field)| {
            let value = match field.width {
                1 => BitsValue::Flag(one_of(point.bits.len()) == Some(at)),
                _ => BitsValue::Number(turn % (field.max().saturating_add(1)).max(1)),
            };
            NamedBits { name: Arc::clone(&field.name), value }
        });
        return encode(point, &Value::Bits(parts.collect()), 0).ok();
    }
    let value = number_at(point, index, elapsed);
    let lowered = (0..=LOWER_MAX).map(|power| value / 10f64.powf(f64::from(power)));
    let mut fitting = lowered.filter_map(|value| encoded_number(point, value));
    fitting.next()
}

/// Integers without a scale take whole numbers only, and some of them stand for no value.
fn encoded_number(point: &Point, value: f64) -> Option<Raw> {
    let exponent = exponent_of(point);
    let raw = [value, value.round()]
        .into_iter()
        .find_map(|value| encode(point, &Value::Float(value), exponent).ok());
    raw.filter(|raw| !matches!(raw, Raw::Words(words) if decode_words(point, words, exponent).is_err()))
}

/// A sine between the point's bounds, or around what its unit makes likely; a meter of energy counts.
fn number_at(point: &Point, index: usize, elapsed: Duration) -> f64 {
    let elapsed = if point.writable { None } else { Some(elapsed) };
    moving(point.unit.as_deref().unwrap_or(""), (point.min, point.max), index, elapsed)
}

/// `elapsed` is None for what stands still.
pub(crate) fn moving(
    unit: &str,
    bounds: (Option<f64>, Option<f64>),
    index: usize,
    elapsed: Option<Duration>,
) -> f64 {
    let secs = elapsed.unwrap_or_default().as_secs_f64();
    if unit.ends_with("Wh") {
        return 1_000.0 + (secs * 10.0).round() / 100.0;
    }
    let (likely, swing): (f64, f64) = match unit {
        "V" => (230.0, 5.0),
        "A" => (5.0, 2.0),
        "Hz" => (50.0, 0.05),
        "°C" => (21.0, 2.0),
        "%" => (60.0, 20.0),
        _ => (100.0, 20.0),
    };
    let (middle, swing) = match bounds {
        (Some(min), Some(max)) => (f64::midpoint(min, max), (max - min) * 0.4),
        (Some(min), None) => (likely.max(min + swing), swing),
        (None, Some(max)) => (likely.min(max - swing), swing),
        (None, None) => (likely, swing),
    };
    // Neighbours move out of step.
    let phase = secs / PERIOD_SECS + u32::try_from(index).map_or(0.0, f64::from) / 7.0;
    let moved = elapsed.map_or(0.0, |_| swing * (TAU * phase).sin());
    ((middle + moved) * 1_000.0).round() / 1_000.0
}
