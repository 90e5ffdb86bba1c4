//! The bridge as a Sparkplug node: births before anything else, numbers without gaps whatever breaks, deaths where they
//! belong in the order, the cloud's commands, and the host that has to be there.

use std::num::NonZeroU32;
use std::sync::Arc;

use tidegate::base::time::Duration;
use tidegate::bridge::Bridge;
use tidegate::bridge::node::{NodeSettings, Said};
use tidegate::bridge::status::LinkState;
use tidegate::config::model::{self, ForwardOrder, ForwardRule, Priority};
use tidegate::mqtt::message::{Message, Origin};
use tidegate::mqtt::packet::Version;
use tidegate::mqtt::packet::publish::Publish;
use tidegate::mqtt::qos::QoS;
use tidegate::mqtt::topic::TopicName;
use tidegate::sparkplug::payload::{DataType, Metric, MetricValue, Payload, Quality};
use tidegate::sparkplug::session::{Definition, DeviceDefinition, MetricDefinition};
use tidegate::sparkplug::topic::{EdgeNode, Kind};

use super::world::{World, config, forward, topic};

const STATE: &str = "spBv1.0/STATE/scada-1";

fn edge() -> EdgeNode {
    EdgeNode { group: "plant".into(), node: "plant-7".into() }
}

fn node() -> NodeSettings {
    let device = |name: &str| DeviceDefinition {
        name: name.into(),
        metrics: vec![MetricDefinition { name: "u".into(), datatype: DataType::Double, unit: None }],
    };
    let definition = Definition { node: edge(), devices: vec![device("meter"), device("boiler")] };
    NodeSettings { definition: Arc::new(definition), bd_seq: None }
}

fn bridge(primary_host: Option<&str>) -> model::Bridge {
    model::Bridge {
        status_topic: None,
        primary_host: primary_host.map(Into::into),
        forward: vec![forward("spBv1.0/#", "{topic}", None)],
        inflight: 4,
        ..config(Version::V5)
    }
}

fn up() -> World {
    let mut world = World::with_node(bridge(None), Some(node()));
    world.drain();
    assert_eq!(world.bridge.state(), LinkState::Up);
    world
}

fn reading(value: f64) -> Payload {
    let metric = Metric {
        name: Some("u".into()),
        timestamp: Some(1_000),
        datatype: Some(DataType::Double),
        value: Some(MetricValue::Double(value)),
        quality: Some(Quality::Good),
        ..Metric::default()
    };
    Payload { metrics: vec![metric], ..Payload::default() }
}

fn say(world: &mut World, kind: Kind, device: &str, payload: &Payload) {
    let topic = edge().device_topic(kind, device).expect("a topic");
    let origin = Origin::Device(0);
    let message = Arc::new(Message::new(topic, payload.encode(), QoS::AtLeastOnce, origin, world.now));
    world.visit(|bridge, now, out| {
        bridge.handle_said(Said { kind, device, payload, message: &message }, now, out);
    });
}

fn read(world: &mut World, device: &str, value: f64) {
    say(world, Kind::DeviceData, device, &reading(value));
}

fn come(world: &mut World, device: &str) {
    say(world, Kind::DeviceBirth, device, &reading(0.0));
}

fn go(world: &mut World, device: &str) {
    say(world, Kind::DeviceDeath, device, &Payload::default());
}

fn decoded(publish: &Publish) -> Payload {
    Payload::decode(&publish.payload).expect("a payload")
}

/// What the cloud was told, each as `KIND device value?`; that the numbers have no gap is checked on the way.
fn told(world: &World) -> Vec<String> {
    let mut expected = 0;
    let mut told = Vec::new();
    for publish in &world.cloud.delivered {
        let (kind, device) = edge().parse(publish.topic.as_ref().expect("a topic")).expect("the node's");
        let payload = decoded(publish);
        assert!(!publish.retain);
        if kind == Kind::NodeBirth {
            expected = 0;
        }
        if kind != Kind::NodeDeath {
            assert_eq!(payload.seq, Some(expected), "{told:?} then {kind:?}");
            expected = (expected + 1) % 256;
        }
        let mut line = format!("{} {}", kind.as_str(), device.unwrap_or(""));
        if kind == Kind::DeviceData {
            let Some(MetricValue::Double(value)) = payload.metrics[0].value else { panic!("{payload:?}") };
            let old = if payload.metrics[0].is_historical { " historical" } else { "" };
            line = format!("{line} {value}{old}");
        }
        told.push(line.trim_end().to_owned());
    }
    told
}

