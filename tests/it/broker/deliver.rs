//! What subscribers get: QoS, order, windows, sizes, expiry, bounds.

use tidegate::base::time::Duration;
use tidegate::mqtt::packet::Packet;
use tidegate::mqtt::packet::ack::Ack;
use tidegate::mqtt::packet::connect::Connect;
use tidegate::mqtt::packet::publish::Publish;
use tidegate::mqtt::reason::ReasonCode;

use super::world::{
    World, id, packet, puback, pubcomp, publish, pubrec, settings, v4, v4_durable, v5, v5_durable,
};

const NOTHING: [&str; 0] = [];

#[test]
fn the_lower_of_published_and_granted_qos_is_delivered() {
    for published in 0..=2 {
        for granted in 0..=2 {
            let mut world = World::new();
            let subscriber = world.join(v5("s"));
            assert_eq!(world.subscribe(subscriber, "t", granted), [format!("SUBACK 9 0{granted}")]);
            let key = world.join(v4("p"));
            world.put(key, packet(Publish { dup: published > 0, ..publish("t", "x", published, 1) }));
            let wanted = match published.min(granted) {
                0 => "PUBLISH t q0 x".to_owned(),
                qos => format!("PUBLISH t q{qos} id=1 x"),
            };
            assert_eq!(world.take(subscriber), [wanted], "{published} {granted}");
        }
    }
}

#[test]
fn qos_2_to_a_client_runs_its_course() {
    for connect in [v4("s"), v5_durable("s")] {
        let mut world = World::new();
        let subscriber = world.join(connect);
        world.subscribe(subscriber, "t", 2);
        let key = world.join(v4("p"));
        world.put(key, packet(publish("t", "x", 2, 1)));
        assert_eq!(world.take(subscriber), ["PUBLISH t q2 id=1 x"]);
        world.put(subscriber, pubrec(1));
        assert_eq!(world.take(subscriber), ["PUBREL 1"]);
        world.put(subscriber, pubcomp(1));
        assert_eq!(world.take(subscriber), NOTHING);
        assert_eq!(world.broker.stats().inflight, 0);
        assert!(world.disk.inflight.is_empty() && world.disk.entries.is_empty());
    }
}

#[test]
fn on_resume_everything_in_flight_is_sent_again_in_order_with_its_identifiers() {
    for connect in [v4_durable as fn(&str) -> Connect, v5_durable] {
        let mut world = World::new();
        let subscriber = world.join(connect("s"));
        world.subscribe(subscriber, "t", 2);
        let key = world.join(v4("p"));
        for (packet_id, qos) in [(1, 1), (2, 2), (3, 1), (4, 2)] {
            world.put(key, packet(publish("t", &packet_id.to_string(), qos, packet_id)));
        }
        world.put(subscriber, pubrec(2));
        world.put(subscriber, puback(1));
        let first = world.take(subscriber);
        assert_eq!(first.len(), 5, "{first:?}");
        world.cut(subscriber);
        world.put(key, packet(publish("t", "5", 1, 5)));
        let (subscriber, sent) = world.connect(connect("s"));
        assert_eq!(
            sent,
            [
                "CONNACK 00 present",
                "PUBREL 2",
                "PUBLISH t q1 id=3 dup 3",
                "PUBLISH t q2 id=4 dup 4",
                "PUBLISH t q1 id=5 5"
            ]
        );
        world.put(subscriber, pubcomp(2));
        world.put(subscriber, puback(3));
        world.put(subscriber, pubrec(4));
        world.put(subscriber, pubcomp(4));
        world.put(subscriber, puback(5));
        assert_eq!(world.take(subscriber), ["PUBREL 4"]);
        assert_eq!(world.broker.stats().queued, 0);
        assert!(world.disk.entries.is_empty(), "nothing stays behind on disk");
    }
}

