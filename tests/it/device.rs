//! The device brain in virtual time: a line of units that answer, keep silent or refuse, and no clock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tidegate::base::backoff::BackoffBounds;
use tidegate::base::time::{Duration, Instant, Now, Timestamp};
use tidegate::config::model::{Device, Format, Link, Order, Point, Publish, Source, Table, ValueType, When};
use tidegate::config::point::{Deadband, WordOrder};
use tidegate::config::template::TopicTemplate;
use tidegate::device::command;
use tidegate::device::effect::{Effects, Next};
use tidegate::device::learned::Learned;
use tidegate::device::request::{
    Exception, Identification, LineError, Reply, Request, RequestKind, Response,
};
use tidegate::device::status::State;
use tidegate::device::{LineSettings, Poller};
use tidegate::mqtt::message::{Message, MessageProperties, Origin};
use tidegate::mqtt::qos::{PacketId, QoS};
use tidegate::mqtt::topic::TopicName;

const WALL_START_MILLIS: i64 = 1_795_255_200_000;
/// How long a unit takes to answer.
const ANSWER: Duration = Duration::from_millis(10);

pub(crate) fn point(name: &str, address: u16) -> Point {
    Point {
        name: name.into(),
        source: Source { table: Table::Holding, address },
        value_type: ValueType::U16,
        word_order: WordOrder::Big,
        byte_order: Order::Big,
        scale: 1.0,
        scale_from: None,
        offset: 0.0,
        invalid: Vec::new(),
        labels: Vec::new(),
        bits: Vec::new(),
        unit: None,
        round: None,
        deadband: None,
        invert: false,
        poll: Duration::from_secs(1),
        aggregate: None,
        publish: true,
        heartbeat: None,
        writable: false,
        min: None,
        max: None,
        sunspec: None,
    }
}

pub(crate) fn device(name: &str, unit: u8, points: Vec<Point>) -> Device {
    Device {
        name: name.into(),
        link: Link::Rtu { port: 0, unit },
        poll: Duration::from_secs(1),
        timeout: Duration::from_millis(200),
        retries: 2,
        offline_after: 3,
        reconnect: BackoffBounds { min: Duration::from_secs(1), max: Duration::from_secs(60) },
        max_gap: 8,
        max_registers: 125,
        homeassistant: false,
        publish: Publish {
            topic: TopicTemplate::new("devices/{device}/{point}").expect("a valid template"),
            format: Format::Json,
            qos: QoS::AtLeastOnce,
            retain: true,
            when: When::Change,
            heartbeat: None,
            batch: None,
        },
        points,
        computed: [].into(),
    }
}

/// What a unit does with a request.
#[derive(Default)]
pub(crate) struct Unit {
    pub(crate) silent: bool,
    /// Of reads that begin here it says nothing.
    pub(crate) mute: BTreeSet<u16>,
    pub(crate) registers: BTreeMap<u16, u16>,
    pub(crate) coils: BTreeMap<u16, bool>,
    /// Reads and writes that touch these are refused.
    pub(crate) holes: BTreeSet<u16>,
    /// Longer reads are refused. None: as the standard allows.
    pub(crate) reads_max: Option<u16>,
    exception: Option<u8>,
    /// The next requests that stay without an answer.
    pub(crate) lost: u32,
    /// Writes stay without an answer, and without effect.
    pub(crate) mute_writes: bool,
    /// The next requests that are put off.
    pub(crate) busy: u32,
    /// Registers that take no write.
    pub(crate) stuck: BTreeSet<u16>,
    /// Function codes that it does not know.
    pub(crate) unknown: BTreeSet<u8>,
    /// What it says of itself, in turn; then that it does not know the question.
    identity: VecDeque<Reply>,
    /// It is gone after the question what it is.
    chokes: bool,
}

