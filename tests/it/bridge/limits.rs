//! Links that hardly stand, and servers that want to be left alone, over hours of virtual time.

use tidegate::base::time::Duration;
use tidegate::bridge::status::LinkState;
use tidegate::mqtt::packet::control::Disconnect;
use tidegate::mqtt::packet::{Packet, Version};
use tidegate::mqtt::qos::QoS;
use tidegate::mqtt::reason::ReasonCode;

use super::world::{World, config};

const MESSAGES: u64 = 30;
/// Of steps until all is through: many times what it takes.
const STEPS_MAX: usize = 3_000_000;

fn qos_of(number: u64) -> QoS {
    if number.is_multiple_of(2) { QoS::AtLeastOnce } else { QoS::ExactlyOnce }
}

fn first_of_each(payloads: &[String]) -> Vec<String> {
    let mut seen = std::collections::BTreeSet::new();
    payloads.iter().filter(|payload| seen.insert(*payload)).cloned().collect()
}

/// Of a hundred connections one comes about, and of its packets a part passes before it breaks.
fn drains(protocol: Version, seed: u64, breaks_percent: u8) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut bridge = config(protocol);
    // It takes weeks.
    bridge.buffer.age = Duration::ZERO;
    let mut world = World::new(bridge);
    for number in 1..=MESSAGES {
        world.offer(world.message("up/a", &number.to_string(), qos_of(number)), None);
    }
    for step in 0.. {
        assert!(step < STEPS_MAX, "it makes no progress: {:?}", world.bridge.status());
        let status = world.bridge.status();
        if status.queued_messages == 0 && status.inflight == 0 {
            break;
        }
        world.reachable = rng.u8(0..100) == 0;
        let (up, down) = (world.to_cloud.len(), world.to_bridge.len());
        if up + down == 0 {
            world.advance(Duration::from_secs(30));
        } else if rng.u8(0..100) < breaks_percent {
            world.cut();
        } else if up > 0 && (down == 0 || rng.bool()) {
            world.step_cloud();
        } else {
            world.step_bridge();
        }
    }
    let payloads = world.delivered("sites/plant-7/a");
    let all: Vec<String> = (1..=MESSAGES).map(|number| number.to_string()).collect();
    assert_eq!(first_of_each(&payloads), all, "{protocol:?} {seed}");
    for number in (1..=MESSAGES).filter(|number| qos_of(*number) == QoS::ExactlyOnce) {
        let times = payloads.iter().filter(|payload| **payload == number.to_string()).count();
        assert_eq!(times, 1, "{protocol:?} {seed}: {number} at QoS 2");
    }
    let status = world.bridge.status();
    assert_eq!((status.losses.total(), status.duplicates_possible), (0, 0), "{protocol:?} {seed}");
}

#[test]
fn one_connection_in_a_hundred_and_few_packets_of_it_drain_a_buffer() {
    for protocol in [Version::V5, Version::V3_1_1] {
        for seed in 1..=3 {
            for breaks_percent in [2, 25] {
                drains(protocol, seed, breaks_percent);
            }
        }
    }
}

/// Somebody with our client id comes again whenever our connection is good: each turn is longer than the one before.
#[test]
fn who_takes_the_session_again_and_again_is_not_fought() {
    let mut world = World::up(Version::V5);
    let mut taken = 0;
    for number in 0..360 {
        world.offer(world.message("up/a", &number.to_string(), QoS::AtLeastOnce), None);
        world.run(Duration::from_secs(20));
        if world.bridge.status().state == LinkState::Up {
            taken += 1;
            let parting = Disconnect::with_reason(ReasonCode::SessionTakenOver);
            world.to_bridge.push_back(Packet::Disconnect(parting));
            world.step_bridge();
        }
    }
    assert!((60..200).contains(&taken), "{taken} turns in two hours");
    assert!((taken..=taken + 1).contains(&world.cloud.connects.len()), "{}", world.cloud.connects.len());
    world.run(Duration::from_secs(120));
    assert_eq!(first_of_each(&world.delivered("sites/plant-7/a")).len(), 360);
    assert_eq!(world.bridge.status().losses.total(), 0);
}

/// Who writes a window into the configuration knows what the server takes.
#[test]
fn a_window_that_is_written_counts_for_a_server_that_cannot_say_its_own() {
    for (is_written, expected) in [(false, 20), (true, 128)] {
        let mut bridge = config(Version::V3_1_1);
        bridge.inflight = 128;
        bridge.inflight_is_written = is_written;
        let mut world = World::new(bridge);
        world.drain();
        for number in 1..=300 {
            world.offer(world.message("up/a", &number.to_string(), QoS::ExactlyOnce), None);
        }
        world.drain();
        assert_eq!((world.on_wire_max, world.delivered("sites/plant-7/a").len()), (expected, 300));
    }
}
