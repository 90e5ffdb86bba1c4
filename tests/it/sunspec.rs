//! Units whose points lie where their `SunSpec` map says, in virtual time: the map moves, is silent, is not there. A
//! value is right or there is none.

use tidegate::config::model::Device;
use tidegate::config::sunspec::{END, MARK};
use tidegate::device::request::RequestKind;

use crate::device::{World, read};
use crate::profiles::configured;

const POINTS: &str = "poll: 1s, timeout: 200ms, reconnect: { min: 1s, max: 4s }, points: {
    serial: { sunspec: 1.SN },
    power: { sunspec: 103/101/113.W, deadband: 0 },
    current: { sunspec: 103/101/113.A },
    mppt: { sunspec: 160.2.DCW },
    charge: { sunspec: 802.SoC },
    own: { holding: 7 } }";

fn inverter() -> Device {
    (*configured("127.0.0.1:1502", POINTS).devices[0]).clone()
}

/// Model and length, and what is at which offset.
type Model<'a> = (u16, u16, &'a [(u16, u16)]);

/// The unit forgets what it had, and has these.
fn lay(world: &mut World, base: u16, models: &[Model<'_>]) {
    let unit = world.unit(7);
    unit.registers.clear();
    let mut at = base;
    let mut hold = |words: &[u16]| {
        for word in words {
            unit.registers.insert(at, *word);
            at += 1;
        }
    };
    hold(&MARK);
    for (number, length, fields) in models {
        hold(&[*number, *length]);
        let mut words = vec![0xFFFF; usize::from(*length)];
        for (offset, word) in *fields {
            words[usize::from(*offset)] = *word;
        }
        hold(&words);
    }
    hold(&[END, 0]);
}

/// `OK`
const COMMON: Model<'_> = (1, 66, &[(48, 0x4F4B), (49, 0)]);

/// An inverter of so many tens of watts, and 12.3 A.
fn of_power(fields: &mut Vec<(u16, u16)>, tens: u16) -> Model<'_> {
    *fields = vec![(0, 123), (4, 0xFFFF), (12, tens), (13, 1)];
    (103, 50, fields)
}

fn powers(world: &World) -> Vec<String> {
    world.said("devices/m/power", "value")
}

#[test]
fn the_map_is_found_before_anything_is_read() {
    let mut world = World::new(vec![inverter()]);
    lay(&mut world, 50_000, &[COMMON, of_power(&mut Vec::new(), 77)]);
    world.run(900);
    let search = [40_000, 50_000, 50_002, 50_070, 50_122].map(|address| read(address, 2));
    assert_eq!(world.kinds()[..5], search);
    // Each with the header of its model.
    let reads = [read(50_002, 2), read(50_052, 34), read(7, 1)];
    assert_eq!(world.kinds()[5..], reads, "{:?}", world.kinds());
    assert_eq!(powers(&world), ["770"]);
    assert_eq!(world.said("devices/m/current", "value"), ["12.3"]);
    assert_eq!(world.said("devices/m/serial", "value"), ["\"OK\""]);
    let told = "m at 50000: models 1, 103; without mppt (160.2.DCW), charge (802.SoC)";
    assert_eq!(world.maps, [told]);
    // What it does not have is no bad reading, and nobody asks for it again.
    world.run(60_000);
    assert!(world.heard("devices/m/mppt").is_empty() && world.heard("devices/m/charge").is_empty());
    assert_eq!(
        world.kinds()[8..],
        reads.iter().cloned().cycle().take(world.kinds().len() - 8).collect::<Vec<_>>()
    );
    assert_eq!(world.maps.len(), 1);
    let names: Vec<String> =
        world.poller.status()[0].points.iter().map(|point| point.name.to_string()).collect();
    assert_eq!(names, ["serial", "power", "current", "mppt", "charge", "own"], "no scale factors");
}

/// The new firmware has a model in front, so that the old address of the power holds something else.
#[test]
fn a_map_that_has_moved_is_found_again_after_the_unit_was_away() {
    // Also when nobody saw that it was away.
    for silence in [0, 700, 5_000, 30_000] {
        let mut world = World::new(vec![inverter()]);
        lay(&mut world, 40_000, &[COMMON, of_power(&mut Vec::new(), 77), (160, 48, &[(2, 0), (39, 55)])]);
        world.run(40_500);
        assert_eq!(powers(&world), ["770"]);
        assert_eq!(world.said("devices/m/mppt", "value"), ["55"]);
        world.unit(7).silent = true;
        world.run(silence);
        lay(
            &mut world,
            40_000,
            &[COMMON, (64_001, 30, &[(0, 1), (12, 500), (13, 0)]), of_power(&mut Vec::new(), 88)],
        );
        world.unit(7).silent = false;
        world.run(45_000);
        let good: Vec<String> = powers(&world).into_iter().filter(|power| power != "770").collect();
        assert_eq!(good, ["880"], "{silence}: {:?}", world.heard("devices/m/power"));
        // It has no inputs any more: what was known of them is old.
        assert_eq!(world.said("devices/m/mppt", "quality").last().map(String::as_str), Some("\"stale\""));
        assert_eq!(world.maps.len(), 2, "{:?}", world.maps);
        assert!(
            world.maps[1].starts_with("m at 40000: models 1, 64001, 103; without mppt"),
            "{:?}",
            world.maps
        );
    }
}

