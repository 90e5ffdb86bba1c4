//! Which message goes first, which not at all, and how fast: priority, live-first, expiry, the rate of a replay.

use std::num::NonZeroU32;

use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use tidegate::base::time::{Doubt, Duration};
use tidegate::bridge::status::LinkState;
use tidegate::config::model::{self, ForwardOrder, ForwardRule, Priority, ReceiveRule, WhenFull};
use tidegate::config::uplink::Compression;
use tidegate::mqtt::message::MessageProperties;
use tidegate::mqtt::packet::publish::Publish;
use tidegate::mqtt::packet::{Packet, Version};
use tidegate::mqtt::qos::QoS;
use tidegate::spool::survey::{Part, Survey};
use tidegate::store::record::{Seq, SpoolId};

use super::world::{SPOOL, World, config, forward, receive};

fn rule(filter: &str, priority: Priority, order: ForwardOrder) -> ForwardRule {
    ForwardRule { priority, order, ..forward(filter, "{topic}", None) }
}

/// Rules 0, 1, 2: high, normal, low.
fn three() -> model::Bridge {
    let rules = [("high/#", Priority::High), ("normal/#", Priority::Normal), ("low/#", Priority::Low)];
    let forward = rules.map(|(filter, priority)| rule(filter, priority, ForwardOrder::Topic)).into();
    model::Bridge { forward, ..config(Version::V5) }
}

const NAMES: [&str; 3] = ["high/a", "normal/a", "low/a"];

fn outage(world: &mut World) {
    world.reachable = false;
    world.cut();
}

/// The link comes back; everything flows.
fn back(world: &mut World) {
    world.reachable = true;
    world.run(Duration::from_secs(130));
    assert_eq!(world.bridge.state(), LinkState::Up);
}

fn topics(world: &World) -> Vec<String> {
    let messages = world.cloud.delivered.iter().filter(|publish| publish.qos != QoS::AtMostOnce);
    messages.filter_map(|publish| Some(publish.topic.as_ref()?.to_string())).collect()
}

fn is_replayed(publish: &Publish) -> bool {
    let pairs = publish.properties.as_deref().map(|properties| properties.user_properties.clone());
    pairs.unwrap_or_default().contains(&("replay".into(), "1".into()))
}

#[test]
fn after_an_outage_the_higher_priority_goes_first() {
    for crash in [false, true] {
        let mut world = World::new(three());
        world.drain();
        outage(&mut world);
        // More than memory holds, the low ones first.
        for number in 0..2500_u32 {
            for index in [2, 1, 0] {
                let message = world.message(NAMES[usize::from(index)], &number.to_string(), QoS::AtLeastOnce);
                world.offer_by(index, message, None);
            }
        }
        world.advance(Duration::from_secs(1));
        assert_eq!(world.bridge.status().queued_messages, 7500);
        if crash {
            world.crash();
        }
        back(&mut world);
        let topics = topics(&world);
        assert_eq!(topics.len(), 7500);
        // A window of those that waited for the disk may leave between.
        let last_high = topics.iter().rposition(|name| name == NAMES[0]).expect("some");
        let low_before = topics[..last_high].iter().filter(|name| *name == NAMES[2]).count();
        assert!(low_before <= 16, "{low_before} low ones went before the last high one");
        for name in NAMES {
            let expected: Vec<_> = (0..2500).map(|number| number.to_string()).collect();
            assert_eq!(world.delivered(name), expected, "{name}: once each, in order");
        }
        assert!(world.on_wire_max <= 16, "one window for all: {}", world.on_wire_max);
    }
}

#[test]
fn lower_priorities_make_room_for_higher_ones_and_never_the_other_way() {
    let mut bridge = three();
    bridge.buffer.size_bytes = 10_000;
    let mut world = World::new(bridge);
    world.drain();
    outage(&mut world);
    let payload = "x".repeat(994);
    for _ in 0..8 {
        world.offer_by(2, world.message("low/a", &payload, QoS::AtLeastOnce), None);
    }
    for _ in 0..9 {
        world.offer_by(0, world.message("high/a", &payload[1..], QoS::AtLeastOnce), None);
    }
    let status = world.bridge.status();
    let waiting: Vec<_> = status.rules.iter().map(|rule| rule.queued_messages).collect();
    assert_eq!((waiting, status.losses.full), (vec![9, 0, 1], 7));
    assert!(status.queued_bytes <= 10_000);
    world.offer_by(2, world.message("low/a", &payload, QoS::AtLeastOnce), None);
    let waiting = world.bridge.status().rules.iter().map(|rule| rule.queued_messages).collect::<Vec<_>>();
    assert_eq!(waiting, [9, 0, 1], "the oldest of its own made room");
    back(&mut world);
    assert_eq!((world.delivered("high/a").len(), world.delivered("low/a").len()), (9, 1));
}

