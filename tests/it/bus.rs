//! The hand of the devices on real TCP and real ptys, against the simulator and against faulty units. The unit
//! in these tests holds in each register its own address: a wrong value cannot hide.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tidegate::base::time::{Clock, Duration};
use tidegate::bus::door::Door;
use tidegate::bus::memory::Memory;
use tidegate::bus::roster::Roster;
use tidegate::bus::share::SharedLine;
use tidegate::bus::simulator::{serve_rtu, serve_tcp};
use tidegate::bus::{Endpoint, Ends, Office, lines, run};
use tidegate::config::expand::Environment;
use tidegate::config::load::load;
use tidegate::config::model::{Device, Link, Point, Source, Table, ValueType, When};
use tidegate::config::point::{BitField, Label, Meaning};
use tidegate::config::port::{DataBits, Parity, Port, StopBits};
use tidegate::device::command::Order;
use tidegate::device::effect::Done;
use tidegate::device::status::{DeviceStatus, State};
use tidegate::device::{LineSettings, Poller};
use tidegate::mqtt::message::{Message, Origin};
use tidegate::mqtt::qos::{PacketId, QoS};
use tidegate::mqtt::topic::TopicName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_serial::{SerialPort as _, SerialStream};
use tokio_util::sync::CancellationToken;

use crate::device::{device, point};

/// Nothing here takes that long unless it never comes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The gateway around a line: hands out what it is told to, and keeps what the line says.
#[derive(Default)]
struct Desk {
    messages: Arc<Mutex<Vec<Message>>>,
    news: Arc<Notify>,
    orders: Mutex<Vec<Order>>,
    bell: Arc<Notify>,
}

impl Door for Desk {
    fn drives(&self, _: &[u16], _: &[u16]) {}

    fn take_orders(&self, orders: &mut Vec<Order>) {
        orders.append(&mut self.orders.lock().expect("no test panicked"));
    }

    fn report(&self, publishes: Vec<Message>, done: Vec<Done>) {
        assert!(!publishes.is_empty() || !done.is_empty());
        let answers = done.into_iter().filter_map(|done| done.answer);
        self.messages.lock().expect("no test panicked").extend(publishes.into_iter().chain(answers));
        self.news.notify_one();
    }

    fn bell(&self) -> Arc<Notify> {
        self.bell.clone()
    }
}

/// A line under test.
pub(crate) struct Gateway {
    messages: Arc<Mutex<Vec<Message>>>,
    news: Arc<Notify>,
    desk: Arc<Desk>,
    pub(crate) status: watch::Receiver<Vec<DeviceStatus>>,
    cancel: CancellationToken,
    clock: Clock,
    task: tokio::task::JoinHandle<()>,
}

impl Gateway {
    pub(crate) fn start(endpoint: Endpoint, devices: Vec<Device>) -> Self {
        Self::start_shared(endpoint, devices, None)
    }

    /// Beside other masters.
    pub(crate) fn start_shared(
        endpoint: Endpoint,
        devices: Vec<Device>,
        share: Option<Arc<SharedLine>>,
    ) -> Self {
        let clock = Clock::start();
        let settings = LineSettings {
            gateway: "g".into(),
            devices: (0..).zip(devices.into_iter().map(Arc::new)).collect(),
        };
        let roster = Roster::new(settings.clone());
        let poller = Poller::new(settings, clock.now());
        let desk = Arc::new(Desk::default());
        let (sender, status) = watch::channel(Vec::new());
        let cancel = CancellationToken::new();
        let memory = Memory::open(Path::new("/dev/null/nowhere"));
        let office = Office { desk: Arc::default(), frames: Arc::default(), memory, roster, share };
        let ends = Ends { door: desk.clone(), status: sender, clock: clock.clone(), cancel: cancel.clone() };
        let task = tokio::spawn(run(endpoint, poller, office, ends));
        let (messages, news) = (Arc::clone(&desk.messages), Arc::clone(&desk.news));
        Self { messages, news, desk, status, cancel, clock, task }
    }

