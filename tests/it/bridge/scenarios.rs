//! One promise a test.

use tidegate::base::time::{Doubt, Duration, Instant, Now, Timestamp};
use tidegate::bridge::Bridge;
use tidegate::bridge::fault::LinkFault;
use tidegate::bridge::status::LinkState;
use tidegate::config::model::{Retain, WhenFull};
use tidegate::mqtt::message::{Message, MessageProperties, Origin};
use tidegate::mqtt::packet::ack::Ack;
use tidegate::mqtt::packet::subscribe::RetainHandling;
use tidegate::mqtt::packet::{Packet, Version};
use tidegate::mqtt::qos::{PacketId, QoS};
use tidegate::mqtt::reason::ReasonCode;
use tidegate::mqtt::topic::TopicFilter;
use tidegate::spool::Hold;

use super::world::{INDEX, SPOOL, World, config, forward, receive, topic};

const BOTH: [Version; 2] = [Version::V3_1_1, Version::V5];

fn numbers(range: std::ops::RangeInclusive<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[test]
fn a_link_is_made_with_its_session_its_will_and_its_subscriptions() {
    for protocol in BOTH {
        let world = World::up(protocol);
        let connect = &world.cloud.connects[0];
        assert_eq!((connect.version, connect.clean_start, connect.keep_alive), (protocol, false, 30));
        assert_eq!(&*connect.client_id, "plant-7");
        let expiry = if protocol == Version::V5 { Some(3600) } else { None };
        assert_eq!(connect.properties.session_expiry_interval, expiry);
        let will = connect.will.as_deref().expect("a will");
        assert_eq!((will.topic.as_str(), &*will.payload), ("status/plant-7", &b"offline"[..]));
        assert_eq!((will.qos, will.retain), (QoS::AtLeastOnce, true));
        assert_eq!(world.delivered("status/plant-7"), ["online"]);
        assert!(world.cloud.delivered[0].retain);
        let subscribe = &world.cloud.subscribes[0];
        assert!(subscribe.packet_id.as_u16() >= 65_000);
        let (filter, options) = &subscribe.filters[0];
        assert_eq!(filter.as_str(), "down/#");
        assert!(options.no_local && options.retain_as_published);
        assert_eq!(options.retain_handling, RetainHandling::SendIfNew);
        assert_eq!(world.disk.buffers, [(SPOOL, "cloud".into())]);
    }
}

#[test]
fn a_clean_end_says_offline_and_records_what_is_only_in_memory() {
    let mut world = World::up(Version::V5);
    world.to_cloud.clear();
    world.offer(world.message("up/a", "1", QoS::AtLeastOnce), Some(1));
    assert!(world.disk.entries.is_empty(), "it may still be acknowledged in time");
    world.visit(|bridge, now, out| {
        bridge.handle_shutdown(now, out);
        let sends: Vec<_> = out.sends.drain(..).collect();
        let [.., Packet::Publish(status), Packet::Disconnect(disconnect)] = &sends[..] else {
            panic!("{sends:?}")
        };
        assert_eq!((&*status.payload, status.retain), (&b"offline"[..], true));
        assert_eq!(disconnect.reason, ReasonCode::Success);
        assert!(out.disconnect);
    });
    assert_eq!(world.bridge.status().state, LinkState::Closed);
    assert_eq!(world.disk.entries.len(), 1);
    assert!(world.released.contains(&Hold(1)));
    assert_eq!(world.bridge.next_deadline(), None);
}

#[test]
fn a_healthy_link_writes_nothing_for_qos_1() {
    let mut world = World::up(Version::V5);
    let before = world.disk.written;
    for number in 1..=100 {
        world.offer(world.message("up/a", &number.to_string(), QoS::AtLeastOnce), Some(number));
        world.drain();
        assert!(world.released.contains(&Hold(number)));
    }
    assert_eq!(world.delivered("sites/plant-7/a"), numbers(1..=100));
    assert_eq!(world.disk.written, before);
}

#[test]
fn rules_bound_qos_and_retain() {
    let mut bridge = config(Version::V5);
    bridge.forward = vec![forward("up/#", "{rest}", Some(QoS::AtLeastOnce))];
    let cases = [
        (QoS::AtMostOnce, Retain::Keep, QoS::AtMostOnce, true),
        (QoS::AtLeastOnce, Retain::Keep, QoS::AtLeastOnce, true),
        (QoS::ExactlyOnce, Retain::Clear, QoS::AtLeastOnce, false),
    ];
    for (published, retain, sent, kept) in cases {
        bridge.forward[0].retain = retain;
        let mut world = World::new(bridge.clone());
        world.drain();
        let mut deletion = world.message("up/a", "", published);
        deletion.retain = true;
        world.offer(deletion, None);
        world.drain();
        let last = world.cloud.delivered.last().expect("delivered");
        assert_eq!((last.qos, last.retain, last.payload.len()), (sent, kept, 0));
    }
}

#[test]
fn what_came_from_a_cloud_never_goes_back_to_it() {
    let mut world = World::up(Version::V3_1_1);
    for (origin, sent) in [(INDEX, 0), (INDEX + 1, 1)] {
        let mut message = world.message("up/a", "x", QoS::AtLeastOnce);
        message.origin = Origin::Bridge(origin);
        world.offer(message, Some(u64::from(origin)));
        world.drain();
        assert_eq!(world.delivered("sites/plant-7/a").len(), sent);
        assert!(world.released.contains(&Hold(u64::from(origin))));
    }
}

#[test]
fn qos_0_is_sent_now_or_counted() {
    let mut world = World::up(Version::V5);
    world.offer(world.message("up/a", "1", QoS::AtMostOnce), None);
    world.drain();
    world.cut();
    world.offer(world.message("up/a", "2", QoS::AtMostOnce), None);
    world.run(Duration::from_secs(120));
    assert_eq!(world.delivered("sites/plant-7/a"), ["1"]);
    assert_eq!(world.bridge.status().losses.at_most_once, 1);
}

#[test]
fn an_outage_and_a_restart_keep_a_backlog_larger_than_memory_in_order() {
    let mut world = World::up(Version::V5);
    world.reachable = false;
    world.cut();
    for number in 1..=3000_u64 {
        let qos = if number % 2 == 0 { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
        world.offer(world.message("up/a", &number.to_string(), qos), Some(number));
    }
    world.advance(Duration::from_secs(3600));
    for number in 1..=3000 {
        assert!(world.released.contains(&Hold(number)), "{number}: on disk is safe");
    }
    assert_eq!(world.bridge.status().queued_messages, 3000);
    world.restart();
    assert_eq!(world.bridge.status().queued_messages, 3000);
    world.reachable = true;
    world.run(Duration::from_secs(120));
    assert_eq!(world.delivered("sites/plant-7/a"), numbers(1..=3000));
    assert!(world.disk.entries.is_empty() && world.disk.inflight.is_empty());
    assert_eq!(world.bridge.status().forwarded, 3000);
}

#[test]
fn a_kept_session_is_resumed_with_the_same_identifiers_and_dup() {
    for protocol in BOTH {
        let mut world = World::up(protocol);
        for number in 1..=5 {
            world.offer(world.message("up/a", &number.to_string(), QoS::AtLeastOnce), None);
        }
        let sent: Vec<_> = world.to_cloud.iter().cloned().collect();
        assert_eq!(sent.len(), 5);
        world.cut();
        world.advance(Duration::from_secs(2));
        world.step_cloud();
        world.step_bridge();
        let again: Vec<_> = world.to_cloud.iter().filter(|packet| is_forwarded(packet)).cloned().collect();
        for (first, second) in sent.iter().zip(&again) {
            let (Packet::Publish(first), Packet::Publish(second)) = (first, second) else {
                panic!("publishes")
            };
            assert_eq!(first.packet_id, second.packet_id);
            assert!(!first.dup && second.dup);
            assert_eq!(first.payload, second.payload);
        }
        assert_eq!(again.len(), 5);
        world.drain();
        assert_eq!(world.delivered("sites/plant-7/a"), numbers(1..=5));
        assert_eq!(world.cloud.subscribes.len(), 1, "they stand in the session");
        assert_eq!(world.bridge.status().duplicates_possible, 0);
    }
}

fn is_forwarded(packet: &Packet) -> bool {
    matches!(packet, Packet::Publish(publish) if publish.packet_id.is_some())
}

#[test]
fn a_lost_session_is_counted_and_everything_is_sent_anew() {
    let mut world = World::up(Version::V5);
    for number in 1..=5 {
        world.offer(world.message("up/a", &number.to_string(), QoS::AtLeastOnce), None);
    }
    while world.step_cloud() {}
    world.cloud.lose_session();
    world.cut();
    world.run(Duration::from_secs(60));
    assert_eq!(world.bridge.status().duplicates_possible, 5);
    assert_eq!(world.delivered("sites/plant-7/a").len(), 10);
    assert_eq!(world.cloud.subscribes.len(), 2);
    assert_eq!(world.delivered("status/plant-7"), ["online", "online"]);
}

#[test]
fn the_window_follows_the_servers_receive_maximum_down() {
    let mut world = World::up(Version::V5);
    for number in 1..=40 {
        world.offer(world.message("up/a", &number.to_string(), QoS::AtLeastOnce), None);
    }
    assert_eq!(world.on_wire_max, 16);
    world.cloud.properties.receive_maximum = Some(3);
    world.cut();
    world.on_wire_max = 0;
    world.run(Duration::from_secs(60));
    assert_eq!(world.on_wire_max, 3);
    assert_eq!(world.delivered("sites/plant-7/a"), numbers(1..=40));
}

#[test]
fn a_server_that_cannot_say_its_receive_maximum_gets_few_at_once() {
    let mut bridge = config(Version::V3_1_1);
    bridge.inflight = 128;
    let mut world = World::new(bridge);
    world.drain();
    for number in 1..=100 {
        world.offer(world.message("up/a", &number.to_string(), QoS::ExactlyOnce), None);
    }
    assert_eq!(world.on_wire_max, 20);
    world.drain();
    assert_eq!((world.on_wire_max, world.delivered("sites/plant-7/a")), (20, numbers(1..=100)));
}

#[test]
fn what_the_cloud_cannot_take_is_counted_and_holds_nothing_up() {
    let mut world = World::new(config(Version::V5));
    world.cloud.properties.maximum_packet_size = Some(100);
    world.cloud.properties.retain_available = Some(false);
    world.drain();
    for (number, bytes) in [(1, 10), (2, 200), (3, 10)] {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let mut message = world.message("up/a", &format!("{number}{}", "x".repeat(bytes)), qos);
            message.retain = true;
            world.offer(message, Some(number));
        }
    }
    world.drain();
    let status = world.bridge.status();
    assert_eq!((status.losses.too_large, status.dead.messages), (1, 2), "QoS 0 is not kept");
    assert_eq!((status.queued_messages, status.inflight, status.state), (0, 0, LinkState::Up));
    assert_eq!(world.delivered("sites/plant-7/a").len(), 6);
    assert!(world.cloud.delivered.iter().all(|publish| !publish.retain));
    assert!(world.released.contains(&Hold(2)));
}

#[test]
fn a_server_of_lower_qos_gets_what_was_stored_for_a_higher_one() {
    for maximum_qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        let mut world = World::new(config(Version::V5));
        world.cloud.properties.maximum_qos = Some(maximum_qos);
        for number in 1..=50 {
            let qos = if number % 2 == 0 { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
            world.offer(world.message("up/a", &number.to_string(), qos), None);
        }
        world.drain();
        assert_eq!(world.delivered("sites/plant-7/a"), numbers(1..=50));
        let status = world.bridge.status();
        assert_eq!((status.queued_messages, status.inflight, status.forwarded), (0, 0, 50));
        assert!(world.disk.entries.is_empty() && world.disk.inflight.is_empty());
    }
}

#[test]
fn reject_says_how_much_room_is_left_and_keep_free_takes_from_it() {
    let mut bridge = config(Version::V5);
    bridge.buffer.size_bytes = 1000;
    bridge.buffer.keep_free_bytes = 5000;
    bridge.forward[0].when_full = WhenFull::Reject;
    let mut world = World::new(bridge.clone());
    world.reachable = false;
    world.cut();
    assert_eq!(world.bridge.room_bytes(0), Some(1000));
    assert_eq!(world.bridge.room_bytes(1), None, "no such rule");
    world.offer(world.message("up/a", &"x".repeat(596), QoS::AtLeastOnce), Some(1));
    assert_eq!(world.bridge.room_bytes(0), Some(400));
    world.bridge.handle_disk_free(5100);
    assert_eq!(world.bridge.room_bytes(0), Some(100));
    world.bridge.handle_disk_free(4000);
    assert_eq!(world.bridge.room_bytes(0), Some(0));
    world.offer(world.message("up/a", "y", QoS::AtLeastOnce), Some(2));
    assert_eq!(world.bridge.status().losses.rejected, 1);
    world.bridge.handle_disk_free(1 << 30);
    assert_eq!(world.bridge.room_bytes(0), Some(400));
    bridge.forward[0].when_full = WhenFull::DropOldest;
    assert_eq!(World::new(bridge).bridge.room_bytes(0), None);
}

#[test]
fn a_full_disk_costs_the_oldest_and_an_oversized_message_costs_only_itself() {
    let mut bridge = config(Version::V5);
    bridge.buffer.size_bytes = 1000;
    bridge.buffer.keep_free_bytes = 5000;
    let mut world = World::new(bridge);
    world.reachable = false;
    world.cut();
    for number in 1..=5 {
        world.offer(world.message("up/a", &number.to_string(), QoS::AtLeastOnce), Some(number));
    }
    world.offer(world.message("up/a", &"x".repeat(1000), QoS::AtLeastOnce), Some(6));
    assert_eq!(world.bridge.status().losses.too_large, 1);
    world.bridge.handle_disk_free(4000);
    for number in 7..=8 {
        world.offer(world.message("up/a", &number.to_string(), QoS::AtLeastOnce), Some(number));
    }
    assert_eq!(world.bridge.status().losses.full, 2);
    world.reachable = true;
    world.run(Duration::from_secs(120));
    assert_eq!(world.delivered("sites/plant-7/a"), ["3", "4", "5", "7", "8"]);
    assert_eq!(world.released.len(), 8);
}

#[test]
fn age_and_expiry_end_what_waits() {
    let mut bridge = config(Version::V5);
    bridge.buffer.age = Duration::from_secs(1000);
    let mut world = World::new(bridge);
    world.reachable = false;
    world.cut();
    for (payload, expiry_secs) in [("old", None), ("expired", Some(100)), ("live", Some(5000))] {
        if payload == "live" {
            world.advance(Duration::from_secs(500));
        }
        let mut message = world.message("up/a", payload, QoS::AtLeastOnce);
        message.expiry_interval = expiry_secs.map(Duration::from_secs);
        world.offer(message, None);
    }
    world.advance(Duration::from_secs(600));
    world.reachable = true;
    world.run(Duration::from_secs(200));
    assert_eq!(world.delivered("sites/plant-7/a"), ["live"]);
    let left = world.cloud.delivered.last().and_then(|publish| publish.expiry_interval).expect("an interval");
    assert!((4200..=4400).contains(&left), "{left}");
    let losses = world.bridge.status().losses;
    assert_eq!(losses.aged + losses.expired, 2);
}

#[test]
fn refusals_are_named_counted_and_backed_off_from() {
    let mut world = World::new(config(Version::V5));
    world.cloud.connack = Some(ReasonCode::NotAuthorized);
    world.drain();
    let status = world.bridge.status();
    assert!(matches!(status.last_error, Some(LinkFault::Refused(ReasonCode::NotAuthorized))));
    assert_eq!(status.state, LinkState::Down);
    world.run(Duration::from_secs(600));
    let tries = world.cloud.connects.len();
    assert!((10..=60).contains(&tries), "{tries} tries in ten minutes");
    world.cloud.connack = None;
    world.run(Duration::from_secs(60));
    assert_eq!(world.bridge.status().state, LinkState::Up);
    assert!(world.bridge.status().last_error.is_none());
    world.cloud.refusals.insert("sites/plant-7/bad".into(), ReasonCode::TopicNameInvalid);
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        world.offer(world.message("up/bad", "x", qos), None);
    }
    world.drain();
    let status = world.bridge.status();
    assert_eq!((status.dead.messages, status.queued_messages, status.state), (2, 0, LinkState::Up));
}

