//! Sessions: clean start, resumption, take-over, expiry.

use tidegate::base::time::Duration;
use tidegate::broker::violation::Fault;
use tidegate::mqtt::packet::Packet;
use tidegate::mqtt::packet::connect::Connect;
use tidegate::mqtt::packet::control::{Disconnect, DisconnectProperties};
use tidegate::mqtt::reason::ReasonCode;

use super::world::{World, packet, publish, pubrel, v4, v4_durable, v5, v5_durable};

const NOTHING: [&str; 0] = [];

fn disconnect(secs: u32) -> Packet {
    let properties =
        DisconnectProperties { session_expiry_interval: Some(secs), ..DisconnectProperties::default() };
    Packet::Disconnect(Disconnect { reason: ReasonCode::Success, properties: Some(Box::new(properties)) })
}

#[test]
fn session_present_tells_whether_there_was_one() {
    let clean = |connect: Connect| Connect { clean_start: true, ..connect };
    let unclean = |connect: Connect| Connect { clean_start: false, ..connect };
    let (new, old) = ("CONNACK 00", "CONNACK 00 present");
    let cases = [
        (v4("c"), v4("c"), new),
        (v4("c"), v4_durable("c"), new),
        (v4_durable("c"), v4_durable("c"), old),
        (v4_durable("c"), v4("c"), new),
        (v4_durable("c"), v5_durable("c"), old),
        (v5("c"), unclean(v5("c")), new),
        (clean(v5_durable("c")), unclean(v5("c")), old),
        (v5_durable("c"), v5_durable("c"), old),
        (v5_durable("c"), clean(v5_durable("c")), new),
    ];
    for (first, second, wanted) in cases {
        for take_over in [true, false] {
            let mut world = World::new();
            let (key, sent) = world.connect(first.clone());
            assert_eq!(sent, [new]);
            if !take_over {
                world.cut(key);
            }
            assert_eq!(world.connect(second.clone()).1, [wanted], "{first:?} {second:?} {take_over}");
        }
    }
}

#[test]
fn a_take_over_ends_the_older_connection() {
    for (first, told) in [(v5("c"), vec!["DISCONNECT 8e"]), (v4("c"), vec![])] {
        let mut world = World::new();
        let old = world.join(first);
        let new = world.join(v4("c"));
        assert_eq!(world.take(old), told);
        assert!(world.closed.contains(&old) && !world.closed.contains(&new));
        world.cut(old);
        world.put(new, Packet::Pingreq);
        assert_eq!(world.take(new), ["PINGRESP"], "the late news of the old one changes nothing");
        assert_eq!(world.broker.stats().connections, 1);
    }
}

#[test]
fn a_clean_start_drops_queue_subscriptions_and_inbound_identifiers() {
    let mut world = World::new();
    let key = world.join(v5_durable("c"));
    world.subscribe(key, "t", 2);
    world.put(key, packet(publish("u", "x", 2, 7)));
    world.cut(key);
    let publisher = world.join(v4("p"));
    world.put(publisher, packet(publish("t", "x", 1, 1)));
    let (key, sent) = world.connect(Connect { clean_start: true, ..v5_durable("c") });
    assert_eq!(sent, ["CONNACK 00"]);
    world.put(publisher, packet(publish("t", "y", 1, 2)));
    world.put(key, pubrel(7));
    assert_eq!(world.take(key), ["PUBCOMP 7 92"]);
    assert!(world.disk.entries.is_empty() && world.disk.inbound.is_empty());
    assert!(world.disk.subscriptions.is_empty());
    assert_eq!(world.disk.sessions.len(), 1);
}

#[test]
fn connack_waits_until_the_dropped_session_is_gone_from_disk() {
    let mut world = World::new();
    let key = world.join(v5_durable("c"));
    world.cut(key);
    world.instant_disk = false;
    let (key, sent) = world.connect(v5("c"));
    assert_eq!(sent, NOTHING);
    // A client need not wait for CONNACK; its answers have to.
    let publisher = world.join(v4("p"));
    world.put(
        publisher,
        packet(tidegate::mqtt::packet::publish::Publish { retain: true, ..publish("r", "x", 0, 0) }),
    );
    world.subscribe(key, "#", 0);
    world.put(key, Packet::Pingreq);
    world.put(publisher, packet(publish("t", "x", 0, 0)));
    assert_eq!(world.take(key), NOTHING);
    world.durable();
    let wanted = ["CONNACK 00", "SUBACK 9 00", "PUBLISH r q0 retain x", "PINGRESP", "PUBLISH t q0 x"];
    assert_eq!(world.take(key), wanted);
    assert!(world.disk.sessions.is_empty());
    world.put(publisher, packet(publish("t", "y", 0, 0)));
    assert_eq!(world.take(key), ["PUBLISH t q0 y"]);
}

