//! Retained messages: kept, replaced, removed, sent to new subscriptions, recorded in time.

use tidegate::base::time::Duration;
use tidegate::mqtt::message::Origin;
use tidegate::mqtt::packet::publish::Publish;
use tidegate::mqtt::packet::subscribe::{RetainHandling, SubscriptionOptions};

use super::world::{World, level, name, options, packet, publish, settings, v4, v5, v5_durable};

const NOTHING: [&str; 0] = [];

fn retain(topic: &str, payload: &str, qos: u8, packet_id: u16) -> Publish {
    Publish { retain: true, ..publish(topic, payload, qos, packet_id) }
}

#[test]
fn the_last_one_of_each_topic_goes_to_new_subscriptions() {
    let mut world = World::new();
    let publisher = world.join(v4("p"));
    for (topic, payload, qos) in [
        ("a", "1", 1),
        ("a", "2", 0),
        ("a/b", "3", 2),
        ("a/c", "4", 1),
        ("ab", "5", 1),
        ("a/c", "", 1),
        ("a!", "6", 1),
    ] {
        world.put(publisher, packet(retain(topic, payload, qos, 1)));
    }
    world.put(publisher, packet(publish("a/b", "not retained", 0, 0)));
    let cases = [
        ("a", vec!["a q0 retain 2"]),
        ("a/#", vec!["a q0 retain 2", "a/b q1 id=1 retain 3"]),
        ("+", vec!["a q0 retain 2", "a! q1 id=1 retain 6", "ab q1 id=2 retain 5"]),
        ("a/+", vec!["a/b q1 id=1 retain 3"]),
        ("+/b", vec!["a/b q1 id=1 retain 3"]),
        ("a/c", vec![]),
        ("$share/g/a/#", vec![]),
    ];
    for (filter, wanted) in cases {
        let subscriber = world.join(v4("s"));
        let sent = world.subscribe(subscriber, filter, 1);
        let wanted: Vec<String> = wanted.iter().map(|text| format!("PUBLISH {text}")).collect();
        assert_eq!(sent[0], "SUBACK 9 01");
        assert_eq!(sent[1..], wanted, "{filter}");
    }
}

#[test]
fn an_empty_one_is_delivered_and_removes() {
    let mut world = World::new();
    let key = world.join(v4("p"));
    world.subscribe(key, "t", 0);
    world.put(key, packet(retain("t", "x", 1, 1)));
    world.put(key, packet(retain("t", "", 1, 2)));
    assert_eq!(world.take(key), ["PUBLISH t q0 x", "PUBACK 1", "PUBLISH t q0 ", "PUBACK 2"]);
    assert_eq!(world.broker.stats().retained, 0);
    assert!(world.disk.retained.is_empty());
}

#[test]
fn retain_handling_says_when() {
    use RetainHandling::{DoNotSend, Send, SendIfNew};
    for (retain_handling, first, again) in [(Send, 1, 1), (SendIfNew, 1, 0), (DoNotSend, 0, 0)] {
        let mut world = World::new();
        let publisher = world.join(v4("p"));
        world.put(publisher, packet(retain("t", "x", 1, 1)));
        let subscriber = world.join(v5("s"));
        let options = SubscriptionOptions { retain_handling, qos: level(1), ..options() };
        assert_eq!(world.subscribe_with(subscriber, "t", options, Some(3)).len(), 1 + first);
        assert_eq!(world.subscribe_with(subscriber, "t", options, Some(3)).len(), 1 + again);
    }
}

#[test]
fn retained_messages_expire() {
    let mut world = World::new();
    let publisher = world.join(v5("p"));
    world.put(publisher, packet(Publish { expiry_interval: Some(5), ..retain("t", "x", 1, 1) }));
    world.advance(Duration::from_secs(4));
    let subscriber = world.join(v5("s"));
    assert_eq!(world.subscribe(subscriber, "t", 0).len(), 2);
    world.advance(Duration::from_secs(1));
    assert_eq!(world.subscribe(subscriber, "t", 0).len(), 1);
}

