//! What can never be delivered: kept, seen, sent again, and nothing that holds up the rest.

use std::collections::BTreeSet;

use tidegate::base::time::Duration;
use tidegate::bridge::change::NewSettings;
use tidegate::bridge::fate::unstamped;
use tidegate::bridge::status::LinkState;
use tidegate::config::model;
use tidegate::mqtt::packet::{Packet, Version};
use tidegate::mqtt::qos::QoS;
use tidegate::mqtt::reason::ReasonCode;
use tidegate::mqtt::topic::TopicFilter;
use tidegate::spool::survey::Part;
use tidegate::store::record::Seq;

use super::world::{World, config};

const BAD: &str = "sites/plant-7/bad";
const ACKNOWLEDGED: [QoS; 2] = [QoS::AtLeastOnce, QoS::ExactlyOnce];

/// What a bridge counts of one cause.
fn died(world: &World, cause: &str) -> u64 {
    let died = world.bridge.status().dead.died;
    died.iter().find(|(found, _)| found.name() == cause).map_or(0, |(_, count)| *count)
}

/// Payloads of the dead letters on disk, in their order.
fn dead(world: &World) -> Vec<String> {
    let payload = |payload: &[u8]| String::from_utf8_lossy(payload).into_owned();
    world.disk.dead.values().map(|entry| payload(&entry.message.payload)).collect()
}

fn words(world: &World) -> Vec<String> {
    let fates = world.disk.dead.values().map(|entry| unstamped(&entry.message).1.expect("a fate"));
    fates.map(|fate| fate.detail).collect()
}

/// How many went behind what waits, and how many have no rule.
fn retry(world: &mut World, filter: Option<&str>) -> (u64, u64) {
    let filter = filter.map(|filter| TopicFilter::new(filter).expect("a valid filter"));
    let up_to = world.bridge.last_seq(Part::Dead);
    let (mut after, mut messages, mut unroutable) = (Seq(0), 0, 0);
    for _ in 0..1000 {
        let mut done = None;
        world.visit(|bridge, now, out| {
            done = Some(bridge.handle_revive(filter.as_ref(), (after, up_to), 10, (now, out)));
        });
        let done = done.expect("visited");
        (messages, unroutable, after) = (messages + done.messages, unroutable + done.unroutable, done.after);
        if !done.unfinished {
            return (messages, unroutable);
        }
    }
    panic!("it never ends");
}

fn say(world: &mut World, name: &str, payloads: std::ops::Range<u64>, qos: QoS) {
    for payload in payloads {
        world.offer(world.message(name, &payload.to_string(), qos), Some(payload));
    }
}

/// What the cloud has of the topic that it takes, without the repeats of QoS 1.
fn first_copies(world: &World) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let came = world.delivered("sites/plant-7/a").into_iter();
    came.filter(|payload| seen.insert(payload.clone())).collect()
}

fn numbers(of: std::ops::Range<u64>) -> Vec<String> {
    of.map(|number| number.to_string()).collect()
}

/// The cloud ends the connection behind a PUBLISH on one topic, with these last words or none, whenever it meets one. Returns
/// how often it did.
fn close_behind(world: &mut World, topic: &str, parting: Option<ReasonCode>, over: Duration) -> usize {
    use tidegate::mqtt::packet::control::Disconnect;
    let end = world.now.instant + over;
    let mut closed = 0;
    while world.now.instant < end {
        for _ in 0..10_000 {
            world.commit(usize::MAX);
            let meets = world.to_cloud.front().is_some_and(|packet| {
                matches!(packet, Packet::Publish(publish) if publish.topic.as_ref().is_some_and(|found| found.as_str() == topic))
            });
            if meets {
                closed += 1;
                match parting {
                    Some(reason) => {
                        world.to_cloud.clear();
                        world.to_bridge.clear();
                        world.to_bridge.push_back(Packet::Disconnect(Disconnect::with_reason(reason)));
                        world.step_bridge();
                    }
                    None => world.cut(),
                }
            } else if !world.step_cloud() && !world.step_bridge() {
                break;
            }
        }
        world.advance(Duration::from_millis(500));
    }
    closed
}