#[test]
fn new_messages_go_at_once_and_what_waited_says_that_it_is_replayed() {
    let mut bridge = config(Version::V5);
    bridge.forward = vec![rule("up/#", Priority::Normal, ForwardOrder::LiveFirst)];
    bridge.buffer.replay_rate = NonZeroU32::new(100);
    for crash in [false, true] {
        let mut world = World::new(bridge.clone());
        world.drain();
        outage(&mut world);
        for number in 0..1000_u32 {
            world.offer(world.message("up/a", &format!("old {number}"), QoS::ExactlyOnce), None);
        }
        world.advance(Duration::from_secs(1));
        if crash {
            world.crash();
        }
        world.reachable = true;
        while world.bridge.state() != LinkState::Up {
            world.run(Duration::from_secs(1));
        }
        let begun = world.now.instant;
        for number in 0..5_u32 {
            world.offer(world.message("up/a", &format!("new {number}"), QoS::ExactlyOnce), None);
            world.run(Duration::from_millis(10));
            let last = world.delivered("up/a").into_iter().rfind(|payload| payload.starts_with("new"));
            assert_eq!(last, Some(format!("new {number}")), "at once");
        }
        while world.bridge.status().queued_messages > 0 {
            world.run(Duration::from_millis(100));
        }
        let took = world.now.instant.since(begun).as_secs();
        assert!((8..=11).contains(&took), "1000 at 100 a second took {took} s");
        let delivered = world.delivered("up/a");
        let old: Vec<_> = delivered.iter().filter(|payload| payload.starts_with("old")).cloned().collect();
        assert_eq!(old, (0..1000).map(|number| format!("old {number}")).collect::<Vec<_>>());
        for publish in &world.cloud.delivered {
            let is_old = publish.payload.starts_with(b"old");
            assert_eq!(is_replayed(publish), is_old, "{publish:?}");
        }
    }
}

/// Sent as a replay, cut off, and sent again: it is the same message.
#[test]
fn a_repeat_of_a_replayed_message_still_says_so() {
    let mut bridge = config(Version::V5);
    bridge.forward = vec![rule("up/#", Priority::Normal, ForwardOrder::LiveFirst)];
    let mut world = World::new(bridge);
    world.drain();
    outage(&mut world);
    world.offer(world.message("up/a", "1", QoS::ExactlyOnce), None);
    world.reachable = true;
    world.advance(Duration::from_secs(10));
    world.drain();
    // What is live now and is cut off before it is answered stays live.
    world.cloud.mute = true;
    world.offer(world.message("up/a", "2", QoS::ExactlyOnce), None);
    while world.step_cloud() {}
    world.cut();
    world.cloud.mute = false;
    world.run(Duration::from_secs(70));
    let said = world.cloud.delivered.iter().filter(|publish| publish.qos == QoS::ExactlyOnce);
    let said: Vec<_> = said.map(|publish| (publish.payload.clone(), is_replayed(publish))).collect();
    assert_eq!(said, [("1".into(), true), ("2".into(), false)]);
}

#[test]
fn a_backlog_leaves_at_its_rate_and_what_is_new_on_other_lanes_at_once() {
    let mut bridge = three();
    bridge.buffer.replay_rate = NonZeroU32::new(50);
    let mut world = World::new(bridge);
    world.drain();
    outage(&mut world);
    for number in 0..200_u32 {
        world.offer_by(1, world.message("normal/a", &number.to_string(), QoS::AtLeastOnce), None);
    }
    world.reachable = true;
    while world.bridge.state() != LinkState::Up {
        world.run(Duration::from_millis(100));
    }
    let begun = world.now.instant;
    world.offer_by(0, world.message("high/a", "alarm", QoS::ExactlyOnce), None);
    world.drain();
    assert_eq!(world.delivered("high/a"), ["alarm"]);
    assert!(world.delivered("normal/a").len() < 20);
    while world.bridge.status().queued_messages > 0 {
        world.run(Duration::from_millis(100));
    }
    let millis = world.now.instant.since(begun).as_millis();
    assert!((3700..=4400).contains(&millis), "200 at 50 a second took {millis} ms");
    // The backlog is gone: what comes now is not held back.
    for number in 0..100_u32 {
        world.offer_by(1, world.message("normal/b", &number.to_string(), QoS::AtLeastOnce), None);
    }
    world.drain();
    assert_eq!(world.delivered("normal/b").len(), 100);
}

