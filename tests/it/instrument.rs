//! Serial instruments in virtual time: the brain from a configuration as users write it, bytes in, messages out.

use std::path::Path;
use std::sync::Arc;

use tidegate::base::time::{Duration, Instant, Now, Timestamp};
use tidegate::config::expand::Environment;
use tidegate::config::instrument::Instrument as Settings;
use tidegate::config::load::parse;
use tidegate::device::command::Order;
use tidegate::device::effect::Effects;
use tidegate::device::request::LineError;
use tidegate::device::serial::field::{encode, value_of};
use tidegate::device::serial::line::Said;
use tidegate::device::serial::{Do, Instrument};
use tidegate::device::status::State;
use tidegate::device::value::Value;
use tidegate::mqtt::message::{Message, Origin};
use tidegate::mqtt::qos::{PacketId, QoS};
use tidegate::mqtt::topic::TopicName;

pub(crate) struct Nothing;

impl Environment for Nothing {
    fn variable(&self, _: &str) -> Option<String> {
        None
    }

    fn host_name(&self) -> Option<String> {
        Some("g".into())
    }
}

/// A device by its keys.
fn settings(device: &str) -> Settings {
    let text = format!("ports: {{ p: {{ path: /dev/p }} }}\ndevices:\n  d:\n{device}");
    let config = parse("t.yaml", &text, Path::new("/"), &Nothing).unwrap_or_else(|faults| panic!("{faults}"));
    config.instruments.first().expect("an instrument").clone()
}

const SCALE: &str = r#"
    serial:
      port: p
      framing: { delimiter: "\r\n" }
      match: '^(?P<status>ST|US),(?P<weight>[\d.]+)kg(,(?P<tare>[\d.]+))?$'
      request: { send: "P\r\n", every: 1s }
    timeout: 100ms
    retries: 1
    offline_after: 2
    reconnect: { min: 2s, max: 4s }
    publish: { heartbeat: 0s }
    points:
      weight: { field: weight, type: f64, unit: kg, deadband: 0.1 }
      stable: { field: status, labels: { ST: true, US: false } }
      tare: { field: tare, type: f64, writable: true, command: "T{value}\r\n", max: 9 }
      zero: { writable: true, command: "Z{value}\r\n", expect: '^OK' }
"#;

const SENSOR: &str = r#"
    serial: { port: p, format: json }
    offline_after: 5s
    timeout: 100ms
    retries: 1
    points:
      t: { field: t }
      set: { field: set, writable: true, command: "S{value}\n" }
"#;

/// An instrument, and time that stands until it is moved.
struct World {
    brain: Instrument,
    millis: u64,
    out: Effects,
}

impl World {
    fn new(device: &str) -> Self {
        let brain = Instrument::new("g", 3, settings(device), now(0));
        Self { brain, millis: 0, out: Effects::default() }
    }

    /// With an open port that was silent for as long as a frame's gap is.
    fn opened(device: &str) -> Self {
        let mut world = Self::new(device);
        assert_eq!(world.next(), Do::Open);
        world.brain.handle_opened(now(0));
        world.millis = 1000;
        world
    }

    fn now(&self) -> Now {
        now(self.millis)
    }

    fn next(&mut self) -> Do {
        self.brain.next(now(self.millis), &mut self.out)
    }

    /// Moves to the moment when there is something to do; what that is.
    fn run(&mut self) -> Do {
        for _ in 0..100 {
            match self.next() {
                Do::Wait(Instant::FAR_FUTURE) => panic!("it waits for ever"),
                Do::Wait(until) => {
                    let at = until.as_nanos().div_ceil(1_000_000);
                    assert!(at > self.millis, "it waits for what is past");
                    self.millis = at;
                }
                other => return other,
            }
        }
        panic!("nothing to do comes");
    }

    /// What it sends next has left.
    fn sends(&mut self, expected: &str) {
        let sent = match self.run() {
            Do::Ask(bytes) | Do::Tell(bytes) => bytes,
            other => panic!("{other:?} in place of {expected:?}"),
        };
        assert_eq!(String::from_utf8_lossy(&sent), expected);
        self.brain.handle_sent(self.now(), &mut self.out);
    }

    fn hears(&mut self, bytes: &[u8]) {
        self.millis += 10;
        self.brain.handle_bytes(bytes, now(self.millis), &mut self.out);
    }

