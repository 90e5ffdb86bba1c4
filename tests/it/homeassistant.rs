//! What Home Assistant is told: each key of each discovery message is one that it documents, and messages come, stay and
//! go as they are to.

#![allow(clippy::unwrap_used)] // helpers outside of test functions too: a panic here is a failed test

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value, json};
use tidegate::app::Gateway;
use tidegate::config::model::Config;
use tidegate::device::homeassistant::{Announcement, DISCOVERY_FILTER, is_own};
use tidegate::mqtt::packet::publish::Publish;
use tidegate::mqtt::packet::{Packet, Version};
use tidegate::mqtt::qos::QoS;
use tidegate::mqtt::topic::TopicFilter;

use crate::gateway::client::{Client, config, connect, publish, start, until};

/// Keys of a device discovery message, and their abbreviations where this gateway uses them.
const MESSAGE_KEYS: [&str; 6] =
    ["dev", "o", "cmps", "availability_topic", "payload_available", "payload_not_available"];
const DEVICE_KEYS: [&str; 5] = ["ids", "name", "mf", "mdl", "sw"];
const ORIGIN_KEYS: [&str; 2] = ["name", "sw"];
/// Keys that every component has here; all are documented for each platform.
const ALWAYS: [&str; 4] = ["p", "name", "unique_id", "state_topic"];
/// Platform, keys that it must have, keys that it may have.
const PLATFORMS: [(&str, &[&str], &[&str]); 6] = [
    (
        "sensor",
        &[],
        &["value_template", "unit_of_measurement", "device_class", "state_class", "options", "expire_after"],
    ),
    ("binary_sensor", &["payload_on", "payload_off"], &["value_template", "expire_after"]),
    ("switch", &["command_topic", "payload_on", "payload_off", "state_on", "state_off"], &["value_template"]),
    (
        "number",
        &["command_topic", "min", "max", "step"],
        &["value_template", "command_template", "unit_of_measurement", "device_class"],
    ),
    ("select", &["command_topic", "options"], &["value_template"]),
    ("text", &["command_topic"], &["value_template", "max"]),
];

const DEVICES: &str = r#"
ports:
  bench: { path: /dev/null }
devices:
  meter:
    modbus: { tcp: "127.0.0.1:9", unit: 1 }
    homeassistant: true
    points:
      voltage:  { input: 0, type: f32, unit: V }
      energy:   { input: 72, type: f32, unit: kWh, poll: 30s }
      daily:    { input: 74, type: f32, unit: kWh, aggregate: { every: 1h, of: sum } }
      setpoint: { holding: 100, type: i16, scale: 0.1, unit: °C, writable: true, min: 5, max: 30 }
      free:     { holding: 101, type: i16, scale: -0.5, offset: 10, writable: true }
      exact:    { holding: 102, type: f64, round: 2, writable: true }
      relay:    { coil: 3, writable: true }
      door:     { discrete: 5 }
      state:    { holding: 40, bits: { alarm: 0, gear: 4-6 }, writable: true }
      seen:     { input: 40, bits: { alarm: 0, gear: 4-6 } }
      mode:     { holding: 41, labels: { 0: off, 1: auto }, writable: true }
      told:     { input: 41, labels: { 0: "say \"hi\" }}", 1: auto } }
      flag:     { input: 42, labels: { 0: false, 1: true } }
      mixed:    { holding: 43, labels: { 0: false, 1: auto }, writable: true }
      text:     { holding: 50, type: string, length: 8, writable: true }
      model:    { holding: 60, type: string, length: 8 }
      hidden:   { holding: 70, publish: false }
      apparent: { compute: "voltage * 2", unit: VA }
      ready:    { compute: "voltage > 2" }
  plain:
    modbus: { tcp: "127.0.0.1:9", unit: 2 }
    homeassistant: true
    publish: { format: plain, heartbeat: 0s }
    points:
      voltage: { input: 0, type: f32, unit: V }
      relay:   { coil: 3, writable: true }
      state:   { holding: 40, bits: { alarm: 0, gear: 4-6 }, writable: true }
      mode:    { holding: 41, labels: { 0: off, 1: auto }, writable: true }
  one.topic:
    modbus: { tcp: "127.0.0.1:9", unit: 3 }
    homeassistant: true
    publish: { topic: "plant/{device}", when: poll }
    poll: 5s
    points:
      voltage: { input: 0, type: f32, unit: V }
      relay:   { coil: 3, writable: true }
      state:   { holding: 40, bits: { alarm: 0, gear: 4-6 } }
      mode:    { holding: 41, labels: { 0: off, 1: auto } }
  silent:
    modbus: { tcp: "127.0.0.1:9", unit: 4 }
    points:
      voltage: { input: 0, type: f32, unit: V }
  scale:
    serial: { port: bench, format: json, request: { send: "P\r\n", every: 2s } }
    homeassistant: true
    points:
      weight: { field: weight, type: f64, unit: kg }
      stable: { field: status, labels: { ST: true, US: false } }
      tare:   { field: tare, type: u16, writable: true, command: "T{value}\r\n" }
      note:   { field: note, writable: true, command: "N{value}\r\n" }
