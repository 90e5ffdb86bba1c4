//! What points mean, on a line in virtual time: labels, named bits, scales of other points, windows, computed points,
//! and units that do not know every function code.

use tidegate::base::time::{Duration, Instant};
use tidegate::config::expression::Expression;
use tidegate::config::model::{Device, Point, Source, Table, ValueType, When};
use tidegate::config::point::{
    Aggregate, AggregateOf, BitField, Computed, Deadband, Input, Label, Meaning, WordOrder,
};
use tidegate::config::template::TopicTemplate;
use tidegate::device::request::RequestKind;

use crate::device::{World, device, point, read};

fn writable(name: &str, address: u16, value_type: ValueType) -> Point {
    Point { writable: true, value_type, ..point(name, address) }
}

fn with_bits(name: &str, address: u16, value_type: ValueType) -> Point {
    let field = |name: &str, first, width| BitField { name: name.into(), first, width };
    let bits = vec![field("alarm", 0, 1), field("running", 1, 1), field("gear", 4, 3)];
    Point { bits, ..writable(name, address, value_type) }
}

/// `inputs` are the positions of the expression's names.
fn computed(name: &str, expression: &str, inputs: &[usize]) -> Computed {
    Computed {
        name: name.into(),
        expression: Expression::new(expression).expect("an expression"),
        inputs: inputs.iter().map(|point| Input { point: *point, bit: None }).collect(),
        unit: None,
        round: None,
        deadband: None,
        heartbeat: None,
        aggregate: None,
        publish: true,
    }
}

fn world(points: Vec<Point>) -> World {
    World::new(vec![device("m", 1, points)])
}

fn result(world: &World, point: &str) -> String {
    world.heard(&format!("devices/m/{point}/result")).pop().expect("an answer").1
}

/// What a command puts on the wire until it is answered.
fn asked(world: &mut World, topic: &str, payload: &str) -> Vec<RequestKind> {
    world.requests.clear();
    world.set(0, topic, payload);
    world.run(100);
    world.kinds()
}