    /// Time passes in which it waits.
    fn waits(&mut self, millis: u64) {
        let end = self.millis + millis;
        while let Do::Wait(until) = self.next() {
            let at = until.as_nanos().div_ceil(1_000_000);
            if at > end {
                self.millis = end;
                return;
            }
            self.millis = at;
        }
        panic!("it does something at {}", self.millis);
    }

    fn order(&mut self, point: &str, payload: &str, id: Option<u16>, repeated: bool) {
        let topic = TopicName::new(&format!("devices/d/{point}/set")).expect("a topic");
        let qos = if id.is_some() { QoS::ExactlyOnce } else { QoS::AtMostOnce };
        let origin = Origin::Client("c".into());
        let message = Arc::new(Message::new(topic, payload.to_owned(), qos, origin, self.now()));
        let id = id.and_then(PacketId::new);
        let order = Order { device: 3, id, message, repeated };
        self.brain.handle_order(&order, self.now(), &mut self.out);
    }

    /// `topic payload` of what was published since, without times; then the answers to commands with an identifier.
    fn said(&mut self) -> Vec<String> {
        let text = |message: &Message| {
            let payload = String::from_utf8_lossy(&message.payload).into_owned();
            let payload = payload.split(",\"time\"").next().unwrap_or_default().to_owned();
            let topic = message.topic.as_str().trim_start_matches("devices/d/").to_owned();
            format!("{topic} {payload}")
        };
        let published = std::mem::take(&mut self.out.publishes);
        let done = std::mem::take(&mut self.out.done);
        let answers = done.iter().filter_map(|done| done.answer.as_ref());
        published.iter().chain(answers).map(text).collect()
    }

    fn state(&self) -> State {
        self.brain.status().state
    }
}

fn now(millis: u64) -> Now {
    let instant = Instant::ORIGIN + Duration::from_millis(millis);
    Now { instant, wall: Timestamp::from_millis(i64::try_from(millis).expect("small")) }
}