/// It was never away as far as anybody saw, but the address is refused.
#[test]
fn an_address_that_is_refused_is_looked_for_again() {
    let mut world = World::new(vec![inverter()]);
    lay(&mut world, 40_000, &[COMMON, of_power(&mut Vec::new(), 77)]);
    world.run(3_500);
    lay(&mut world, 50_000, &[COMMON, of_power(&mut Vec::new(), 88)]);
    world.unit(7).holes.extend(40_000..40_200);
    world.run(120_000);
    let last = powers(&world);
    assert_eq!(last.first().map(String::as_str), Some("770"));
    assert_eq!(last.last().map(String::as_str), Some("880"), "{last:?}");
    assert!(last.iter().all(|power| ["770", "null", "880"].contains(&power.as_str())), "{last:?}");
}

#[test]
fn a_unit_without_a_map_says_so_and_is_asked_now_and_then() {
    let mut world = World::new(vec![inverter()]);
    world.run(20_000);
    assert_eq!(world.said("devices/m/power", "error"), ["\"no SunSpec map at 40000, 50000 or 0\""]);
    assert_eq!(world.said("devices/m/own", "quality"), ["\"good\""], "what has an address is read");
    assert_eq!(world.maps, ["m none at 40000, 50000 or 0"]);
    let searches = |world: &World| world.kinds().iter().filter(|kind| **kind == read(40_000, 2)).count();
    assert_eq!(searches(&world), 1);
    world.run(100_000);
    assert_eq!(searches(&world), 4);
    lay(&mut world, 40_000, &[COMMON, of_power(&mut Vec::new(), 99)]);
    world.run(40_000);
    assert_eq!(powers(&world).last().map(String::as_str), Some("990"));
}

/// Nothing but `SunSpec` points, and none of them there: no request, no busy loop, and its neighbour keeps its rhythm.
#[test]
fn a_unit_with_nothing_to_read_is_passed_over() {
    let lonely = configured("127.0.0.1:1502", "points: { charge: { sunspec: 802.SoC } }");
    let lonely = (*lonely.devices[0]).clone();
    let neighbour = crate::device::device("n", 1, vec![crate::device::point("a", 3)]);
    let mut world = World::new(vec![lonely, neighbour]);
    lay(&mut world, 40_000, &[COMMON]);
    world.run(60_000);
    assert_eq!(world.reads_of(7).len(), 3, "the search");
    assert!(world.reads_of(1).len() >= 60);
    assert!(world.heard("devices/m/charge").is_empty());
    assert_eq!(world.heard("devices/m/status").len(), 1);
}

/// Units that say nothing of what they do not have.
#[test]
fn silence_at_one_base_is_followed_by_the_next() {
    let mut world = World::new(vec![inverter()]);
    lay(&mut world, 0, &[COMMON, of_power(&mut Vec::new(), 66)]);
    world.unit(7).mute.extend([40_000, 50_000]);
    world.run(30_000);
    assert_eq!(powers(&world), ["660"]);
}

/// Requests are lost at random, and while the unit is away its map moves: no value is ever one of another address.
#[test]
fn no_fault_leads_to_a_value_of_another_address() {
    let mut heard = 0;
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut world = World::new(vec![inverter()]);
        let mut true_powers = vec!["null".to_owned()];
        for round in 0..6_u16 {
            let tens = 100 + round;
            true_powers.push(format!("{tens}0"));
            let base = [40_000, 50_000, 0][rng.usize(0..3)];
            let padding = (64_001, rng.u16(0..60), &[][..]);
            let mut fields = Vec::new();
            let model = of_power(&mut fields, tens);
            let models = if rng.bool() { vec![COMMON, padding, model] } else { vec![COMMON, model, padding] };
            lay(&mut world, base, &models);
            world.unit(7).silent = false;
            for _ in 0..10 {
                world.unit(7).lost = rng.u32(0..4);
                world.run(rng.u64(100..2_000));
            }
            world.unit(7).silent = true;
            world.run(rng.u64(0..9_000));
        }
        for power in powers(&world) {
            assert!(true_powers.contains(&power), "seed {seed}: {power}");
        }
        heard += powers(&world).len();
        let is_search = |kind: &&RequestKind| matches!(kind, RequestKind::Read { count: 2, .. });
        let searches = world.kinds().iter().filter(is_search).count();
        assert!(searches < 600, "seed {seed}: {searches} requests of searches");
    }
    assert!(heard >= 800, "{heard} values");
}

/// The factors of a battery stand behind what they scale, and may lie in another read together with other values.
#[test]
fn factors_and_headers_come_before_the_values() {
    let points =
        "read: { max_registers: 30 }, points: { health: { sunspec: 802.SoH }, energy: { sunspec: 802.WHRtg },
        power: { sunspec: 802.W } }";
    let mut world = World::new(vec![(*configured("127.0.0.1:1502", points).devices[0]).clone()]);
    let fields = [(1, 1024), (11, 98), (45, 250), (51, 1), (56, 0), (61, 2)];
    lay(&mut world, 40_000, &[COMMON, (802, 62, &fields)]);
    world.run(60_000);
    for (name, value) in [("health", "98"), ("energy", "10240"), ("power", "25000")] {
        assert_eq!(world.said(&format!("devices/m/{name}"), "value"), [value], "{:?}", world.kinds());
    }
}
