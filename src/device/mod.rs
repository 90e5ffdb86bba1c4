//! The device brain: what to read when, what the registers mean, what to publish. No I/O, no clock, no task.

#[cfg(test)]
mod fixture;
pub mod map;
pub mod plan;
pub mod value;