fn good(point: &str, value: &str) -> String {
    let unit = if point == "weight" { r#","unit":"kg""# } else { "" };
    format!(r#"{point} {{"value":{value}{unit},"quality":"good""#)
}

fn stale(point: &str, value: &str) -> String {
    good(point, value).replace("good", "stale")
}

#[test]
fn a_scale_is_asked_and_its_answer_becomes_readings() {
    let mut world = World::opened(SCALE);
    world.sends("P\r\n");
    world.hears(b"ST,12.5kg\r\n");
    assert_eq!(world.said(), ["status online".to_owned(), good("weight", "12.5"), good("stable", "true")]);
    world.sends("P\r\n");
    assert_eq!(world.millis, 2000, "on its grid");
    // Within the dead band, but no longer stable.
    world.hears(b"US,12.55kg\r\n");
    assert_eq!(world.said(), [good("stable", "false")]);
    assert_eq!((world.brain.status().polls, world.brain.status().errors), (2, 0));
}

#[test]
fn what_comes_unasked_or_is_no_answer_is_not_believed() {
    let mut world = World::opened(SCALE);
    world.hears(b"ST,99.9kg\r\n");
    assert_eq!(world.said(), [""; 0]);
    world.sends("P\r\n");
    for noise in [&b"\xff\xfe,1kg\r\n"[..], b"ST,1.1\r\n", b"ST,1.1kgST,1.2kg\r\n", b"\r\n", b"XX,7kg\r\n"] {
        world.hears(noise);
    }
    assert_eq!(world.said(), [""; 0]);
    world.hears(b"ST,1.");
    world.hears(b"5kg\r\nST,8.8kg\r\n");
    let said = world.said();
    assert_eq!(said[1..], [good("weight", "1.5"), good("stable", "true")]);
    assert_eq!(world.brain.status().errors, 4, "each line that is none");
}

#[test]
fn a_silent_scale_is_offline_stale_and_asked_more_seldom() {
    let mut world = World::opened(SCALE);
    world.sends("P\r\n");
    world.hears(b"ST,1.5kg\r\n");
    world.said();
    // Two requests with a retry each.
    for _ in 0..4 {
        world.sends("P\r\n");
    }
    assert_eq!(world.said(), [""; 0]);
    let asked = world.millis;
    world.sends("P\r\n");
    assert_eq!(world.said(), ["status offline".to_owned(), stale("weight", "1.5"), stale("stable", "true")]);
    assert!(world.millis - asked >= 2000, "after its back-off, not after {}", world.millis - asked);
    world.hears(b"ST,1.5kg\r\n");
    assert_eq!(world.said(), ["status online".to_owned(), good("weight", "1.5"), good("stable", "true")]);
}

#[test]
fn a_line_that_is_never_silent_is_not_asked() {
    let mut world = World::opened(SCALE);
    for _ in 0..100 {
        world.hears(b"noise");
        assert!(matches!(world.next(), Do::Wait(_)), "at {}", world.millis);
    }
    let failure = world.brain.status().last_failure.map(|failure| failure.to_string());
    assert_eq!(failure.as_deref(), Some("line is never silent"));
}

/// What comes first after the port was opened may be the end of a line; what stops in its midst never goes on.
#[test]
fn half_lines_are_nobodys() {
    let mut world = World::new(SENSOR);
    assert_eq!(world.next(), Do::Open);
    world.brain.handle_opened(world.now());
    world.hears(b"{\"t\":5}\n{\"t\":1}\n");
    assert_eq!(world.said(), ["status online".to_owned(), good("t", "1")]);
    world.hears(b"{\"t\":1");
    world.waits(300);
    world.hears(b"23}\n{\"t\":2}\n");
    assert_eq!(world.said(), [good("t", "2")]);
    world.brain.handle_lost(
        LineError::Broken(std::io::ErrorKind::UnexpectedEof),
        world.now(),
        &mut world.out,
    );
    assert_eq!(world.run(), Do::Open);
    world.brain.handle_opened(world.now());
    world.hears(b"{\"t\":3}\n");
    assert_eq!(world.said(), [""; 0], "it may be the end of more");
    world.hears(b"{\"t\":4}\n");
    assert_eq!(world.said(), [good("t", "4")]);
}

#[test]
fn silence_is_offline_and_a_field_that_comes_no_more_is_stale() {
    let mut world = World::opened(SENSOR);
    world.waits(10);
    world.hears(b"{\"t\":1,\"set\":7}\n");
    world.said();
    for _ in 0..4 {
        world.waits(2000);
        world.hears(b"{\"t\":1}\n");
    }
    assert_eq!(world.said(), [stale("set", "7")]);
    world.waits(6000);
    assert_eq!(world.said(), ["status offline".to_owned(), stale("t", "1")]);
    assert_eq!(world.state(), State::Offline);
    world.hears(b"{\"u\":1}\n");
    assert_eq!(world.said(), ["status online"], "it is there, whatever it says");
}

#[test]
fn a_port_that_is_not_there_is_opened_more_and_more_seldom() {
    let mut world = World::new(SCALE);
    let mut opened = Vec::new();
    for _ in 0..4 {
        assert_eq!(world.run(), Do::Open);
        opened.push(world.millis);
        let error = LineError::Open { path: "/dev/p".into(), kind: std::io::ErrorKind::NotFound };
        world.brain.handle_lost(error, world.now(), &mut world.out);
    }
    assert_eq!(opened, [0, 2000, 6000, 10_000]);
    assert_eq!(world.said(), ["status offline"]);
    world.order("zero", "1", None, false);
    assert!(matches!(world.next(), Do::Wait(_)));
    let refused = r#"zero/result {"ok":false,"error":"zero: not written: /dev/p: no such port"}"#;
    assert_eq!(world.said(), [refused]);
}

#[test]
fn a_command_is_confirmed_or_read_back() {
    let mut world = World::opened(SCALE);
    world.order("zero", "5", None, false);
    world.sends("Z5\r\n");
    world.hears(b"OK\r\n");
    assert_eq!(world.said(), ["status online", r#"zero/result {"value":"5","ok":true}"#]);
    world.order("tare", r#"{"value":2.5}"#, Some(1), false);
    world.sends("T2.5\r\n");
    // Its turn comes while the device takes its time; what it brings is not held against the command.
    world.sends("P\r\n");
    world.hears(b"ST,1.5kg,0.00\r\n");
    world.sends("P\r\n");
    world.hears(b"ST,1.5kg,2.50\r\n");
    assert_eq!(world.said()[4..], [r#"tare/result {"value":2.5,"ok":true}"#]);
    // It shows something else, again and again.
    world.order("tare", "3", Some(2), false);
    world.sends("T3\r\n");
    for _ in 0..2 {
        world.sends("P\r\n");
        world.hears(b"ST,1.5kg,2.50\r\n");
    }
    let refused = r#"tare/result {"ok":false,"error":"tare: the device holds 2.5 after the write"}"#;
    assert_eq!(world.said(), [refused]);
    world.order("zero", "6", None, false);
    world.sends("Z6\r\n");
    world.hears(b"ST,1.5kg,2.50\r\n");
    world.waits(150);
    let refused = r#"zero/result {"ok":false,"error":"zero: may have been written: no answer in time"}"#;
    assert_eq!(world.said(), [refused]);
}

#[test]
fn a_command_that_may_have_been_done_is_looked_at_first() {
    let mut world = World::opened(SCALE);
    world.order("tare", "2.5", Some(1), true);
    world.sends("P\r\n");
    world.hears(b"ST,1.5kg,2.50\r\n");
    assert_eq!(world.said()[4..], [r#"tare/result {"value":2.5,"ok":true}"#], "nothing is sent again");
    world.order("tare", "4", Some(2), true);
    world.sends("P\r\n");
    world.hears(b"ST,1.5kg,2.50\r\n");
    world.sends("T4\r\n");
    world.brain.handle_lost(LineError::Broken(std::io::ErrorKind::BrokenPipe), world.now(), &mut world.out);
    assert_eq!(world.run(), Do::Open);
    world.brain.handle_opened(world.now());
    world.sends("P\r\n");
    world.hears(b"ST,1.5kg,4.00\r\n");
    assert_eq!(world.said(), [good("tare", "4"), r#"tare/result {"value":4,"ok":true}"#.to_owned()]);
    world.order("zero", "1", Some(3), true);
    let refused = r#"zero/result {"ok":false,"error":"zero: may have been written: the gateway was stopped meanwhile"}"#;
    assert_eq!(world.said(), [refused]);
}

/// One that talks by itself says what was before, too.
#[test]
fn a_command_to_one_that_talks_by_itself_waits_for_what_it_shows() {
    let mut world = World::opened(SENSOR);
    world.waits(10);
    world.order("set", "8", Some(1), false);
    world.sends("S8\n");
    world.hears(b"{\"set\":7}\n");
    world.hears(b"{\"set\":8}\n");
    let done = r#"set/result {"value":8,"ok":true}"#;
    assert_eq!(world.said(), ["status online", &good("set", "7"), &good("set", "8"), done]);
    world.order("set", "true", Some(2), false);
    world.sends("Strue\n");
    world.hears(b"{\"set\":8}\n");
    world.waits(300);
    let refused = r#"set/result {"ok":false,"error":"set: the device holds 8 after the write"}"#;
    assert_eq!(world.said(), [refused]);
}

#[test]
fn a_command_never_brings_a_line_of_its_own() {
    let mut world = World::opened(SENSOR);
    world.waits(10);
    world.order("set", "a\nS9", None, false);
    world.order("set", "\u{20AC}", None, false);
    world.order("t", "1", None, false);
    world.order("nothing", "1", None, false);
    assert!(matches!(world.next(), Do::Wait(_)), "nothing is sent");
    let plain = "takes text without control characters, of one byte each";
    assert_eq!(
        world.said(),
        [
            format!(r#"set/result {{"ok":false,"error":"set: {plain}"}}"#),
            format!(r#"set/result {{"ok":false,"error":"set: {plain}"}}"#),
            r#"t/result {"ok":false,"error":"t: is not writable"}"#.to_owned(),
            r#"nothing/result {"ok":false,"error":"devices/d/nothing/set: no such point"}"#.to_owned(),
        ]
    );
}

#[test]
fn raw_frames_are_published_each_and_written_as_they_come() {
    let mut world = World::opened(
        r#"
    serial: { port: p, format: raw, framing: { start: "\x02", length_at: 1, checksum: xor8 } }
    publish: { format: plain }
    points: { f: { field: hex, writable: true } }
"#,
    );
    world.waits(10);
    world.hears(&[2, 2, 7, 7]);
    world.hears(&[2, 2, 7, 7, 9, 2, 2, 7, 6, 2, 2, 8, 8]);
    // The start of the wrong frame hides the right one until nothing can follow it any more.
    world.waits(200);
    assert_eq!(world.said(), ["status online", "f 02020707", "f 02020707", "f 02020808"]);
    assert_eq!(world.brain.status().errors, 1);
    world.order("f", "02 00 0d", Some(1), false);
    world.sends("\u{2}\0\r");
    assert_eq!(world.said(), [r#"f/result {"value":"02000D","ok":true}"#]);
}

#[test]
fn a_device_without_point_in_its_topic_has_one_message_a_line() {
    let device = SENSOR.replace("points:\n", "publish: { topic: all }\n    points:\n");
    let mut world = World::opened(&device);
    world.waits(10);
    world.hears(b"{\"t\":1,\"set\":7}\n{\"t\":1,\"set\":7}\n{\"t\":[],\"set\":7}\n");
    let said: Vec<_> = world.said().iter().map(|text| text.replace("1970-01-01T00:00:01.", "")).collect();
    assert_eq!(said[1], r#"all {"time":"020Z","values":{"t":1,"set":7},"quality":{}}"#);
    assert_eq!(said[2], r#"all {"time":"020Z","values":{"t":null,"set":7},"quality":{"t":"bad"}}"#);
    assert_eq!(said.len(), 3);
}

const FRAMES: &str = r#"
    serial:
      port: p
      format: raw
      framing: { start: "\x02", length: 10, checksum: sum8 }
      request: { send: "?", every: 1s }
    timeout: 100ms
    retries: 0
    offline_after: 2
    publish: { heartbeat: 0s }
    points:
      level: { byte: 1, type: u16, byte_order: little, scale: 0.1, offset: -40, unit: m, publish: false }
      flow: { byte: 3, type: i24, invalid: [-1], aggregate: { every: 3s, of: max } }
      state: { byte: 6, bits: { alarm: 0, gear: 4-6 } }
      mode: { byte: 7, labels: { 1: auto, 2: manual } }
      total: { compute: "level * 10 + state.gear", round: 1 }
"#;

fn frame(bytes: [u8; 8]) -> Vec<u8> {
    let body = [&[2], &bytes[..]].concat();
    let sum = body.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    [body, vec![sum]].concat()
}

#[test]
fn bytes_of_a_frame_are_points_and_others_are_computed_from_them() {
    let mut world = World::opened(FRAMES);
    world.sends("?");
    world.hears(&frame([0xE8, 0x03, 0xFF, 0xFF, 0xFE, 0x51, 1, 0]));
    let state = r#"{"alarm":true,"gear":5}"#;
    let expected =
        ["status online".to_owned(), good("state", state), good("mode", "\"auto\""), good("total", "605")];
    assert_eq!(world.said(), expected);
    // The same again is no news; the window has two readings, one of them no value.
    world.sends("?");
    world.hears(&frame([0xE8, 0x03, 0xFF, 0xFF, 0xFF, 0x51, 1, 0]));
    let told = r#"flow {"value":-2,"quality":"stale","error":"1 of 2 readings are missing""#;
    let said = world.said();
    assert!(said.is_empty() || said == [told], "{said:?}");
    world.sends("?");
    let said = [said, world.said()].concat();
    assert_eq!(said.iter().filter(|said| said.starts_with("flow")).count(), 1, "{said:?}");
    // Wrong by its checksum, then silence: nothing of it counts, and what is computed goes stale with the rest.
    let mut wrong = frame([0, 0, 0, 0, 0, 0, 2, 0]);
    wrong[9] ^= 1;
    world.hears(&wrong);
    world.sends("?");
    world.sends("?");
    let said = world.said();
    let expected = [
        "status offline".to_owned(),
        stale("state", state),
        stale("mode", "\"auto\""),
        stale("total", "605"),
    ];
    let expected: Vec<_> = expected.iter().filter(|wanted| !said.contains(wanted)).collect();
    assert!(expected.is_empty(), "{expected:?} in {said:?}");
    assert!(!said.iter().any(|said| said.starts_with("level")), "{said:?}");
}

#[test]
fn fields_are_values_of_their_types() {
    let float = |value: f64| Ok(Value::Float(value));
    let text = |value: &str| Ok(Value::Text(value.into()));
    let cases = [
        ("type: f64", " +12.50 ", float(12.5)),
        ("type: f64", "-1e3", float(-1000.0)),
        ("type: f64", "inf", Err("the field is not a number")),
        ("type: f64", "1e999", Err("the field is not a number")),
        ("type: f64", "1,5", Err("the field is not a number")),
        ("type: f64", "", Err("the field is empty")),
        ("type: f64, scale: 0.1", "123", float(12.3)),
        ("type: f64, scale: 0.1, offset: 0.2", "1", float(0.3)),
        ("type: f64, round: 1", "1.25", float(1.2)),
        ("type: u16", "65535", Ok(Value::Unsigned(65_535))),
        ("type: u16", "65536", Err("the field is beyond its type")),
        ("type: u16", "-1", Err("the field is beyond its type")),
        ("type: u16", "1.5", Err("the field is not a whole number")),
        ("type: i16", "+7", Ok(Value::Unsigned(7))),
        ("type: i64", "-9223372036854775808", Ok(Value::Signed(i64::MIN))),
        ("type: u64", "18446744073709551615", Ok(Value::Unsigned(u64::MAX))),
        ("type: u64", "18446744073709551616", Err("the field is beyond its type")),
        ("type: i16, scale: 0.01", "-215", float(-2.15)),
        ("type: bool", "ON", Ok(Value::Bool(true))),
        ("type: bool", "2", Err("the field is not true or false")),
        ("type: string", " a ", text(" a ")),
        ("unit: x", "007", text("007")),
        ("labels: { A: open, B: true }", "A", text("open")),
        ("labels: { A: open, B: true }", "B", Ok(Value::Bool(true))),
        ("labels: { A: open, B: true }", "C", Err("the field is none of the labels")),
    ];
    for (keys, said, expected) in cases {
        let value = value_of(&point(keys, "match: '(?P<f>.*)'"), &Said::Text(said.into()));
        assert_eq!(
            value.map_err(|error| error.to_string()),
            expected.map_err(str::to_owned),
            "{keys} {said}"
        );
    }
    let cases = [
        ("unit: x", "1", Ok(Value::Unsigned(1))),
        ("unit: x", "-1.5", float(-1.5)),
        ("unit: x", "true", Ok(Value::Bool(true))),
        ("unit: x", "\"1\"", text("1")),
        ("unit: x", "null", Err("the field holds no value")),
        ("unit: x", "[1]", Err("the field holds no value")),
        ("type: f64", "\"1.5\"", float(1.5)),
        ("type: f64", "true", Err("the field is not a number")),
        ("type: bool", "1", Ok(Value::Bool(true))),
        ("type: u64", "18446744073709551615", Ok(Value::Unsigned(u64::MAX))),
        ("labels: { \"1\": on, \"true\": yes }", "1", text("on")),
        ("labels: { \"1\": on, \"true\": yes }", "true", text("yes")),
        ("scale: 2", "1.5", float(3.0)),
    ];
    for (keys, said, expected) in cases {
        let json = serde_json::from_str(said).expect("JSON");
        let value = value_of(&point(keys, "format: json"), &Said::Json(&json));
        assert_eq!(
            value.map_err(|error| error.to_string()),
            expected.map_err(str::to_owned),
            "{keys} {said}"
        );
    }
}

#[test]
fn values_are_written_as_the_field_would_say_them() {
    let cases = [
        ("type: f64", "2.50", Ok("2.50")),
        ("type: f64", "warm", Err("takes a number")),
        ("type: f64", "NaN", Err("takes a finite number")),
        ("type: f64, max: 9", "10", Err("10 is above max 9")),
        ("type: f64, min: 0.5", "0.4", Err("0.4 is below min 0.5")),
        ("type: f64, scale: 0.1, offset: 1", "1.7", Ok("7")),
        ("type: u16", "1.5", Err("1.5 is not a whole number")),
        ("type: u16", "65536", Err("is beyond its type")),
        ("type: i16, scale: 0.1", "2.15", Ok("22")),
        ("type: bool", "off", Ok("0")),
        ("labels: { A: open, B: true }", "open", Ok("A")),
        ("labels: { A: open, B: true }", "on", Ok("B")),
        ("labels: { A: open, B: true }", "A", Err("takes one of its labels")),
        ("type: string", "Größe", Ok("Gr\u{f6}\u{df}e")),
        ("type: string", "a\rb", Err("takes text without control characters, of one byte each")),
    ];
    for (keys, asked, expected) in cases {
        let keys = format!("{keys}, writable: true, command: '{{value}}'");
        let written = encode(&point(&keys, "match: '(?P<f>.*)'"), asked);
        let written = written.map(|written| written.bytes.into_iter().map(char::from).collect::<String>());
        let expected = expected.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(written.map_err(|error| error.to_string()), expected, "{keys} {asked}");
    }
}

fn point(keys: &str, format: &str) -> tidegate::config::instrument::FieldPoint {
    let device =
        format!("    serial: {{ port: p, {format} }}\n    points: {{ f: {{ field: f, {keys} }} }}\n");
    settings(&device).points.remove(0)
}
