//! A bridge with a list of servers, each with a session of its own.

use tidegate::base::time::Duration;
use tidegate::bridge::Bridge;
use tidegate::bridge::status::LinkState;
use tidegate::config::model::{self, ForwardOrder, ForwardRule, Priority};
use tidegate::config::uplink::BridgeUrl;
use tidegate::mqtt::packet::connect::ConnackProperties;
use tidegate::mqtt::packet::control::{Disconnect, DisconnectProperties};
use tidegate::mqtt::packet::publish::Publish;
use tidegate::mqtt::packet::{Packet, Version};
use tidegate::mqtt::qos::QoS;
use tidegate::mqtt::reason::ReasonCode;

use super::world::{World, config, forward};

const TOPIC: &str = "sites/plant-7/a";
const STATUS: &str = "status/plant-7";
const LANES: [&str; 3] = ["high", "normal", "live"];
const BOTH: [Version; 2] = [Version::V3_1_1, Version::V5];

fn listed(protocol: Version) -> model::Bridge {
    let mut bridge = config(protocol);
    let url = |host: &str| BridgeUrl { host: host.into(), ..bridge.url.clone() };
    (bridge.fallbacks, bridge.url) = (vec![url("b.test")], url("a.test"));
    bridge
}

fn up(protocol: Version) -> World {
    let mut world = World::new(listed(protocol));
    world.drain();
    assert_eq!((world.bridge.status().state, world.host()), (LinkState::Up, "a.test"));
    world
}

fn offer(world: &mut World, payload: &str) {
    world.offer(world.message("up/a", payload, QoS::ExactlyOnce), None);
}

/// What comes about without a wait.
fn go_on(world: &mut World) {
    for _ in 0..10 {
        world.drain();
        world.advance(Duration::ZERO);
    }
}

/// Three lanes: rules 0, 1 and 2.
fn with_lanes(protocol: Version) -> model::Bridge {
    let rule = |name: &str, priority, order| {
        let (filter, to) = (format!("up/{name}/#"), format!("sites/{{gateway}}/{name}"));
        ForwardRule { priority, order, ..forward(&filter, &to, None) }
    };
    let forward = vec![
        rule("high", Priority::High, ForwardOrder::Topic),
        rule("normal", Priority::Normal, ForwardOrder::Topic),
        rule("live", Priority::Normal, ForwardOrder::LiveFirst),
    ];
    model::Bridge { forward, ..listed(protocol) }
}

/// `numbers` by each rule, one rule after the other.
fn offer_by_all(world: &mut World, numbers: std::ops::RangeInclusive<u32>) {
    for number in numbers {
        for (rule, name) in (0..).zip(LANES) {
            let message = world.message(&format!("up/{name}/x"), &number.to_string(), QoS::ExactlyOnce);
            world.offer_by(rule, message, None);
        }
    }
}

fn delivered_by_all(world: &World) -> [Vec<String>; 3] {
    LANES.map(|name| world.delivered(&format!("sites/plant-7/{name}")))
}

fn numbers(of: std::ops::RangeInclusive<u32>) -> Vec<String> {
    of.map(|number| number.to_string()).collect()
}

/// The server that the bridge is with goes away, another is there.
fn change(world: &mut World, from: &'static str, to: &'static str) {
    world.down = [from].into();
    world.cut();
    world.run(Duration::from_secs(300));
    assert_eq!((world.bridge.status().state, world.host()), (LinkState::Up, to));
}

#[test]
fn a_server_that_is_away_is_passed_over_at_once_and_only_a_whole_round_waits() {
    let mut world = World::new(listed(Version::V5));
    world.down = ["a.test"].into();
    world.cut();
    // No time has passed but that of the first back-off.
    world.run(Duration::from_secs(2));
    assert_eq!((world.bridge.status().state, world.host()), (LinkState::Up, "b.test"));
    assert_eq!(world.bridge.status().server, "mqtt://b.test:1883");
}