#[test]
fn what_is_refused_for_ever_is_kept_with_its_reason_and_the_rest_goes_on() {
    let cases = [
        (ReasonCode::NotAuthorized, "not_authorized"),
        (ReasonCode::TopicNameInvalid, "topic_name_invalid"),
        (ReasonCode::PayloadFormatInvalid, "payload_format_invalid"),
    ];
    for (reason, cause) in cases {
        for qos in ACKNOWLEDGED {
            let mut world = World::up(Version::V5);
            world.cloud.refusals.insert(BAD.into(), reason);
            for number in 1..=50 {
                let name = if number % 5 == 0 { "up/bad" } else { "up/a" };
                say(&mut world, name, number..number + 1, qos);
            }
            world.drain();
            let status = world.bridge.status();
            assert_eq!((died(&world, cause), status.dead.messages, status.losses.total()), (10, 10, 0));
            assert_eq!((status.queued_messages, status.inflight, status.state), (0, 0, LinkState::Up));
            assert_eq!((world.cloud.connects.len(), world.released.len()), (1, 50));
            let expected: Vec<String> = (1..=50).filter(|n| n % 5 != 0).map(|n: u64| n.to_string()).collect();
            assert_eq!(world.delivered("sites/plant-7/a"), expected);
            assert_eq!(words(&world), vec![reason.to_string(); 10]);
            assert!(world.disk.entries.is_empty() && world.disk.inflight.is_empty());
        }
    }
}

#[test]
fn a_crash_between_death_and_disk_neither_loses_nor_doubles_it() {
    for qos in ACKNOWLEDGED {
        for commits in 0..12 {
            let mut world = World::up(Version::V5);
            world.cloud.refusals.insert(BAD.into(), ReasonCode::NotAuthorized);
            world.fast_disk = false;
            say(&mut world, "up/bad", 1..6, qos);
            // The first visits are durable, and the power fails at some place behind them.
            for _ in 0..commits {
                world.commit(1);
                while world.step_cloud() || world.step_bridge() {}
            }
            let promised = world.released.clone();
            world.crash();
            world.fast_disk = true;
            world.run(Duration::from_secs(5));
            let found = dead(&world);
            let mut once = found.clone();
            once.dedup();
            assert_eq!(once, found, "after {commits} commits at {qos:?}");
            for hold in promised {
                assert!(found.contains(&hold.0.to_string()), "{hold:?} of {found:?} after {commits}");
            }
            assert!(world.disk.entries.is_empty() && world.disk.inflight.is_empty());
            assert_eq!(world.bridge.status().queued_messages, 0);
        }
    }
}

/// It was acknowledged nowhere before, and is not on disk yet.
#[test]
fn its_publisher_hears_once_it_is_on_the_disk() {
    let mut world = World::up(Version::V5);
    world.cloud.refusals.insert(BAD.into(), ReasonCode::NotAuthorized);
    world.fast_disk = false;
    say(&mut world, "up/bad", 1..2, QoS::AtLeastOnce);
    while world.step_cloud() || world.step_bridge() {}
    assert_eq!((world.bridge.status().dead.messages, world.released.len()), (1, 0));
    world.commit(usize::MAX);
    assert_eq!((dead(&world), world.released.len()), (numbers(1..2), 1));
}

#[test]
fn a_retry_brings_them_back_in_order_as_they_were() {
    for qos in ACKNOWLEDGED {
        let mut world = World::up(Version::V5);
        world.cloud.refusals.insert(BAD.into(), ReasonCode::NotAuthorized);
        world.cloud.refusals.insert("sites/plant-7/worse".into(), ReasonCode::NotAuthorized);
        say(&mut world, "up/bad", 1..300, qos);
        say(&mut world, "up/worse", 300..400, qos);
        world.drain();
        assert_eq!(world.bridge.status().dead.messages, 399);
        world.restart();
        world.run(Duration::from_secs(5));
        world.cloud.refusals.clear();
        assert_eq!(retry(&mut world, Some("up/bad")), (299, 0));
        world.drain();
        assert_eq!(world.delivered(BAD), numbers(1..300));
        assert_eq!(dead(&world), numbers(300..400), "the others stay, in their order");
        let publish = world.cloud.delivered.last().expect("it came");
        assert_eq!((publish.qos, &publish.properties), (qos, &None));
        assert_eq!(retry(&mut world, None), (100, 0));
        world.drain();
        assert_eq!(world.delivered("sites/plant-7/worse"), numbers(300..400));
        let status = world.bridge.status();
        assert_eq!((status.dead.messages, status.dead.bytes, status.losses.total()), (0, 0, 0));
        assert!(
            world.disk.dead.is_empty() && world.disk.entries.is_empty() && world.disk.inflight.is_empty()
        );
    }
}

