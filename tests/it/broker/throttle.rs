//! Clients that publish faster than they may: nothing is lost, nobody is disconnected, and the order stays.

use std::num::NonZeroU32;

use tidegate::base::time::{Duration, Instant};
use tidegate::broker::Settings;
use tidegate::broker::effect::ConnKey;
use tidegate::broker::throttle::HELD_PACKETS_MAX;
use tidegate::broker::violation::Fault;
use tidegate::config::limits::Limits;
use tidegate::mqtt::packet::Packet;
use tidegate::mqtt::packet::control::Disconnect;
use tidegate::mqtt::reason::ReasonCode;

use super::world::{World, packet, publish, settings, v4, v5};

fn paced(rate: u32) -> World {
    let limits = Limits { publish_rate: NonZeroU32::new(rate), ..settings().limits };
    World::with(Settings { limits, ..settings() })
}

fn burst(world: &mut World, key: ConnKey, ids: std::ops::RangeInclusive<u16>) {
    for id in ids {
        world.put(key, packet(publish("t", &id.to_string(), 1, id)));
    }
}

fn pubacks(ids: std::ops::RangeInclusive<u16>) -> Vec<String> {
    ids.map(|id| format!("PUBACK {id} 10")).collect()
}

fn until_read(world: &mut World, key: ConnKey) -> Duration {
    let start: Instant = world.now.instant;
    while world.broker.is_holding(key) {
        world.advance(Duration::from_millis(10));
        assert!(world.now.instant.since(start) < Duration::from_secs(600), "it is never read again");
    }
    world.now.instant.since(start)
}

#[test]
fn a_second_of_messages_passes_at_once_and_the_rest_at_the_rate() {
    let mut world = paced(10);
    let key = world.join(v5("a"));
    burst(&mut world, key, 1..=30);
    assert_eq!(world.take(key), pubacks(1..=10));
    assert!(world.broker.is_holding(key));
    assert_eq!(world.broker.stats().throttled, 20);
    world.advance(Duration::from_secs(1));
    assert_eq!(world.take(key), pubacks(11..=20));
    world.advance(Duration::from_millis(990));
    assert!(world.broker.is_holding(key), "the last one waits");
    world.advance(Duration::from_millis(10));
    assert_eq!(world.take(key), pubacks(21..=30));
    assert!(!world.broker.is_holding(key));
    assert_eq!(world.out.resumed, [key], "the hand is told");
    // Rest makes room for another second of messages, and no more.
    world.advance(Duration::from_secs(60));
    burst(&mut world, key, 31..=50);
    assert_eq!(world.take(key), pubacks(31..=40));
    assert_eq!(world.broker.throttled().unwrap().count, 30);
    assert_eq!(&*world.broker.throttled().unwrap().client_id, "a");
}

#[test]
fn others_are_not_held_up_and_without_a_rate_nobody_is() {
    let mut world = paced(2);
    let (fast, slow) = (world.join(v5("fast")), world.join(v5("slow")));
    burst(&mut world, fast, 1..=20);
    burst(&mut world, slow, 1..=2);
    assert_eq!(world.take(slow), pubacks(1..=2));
    let mut world = World::new();
    let key = world.join(v5("a"));
    burst(&mut world, key, 1..=1000);
    assert_eq!(world.take(key), pubacks(1..=1000));
    assert_eq!((world.broker.stats().throttled, world.broker.throttled()), (0, None));
}

#[test]
fn what_comes_behind_waits_in_its_order() {
    let mut world = paced(1);
    let key = world.join(v5("a"));
    burst(&mut world, key, 1..=2);
    world.put(key, Packet::Pingreq);
    burst(&mut world, key, 3..=3);
    world.put(key, Packet::Disconnect(Disconnect::with_reason(ReasonCode::Success)));
    assert_eq!(world.take(key), pubacks(1..=1));
    world.advance(Duration::from_secs(1));
    assert_eq!(world.take(key), ["PUBACK 2 10", "PINGRESP"]);
    assert!(!world.closed.contains(&key));
    world.advance(Duration::from_secs(1));
    assert_eq!(world.take(key), pubacks(3..=3));
    assert!(world.closed.contains(&key));
    assert_eq!(world.broker.next_deadline(), None, "nothing is left behind");
    assert_eq!(world.broker.stats().keep_alive_timeouts, 0);
}

/// Its keep alive is 60 s; what it publishes takes 255 s.
#[test]
fn a_client_that_is_not_read_is_not_silent() {
    for connect in [v4("a"), v5("a")] {
        let mut world = paced(1);
        let key = world.join(connect);
        burst(&mut world, key, 1..=256);
        assert_eq!(until_read(&mut world, key), Duration::from_secs(255));
        assert!(!world.closed.contains(&key));
        assert_eq!(world.take(key).len(), 256);
        // From then on silence is silence.
        world.advance(Duration::from_secs(89));
        assert!(!world.closed.contains(&key));
        world.advance(Duration::from_secs(1));
        assert!(world.closed.contains(&key));
    }
}

#[test]
fn what_waits_is_bounded_and_goes_with_its_connection() {
    let mut world = paced(1);
    let key = world.join(v5("a"));
    // No hand reads on, but the bound does not rest on that.
    for _ in 0..=HELD_PACKETS_MAX {
        world.put(key, packet(publish("t", "x", 0, 0)));
    }
    let fault = world.send(key, packet(publish("t", "x", 0, 0))).unwrap_err().fault;
    assert_eq!(fault, Fault::TooManyUnanswered);
    assert!(world.closed.contains(&key));
    let key = world.join(v5("b"));
    burst(&mut world, key, 1..=9);
    world.cut(key);
    assert_eq!(world.broker.next_deadline(), None);
}

/// A packet among those that waited breaks the protocol.
#[test]
fn what_waited_can_end_its_connection() {
    let mut world = paced(1);
    let key = world.join(v5("a"));
    burst(&mut world, key, 1..=2);
    world.put(key, packet(publish("", "x", 1, 3)));
    burst(&mut world, key, 4..=4);
    world.advance(Duration::from_secs(5));
    assert_eq!(world.take(key), ["PUBACK 1 10", "PUBACK 2 10", "DISCONNECT 82"]);
    assert!(world.closed.contains(&key));
    assert_eq!(world.broker.next_deadline(), None);
}