impl Unit {
    fn answer(&mut self, kind: &RequestKind) -> Reply {
        if self.silent || self.lost > 0 {
            self.lost = self.lost.saturating_sub(1);
            return Err(LineError::Timeout);
        }
        if self.busy > 0 {
            self.busy -= 1;
            return Ok(Err(Exception(6)));
        }
        let is_read = matches!(kind, RequestKind::Read { .. });
        if self.mute_writes && !is_read {
            return Err(LineError::Timeout);
        }
        if let Some(code) = self.exception {
            return Ok(Err(Exception(code)));
        }
        if self.unknown.contains(&kind.function()) {
            return Ok(Err(Exception(1)));
        }
        match kind {
            RequestKind::Read { address, .. } if self.mute.contains(address) => Err(LineError::Timeout),
            RequestKind::Read { table, address, count } => Ok(self.read(*table, *address, *count)),
            RequestKind::WriteCoil { address, bit } => {
                self.coils.insert(*address, *bit);
                Ok(Ok(Response::Written))
            }
            RequestKind::WriteRegister { address, word } => {
                self.write(*address, &[*word]);
                Ok(Ok(Response::Written))
            }
            RequestKind::WriteRegisters { address, words } => {
                self.write(*address, words);
                Ok(Ok(Response::Written))
            }
            RequestKind::WriteCoils { address, bits } => {
                self.coils.extend((*address..).zip(bits.iter().copied()));
                Ok(Ok(Response::Written))
            }
            RequestKind::MaskRegister { address, mask, bits } => {
                let word = self.registers.get(address).copied().unwrap_or(*address);
                self.write(*address, &[(word & !mask) | bits]);
                Ok(Ok(Response::Written))
            }
            RequestKind::Identify { .. } if self.chokes => {
                self.silent = true;
                Err(LineError::Timeout)
            }
            RequestKind::Identify { .. } => self.identity.pop_front().unwrap_or(Ok(Err(Exception(1)))),
            RequestKind::ReadWrite { .. } | RequestKind::Raw { .. } => Ok(Err(Exception(1))),
        }
    }

    fn read(&self, table: Table, address: u16, count: u16) -> Result<Response, Exception> {
        if self.reads_max.is_some_and(|most| count > most) {
            return Err(Exception(3));
        }
        let span = address..address + count;
        if span.clone().any(|address| self.holes.contains(&address)) {
            return Err(Exception(2));
        }
        Ok(match table {
            Table::Coil | Table::Discrete => {
                Response::Bits(span.map(|at| self.coils.get(&at).copied().unwrap_or(false)).collect())
            }
            Table::Holding | Table::Input => {
                Response::Words(span.map(|at| self.registers.get(&at).copied().unwrap_or(at)).collect())
            }
        })
    }

    fn write(&mut self, address: u16, words: &[u16]) {
        for (at, word) in (address..).zip(words) {
            if !self.stuck.contains(&at) {
                self.registers.insert(at, *word);
            }
        }
    }
}

fn wall_at(instant: Instant) -> Timestamp {
    let millis = i64::try_from(instant.as_nanos() / 1_000_000).expect("a short test");
    Timestamp::from_millis(WALL_START_MILLIS + millis)
}

/// A line in virtual time.
pub(crate) struct World {
    pub(crate) poller: Poller,
    units: BTreeMap<u8, Unit>,
    pub(crate) now: Now,
    /// Milliseconds and request.
    pub(crate) requests: Vec<(u64, Request)>,
    /// Milliseconds and message.
    messages: Vec<(u64, Message)>,
    /// What was learned, by the device's name.
    pub(crate) learned: BTreeMap<Arc<str>, Learned>,
    /// What was told of the maps of units.
    pub(crate) maps: Vec<String>,
}

impl World {
    pub(crate) fn new(devices: Vec<Device>) -> Self {
        Self::start_at(Instant::ORIGIN, devices)
    }

    pub(crate) fn start_at(instant: Instant, devices: Vec<Device>) -> Self {
        let now = Now { instant, wall: wall_at(instant) };
        let units = devices.iter().map(|device| (device.link.unit(), Unit::default())).collect();
        let settings = LineSettings {
            gateway: "plant-7".into(),
            devices: (0..).zip(devices.into_iter().map(Arc::new)).collect(),
        };
        let poller = Poller::new(settings, now);
        Self {
            poller,
            units,
            now,
            requests: Vec::new(),
            messages: Vec::new(),
            learned: BTreeMap::new(),
            maps: Vec::new(),
        }
    }

    pub(crate) fn millis(&self) -> u64 {
        self.now.instant.as_nanos() / 1_000_000
    }

    pub(crate) fn unit(&mut self, unit: u8) -> &mut Unit {
        self.units.get_mut(&unit).expect("a unit of this line")
    }

    pub(crate) fn advance_to(&mut self, instant: Instant) {
        self.now = Now { instant, wall: wall_at(instant) };
    }

    pub(crate) fn collect(&mut self, out: Effects) {
        let millis = self.millis();
        self.learned.extend(out.learned);
        self.maps.extend(out.maps.iter().map(|(device, news)| format!("{device} {news}")));
        let answers = out.done.into_iter().filter_map(|done| done.answer);
        self.messages.extend(out.publishes.into_iter().chain(answers).map(|message| (millis, message)));
    }