#[test]
fn an_exceeded_quota_keeps_the_message_for_later() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut world = World::up(Version::V5);
        world.cloud.refusals.insert("sites/plant-7/a".into(), ReasonCode::QuotaExceeded);
        world.offer(world.message("up/a", "1", qos), None);
        world.drain();
        assert!(matches!(world.faults[..], [LinkFault::QuotaExceeded]));
        assert!(matches!(world.bridge.status().last_error, Some(LinkFault::QuotaExceeded)));
        world.cloud.refusals.clear();
        world.run(Duration::from_secs(60));
        assert_eq!(world.delivered("sites/plant-7/a"), ["1"]);
        assert_eq!(world.bridge.status().queued_messages, 0);
    }
}

#[test]
fn a_silent_server_is_left() {
    let silent = |state: fn(&mut World), fault: fn(&LinkFault) -> bool, within: u64| {
        let mut world = World::new(config(Version::V5));
        state(&mut world);
        let begun = world.now.instant;
        while world.bridge.status().last_error.is_none() {
            world.run(Duration::from_secs(1));
            assert!(world.now.instant.since(begun) <= Duration::from_secs(within));
        }
        let why = world.bridge.status().last_error.expect("a reason");
        assert!(fault(&why), "{why}");
    };
    silent(|world| world.cloud.mute = true, |why| matches!(why, LinkFault::NoConnack), 11);
    silent(
        |world| {
            world.step_cloud();
            world.cloud.mute = true;
        },
        |why| matches!(why, LinkFault::NoSuback),
        11,
    );
    silent(
        |world| {
            world.drain();
            world.cloud.mute = true;
        },
        |why| matches!(why, LinkFault::NoPingresp),
        39,
    );
    silent(
        |world| {
            world.settings.bridge.keep_alive = Duration::ZERO;
            world.restart();
            world.drain();
            world.cloud.mute = true;
            world.offer(world.message("up/a", "1", QoS::AtLeastOnce), None);
        },
        |why| matches!(why, LinkFault::NoAcknowledgement),
        31,
    );
}

