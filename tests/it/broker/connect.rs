//! Who comes in, on what terms, and how connections end.

use tidegate::base::address::Address;
use tidegate::base::time::Duration;
use tidegate::broker::effect::{Effects, Outgoing};
use tidegate::broker::refusal::NotAdmitted;
use tidegate::broker::violation::Fault;
use tidegate::broker::{Broker, CONNECT_WAIT, Peer};
use tidegate::config::model::Anonymous;
use tidegate::mqtt::packet::connect::{Connack, Connect};
use tidegate::mqtt::packet::control::Auth;
use tidegate::mqtt::packet::{Packet, Version};
use tidegate::mqtt::reason::ReasonCode;

use super::world::{World, packet, puback, publish, settings, v4, v4_durable, v5, v5_durable};

#[test]
fn a_client_is_let_in_or_told_why_not() {
    let user = |connect: Connect| Connect { username: Some("ann".into()), ..connect };
    let v3_1 = Connect { version: Version::V3_1, ..v4("") };
    let mut with_method = v5("a");
    with_method.properties.authentication_method = Some("SCRAM".into());
    let (always, never, loopback) = (Anonymous::Always, Anonymous::Never, Anonymous::Loopback);
    let cases = [
        (always, false, v4("a"), "CONNACK 00"),
        (always, false, v5("a"), "CONNACK 00"),
        (always, false, user(v5("a")), "CONNACK 00"),
        (never, true, v4("a"), "CONNACK 87"),
        (never, true, user(v4("a")), "CONNACK 86"),
        (loopback, true, v5("a"), "CONNACK 00"),
        (loopback, false, v5("a"), "CONNACK 87"),
        (loopback, false, user(v5("a")), "CONNACK 86"),
        (always, false, v4(""), "CONNACK 00"),
        (always, false, v4_durable(""), "CONNACK 85"),
        (always, false, v5(""), "CONNACK 00"),
        (always, false, v5_durable(""), "CONNACK 00"),
        (always, false, v3_1, "CONNACK 85"),
        (always, false, with_method, "CONNACK 8c"),
    ];
    for (anonymous, loopback, connect, wanted) in cases {
        let mut world = World::with(tidegate::broker::Settings { anonymous, ..settings() });
        let key = world.broker.handle_open(Peer { loopback, ..Peer::default() }, world.now);
        let text = format!("{anonymous:?} {connect:?}");
        world.put(key, Packet::Connect(Box::new(connect)));
        assert_eq!(world.take(key), [wanted], "{text}");
        assert_eq!(world.closed.contains(&key), wanted != "CONNACK 00", "{text}");
        // Counted and named once, by the cause that it was told.
        let refused = world.broker.stats().refused;
        let counted = NotAdmitted::ALL.into_iter().filter(|why| refused.of(*why) > 0);
        let told: Vec<_> = counted.map(|why| format!("CONNACK {:02x}", why.reason().byte())).collect();
        assert_eq!(told.first().map_or("CONNACK 00", String::as_str), wanted, "{text}");
        assert_eq!(
            (told.len(), world.out.refused.len() == told.len()),
            (usize::from(wanted != "CONNACK 00"), true)
        );
    }
}

/// [MQTT-3.1.2-24] is for every packet, the first one too.
#[test]
fn a_client_that_does_not_take_the_answer_to_its_connect_does_not_get_it() {
    for (packet_bytes_max, wanted) in [(4, None), (5, Some("95")), (15, Some("95")), (16, Some("00"))] {
        let mut connect = v5("a");
        connect.properties.maximum_packet_size = Some(packet_bytes_max);
        let mut world = World::new();
        let (key, sent) = world.connect(connect);
        let wanted_packets: Vec<String> = wanted.iter().map(|reason| format!("CONNACK {reason}")).collect();
        assert_eq!(sent, wanted_packets, "{packet_bytes_max}");
        assert_eq!(world.closed.contains(&key), wanted != Some("00"), "{packet_bytes_max}");
    }
}

