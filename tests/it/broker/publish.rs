//! What clients and other brains publish: acknowledgements, the barrier, gates, forwards, commands.

use std::num::NonZeroU16;

use tidegate::base::time::Duration;
use tidegate::broker::effect::{CommandAnswer, Token};
use tidegate::broker::violation::Fault;
use tidegate::mqtt::message::Origin;
use tidegate::mqtt::packet::Packet;
use tidegate::mqtt::packet::ack::Ack;
use tidegate::mqtt::packet::publish::Publish;
use tidegate::mqtt::reason::ReasonCode;

use super::world::{
    World, filter, id, options, packet, pubcomp, publish, pubrec, pubrel, subscribe, v4, v4_durable, v5,
    v5_durable,
};

const NOTHING: [&str; 0] = [];

#[test]
fn each_qos_is_answered_as_it_must_be() {
    for (connect, nobody) in [(v4("p"), ""), (v5("p"), " 10")] {
        let mut world = World::new();
        let key = world.join(connect);
        world.put(key, packet(publish("t", "x", 0, 0)));
        assert_eq!(world.take(key), NOTHING);
        world.put(key, packet(publish("t", "x", 1, 1)));
        assert_eq!(world.take(key), [format!("PUBACK 1{nobody}")]);
        world.put(key, packet(publish("t", "x", 2, 2)));
        assert_eq!(world.take(key), [format!("PUBREC 2{nobody}")]);
        world.put(key, packet(publish("t", "x", 2, 2)));
        assert_eq!(world.take(key), ["PUBREC 2"]);
        world.put(key, pubrel(2));
        world.put(key, pubrel(2));
        let unknown = if nobody.is_empty() { "PUBCOMP 2" } else { "PUBCOMP 2 92" };
        assert_eq!(world.take(key), ["PUBCOMP 2", unknown]);
    }
}

#[test]
fn qos_2_is_delivered_once_and_the_identifier_is_new_after_pubcomp() {
    let mut world = World::new();
    let subscriber = world.join(v4("s"));
    world.subscribe(subscriber, "t", 0);
    let key = world.join(v4("p"));
    for _ in 0..3 {
        world.put(key, packet(publish("t", "x", 2, 5)));
    }
    assert_eq!(world.take(subscriber), ["PUBLISH t q0 x"]);
    world.put(key, pubrel(5));
    world.put(key, packet(publish("t", "y", 2, 5)));
    assert_eq!(world.take(subscriber), ["PUBLISH t q0 y"]);
}

#[test]
fn no_acknowledgement_before_an_offline_durable_subscriber_is_safe_on_disk() {
    for qos in [1, 2] {
        let mut world = World::new();
        let subscriber = world.join(v4_durable("s"));
        world.subscribe(subscriber, "t", 2);
        world.cut(subscriber);
        world.instant_disk = false;
        let key = world.join(v4("p"));
        world.put(key, packet(publish("t", "x", qos, 1)));
        assert_eq!(world.take(key), NOTHING, "qos {qos}");
        world.durable();
        assert_eq!((world.take(key).len(), world.disk.entries.len()), (0, 0), "it gathers");
        world.advance(super::world::COMMIT);
        assert_eq!(world.take(key), NOTHING, "qos {qos}");
        assert_eq!(world.disk.entries.len(), 0);
        world.durable();
        assert_eq!(world.disk.entries.len(), 1);
        assert_eq!(world.take(key), [if qos == 1 { "PUBACK 1" } else { "PUBREC 1" }]);
    }
}

#[test]
fn who_sends_one_at_a_time_waits_for_the_disk_and_not_for_the_whole_commit() {
    let mut world = World::new();
    let subscriber = world.join(v4_durable("s"));
    world.subscribe(subscriber, "t", 1);
    world.cut(subscriber);
    let key = world.join(v4("p"));
    let began = world.now.instant;
    for packet_id in 1..=100 {
        world.advance(Duration::from_micros(500));
        world.put(key, packet(publish("t", "x", 1, packet_id)));
        let mut waits = 0;
        while world.take(key).is_empty() {
            world.advance(Duration::from_micros(100));
            waits += 1;
        }
        assert!(waits <= 50, "message {packet_id} waited {waits} times");
    }
    assert!(world.now.instant.since(began) < super::world::COMMIT * 2);
    // Another goes on by itself: nothing of it is recorded before the commit is over.
    let other = world.join(v4("other"));
    let before = world.disk.entries.len();
    for packet_id in 1..=9 {
        world.advance(Duration::from_millis(10));
        world.put(other, packet(publish("t", "x", 1, packet_id)));
    }
    assert!(world.disk.entries.len() <= before + 1, "its first may have seemed to be alone");
}

