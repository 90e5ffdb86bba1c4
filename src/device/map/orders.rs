//! The order of registers and bytes in a value. Never knows what the bits mean.

use crate::config::model::{Order, Point};
use crate::config::point::WordOrder;

/// A number's bits: at most four registers.
pub(super) fn bits_of(point: &Point, words: &[u16]) -> u64 {
    let ordered = (0..words.len()).map(|place| words.get(word_at(point.word_order, place, words.len())));
    ordered.fold(0, |bits, word| {
        let word = word.copied().unwrap_or(0);
        bits << 16 | u64::from(u16::from_be_bytes(bytes_of(point, word)))
    })
}

/// The inverse of [`bits_of`].
pub(super) fn words_of(point: &Point, bits: u64) -> Vec<u16> {
    let bytes = bits.to_be_bytes();
    let (pairs, _) = bytes.as_chunks::<2>();
    let count = usize::from(point.value_type.registers()).min(pairs.len());
    let big = pairs.get(pairs.len() - count..).unwrap_or(&[]);
    let at = |place| big.get(word_at(point.word_order, place, count)).copied().unwrap_or_default();
    (0..count).map(|place| word_of(point, at(place))).collect()
}

/// The characters of a register, or its bytes from the most significant one.
pub(super) fn bytes_of(point: &Point, word: u16) -> [u8; 2] {
    match point.byte_order {
        Order::Big => word.to_be_bytes(),
        Order::Little => word.to_le_bytes(),
    }
}

/// The inverse of [`bytes_of`].
pub(super) fn word_of(point: &Point, bytes: [u8; 2]) -> u16 {
    match point.byte_order {
        Order::Big => u16::from_be_bytes(bytes),
        Order::Little => u16::from_le_bytes(bytes),
    }
}

/// Where the word of a place lies. Each order is its own inverse.
fn word_at(order: WordOrder, place: usize, count: usize) -> usize {
    let swapped = |place: usize| if count == 1 { place } else { place ^ 1 };
    let mirrored = count - 1 - place;
    match order {
        WordOrder::Big => place,
        WordOrder::Little => mirrored,
        WordOrder::BigSwapped => swapped(place),
        WordOrder::LittleSwapped => swapped(mirrored),
    }
}