#[test]
fn topics_beyond_the_bound_are_not_retained_and_counted() {
    let mut settings = settings();
    settings.limits.retained_messages = 2;
    let mut world = World::with(settings);
    let publisher = world.join(v5("p"));
    for topic in ["a", "b", "c", "b"] {
        world.put(publisher, packet(retain(topic, "x", 1, 1)));
    }
    assert_eq!((world.broker.stats().retained, world.broker.stats().retained_refused), (2, 1));
    world.put(publisher, packet(Publish { expiry_interval: Some(1), ..retain("a", "x", 1, 1) }));
    world.advance(Duration::from_secs(15));
    world.put(publisher, packet(retain("c", "x", 1, 1)));
    assert_eq!(world.broker.stats().retained_refused, 1, "what expired made room");
}

#[test]
fn a_promised_one_is_recorded_before_its_acknowledgement_and_others_lazily() {
    let mut world = World::slow_disk();
    let publisher = world.join(v4("p"));
    world.put(publisher, packet(retain("t", "x", 1, 1)));
    assert_eq!(world.take(publisher), NOTHING);
    world.durable();
    assert_eq!(world.take(publisher), ["PUBACK 1"]);

    let mut world = World::new();
    let publisher = world.join(v4("p"));
    world.put(publisher, packet(retain("lan", "x", 0, 0)));
    for (topic, origin) in [
        ("bridge", Origin::Bridge(0)),
        ("device", Origin::Device(0)),
        ("own", Origin::Gateway),
        ("$SYS/x", Origin::Gateway),
    ] {
        let mut message = world.message(topic, 1, origin);
        message.retain = true;
        world.publish(message, None).unwrap();
    }
    assert!(world.disk.retained.is_empty());
    let topics = |world: &World| world.disk.retained.keys().map(ToString::to_string).collect::<Vec<_>>();
    world.advance(Duration::from_secs(10));
    assert_eq!(topics(&world), ["bridge", "lan"]);
    world.advance(Duration::from_secs(590));
    assert_eq!(topics(&world), ["bridge", "device", "lan", "own"]);
    assert!(!world.disk.retained.contains_key(&name("$SYS/x")));
}

#[test]
fn retained_messages_survive_a_crash() {
    let mut world = World::new();
    let publisher = world.join(v5_durable("p"));
    world.put(publisher, packet(retain("a", "1", 1, 1)));
    world.put(publisher, packet(retain("b", "2", 2, 2)));
    world.put(publisher, packet(retain("a", "", 1, 3)));
    world.crash();
    let subscriber = world.join(v5("s"));
    assert_eq!(world.subscribe(subscriber, "#", 2), ["SUBACK 9 02", "PUBLISH b q2 id=1 retain 2"]);
}

#[test]
fn sys_topics_are_for_those_who_name_them() {
    let mut settings = settings();
    settings.sys_interval = Some(Duration::from_secs(10));
    let mut world = World::with(settings);
    let all = world.join(v5("all"));
    let sys = world.join(v5("sys"));
    world.subscribe(all, "#", 0);
    world.advance(Duration::ZERO);
    let sent = world.subscribe(sys, "$SYS/broker/clients/connected", 2);
    assert_eq!(sent, ["SUBACK 9 02", "PUBLISH $SYS/broker/clients/connected q0 retain 2"]);
    world.advance(Duration::from_secs(10));
    assert_eq!(world.take(sys), NOTHING, "only what has changed");
    world.leave(all);
    world.advance(Duration::from_secs(10));
    assert_eq!(world.take(sys), ["PUBLISH $SYS/broker/clients/connected q0 1"]);
    assert_eq!(
        world.subscribe(sys, "$SYS/broker/uptime", 0)[1],
        "PUBLISH $SYS/broker/uptime q0 retain 20 seconds"
    );
    assert_eq!(world.take(all), NOTHING);
}