#[test]
fn the_servers_keep_alive_counts() {
    let mut world = World::new(config(Version::V5));
    world.cloud.properties.server_keep_alive = Some(8);
    world.drain();
    world.advance(Duration::from_secs(6));
    assert!(world.to_cloud.contains(&Packet::Pingreq));
}

#[test]
fn refused_subscriptions_do_not_stop_the_link() {
    let mut world = World::new(config(Version::V3_1_1));
    world.cloud.suback = Some(ReasonCode::UnspecifiedError);
    world.drain();
    let status = world.bridge.status();
    assert_eq!((status.state, status.filters_refused), (LinkState::Up, 1));
    world.cloud.suback = None;
    world.cut();
    world.run(Duration::from_secs(10));
    let status = world.bridge.status();
    assert_eq!((status.state, status.filters_refused, world.cloud.subscribes.len()), (LinkState::Up, 0, 2));
}

/// For as long as the server closes for it, a filter costs one connection an hour; then it stands by itself.
#[test]
fn a_filter_that_is_left_out_is_tried_again_every_hour() {
    let mut bridge = config(Version::V3_1_1);
    bridge.receive.push(receive("no/#", "{topic}"));
    let mut world = World::new(bridge);
    world.cloud.closes_for = TopicFilter::new("no/#").ok();
    let told = |world: &World| world.bridge.status().degraded.iter().any(|line| line.contains("no/#"));
    while !told(&world) {
        world.run(Duration::from_secs(10));
        assert!(world.cloud.connects.len() < 20);
    }
    let connects = world.cloud.connects.len();
    world.offer(world.message("up/a", "1", QoS::ExactlyOnce), None);
    world.run(Duration::from_secs(3000));
    assert_eq!((world.cloud.connects.len(), world.bridge.status().filters_refused), (connects, 1));
    for hour in 1..=3 {
        world.run(Duration::from_secs(3600));
        assert_eq!(world.cloud.connects.len(), connects + hour);
        assert!(told(&world));
    }
    world.cloud.closes_for = None;
    world.run(Duration::from_secs(3600));
    let status = world.bridge.status();
    assert_eq!((world.cloud.connects.len(), status.filters_refused), (connects + 3, 0));
    assert!(status.degraded.is_empty(), "{:?}", status.degraded);
    assert_eq!(world.delivered("sites/plant-7/a"), ["1"]);
}