    /// The payloads of a topic.
    pub(crate) fn heard(&self, topic: &str) -> Vec<String> {
        let messages = self.messages.lock().expect("no test panicked");
        let of_topic = messages.iter().filter(|message| message.topic.as_str() == topic);
        of_topic.map(|message| String::from_utf8_lossy(&message.payload).into_owned()).collect()
    }

    pub(crate) async fn wait_until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !holds(self) {
                let _ = timeout(Duration::from_millis(100), self.news.notified()).await;
            }
        };
        let came = timeout(PATIENCE, waiting).await.is_ok();
        assert!(came, "never: {what}; status: {:?}", self.status.borrow());
    }

    pub(crate) fn state(&self) -> Option<State> {
        self.status.borrow().first().map(|device| device.state)
    }

    fn failure(&self) -> String {
        let status = self.status.borrow();
        status.first().and_then(|device| device.last_failure.clone()).map_or(String::new(), |f| f.to_string())
    }

    pub(crate) fn set(&self, topic: &str, payload: &str) {
        let topic = TopicName::new(topic).expect("a valid topic");
        let origin = Origin::Client("c".into());
        let message = Message::new(topic, payload.to_owned(), QoS::AtLeastOnce, origin, self.clock.now());
        let id = PacketId::new(1);
        let order = Order { device: 0, id, message: Arc::new(message), repeated: false };
        self.desk.orders.lock().expect("no test panicked").push(order);
        self.desk.bell.notify_one();
    }

    /// Good readings so far, each held against the address that its point is named after.
    pub(crate) fn good_and_right(&self) -> usize {
        let messages = self.messages.lock().expect("no test panicked");
        let mut good = 0;
        for message in messages.iter() {
            let Some((unit, address)) = unit_and_address(message.topic.as_str()) else { continue };
            let json: serde_json::Value = serde_json::from_slice(&message.payload).expect("valid JSON");
            if json["quality"] == "good" {
                good += 1;
            }
            if json["quality"] != "bad" {
                assert_eq!(json["value"], unit * 1_000 + address, "{message:?}");
            }
        }
        good
    }

    pub(crate) async fn stop(self) {
        self.cancel.cancel();
        timeout(PATIENCE, self.task).await.expect("ends").expect("without a panic");
    }
}

/// `devices/u2/r30` is register 30 of unit 2, which holds 2030.
fn unit_and_address(topic: &str) -> Option<(u16, u16)> {
    let (unit, address) = topic.strip_prefix("devices/u")?.split_once("/r")?;
    Some((unit.parse().ok()?, address.parse().ok()?))
}

/// A unit whose registers are each read alone, with the same function and count: what RTU cannot tell apart.
pub(crate) fn faulty(unit: u8, link: Link, timeout: Duration) -> Device {
    let points = (1..6)
        .map(|at| Point { poll: Duration::from_millis(40), ..point(&format!("r{}", at * 30), at * 30) });
    let mut settings = device(&format!("u{unit}"), unit, points.collect());
    settings.link = link;
    settings.timeout = timeout;
    settings.retries = 1;
    settings.max_gap = 0;
    settings.publish.when = When::Poll;
    settings.reconnect.min = Duration::from_millis(20);
    settings.reconnect.max = Duration::from_millis(100);
    settings
}

pub(crate) fn port(path: &Path) -> Port {
    Port {
        name: "p".into(),
        path: path.to_owned(),
        baud_rate: 115_200,
        data_bits: DataBits::Eight,
        parity: Parity::None,
        stop_bits: StopBits::One,
        turnaround: Duration::ZERO,
        rs485: None,
        share: None,
    }
}

/// The far end of a pty and the path of the near one, which stays open so that the far end lives.
pub(crate) fn pty() -> (SerialStream, SerialStream, PathBuf) {
    let (far, near) = SerialStream::pair().expect("a pty pair");
    let path = near.name().expect("the pty's path").into();
    (far, near, path)
}

fn field(name: &str, first: u8, width: u8) -> BitField {
    BitField { name: name.into(), first, width }
}

