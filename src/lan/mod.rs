//! The hand of the broker: listeners, workers, connections. Decides nothing.

pub mod admission;
pub mod conn;
pub mod entrance;
pub mod listener;
mod scratch;
pub mod worker;