#[test]
fn sessions_end_when_their_expiry_is_over() {
    let secs = Duration::from_secs;
    let second = secs(1);
    // What the session asked for, what DISCONNECT changed it to, how long it lives.
    let cases = [
        (v5_durable("c"), None, secs(3600)),
        (v5_durable("c"), Some(60), secs(60)),
        (v5_durable("c"), Some(u32::MAX), secs(86_400)),
        (v4_durable("c"), None, secs(86_400)),
    ];
    for (connect, changed, lives) in cases {
        let mut world = World::new();
        let key = world.join(connect.clone());
        match changed {
            Some(secs) => world.put(key, disconnect(secs)),
            None => world.leave(key),
        }
        world.advance(lives.saturating_sub(second));
        assert_eq!(world.broker.stats().sessions, 1, "{connect:?}");
        assert_eq!(world.disk.sessions.len(), 1);
        world.advance(secs(1));
        assert_eq!(world.broker.stats().sessions, 0);
        assert!(world.disk.sessions.is_empty());
        assert_eq!(world.broker.next_deadline(), None);
        assert_eq!(world.connect(connect).1, ["CONNACK 00"]);
    }
}

#[test]
fn disconnect_may_end_a_session_but_not_prolong_one_that_ends() {
    let mut world = World::new();
    let key = world.join(v5_durable("c"));
    world.put(key, disconnect(0));
    assert_eq!(world.broker.stats().sessions, 0);
    assert!(world.disk.sessions.is_empty());
    let key = world.join(v5("c"));
    assert_eq!(world.send(key, disconnect(60)).unwrap_err().fault, Fault::ExpiryRaisedFromZero);
    assert_eq!(world.take(key), ["DISCONNECT 82"]);
}

#[test]
fn expiry_goes_on_through_a_crash() {
    let mut world = World::new();
    let key = world.join(v5_durable("away"));
    world.join(Connect { keep_alive: 0, ..v5_durable("here") });
    world.leave(key);
    world.advance(Duration::from_secs(3000));
    world.crash();
    assert_eq!(world.broker.stats().sessions, 2);
    world.advance(Duration::from_secs(600));
    assert_eq!(world.broker.stats().sessions, 1, "the one that was away has its hour behind it");
    world.crash();
    world.advance(Duration::from_secs(2999));
    assert_eq!(world.broker.stats().sessions, 1, "the other counts from the first crash");
    world.advance(Duration::from_secs(1));
    assert_eq!(world.broker.stats().sessions, 0);
}

#[test]
fn a_clean_session_costs_no_disk() {
    let mut world = World::slow_disk();
    let key = world.join(v4("c"));
    world.subscribe(key, "t", 2);
    world.put(key, packet(publish("t", "x", 2, 1)));
    world.put(key, super::world::pubrec(1));
    world.put(key, super::world::pubcomp(1));
    world.put(key, pubrel(1));
    world.leave(key);
    assert!(world.pending.is_empty());
}

#[test]
fn churn_leaves_nothing_behind() {
    let mut world = World::new();
    for _ in 0..50 {
        let key = world.join(v5_durable("d"));
        world.subscribe(key, "a/+/c", 1);
        world.cut(key);
        let key = world.join(Connect { will: Some(super::world::will("w", 5)), ..v5("v") });
        world.subscribe(key, "$share/g/a/#", 1);
        world.leave(key);
    }
    let stats = world.broker.stats();
    assert_eq!((stats.sessions, stats.subscriptions, stats.connections), (1, 1, 0));
    assert_eq!(world.disk.sessions.len(), 1);
    world.advance(Duration::from_secs(3600));
    assert_eq!(world.broker.next_deadline(), None);
    assert_eq!(world.broker.stats().subscriptions, 0);
    assert!(world.disk.subscriptions.is_empty() && world.disk.wills.is_empty());
}

/// Else a crash would bring it back after the client was told that there is none.
#[test]
fn who_is_told_that_no_session_is_there_waits_until_the_end_of_the_last_one_is_on_disk() {
    let mut world = World::new();
    let first = world.join(v5_durable("s"));
    world.subscribe(first, "t", 1);
    world.instant_disk = false;
    world.cut(first);
    let until_it_closes = Connect { clean_start: false, ..v5("s") };
    let (second, _) = world.connect(until_it_closes);
    world.cut(second);
    let (third, sent) = world.connect(v5_durable("s"));
    assert!(sent.is_empty(), "{sent:?}");
    world.durable();
    assert_eq!(world.take(third), ["CONNACK 00"]);
}

#[test]
fn session_present_holds_across_a_crash_that_follows_at_once() {
    let mut world = World::new();
    let key = world.join(v5_durable("c"));
    world.cut(key);
    world.instant_disk = false;
    // 3600 s are what it asked for.
    world.advance(Duration::from_secs(3590));
    let (key, sent) = world.connect(v5_durable("c"));
    assert_eq!(sent, NOTHING, "a crash would count the absence from its beginning");
    world.durable();
    assert_eq!(world.take(key), ["CONNACK 00 present"]);
    world.crash();
    world.instant_disk = true;
    world.advance(Duration::from_secs(60));
    assert_eq!(world.connect(v5_durable("c")).1, ["CONNACK 00 present"]);
}
