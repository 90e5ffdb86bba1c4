//! Shared subscriptions: whose turn it is, and what becomes of a message when its member leaves.

use tidegate::base::time::Duration;
use tidegate::broker::Settings;
use tidegate::broker::effect::ConnKey;
use tidegate::mqtt::packet::Packet;
use tidegate::mqtt::packet::ack::Ack;
use tidegate::mqtt::packet::connect::Connect;
use tidegate::mqtt::reason::ReasonCode;

use super::world::{
    COMMIT, World, id, packet, puback, publish, pubrec, settings, unsubscribe, v4, v5, v5_durable,
};

const NOTHING: [&str; 0] = [];

/// A group of durable clients, subscribed at QoS 2, and a publisher.
fn group<const N: usize>(world: &mut World, clients: [&str; N]) -> ([ConnKey; N], ConnKey) {
    let keys = clients.map(|client| world.join(v5_durable(client)));
    for key in keys {
        world.subscribe(key, "$share/g/t", 2);
    }
    (keys, world.join(v4("p")))
}

fn send(world: &mut World, publisher: ConnKey, text: &str, qos: u8) {
    world.put(publisher, packet(publish("t", text, qos, 1)));
    if qos == 2 {
        world.put(publisher, super::world::pubrel(1));
    }
}

fn rejoin_clean(world: &mut World, client: &str) {
    world.connect(v5(client));
}

#[test]
fn a_member_whose_window_is_full_is_passed_over() {
    let mut limits = settings().limits;
    limits.inflight = 1;
    let mut world = World::with(Settings { limits, ..settings() });
    let ([a, b], publisher) = group(&mut world, ["a", "b"]);
    for text in ["1", "2", "3", "4"] {
        send(&mut world, publisher, text, 1);
    }
    assert_eq!(world.take(a), ["PUBLISH t q1 id=1 1"]);
    assert_eq!(world.take(b), ["PUBLISH t q1 id=1 2"], "both are full: 3 and 4 wait, one with each");
    world.put(b, puback(1));
    world.put(b, puback(2));
    assert_eq!(world.take(b), ["PUBLISH t q1 id=2 4"]);
    send(&mut world, publisher, "5", 1);
    send(&mut world, publisher, "6", 0);
    assert_eq!(world.take(b), ["PUBLISH t q1 id=3 5"], "only b takes it at once");
    assert_eq!(world.take(a), ["PUBLISH t q0 6"], "QoS 0 needs no window");
}

#[test]
fn what_a_member_leaves_unacknowledged_goes_to_another() {
    let mut world = World::new();
    let ([a, b], publisher) = group(&mut world, ["a", "b"]);
    world.cut(b);
    for (text, qos) in [("one", 1), ("two", 2), ("three", 1), ("done", 1), ("refused", 1)] {
        send(&mut world, publisher, text, qos);
    }
    assert_eq!(world.take(a).len(), 5);
    world.put(a, puback(4));
    world.put(a, Packet::Puback(Ack::with_reason(id(5), ReasonCode::UnspecifiedError)));
    let (b, _) = world.connect(Connect { keep_alive: 0, ..v5_durable("b") });
    world.cut(a);
    assert_eq!(world.take(b), NOTHING, "its session goes on: the messages wait for it");
    world.advance(Duration::from_secs(3601));
    assert_eq!(
        world.take(b),
        ["PUBLISH t q1 id=1 one", "PUBLISH t q1 id=2 three"],
        "QoS 2 had begun [4.8.2-5]"
    );
    assert_eq!(world.broker.stats().queued, 2);
}

#[test]
fn qos_2_that_never_left_may_go_to_another() {
    let mut world = World::new();
    let ([a, b], publisher) = group(&mut world, ["a", "b"]);
    world.put(b, unsubscribe(&["$share/g/t"]));
    world.cut(a);
    send(&mut world, publisher, "waits", 2);
    world.take(b);
    world.subscribe(b, "$share/g/t", 2);
    rejoin_clean(&mut world, "a");
    assert_eq!(world.take(b), ["PUBLISH t q2 id=1 waits"]);
    world.put(b, pubrec(1));
    assert_eq!(world.take(b), ["PUBREL 1"]);
}

#[test]
fn the_acknowledgement_waits_for_the_member_that_has_it_then() {
    let mut world = World::slow_disk();
    let ([a, b], publisher) = group(&mut world, ["a", "b"]);
    world.durable();
    world.cut(b);
    world.put(publisher, packet(publish("t", "x", 1, 7)));
    world.take(publisher);
    world.cut(a);
    rejoin_clean(&mut world, "a");
    assert_eq!(world.take(publisher), NOTHING, "b is away and has it in memory alone");
    world.durable();
    assert_eq!(world.take(publisher), ["PUBACK 7"]);
    world.crash();
    let (b, _) = world.connect(v5_durable("b"));
    world.durable();
    assert_eq!(world.take(b), ["CONNACK 00 present", "PUBLISH t q1 id=1 x"]);
}

#[test]
fn a_crash_does_not_forget_which_messages_were_shared() {
    let mut world = World::new();
    let ([a, b], publisher) = group(&mut world, ["a", "b"]);
    world.subscribe(a, "t", 1);
    world.cut(b);
    send(&mut world, publisher, "x", 1);
    assert_eq!(world.take(a).len(), 2, "one copy of its own, one of the group's");
    world.advance(COMMIT);
    world.crash();
    let (b, _) = world.connect(v5_durable("b"));
    rejoin_clean(&mut world, "a");
    assert_eq!(world.take(b), ["PUBLISH t q1 id=1 x"], "the group's alone");
}

#[test]
fn with_nobody_left_in_the_group_nobody_waits() {
    let mut world = World::slow_disk();
    let ([a], publisher) = group(&mut world, ["a"]);
    world.durable();
    world.put(publisher, packet(publish("t", "x", 1, 7)));
    world.take(publisher);
    world.cut(a);
    rejoin_clean(&mut world, "a");
    assert_eq!(world.take(publisher), ["PUBACK 7"]);
}
