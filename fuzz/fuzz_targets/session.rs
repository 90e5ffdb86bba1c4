//! Hands the fuzzer's bytes to the check of the same name, which says what has to hold. Changes them by whole steps:
//! one is added, dropped, moved or repeated, or a number in it changes, and all others stay what they were.

#![no_main]

#[path = "../checks/session/mod.rs"]
mod session;

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use session::{LETTERS, RECORD_BYTES};

/// Of so many changes one is the fuzzer's own, which knows nothing of steps.
const BLIND_IN: usize = 8;
const CHANGES_MAX: usize = 4;

fuzz_target!(|input: &[u8]| session::check(input));

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let mut random = fastrand::Rng::with_seed(u64::from(seed));
    if size < RECORD_BYTES || random.usize(..BLIND_IN) == 0 {
        return fuzzer_mutate(data, size, max_size);
    }
    let (records, _) = data[..size].as_chunks::<RECORD_BYTES>();
    let mut records = records.to_vec();
    for _ in 0..random.usize(1..=CHANGES_MAX) {
        change(&mut records, &mut random);
    }
    records.truncate(max_size / RECORD_BYTES);
    let bytes = records.as_flattened();
    data[..bytes.len()].copy_from_slice(bytes);
    bytes.len()
});

/// The first record is the plan: it changes, and stays.
fn change(records: &mut Vec<[u8; RECORD_BYTES]>, random: &mut fastrand::Rng) {
    let at = random.usize(..records.len());
    let place = random.usize(1..=records.len());
    match random.u8(..8) {
        0..=2 => records.insert(place, new_record(random)),
        3 => {
            let again = records[at];
            records.insert(place, again);
        }
        4 if at > 0 => drop(records.remove(at)),
        5 if at > 0 => {
            let moved = records.remove(at);
            records.insert(place.min(records.len()), moved);
        }
        6 => records[at][random.usize(1..RECORD_BYTES)] ^= 1 << random.u8(..8),
        _ => records[at][random.usize(1..RECORD_BYTES)] = small(random),
    }
}

fn new_record(random: &mut fastrand::Rng) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES].map(|_: u8| small(random));
    record[0] = LETTERS[random.usize(..LETTERS.len())];
    record
}

/// Numbers choose from lists, mostly short ones.
fn small(random: &mut fastrand::Rng) -> u8 {
    match random.u8(..4) {
        0 => 0,
        1 => random.u8(..4),
        2 => random.u8(..32),
        _ => random.u8(..),
    }
}
