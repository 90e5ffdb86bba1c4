//! Subscriptions: overlapping, shared, No Local, identifiers, unsubscribing.

use tidegate::broker::violation::Fault;
use tidegate::mqtt::packet::publish::Publish;
use tidegate::mqtt::packet::subscribe::SubscriptionOptions;

use super::world::{
    World, level, options, packet, puback, publish, subscribe, unsubscribe, v4, v4_durable, v5, v5_durable,
};

const NOTHING: [&str; 0] = [];

#[test]
fn overlapping_subscriptions_bring_one_copy_with_the_highest_qos_and_all_identifiers() {
    let mut world = World::new();
    let key = world.join(v5("s"));
    for (filter, qos, identifier) in
        [("a/#", 0, Some(1)), ("a/+", 2, Some(2)), ("a/b", 1, None), ("+/b", 1, Some(268))]
    {
        world.subscribe_with(key, filter, SubscriptionOptions { qos: level(qos), ..options() }, identifier);
    }
    let publisher = world.join(v4("p"));
    world.put(publisher, packet(publish("a/b", "x", 2, 1)));
    let sent = world.take(key);
    let identifiers = |text: &str| {
        let mut found: Vec<u32> = text
            .split(['[', ']'])
            .nth(1)
            .unwrap()
            .split(", ")
            .map(|number| number.parse().unwrap())
            .collect();
        found.sort_unstable();
        found
    };
    assert_eq!(sent.len(), 1);
    assert!(sent[0].starts_with("PUBLISH a/b q2 id=1 "), "{sent:?}");
    assert_eq!(identifiers(&sent[0]), [1, 2, 268]);
}

#[test]
fn the_same_filter_again_replaces_options_and_identifier() {
    let mut world = World::new();
    let key = world.join(v5("s"));
    world.subscribe_with(key, "t", SubscriptionOptions { qos: level(2), ..options() }, Some(1));
    world.subscribe_with(key, "t", SubscriptionOptions { qos: level(0), ..options() }, Some(2));
    let publisher = world.join(v4("p"));
    world.put(publisher, packet(publish("t", "x", 2, 1)));
    assert_eq!(world.take(key), ["PUBLISH t q0 sub=[2] x"]);
    assert_eq!(world.broker.stats().subscriptions, 1);
}

#[test]
fn no_local_keeps_a_clients_own_messages_from_it() {
    let mut world = World::new();
    let key = world.join(v5("s"));
    world.subscribe_with(key, "t", SubscriptionOptions { no_local: true, ..options() }, None);
    let other = world.join(v5("o"));
    world.put(key, packet(publish("t", "own", 0, 0)));
    world.put(other, packet(publish("t", "other", 0, 0)));
    assert_eq!(world.take(key), ["PUBLISH t q0 other"]);
    let shared = subscribe(&[("$share/g/t", SubscriptionOptions { no_local: true, ..options() })], None);
    assert_eq!(world.send(key, shared).unwrap_err().fault, Fault::NoLocalOnShared);
    assert_eq!(world.take(key), ["DISCONNECT 82"]);
}

#[test]
fn the_retain_flag_is_passed_on_only_where_it_is_asked_for() {
    for (retain_as_published, published, wanted) in [
        (false, true, "PUBLISH t q0 x"),
        (true, true, "PUBLISH t q0 retain x"),
        (true, false, "PUBLISH t q0 x"),
    ] {
        let mut world = World::new();
        let key = world.join(v5("s"));
        world.subscribe_with(key, "t", SubscriptionOptions { retain_as_published, ..options() }, None);
        world.put(key, packet(Publish { retain: published, ..publish("t", "x", 0, 0) }));
        assert_eq!(world.take(key), [wanted]);
    }
}

#[test]
fn one_answer_has_one_code_for_each_filter() {
    let mut world = World::new();
    let key = world.join(v5("s"));
    let deep = "a/".repeat(200) + "a";
    let qos = |qos| SubscriptionOptions { qos: level(qos), ..options() };
    world.put(key, subscribe(&[("a", qos(0)), (&deep, qos(1)), ("b", qos(1)), ("$share/g/c", qos(2))], None));
    assert_eq!(world.take(key), ["SUBACK 9 00 8f 01 02"]);
    world.put(key, unsubscribe(&["b", "B", "$share/h/c", "$share/g/c", "b"]));
    assert_eq!(world.take(key), ["UNSUBACK 8 00 11 11 00 11"]);
    assert_eq!(world.broker.stats().subscriptions, 1);
}

