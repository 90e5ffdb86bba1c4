//! Wills: when they are sent, when they are not, and that a crash does not lose them.

use tidegate::base::time::Duration;
use tidegate::broker::effect::ConnKey;
use tidegate::mqtt::packet::Packet;
use tidegate::mqtt::packet::connect::Connect;
use tidegate::mqtt::packet::control::Disconnect;
use tidegate::mqtt::reason::ReasonCode;

use super::world::{World, v4, v4_durable, v5, v5_durable, will};

/// A world with someone who waits for wills.
fn world() -> (World, ConnKey) {
    let mut world = World::new();
    let watcher = world.join(Connect { keep_alive: 0, ..v4("watcher") });
    world.subscribe(watcher, "will", 0);
    (world, watcher)
}

fn with_will(connect: Connect, delay: u32) -> Connect {
    Connect { will: Some(will("will", delay)), ..connect }
}

#[test]
fn a_will_is_sent_unless_the_client_takes_its_leave() {
    let normal = ReasonCode::Success;
    let cases = [
        (v4("c"), None, 1),
        (v4("c"), Some(normal), 0),
        (v4_durable("c"), None, 1),
        (v5("c"), None, 1),
        (v5("c"), Some(normal), 0),
        (v5("c"), Some(ReasonCode::DisconnectWithWill), 1),
        (v5("c"), Some(ReasonCode::UnspecifiedError), 1),
        (v5_durable("c"), Some(normal), 0),
    ];
    for (connect, reason, wanted) in cases {
        let (mut world, watcher) = world();
        let key = world.join(with_will(connect.clone(), 0));
        match reason {
            Some(reason) => world.put(key, Packet::Disconnect(Disconnect::with_reason(reason))),
            None => world.cut(key),
        }
        assert_eq!(world.take(watcher).len(), wanted, "{connect:?} {reason:?}");
        world.advance(Duration::from_secs(100_000));
        assert_eq!(world.take(watcher).len(), 0, "never twice");
        assert!(world.disk.wills.is_empty());
    }
}

#[test]
fn a_silent_or_violating_client_leaves_its_will() {
    let (mut world, watcher) = world();
    world.join(Connect { keep_alive: 10, ..with_will(v4("c"), 0) });
    world.advance(Duration::from_secs(15));
    assert_eq!(world.take(watcher), ["PUBLISH will q0 gone"]);
    let key = world.join(with_will(v5("c"), 0));
    world.send(key, Packet::Pingresp).unwrap_err();
    assert_eq!(world.take(watcher), ["PUBLISH will q0 gone"]);
}

#[test]
fn a_delayed_will_waits_for_its_delay_or_the_sessions_end() {
    // The will's delay, the session's expiry (3600 s), when it is sent.
    for (delay, secs) in [(60, 60), (3600, 3600), (7200, 3600)] {
        let (mut world, watcher) = world();
        let key = world.join(with_will(v5_durable("c"), delay));
        world.cut(key);
        world.advance(Duration::from_secs(secs - 1));
        assert_eq!(world.take(watcher), [""; 0], "{delay}");
        world.advance(Duration::from_secs(1));
        assert_eq!(world.take(watcher), ["PUBLISH will q0 gone"]);
    }
    let (mut world, watcher) = world();
    let key = world.join(with_will(v5("c"), 60));
    world.cut(key);
    assert_eq!(world.take(watcher).len(), 1, "a session without expiry ends at once");
}

#[test]
fn coming_back_in_time_cancels_a_delayed_will_and_a_clean_start_does_not() {
    for (again, wanted) in [(v5_durable("c"), 0), (Connect { clean_start: true, ..v5_durable("c") }, 1)] {
        for take_over in [true, false] {
            let (mut world, watcher) = world();
            let key = world.join(with_will(v5_durable("c"), 60));
            if !take_over {
                world.cut(key);
                world.advance(Duration::from_secs(30));
            }
            world.join(Connect { keep_alive: 0, ..again.clone() });
            world.advance(Duration::from_secs(60));
            assert_eq!(world.take(watcher).len(), wanted, "{again:?} {take_over}");
        }
    }
    let (mut world, watcher) = world();
    world.join(with_will(v5_durable("c"), 0));
    world.join(v5_durable("c"));
    assert_eq!(world.take(watcher).len(), 1, "without a delay a take-over sends it");
}