/// The first server holds an identifier of a message that went to the second meanwhile: it must not take the next one
/// under it for a repeat.
#[test]
fn an_identifier_that_a_server_still_holds_costs_no_message() {
    for protocol in BOTH {
        let mut world = up(protocol);
        let last = u32::from(world.settings.bridge.inflight);
        for number in 1..=last {
            offer(&mut world, &number.to_string());
        }
        world.commit(usize::MAX);
        while world.step_cloud() {}
        assert_eq!(world.delivered(TOPIC).len(), 16, "all have it, and no PUBREC has come back");
        change(&mut world, "a.test", "b.test");
        let sent_again: Vec<_> = (1..=last).map(|number| number.to_string()).collect();
        assert_eq!(world.delivered(TOPIC), sent_again);
        assert_eq!(world.bridge.status().duplicates_possible, 16);
        change(&mut world, "b.test", "a.test");
        assert_eq!(world.cloud.connects.len(), 2, "the session is still there");
        for number in 101..=200 {
            offer(&mut world, &number.to_string());
            world.drain();
        }
        let new: Vec<_> = (101..=200).map(|number| number.to_string()).collect();
        assert_eq!(world.delivered(TOPIC)[16..], new, "{protocol:?}");
        assert_eq!(
            (world.bridge.status().queued_messages, world.bridge.status().duplicates_possible),
            (0, 16)
        );
    }
}

/// What was not released before the cut is released after it.
#[test]
fn a_cut_while_identifiers_are_released_costs_no_message() {
    for protocol in BOTH {
        for crash in [false, true] {
            let mut world = up(protocol);
            for number in 1..=16 {
                offer(&mut world, &number.to_string());
            }
            world.commit(usize::MAX);
            while world.step_cloud() {}
            change(&mut world, "a.test", "b.test");
            world.down = ["b.test"].into();
            world.cut();
            let releases = |world: &World| {
                world.to_cloud.iter().filter(|packet| matches!(packet, Packet::Pubrel(_))).count()
            };
            while releases(&world) == 0 {
                world.advance(Duration::from_millis(100));
                world.step_cloud();
                world.step_bridge();
            }
            assert_eq!((world.host(), releases(&world)), ("a.test", 64));
            for _ in 0..10 {
                world.step_cloud();
            }
            // What is new in the session has left by then, as far as anybody knows.
            offer(&mut world, "17");
            if crash {
                world.crash();
            } else {
                world.cut();
            }
            world.run(Duration::from_secs(300));
            assert_eq!(world.host(), "a.test");
            for number in 101..=200 {
                offer(&mut world, &number.to_string());
                world.drain();
            }
            let new: Vec<_> = ["17".to_owned()].into_iter().chain(numbers(101..=200)).collect();
            assert_eq!(world.delivered(TOPIC)[16..], new, "{protocol:?} {crash}");
            assert_eq!(world.bridge.status().queued_messages, 0);
        }
    }
}

/// Each lane has identifiers of its own, and each of them may be held.
#[test]
fn identifiers_of_all_lanes_are_released_before_they_are_used_again() {
    for protocol in BOTH {
        let mut world = World::new(with_lanes(protocol));
        world.drain();
        offer_by_all(&mut world, 1..=5);
        world.commit(usize::MAX);
        while world.step_cloud() {}
        assert_eq!(delivered_by_all(&world), [(); 3].map(|()| numbers(1..=5)), "no PUBREC has come back");
        change(&mut world, "a.test", "b.test");
        assert_eq!(delivered_by_all(&world), [(); 3].map(|()| numbers(1..=5)), "all is sent again");
        assert_eq!(world.bridge.status().duplicates_possible, 15);
        change(&mut world, "b.test", "a.test");
        // Once round the identifiers of each lane, of which there are 64.
        for number in 101..=200 {
            offer_by_all(&mut world, number..=number);
            world.drain();
        }
        let all = delivered_by_all(&world).map(|payloads| payloads[5..].to_vec());
        assert_eq!(all, [(); 3].map(|()| numbers(101..=200)), "{protocol:?}");
        assert_eq!(world.bridge.status().queued_messages, 0);
    }
}

