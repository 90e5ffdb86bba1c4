//! What registers may mean, where a value is known that they hold: every type, order and scale that is common, and
//! the neighbours' addresses. Pure; reads nothing.

use crate::config::model::{Order, Point, Table, ValueType};
use crate::config::point::WordOrder;
use crate::device::map;

/// Registers before and behind the address that is asked for.
pub const NEIGHBOURS: u16 = 1;
/// Of the longest number.
const VALUE_REGISTERS_MAX: u16 = 4;
/// Factors that makers use.
const SCALES: [f64; 7] = [1.0, 0.1, 0.01, 0.001, 10.0, 100.0, 1000.0];
/// A float has its decimals itself: only another unit is likely.
const FLOAT_SCALES: [f64; 3] = [1.0, 0.001, 1000.0];
const TYPES: [ValueType; 8] = [
    ValueType::F32,
    ValueType::U16,
    ValueType::I16,
    ValueType::U32,
    ValueType::I32,
    ValueType::F64,
    ValueType::U64,
    ValueType::I64,
];
/// Guesses that are worth showing.
pub const FITS_MAX: usize = 6;

/// What is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Known {
    /// Never zero, which anything fits.
    pub value: f64,
    /// Half of its last digit: what is as close is taken for the value itself.
    pub exact_within: f64,
    /// What it may have changed by since it was read off.
    pub within: f64,
}

/// A way to read the value.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    pub point: Point,
    pub value: f64,
    /// It shows the very digits.
    pub is_exact: bool,
    /// How far from the address that was asked for.
    pub shift: i32,
}

/// The registers to read for a guess at `address`: first and count.
pub const fn window(address: u16) -> (u16, u16) {
    let start = address.saturating_sub(NEIGHBOURS);
    let wanted = NEIGHBOURS * 2 + VALUE_REGISTERS_MAX;
    // Registers behind the first one.
    let behind = u16::MAX - start;
    (start, if behind < wanted { behind + 1 } else { wanted })
}

/// What fits, best first: `words` begin at register `start` of the table of `asked`, whose address is in doubt.
pub fn fits(asked: &Point, table: Table, (start, words): (u16, &[u16]), known: Known) -> Vec<Fit> {
    let mut found = Vec::new();
    for (at, address) in (start..=u16::MAX).take(words.len()).enumerate() {
        let shift = i32::from(address) - i32::from(asked.source.address);
        if shift.unsigned_abs() > u32::from(NEIGHBOURS) {
            continue;
        }
        for value_type in TYPES {
            let end = at + usize::from(value_type.registers());
            let Some(words) = words.get(at..end) else { continue };
            let mut point = Point { value_type, ..asked.clone() };
            point.source.table = table;
            point.source.address = address;
            found.extend(of_type(&point, words, known).into_iter().map(|fit| Fit { shift, ..fit }));
        }
    }
    found.sort_by_key(|fit| (!fit.is_exact, unlikeliness(fit)));
    found.truncate(FITS_MAX);
    found
}

fn of_type(typed: &Point, words: &[u16], known: Known) -> Vec<Fit> {
    use WordOrder::{Big, BigSwapped, Little, LittleSwapped};
    let word_orders: &[WordOrder] = match words.len() {
        1 => &[Big],
        2 => &[Big, Little],
        _ => &[Big, Little, BigSwapped, LittleSwapped],
    };
    let scales: &[f64] = if is_float(typed.value_type) { &FLOAT_SCALES } else { &SCALES };
    let mut found = Vec::new();
    for word_order in word_orders {
        for byte_order in [Order::Big, Order::Little] {
            for scale in scales {
                let point = Point { word_order: *word_order, byte_order, scale: *scale, ..typed.clone() };
                found.extend(fit(point, words, known));
            }
        }
    }
    found
}

fn fit(point: Point, words: &[u16], known: Known) -> Option<Fit> {
    let value = map::decode_words(&point, words, 0).ok()?.as_number()?;
    // An unsigned type says the same of what is not negative.
    let is_signed = matches!(point.value_type, ValueType::I16 | ValueType::I32 | ValueType::I64);
    if is_signed && value >= 0.0 {
        return None;
    }
    let distance = (value - known.value).abs();
    // The error of binary forms.
    let exact_within = known.exact_within + known.value.abs() * 1e-9;
    let is_exact = distance <= exact_within;
    (is_exact || distance <= known.within).then_some(Fit { point, value, is_exact, shift: 0 })
}

