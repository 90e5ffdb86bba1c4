//! Readings that are gathered for one message: polled devices and serial instruments in virtual time, and a whole gateway
//! with its broker.

#![allow(clippy::unwrap_used)] // helpers outside of test functions too: a panic here is a failed test

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use tidegate::base::time::{Duration, Instant, Now, Timestamp};
use tidegate::bus::simulator;
use tidegate::config::batch::Batch;
use tidegate::config::load::parse;
use tidegate::config::model::{Device, When};
use tidegate::config::template::TopicTemplate;
use tidegate::device::effect::Effects;
use tidegate::device::serial::{Do, Instrument};
use tidegate::mqtt::qos::QoS;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::cloud::mosquitto::free_port;
use crate::device::{World, device, point};
use crate::gateway::client::{Client, config, durable, start};
use crate::instrument::Nothing;

/// A batch of ten readings, or four and a half seconds.
fn gathering(topic: &str) -> Device {
    let mut settings = device("m", 1, vec![point("a", 0), point("b", 100)]);
    settings.publish.topic = TopicTemplate::new(topic).unwrap();
    settings.publish.when = When::Poll;
    settings.publish.retain = false;
    settings.publish.batch =
        Some(Batch { every: Duration::from_millis(4_500), readings: 10, packet_bytes_max: 1 << 16 });
    settings
}

/// Milliseconds, and the members of each array.
fn arrays(heard: &[(u64, String)]) -> Vec<(u64, Vec<Value>)> {
    let array = |text: &str| serde_json::from_str::<Vec<Value>>(text).expect("an array");
    heard.iter().map(|(at, text)| (*at, array(text))).collect()
}

#[test]
fn a_points_readings_are_one_array_each_with_its_time() {
    let mut world = World::new(vec![gathering("devices/{device}/{point}")]);
    world.run(12_000);
    let heard = arrays(&world.heard("devices/m/a"));
    let times: Vec<Vec<&str>> = heard
        .iter()
        .map(|(_, readings)| readings.iter().map(|reading| reading["time"].as_str().unwrap()).collect())
        .collect();
    let at = |secs: u32| format!("2026-11-21T10:00:{secs:02}.010Z");
    assert_eq!(times, [[at(0), at(1), at(2), at(3), at(4)], [at(5), at(6), at(7), at(8), at(9)]]);
    assert_eq!(heard[0].0, 4_510, "so long behind its first reading");
    assert_eq!(heard[0].1[0], json!({"value":0,"quality":"good","time":at(0)}));
    assert_eq!(arrays(&world.heard("devices/m/b"))[0].1.len(), 5, "each point has its own");
}

#[test]
fn a_device_topic_carries_an_array_of_its_messages() {
    let mut world = World::new(vec![gathering("devices/{device}")]);
    world.run(5_500);
    let heard = arrays(&world.heard("devices/m"));
    assert_eq!(heard.len(), 1);
    assert_eq!(heard[0].1.len(), 5);
    assert_eq!(
        heard[0].1[4],
        json!({"time":"2026-11-21T10:00:04.020Z","values":{"a":0,"b":100},"quality":{}})
    );
}

#[test]
fn a_device_that_is_bad_or_gone_has_nothing_that_waits() {
    let mut world = World::new(vec![gathering("devices/{device}")]);
    world.run(2_500);
    assert_eq!(world.heard("devices/m"), []);
    world.unit(1).holes.insert(0);
    world.run(1_000);
    let heard = arrays(&world.heard("devices/m"));
    assert_eq!(heard.len(), 1, "at once, not when its time is over");
    assert_eq!(heard[0].1.last().unwrap()["quality"], json!({"a":"bad"}));
    world.unit(1).holes.clear();
    world.run(2_000);
    world.unit(1).silent = true;
    world.run(10_000);
    let all: Vec<Value> =
        arrays(&world.heard("devices/m")).into_iter().flat_map(|(_, readings)| readings).collect();
    assert_eq!(all.last().unwrap()["quality"], json!({"a":"stale","b":"stale"}));
    let offline = world.heard("devices/m/status").last().unwrap().clone();
    assert_eq!((offline.0, &*offline.1), (world.heard("devices/m").last().unwrap().0, "offline"));
}

#[test]
fn a_clean_stop_publishes_what_is_open() {
    let mut world = World::new(vec![gathering("devices/{device}/{point}")]);
    world.run(1_500);
    assert_eq!(world.heard("devices/m/a"), []);
    let mut out = Effects::default();
    world.poller.handle_shutdown(world.now, &mut out);
    world.collect(out);
    for topic in ["devices/m/a", "devices/m/b"] {
        assert_eq!(arrays(&world.heard(topic))[0].1.len(), 2, "{topic}");
    }
}

const SCALE: &str = r"
ports: { p: { path: /dev/p } }
devices:
  d:
    serial: { port: p, format: json }
    offline_after: 5s
    publish: { batch: { every: 3s, readings: 4 } }
    points:
      weight: { field: weight, unit: kg }
";

/// Bytes in, arrays out.
struct Scale {
    brain: Instrument,
    millis: u64,
    out: Effects,
}