/// A reload: changed, gone, and there again, with less room than they have.
#[test]
fn they_stay_when_their_bridge_changes_goes_and_returns() {
    let mut world = World::up(Version::V5);
    world.cloud.refusals.insert(BAD.into(), ReasonCode::NotAuthorized);
    say(&mut world, "up/bad", 1..200, QoS::AtLeastOnce);
    world.drain();
    let before = world.bridge.status().dead;
    for size_bytes in [world.settings.bridge.buffer.size_bytes, 16 * before.bytes / 2] {
        let mut bridge = config(Version::V5);
        bridge.buffer.size_bytes = size_bytes;
        world.visit(tidegate::bridge::Bridge::handle_shutdown);
        world.visit(|bridge, _, out| bridge.retire(out));
        world.cut();
        let new = NewSettings { bridge, may_return: false, definition: None };
        world.visit(|bridge, now, out| bridge.replace_settings(new, now, out));
        world.run(Duration::from_secs(5));
        let status = world.bridge.status();
        assert_eq!(
            (status.state, status.dead.bytes, dead(&world)),
            (LinkState::Up, before.bytes, numbers(1..200))
        );
        assert_eq!((status.losses.total(), status.dead.died), (0, before.died.clone()));
    }
    world.cloud.refusals.clear();
    assert_eq!(retry(&mut world, None), (199, 0));
    world.drain();
    assert_eq!(world.delivered(BAD), numbers(1..200));
}

/// Somebody gave the right: what was known of the topic is known no more.
#[test]
fn a_retry_tries_what_the_server_closed_for() {
    let mut world = World::up(Version::V3_1_1);
    say(&mut world, "up/bad", 1..2, QoS::AtLeastOnce);
    close_behind(&mut world, BAD, None, Duration::from_secs(600));
    say(&mut world, "up/bad", 2..4, QoS::AtLeastOnce);
    world.drain();
    assert_eq!(dead(&world), numbers(1..4));
    assert!(words(&world)[1].ends_with("not tried"), "{:?}", words(&world));
    assert_eq!(retry(&mut world, None), (3, 0));
    world.run(Duration::from_secs(60));
    say(&mut world, "up/bad", 4..6, QoS::AtLeastOnce);
    world.drain();
    assert_eq!((world.delivered(BAD), dead(&world).len()), (numbers(1..6), 0));
}

#[test]
fn what_dies_again_is_looked_at_once_a_retry() {
    let mut world = World::up(Version::V5);
    world.cloud.refusals.insert(BAD.into(), ReasonCode::NotAuthorized);
    say(&mut world, "up/bad", 1..200, QoS::AtLeastOnce);
    world.drain();
    assert_eq!(retry(&mut world, None), (199, 0));
    world.drain();
    assert_eq!((died(&world, "not_authorized"), dead(&world)), (398, numbers(1..200)));
}

#[test]
fn a_retry_leaves_what_no_rule_carries_and_ends_where_the_buffer_is_full() {
    let mut world = World::up(Version::V5);
    world.cloud.refusals.insert(BAD.into(), ReasonCode::NotAuthorized);
    say(&mut world, "up/bad", 1..200, QoS::AtLeastOnce);
    world.drain();
    world.settings.bridge.forward[0].filter = TopicFilter::new("other/#").unwrap();
    world.restart();
    world.run(Duration::from_secs(5));
    assert_eq!(retry(&mut world, None), (0, 199));
    assert_eq!(dead(&world), numbers(1..200));
    world.settings.bridge.forward[0].filter = TopicFilter::new("up/#").unwrap();
    world.settings.bridge.forward[0].size_bytes = Some(300);
    world.restart();
    world.reachable = false;
    world.cut();
    let (messages, _) = retry(&mut world, None);
    assert!((10..100).contains(&messages), "{messages}");
    assert_eq!(world.bridge.status().dead.messages, 199 - messages);
    assert_eq!(world.bridge.status().losses.total(), 0);
}

#[test]
fn the_oldest_gives_way_at_the_bound_and_one_of_any_size_has_room() {
    let mut bridge = config(Version::V5);
    bridge.buffer.size_bytes = 64_000;
    let mut world = World::new(bridge);
    world.cloud.refusals.insert(BAD.into(), ReasonCode::NotAuthorized);
    world.drain();
    say(&mut world, "up/bad", 1..201, QoS::AtLeastOnce);
    world.drain();
    let status = world.bridge.status();
    assert!(status.dead.bytes <= 4000 && status.dead.messages > 20, "{:?}", status.dead);
    assert_eq!(status.losses.full + status.dead.messages, 200, "what gives way is counted");
    assert_eq!(status.rules[0].lost.messages.full, status.losses.full);
    assert_eq!(dead(&world), numbers(201 - status.dead.messages..201));
    let large = "x".repeat(20_000);
    world.offer(world.message("up/bad", &large, QoS::AtLeastOnce), None);
    world.drain();
    assert_eq!(dead(&world), [large]);
    world.restart();
    world.run(Duration::from_secs(5));
    assert_eq!((world.bridge.status().dead.messages, world.disk.dead.len()), (1, 1));
    // What they hold, the lanes cannot.
    world.reachable = false;
    world.cut();
    world.offer(world.message("up/a", &"y".repeat(50_000), QoS::AtLeastOnce), None);
    assert_eq!(world.bridge.status().queued_messages, 0);
}

