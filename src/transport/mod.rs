//! TCP and TLS as one stream type. Knows nothing of MQTT.

pub mod connect;
pub mod stream;
pub mod tls;