#[test]
fn many_filters_go_in_several_subscribes() {
    let mut bridge = config(Version::V5);
    bridge.receive = (0..20).map(|n| receive(&format!("down/{n}/#"), "{topic}")).collect();
    let mut world = World::new(bridge);
    world.drain();
    let counts: Vec<_> = world.cloud.subscribes.iter().map(|subscribe| subscribe.filters.len()).collect();
    assert_eq!(counts, [8, 8, 4]);
    assert_eq!(world.bridge.status().state, LinkState::Up);
}

#[test]
fn unknown_acknowledgements_are_answered_or_ignored() {
    let id = PacketId::new(99).expect("not zero");
    for (protocol, reason) in
        [(Version::V3_1_1, ReasonCode::Success), (Version::V5, ReasonCode::PacketIdentifierNotFound)]
    {
        let mut world = World::up(protocol);
        let success = Ack::success(id);
        let answer = Ack::with_reason(id, reason);
        let cases = [
            (Packet::Pubrec(success.clone()), vec![Packet::Pubrel(answer.clone())]),
            (Packet::Pubrel(success.clone()), vec![Packet::Pubcomp(answer)]),
            (Packet::Puback(success.clone()), vec![]),
            (Packet::Pubcomp(success), vec![]),
        ];
        for (packet, answers) in cases {
            world.to_bridge.push_back(packet);
            world.step_bridge();
            assert_eq!(world.to_cloud.drain(..).collect::<Vec<_>>(), answers);
        }
        assert_eq!(world.bridge.status().state, LinkState::Up);
    }
}