fn bd_seq(payload: &[u8]) -> Option<MetricValue> {
    let payload = Payload::decode(payload).expect("a payload");
    payload.metrics.into_iter().find(|metric| metric.name.as_deref() == Some("bdSeq"))?.value
}

/// Of each CONNECT: the number in its will.
fn wills(world: &World) -> Vec<u64> {
    let wills = world.cloud.connects.iter().map(|connect| connect.will.as_ref().expect("a will"));
    let numbers = wills.map(|will| {
        assert_eq!(
            (will.topic.as_str(), will.qos, will.retain),
            ("spBv1.0/plant/NDEATH/plant-7", QoS::AtLeastOnce, false)
        );
        let Some(MetricValue::Long(number)) = bd_seq(&will.payload) else { panic!("no bdSeq") };
        number
    });
    numbers.collect()
}

#[test]
fn births_come_first_and_what_waited_is_historical() {
    let mut world = World::with_node(bridge(None), Some(node()));
    world.reachable = false;
    world.cut();
    come(&mut world, "meter");
    for value in [1.0, 2.0] {
        read(&mut world, "meter", value);
    }
    // Of a device that went meanwhile it still waits.
    read(&mut world, "boiler", 9.0);
    world.advance(Duration::from_secs(1));
    world.reachable = true;
    world.run(Duration::from_secs(120));
    read(&mut world, "meter", 3.0);
    world.drain();
    let expected = [
        "NBIRTH",
        "DBIRTH meter",
        "DDATA meter 1 historical",
        "DDATA meter 2 historical",
        "DBIRTH boiler",
        "DDATA boiler 9 historical",
        "DDEATH boiler",
        "DDATA meter 3",
    ];
    assert_eq!(told(&world), expected);
    let subscribed: Vec<_> =
        world.cloud.subscribes[0].filters.iter().map(|(filter, _)| filter.as_str().to_owned()).collect();
    assert_eq!(subscribed, ["down/#", "spBv1.0/plant/NCMD/plant-7", "spBv1.0/plant/DCMD/plant-7/+"]);
}

#[test]
fn each_connection_has_its_number_and_what_was_in_flight_gets_a_new_one() {
    let mut world = up();
    come(&mut world, "meter");
    world.drain();
    // The cloud gets it, and its answer is lost.
    read(&mut world, "meter", 1.0);
    while world.step_cloud() {}
    world.cut();
    world.run(Duration::from_secs(120));
    read(&mut world, "meter", 2.0);
    world.drain();
    let expected = [
        "NBIRTH",
        "DBIRTH meter",
        "DDATA meter 1",
        "NBIRTH",
        "DBIRTH meter",
        "DDATA meter 1 historical",
        "DDATA meter 2",
    ];
    assert_eq!(told(&world), expected);
    assert_eq!(wills(&world), [0, 1]);
    world.crash();
    world.run(Duration::from_secs(120));
    assert_eq!(wills(&world), [0, 1, 2], "over a crash too");
    let birth = world.cloud.delivered.iter().rfind(|publish| {
        publish.topic.as_ref().is_some_and(|topic| topic.as_str().ends_with("NBIRTH/plant-7"))
    });
    assert_eq!(bd_seq(&birth.expect("NBIRTH").payload), Some(MetricValue::Long(2)));
}

#[test]
fn a_device_dies_behind_what_it_said_and_comes_back_behind_that() {
    let mut world = up();
    come(&mut world, "meter");
    // More than the window takes.
    for value in 1..=6 {
        read(&mut world, "meter", f64::from(value));
    }
    go(&mut world, "meter");
    world.drain();
    come(&mut world, "meter");
    read(&mut world, "meter", 7.0);
    world.drain();
    let mut expected: Vec<String> = vec!["NBIRTH".to_owned(), "DBIRTH meter".to_owned()];
    expected.extend((1..=6).map(|value| format!("DDATA meter {value}")));
    expected.extend(["DDEATH meter", "DBIRTH meter", "DDATA meter 7"].map(str::to_owned));
    assert_eq!(told(&world), expected);
}