"#;

fn devices() -> (tempfile::TempDir, std::sync::Arc<Config>) {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), DEVICES);
    (folder, config)
}

fn announced(config: &Config) -> BTreeMap<String, Value> {
    let devices = config.devices.iter().filter(|device| device.homeassistant);
    let devices = devices.filter_map(|device| Announcement::of_device("test", device, None));
    let instruments = config.instruments.iter().filter_map(|one| Announcement::of_instrument("test", one));
    let all = devices.chain(instruments).map(|announcement| {
        let payload = serde_json::from_str(&announcement.payload()).expect("JSON");
        (announcement.topic.as_str().to_owned(), payload)
    });
    all.collect()
}

fn keys(of: &Value) -> BTreeSet<&str> {
    of.as_object().expect("an object").keys().map(String::as_str).collect()
}

fn set<'a>(keys: &[&'a str]) -> BTreeSet<&'a str> {
    keys.iter().copied().collect()
}

/// What is not as Home Assistant documents it.
fn faults(message: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    let mut demand = |what: &str, is_so: bool| {
        if !is_so {
            faults.push(what.to_owned());
        }
    };
    demand("the message has other keys", keys(message) == set(&MESSAGE_KEYS));
    demand("dev has other keys", keys(&message["dev"]).is_subset(&set(&DEVICE_KEYS)));
    demand("o has other keys", keys(&message["o"]) == set(&ORIGIN_KEYS));
    let components = message["cmps"].as_object().expect("components");
    let ids: BTreeSet<&str> = components.values().filter_map(|one| one["unique_id"].as_str()).collect();
    demand("two components have one unique_id", ids.len() == components.len());
    for (key, component) in components {
        let found = keys(component);
        let platform = PLATFORMS.iter().find(|(name, ..)| component["p"] == *name);
        let Some((_, must, may)) = platform else {
            demand(&format!("{key}: an unknown platform"), false);
            continue;
        };
        let must: BTreeSet<&str> = set(must).union(&set(&ALWAYS)).copied().collect();
        demand(&format!("{key}: a key is missing"), found.is_superset(&must));
        let all: BTreeSet<&str> = must.union(&set(may)).copied().collect();
        demand(&format!("{key}: an unknown key"), found.is_subset(&all));
        let number = |key: &str| component[key].as_f64().unwrap_or_default();
        demand(&format!("{key}: min above max"), number("min") <= number("max"));
        let has_step = found.contains("step");
        demand(&format!("{key}: a step below 0.001"), !has_step || number("step") >= 0.001);
        if component["p"] == "sensor" {
            let is_enum = component["device_class"] == "enum";
            demand(&format!("{key}: options and enum go together"), is_enum == found.contains("options"));
            let is_number = found.contains("state_class") || found.contains("unit_of_measurement");
            demand(&format!("{key}: an enum is no number"), !(is_enum && is_number));
        }
    }
    faults
}

#[test]
fn every_message_has_the_keys_that_home_assistant_documents() {
    let (_folder, config) = devices();
    let announced = announced(&config);
    assert_eq!(announced.len(), 4);
    for (topic, message) in &announced {
        assert_eq!(faults(message), Vec::<String>::new(), "{topic}");
        let object_id =
            topic.strip_prefix("homeassistant/device/").and_then(|rest| rest.strip_suffix("/config"));
        let is_valid =
            |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
        assert!(object_id.is_some_and(is_valid), "{topic}");
    }
    // The table can say no.
    let (_, good) = announced.first_key_value().expect("one");
    for (pointer, key, value) in
        [("", "colour", json!(1)), ("/dev", "maker", json!("x")), ("/cmps/voltage", "stat_topic", json!("x"))]
    {
        let mut bad = good.clone();
        let place = bad.pointer_mut(pointer).and_then(Value::as_object_mut);
        place.expect("an object").insert(key.into(), value);
        assert_eq!(faults(&bad).len(), 1, "{key}");
    }
}