#[test]
fn commands_arrive_renamed_with_all_that_they_carry() {
    let mut world = World::up(Version::V5);
    let Packet::Publish(mut publish) = world.cloud.publish("down/meter/set", "21.5", QoS::ExactlyOnce) else {
        panic!("a publish")
    };
    let properties = MessageProperties {
        response_topic: Some(topic("down/answers")),
        user_properties: vec![("k".into(), "v".into())],
        ..MessageProperties::default()
    };
    publish.retain = true;
    publish.expiry_interval = Some(60);
    publish.properties = Some(Box::new(properties.clone()));
    world.to_bridge.push_back(Packet::Publish(publish));
    world.drain();
    let message = &world.local[0];
    assert_eq!((message.topic.as_str(), &*message.payload), ("meter/set", &b"21.5"[..]));
    assert_eq!((message.qos, message.retain), (QoS::ExactlyOnce, true));
    assert_eq!(message.properties.as_deref(), Some(&properties));
    assert_eq!(message.expiry_interval, Some(Duration::from_secs(60)));
    assert_eq!(message.origin, Origin::Bridge(INDEX));
    assert_eq!((world.local.len(), world.cloud.owes()), (1, 0));
    assert!(world.disk.inbound.is_empty());
}

#[test]
fn commands_that_have_no_place_are_acknowledged_and_counted() {
    let mut world = World::up(Version::V5);
    for (name, qos) in [("down/$SYS/x", QoS::AtLeastOnce), ("elsewhere", QoS::ExactlyOnce)] {
        let packet = world.cloud.publish(name, "x", qos);
        world.to_bridge.push_back(packet);
        world.drain();
    }
    assert_eq!((world.local.len(), world.cloud.owes()), (0, 0));
    assert_eq!(world.bridge.status().losses.received_unroutable, 2);
    world.refuse = Some(topic("full"));
    let packet = world.cloud.publish("down/full", "x", QoS::AtLeastOnce);
    world.to_bridge.push_back(packet);
    world.drain();
    assert_eq!((world.local.len(), world.bridge.status().losses.received_refused), (0, 1));
}

