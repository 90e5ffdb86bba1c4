//! The hand of a bridge: one task that drives a Bridge through rumqttc's codec. Decides nothing.

pub mod codec;
pub mod door;
pub mod memory;
pub(crate) mod qos;
pub mod reach;
pub mod run;
mod seat;
mod tap;
mod v4;
mod v5;