#[test]
fn a_retained_will_is_retained() {
    let mut world = World::new();
    let mut connect = with_will(v4("c"), 0);
    connect.will.as_mut().unwrap().retain = true;
    let key = world.join(connect);
    world.cut(key);
    let watcher = world.join(v4("w"));
    assert_eq!(world.subscribe(watcher, "will", 1)[1], "PUBLISH will q1 id=1 retain gone");
}

#[test]
fn wills_survive_a_crash_and_are_sent_once() {
    for connect in [v4("c"), v4_durable("c"), v5("c"), v5_durable("c")] {
        let mut world = World::new();
        let watcher = world.join(v4_durable("watcher"));
        world.subscribe(watcher, "will", 1);
        world.join(with_will(connect.clone(), 0));
        world.crash();
        world.crash();
        let (_, sent) = world.connect(v4_durable("watcher"));
        assert_eq!(sent, ["CONNACK 00 present", "PUBLISH will q1 id=1 gone"], "{connect:?}");
        assert!(world.disk.wills.is_empty());
    }
    let mut world = World::new();
    let watcher = world.join(v4_durable("watcher"));
    world.subscribe(watcher, "will", 1);
    let key = world.join(with_will(v5_durable("c"), 60));
    world.cut(key);
    world.advance(Duration::from_secs(40));
    world.crash();
    world.advance(Duration::from_secs(19));
    assert_eq!(world.broker.stats().queued, 0);
    world.advance(Duration::from_secs(1));
    assert_eq!(world.broker.stats().queued, 1, "the delay goes on through the crash");
}

#[test]
fn a_clean_shutdown_keeps_wills_for_the_next_start() {
    let mut world = World::new();
    let watcher = world.join(v4_durable("watcher"));
    world.subscribe(watcher, "will", 1);
    world.join(with_will(v4("c"), 0));
    world.broker.handle_shutdown(world.now, &mut world.out);
    world.finish();
    assert!(world.disk.entries.is_empty());
    world.crash();
    assert_eq!(world.connect(v4_durable("watcher")).1.len(), 2);
}

#[test]
fn a_retained_will_of_qos_0_is_on_disk_with_the_end_of_the_will() {
    let mut world = World::slow_disk();
    let mut will = will("will", 0);
    (will.qos, will.retain) = (tidegate::mqtt::qos::QoS::AtMostOnce, true);
    let (key, _) = world.connect(Connect { will: Some(will), ..v4("c") });
    world.durable();
    world.cut(key);
    world.durable_step();
    assert_eq!((world.disk.wills.len(), world.disk.retained.len()), (0, 1));
}

#[test]
fn connack_vouches_for_the_will() {
    for connect in [v4("c"), v4_durable("c"), v5_durable("c")] {
        let mut world = World::new();
        world.instant_disk = false;
        let (key, sent) = world.connect(with_will(connect.clone(), 0));
        assert_eq!(sent, [""; 0], "a crash would forget the will: {connect:?}");
        world.durable();
        assert_eq!(world.take(key).len(), 1);
        assert_eq!(world.disk.wills.len(), 1);
    }
}

#[test]
fn a_will_that_is_due_at_a_start_is_sent_also_when_its_client_is_faster() {
    let mut world = World::new();
    let watcher = world.join(v5_durable("watcher"));
    world.subscribe(watcher, "will", 1);
    world.join(with_will(v5_durable("c"), 0));
    world.restart();
    world.join(v5_durable("c"));
    let (_, sent) = world.connect(v5_durable("watcher"));
    assert_eq!(sent[1..], ["PUBLISH will q1 id=1 gone"]);
}