#[test]
fn every_receive_rule_that_matches_applies_and_one_acknowledgement_leaves() {
    let mut bridge = config(Version::V5);
    bridge.receive = vec![receive("down/#", "one/{rest}"), receive("down/+", "two/{1}")];
    let mut world = World::new(bridge);
    world.drain();
    let packet = world.cloud.publish("down/x", "1", QoS::AtLeastOnce);
    world.to_bridge.push_back(packet);
    world.drain();
    let topics: Vec<_> = world.local.iter().map(|message| message.topic.as_str()).collect();
    assert_eq!((topics, world.cloud.owes()), (vec!["one/x", "two/x"], 0));
}

#[test]
fn a_stored_message_whose_rule_is_gone_finds_another_or_is_kept() {
    let mut world = World::up(Version::V5);
    world.reachable = false;
    world.cut();
    world.offer(world.message("up/a", "1", QoS::AtLeastOnce), Some(1));
    world.offer(world.message("up/b", "2", QoS::ExactlyOnce), Some(2));
    world.advance(Duration::from_secs(1));
    world.settings.bridge.forward = vec![forward("up/b", "new/{topic}", None)];
    world.restart();
    world.reachable = true;
    world.run(Duration::from_secs(120));
    assert_eq!(world.delivered("new/up/b"), ["2"]);
    let status = world.bridge.status();
    assert_eq!((status.losses.total(), status.dead.messages, status.queued_messages), (0, 1, 0));
}