/// The meter's readings by rule 0, the boiler's by rule 1.
fn two_rules(meter: (Priority, ForwardOrder), boiler: (Priority, ForwardOrder)) -> model::Bridge {
    let rule = |device: &str, (priority, order)| {
        let filter = format!("spBv1.0/plant/DDATA/plant-7/{device}");
        ForwardRule { priority, order, ..forward(&filter, "{topic}", None) }
    };
    model::Bridge { forward: vec![rule("meter", meter), rule("boiler", boiler)], ..bridge(None) }
}

fn outage(world: &mut World) {
    world.drain();
    world.reachable = false;
    world.cut();
}

fn back(world: &mut World) {
    world.reachable = true;
    while world.bridge.state() != LinkState::Up {
        world.run(Duration::from_millis(10));
    }
}

#[test]
fn what_is_new_goes_first_in_the_numbers_of_the_session_and_what_waited_is_history() {
    let live_first = (Priority::Normal, ForwardOrder::LiveFirst);
    let mut bridge = two_rules(live_first, (Priority::High, ForwardOrder::Topic));
    bridge.buffer.replay_rate = NonZeroU32::new(1);
    let mut world = World::with_node(bridge, Some(node()));
    come(&mut world, "meter");
    outage(&mut world);
    for value in [1.0, 2.0, 3.0] {
        read(&mut world, "meter", value);
    }
    world.advance(Duration::from_secs(1));
    back(&mut world);
    let early = told(&world);
    read(&mut world, "meter", 4.0);
    world.drain();
    let mut expected = early.clone();
    expected.push("DDATA meter 4".to_owned());
    assert_eq!(told(&world), expected, "at once");
    // It goes: that is said when the last of its own has left, whatever goes before.
    go(&mut world, "meter");
    world.run(Duration::from_secs(10));
    let told = told(&world);
    let of_meter: Vec<_> = told.iter().filter(|line| line.ends_with("historical")).cloned().collect();
    assert_eq!(of_meter, [1, 2, 3].map(|value| format!("DDATA meter {value} historical")));
    assert!(!early.contains(&of_meter[2]), "the rate holds some back: {early:?}");
    assert_eq!(told.last().map(String::as_str), Some("DDEATH meter"));
    assert_eq!(told.iter().filter(|line| line.ends_with("DEATH meter")).count(), 1, "{told:?}");
}

/// More than are taken as new: the last had to wait, and newer ones may go before it.
#[test]
fn what_was_read_on_a_standing_link_and_had_to_wait_is_history_too() {
    let live_first = (Priority::Normal, ForwardOrder::LiveFirst);
    let mut world = World::with_node(two_rules(live_first, live_first), Some(node()));
    come(&mut world, "meter");
    world.drain();
    world.cloud.mute = true;
    for value in 1..=1001 {
        read(&mut world, "meter", f64::from(value));
    }
    world.cloud.mute = false;
    world.drain();
    let told = told(&world);
    let history: Vec<_> = told.iter().filter(|line| line.ends_with("historical")).collect();
    assert_eq!(history, ["DDATA meter 1001 historical"]);
    assert_eq!(told.len(), 2 + 1001);
}

#[test]
fn a_death_does_not_wait_for_what_others_have_on_other_lanes() {
    let (high, low) = ((Priority::High, ForwardOrder::Topic), (Priority::Low, ForwardOrder::Topic));
    let mut bridge = two_rules(high, low);
    bridge.buffer.replay_rate = NonZeroU32::new(1);
    let mut world = World::with_node(bridge, Some(node()));
    for device in ["meter", "boiler"] {
        come(&mut world, device);
    }
    outage(&mut world);
    for value in 1..=9 {
        read(&mut world, "boiler", f64::from(value));
    }
    world.advance(Duration::from_secs(1));
    back(&mut world);
    read(&mut world, "meter", 1.0);
    go(&mut world, "meter");
    go(&mut world, "boiler");
    world.drain();
    let now = told(&world);
    assert_eq!(now[now.len() - 2..], ["DDATA meter 1", "DDEATH meter"], "{now:?}");
    world.run(Duration::from_secs(20));
    let all = told(&world);
    assert_eq!(all[all.len() - 2..], ["DDATA boiler 9 historical", "DDEATH boiler"], "{all:?}");
}