#[test]
fn they_age_as_what_waits_and_are_purged_by_themselves() {
    let mut bridge = config(Version::V5);
    bridge.buffer.age = Duration::from_secs(1000);
    let mut world = World::new(bridge);
    world.cloud.refusals.insert(BAD.into(), ReasonCode::NotAuthorized);
    world.drain();
    say(&mut world, "up/bad", 1..4, QoS::AtLeastOnce);
    world.run(Duration::from_secs(500));
    say(&mut world, "up/bad", 4..6, QoS::AtLeastOnce);
    world.run(Duration::from_secs(600));
    assert_eq!((dead(&world), world.bridge.status().losses.aged), (numbers(4..6), 3));
    let last = world.bridge.last_seq(Part::Dead);
    world.visit(|bridge, now, out| {
        let done = bridge.handle_purge(Part::Dead, (last, 100), now, out);
        assert_eq!((done.messages, done.unfinished), (2, false));
    });
    assert!(world.disk.dead.is_empty());
}

#[test]
fn what_is_too_large_or_has_no_way_never_leaves_and_is_kept() {
    let mut world = World::new(config(Version::V5));
    world.cloud.properties.maximum_packet_size = Some(100);
    world.drain();
    for qos in ACKNOWLEDGED {
        world.offer(world.message("up/a", &"x".repeat(200), qos), None);
        world.offer(world.message("up/a", "small", qos), None);
    }
    world.drain();
    assert_eq!((died(&world, "too_large"), world.delivered("sites/plant-7/a").len()), (2, 2));
    assert_eq!(words(&world)[0], "larger than the server takes: packets of 100 bytes");
    // The server grew.
    world.cloud.properties.maximum_packet_size = None;
    world.cut();
    world.run(Duration::from_secs(60));
    assert_eq!(retry(&mut world, None), (2, 0));
    world.drain();
    assert_eq!(world.delivered("sites/plant-7/a").len(), 4);
}

#[test]
fn a_doubtful_refusal_is_tried_three_times_and_blocks_nothing_behind_it() {
    for reason in [
        ReasonCode::UnspecifiedError,
        ReasonCode::ImplementationSpecificError,
        ReasonCode::PacketIdentifierInUse,
    ] {
        for qos in ACKNOWLEDGED {
            let mut world = World::up(Version::V5);
            world.cloud.refusals.insert(BAD.into(), reason);
            say(&mut world, "up/a", 1..5, qos);
            say(&mut world, "up/bad", 5..6, qos);
            say(&mut world, "up/a", 6..9, qos);
            world.run(Duration::from_secs(120));
            assert_eq!((died(&world, "refused"), world.cloud.connects.len()), (1, 3), "{reason}");
            // While it stays up, the next costs the others nothing.
            say(&mut world, "up/bad", 9..12, qos);
            say(&mut world, "up/a", 12..14, qos);
            world.drain();
            assert_eq!((died(&world, "refused"), world.cloud.connects.len()), (4, 3));
            assert_eq!(first_copies(&world), ["1", "2", "3", "4", "6", "7", "8", "12", "13"]);
        }
    }
}

#[test]
fn a_doubtful_refusal_that_passes_costs_nothing() {
    for qos in ACKNOWLEDGED {
        let mut world = World::up(Version::V5);
        world.cloud.refusals.insert("sites/plant-7/a".into(), ReasonCode::UnspecifiedError);
        say(&mut world, "up/a", 1..9, qos);
        world.drain();
        world.cloud.refusals.clear();
        world.run(Duration::from_secs(60));
        assert_eq!(world.delivered("sites/plant-7/a"), numbers(1..9), "in order, once");
        assert_eq!(world.bridge.status().dead.messages, 0);
    }
}

