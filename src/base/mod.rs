//! The ground floor: time, back-off, identifiers and limits. Knows nothing of MQTT, Modbus or SQLite.

pub mod address;
pub mod backoff;
pub mod boot;
pub mod few;
pub mod ids;
pub mod lock;
pub mod note_file;
pub mod pulse;
pub mod time;
pub mod undated;