#[test]
fn a_hand_that_cannot_write_bounds_what_waits_for_it() {
    let mut world = World::up(Version::V5);
    for number in 0..5000 {
        world.offer(world.message("up/a", &number.to_string(), QoS::AtMostOnce), None);
    }
    assert_eq!(world.to_cloud.len(), 1000);
    assert_eq!(world.bridge.status().losses.at_most_once, 4000);
    world.advance(Duration::from_secs(600));
    assert_eq!(world.bridge.status().state, LinkState::Up, "a slow link is the hand's care");
    world.drain();
    world.offer(world.message("up/a", "last", QoS::AtMostOnce), None);
    world.drain();
    assert_eq!(world.delivered("sites/plant-7/a").len(), 1001);
}

#[test]
fn what_was_in_flight_at_a_restart_does_not_age_away() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut bridge = config(Version::V5);
        bridge.buffer.age = Duration::from_secs(1000);
        let mut world = World::new(bridge);
        world.drain();
        for number in 1..=4 {
            world.offer(world.message("up/a", &number.to_string(), qos), None);
        }
        // The second is acknowledged out of turn; the others are with the server or not.
        while world.step_cloud() {}
        world.to_bridge.swap(0, 1);
        world.step_bridge();
        world.reachable = false;
        world.cut();
        world.restart();
        world.advance(Duration::from_secs(2000));
        world.reachable = true;
        world.run(Duration::from_secs(200));
        let status = world.bridge.status();
        assert_eq!((status.queued_messages, status.inflight), (0, 0), "{status:?}");
    }
}

#[test]
fn ageing_after_a_lost_session_counts_each_message_once() {
    let mut bridge = config(Version::V5);
    bridge.buffer.age = Duration::from_secs(1000);
    let mut world = World::new(bridge);
    world.drain();
    for number in 1..=4 {
        world.offer(world.message("up/a", &number.to_string(), QoS::ExactlyOnce), None);
    }
    while world.step_cloud() {}
    world.to_bridge.swap(0, 1);
    world.step_bridge();
    world.cloud.lose_session();
    world.cloud.mute = true;
    world.cut();
    world.cloud.connack = Some(ReasonCode::ServerBusy);
    world.cloud.mute = false;
    world.run(Duration::from_secs(10));
    world.cloud.connack = None;
    world.cloud.suback = None;
    world.run(Duration::from_secs(3000));
    let status = world.bridge.status();
    assert_eq!((status.queued_messages, status.inflight), (0, 0), "{status:?}");
}

