//! MQTT as the standards write it: packets, properties, topics, messages, for 3.1, 3.1.1 and 5.0. Pure:
//! never touches a clock, a socket or tokio.

pub mod alias;
pub mod error;
pub mod frame;
pub mod message;
pub mod packet;
pub mod property;
pub mod qos;
pub mod reason;
pub mod topic;
pub mod via;
pub mod wire;