#[test]
fn a_connection_that_says_nothing_is_ended_and_counted() {
    let mut world = World::new();
    let address = Peer { address: 7, ..Peer::default() };
    let key = world.broker.handle_open(address, world.now);
    let a_moment = Duration::from_millis(1);
    world.advance(CONNECT_WAIT.saturating_sub(a_moment));
    assert!(!world.closed.contains(&key));
    world.advance(a_moment);
    assert!(world.closed.contains(&key) && world.take(key).is_empty());
    assert_eq!(world.out.refused, [(Address(7), NotAdmitted::Silent)]);
    assert_eq!(world.broker.stats().refused.of(NotAdmitted::Silent), 1);
}

#[test]
fn a_certificate_vouches_for_its_user_whatever_connect_says() {
    for anonymous in [Anonymous::Never, Anonymous::Loopback, Anonymous::Always] {
        for (logins, connect) in
            [(false, v5("a")), (true, v5("a")), (true, Connect { username: Some("other".into()), ..v5("a") })]
        {
            let mut world = World::with(tidegate::broker::Settings { anonymous, logins, ..settings() });
            let peer = Peer { certificate_user: Some("pump-7".into()), ..Peer::default() };
            let key = world.broker.handle_open(peer, world.now);
            world.put(key, Packet::Connect(Box::new(connect)));
            assert_eq!(world.take(key), ["CONNACK 00"], "{anonymous:?} {logins}");
        }
    }
}

fn connack_of(connect: Connect) -> Connack {
    let mut settings = settings();
    settings.limits.keep_alive = Duration::from_secs(100);
    settings.limits.session_expiry = Duration::from_secs(1000);
    let mut world = World::with(settings.clone());
    let mut broker = Broker::new(settings);
    let mut out = Effects::default();
    let key = broker.handle_open(Peer { loopback: true, ..Peer::default() }, world.now);
    broker.handle_packet(key, Packet::Connect(Box::new(connect)), world.now, &mut out).unwrap();
    world.finish();
    let Some((_, Outgoing::Packet(Packet::Connack(connack)))) = out.sends.pop() else { panic!("no CONNACK") };
    *connack
}

#[test]
fn terms_that_differ_from_what_was_asked_are_announced() {
    // Keep alive asked, session expiry asked; keep alive announced, session expiry announced.
    let cases = [
        (0, None, Some(100), None),
        (60, Some(0), None, None),
        (100, Some(1000), None, None),
        (101, Some(1001), Some(100), Some(1000)),
        (65_535, Some(u32::MAX), Some(100), Some(1000)),
    ];
    for (keep_alive, expiry, server_keep_alive, server_expiry) in cases {
        let mut connect = Connect { keep_alive, ..v5("a") };
        connect.properties.session_expiry_interval = expiry;
        let properties = connack_of(connect).properties;
        assert_eq!(properties.server_keep_alive, server_keep_alive, "{keep_alive}");
        assert_eq!(properties.session_expiry_interval, server_expiry, "{expiry:?}");
        assert_eq!(properties.maximum_packet_size, Some(1024 * 1024));
        assert_eq!(properties.assigned_client_id, None);
        assert_eq!(properties.maximum_qos, None, "QoS 2 is supported");
    }
    assert!(connack_of(v5("")).properties.assigned_client_id.is_some_and(|id| id.starts_with("auto-")));
    assert_eq!(connack_of(v4("a")).properties, tidegate::mqtt::packet::connect::ConnackProperties::default());
}

#[test]
fn too_many_connections_are_refused_but_a_take_over_is_not() {
    let mut settings = settings();
    settings.limits.connections = 1;
    let mut world = World::with(settings);
    world.join(v5("a"));
    assert_eq!(world.connect(v5("b")).1, ["CONNACK 89"]);
    assert_eq!(world.connect(v5("a")).1, ["CONNACK 00"]);
}