/// Points of all tables and types, to be played by the simulator.
fn simulated(link: Link) -> Device {
    let of = |name: &str, table, address, value_type| Point {
        source: Source { table, address },
        value_type,
        poll: Duration::from_millis(50),
        ..point(name, address)
    };
    let points = vec![
        Point { unit: Some("V".into()), round: Some(1), ..of("voltage", Table::Input, 0, ValueType::F32) },
        of("power", Table::Input, 4, ValueType::I32),
        Point {
            min: Some(5.0),
            max: Some(30.0),
            scale: 0.1,
            writable: true,
            ..of("setpoint", Table::Holding, 100, ValueType::I16)
        },
        Point { writable: true, ..of("total", Table::Holding, 102, ValueType::U64) },
        Point { writable: true, ..of("relay", Table::Coil, 3, ValueType::Bool) },
        Point { invert: true, ..of("door", Table::Discrete, 5, ValueType::Bool) },
        of("label", Table::Holding, 120, ValueType::String { registers: 4 }),
        Point {
            bits: vec![field("alarm", 0, 1), field("gear", 4, 3)],
            writable: true,
            ..of("state", Table::Holding, 140, ValueType::U16)
        },
        Point {
            labels: vec![Label { number: 1, meaning: Meaning::Text("auto".into()) }],
            ..of("mode", Table::Holding, 141, ValueType::U16)
        },
        Point {
            unit: Some("V".into()),
            scale_from: Some(10),
            ..of("scaled", Table::Holding, 142, ValueType::I16)
        },
        of("exponent", Table::Holding, 143, ValueType::I16),
        of("digits", Table::Holding, 144, ValueType::Bcd32),
    ];
    let mut settings = device("m", 1, points);
    settings.link = link;
    settings
}