#[test]
fn the_clients_receive_maximum_and_our_inflight_bound_the_window() {
    for (receive_maximum, window) in [(None, 3), (Some(2), 2), (Some(100), 3)] {
        let mut settings = settings();
        settings.limits.inflight = 3;
        let mut world = World::with(settings);
        let mut connect = v5("s");
        connect.properties.receive_maximum = receive_maximum;
        let subscriber = world.join(connect);
        world.subscribe(subscriber, "t", 1);
        let key = world.join(v4("p"));
        for packet_id in 1..=5 {
            world.put(key, packet(publish("t", "x", 1, packet_id)));
        }
        world.put(key, packet(publish("t", "zero", 0, 0)));
        let sent = world.take(subscriber);
        assert_eq!(sent.len(), window + 1, "QoS 0 is not held up: {sent:?}");
        world.put(subscriber, puback(1));
        let next = window + 1;
        assert_eq!(world.take(subscriber), [format!("PUBLISH t q1 id={next} x")]);
    }
}

#[test]
fn an_error_from_the_client_ends_a_delivery() {
    let refused = |packet_id| Ack::with_reason(id(packet_id), ReasonCode::ImplementationSpecificError);
    let mut world = World::new();
    let subscriber = world.join(v5_durable("s"));
    world.subscribe(subscriber, "t", 2);
    let key = world.join(v4("p"));
    world.put(key, packet(publish("t", "x", 1, 1)));
    world.put(key, packet(publish("t", "x", 2, 2)));
    world.put(subscriber, Packet::Puback(refused(1)));
    world.put(subscriber, Packet::Pubrec(refused(2)));
    assert_eq!(world.take(subscriber).len(), 2, "no PUBREL");
    world.cut(subscriber);
    assert_eq!(world.connect(v5_durable("s")).1, ["CONNACK 00 present"]);
}

#[test]
fn what_is_too_large_for_a_client_is_dropped_for_it_alone() {
    // 1 + 1 + (2 + 1) + [2] + 1 + payload
    for (qos, overhead) in [(0, 6), (1, 8), (2, 8)] {
        let mut world = World::new();
        let mut connect = v5("small");
        connect.properties.maximum_packet_size = Some(20);
        let small = world.join(connect);
        let large = world.join(v5("large"));
        world.subscribe(small, "t", 2);
        world.subscribe(large, "t", 2);
        let key = world.join(v4("p"));
        let (fits, over) = ("y".repeat(20 - overhead), "z".repeat(21 - overhead));
        world.put(key, packet(publish("t", &over, qos, 1)));
        world.put(key, packet(publish("t", &fits, qos, 2)));
        let sent = world.take(small);
        assert!(sent.len() == 1 && sent[0].ends_with(&fits), "qos {qos}: {sent:?}");
        assert_eq!(world.take(large).len(), 2);
        assert_eq!(world.broker.stats().dropped, 1);
    }
}

/// Its client holds the identifier until PUBREL, and would take the next message by it for the same one.
#[test]
fn a_qos_2_message_that_became_too_large_in_flight_is_released_before_its_identifier_is_used_again() {
    let mut world = World::new();
    let subscriber = world.join(v5_durable("s"));
    world.subscribe(subscriber, "t", 2);
    let key = world.join(v4("p"));
    world.put(key, packet(publish("t", &"z".repeat(30), 2, 1)));
    assert_eq!(world.take(subscriber).len(), 1);
    world.cut(subscriber);
    let mut smaller = v5_durable("s");
    smaller.properties.maximum_packet_size = Some(20);
    let (subscriber, sent) = world.connect(smaller);
    assert_eq!(sent, ["CONNACK 00 present", "PUBREL 1"]);
    assert_eq!(world.broker.stats().dropped, 1);
    world.put(subscriber, pubcomp(1));
    assert_eq!((world.broker.stats().inflight, world.broker.stats().queued), (0, 0));
}

#[test]
fn messages_expire_while_they_wait_and_never_once_they_were_sent() {
    let mut world = World::new();
    let subscriber = world.join(v5_durable("s"));
    world.subscribe(subscriber, "t", 1);
    let key = world.join(Connect { keep_alive: 0, ..v4("p") });
    let expiring = |payload: &str, packet_id| Publish {
        expiry_interval: Some(10),
        ..publish("t", payload, 1, packet_id)
    };
    world.put(key, packet(expiring("sent", 1)));
    world.cut(subscriber);
    world.put(key, packet(expiring("waits", 2)));
    world.advance(Duration::from_secs(4));
    world.put(key, packet(expiring("later", 3)));
    world.advance(Duration::from_secs(6));
    let (_, sent) = world.connect(v5_durable("s"));
    assert_eq!(sent, ["CONNACK 00 present", "PUBLISH t q1 id=1 dup sent", "PUBLISH t q1 id=2 later"]);
    assert_eq!(world.broker.stats().dropped, 1);
}