#[test]
fn an_online_durable_subscriber_that_acknowledges_in_time_costs_no_disk() {
    let mut world = World::slow_disk();
    let subscriber = world.join(v4_durable("s"));
    world.subscribe(subscriber, "t", 1);
    world.durable();
    world.take(subscriber);
    let key = world.join(v4("p"));
    world.put(key, packet(publish("t", "x", 1, 1)));
    assert_eq!(world.take(subscriber), ["PUBLISH t q1 id=1 x"]);
    assert_eq!(world.take(key), NOTHING);
    world.put(subscriber, super::world::puback(1));
    assert_eq!(world.take(key), ["PUBACK 1"]);
    assert!(world.pending.is_empty(), "nothing was recorded");

    world.put(key, packet(publish("t", "y", 1, 2)));
    world.advance(super::world::COMMIT);
    assert_eq!(world.take(key), NOTHING);
    world.durable();
    assert_eq!(world.take(key), ["PUBACK 2"]);
}

#[test]
fn no_acknowledgement_overtakes_another() {
    let mut world = World::new();
    let subscriber = world.join(v4_durable("s"));
    world.subscribe(subscriber, "slow/#", 1);
    world.cut(subscriber);
    world.instant_disk = false;
    let key = world.join(v5("p"));
    world.put(key, packet(publish("slow/1", "x", 1, 1)));
    world.advance(super::world::COMMIT);
    world.put(key, packet(publish("fast", "x", 1, 2)));
    world.put(key, packet(publish("slow/2", "x", 2, 3)));
    world.put(key, packet(publish("fast", "x", 2, 4)));
    world.put(key, subscribe(&[("z", options())], None));
    world.put(key, Packet::Pingreq);
    assert_eq!(world.take(key), ["SUBACK 9 00", "PINGRESP"], "those may pass");
    world.advance(super::world::COMMIT);
    assert!(world.durable_step());
    world.finish();
    assert_eq!(world.take(key), ["PUBACK 1", "PUBACK 2 10"]);
    world.durable();
    assert_eq!(world.take(key), ["PUBREC 3", "PUBREC 4 10"]);
}

#[test]
fn an_acknowledgement_for_a_connection_that_is_gone_is_dropped() {
    let mut world = World::new();
    let subscriber = world.join(v4_durable("s"));
    world.subscribe(subscriber, "t", 2);
    world.cut(subscriber);
    world.instant_disk = false;
    let key = world.join(v5_durable("p"));
    world.durable();
    world.put(key, packet(publish("t", "x", 2, 1)));
    world.cut(key);
    let again = world.open();
    world.put(again, Packet::Connect(Box::new(v5_durable("p"))));
    world.put(again, packet(Publish { dup: true, ..publish("t", "x", 2, 1) }));
    assert!(world.take(again).is_empty(), "a repeat waits for the first");
    world.durable();
    assert_eq!(world.take(again), ["CONNACK 00 present", "PUBREC 1"]);
    assert_eq!(world.disk.entries.len(), 1, "and is not delivered twice");
}

#[test]
fn a_session_that_ends_gives_up_what_publishers_wait_for() {
    let mut world = World::slow_disk();
    let subscriber = world.join(v4_durable("s"));
    world.subscribe(subscriber, "t", 1);
    let key = world.join(v4("p"));
    world.put(key, packet(publish("t", "x", 1, 1)));
    assert_eq!(world.take(key), NOTHING);
    world.connect(v4("s"));
    assert_eq!(world.take(key), ["PUBACK 1"]);
}

#[test]
fn the_receive_maximum_that_was_announced_is_enforced() {
    let mut world = World::new();
    let subscriber = world.join(v4_durable("s"));
    world.subscribe(subscriber, "t", 1);
    world.cut(subscriber);
    world.instant_disk = false;
    let key = world.join(v5("p"));
    for packet_id in 1..=1024 {
        world.put(key, packet(publish("t", "x", 1, packet_id)));
    }
    let violation = world.send(key, packet(publish("t", "x", 1, 1025))).unwrap_err();
    assert_eq!(violation.fault, Fault::ReceiveMaximumExceeded);
    assert_eq!(world.take(key), ["DISCONNECT 93"]);

    let mut world = World::new();
    let key = world.join(v5("p"));
    for packet_id in 1..=3000 {
        world.put(key, packet(publish("t", "x", 1, packet_id)));
        world.put(key, packet(publish("t", "x", 2, packet_id)));
        world.put(key, pubrel(packet_id));
    }
    assert_eq!(world.take(key).len(), 9000, "acknowledged ones give their place back");
}