async fn assert_simulated(gateway: &Gateway) {
    gateway
        .wait_until("first readings", |gateway| {
            let plain = ["voltage", "power", "setpoint", "total", "relay", "door", "label"];
            let others = ["state", "mode", "scaled", "exponent", "digits"];
            plain.iter().chain(&others).all(|name| !gateway.heard(&format!("devices/m/{name}")).is_empty())
        })
        .await;
    assert_eq!(gateway.heard("devices/m/status"), ["online"]);
    let value = |name: &str| -> serde_json::Value {
        let last = gateway.heard(&format!("devices/m/{name}")).pop().expect("heard");
        let json: serde_json::Value = serde_json::from_str(&last).expect("valid JSON");
        assert_eq!(json["quality"], "good", "{name}: {last}");
        json["value"].clone()
    };
    let voltage = value("voltage").as_f64().expect("a number");
    assert!((220.0..=240.0).contains(&voltage), "{voltage}");
    assert_eq!(value("setpoint"), 17.5);
    assert_eq!(value("relay"), false);
    assert_eq!(value("label"), "label");
    assert_eq!((value("mode"), value("exponent")), ("auto".into(), (-1).into()));
    for (name, range) in [("scaled", 220.0..=240.0), ("digits", 70.0..=130.0)] {
        let number = value(name).as_f64().expect("a number");
        assert!(range.contains(&number), "{name}: {number}");
    }
    gateway.wait_until("a moving value", |gateway| gateway.heard("devices/m/voltage").len() > 2).await;

    gateway.set("devices/m/setpoint/set", "21.5");
    gateway.set("devices/m/total/set", "9007199254740993");
    gateway.set("devices/m/relay/set", r#"{"value":true}"#);
    gateway.set("devices/m/setpoint/set", "99");
    gateway.set("devices/m/state/set", r#"{"alarm":true,"gear":6}"#);
    gateway
        .wait_until("results", |gateway| {
            gateway.heard("devices/m/setpoint/result").len() == 2
                && gateway.heard("devices/m/total/result").len() == 1
                && gateway.heard("devices/m/relay/result").len() == 1
                && gateway.heard("devices/m/state/result").len() == 1
        })
        .await;
    let mut results = gateway.heard("devices/m/setpoint/result");
    results.sort();
    assert_eq!(
        results,
        [r#"{"ok":false,"error":"setpoint: 99 is above max 30"}"#, r#"{"value":21.5,"ok":true}"#]
    );
    assert_eq!(gateway.heard("devices/m/total/result"), [r#"{"value":9007199254740993,"ok":true}"#]);
    assert_eq!(gateway.heard("devices/m/relay/result"), [r#"{"value":true,"ok":true}"#]);
    assert_eq!(gateway.heard("devices/m/state/result"), [r#"{"value":{"alarm":true,"gear":6},"ok":true}"#]);
    assert_eq!(value("setpoint"), 21.5);
    assert_eq!(value("total"), 9_007_199_254_740_993_u64);
    assert_eq!(value("relay"), true);
}

#[tokio::test]
async fn the_simulator_is_read_and_written_over_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address: Arc<str> = listener.local_addr().expect("bound").to_string().into();
    let settings = simulated(Link::Tcp { address: Arc::clone(&address), unit: 1 });
    let cancel = CancellationToken::new();
    let server = tokio::spawn(serve_tcp(listener, vec![Arc::new(settings.clone())], cancel.clone()));
    let mut unknown = device("unknown", 9, vec![point("a", 0)]);
    unknown.link = Link::Tcp { address: Arc::clone(&address), unit: 9 };
    let mut outside = simulated(Link::Tcp { address: Arc::clone(&address), unit: 1 });
    outside.name = "outside".into();
    outside.points = vec![point("nowhere", 5_000)];
    let gateway = Gateway::start(Endpoint::Tcp { address }, vec![settings, unknown, outside]);
    assert_simulated(&gateway).await;
    gateway.wait_until("an exception", |gateway| !gateway.heard("devices/outside/nowhere").is_empty()).await;
    assert!(gateway.heard("devices/outside/nowhere")[0].contains("exception 2 (illegal data address)"));
    gateway
        .wait_until("a silent unit", |gateway| gateway.heard("devices/unknown/status") == ["offline"])
        .await;
    cancel.cancel();
    server.await.expect("ends");
    gateway.wait_until("the server's end", |gateway| gateway.state() == Some(State::Offline)).await;
    gateway.stop().await;
}

#[tokio::test]
async fn the_simulator_is_read_and_written_over_a_serial_line() {
    let ((mut far_a, _near_a, path_a), (mut far_b, _near_b, path_b)) = (pty(), pty());
    tokio::spawn(async move { tokio::io::copy_bidirectional(&mut far_a, &mut far_b).await });
    let settings = simulated(Link::Rtu { port: 0, unit: 1 });
    let cancel = CancellationToken::new();
    let (devices, stop) = (vec![Arc::new(settings.clone())], cancel.clone());
    let server = tokio::spawn(async move { serve_rtu(&port(&path_a), &path_a, devices, stop).await });
    let gateway = Gateway::start(Endpoint::Rtu(port(&path_b)), vec![settings]);
    assert_simulated(&gateway).await;
    gateway.stop().await;
    cancel.cancel();
    server.await.expect("no panic").expect("the port opened");
}

#[tokio::test]
async fn the_simulator_bounds_its_connections() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let settings = simulated(Link::Tcp { address: address.to_string().into(), unit: 1 });
    let cancel = CancellationToken::new();
    tokio::spawn(serve_tcp(listener, vec![Arc::new(settings)], cancel.clone()));
    let mut held = Vec::new();
    for _ in 0..16 {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        assert!(asks_coil(&mut stream).await);
        held.push(stream);
    }
    let mut refused = TcpStream::connect(address).await.expect("the kernel accepts");
    assert!(!asks_coil(&mut refused).await, "one too many");
    held.pop();
    let again = async {
        while !asks_coil(&mut TcpStream::connect(address).await.expect("connected")).await {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, again).await.expect("a place was freed");
    cancel.cancel();
}

async fn asks_coil(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 10];
    let request = [0, 1, 0, 0, 0, 6, 1, 1, 0, 3, 0, 1];
    stream.write_all(&request).await.is_ok() && stream.read_exact(&mut answer).await.is_ok()
}

/// What a faulty unit does with the n-th request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    None,
    /// Answers after so many milliseconds, and hears nothing meanwhile.
    Late(u64),
    Silent,
    /// Bytes that are no frame instead of an answer.
    Garbage,
    /// Half of the answer, and the other half late.
    Half,
    /// The answer of another unit.
    WrongUnit,
    /// Of another function.
    WrongFunction,
    /// One register too many.
    TooLong,
    /// A broken checksum (RTU) or transaction (TCP).
    WrongCheck,
    /// The answer twice.
    Twice,
    /// A stray byte before the answer, as drivers that switch leave it.
    StrayByte,
    /// The connection is closed (TCP).
    Close,
    Exception,
}

pub(crate) fn crc(bytes: &[u8]) -> [u8; 2] {
    let mut crc = 0xFFFF_u16;
    for byte in bytes {
        crc ^= u16::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xA001 } else { crc >> 1 };
        }
    }
    crc.to_le_bytes()
}

/// The answer's PDU: each register holds unit * 1000 + its own address.
pub(crate) fn pdu(unit: u8, request: [u8; 5], fault: Fault) -> Vec<u8> {
    let [function, a, b, c, d] = request;
    let (address, count) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let count = if matches!(fault, Fault::TooLong) { count + 1 } else { count };
    if matches!(fault, Fault::Exception) {
        return vec![function | 0x80, 4];
    }
    let function = if matches!(fault, Fault::WrongFunction) { 4 } else { function };
    let mut pdu = vec![function, u8::try_from(count * 2).expect("short")];
    for at in address..address + count {
        pdu.extend((u16::from(unit) * 1_000 + at).to_be_bytes());
    }
    pdu
}

pub(crate) fn rtu_frame(unit: u8, request: [u8; 5], fault: Fault) -> Vec<u8> {
    let shown = if matches!(fault, Fault::WrongUnit) { unit + 1 } else { unit };
    let mut frame = vec![shown];
    frame.extend(pdu(unit, request, fault));
    frame.extend(crc(&frame));
    if matches!(fault, Fault::WrongCheck) {
        *frame.last_mut().expect("not empty") ^= 1;
    }
    frame
}

/// Units on a serial line; `fault` is asked for each request by its number.
async fn faulty_rtu(mut line: SerialStream, fault: impl Fn(usize) -> Fault) {
    let mut request = [0; 8];
    for number in 0.. {
        if line.read_exact(&mut request).await.is_err() {
            return;
        }
        let [unit, function, a, b, c, d, ..] = request;
        assert_eq!(request[6..], crc(&request[..6]), "the gateway's own frames are whole");
        let fault = fault(number);
        let frame = rtu_frame(unit, [function, a, b, c, d], fault);
        let written = match fault {
            Fault::Silent | Fault::Close => Ok(()),
            Fault::Late(millis) => {
                sleep(Duration::from_millis(millis)).await;
                line.write_all(&frame).await
            }
            Fault::Garbage => line.write_all(&[0xFF; 40]).await,
            Fault::Half => {
                let _ = line.write_all(&frame[..4]).await;
                sleep(Duration::from_millis(90)).await;
                line.write_all(&frame[4..]).await
            }
            Fault::Twice => line.write_all(&[&frame[..], &frame[..]].concat()).await,
            Fault::StrayByte => line.write_all(&[&[0], &frame[..]].concat()).await,
            _ => line.write_all(&frame).await,
        };
        if written.is_err() {
            return;
        }
    }
}

/// Each fault often, in every order.
pub(crate) fn shuffled(faults: &'static [Fault], seed: u64) -> impl Fn(usize) -> Fault + Clone {
    move |number| {
        let mut rng = fastrand::Rng::with_seed(seed.wrapping_mul(1 << 32) + number as u64);
        if rng.u8(0..3) < 2 { Fault::None } else { faults[rng.usize(0..faults.len())] }
    }
}

const RTU_FAULTS: [Fault; 12] = [
    Fault::Late(80),
    Fault::Late(110),
    Fault::Silent,
    Fault::Garbage,
    Fault::Half,
    Fault::WrongUnit,
    Fault::WrongFunction,
    Fault::TooLong,
    Fault::WrongCheck,
    Fault::Twice,
    Fault::StrayByte,
    Fault::Exception,
];

/// Runs two units on a faulty line until `good` readings came, and holds each against its address.
async fn assert_never_wrong(fault: impl Fn(usize) -> Fault + Send + 'static, good: usize) {
    let (far, _near, path) = pty();
    tokio::spawn(faulty_rtu(far, fault));
    let of = |unit| faulty(unit, Link::Rtu { port: 0, unit }, Duration::from_millis(60));
    let gateway = Gateway::start(Endpoint::Rtu(port(&path)), vec![of(1), of(2)]);
    gateway.wait_until("enough good readings", |gateway| gateway.good_and_right() >= good).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_faulty_serial_line_never_shows_a_wrong_value() {
    tokio::join!(
        assert_never_wrong(shuffled(&RTU_FAULTS, 1), 40),
        assert_never_wrong(shuffled(&RTU_FAULTS, 2), 40),
        assert_never_wrong(shuffled(&RTU_FAULTS, 3), 40),
        assert_never_wrong(shuffled(&RTU_FAULTS, 4), 40),
    );
}

#[tokio::test]
async fn one_late_answer_does_not_shift_the_ones_behind_it() {
    // The case that the protocol cannot see: one late answer, then a healthy line.
    assert_never_wrong(|number| if number == 0 { Fault::Late(110) } else { Fault::None }, 60).await;
    assert_never_wrong(|number| if number % 7 == 3 { Fault::Garbage } else { Fault::None }, 60).await;
}

/// Works on several requests at once: each answer comes so long after its own request.
fn always_late(far: SerialStream, late: Duration) {
    let (mut reader, mut writer) = tokio::io::split(far);
    let (frames, mut due) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut request = [0; 8];
        while reader.read_exact(&mut request).await.is_ok() {
            let [unit, function, a, b, c, d, ..] = request;
            let frame = rtu_frame(unit, [function, a, b, c, d], Fault::None);
            if frames.send((tokio::time::Instant::now() + late, frame)).is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        while let Some((at, frame)) = due.recv().await {
            tokio::time::sleep_until(at).await;
            if writer.write_all(&frame).await.is_err() {
                return;
            }
        }
    });
}

#[tokio::test]
async fn a_unit_that_is_always_late_is_never_believed() {
    let mut gateways = Vec::new();
    for late in [70, 100, 130, 160, 190, 250] {
        let (far, near, path) = pty();
        always_late(far, Duration::from_millis(late));
        let mut settings = faulty(1, Link::Rtu { port: 0, unit: 1 }, Duration::from_millis(60));
        settings.retries = 0;
        gateways.push((Gateway::start(Endpoint::Rtu(port(&path)), vec![settings]), near));
    }
    for (gateway, _near) in gateways {
        let polls = |gateway: &Gateway| gateway.status.borrow().first().map_or(0, |device| device.polls);
        gateway.wait_until("many polls", |gateway| polls(gateway) >= 12).await;
        gateway.good_and_right();
        gateway.stop().await;
    }
}

#[tokio::test]
async fn stray_bytes_of_a_driver_are_no_reason_to_fail() {
    // Nor to stay suspicious for ever after one answer was lost.
    assert_never_wrong(|number| if number % 9 == 4 { Fault::Silent } else { Fault::StrayByte }, 40).await;
}

async fn faulty_tcp(mut stream: TcpStream, requests: Arc<Mutex<usize>>, fault: impl Fn(usize) -> Fault) {
    let mut request = [0; 12];
    while stream.read_exact(&mut request).await.is_ok() {
        let number = {
            let mut count = requests.lock().expect("no test panicked");
            *count += 1;
            *count
        };
        let fault = fault(number);
        let [t0, t1, _, _, _, _, unit, function, a, b, c, d] = request;
        let pdu = pdu(unit, [function, a, b, c, d], fault);
        let shown = if matches!(fault, Fault::WrongUnit) { unit + 1 } else { unit };
        let t1 = if matches!(fault, Fault::WrongCheck) { t1.wrapping_sub(1) } else { t1 };
        let length = u8::try_from(pdu.len() + 1).expect("short");
        let frame = [&[t0, t1, 0, 0, 0, length, shown], &pdu[..]].concat();
        let written = match fault {
            Fault::Silent => Ok(()),
            Fault::Close => return,
            Fault::Late(millis) => {
                sleep(Duration::from_millis(millis)).await;
                stream.write_all(&frame).await
            }
            Fault::Garbage => stream.write_all(&[0xFF; 40]).await,
            Fault::Half => {
                let _ = stream.write_all(&frame[..8]).await;
                sleep(Duration::from_millis(90)).await;
                stream.write_all(&frame[8..]).await
            }
            Fault::Twice => stream.write_all(&[&frame[..], &frame[..]].concat()).await,
            _ => stream.write_all(&frame).await,
        };
        if written.is_err() {
            return;
        }
    }
}

const TCP_FAULTS: [Fault; 11] = [
    Fault::Late(80),
    Fault::Silent,
    Fault::Garbage,
    Fault::Half,
    Fault::WrongUnit,
    Fault::WrongFunction,
    Fault::TooLong,
    Fault::WrongCheck,
    Fault::Twice,
    Fault::Close,
    Fault::Exception,
];

#[tokio::test]
async fn a_faulty_server_never_shows_a_wrong_value() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address: Arc<str> = listener.local_addr().expect("bound").to_string().into();
    let requests = Arc::new(Mutex::new(0));
    let count = Arc::clone(&requests);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(faulty_tcp(stream, Arc::clone(&count), shuffled(&TCP_FAULTS, 5)));
        }
    });
    let of =
        |unit| faulty(unit, Link::Tcp { address: Arc::clone(&address), unit }, Duration::from_millis(60));
    let devices = vec![of(1), of(2), of(3)];
    let gateway = Gateway::start(Endpoint::Tcp { address: Arc::clone(&address) }, devices);
    gateway.wait_until("enough good readings", |gateway| gateway.good_and_right() >= 200).await;
    let errors: u64 = gateway.status.borrow().iter().map(|device| device.errors).sum();
    assert!(errors > 0, "the faults were seen");
    gateway.stop().await;
}

