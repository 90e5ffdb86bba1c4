//! Every transport of the LAN against clients of other makes: rustls, a WebSocket client, Mosquitto's. MQTT is
//! spoken in bytes that are written out.

#![allow(clippy::unwrap_used)] // helpers outside of test functions too: a panic here is a failed test

pub mod client;
mod gateway;
mod mosquitto;
mod tls;
mod websocket;
