//! Sparkplug B 3.0 as plain values: payloads, topics, and the session of one edge node towards one MQTT server. No
//! I/O, no clock; never decides where a message goes.

mod device;
pub mod payload;
pub mod session;
pub mod topic;
mod wire;