#[test]
fn topic_aliases_stand_for_topics_on_their_connection_alone() {
    let mut world = World::new();
    let subscriber = world.join(v5("s"));
    world.subscribe(subscriber, "#", 0);
    let key = world.join(v5("p"));
    let alias =
        |topic: &str, alias| Publish { topic_alias: NonZeroU16::new(alias), ..publish(topic, "x", 0, 0) };
    for (topic, number) in [("a", 1), ("b", 32), ("", 1), ("", 32), ("c", 1), ("", 1)] {
        world.put(key, packet(alias(topic, number)));
    }
    let wanted = ["a", "b", "a", "b", "c", "c"].map(|topic| format!("PUBLISH {topic} q0 x"));
    assert_eq!(world.take(subscriber), wanted);
    let other = world.join(v5("q"));
    assert_eq!(world.send(other, packet(alias("", 1))).unwrap_err().fault, Fault::TopicUnknown);
}

#[test]
fn what_clients_publish_to_sys_goes_nowhere() {
    let mut world = World::new();
    let subscriber = world.join(v5("s"));
    world.subscribe(subscriber, "$SYS/#", 0);
    for (connect, puback) in [(v5("p"), "PUBACK 1 87"), (v4("q"), "PUBACK 1")] {
        let key = world.join(connect);
        world.put(key, packet(Publish { retain: true, ..publish("$SYS/x", "x", 1, 1) }));
        assert_eq!(world.take(key), [puback]);
    }
    assert_eq!(world.take(subscriber), NOTHING);
    assert_eq!(world.broker.stats().retained, 0);
}

/// Else it would send all of it again at each connection, and what fits would come again and again.
#[test]
fn a_client_that_can_only_be_cut_off_is_told_first_what_was_taken() {
    let mut world = World::new();
    world.broker.forward(&filter("up/#"), 0, 1);
    world.broker.handle_gate(0, 1, Some(10));
    let four = world.join(v4("four"));
    world.put(four, packet(publish("up/t", "123456", 1, 1)));
    world.put(four, packet(publish("up/t", "1234567", 1, 2)));
    world.put(four, packet(publish("up/t", "1", 1, 3)));
    assert!(!world.closed.contains(&four), "the first is not safe yet");
    assert_eq!(world.forwards.len(), 1, "nothing behind the refused one is taken");
    let hold = world.forwards[0].hold.unwrap();
    world.broker.handle_released(hold, world.now, &mut world.out);
    world.finish();
    world.advance(Duration::ZERO);
    assert_eq!(world.take(four), ["PUBACK 1"]);
    assert!(world.closed.contains(&four));
}

#[test]
fn a_full_buffer_refuses_to_its_publisher_and_routes_nothing() {
    let mut world = World::new();
    world.broker.forward(&filter("up/#"), 0, 1);
    world.broker.handle_gate(0, 1, Some(10));
    let subscriber = world.join(v5("s"));
    world.subscribe(subscriber, "#", 0);
    let five = world.join(v5("five"));
    world.put(five, packet(publish("up/t", "123456", 1, 1)));
    assert_eq!(world.take(five), NOTHING, "it waits for the bridge");
    world.put(five, packet(publish("up/t", "1234567", 1, 2)));
    world.put(five, packet(publish("up/t", "1234567", 2, 3)));
    let hold = world.forwards[0].hold.unwrap();
    world.broker.handle_released(hold, world.now, &mut world.out);
    world.finish();
    assert_eq!(world.take(five), ["PUBACK 1", "PUBACK 2 97", "PUBREC 3 97"]);
    assert_eq!(world.forwards.len(), 1);
    assert_eq!(world.take(subscriber), ["PUBLISH up/t q0 123456"]);

    let four = world.join(v4("four"));
    let violation = world.send(four, packet(publish("up/t", "1234567", 1, 1))).unwrap_err();
    assert_eq!(violation.fault, Fault::BufferFull);
    assert!(world.closed.contains(&four));
    assert_eq!(world.take(four), NOTHING);

    let message = world.message("up/t", 1, Origin::Bridge(1));
    assert_eq!(world.publish(message.clone(), None), Err(ReasonCode::QuotaExceeded));
    world.broker.handle_gate(0, 1, None);
    assert_eq!(world.publish(message, None), Ok(()));
    world.put(five, packet(publish("up/t", "1234567", 2, 3)));
    assert_eq!(world.forwards.len(), 3, "after a refusal the identifier is new");
}