/// A 3.1.1 server has no other way to say that it does not take a message.
#[test]
fn a_message_behind_which_the_server_closes_does_not_block_the_rest_for_ever() {
    for (version, qos) in
        [Version::V3_1_1, Version::V5].into_iter().flat_map(|v| ACKNOWLEDGED.map(|q| (v, q)))
    {
        let mut world = World::up(version);
        say(&mut world, "up/a", 1..5, qos);
        say(&mut world, "up/bad", 5..6, qos);
        say(&mut world, "up/a", 6..30, qos);
        let closed = close_behind(&mut world, BAD, None, Duration::from_secs(600));
        assert_eq!((closed, died(&world, "closed")), (10, 1), "two together, eight alone");
        assert_eq!(words(&world), ["the server closed the connection 8 times behind it"]);
        assert_eq!(
            first_copies(&world),
            (1..30).filter(|n| *n != 5).map(|n: u64| n.to_string()).collect::<Vec<_>>()
        );
        // The next one on that topic costs no connection.
        say(&mut world, "up/bad", 30..31, qos);
        say(&mut world, "up/a", 31..60, qos);
        assert_eq!(close_behind(&mut world, BAD, None, Duration::from_secs(300)), 0);
        assert_eq!(
            (died(&world, "closed"), dead(&world)),
            (2, numbers(5..6).into_iter().chain(numbers(30..31)).collect())
        );
        let status = world.bridge.status();
        assert_eq!((status.queued_messages, status.inflight, status.state), (0, 0, LinkState::Up));
        assert!(world.disk.inflight.is_empty() && world.disk.entries.is_empty());
        // Everybody who waits leaves together again.
        world.on_wire_max = 0;
        say(&mut world, "up/a", 60..80, qos);
        assert!(world.on_wire_max > 1, "{}", world.on_wire_max);
    }
}

#[test]
fn a_server_that_says_packet_too_large_says_it_twice() {
    for qos in ACKNOWLEDGED {
        let mut world = World::up(Version::V5);
        say(&mut world, "up/a", 1..5, qos);
        say(&mut world, "up/bad", 5..6, qos);
        say(&mut world, "up/a", 6..9, qos);
        let parting = Some(ReasonCode::PacketTooLarge);
        assert_eq!(
            close_behind(&mut world, BAD, parting, Duration::from_secs(100)),
            2,
            "among others, and alone"
        );
        assert_eq!((died(&world, "too_large"), world.bridge.status().queued_messages), (1, 0));
        assert_eq!(words(&world), ["the server ended the connection: packet too large"]);
    }
}

/// The status topic, a subscription or the hour is to blame, and no message is.
#[test]
fn a_server_that_closes_before_it_answers_a_ping_costs_no_message() {
    let mut world = World::up(Version::V3_1_1);
    say(&mut world, "up/a", 1..5, QoS::AtLeastOnce);
    let end = world.now.instant + Duration::from_secs(1200);
    let mut closed = 0;
    while world.now.instant < end {
        world.advance(Duration::from_millis(500));
        while !matches!(world.to_cloud.front(), None | Some(Packet::Publish(_) | Packet::Pingreq))
            || !world.to_bridge.is_empty()
        {
            if !world.step_bridge() {
                world.step_cloud();
            }
        }
        if !world.to_cloud.is_empty() {
            closed += 1;
            world.cut();
        }
    }
    assert!(closed > 10, "{closed}");
    assert_eq!(world.bridge.status().dead.messages, 0);
    world.run(Duration::from_secs(200));
    assert_eq!(world.delivered("sites/plant-7/a"), numbers(1..5));
}

/// A QoS 2 message that the server may hold under its identifier: that one is not used again before it is released.
#[test]
fn an_identifier_that_the_server_may_hold_is_released_first() {
    let bridge = model::Bridge { inflight: 1, ..config(Version::V5) };
    let mut world = World::new(bridge);
    say(&mut world, "up/a", 0..1, QoS::ExactlyOnce);
    world.drain();
    let mut held = None;
    let mut closes = 0;
    world.offer(world.message("up/bad", "dead", QoS::ExactlyOnce), None);
    for _ in 0..2000 {
        let bad = world.to_cloud.front().and_then(|packet| match packet {
            Packet::Publish(publish) if publish.topic.as_ref().is_some_and(|t| t.as_str() == BAD) => {
                publish.packet_id
            }
            _ => None,
        });
        if bad.is_some() {
            // It takes the message, and closes before its PUBREC arrives.
            held = bad;
            closes += 1;
            world.step_cloud();
            world.cut();
        } else if !world.step_cloud() && !world.step_bridge() {
            world.advance(Duration::from_millis(500));
        }
    }
    assert_eq!((closes, died(&world, "closed")), (10, 1));
    assert_eq!(world.cloud.unknown_releases, 0);
    say(&mut world, "up/a", 1..200, QoS::ExactlyOnce);
    world.run(Duration::from_secs(10));
    assert_eq!(world.delivered("sites/plant-7/a"), numbers(0..200), "{held:?} was used again");
}