#[test]
fn what_is_older_than_its_rule_allows_is_dropped_when_its_turn_comes() {
    let mut bridge = three();
    bridge.forward[1].expiry = Some(Duration::from_secs(60));
    let mut world = World::new(bridge);
    world.drain();
    outage(&mut world);
    world.offer_by(1, world.message("normal/a", "old", QoS::ExactlyOnce), Some(1));
    world.offer_by(0, world.message("high/a", "old", QoS::ExactlyOnce), None);
    world.advance(Duration::from_secs(59));
    world.offer_by(1, world.message("normal/a", "new", QoS::AtLeastOnce), None);
    world.advance(Duration::from_secs(2));
    assert_eq!(world.bridge.status().losses.expired, 0, "its turn has not come");
    world.reachable = true;
    world.visit(|bridge, _, out| bridge.handle_retry(out));
    world.drain();
    assert_eq!(
        (world.delivered("normal/a"), world.delivered("high/a")),
        (vec!["new".into()], vec!["old".into()])
    );
    let status = world.bridge.status();
    assert_eq!(
        (status.losses.expired, status.rules[1].lost.messages.expired, status.queued_messages),
        (1, 1, 0)
    );
}

/// What it says, when it was made, its own expiry; what is left of its time here.
type Case = (&'static str, Option<&'static str>, Option<u32>, Option<u64>);