    /// One request and its answer, or a wait that ends no later than `until`. False: `until` is reached.
    fn step(&mut self, until: Instant) -> bool {
        let mut out = Effects::default();
        let next = self.poller.next_request(self.now, &mut out);
        self.collect(out);
        match next {
            Next::Wait(instant) if instant >= until => {
                self.advance_to(until);
                false
            }
            Next::Wait(instant) => {
                assert!(instant > self.now.instant, "a wait that is over");
                self.advance_to(instant);
                true
            }
            Next::Request(request) => {
                self.requests.push((self.millis(), request.clone()));
                let reply = self.unit(request.unit).answer(&request.kind);
                let took = if reply == Err(LineError::Timeout) { request.timeout } else { ANSWER };
                self.advance_to(self.now.instant + took);
                let mut out = Effects::default();
                self.poller.handle_reply(request.id, reply, self.now, &mut out);
                self.collect(out);
                true
            }
        }
    }

    pub(crate) fn run(&mut self, millis: u64) {
        let until = self.now.instant + Duration::from_millis(millis);
        let mut steps = 0;
        while self.now.instant < until && self.step(until) {
            steps += 1;
            assert!(steps < 1_000_000, "no progress");
        }
    }

    /// Somebody keeps it unless it is of QoS 0.
    pub(crate) fn command(&mut self, device: u16, message: Message) {
        self.order(device, message, false);
    }

    pub(crate) fn order(&mut self, device: u16, message: Message, repeated: bool) {
        let mut out = Effects::default();
        let id = (message.qos != QoS::AtMostOnce).then(|| PacketId::new(1).expect("not zero"));
        let order = command::Order { device, id, message: Arc::new(message), repeated };
        self.poller.handle_order(&order, self.now, &mut out);
        self.collect(out);
    }

    pub(crate) fn set(&mut self, device: u16, topic: &str, payload: &str) {
        let message = self.message(topic, payload);
        self.command(device, message);
    }

    pub(crate) fn message(&self, topic: &str, payload: &str) -> Message {
        let origin = Origin::Client("c".into());
        let topic = TopicName::new(topic).expect("a valid topic");
        Message::new(topic, payload.to_owned(), QoS::AtLeastOnce, origin, self.now)
    }

    /// What was published on a topic: milliseconds and payload.
    pub(crate) fn heard(&self, topic: &str) -> Vec<(u64, String)> {
        let of_topic = self.messages.iter().filter(|(_, message)| message.topic.as_str() == topic);
        of_topic.map(|(at, message)| (*at, String::from_utf8_lossy(&message.payload).into_owned())).collect()
    }

    /// The values (or qualities) of a topic's messages, without their times.
    pub(crate) fn said(&self, topic: &str, member: &str) -> Vec<String> {
        let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("valid JSON");
        self.heard(topic).iter().map(|(_, text)| json(text)[member].to_string()).collect()
    }

    pub(crate) fn reads_of(&self, unit: u8) -> Vec<u64> {
        let of_unit = self.requests.iter().filter(|(_, request)| request.unit == unit);
        of_unit.map(|(at, _)| *at).collect()
    }

    pub(crate) fn kinds(&self) -> Vec<RequestKind> {
        self.requests.iter().map(|(_, request)| request.kind.clone()).collect()
    }
}

pub(crate) fn read(address: u16, count: u16) -> RequestKind {
    RequestKind::Read { table: Table::Holding, address, count }
}