#[test]
fn violations_end_the_connection_and_5_0_is_told() {
    let auth = Auth {
        reason: ReasonCode::ReAuthenticate,
        authentication_method: None,
        authentication_data: None,
        reason_string: None,
        user_properties: Vec::new(),
    };
    let mut identified = publish("t", "x", 0, 0);
    identified.subscription_identifiers = vec![1];
    let mut nameless = publish("", "x", 0, 0);
    nameless.topic_alias = std::num::NonZeroU16::new(1);
    let mut high_alias = publish("t", "x", 0, 0);
    high_alias.topic_alias = std::num::NonZeroU16::new(33);
    let cases = [
        (Packet::Connect(Box::new(v5("a"))), Fault::SecondConnect, "DISCONNECT 82"),
        (Packet::Pingresp, Fault::ServerPacket, "DISCONNECT 82"),
        (Packet::Auth(auth), Fault::UnexpectedAuth, "DISCONNECT 82"),
        (packet(identified), Fault::SubscriptionIdentifierInPublish, "DISCONNECT 82"),
        (packet(nameless), Fault::TopicUnknown, "DISCONNECT 82"),
        (packet(high_alias), Fault::TopicAliasTooLarge, "DISCONNECT 94"),
        (packet(publish("t", "x", 1, 0)), Fault::PacketIdMissing, "DISCONNECT 82"),
    ];
    for (bad, fault, wanted) in cases {
        for (connect, told) in [(v5("a"), vec![wanted]), (v4("a"), vec![])] {
            let mut world = World::new();
            let key = world.join(connect);
            assert_eq!(world.send(key, bad.clone()).unwrap_err().fault, fault);
            assert_eq!(world.take(key), told);
            assert!(world.closed.contains(&key));
            world.put(key, Packet::Pingreq);
            assert_eq!(world.take(key), [""; 0], "nothing more is processed");
        }
    }
    let mut world = World::new();
    let key = world.open();
    assert_eq!(world.send(key, Packet::Pingreq).unwrap_err().fault, Fault::FirstPacketNotConnect);
    assert_eq!(world.take(key), [""; 0]);
    assert!(world.closed.contains(&key));
}

#[test]
fn what_the_codec_refuses_is_answered_as_the_version_allows() {
    let malformed = ReasonCode::MalformedPacket;
    let cases = [
        (None, ReasonCode::UnsupportedProtocolVersion, vec!["CONNACK 84"]),
        (None, malformed, vec![]),
        (Some(v4("a")), malformed, vec![]),
        (Some(v5("a")), malformed, vec!["DISCONNECT 81"]),
        (Some(v5("a")), ReasonCode::PacketTooLarge, vec!["DISCONNECT 95"]),
        // A second CONNECT: 0x84 is CONNACK's alone.
        (Some(v5("a")), ReasonCode::UnsupportedProtocolVersion, vec!["DISCONNECT 82"]),
    ];
    for (connect, reason, wanted) in cases {
        let mut world = World::new();
        let key = match connect {
            Some(connect) => world.join(connect),
            None => world.open(),
        };
        world.broker.handle_malformed(key, reason, world.now, &mut world.out);
        world.finish();
        assert_eq!(world.take(key), wanted);
        assert!(world.closed.contains(&key));
    }
}

#[test]
fn silence_ends_a_connection_after_one_and_a_half_keep_alives() {
    for (connect, told) in [(v5("a"), vec!["DISCONNECT 8d"]), (v4("a"), vec![])] {
        let mut world = World::new();
        let key = world.join(Connect { keep_alive: 10, ..connect });
        world.advance(Duration::from_secs(14));
        world.put(key, Packet::Pingreq);
        assert_eq!(world.take(key), ["PINGRESP"]);
        world.advance(Duration::from_millis(14_999));
        assert!(!world.closed.contains(&key));
        world.advance(Duration::from_millis(1));
        assert!(world.closed.contains(&key));
        assert_eq!(world.take(key), told);
    }
    let mut world = World::new();
    let quiet = world.join(Connect { keep_alive: 0, ..v4("quiet") });
    let open = world.open();
    world.advance(CONNECT_WAIT);
    assert!(world.closed.contains(&open), "CONNECT has to come");
    world.advance(Duration::from_secs(1_000_000));
    assert!(!world.closed.contains(&quiet), "0 turns it off");
    assert_eq!(world.broker.next_deadline(), None, "deadlines end with what they were for");
}

