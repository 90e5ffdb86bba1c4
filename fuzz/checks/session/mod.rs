//! Clients of all versions, well-behaved and not, against the real broker brain in virtual time, with a disk that
//! loses what is not durable. Whatever they do: nothing panics, every packet that leaves is one that its client takes
//! and asked for, bounds hold, and what was acknowledged arrives.
//!
//! Input: records of eight bytes. The first is the plan, each further one a step: a letter, who, and six numbers.

mod packets;
mod person;
mod seat;
mod step;
mod steps;
mod world;

#[path = "../../../tests/sim/rows.rs"]
mod rows;

pub use step::{LETTERS, RECORD_BYTES};

use step::Step;
use world::World;

const STEPS_MAX: usize = 300;

pub fn check(input: &[u8]) {
    let mut records = input.chunks(RECORD_BYTES).map(step::record);
    let Some(plan) = records.next() else { return };
    let mut world = World::new(plan);
    for record in records.take(STEPS_MAX) {
        world.apply(&Step::of(record));
        world.check_bounds();
    }
    world.heal();
}