#[test]
fn a_command_that_is_too_old_is_refused_and_counted() {
    let mut bridge = config(Version::V5);
    let expiry = Some(Duration::from_secs(60));
    bridge.receive = vec![ReceiveRule { expiry, ..receive("down/#", "{rest}") }, receive("down/log", "log")];
    let mut world = World::new(bridge);
    world.drain();
    // 2026-11-21T10:00:00Z, as the world begins.
    let cases: [Case; 7] = [
        ("1", None, None, Some(60)),
        ("2", None, Some(10), Some(10)),
        ("3", Some("2026-11-21T09:59:30Z"), None, Some(30)),
        ("4", Some("2026-11-21T09:58:59Z"), None, None),
        (r#"{"value":5,"time":"2026-11-21T09:59:50Z"}"#, None, None, Some(50)),
        (r#"{"value":6,"time":"2026-11-21T09:00:00Z"}"#, None, None, None),
        ("7", Some("no time"), None, Some(60)),
    ];
    for (payload, time, own, expected) in cases {
        let Packet::Publish(mut publish) = world.cloud.publish("down/a", payload, QoS::ExactlyOnce) else {
            panic!("a message")
        };
        publish.expiry_interval = own;
        publish.properties = time.map(|time| {
            let user_properties = vec![("time".into(), time.into())];
            Box::new(MessageProperties { user_properties, ..MessageProperties::default() })
        });
        let before = world.local.len();
        world.to_bridge.push_back(Packet::Publish(publish));
        world.drain();
        let taken: Vec<_> = world.local[before..].iter().map(|message| message.expiry_interval).collect();
        let secs = |interval: &Option<Duration>| interval.map(|interval| interval.as_millis().div_ceil(1000));
        let expected: Vec<_> = expected.into_iter().map(|secs| Some(u128::from(secs))).collect();
        assert_eq!(taken.iter().map(secs).collect::<Vec<_>>(), expected, "{payload} {time:?}");
        assert_eq!(world.cloud.owes(), 0, "it is acknowledged all the same");
    }
    let losses = world.bridge.status().losses;
    assert_eq!((losses.received_expired, losses.received_unroutable, losses.received_refused), (2, 0, 0));
    // The clock is not set: nobody knows how old it is.
    world.now.wall = world.now.wall.with_doubt(Doubt::Unset);
    let packet =
        world.cloud.publish("down/a", r#"{"value":8,"time":"2026-11-21T10:00:00Z"}"#, QoS::AtLeastOnce);
    world.to_bridge.push_back(packet);
    let packet = world.cloud.publish("down/log", r#"{"time":"2020-11-21T10:00:00Z"}"#, QoS::AtLeastOnce);
    world.to_bridge.push_back(packet);
    let before = world.local.len();
    world.drain();
    let taken: Vec<_> = world.local[before..].iter().map(|message| message.topic.as_str()).collect();
    assert_eq!(taken, ["log"], "the rule that sets no age takes it");
    assert_eq!(world.bridge.status().losses.received_expired, 4);
}

/// A command says when it was made in what is packed, too.
#[test]
fn a_command_that_is_compressed_is_as_old_as_it_says() {
    let mut bridge = config(Version::V5);
    bridge.buffer.compress = Compression::Zstd;
    bridge.receive =
        vec![ReceiveRule { expiry: Some(Duration::from_secs(60)), ..receive("down/#", "{rest}") }];
    let mut world = World::new(bridge);
    world.drain();
    for time in ["2026-11-21T09:59:50Z", "2026-11-21T09:00:00Z"] {
        let plain = format!(r#"{{"value":1,"time":"{time}","note":"{}"}}"#, "x".repeat(1000));
        let Packet::Publish(mut publish) = world.cloud.publish("down/a", &plain, QoS::ExactlyOnce) else {
            panic!("a message")
        };
        publish.payload = compress_to_vec(plain.as_bytes(), CompressionLevel::Fastest).into();
        let content_type = Some("application/zstd".into());
        publish.properties =
            Some(Box::new(MessageProperties { content_type, ..MessageProperties::default() }));
        world.to_bridge.push_back(Packet::Publish(publish));
        world.drain();
    }
    assert_eq!(world.local.len(), 1);
    assert!(world.local[0].payload.starts_with(b"{\"value\":1,\"time\":\"2026-11-21T09:59:50Z"));
    assert_eq!(world.bridge.status().losses.received_expired, 1);
    assert_eq!(world.cloud.owes(), 0);
}

#[test]
fn a_person_sees_and_empties_all_lanes() {
    let mut world = World::new(three());
    world.drain();
    outage(&mut world);
    for number in 0..1200_u32 {
        for index in 0..3 {
            let message = world.message(NAMES[usize::from(index)], &number.to_string(), QoS::AtLeastOnce);
            world.offer_by(index, message, None);
        }
    }
    world.advance(Duration::from_secs(1));
    let (mut seen, mut after) = (Vec::new(), Seq(0));
    loop {
        match world.bridge.survey(Part::Waiting, after, 100, 1 << 20) {
            Survey::Here(found) if found.is_empty() => break,
            Survey::Here(found) => {
                after = found.last().expect("some").0.seq;
                seen.extend(found.into_iter().map(|(entry, _)| entry));
            }
            Survey::OnDisk { up_to } => {
                let (spool, behind) = world.bridge.on_disk(Part::Waiting, after, up_to);
                assert!(spool == SPOOL || spool == SpoolId(SPOOL.0 + 1) || spool == SpoolId(SPOOL.0 + 2));
                let page = world.disk.page(spool, behind, 100);
                let page: Vec<_> =
                    page.into_iter().map(|entry| tidegate::bridge::lanes::as_shown(entry, up_to)).collect();
                after = page.last().expect("some").seq;
                seen.extend(page);
            }
        }
    }
    assert_eq!(seen.len(), 3600);
    for name in NAMES {
        let of_topic = seen.iter().filter(|entry| entry.message.topic.as_str() == name).count();
        assert_eq!(of_topic, 1200, "{name}");
    }
    let up_to = world.bridge.last_seq(Part::Waiting);
    world.offer_by(2, world.message("low/a", "later", QoS::AtLeastOnce), None);
    for _ in 0..100 {
        let mut unfinished = false;
        world.visit(|bridge, now, out| {
            unfinished = bridge.handle_purge(Part::Waiting, (up_to, 1000), now, out).unfinished;
        });
        if !unfinished {
            break;
        }
    }
    assert_eq!(world.bridge.status().queued_messages, 1);
    assert_eq!(world.bridge.status().losses.purged, 3600);
    back(&mut world);
    assert_eq!(topics(&world), ["low/a"]);
}

/// The buffer of a rule that is to reject: what is told to publishers counts all lanes.
#[test]
fn room_is_that_of_all_lanes() {
    let mut bridge = three();
    bridge.buffer.size_bytes = 2 << 20;
    bridge.forward[0].when_full = WhenFull::Reject;
    let mut world = World::new(bridge);
    world.drain();
    outage(&mut world);
    world.offer_by(1, world.message("normal/a", &"x".repeat(1 << 20), QoS::AtLeastOnce), None);
    let room = world.bridge.room_bytes(0).expect("it rejects");
    assert!(room < 1 << 20 && room > (1 << 20) - 100, "{room}");
    back(&mut world);
    assert_eq!(world.bridge.room_bytes(0), Some(2 << 20));
}