#[test]
fn a_full_queue_drops_the_newest_counts_it_and_still_acknowledges() {
    let mut settings = settings();
    settings.limits.queued_messages = 3;
    let mut world = World::with(settings);
    let subscriber = world.join(v4_durable("s"));
    world.subscribe(subscriber, "t", 1);
    world.cut(subscriber);
    let key = world.join(v4("p"));
    for packet_id in 1..=5 {
        world.put(key, packet(publish("t", &packet_id.to_string(), 1, packet_id)));
    }
    world.advance(super::world::COMMIT);
    assert_eq!(world.take(key).len(), 5);
    assert_eq!(world.broker.stats().dropped, 2);
    assert_eq!(world.broker.stats().queued, 3);
    let (_, sent) = world.connect(v4_durable("s"));
    let wanted = [1, 2, 3].map(|n| format!("PUBLISH t q1 id={n} {n}"));
    assert_eq!(sent[1..], wanted);
}

#[test]
fn a_long_queue_goes_through_the_disk_and_comes_back_in_order() {
    const COUNT: u16 = 3500;
    let mut world = World::new();
    let subscriber = world.join(v4_durable("s"));
    world.subscribe(subscriber, "t", 1);
    world.cut(subscriber);
    let key = world.join(v4("p"));
    for packet_id in 1..=COUNT {
        world.put(key, packet(publish("t", &packet_id.to_string(), 1, packet_id)));
    }
    world.advance(super::world::COMMIT);
    world.crash();
    let (subscriber, mut sent) = world.connect(v4_durable("s"));
    sent.remove(0);
    let mut payloads = Vec::new();
    while !sent.is_empty() {
        for line in std::mem::take(&mut sent) {
            let words: Vec<&str> = line.split(' ').collect();
            let packet_id: u16 = words[3].strip_prefix("id=").unwrap().parse().unwrap();
            payloads.push(words[4].parse::<u16>().unwrap());
            world.put(subscriber, puback(packet_id));
        }
        sent = world.take(subscriber);
    }
    assert_eq!(payloads, (1..=COUNT).collect::<Vec<_>>());
    assert!(world.disk.entries.is_empty());
}

#[test]
fn qos_0_is_for_those_who_are_there() {
    let mut world = World::new();
    let subscriber = world.join(v4_durable("s"));
    world.subscribe(subscriber, "t", 2);
    world.cut(subscriber);
    let key = world.join(v4("p"));
    world.put(key, packet(publish("t", "x", 0, 0)));
    assert_eq!(world.connect(v4_durable("s")).1, ["CONNACK 00 present"]);
}

#[test]
fn properties_go_on_unchanged_and_count_towards_the_size() {
    use tidegate::broker::effect::Outgoing;
    let mut world = World::new();
    let mut small = v5("small");
    small.properties.maximum_packet_size = Some(30);
    let small = world.join(small);
    let large = world.join(v5("large"));
    world.subscribe(small, "t", 0);
    world.subscribe(large, "t", 0);
    let key = world.join(v5("p"));
    let pair = |name: &str| (name.into(), "value".into());
    let properties = tidegate::mqtt::message::MessageProperties {
        content_type: Some("text/plain".into()),
        user_properties: vec![pair("b"), pair("a"), pair("b")],
        ..Default::default()
    };
    let publish = Publish { properties: Some(Box::new(properties.clone())), ..publish("t", "x", 0, 0) };
    world.broker.handle_packet(key, packet(publish), world.now, &mut world.out).unwrap();
    let carried = world.out.sends.iter().find_map(|(to, outgoing)| match outgoing {
        Outgoing::Publish(delivery) if *to == large => delivery.message.properties.clone(),
        _ => None,
    });
    assert_eq!(carried.as_deref(), Some(&properties));
    world.finish();
    assert_eq!(world.take(small), NOTHING);
    assert_eq!(world.broker.stats().dropped, 1);
}