#[test]
fn neighbours_are_read_together_and_the_first_poll_publishes() {
    let mut world = World::new(vec![device("m", 1, vec![point("a", 0), point("b", 4), point("c", 100)])]);
    world.run(900);
    assert_eq!(world.kinds(), [read(0, 5), read(100, 1)]);
    assert_eq!(
        world.heard("devices/m/b"),
        [(10, r#"{"value":4,"quality":"good","time":"2026-11-21T10:00:00.010Z"}"#.to_owned())]
    );
    assert_eq!(world.heard("devices/m/status"), [(10, "online".to_owned())]);
    let message = &world.messages.iter().find(|(_, message)| message.topic.as_str() == "devices/m/b");
    let message = &message.as_ref().expect("published").1;
    assert_eq!((message.qos, message.retain, &message.origin), (QoS::AtLeastOnce, true, &Origin::Device(0)));
    world.run(5_000);
    assert_eq!(world.heard("devices/m/b").len(), 1, "nothing changed");
}

#[test]
fn a_dead_unit_leaves_its_neighbours_their_rhythm() {
    let devices = (1..=4).map(|unit| device(&format!("m{unit}"), unit, vec![point("a", 0)])).collect();
    let mut world = World::new(devices);
    world.unit(2).silent = true;
    world.run(120_000);
    for unit in [1, 3, 4] {
        let times = world.reads_of(unit);
        assert!(times.len() >= 119, "unit {unit}: {} polls", times.len());
        let widest = times.windows(2).map(|pair| pair[1] - pair[0]).max();
        // One time-out of the dead unit may come between, never its retries in a row.
        assert!(widest <= Some(1_500), "unit {unit}: {widest:?}");
    }
    assert_eq!(world.poller.status()[1].state, State::Offline);
    // Back-off without end at its maximum: 1 s, 2 s, 4 s … 60 s.
    let probes = world.reads_of(2);
    let late: Vec<u64> = probes.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(late.last() >= Some(&32_000), "{late:?}");
    assert!(probes.len() < 20, "{probes:?}");
}

#[test]
fn offline_says_stale_once_and_online_says_everything_again() {
    let slow = Point { poll: Duration::from_secs(3_600), ..point("slow", 50) };
    let mut world = World::new(vec![device("m", 1, vec![point("a", 0), slow])]);
    world.run(1_500);
    world.unit(1).silent = true;
    world.run(30_000);
    assert_eq!(world.said("devices/m/a", "quality"), [r#""good""#, r#""stale""#]);
    assert_eq!(world.said("devices/m/slow", "quality"), [r#""good""#, r#""stale""#]);
    assert_eq!(world.said("devices/m/slow", "value"), ["50", "50"]);
    let times = world.said("devices/m/slow", "time");
    assert_eq!(times[0], times[1], "a stale value keeps the time of its answer");
    world.unit(1).silent = false;
    world.run(61_000);
    assert_eq!(world.said("devices/m/a", "quality"), [r#""good""#, r#""stale""#, r#""good""#]);
    assert_eq!(world.said("devices/m/slow", "quality"), [r#""good""#, r#""stale""#, r#""good""#]);
    let status: Vec<String> = world.heard("devices/m/status").into_iter().map(|(_, text)| text).collect();
    assert_eq!(status, ["online", "offline", "online"]);
    assert!(world.messages.iter().all(|(_, message)| message.retain));
}

#[test]
fn a_device_that_never_answered_goes_offline_without_readings() {
    let mut world = World::new(vec![device("m", 1, vec![point("a", 0)])]);
    world.unit(1).silent = true;
    world.run(20_000);
    assert_eq!(world.heard("devices/m/a"), []);
    assert_eq!(world.heard("devices/m/status").len(), 1);
}

#[test]
fn retries_hide_lost_answers_and_pause_before_they_ask_again() {
    let mut world = World::new(vec![device("m", 1, vec![point("a", 0)])]);
    world.unit(1).lost = 2;
    world.run(950);
    // 200 ms time-out and 200 ms of silence for late answers, each.
    assert_eq!(world.reads_of(1), [0, 400, 800]);
    let status = &world.poller.status()[0];
    assert_eq!((status.state, status.errors, status.polls), (State::Online, 0, 1));
    assert_eq!(world.said("devices/m/a", "quality"), [r#""good""#]);
    world.unit(1).lost = 3;
    world.run(2_000);
    let status = &world.poller.status()[0];
    assert_eq!((status.state, status.errors), (State::Online, 1));
    assert_eq!(world.said("devices/m/a", "quality"), [r#""good""#], "one failed poll is not offline");
}

#[test]
fn polls_are_skipped_and_keep_to_their_grid() {
    let fast = Point { poll: Duration::from_millis(100), ..point("a", 0) };
    let mut world = World::new(vec![device("m", 1, vec![fast]), device("dead", 2, vec![point("a", 0)])]);
    world.unit(2).silent = true;
    world.run(450);
    // The dead unit holds the line until 210 and from 410 on: 100 was skipped, 200 late, 300 and 400 on time.
    assert_eq!(world.reads_of(1), [0, 210, 300, 400]);
    assert_eq!(world.poller.status()[0].skipped, 1);
}

#[test]
fn dead_band_and_heartbeat_decide_what_is_said() {
    let banded = Point { deadband: Some(Deadband::Absolute(5.0)), ..point("banded", 0) };
    let beating = Point { heartbeat: Some(Duration::from_secs(10)), ..point("beating", 1) };
    let mut world = World::new(vec![device("m", 1, vec![banded, beating])]);
    for second in 0..30u16 {
        world.unit(1).registers.insert(0, 100 + second);
        world.run(1_000);
    }
    let values: Vec<String> = (0..6).map(|step| (100 + step * 5).to_string()).collect();
    assert_eq!(world.said("devices/m/banded", "value"), values);
    let beats: Vec<u64> = world.heard("devices/m/beating").iter().map(|(at, _)| *at).collect();
    assert_eq!(beats, [10, 10_010, 20_010]);
}

#[test]
fn when_poll_says_every_reading() {
    let mut settings = device("m", 1, vec![point("a", 0)]);
    settings.publish.when = When::Poll;
    let mut world = World::new(vec![settings]);
    world.run(10_000);
    assert_eq!(world.heard("devices/m/a").len(), 10);
}

#[test]
fn an_exception_is_bad_quality_and_no_silence() {
    let mut world = World::new(vec![device("m", 1, vec![point("a", 0)])]);
    world.run(500);
    world.unit(1).exception = Some(4);
    world.run(10_000);
    assert_eq!(world.poller.status()[0].state, State::Online);
    assert_eq!(world.said("devices/m/a", "quality"), [r#""good""#, r#""bad""#]);
    assert_eq!(world.said("devices/m/a", "value"), ["0", "null"]);
    assert_eq!(world.said("devices/m/a", "error")[1], r#""exception 4 (server device failure)""#);
    // A gateway's word that the unit is silent is silence.
    world.unit(1).exception = Some(11);
    world.run(20_000);
    assert_eq!(world.poller.status()[0].state, State::Offline);
}

#[test]
fn a_block_with_holes_is_split_within_two_polls() {
    let mut world = World::new(vec![device("m", 1, vec![point("a", 0), point("b", 4), point("c", 8)])]);
    world.unit(1).holes.extend([2, 8]);
    world.run(3_900);
    let apart = [read(0, 1), read(4, 1), read(8, 1)];
    let first = [read(0, 9), read(0, 1), read(4, 5), read(4, 1), read(8, 1)];
    let second = [read(0, 5), read(0, 1), read(4, 1), read(8, 1)];
    assert_eq!(world.kinds(), [&first[..], &second, &apart, &apart].concat());
    assert_eq!(world.said("devices/m/a", "quality"), [r#""good""#]);
    assert_eq!(world.said("devices/m/b", "value"), ["4"]);
    assert_eq!(world.said("devices/m/c", "error"), [r#""exception 2 (illegal data address)""#]);
    assert_eq!(world.heard("devices/m/status").len(), 1);
}

#[test]
fn a_block_that_is_never_answered_does_not_hide_the_others() {
    let mut world = World::new(vec![device("m", 1, vec![point("a", 0), point("b", 100)])]);
    world.unit(1).mute.insert(0);
    world.run(60_000);
    assert_eq!(world.poller.status()[0].state, State::Online);
    assert_eq!(world.said("devices/m/b", "value"), ["100"]);
    assert_eq!(world.heard("devices/m/a"), []);
}

#[test]
fn a_command_goes_before_polls_and_is_read_back() {
    let setpoint = Point {
        value_type: ValueType::I16,
        scale: 0.1,
        writable: true,
        min: Some(5.0),
        max: Some(30.0),
        ..point("setpoint", 100)
    };
    let relay = Point {
        source: Source { table: Table::Coil, address: 3 },
        value_type: ValueType::Bool,
        writable: true,
        ..point("relay", 3)
    };
    let total = Point { value_type: ValueType::U32, writable: true, ..point("total", 200) };
    let mut world = World::new(vec![device("m", 1, vec![setpoint, relay, total, point("a", 0)])]);
    world.run(950);
    world.requests.clear();
    world.advance_to(Instant::ORIGIN + Duration::from_secs(1));
    world.set(0, "devices/m/setpoint/set", "21.5");
    world.set(0, "devices/m/relay/set", r#"{"value":true}"#);
    world.set(0, "devices/m/total/set", "65537");
    world.run(900);
    assert_eq!(
        world.kinds()[..6],
        [
            RequestKind::WriteRegister { address: 100, word: 215 },
            read(100, 1),
            RequestKind::WriteCoil { address: 3, bit: true },
            RequestKind::Read { table: Table::Coil, address: 3, count: 1 },
            RequestKind::WriteRegisters { address: 200, words: vec![1, 1] },
            read(200, 2),
        ]
    );
    assert_eq!(world.heard("devices/m/setpoint/result")[0].1, r#"{"value":21.5,"ok":true}"#);
    assert_eq!(world.heard("devices/m/relay/result")[0].1, r#"{"value":true,"ok":true}"#);
    assert_eq!(world.heard("devices/m/total/result")[0].1, r#"{"value":65537,"ok":true}"#);
    assert_eq!(world.said("devices/m/setpoint", "value"), ["10", "21.5"], "the reading follows at once");
    let result = world.messages.iter().find(|(_, message)| message.topic.as_str().ends_with("/result"));
    let result = &result.expect("a result").1;
    assert_eq!((result.retain, &result.origin), (false, &Origin::Gateway));
}

#[test]
fn commands_that_cannot_be_done_say_why() {
    let setpoint = Point {
        value_type: ValueType::I16,
        scale: 0.1,
        writable: true,
        min: Some(5.0),
        max: Some(30.0),
        ..point("setpoint", 100)
    };
    let stuck = Point { writable: true, ..point("stuck", 7) };
    let mut world = World::new(vec![device("m", 1, vec![setpoint, stuck, point("a", 0)])]);
    world.unit(1).stuck.insert(7);
    world.run(500);
    world.requests.clear();
    let refused = [
        ("99", r#"{"ok":false,"error":"setpoint: 99 is above max 30"}"#),
        ("1", r#"{"ok":false,"error":"setpoint: 1 is below min 5"}"#),
        ("warm", r#"{"ok":false,"error":"setpoint: takes a number"}"#),
        ("", r#"{"ok":false,"error":"setpoint: the command is empty"}"#),
    ];
    for (payload, _) in refused {
        world.set(0, "devices/m/setpoint/set", payload);
    }
    let results: Vec<String> =
        world.heard("devices/m/setpoint/result").into_iter().map(|(_, text)| text).collect();
    assert_eq!(results, refused.map(|(_, text)| text));
    let retained = Message { retain: true, ..world.message("devices/m/setpoint/set", "20") };
    world.command(0, retained);
    assert_eq!(
        world.heard("devices/m/setpoint/result")[4].1,
        r#"{"ok":false,"error":"setpoint: a retained command is refused"}"#
    );
    world.set(0, "devices/m/a/set", "1");
    assert_eq!(world.heard("devices/m/a/result")[0].1, r#"{"ok":false,"error":"a: is not writable"}"#);
    world.set(0, "devices/m/b/set", "1");
    assert_eq!(
        world.heard("devices/m/b/result")[0].1,
        r#"{"ok":false,"error":"devices/m/b/set: no such point"}"#
    );
    assert!(world.requests.is_empty(), "nothing reached the line");
    world.set(0, "devices/m/stuck/set", "8");
    world.run(100);
    assert_eq!(
        world.heard("devices/m/stuck/result")[0].1,
        r#"{"ok":false,"error":"stuck: the device holds 7 after the write"}"#
    );
    world.unit(1).exception = Some(3);
    world.set(0, "devices/m/stuck/set", "8");
    world.run(100);
    assert_eq!(
        world.heard("devices/m/stuck/result")[1].1,
        r#"{"ok":false,"error":"stuck: not written: exception 3 (illegal data value)"}"#
    );
    world.unit(1).exception = None;
    world.unit(1).silent = true;
    let now_or_never = Message { qos: QoS::AtMostOnce, ..world.message("devices/m/stuck/set", "8") };
    world.command(0, now_or_never);
    world.run(3_000);
    assert_eq!(
        world.heard("devices/m/stuck/result")[2].1,
        r#"{"ok":false,"error":"stuck: may have been written: no answer in time"}"#
    );
}

#[test]
fn a_command_waits_no_longer_than_it_lives_and_answers_where_it_was_asked() {
    let relay = Point { writable: true, ..point("relay", 3) };
    let mut world = World::new(vec![device("m", 1, vec![relay])]);
    world.unit(1).lost = 1;
    let until = Instant::ORIGIN + Duration::from_millis(1);
    world.step(until);
    // The unit has just failed: the line is left alone until 400 ms.
    let mut message = world.message("devices/m/relay/set", "1");
    message.expiry_interval = Some(Duration::from_millis(100));
    message.properties = Some(Box::new(MessageProperties {
        response_topic: TopicName::new("answers/me").ok(),
        correlation_data: Some(b"7".as_slice().into()),
        ..Default::default()
    }));
    world.command(0, message);
    world.run(300);
    assert_eq!(
        world.heard("answers/me"),
        [(300, r#"{"ok":false,"error":"relay: the command has expired"}"#.to_owned())]
    );
    let answer = &world.messages.iter().find(|(_, message)| message.topic.as_str() == "answers/me");
    let answer = answer.as_ref().expect("an answer").1.properties.as_deref().expect("properties");
    assert_eq!(answer.correlation_data.as_deref(), Some(b"7".as_slice()));
    assert!(world.unit(1).registers.is_empty());
}

#[test]
fn a_flood_of_commands_is_bounded_and_does_not_stop_the_polls() {
    let relay = Point { writable: true, ..point("relay", 3) };
    let mut world = World::new(vec![device("m", 1, vec![relay])]);
    for value in 0..70 {
        let message = world.message("devices/m/relay/set", &value.to_string());
        world.command(0, Message { qos: QoS::AtMostOnce, ..message });
    }
    let refused = world.heard("devices/m/relay/result");
    assert_eq!(refused.len(), 6, "64 wait, the oldest are refused");
    assert!(refused.iter().all(|(_, text)| text.contains("too many commands wait")));
    world.run(2_000);
    let results = world.heard("devices/m/relay/result");
    assert_eq!(results.len(), 70);
    let first_poll = world.kinds().iter().position(|kind| *kind == read(3, 1));
    assert!(first_poll.is_some());
    let polls = world.poller.status()[0].polls;
    assert!(polls >= 2, "{polls} polls");
    assert_eq!(world.unit(1).registers.get(&3), Some(&69), "the last one holds");
}

#[test]
fn a_command_finds_an_offline_device_back() {
    let relay = Point { writable: true, ..point("relay", 3) };
    let mut world = World::new(vec![device("m", 1, vec![relay, point("a", 0)])]);
    world.run(500);
    world.unit(1).silent = true;
    world.run(100_000);
    assert_eq!(world.poller.status()[0].state, State::Offline);
    world.unit(1).silent = false;
    world.set(0, "devices/m/relay/set", "5");
    world.run(100);
    assert_eq!(world.heard("devices/m/relay/result")[0].1, r#"{"value":5,"ok":true}"#);
    assert_eq!(world.poller.status()[0].state, State::Online);
    assert_eq!(world.said("devices/m/a", "quality"), [r#""good""#, r#""stale""#, r#""good""#]);
}

#[test]
fn an_answer_that_does_not_fit_its_request_is_no_value() {
    let mut world = World::new(vec![device("m", 1, vec![point("a", 0), point("b", 1)])]);
    let wrong = [
        Response::Words(vec![7]),
        Response::Words(vec![7, 8, 9]),
        Response::Bits(vec![true, true]),
        Response::Written,
    ];
    for response in wrong {
        let mut out = Effects::default();
        loop {
            match world.poller.next_request(world.now, &mut out) {
                Next::Wait(instant) => world.advance_to(instant),
                Next::Request(request) => {
                    world.poller.handle_reply(request.id, Ok(Ok(response.clone())), world.now, &mut out);
                    // The same answer again, to a request that is no longer in flight.
                    let repeated = Ok(Ok(Response::Words(vec![7, 8])));
                    world.poller.handle_reply(request.id, repeated, world.now, &mut out);
                    break;
                }
            }
        }
        world.collect(out);
    }
    assert_eq!(world.heard("devices/m/a"), []);
    assert_eq!(world.heard("devices/m/b"), []);
}

#[test]
fn a_device_topic_carries_all_points_in_one_message() {
    let mut settings = device("m", 1, vec![point("a", 0), point("b", 100)]);
    settings.points[1].writable = true;
    settings.publish.topic = TopicTemplate::new("sites/{gateway}/{device}").expect("a valid template");
    let mut world = World::new(vec![settings]);
    world.run(1_500);
    assert_eq!(
        world.heard("sites/plant-7/m"),
        [(20, r#"{"time":"2026-11-21T10:00:00.020Z","values":{"a":0,"b":100},"quality":{}}"#.to_owned())]
    );
    world.set(0, "sites/plant-7/m/b/set", "5");
    world.run(100);
    assert_eq!(world.heard("sites/plant-7/m/b/result")[0].1, r#"{"value":5,"ok":true}"#);
    assert_eq!(world.said("sites/plant-7/m", "values")[1], r#"{"a":0,"b":5}"#);
    world.unit(1).silent = true;
    world.run(10_000);
    let qualities = world.said("sites/plant-7/m", "quality");
    assert_eq!(qualities[2..], [r#"{"a":"stale","b":"stale"}"#]);
}

#[test]
fn plain_is_said_of_good_values_alone() {
    let mut settings = device("m", 1, vec![point("a", 0)]);
    settings.publish.format = Format::Plain;
    let mut world = World::new(vec![settings]);
    world.run(500);
    world.unit(1).exception = Some(4);
    world.run(5_000);
    world.unit(1).silent = true;
    world.run(10_000);
    assert_eq!(world.heard("devices/m/a"), [(10, "0".to_owned())]);
}

#[test]
fn a_stop_refuses_what_nobody_keeps_and_says_offline() {
    let relay = Point { writable: true, ..point("relay", 3) };
    let mut world = World::new(vec![device("m", 1, vec![relay]), device("never", 2, vec![point("a", 0)])]);
    world.unit(2).silent = true;
    world.run(500);
    let passing = Message { qos: QoS::AtMostOnce, ..world.message("devices/m/relay/set", "4") };
    world.command(0, passing);
    world.set(0, "devices/m/relay/set", "5");
    let mut out = Effects::default();
    world.poller.handle_shutdown(world.now, &mut out);
    world.collect(out);
    let [(_, answer)] = &world.heard("devices/m/relay/result")[..] else { panic!("one answer") };
    assert!(answer.contains("the gateway stops"));
    assert_eq!(world.heard("devices/m/status").last().map(|(_, text)| text.as_str()), Some("offline"));
    assert_eq!(world.heard("devices/never/status"), []);
}

/// Faults at random: what is published as good is always what the register of that address held.
#[test]
fn a_good_value_is_always_the_one_of_its_address() {
    for seed in 0..30 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let devices = (1..=3)
            .map(|unit| {
                let points = (0..6).map(|at| point(&format!("p{at}"), at * u16::from(unit) * 2)).collect();
                device(&format!("m{unit}"), unit, points)
            })
            .collect();
        let mut world = World::new(devices);
        for _ in 0..200 {
            let unit = world.unit(rng.u8(1..=3));
            match rng.u8(0..6) {
                0 => unit.silent = !unit.silent,
                1 => unit.lost = rng.u32(0..4),
                2 => unit.exception = if rng.bool() { None } else { Some(rng.u8(1..12)) },
                3 => drop(unit.holes.insert(rng.u16(0..60))),
                4 => unit.holes.clear(),
                _ => {}
            }
            world.run(rng.u64(1..3_000));
        }
        for (_, message) in &world.messages {
            let Some((device, at)) = message.topic.as_str().split_once("/p") else { continue };
            let unit: u16 = device.trim_start_matches("devices/m").parse().expect("a unit");
            let at: u16 = at.parse().expect("a point");
            let json: serde_json::Value = serde_json::from_slice(&message.payload).expect("valid JSON");
            if json["quality"] != "bad" {
                assert_eq!(json["value"], at * unit * 2, "seed {seed}: {message:?}");
            }
        }
    }
}

/// A line whose units are asked what they are, polled once a second.
fn inquiring(units: &[u8]) -> World {
    let devices = units.iter().map(|unit| device(&format!("u{unit}"), *unit, vec![point("p", 0)]));
    let mut world = World::new(devices.collect());
    world.poller.inquire();
    world
}

fn objects(objects: &[(u8, &str)], next: Option<u8>) -> Response {
    let objects = objects.iter().map(|(number, text)| (*number, text.as_bytes().to_vec()));
    Response::Identification(Identification { objects: objects.collect(), next })
}

fn inquiries(world: &World) -> Vec<u64> {
    let asked = world.requests.iter();
    let asked = asked.filter(|(_, request)| matches!(request.kind, RequestKind::Identify { .. }));
    asked.map(|(millis, _)| *millis).collect()
}

fn vendor(world: &World, at: usize) -> Option<String> {
    let identity = world.poller.status()[at].identity.clone()?;
    identity.vendor.map(|vendor| vendor.to_string())
}

#[test]
fn a_unit_is_asked_once_what_it_is_behind_all_polls() {
    let mut world = inquiring(&[1, 2]);
    world.unit(1).identity = [objects(&[(0, "Maker")], Some(1)), objects(&[(1, "M-7"), (2, "1.0")], None)]
        .map(|said| Ok(Ok(said)))
        .into();
    world.run(10_000);
    // Two for the unit that says it in two, one for the one that does not know the question.
    let kinds: Vec<_> = world.kinds().into_iter().take(5).collect();
    let identify = |object| RequestKind::Identify { object };
    assert_eq!(kinds, [read(0, 1), read(0, 1), identify(0), identify(1), identify(0)]);
    assert_eq!(inquiries(&world).len(), 3);
    assert_eq!((vendor(&world, 0).as_deref(), vendor(&world, 1)), (Some("Maker"), None));
    let status = world.poller.status();
    assert!(status.iter().all(|device| device.errors == 0 && device.last_failure.is_none()), "{status:?}");
    // Again when it has come back, and not before.
    world.unit(1).silent = true;
    world.run(20_000);
    assert_eq!(inquiries(&world).len(), 3);
    world.unit(1).silent = false;
    world.unit(1).identity = [Ok(Ok(objects(&[(0, "Other")], None)))].into();
    world.run(70_000);
    assert_eq!((inquiries(&world).len(), vendor(&world, 0).as_deref()), (4, Some("Other")));
}

#[test]
fn a_unit_that_chokes_on_the_question_hears_it_once() {
    let mut world = inquiring(&[1, 2]);
    world.unit(1).chokes = true;
    world.run(20_000);
    assert_eq!(world.poller.status()[0].state, State::Offline);
    for _ in 0..3 {
        world.unit(1).silent = false;
        world.run(70_000);
        assert_eq!(world.poller.status()[0].state, State::Online);
        world.unit(1).silent = true;
        world.run(20_000);
    }
    assert_eq!(inquiries(&world).len(), 2, "one for each unit");
    assert_eq!(world.poller.status()[1].errors, 0);
}

#[test]
fn silence_on_the_question_is_no_fault() {
    let mut world = inquiring(&[1]);
    world.unit(1).identity = [Err(LineError::Timeout)].into();
    world.run(30_000);
    let status = world.poller.status();
    assert_eq!((status[0].state, status[0].errors, status[0].last_failure.clone()), (State::Online, 0, None));
    assert_eq!(inquiries(&world).len(), 1);
}