#[test]
fn labels_are_published_and_written() {
    let label = |number, text: &str| Label { number, meaning: Meaning::Text(text.into()) };
    let labels = vec![label(0, "off"), label(1, "auto"), label(2, "manual")];
    let mut world = world(vec![Point { labels, ..writable("mode", 1, ValueType::U16) }]);
    world.run(500);
    assert_eq!(world.said("devices/m/mode", "value"), [r#""auto""#]);
    world.set(0, "devices/m/mode/set", "manual");
    world.run(100);
    assert_eq!(result(&world, "mode"), r#"{"value":"manual","ok":true}"#);
    world.set(0, "devices/m/mode/set", r#"{"value":"off"}"#);
    world.set(0, "devices/m/mode/set", "7");
    world.run(100);
    assert_eq!(result(&world, "mode"), r#"{"value":7,"ok":true}"#);
    world.set(0, "devices/m/mode/set", "fast");
    assert_eq!(result(&world, "mode"), r#"{"ok":false,"error":"mode: `fast` is none of off, auto, manual"}"#);
    assert_eq!(world.said("devices/m/mode", "value"), [r#""auto""#, r#""manual""#, r#""off""#, "7"]);
}

#[test]
fn bits_are_published_by_name_and_written_by_mask() {
    let mut world = world(vec![with_bits("state", 0, ValueType::U16)]);
    world.unit(1).registers.insert(0, 0xFF52);
    world.run(500);
    let said = &world.heard("devices/m/state")[0].1;
    assert!(said.starts_with(r#"{"value":{"alarm":false,"running":true,"gear":5},"quality""#), "{said}");
    let kinds = asked(&mut world, "devices/m/state/set", r#"{"value":{"alarm":true,"gear":2}}"#);
    assert_eq!(kinds, [RequestKind::MaskRegister { address: 0, mask: 0x71, bits: 0x21 }, read(0, 1)]);
    assert_eq!(result(&world, "state"), r#"{"value":{"alarm":true,"running":true,"gear":2},"ok":true}"#);
    assert_eq!(world.unit(1).registers[&0], 0xFF23, "the others stay");
    for (payload, error) in [
        (r#"{"gear":8}"#, "bits `gear` take a whole number from 0 to 7"),
        (r#"{"alarm":"yes"}"#, "bit `alarm` takes true or false"),
        (r#"{"speed":1}"#, "has no bit `speed`"),
        ("5", "takes an object of its bits, like {\\\"alarm\\\":true}"),
    ] {
        world.set(0, "devices/m/state/set", payload);
        assert_eq!(result(&world, "state"), format!(r#"{{"ok":false,"error":"state: {error}"}}"#));
    }
}

#[test]
fn a_unit_without_mask_writes_has_its_registers_read_and_written() {
    let mut world = world(vec![with_bits("state", 0, ValueType::U16)]);
    world.unit(1).registers.insert(0, 0x0F00);
    world.unit(1).unknown.insert(22);
    world.run(500);
    let write = |word| RequestKind::WriteRegister { address: 0, word };
    let mask = RequestKind::MaskRegister { address: 0, mask: 1, bits: 1 };
    let kinds = asked(&mut world, "devices/m/state/set", r#"{"alarm":true}"#);
    assert_eq!(kinds, [mask, read(0, 1), write(0x0F01), read(0, 1)]);
    assert_eq!(result(&world, "state"), r#"{"value":{"alarm":true,"running":false,"gear":0},"ok":true}"#);
    // It is asked but once what it does not know, and what somebody else wrote meanwhile stays.
    world.unit(1).registers.insert(0, 0x0A01);
    let kinds = asked(&mut world, "devices/m/state/set", r#"{"running":1}"#);
    assert_eq!(kinds, [read(0, 1), write(0x0A03), read(0, 1)]);
}

#[test]
fn bits_of_several_registers_are_written_in_one_request() {
    let field = |name: &str, first, width| BitField { name: name.into(), first, width };
    let bits = vec![field("low", 0, 1), field("wide", 12, 8)];
    let mut world = world(vec![Point { bits, ..writable("state", 0, ValueType::U32) }]);
    world.run(500);
    let kinds = asked(&mut world, "devices/m/state/set", r#"{"wide":255}"#);
    let words = vec![0x000F, 0xF001];
    assert_eq!(kinds, [read(0, 2), RequestKind::WriteRegisters { address: 0, words }, read(0, 2)]);
    let kinds = asked(&mut world, "devices/m/state/set", r#"{"low":false}"#);
    assert_eq!(kinds, [RequestKind::MaskRegister { address: 1, mask: 1, bits: 0 }, read(0, 2)]);
}

#[test]
fn a_unit_that_knows_only_one_way_to_write_is_written_by_that() {
    let relay = Point {
        source: Source { table: Table::Coil, address: 3 },
        value_type: ValueType::Bool,
        ..writable("relay", 3, ValueType::U16)
    };
    let mut world =
        world(vec![writable("one", 0, ValueType::U16), writable("two", 10, ValueType::U32), relay]);
    world.run(500);
    let one = |address, word| RequestKind::WriteRegister { address, word };
    let all = |address, words: &[u16]| RequestKind::WriteRegisters { address, words: words.to_vec() };
    world.unit(1).unknown.extend([5, 6]);
    assert_eq!(asked(&mut world, "devices/m/one/set", "7"), [one(0, 7), all(0, &[7]), read(0, 1)]);
    assert_eq!(asked(&mut world, "devices/m/one/set", "8"), [all(0, &[8]), read(0, 1)]);
    let kinds = asked(&mut world, "devices/m/relay/set", "on");
    assert_eq!(kinds[1], RequestKind::WriteCoils { address: 3, bits: vec![true] });
    assert_eq!(result(&world, "relay"), r#"{"value":true,"ok":true}"#);
    // Neither: it says so.
    world.unit(1).unknown.insert(16);
    assert_eq!(asked(&mut world, "devices/m/one/set", "9"), [all(0, &[9])]);
    assert_eq!(
        result(&world, "one"),
        r#"{"ok":false,"error":"one: not written: exception 1 (illegal function)"}"#
    );
}

#[test]
fn a_unit_without_function_16_has_its_registers_written_one_by_one() {
    let mut world = world(vec![writable("two", 10, ValueType::U32)]);
    world.run(500);
    world.unit(1).unknown.insert(16);
    let one = |address, word| RequestKind::WriteRegister { address, word };
    let all = RequestKind::WriteRegisters { address: 10, words: vec![1, 2] };
    let kinds = asked(&mut world, "devices/m/two/set", "65538");
    assert_eq!(kinds, [all, one(10, 1), one(11, 2), read(10, 2)]);
    assert_eq!(result(&world, "two"), r#"{"value":65538,"ok":true}"#);
    // One that is lost between the two begins anew, once it was seen that the first alone is there.
    world.requests.clear();
    world.set(0, "devices/m/two/set", "196612");
    world.run(5);
    world.unit(1).lost = 1;
    world.run(2_000);
    let commands: Vec<_> =
        world.kinds().into_iter().filter(|kind| !matches!(kind, RequestKind::Read { .. })).collect();
    assert_eq!(commands, [one(10, 3), one(11, 4), one(10, 3), one(11, 4)]);
    assert_eq!(result(&world, "two"), r#"{"value":196612,"ok":true}"#);
}

fn scaled(name: &str, address: u16, scale_from: usize) -> Point {
    Point { scale_from: Some(scale_from), ..writable(name, address, ValueType::I16) }
}

#[test]
fn a_value_is_scaled_with_the_exponent_that_was_read_with_it() {
    let exponent = Point {
        publish: false,
        poll: Duration::from_secs(3_600),
        value_type: ValueType::I16,
        ..point("sf", 1)
    };
    let mut world = world(vec![scaled("power", 0, 1), exponent]);
    let minus = |number: i16| number.cast_unsigned();
    world.unit(1).registers.extend([(0, 2301), (1, minus(-1))]);
    world.run(500);
    // Both change between two polls: never the one with the other's.
    world.unit(1).registers.extend([(0, 2399), (1, minus(-2))]);
    world.run(1_000);
    assert_eq!(world.said("devices/m/power", "value"), ["230.1", "23.99"]);
    assert_eq!(world.kinds(), [read(0, 2), read(0, 2)], "it is read along, whatever its own rhythm");
    assert_eq!(world.heard("devices/m/sf"), [], "publish: false");
    world.unit(1).registers.insert(1, 0x8000);
    world.run(1_000);
    assert_eq!(
        world.said("devices/m/power", "error").pop().as_deref(),
        Some(r#""scale_from holds no exponent from -10 to 10""#)
    );
    // What is written has the scale of now.
    world.unit(1).registers.insert(1, minus(-1));
    let kinds = asked(&mut world, "devices/m/power/set", "21.5");
    assert_eq!(kinds[..3], [read(1, 1), RequestKind::WriteRegister { address: 0, word: 215 }, read(0, 1)]);
    assert_eq!(result(&world, "power"), r#"{"value":21.5,"ok":true}"#);
    world.unit(1).registers.insert(1, minus(-3));
    world.set(0, "devices/m/power/set", "99.9");
    world.run(100);
    assert_eq!(result(&world, "power"), r#"{"ok":false,"error":"power: 99.9 does not fit i16"}"#);
}

#[test]
fn an_exponent_far_away_is_read_first_and_remembered() {
    let exponent = Point { value_type: ValueType::I16, ..point("sf", 1_000) };
    let mut world = world(vec![scaled("power", 0, 1), exponent]);
    world.unit(1).registers.extend([(0, 5), (1_000, 2)]);
    world.run(500);
    assert_eq!(world.kinds(), [read(1_000, 1), read(0, 1)]);
    assert_eq!(world.said("devices/m/power", "value"), ["500"]);
    world.unit(1).holes.insert(1_000);
    world.run(1_000);
    assert_eq!(world.said("devices/m/power", "quality"), [r#""good""#, r#""bad""#]);
}

#[test]
fn a_relative_dead_band_follows_the_value() {
    let banded = Point { deadband: Some(Deadband::Relative(0.1)), ..point("a", 0) };
    let mut world = world(vec![banded]);
    for value in [100, 109, 110, 120, 121, 100, 1_000, 1_099, 1_100] {
        world.unit(1).registers.insert(0, value);
        world.run(1_000);
    }
    assert_eq!(world.said("devices/m/a", "value"), ["100", "110", "121", "100", "1000", "1100"]);
}

fn windowed(of: AggregateOf) -> Point {
    Point { aggregate: Some(Aggregate { every: Duration::from_secs(10), of }), ..point("a", 0) }
}

#[test]
fn a_window_says_once_what_its_readings_come_to() {
    let cases = [
        (AggregateOf::Mean, ["4.5", "14.5"]),
        (AggregateOf::Min, ["0", "10"]),
        (AggregateOf::Max, ["9", "19"]),
        (AggregateOf::Last, ["9", "19"]),
        (AggregateOf::Sum, ["45", "145"]),
    ];
    for (of, values) in cases {
        let mut world = world(vec![windowed(of)]);
        for value in 0..21 {
            world.unit(1).registers.insert(0, value);
            world.run(1_000);
        }
        assert_eq!(world.said("devices/m/a", "value"), values, "{of:?}");
        let times: Vec<u64> = world.heard("devices/m/a").iter().map(|(at, _)| *at).collect();
        // The wall clock stood at a multiple of the window when it began.
        assert_eq!(times, [10_000, 20_000], "{of:?}");
    }
}

#[test]
fn windows_begin_at_multiples_of_their_length_whenever_the_gateway_does() {
    let start = Instant::ORIGIN + Duration::from_millis(3_700);
    let mut world = World::start_at(start, vec![device("m", 1, vec![windowed(AggregateOf::Last)])]);
    world.run(20_000);
    let times: Vec<u64> = world.heard("devices/m/a").iter().map(|(at, _)| *at).collect();
    assert_eq!(times, [10_000, 20_000]);
}

#[test]
fn a_window_with_gaps_is_not_wholly_good() {
    let mut world = world(vec![windowed(AggregateOf::Mean)]);
    world.unit(1).registers.insert(0, 4);
    world.run(7_500);
    world.unit(1).holes.insert(0);
    world.run(3_000);
    let (value, quality, error) = (
        world.said("devices/m/a", "value"),
        world.said("devices/m/a", "quality"),
        world.said("devices/m/a", "error"),
    );
    assert_eq!((&*value[0], &*quality[0]), ("4", r#""stale""#));
    assert_eq!(error[0], r#""2 of 10 readings are missing""#);
    world.run(10_000);
    assert_eq!(world.said("devices/m/a", "error")[1], r#""exception 2 (illegal data address)""#);
    world.unit(1).holes.clear();
    world.run(20_000);
    world.unit(1).silent = true;
    world.run(60_000);
    let qualities = world.said("devices/m/a", "quality");
    assert_eq!(qualities[qualities.len() - 2..], [r#""good""#, r#""stale""#], "said once");
}

fn apparent() -> Device {
    let mut settings = device("m", 1, vec![point("voltage", 230), point("current", 3)]);
    settings.computed = [
        computed("apparent", "voltage * current", &[0, 1]),
        computed("share", "apparent / (current - 3)", &[2, 1]),
    ]
    .into();
    settings
}

#[test]
fn a_computed_point_follows_its_inputs() {
    let mut world = World::new(vec![apparent()]);
    world.run(500);
    assert_eq!(world.said("devices/m/apparent", "value"), ["690"]);
    assert_eq!(world.said("devices/m/share", "error"), [r#""division by zero""#]);
    world.unit(1).registers.insert(3, 5);
    world.run(1_000);
    assert_eq!(world.said("devices/m/apparent", "value"), ["690", "1150"]);
    assert_eq!(world.said("devices/m/share", "value"), ["null", "575"]);
    world.unit(1).holes.insert(3);
    world.run(1_000);
    assert_eq!(world.said("devices/m/apparent", "error").pop().as_deref(), Some(r#""current is bad""#));
    assert_eq!(world.said("devices/m/share", "error").pop().as_deref(), Some(r#""apparent is bad""#));
    world.unit(1).holes.clear();
    world.run(1_000);
    world.unit(1).silent = true;
    world.run(20_000);
    let last = |member| world.said("devices/m/share", member).pop();
    assert_eq!((last("value").as_deref(), last("quality").as_deref()), (Some("575"), Some(r#""stale""#)));
    let status = &world.poller.status()[0];
    let names: Vec<&str> = status.points.iter().map(|point| &*point.name).collect();
    assert_eq!(names, ["voltage", "current", "apparent", "share"]);
    world.set(0, "devices/m/apparent/set", "1");
    assert_eq!(result(&world, "apparent"), r#"{"ok":false,"error":"apparent: is not writable"}"#);
}

#[test]
fn a_computed_point_sees_bits_and_labels() {
    let labels = vec![Label { number: 1, meaning: Meaning::Text("auto".into()) }];
    let mode = Point { labels, ..point("mode", 1) };
    let mut settings = device("m", 1, vec![with_bits("state", 0, ValueType::U16), mode]);
    let mut ready = computed("ready", "state.running and mode == 'auto' ? state.gear : -1", &[0, 1, 0]);
    ready.inputs[0].bit = Some("running".into());
    ready.inputs[2].bit = Some("gear".into());
    settings.computed = [ready].into();
    let mut world = World::new(vec![settings]);
    world.unit(1).registers.insert(0, 0x0052);
    world.run(500);
    world.unit(1).registers.insert(1, 9);
    world.run(1_000);
    assert_eq!(world.said("devices/m/ready", "value"), ["5", "-1"]);
}

#[test]
fn what_is_not_published_is_in_no_message() {
    let hidden = Point { publish: false, ..point("hidden", 1) };
    let mut settings = device("m", 1, vec![point("a", 0), hidden, windowed(AggregateOf::Last)]);
    settings.points[2].name = "b".into();
    settings.publish.topic = TopicTemplate::new("sites/{device}").expect("a template");
    settings.publish.when = When::Poll;
    settings.computed = [computed("twice", "2 * hidden", &[1])].into();
    let mut world = World::new(vec![settings]);
    world.run(10_500);
    let values = world.said("sites/m", "values");
    assert_eq!(values[0], r#"{"a":0,"twice":2}"#);
    assert_eq!(values.last().map(String::as_str), Some(r#"{"a":0,"b":0,"twice":2}"#));
}

#[test]
fn words_of_64_bits_come_in_four_orders() {
    use WordOrder::{Big, BigSwapped, Little, LittleSwapped};
    let points =
        [Big, Little, BigSwapped, LittleSwapped].into_iter().enumerate().map(|(at, word_order)| Point {
            word_order,
            value_type: ValueType::U64,
            ..point(["big", "little", "big-swapped", "little-swapped"][at], 0)
        });
    let mut world = world(points.collect());
    world.unit(1).registers.extend([(0, 0xA), (1, 0xB), (2, 0xC), (3, 0xD)]);
    world.run(500);
    let shown = |name: &str| -> u64 {
        world.said(&format!("devices/m/{name}"), "value")[0].parse().expect("a number")
    };
    let number = |words: [u64; 4]| words.into_iter().fold(0, |number, word| number << 16 | word);
    assert_eq!(shown("big"), number([0xA, 0xB, 0xC, 0xD]));
    assert_eq!(shown("little"), number([0xD, 0xC, 0xB, 0xA]));
    assert_eq!(shown("big-swapped"), number([0xB, 0xA, 0xD, 0xC]));
    assert_eq!(shown("little-swapped"), number([0xC, 0xD, 0xA, 0xB]));
}
