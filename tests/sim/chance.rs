//! All chance of a world, in streams that each have one purpose: what one part of a world draws does not change what
//! another finds, so that a seed stays much the same world while the simulator grows.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    Plan,
    Net,
    Disk,
    Faults,
    Load,
    Line,
    Starts,
}

const STREAMS: u64 = 7;

pub struct Chance(Vec<fastrand::Rng>);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self((0..STREAMS).map(|stream| stream_of(seed, stream)).collect())
    }

    pub fn of(&mut self, purpose: Of) -> &mut fastrand::Rng {
        &mut self.0[purpose as usize]
    }
}

/// What is drawn for one name alone.
pub fn named(seed: u64, name: &str) -> fastrand::Rng {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    stream_of(seed, hash)
}

fn stream_of(seed: u64, stream: u64) -> fastrand::Rng {
    fastrand::Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ stream.rotate_left(32))
}