#[test]
fn what_waits_ages_by_the_monotonic_clock_and_is_corrected_when_the_other_is_set() {
    let marked = r#"{"time":"1970-01-01T00:00:05.000Z","clock":"unsynchronised","values":{},"quality":{}}"#;
    let corrected = r#"{"time":"2026-11-21T10:00:05.000Z","values":{},"quality":{}}"#;
    let mut bridge = config(Version::V5);
    bridge.buffer.age = Duration::from_secs(3600);
    let mut world = World::new(bridge);
    world.drain();
    world.cut();
    world.now.instant = Instant::BOOT + Duration::from_secs(5);
    world.now.wall = Timestamp::from_millis(5_000).with_doubt(Doubt::Unset);
    let reading = Message { origin: Origin::Device(0), ..world.message("up/a", marked, QoS::AtLeastOnce) };
    world.offer(reading, None);
    // An earlier boot left one, an hour ago: nobody knows before the clock is set.
    let earlier = Now { instant: Instant::BOOT, wall: Timestamp::from_millis(1_795_251_600_000) };
    let aged = Message { arrived: earlier, ..world.message("up/b", "aged", QoS::AtLeastOnce) };
    world.offer(aged, None);
    assert_eq!(world.bridge.status().queued_messages, 2);
    world.now.instant = Instant::BOOT + Duration::from_secs(10);
    world.now.wall = Timestamp::from_millis(1_795_255_210_000);
    world.visit(Bridge::handle_clock_set);
    world.drain();
    assert_eq!(world.delivered("sites/plant-7/a"), [corrected]);
    let status = world.bridge.status();
    assert_eq!((status.losses.aged, status.queued_messages), (1, 0));
    // Set back by half a year: nothing lives longer, nor shorter.
    world.cut();
    world.offer(world.message("up/c", "1", QoS::AtLeastOnce), None);
    world.now.wall = Timestamp::from_millis(1_780_000_000_000);
    world.visit(Bridge::handle_clock_set);
    assert_eq!(world.bridge.status().losses.aged, 1);
}

/// The cloud has a new session, and the record of that is lost with the process: what the old session left open means
/// nothing in the new one.
#[test]
fn a_crash_does_not_bring_back_identifiers_of_a_session_that_is_gone() {
    for protocol in BOTH {
        let mut world = World::up(protocol);
        let packet = world.cloud.publish("down/x", "old", QoS::ExactlyOnce);
        world.to_bridge.push_back(packet);
        world.step_bridge();
        world.commit(usize::MAX);
        assert_eq!(world.disk.inbound.len(), 1);
        world.cut();
        world.cloud.lose_session();
        world.fast_disk = false;
        world.advance(Duration::from_secs(5));
        while world.step_cloud() || world.step_bridge() {}
        assert_eq!(world.cloud.subscribes.len(), 1, "not before the old ones are off the disk");
        world.fast_disk = true;
        world.crash();
        world.run(Duration::from_secs(5));
        let packet = world.cloud.publish("down/x", "new", QoS::ExactlyOnce);
        world.to_bridge.push_back(packet);
        world.drain();
        let payloads: Vec<_> = world.local.iter().map(|message| message.payload.clone()).collect();
        assert_eq!(payloads, ["old", "new"], "{protocol:?}");
        assert_eq!((world.cloud.owes(), world.disk.inbound.len()), (0, 0));
    }
}

#[test]
fn a_crash_keeps_identifiers_of_the_session_that_goes_on() {
    for protocol in BOTH {
        let mut world = World::up(protocol);
        let packet = world.cloud.publish("down/x", "1", QoS::ExactlyOnce);
        world.to_bridge.push_back(packet);
        world.step_bridge();
        world.commit(usize::MAX);
        world.crash();
        world.run(Duration::from_secs(5));
        assert_eq!((world.local.len(), world.cloud.owes()), (1, 0), "{protocol:?}");
    }
}
