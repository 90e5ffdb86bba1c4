//! `tidegate status` and `tidegate buffer`: the real binary beside a running gateway, and on a stopped one.

#![allow(clippy::unwrap_used)] // helpers outside of test functions too: a panic here is a failed test

mod dead;
mod moves;
mod pauses;
pub mod plant;
mod shows;
mod status;