/// The node's session ends with each connection, whatever the connection is left for.
#[test]
fn a_connection_that_is_left_for_new_certificates_ends_the_session() {
    let mut world = up();
    come(&mut world, "meter");
    world.drain();
    world.visit(Bridge::handle_renewed);
    assert_eq!(world.last_words(), ["spBv1.0/plant/NDEATH/plant-7"]);
    world.run(Duration::from_secs(1));
    assert_eq!(told(&world), ["NBIRTH", "DBIRTH meter", "NBIRTH", "DBIRTH meter"]);
    assert_eq!(wills(&world), [0, 1]);
}

#[test]
fn the_cloud_asks_for_a_rebirth_and_commands_devices() {
    let mut world = up();
    come(&mut world, "meter");
    world.drain();
    let text = |metric: Metric| {
        let payload = Payload { metrics: vec![metric], ..Payload::default() }.encode();
        String::from_utf8(payload).expect("short lengths are text")
    };
    let rebirth = Metric {
        name: Some("Node Control/Rebirth".into()),
        value: Some(MetricValue::Boolean(true)),
        ..Metric::default()
    };
    let ask = world.cloud.publish("spBv1.0/plant/NCMD/plant-7", &text(rebirth.clone()), QoS::AtLeastOnce);
    world.to_bridge.push_back(ask);
    world.drain();
    let declined = Metric { value: Some(MetricValue::Boolean(false)), ..rebirth };
    let no = world.cloud.publish("spBv1.0/plant/NCMD/plant-7", &text(declined), QoS::AtMostOnce);
    let nonsense = world.cloud.publish("spBv1.0/plant/NCMD/plant-7", "nonsense", QoS::AtMostOnce);
    let order = Metric { alias: Some(1), value: Some(MetricValue::Int(5)), ..Metric::default() };
    let command = world.cloud.publish("spBv1.0/plant/DCMD/plant-7/meter", &text(order), QoS::AtLeastOnce);
    let echo = world.cloud.publish("spBv1.0/plant/DDATA/plant-7/meter", "x", QoS::AtMostOnce);
    world.to_bridge.extend([no, nonsense, command, echo]);
    world.drain();
    assert_eq!(told(&world), ["NBIRTH", "DBIRTH meter", "NBIRTH", "DBIRTH meter"]);
    let local: Vec<_> = world.local.iter().map(|message| message.topic.as_str()).collect();
    assert_eq!(local, ["spBv1.0/plant/DCMD/plant-7/meter"]);
    assert_eq!((world.cloud.owes(), world.bridge.status().losses.total()), (0, 0));
}

/// What the gateway tells its own clients is another session's; a LAN client cannot speak for the node either.
#[test]
fn nothing_of_the_node_comes_by_a_rule_and_other_nodes_do() {
    let mut world = up();
    for (name, hold) in
        [("NBIRTH/plant-7", 1), ("DDATA/plant-7/meter", 2), ("NCMD/plant-7", 3), ("DDATA/other/m", 4)]
    {
        let message = world.message(&format!("spBv1.0/plant/{name}"), "x", QoS::AtLeastOnce);
        world.offer(message, Some(hold));
    }
    world.drain();
    let topics: Vec<_> = world
        .cloud
        .delivered
        .iter()
        .filter_map(|publish| publish.topic.as_ref())
        .map(TopicName::as_str)
        .collect();
    assert_eq!(topics, ["spBv1.0/plant/NBIRTH/plant-7", "spBv1.0/plant/DDATA/other/m"]);
    assert_eq!(world.released.len(), 4);
}

#[test]
fn what_the_cloud_does_not_take_costs_no_number() {
    let mut world = World::with_node(bridge(None), Some(node()));
    world.cloud.properties.maximum_packet_size = Some(300);
    world.drain();
    come(&mut world, "meter");
    read(&mut world, "meter", 1.0);
    let mut large = reading(2.0);
    large.metrics[0].name = Some("u".into());
    large.metrics.extend(std::iter::repeat_n(large.metrics[0].clone(), 40));
    say(&mut world, Kind::DeviceData, "meter", &large);
    read(&mut world, "meter", 3.0);
    world.drain();
    assert_eq!(told(&world), ["NBIRTH", "DBIRTH meter", "DDATA meter 1", "DDATA meter 3"]);
    assert_eq!(world.bridge.status().dead.messages, 1);
}