impl Scale {
    fn new() -> Self {
        let config =
            parse("t.yaml", SCALE, Path::new("/"), &Nothing).unwrap_or_else(|faults| panic!("{faults}"));
        let brain = Instrument::new("g", 0, config.instruments[0].clone(), now(0));
        let mut scale = Self { brain, millis: 0, out: Effects::default() };
        assert_eq!(scale.brain.next(now(0), &mut scale.out), Do::Open);
        scale.brain.handle_opened(now(0));
        scale.millis = 1000;
        scale.weighs(1);
        scale
    }

    fn weighs(&mut self, kg: u32) {
        self.passes(100);
        self.brain.handle_bytes(format!("{{\"weight\":{kg}}}\n").as_bytes(), now(self.millis), &mut self.out);
    }

    /// Moves to each moment that it waits for.
    fn passes(&mut self, millis: u64) {
        let end = self.millis + millis;
        while let Do::Wait(until) = self.brain.next(now(self.millis), &mut self.out) {
            let at = until.as_nanos().div_ceil(1_000_000);
            if at > end {
                self.millis = end;
                return;
            }
            assert!(at > self.millis, "it waits for what is past");
            self.millis = at;
        }
        panic!("it does something at {}", self.millis);
    }

    /// The values of each array since.
    fn said(&mut self) -> Vec<Vec<Value>> {
        let published = std::mem::take(&mut self.out.publishes);
        let readings = published.iter().filter(|message| message.topic.as_str() == "devices/d/weight");
        let values = readings.map(|message| {
            assert!(!message.retain, "a batch is never retained");
            let array: Vec<Value> = serde_json::from_slice(&message.payload).expect("an array");
            array.iter().map(|reading| reading["value"].clone()).collect()
        });
        values.collect()
    }
}

fn now(millis: u64) -> Now {
    let instant = Instant::ORIGIN + Duration::from_millis(millis);
    Now { instant, wall: Timestamp::from_millis(i64::try_from(millis).unwrap()) }
}

#[test]
fn an_instrument_gathers_as_a_polled_device_does() {
    let mut scale = Scale::new();
    (2..=4).for_each(|kg| scale.weighs(kg));
    assert_eq!(scale.said(), [[json!(1), json!(2), json!(3), json!(4)]], "four readings are a batch");
    scale.weighs(5);
    scale.passes(2_900);
    assert_eq!(scale.said(), Vec::<Vec<Value>>::new());
    scale.passes(200);
    assert_eq!(scale.said(), [[json!(5)]], "three seconds are");
    scale.weighs(6);
    scale.brain.handle_shutdown(now(scale.millis), &mut scale.out);
    assert_eq!(scale.said(), [[json!(6)]], "and a stop");
    scale.weighs(7);
    scale.passes(5_000);
    assert_eq!(scale.said().concat(), [json!(7), json!(7)], "and silence: the second is stale");
}

#[tokio::test]
async fn batches_arrive_through_the_broker_and_a_stop_loses_none() {
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let unit = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let device = |name: &str, number: u8, readings: u32| {
        format!(
            "  {name}:
    modbus: {{ tcp: \"{}\", unit: {number} }}
    poll: 20ms
    publish: {{ topic: \"devices/{{device}}\", when: poll, batch: {{ every: 1h, readings: {readings} }} }}
    points: {{ a: {{ input: 0 }}, b: {{ input: 1 }} }}
",
            unit.local_addr().unwrap()
        )
    };
    let text = format!(
        "broker: {{ listeners: [{{ address: \"127.0.0.1:{port}\" }}], sys_interval: 0s }}\ndevices:\n{}{}",
        device("often", 1, 8),
        device("never", 2, 10_000)
    );
    let settings = config(folder.path(), &text);
    let stop = CancellationToken::new();
    let played = tokio::spawn(simulator::serve_tcp(unit, settings.devices.clone(), stop.clone()));

    let gateway = start(Arc::clone(&settings));
    let mut viewer = Client::connect(gateway.addresses()[0], durable("viewer")).await;
    viewer.subscribe("devices/+", QoS::AtLeastOnce).await;
    let mut often = Vec::new();
    for _ in 0..3 {
        let (topic, payload) = viewer.message().await;
        assert_eq!(topic, "devices/often");
        let batch: Vec<Value> = serde_json::from_slice(&payload).expect("an array");
        assert_eq!(batch.len(), 8);
        often.extend(batch);
    }
    assert!(times(&often).is_sorted(), "{often:?}");
    assert!(often.iter().all(|reading| reading["values"].as_object().is_some_and(|all| all.len() == 2)));
    drop(viewer);
    gateway.stop().await.unwrap();

    // What was open when the gateway stopped waits for the session of who was away.
    let gateway = start(settings);
    let mut viewer = Client::connect(gateway.addresses()[0], durable("viewer")).await;
    let never: Vec<Value> = loop {
        let (topic, payload) = viewer.message().await;
        if topic == "devices/never" {
            break serde_json::from_slice(&payload).expect("an array");
        }
    };
    assert!(never.len() >= 20, "{}", never.len());
    assert!(times(&never).is_sorted() && times(&never)[0] < times(&often)[8], "from the first one on");
    drop(viewer);
    stop.cancel();
    played.await.unwrap();
    gateway.stop().await.unwrap();
}

fn times(readings: &[Value]) -> Vec<&str> {
    readings.iter().map(|reading| reading["time"].as_str().unwrap()).collect()
}