#[test]
fn it_waits_for_all_lanes_before_it_returns_and_sends_nothing_more_on_any() {
    for protocol in BOTH {
        let mut world = World::new(with_lanes(protocol));
        world.drain();
        change(&mut world, "a.test", "b.test");
        world.down.clear();
        offer_by_all(&mut world, 1..=20);
        for _ in 0..3 {
            world.visit(|bridge, now, out| bridge.handle_probed(Some(0), now, out));
        }
        assert_eq!((world.host(), world.bridge.status().state), ("b.test", LinkState::Up));
        // What comes meanwhile waits for the other server, and is as new as it was.
        offer_by_all(&mut world, 21..=21);
        world.run(Duration::from_secs(1));
        assert_eq!((world.host(), world.bridge.status().state), ("a.test", LinkState::Up));
        let rest = delivered_by_all(&world);
        let is_replayed = |publish: &Publish| {
            let properties = publish.properties.as_deref();
            properties.is_some_and(|properties| !properties.user_properties.is_empty())
        };
        assert!(!world.cloud.delivered.iter().any(is_replayed));
        assert_eq!(
            rest.each_ref().map(|payloads| payloads.last().cloned()),
            [(); 3].map(|()| Some("21".into()))
        );
        world.meet("b.test");
        let first = delivered_by_all(&world);
        let sent = first.each_ref().map(Vec::len).iter().sum::<usize>();
        assert_eq!(sent, 16, "one window for all");
        for (mut first, rest) in first.into_iter().zip(rest) {
            first.extend(rest);
            assert_eq!(first, numbers(1..=21), "{protocol:?}");
        }
        assert_eq!(world.bridge.status().duplicates_possible, 0);
    }
}

#[test]
fn after_a_crash_all_lanes_go_on_where_the_session_is() {
    for protocol in BOTH {
        let mut world = World::new(with_lanes(protocol));
        world.drain();
        change(&mut world, "a.test", "b.test");
        world.down.clear();
        offer_by_all(&mut world, 1..=5);
        world.commit(usize::MAX);
        while world.step_cloud() {}
        world.crash();
        world.drain();
        assert_eq!(world.host(), "b.test");
        assert_eq!(delivered_by_all(&world), [(); 3].map(|()| numbers(1..=5)), "{protocol:?}");
        assert_eq!(world.bridge.status().duplicates_possible, 0);
    }
}

#[test]
fn an_identifier_of_one_server_is_no_repeat_at_another() {
    for protocol in BOTH {
        let mut world = up(protocol);
        let publish = world.cloud.publish("down/x", "of a", QoS::ExactlyOnce);
        world.to_bridge.push_back(publish);
        world.step_bridge();
        world.commit(usize::MAX);
        assert_eq!(world.local.len(), 1);
        change(&mut world, "a.test", "b.test");
        let publish = world.cloud.publish("down/x", "of b", QoS::ExactlyOnce);
        world.to_bridge.push_back(publish);
        world.drain();
        let payloads: Vec<_> = world.local.iter().map(|message| message.payload.clone()).collect();
        assert_eq!(payloads, ["of a", "of b"], "{protocol:?}");
        assert_eq!(world.cloud.owes(), 0);
    }
}

#[test]
fn after_a_crash_it_goes_on_where_its_session_is_and_doubles_nothing() {
    for protocol in BOTH {
        let mut world = up(protocol);
        change(&mut world, "a.test", "b.test");
        world.down.clear();
        for number in 1..=5 {
            offer(&mut world, &number.to_string());
        }
        world.commit(usize::MAX);
        while world.step_cloud() {}
        world.crash();
        world.drain();
        assert_eq!(world.host(), "b.test");
        assert_eq!(world.delivered(TOPIC), ["1", "2", "3", "4", "5"], "{protocol:?}");
        assert_eq!(world.bridge.status().duplicates_possible, 0);
    }
}

