//! What a line does with its time, in virtual time: few reads, what units refuse, too many polls, dead units.

use tidegate::base::time::Duration;
use tidegate::config::model::Device;
use tidegate::device::plan::Price;
use tidegate::device::request::RequestKind;
use tidegate::device::status::State;

use crate::device::{World, device, point, read};

/// Registers 0, 1, 2 …
fn contiguous(count: u16) -> Device {
    device("m", 1, (0..count).map(|at| point(&format!("p{at}"), at)).collect())
}

fn counts(kinds: &[RequestKind]) -> Vec<u16> {
    kinds
        .iter()
        .map(|kind| match kind {
            RequestKind::Read { count, .. } => *count,
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn the_most_that_a_unit_reads_is_found_within_two_polls_and_kept() {
    let mut world = World::new(vec![contiguous(125)]);
    world.unit(1).reads_max = Some(32);
    world.run(1_950);
    let asked = world.requests.len();
    world.run(2_000);
    let later = counts(&world.kinds()[asked..]);
    assert_eq!(later.iter().sum::<u16>(), 250);
    assert!(later.iter().all(|count| *count <= 32) && later.len() == 8, "{later:?}");

    let learned = world.learned.remove("m").expect("learned");
    let mut again = World::new(vec![contiguous(125)]);
    again.unit(1).reads_max = Some(32);
    again.poller.recall("m", learned);
    again.run(900);
    assert_eq!(again.requests.len(), 4, "{:?}", again.kinds());
}

#[test]
fn holes_that_a_unit_has_are_kept() {
    let points = || (0..40).map(|at| point(&format!("p{at}"), at * 3)).collect();
    let mut world = World::new(vec![device("m", 1, points())]);
    world.unit(1).holes.extend([10, 31, 60]);
    world.run(1_950);
    let asked = world.requests.len();
    world.run(2_000);
    // Register 60 is a point of its own that is never answered.
    let good: Vec<String> = (0..40).map(|at| format!("devices/m/p{at}")).collect();
    for topic in &good {
        let expected = if topic.ends_with("/p20") { "\"bad\"" } else { "\"good\"" };
        assert_eq!(world.said(topic, "quality"), [expected], "{topic}");
    }
    let later = world.kinds().split_off(asked);
    let spanned = |kind: &RequestKind, at: u16| matches!(kind, RequestKind::Read { address, count, .. } if *address <= at && at < address + count);
    for hole in [10, 31, 60] {
        let asked: Vec<_> = later.iter().filter(|kind| spanned(kind, hole)).collect();
        assert!(asked.iter().all(|kind| **kind == read(60, 1)), "{asked:?}");
    }

    let mut again = World::new(vec![device("m", 1, points())]);
    again.unit(1).holes.extend([10, 31, 60]);
    again.poller.recall("m", world.learned.remove("m").expect("learned"));
    again.run(900);
    assert_eq!(again.kinds(), later[..later.len() / 2]);
    // A unit that has the register now is read as before.
    again.unit(1).holes.remove(&60);
    again.run(3_000);
    assert_eq!(again.said("devices/m/p20", "quality"), ["\"bad\"", "\"good\""]);
    assert!(!again.kinds()[again.requests.len() - 3..].contains(&read(60, 1)), "it is no longer read alone");
}

#[test]
fn a_slow_line_reads_a_gap_along_only_where_that_is_cheaper() {
    let points = || vec![point("a", 0), point("b", 20)];
    let mut wide = device("m", 1, points());
    wide.max_gap = 125;
    // 1,200 baud: a byte takes 8.3 ms, a request some 25 of them.
    let slow = Price { request: 170_000, byte: 8_333 };
    for (price, expected) in [(slow, vec![read(0, 1), read(20, 1)]), (Price::NETWORK, vec![read(0, 21)])] {
        let mut world = World::new(vec![wide.clone()]);
        world.poller.set_price(price);
        world.run(900);
        assert_eq!(world.kinds(), expected);
    }
}

#[test]
fn groups_that_are_too_many_are_stretched_alike() {
    // A request takes 10 ms: the line carries 100 a second, and 250 are asked for.
    let every = |unit: u8, millis| {
        let mut settings = device(&format!("m{unit}"), unit, vec![point("a", 0)]);
        settings.points[0].poll = Duration::from_millis(millis);
        settings
    };
    let fast = (1..=10).map(|unit| every(unit, 50));
    let slow = (11..=20).map(|unit| every(unit, 200));
    let mut world = World::new(fast.chain(slow).collect());
    world.run(20_000);
    assert!(world.requests.len() >= 1_995, "the line is never idle: {}", world.requests.len());
    for status in world.poller.status() {
        let share = status.polls * 100 / (status.polls + status.skipped);
        assert!((30..=50).contains(&share), "{}: {share} % of its polls", status.name);
    }
}

#[test]
fn dead_units_leave_the_others_their_rhythm() {
    let devices = (1..=64).map(|unit| device(&format!("m{unit}"), unit, vec![point("a", 0)])).collect();
    let mut world = World::new(devices);
    let dead: Vec<u8> = (1..=10).map(|at| at * 6).collect();
    for unit in &dead {
        world.unit(*unit).silent = true;
    }
    // Long enough to know them all.
    world.run(60_000);
    let (polls, asked) = (world.poller.status(), world.requests.len());
    world.run(600_000);
    for (before, after) in polls.iter().zip(world.poller.status()) {
        let live = after.state == State::Online;
        assert_eq!(live, !dead.iter().any(|unit| *after.name == format!("m{unit}")));
        let count = after.polls - before.polls;
        assert!(!live || count >= 570, "{}: {count} of 600 polls", after.name);
        assert!(live || count >= 3, "{}: is looked for", after.name);
    }
    // 200 ms each.
    let lost =
        world.requests[asked..].iter().filter(|(_, request)| dead.contains(&request.unit)).count() * 200;
    assert!(lost <= 600_000 / 20, "{lost} ms");
}