const fn is_float(value_type: ValueType) -> bool {
    matches!(value_type, ValueType::F32 | ValueType::F64)
}

/// What people meet seldom counts more.
fn unlikeliness(fit: &Fit) -> u32 {
    let Point { value_type, word_order, byte_order, scale, .. } = fit.point;
    let of_type = match value_type {
        ValueType::F32 | ValueType::U16 | ValueType::I16 => 0,
        ValueType::U32 | ValueType::I32 => 1,
        ValueType::F64 => 2,
        _ => 3,
    };
    let of_scale = match SCALES.iter().position(|known| known.to_bits() == scale.to_bits()) {
        Some(0) => 0,
        Some(1..=2) => 1,
        Some(3) => 2,
        _ => 4,
    };
    of_type
        + of_scale
        + if fit.shift == 0 { 0 } else { 4 }
        + match word_order {
            WordOrder::Big => 0,
            WordOrder::Little => 2,
            WordOrder::BigSwapped | WordOrder::LittleSwapped => 3,
        }
        + if byte_order == Order::Big { 0 } else { 3 }
}

#[cfg(test)]
mod tests {
    use super::{Known, fits, window};
    use crate::config::model::{Order, Table, ValueType};
    use crate::config::point::WordOrder;
    use crate::device::fixture::point;

    fn known(value: f64, exact_within: f64) -> Known {
        Known { value, exact_within, within: value.abs() * 0.01 }
    }

    /// Words from address 9 on, what is known; address, type, word order, byte order and scale of the best guess.
    type Case = ([u16; 6], Known, (u16, ValueType, WordOrder, Order, f64));

    #[test]
    fn a_known_value_gives_type_order_scale_and_address() {
        use WordOrder::{Big, Little};
        let (big, little) = (Order::Big, Order::Little);
        let volts = known(230.1, 0.05);
        let count = known(1_234_567.0, 0.5);
        let cases: [Case; 9] = [
            ([0, 0x4366, 0x199a, 0, 0, 0], volts, (10, ValueType::F32, Big, big, 1.0)),
            ([0, 0x199a, 0x4366, 0, 0, 0], volts, (10, ValueType::F32, Little, big, 1.0)),
            ([0, 0x6643, 0x9a19, 0, 0, 0], volts, (10, ValueType::F32, Big, little, 1.0)),
            ([0x4366, 0x199a, 0, 0, 0, 0], volts, (9, ValueType::F32, Big, big, 1.0)),
            ([7, 7, 2301, 7, 7, 7], volts, (11, ValueType::U16, Big, big, 0.1)),
            ([7, 2302, 7, 7, 7, 7], volts, (10, ValueType::U16, Big, big, 0.1)),
            ([0, 0x0012, 0xd687, 0, 0, 0], count, (10, ValueType::U32, Big, big, 1.0)),
            ([0, 0xff38, 9, 9, 9, 9], known(-20.0, 0.05), (10, ValueType::I16, Big, big, 0.1)),
            ([0, 0x406c, 0xc333, 0x3333, 0x3333, 0], volts, (10, ValueType::F64, Big, big, 1.0)),
        ];
        let asked = point("value", Table::Input, 10, ValueType::U16);
        for (words, known, expected) in cases {
            let found = fits(&asked, Table::Input, (9, &words), known);
            let best = &found.first().unwrap_or_else(|| panic!("{words:x?}")).point;
            let shown = (best.source.address, best.value_type, best.word_order, best.byte_order, best.scale);
            assert_eq!(shown, expected, "{words:x?}");
        }
        assert_eq!(fits(&asked, Table::Input, (9, &[1; 6]), volts), []);
    }

    #[test]
    fn the_very_digits_come_before_what_is_near() {
        let asked = point("value", Table::Holding, 10, ValueType::U16);
        let found = fits(&asked, Table::Holding, (9, &[0, 231, 2301, 0, 0, 0]), known(230.1, 0.05));
        assert_eq!((found[0].is_exact, found[0].shift), (true, 1));
        let near = found.iter().find(|fit| !fit.is_exact).expect("what is near");
        assert_eq!((near.shift, near.value), (0, 231.0));
    }

    #[test]
    fn a_window_stays_within_the_addresses() {
        let cases = [(0, (0, 6)), (1, (0, 6)), (10, (9, 6)), (65_535, (65_534, 2)), (65_530, (65_529, 6))];
        for (address, expected) in cases {
            assert_eq!(window(address), expected, "{address}");
        }
    }
}