#[test]
fn it_returns_to_the_first_once_that_is_back_and_nothing_is_in_flight() {
    for protocol in BOTH {
        let mut world = up(protocol);
        change(&mut world, "a.test", "b.test");
        world.down.clear();
        for number in 1..=20 {
            offer(&mut world, &number.to_string());
        }
        for _ in 0..3 {
            assert_eq!(world.host(), "b.test");
            world.visit(|bridge, now, out| bridge.handle_probed(Some(0), now, out));
        }
        assert_eq!(
            (world.host(), world.bridge.status().state),
            ("b.test", LinkState::Up),
            "it completes first"
        );
        world.run(Duration::from_secs(1));
        assert_eq!((world.host(), world.bridge.status().state), ("a.test", LinkState::Up));
        assert_eq!(world.last_words().last(), Some(&STATUS), "it says that it is away");
        let mut all = world.delivered(TOPIC);
        world.meet("b.test");
        let mut first = world.delivered(TOPIC);
        assert!(!first.is_empty() && !all.is_empty(), "some left before, the rest after");
        first.append(&mut all);
        assert_eq!(first, (1..=20).map(|number| number.to_string()).collect::<Vec<_>>(), "{protocol:?}");
        assert_eq!(world.bridge.status().duplicates_possible, 0);
    }
}

#[test]
fn it_does_not_wait_for_ever_for_what_is_in_flight() {
    let mut world = up(Version::V5);
    offer(&mut world, "1");
    world.cloud.mute = true;
    world.drain();
    world.visit(Bridge::handle_renewed);
    assert_eq!(world.bridge.status().state, LinkState::Up);
    world.cloud.mute = false;
    world.run(Duration::from_secs(11));
    assert_eq!(world.bridge.status().state, LinkState::Up);
    assert_eq!(world.cloud.connects.len(), 2);
    assert_eq!(world.delivered(TOPIC), ["1"]);
}

#[test]
fn new_certificates_take_a_new_connection_and_cost_nothing() {
    for protocol in BOTH {
        let mut world = up(protocol);
        for number in 1..=40 {
            offer(&mut world, &number.to_string());
            if number == 20 {
                world.visit(Bridge::handle_renewed);
            }
        }
        world.run(Duration::from_secs(1));
        assert_eq!((world.host(), world.cloud.connects.len()), ("a.test", 2));
        assert_eq!(world.delivered(TOPIC), numbers(1..=40));
        assert!(!world.last_words().contains(&STATUS), "it is not away");
        assert_eq!(world.bridge.status().duplicates_possible, 0);
    }
}

#[test]
fn a_server_that_names_another_is_followed_for_that_connection() {
    let mut world = World::new(listed(Version::V5));
    world.cloud.connack = Some(ReasonCode::ServerMoved);
    let server_reference = Some("c.test:99 d.test".into());
    world.cloud.properties = ConnackProperties { server_reference, ..ConnackProperties::default() };
    go_on(&mut world);
    assert_eq!((world.bridge.status().state, world.host()), (LinkState::Up, "c.test"));
    assert_eq!(world.bridge.status().server, "mqtt://c.test:99");
    // And in mid-connection.
    let server_reference = Some("e.test".into());
    let properties =
        Some(Box::new(DisconnectProperties { server_reference, ..DisconnectProperties::default() }));
    world
        .to_bridge
        .push_back(Packet::Disconnect(Disconnect { reason: ReasonCode::UseAnotherServer, properties }));
    world.run(Duration::from_secs(1));
    assert_eq!((world.bridge.status().state, world.host()), (LinkState::Up, "e.test"));
    world.run(Duration::from_secs(15));
    world.cut();
    world.run(Duration::from_secs(60));
    assert_eq!(world.host(), "c.test", "the first sends it there again");
}

#[test]
fn servers_that_send_it_in_circles_are_given_up() {
    let mut world = World::new(config(Version::V5));
    world.cloud.connack = Some(ReasonCode::UseAnotherServer);
    let server_reference = Some("cloud.test".into());
    world.cloud.properties = ConnackProperties { server_reference, ..ConnackProperties::default() };
    go_on(&mut world);
    assert_eq!(world.bridge.status().state, LinkState::Down);
    assert_eq!(world.cloud.connects.len(), 4, "three references");
}