/// Hands stop reading while the disk is behind: what clients say then nobody hears.
#[test]
fn silence_counts_only_while_clients_are_read() {
    let mut world = World::new();
    let key = world.join(Connect { keep_alive: 10, ..v4("a") });
    world.advance(Duration::from_secs(14));
    world.broker.handle_reading(true, world.now);
    let open = world.open();
    world.advance(Duration::from_secs(1000));
    assert!(world.closed.is_empty());
    world.broker.handle_reading(false, world.now);
    world.advance(Duration::from_millis(14_999));
    assert!(world.closed.contains(&open), "CONNECT has to come again");
    assert!(!world.closed.contains(&key));
    world.advance(Duration::from_millis(1));
    assert!(world.closed.contains(&key));
}

/// One that is not read because it reads slowly is there as long as it reads.
#[test]
fn a_client_that_takes_what_it_is_sent_is_not_silent() {
    let mut world = World::new();
    let key = world.join(Connect { keep_alive: 10, ..v5("a") });
    for _ in 0..10 {
        world.advance(Duration::from_secs(14));
        world.broker.handle_progress(key, world.now);
    }
    assert!(!world.closed.contains(&key));
    world.advance(Duration::from_secs(15));
    assert!(world.closed.contains(&key));
}

/// While the disk does not answer, answers that wait for it are bounded, whatever a client asks.
#[test]
fn a_client_may_not_have_more_answers_outstanding_than_any_window_holds() {
    let mut world = World::slow_disk();
    let first = world.join(v5_durable("a"));
    world.durable();
    world.cut(first);
    world.durable();
    // Its CONNACK waits until the session that it gives up is off the disk.
    let (key, sent) = world.connect(v5("a"));
    assert_eq!(sent, [""; 0]);
    let mut asked = 0_usize;
    let violation = loop {
        match world.send(key, Packet::Pingreq) {
            Ok(()) => asked += 1,
            Err(violation) => break violation,
        }
        assert!(asked < 100_000, "nothing stops it");
    };
    assert_eq!(violation.fault, Fault::TooManyUnanswered);
    assert!(asked > 65_535, "no client within its window gets there");
    assert!(world.closed.contains(&key));
}

#[test]
fn shutdown_tells_5_0_and_keeps_sessions_and_what_was_only_in_memory() {
    let mut world = World::new();
    let five = world.join(v5_durable("five"));
    world.subscribe(five, "t", 1);
    let four = world.join(v4("four"));
    world.put(four, packet(publish("t", "x", 1, 1)));
    world.put(
        four,
        packet(tidegate::mqtt::packet::publish::Publish { retain: true, ..publish("r", "x", 0, 0) }),
    );
    assert!(world.disk.entries.is_empty() && world.disk.retained.is_empty(), "both are gathered");
    world.take(five);
    world.take(four);
    world.broker.handle_shutdown(world.now, &mut world.out);
    world.finish();
    assert_eq!(world.take(five), ["DISCONNECT 8b"]);
    assert_eq!(world.take(four), [""; 0]);
    assert!(world.closed.contains(&five) && world.closed.contains(&four));
    assert_eq!(world.disk.entries.len(), 1);
    assert_eq!(world.disk.retained.len(), 1);
    world.crash();
    let (five, sent) = world.connect(v5_durable("five"));
    assert_eq!(sent, ["CONNACK 00 present", "PUBLISH t q1 id=1 dup x"]);
    world.put(five, puback(1));
    world.crash();
    let (_, sent) = world.connect(v5_durable("five"));
    assert_eq!(sent, ["CONNACK 00 present"]);
    assert!(world.disk.inflight.is_empty(), "nothing is left of it");
}