#[tokio::test]
async fn a_server_that_closes_idle_connections_costs_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address: Arc<str> = listener.local_addr().expect("bound").to_string().into();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // One answer a connection.
            let requests = Arc::new(Mutex::new(0));
            let close = |number| if number > 1 { Fault::Close } else { Fault::None };
            tokio::spawn(faulty_tcp(stream, requests, close));
        }
    });
    let mut settings =
        faulty(1, Link::Tcp { address: Arc::clone(&address), unit: 1 }, Duration::from_millis(500));
    settings.retries = 0;
    let gateway = Gateway::start(Endpoint::Tcp { address }, vec![settings]);
    gateway.wait_until("good readings", |gateway| gateway.good_and_right() >= 50).await;
    assert_eq!(gateway.status.borrow()[0].errors, 0);
    gateway.stop().await;
}

#[tokio::test]
async fn a_port_may_be_missing_come_and_vanish() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ttyUSB0");
    let mut settings = faulty(1, Link::Rtu { port: 0, unit: 1 }, Duration::from_millis(500));
    settings.offline_after = 1;
    let gateway = Gateway::start(Endpoint::Rtu(port(&path)), vec![settings]);
    gateway.wait_until("offline", |gateway| gateway.state() == Some(State::Offline)).await;
    assert!(gateway.failure().starts_with(&path.display().to_string()), "{}", gateway.failure());

    for _ in 0..2 {
        let (far, near, pts) = pty();
        symlink(&pts, &path).expect("a link");
        let unit = tokio::spawn(faulty_rtu(far, |_| Fault::None));
        gateway.wait_until("online", |gateway| gateway.state() == Some(State::Online)).await;
        std::fs::remove_file(&path).expect("the link");
        unit.abort();
        drop(near);
        gateway.wait_until("offline again", |gateway| gateway.state() == Some(State::Offline)).await;
        gateway.wait_until("the path in the error", |gateway| gateway.failure().contains("ttyUSB0")).await;
    }
    assert_eq!(gateway.heard("devices/u1/status"), ["offline", "online", "offline", "online", "offline"]);
    gateway.good_and_right();
    gateway.stop().await;
}

