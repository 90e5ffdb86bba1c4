//! Byte streams: TCP, TLS and WebSocket as one type, opened from a host and a port or accepted from a listener.
//! Never knows what the bytes mean.

pub mod accept;
pub mod connect;
mod dial;
pub mod identity;
pub mod proxy;
pub mod renewal;
pub mod server;
pub mod shared;
mod stamp;
pub mod stream;
pub mod tls;
pub mod websocket;
pub mod websocket_client;
