//! The hand of the broker: listeners, workers, connections. Decides nothing.

pub mod conn;
pub mod listener;
pub mod worker;