#[tokio::test]
async fn a_stopped_line_says_offline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address: Arc<str> = listener.local_addr().expect("bound").to_string().into();
    let settings = simulated(Link::Tcp { address: Arc::clone(&address), unit: 1 });
    tokio::spawn(serve_tcp(listener, vec![Arc::new(settings.clone())], CancellationToken::new()));
    let gateway = Gateway::start(Endpoint::Tcp { address }, vec![settings]);
    gateway.wait_until("online", |gateway| gateway.heard("devices/m/status") == ["online"]).await;
    let messages = Arc::clone(&gateway.messages);
    gateway.stop().await;
    let messages = messages.lock().expect("no test panicked");
    let last = messages.last().expect("a message");
    assert_eq!((last.topic.as_str(), &last.payload[..]), ("devices/m/status", b"offline".as_slice()));
}

#[test]
fn devices_on_one_port_share_a_line() {
    struct Nothing;
    impl Environment for Nothing {
        fn variable(&self, _: &str) -> Option<String> {
            None
        }

        fn host_name(&self) -> Option<String> {
            None
        }
    }
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples");
    let config = load(&examples.join("two-lines.yaml"), &Nothing).expect("an example that loads");
    let found: Vec<(String, Vec<String>)> = lines(&config)
        .into_iter()
        .map(|(endpoint, settings)| {
            let name = |(index, device): &(u16, Arc<Device>)| {
                assert_eq!(config.devices[usize::from(*index)].name, device.name);
                device.name.to_string()
            };
            (endpoint.to_string(), settings.devices.iter().map(name).collect())
        })
        .collect();
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        found,
        [
            ("controllers".to_owned(), names(&["air-handler", "boiler"])),
            ("meters".to_owned(), names(&["meter-hall-1", "meter-hall-2", "meter-yard"])),
        ]
    );
}

