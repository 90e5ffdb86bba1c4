//! TCP and TLS as one stream type. Knows nothing of MQTT.