#[test]
fn unsubscribing_ends_new_messages_and_lets_begun_deliveries_end() {
    let mut world = World::new();
    let key = world.join(v4_durable("s"));
    world.subscribe(key, "t", 1);
    let publisher = world.join(v4("p"));
    world.put(publisher, packet(publish("t", "x", 1, 1)));
    world.put(key, unsubscribe(&["t"]));
    world.put(publisher, packet(publish("t", "y", 1, 2)));
    assert_eq!(world.take(key), ["PUBLISH t q1 id=1 x", "UNSUBACK 8 00"]);
    world.cut(key);
    let (key, sent) = world.connect(v4_durable("s"));
    assert_eq!(sent, ["CONNACK 00 present", "PUBLISH t q1 id=1 dup x"]);
    world.put(key, puback(1));
    assert_eq!(world.broker.stats().inflight, 0);
}

#[test]
fn suback_of_a_durable_session_waits_for_the_disk() {
    let mut world = World::slow_disk();
    let durable = world.join(v5_durable("d"));
    let volatile = world.join(v5("v"));
    assert_eq!(world.subscribe(volatile, "t", 1), ["SUBACK 9 01"]);
    assert_eq!(world.subscribe(durable, "t", 1), NOTHING);
    world.durable();
    assert_eq!(world.take(durable), ["SUBACK 9 01"]);
    assert_eq!(world.disk.subscriptions.len(), 1);
    world.put(durable, unsubscribe(&["t"]));
    assert_eq!(world.take(durable), NOTHING);
    world.durable();
    assert_eq!(world.take(durable), ["UNSUBACK 8 00"]);
    assert_eq!(world.disk.subscriptions.len(), 0);
}

#[test]
fn shared_subscriptions_take_turns_and_skip_who_is_away() {
    let mut world = World::new();
    let keys = ["a", "b", "c"].map(|client| world.join(v5_durable(client)));
    for key in keys {
        world.subscribe(key, "$share/g/t/#", 1);
    }
    let other = world.join(v5("other"));
    world.subscribe(other, "$share/h/t/#", 0);
    let publisher = world.join(v4("p"));
    for packet_id in 1..=6 {
        world.put(publisher, packet(publish("t/x", "x", 1, packet_id)));
    }
    assert_eq!(keys.map(|key| world.take(key).len()), [2, 2, 2]);
    assert_eq!(world.take(other).len(), 6, "each group gets its own");
    world.cut(keys[1]);
    for packet_id in 7..=10 {
        world.put(publisher, packet(publish("t/x", "x", 1, packet_id)));
    }
    assert_eq!(keys.map(|key| world.take(key).len()), [2, 0, 2]);
    world.put(keys[0], unsubscribe(&["$share/g/t/#"]));
    world.cut(keys[2]);
    world.take(keys[0]);
    world.put(publisher, packet(publish("t/x", "x", 1, 11)));
    assert_eq!(world.take(keys[0]), NOTHING, "an unsubscribed share delivers nothing");
    assert_eq!(world.broker.stats().queued, 6 + 4 + 1, "someone keeps it for later");
}

#[test]
fn wildcards_pass_the_servers_own_topics_by() {
    let mut world = World::new();
    let key = world.join(v5("s"));
    world.subscribe(key, "#", 0);
    world.subscribe(key, "+/x", 0);
    let publisher = world.join(v5("p"));
    world.put(publisher, packet(publish("$other/x", "x", 0, 0)));
    assert_eq!(world.take(key), NOTHING);
    world.subscribe(key, "$other/+", 0);
    world.put(publisher, packet(publish("$other/x", "x", 0, 0)));
    assert_eq!(world.take(key), ["PUBLISH $other/x q0 x"]);
}

/// [MQTT-3.1.2-24]: an answer that the client does not take cannot be given, so nothing is done either.
#[test]
fn more_filters_than_the_client_takes_answers_for_end_the_connection() {
    let filters = vec![("a", options()); 12];
    let cases = [
        (11, subscribe(&filters[..11], None), None),
        (12, subscribe(&filters, None), Some(Fault::AnswerTooLarge)),
        (12, unsubscribe(&["a"; 12]), Some(Fault::AnswerTooLarge)),
    ];
    for (count, packet, wanted) in cases {
        let mut world = World::new();
        let mut connect = v5("s");
        // SUBACK and UNSUBACK are five bytes and one for each filter.
        connect.properties.maximum_packet_size = Some(16);
        let key = world.join(connect);
        let result = world.send(key, packet);
        assert_eq!(result.map_err(|violation| violation.fault).err(), wanted, "{count}");
        let sent = world.take(key);
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].starts_with("DISCONNECT 95"), wanted.is_some(), "{sent:?}");
    }
}