#[test]
fn forwards_and_commands_reach_their_targets_and_no_bridge_gets_its_own() {
    let mut world = World::new();
    world.broker.forward(&filter("t/#"), 0, 0);
    world.broker.forward(&filter("t/+"), 0, 1);
    world.broker.forward(&filter("t/#"), 1, 0);
    world.broker.command(&filter("t/set"), 4);
    let key = world.join(v5("p"));
    world.put(key, packet(publish("t/set", "x", 2, 1)));
    let targets: Vec<_> = world.forwards.iter().map(|forward| (forward.bridge, forward.rule)).collect();
    assert_eq!(targets, [(0, 0), (0, 1), (1, 0)]);
    assert_eq!(world.commands.iter().map(|command| command.device).collect::<Vec<_>>(), [4]);
    assert_eq!(world.take(key), NOTHING);
    for forward in std::mem::take(&mut world.forwards) {
        assert_eq!(world.take(key), NOTHING, "all three hold it, and the device");
        world.broker.handle_released(forward.hold.unwrap(), world.now, &mut world.out);
        world.finish();
    }
    assert_eq!(world.take(key), NOTHING, "the device holds it");
    world.broker.handle_released(world.commands[0].hold.unwrap(), world.now, &mut world.out);
    world.finish();
    assert_eq!(world.take(key), ["PUBREC 1"]);

    world.publish(world.message("t/set", 1, Origin::Bridge(0)), None).unwrap();
    let targets: Vec<_> = world.forwards.iter().map(|forward| (forward.bridge, forward.rule)).collect();
    assert_eq!(targets, [(1, 0)]);
    assert_eq!(world.forwards[0].hold, None, "nobody waits");
    assert_eq!(world.commands[1].hold, None);
}

/// PUBACK of a command that was refused or done at once vouches for its answer.
#[test]
fn what_waited_for_a_command_waits_for_its_answer() {
    let mut world = World::new();
    world.broker.forward(&filter("result"), 0, 0);
    world.broker.command(&filter("set"), 4);
    let key = world.join(v5("p"));
    world.put(key, packet(publish("set", "x", 1, 1)));
    let hold = world.commands[0].hold;
    let now = world.now;
    let message = world.message("result", 1, Origin::Gateway);
    world.broker.handle_answer(CommandAnswer { message, hold, urgent: true }, now, &mut world.out);
    world.finish();
    assert_eq!(world.take(key), NOTHING, "the buffer holds the answer");
    assert!(world.forwards[0].urgent);
    world.broker.handle_released(world.forwards[0].hold.unwrap(), world.now, &mut world.out);
    for hold in std::mem::take(&mut world.out.ledger.released) {
        world.broker.handle_released(hold, world.now, &mut world.out);
    }
    world.finish();
    assert_eq!(world.take(key), ["PUBACK 1"]);
    // Nobody wants the answer.
    world.put(key, packet(publish("set", "x", 1, 2)));
    let hold = world.commands[1].hold;
    let message = world.message("other", 1, Origin::Gateway);
    world.broker.handle_answer(CommandAnswer { message, hold, urgent: false }, now, &mut world.out);
    assert_eq!(world.out.ledger.released, hold.into_iter().collect::<Vec<_>>());
}

#[test]
fn a_durable_publishers_qos_2_is_urgent_everywhere() {
    let mut world = World::new();
    world.broker.forward(&filter("t"), 0, 0);
    for (connect, urgent) in [(v5_durable("d"), true), (v5("v"), false)] {
        let key = world.join(connect);
        world.put(key, packet(publish("t", "x", 2, 1)));
        assert_eq!(world.forwards.pop().map(|forward| forward.urgent), Some(urgent));
    }
}

#[test]
fn a_token_is_completed_when_its_message_is_safe() {
    let mut world = World::new();
    let subscriber = world.join(v4_durable("s"));
    world.subscribe(subscriber, "t", 1);
    world.cut(subscriber);
    world.instant_disk = false;
    world.publish(world.message("none", 1, Origin::Bridge(0)), Some(Token(1))).unwrap();
    world.publish(world.message("t", 0, Origin::Bridge(0)), Some(Token(2))).unwrap();
    assert_eq!(world.completed, [Token(1), Token(2)]);
    world.publish(world.message("t", 1, Origin::Bridge(0)), Some(Token(3))).unwrap();
    assert_eq!(world.completed.len(), 2);
    world.durable();
    assert_eq!(world.completed, [Token(1), Token(2), Token(3)]);
}

#[test]
fn acknowledgements_of_nothing_are_answered_where_the_client_would_wait() {
    for (connect, pubrel) in [(v4("a"), "PUBREL 7"), (v5("a"), "PUBREL 7 92")] {
        let mut world = World::new();
        let key = world.join(connect);
        world.put(key, super::world::puback(7));
        world.put(key, pubcomp(7));
        assert_eq!(world.take(key), NOTHING);
        world.put(key, pubrec(7));
        assert_eq!(world.take(key), [pubrel]);
        world.put(key, Packet::Pubrec(Ack::with_reason(id(7), ReasonCode::UnspecifiedError)));
        assert_eq!(world.take(key), NOTHING);
        assert_eq!(world.broker.stats().acks_unknown, 3);
    }
}