#[test]
fn a_clean_end_says_it_before_disconnect() {
    let mut world = up();
    world.visit(Bridge::handle_pause);
    assert_eq!(told(&world), ["NBIRTH"], "the transport was closed before it could arrive");
    let mut world = up();
    world.visit(|bridge, now, out| {
        bridge.handle_pause(now, out);
        out.disconnect = false;
    });
    world.drain();
    assert_eq!(told(&world), ["NBIRTH", "NDEATH"]);
    let death = world.cloud.delivered.last().expect("NDEATH");
    assert_eq!((death.qos, bd_seq(&death.payload)), (QoS::AtLeastOnce, Some(MetricValue::Long(0))));
}

#[test]
fn nothing_leaves_while_the_host_is_away() {
    let mut world = World::with_node(bridge(Some("scada-1")), Some(node()));
    world.drain();
    assert_eq!(world.bridge.state(), LinkState::Waiting);
    come(&mut world, "meter");
    read(&mut world, "meter", 1.0);
    world.run(Duration::from_secs(60));
    assert_eq!(told(&world), [""; 0]);
    let host = |world: &mut World, text: &str| {
        let state = world.cloud.publish(STATE, text, QoS::AtLeastOnce);
        world.to_bridge.push_back(state);
        world.drain();
    };
    for nothing in ["nonsense", "{}", r#"{"online":false,"timestamp":5}"#, r#"{"online":true,"timestamp":4}"#]
    {
        host(&mut world, nothing);
        assert_eq!(world.bridge.state(), LinkState::Waiting, "{nothing}");
    }
    host(&mut world, r#"{"online":true,"timestamp":6}"#);
    assert_eq!(told(&world), ["NBIRTH", "DBIRTH meter", "DDATA meter 1 historical"]);
    host(&mut world, r#"{"online":false,"timestamp":5}"#);
    assert_eq!(world.bridge.state(), LinkState::Up, "older than what is known");
    host(&mut world, r#"{"online":false,"timestamp":7}"#);
    read(&mut world, "meter", 2.0);
    world.run(Duration::from_secs(180));
    assert_eq!((world.bridge.state(), wills(&world)), (LinkState::Waiting, vec![0, 1]));
    assert_eq!(world.bridge.status().queued_messages, 1);
    host(&mut world, r#"{"online":true,"timestamp":8}"#);
    let expected = ["NBIRTH", "DBIRTH meter", "DDATA meter 2 historical"];
    assert_eq!(told(&world)[told(&world).len() - 3..], expected);
    assert!(
        world
            .cloud
            .subscribes
            .iter()
            .all(|asked| asked.filters.iter().any(|(filter, _)| filter.as_str() == STATE))
    );
    assert_eq!(topic(STATE).as_str(), STATE);
}

#[test]
fn a_bridge_whose_rules_take_no_reading_is_no_node() {
    let other = model::Bridge { forward: vec![forward("devices/#", "{topic}", None)], ..bridge(None) };
    let mut world = World::with_node(other, Some(node()));
    world.drain();
    come(&mut world, "meter");
    read(&mut world, "meter", 1.0);
    world.drain();
    assert!(world.cloud.delivered.is_empty());
    assert!(world.cloud.connects[0].will.is_none());
}

#[test]
fn a_connection_that_a_server_refuses_for_its_level_costs_no_number() {
    for closes in [false, true] {
        let settings = model::Bridge { protocol: Version::V3_1_1, ..bridge(None) };
        let mut world = World::with_node(settings, Some(node()));
        world.cloud.closes = closes;
        world.drain();
        assert_eq!(world.bridge.state(), LinkState::Up);
        assert_eq!((world.cloud.turned_away.len(), wills(&world)), (2, vec![0]));
        world.cut();
        world.run(Duration::from_secs(120));
        assert_eq!(wills(&world), [0, 1]);
    }
}
