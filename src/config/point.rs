//! What a point can say beside where it lies: orders, dead bands, labels, bits, windows, and points that are computed
//! from others. Plain values; never decides whether they fit together.

use std::fmt;
use std::sync::Arc;

use crate::base::time::Duration;
use crate::config::expression::Expression;

/// How the registers of a value of 32 or 64 bits follow each other, `A` being the most significant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WordOrder {
    /// `A B`, `A B C D`
    Big,
    /// `B A`, `D C B A`
    Little,
    /// `B A`, `B A D C`
    BigSwapped,
    /// `A B`, `C D A B`
    LittleSwapped,
}

/// The least change that counts as one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Deadband {
    Absolute(f64),
    /// Of the value that was published last: 0.01 for `1%`.
    Relative(f64),
}

/// What a number in a register means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    pub number: i128,
    pub meaning: Meaning,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    Text(Arc<str>),
    Flag(bool),
}

impl fmt::Display for Meaning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Flag(flag) => flag.fmt(f),
        }
    }
}

/// One or several neighbouring bits of a value, by their own name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BitField {
    pub name: Arc<str>,
    /// The least significant one, from 0.
    pub first: u8,
    /// At least 1; all of them lie within the value.
    pub width: u8,
}

impl BitField {
    /// The largest number that it holds.
    pub const fn max(&self) -> u64 {
        u64::MAX >> (64 - self.width)
    }
}

/// Readings gathered over a window that begins at a multiple of its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aggregate {
    pub every: Duration,
    pub of: AggregateOf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AggregateOf {
    Mean,
    Min,
    Max,
    Last,
    Sum,
}

/// A point that is computed from others of its device.
#[derive(Debug, Clone, PartialEq)]
pub struct Computed {
    /// `[A-Za-z0-9._-]+`
    pub name: Arc<str>,
    pub expression: Expression,
    /// What each name of the expression stands for.
    pub inputs: Vec<Input>,
    pub unit: Option<Arc<str>>,
    /// Decimal places, 0 to 15.
    pub round: Option<u8>,
    pub deadband: Option<Deadband>,
    pub heartbeat: Option<Duration>,
    pub aggregate: Option<Aggregate>,
    /// Said to the world, not only to other points.
    pub publish: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// Among the device's points, behind which its computed ones follow: always before the one that names it.
    pub point: usize,
    /// One of its bits.
    pub bit: Option<Arc<str>>,
}