/// Ends the process whatever becomes of the test.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn simulate(config: &Path, more: &[&str]) -> Running {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("simulate").arg("--config").arg(config).args(more);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    Running(command.spawn().expect("started"))
}

#[tokio::test]
async fn the_command_plays_the_configured_devices_until_it_is_told_to_stop() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("tidegate.yaml");
    let (_far, _near, path) = pty();
    let text = format!(
        "gateway: {{ data_dir: {} }}\n\
         broker: {{ listeners: [{{ address: 127.0.0.1:1883 }}] }}\n\
         ports: {{ line: {{ path: /dev/nowhere }} }}\n\
         devices:\n  \
           a: {{ modbus: {{ tcp: \"{address}\", unit: 1 }}, points: {{ relay: {{ coil: 3 }} }} }}\n  \
           b: {{ modbus: {{ port: line, unit: 1 }}, points: {{ relay: {{ coil: 3 }} }} }}\n",
        folder.path().display()
    );
    std::fs::write(&config, text).expect("written");
    let mut running = simulate(&config, &["--port", &format!("line={}", path.display())]);
    let mut out = std::io::BufReader::new(running.0.stdout.take().expect("piped"));
    let said = tokio::task::spawn_blocking(move || {
        let mut lines = String::new();
        for _ in 0..2 {
            std::io::BufRead::read_line(&mut out, &mut lines).expect("UTF-8");
        }
        lines
    });
    let said = timeout(PATIENCE, said).await.expect("says so").expect("no panic");
    assert_eq!(said, format!("playing b on {}\nplaying a on {address}\n", path.display()));
    let mut stream = TcpStream::connect(address).await.expect("connected");
    assert!(asks_coil(&mut stream).await);
    let stop = ["-TERM".to_owned(), running.0.id().to_string()];
    assert!(std::process::Command::new("kill").args(stop).status().expect("kill").success());
    let ended = async {
        loop {
            if let Some(status) = running.0.try_wait().expect("a child") {
                return status;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    assert_eq!(timeout(PATIENCE, ended).await.expect("ends").code(), Some(0));

    let wrong = simulate(&config, &["--port", "lien=/dev/pts/9"]);
    assert_eq!(
        code_and_error(wrong),
        (Some(2), "error: --port lien: no such port in the configuration\n".into())
    );
    let nowhere = simulate(&config, &[]);
    assert_eq!(code_and_error(nowhere), (Some(1), "error: /dev/nowhere: no such port\n".into()));
}

fn code_and_error(mut running: Running) -> (Option<i32>, String) {
    let status = running.0.wait().expect("a child");
    let mut text = String::new();
    let mut errors = running.0.stderr.take().expect("piped");
    std::io::Read::read_to_string(&mut errors, &mut text).expect("UTF-8");
    (status.code(), text)
}