fn component(message: &Value, key: &str) -> Map<String, Value> {
    message["cmps"][key].as_object().cloned().unwrap_or_else(|| panic!("{key}: {message}"))
}

fn of(component: &Map<String, Value>, keys: &[&str]) -> Vec<Value> {
    keys.iter().map(|key| component.get(*key).cloned().unwrap_or_default()).collect()
}

#[test]
fn points_become_what_they_are() {
    let (_folder, config) = devices();
    let announced = announced(&config);
    let meter = &announced["homeassistant/device/test_meter/config"];
    let platform = |key: &str| component(meter, key)["p"].clone();
    for (key, expected) in [
        ("voltage", "sensor"),
        ("setpoint", "number"),
        ("relay", "switch"),
        ("door", "binary_sensor"),
        ("state.alarm", "switch"),
        ("state.gear", "number"),
        ("seen.alarm", "binary_sensor"),
        ("seen.gear", "sensor"),
        ("mode", "select"),
        ("told", "sensor"),
        ("flag", "binary_sensor"),
        ("mixed", "text"),
        ("text", "text"),
        ("model", "sensor"),
        ("apparent", "sensor"),
    ] {
        assert_eq!(platform(key), expected, "{key}");
    }
    assert!(meter["cmps"].get("hidden").is_none());
    let of_meter = |key: &str, keys: &[&str]| of(&component(meter, key), keys);
    let kind = ["unit_of_measurement", "device_class", "state_class", "expire_after"];
    assert_eq!(of_meter("voltage", &kind), [json!("V"), json!("voltage"), json!("measurement"), json!(190)]);
    assert_eq!(of_meter("energy", &kind)[1..3], [json!("energy"), json!("total_increasing")]);
    assert_eq!(of_meter("daily", &kind)[1..], [json!(null), json!("measurement"), json!(10_810)]);
    let bounds = ["min", "max", "step"];
    assert_eq!(of_meter("setpoint", &bounds), [json!(5.0), json!(30.0), json!(0.1)]);
    assert_eq!(of_meter("free", &bounds), [json!(-16_373.5), json!(16_394.0), json!(0.5)]);
    assert_eq!(of_meter("exact", &bounds)[2], json!(0.01));
    assert_eq!(of_meter("state.gear", &["command_template"]), [json!(r#"{"gear":{{ value }}}"#)]);
    assert_eq!(of_meter("state.alarm", &["payload_on"]), [json!(r#"{"alarm":true}"#)]);
    assert_eq!(of_meter("mode", &["options"]), [json!(["off", "auto"])]);
    let quoted = r#"{{ value_json.value if value_json.value in ["say \"hi\" }}", "auto"] else None }}"#;
    assert_eq!(of_meter("told", &["value_template"]), [json!(quoted)]);
    let topics = ["state_topic", "command_topic"];
    let expected = [json!("devices/meter/relay"), json!("devices/meter/relay/set")];
    assert_eq!(of_meter("relay", &topics), expected);

    let plain = &announced["homeassistant/device/test_plain/config"];
    // What is said only when it changes never expires.
    let expected = [json!(null), json!(null)];
    assert_eq!(of(&component(plain, "voltage"), &["value_template", "expire_after"]), expected);

    let shared =
        announced.iter().find(|(topic, _)| topic.starts_with("homeassistant/device/test_one_topic_"));
    let shared = shared.expect("a name with a dot").1;
    let expected =
        [json!("plant/one.topic"), json!("{{ value_json['values'].get(\"voltage\") }}"), json!(25)];
    assert_eq!(
        of(&component(shared, "voltage"), &["state_topic", "value_template", "expire_after"]),
        expected
    );
    assert_eq!(of(&component(shared, "relay"), &topics)[1], json!("plant/one.topic/relay/set"));

    let scale = &announced["homeassistant/device/test_scale/config"];
    let platforms: Vec<_> =
        ["weight", "stable", "tare", "note"].map(|key| component(scale, key)["p"].clone()).into();
    assert_eq!(platforms, ["sensor", "binary_sensor", "number", "text"]);
}

fn with_points(folder: &Path, homeassistant: bool, points: &str) -> Gateway {
    let devices = format!(
        "broker: {{ listeners: [{{ address: 127.0.0.1:0 }}], sys_interval: 0s }}
devices:
  meter:
    modbus: {{ tcp: \"127.0.0.1:9\", unit: 1 }}
    homeassistant: {homeassistant}
    points: {{ {points} }}"
    );
    start(config(folder, &devices))
}

async fn watcher(gateway: &Gateway, filter: &str) -> Client {
    let mut client = Client::connect(gateway.addresses()[0], connect("watcher", Version::V5)).await;
    client.subscribe(filter, QoS::AtLeastOnce).await;
    client
}

fn retained(gateway: &Gateway) -> BTreeMap<String, bytes::Bytes> {
    let found = gateway.hub().retained(&TopicFilter::new(DISCOVERY_FILTER).unwrap());
    found.into_iter().map(|found| (found.topic.as_str().to_owned(), found.payload.clone())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_kept_changed_said_again_and_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let topic = "homeassistant/device/test_meter/config";
    let gateway = with_points(folder.path(), true, "a: { holding: 1 }, b: { holding: 2 }");
    let mut client = watcher(&gateway, "homeassistant/#").await;
    let (found, first) = client.message().await;
    assert_eq!(found, topic);
    assert!(is_own("test", &first) && !is_own("other", &first));
    let mut other_client = Client::connect(gateway.addresses()[0], connect("other", Version::V5)).await;
    other_client.publish("homeassistant/status", "online").await;
    let again = [client.message().await, client.message().await];
    assert!(again.contains(&("homeassistant/status".to_owned(), "online".into())));
    assert!(again.contains(&(topic.to_owned(), first.clone())));
    // Somebody else's, and one of another gateway.
    let foreign = r#"{"o":{"name":"zigbee"},"dev":{"ids":["tidegate/test/meter"]},"cmps":{}}"#;
    let other = String::from_utf8(first.to_vec()).unwrap().replace("tidegate/test", "tidegate/other");
    for (name, payload) in [("foreign", foreign.to_owned()), ("other", other)] {
        let topic = format!("homeassistant/device/{name}/config");
        let Packet::Publish(message) = publish(&topic, QoS::AtMostOnce, 0, payload) else { unreachable!() };
        other_client.send(&[Packet::Publish(Publish { retain: true, ..message })]).await;
    }
    other_client.ping().await;
    other_client.part().await;
    drop(client);
    gateway.stop().await.unwrap();

    // A point that is gone is taken back by name, before the message says nothing of it any more.
    let gateway = with_points(folder.path(), true, "a: { coil: 1, writable: true }");
    until("the message of today", || {
        let last = retained(&gateway);
        let last: Value = serde_json::from_slice(last.get(topic).unwrap()).unwrap();
        keys(&last["cmps"]) == set(&["a"]) && last["cmps"]["a"]["p"] == "switch"
    })
    .await;
    gateway.stop().await.unwrap();

    let gateway = with_points(folder.path(), false, "a: { coil: 1, writable: true }");
    until("the message is gone", || !retained(&gateway).contains_key(topic)).await;
    let left: Vec<String> = retained(&gateway).into_keys().collect();
    assert_eq!(left, ["homeassistant/device/foreign/config", "homeassistant/device/other/config"]);
    gateway.stop().await.unwrap();
}

#[test]
fn what_is_no_more_is_emptied_first() {
    let (_folder, config) = devices();
    let device = config.devices.iter().find(|device| *device.name == *"plain").expect("it");
    let now = Announcement::of_device("test", device, None).expect("a message");
    assert_eq!(now.forgetting(now.payload().as_bytes()), None);
    assert_eq!(now.forgetting(b"no JSON"), None);
    let mut earlier: Value = serde_json::from_str(&now.payload()).expect("JSON");
    earlier["cmps"]["old"] = json!({ "p": "sensor", "unique_id": "x" });
    earlier["cmps"]["relay"]["p"] = json!("binary_sensor");
    let forgetting = now.forgetting(earlier.to_string().as_bytes()).expect("a message");
    let forgetting: Value = serde_json::from_str(&forgetting).expect("JSON");
    assert_eq!(forgetting["cmps"]["old"], json!({ "p": "sensor" }));
    assert_eq!(forgetting["cmps"]["relay"], json!({ "p": "binary_sensor" }));
    assert_eq!(forgetting["cmps"]["mode"]["p"], "select");
}
