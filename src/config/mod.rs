//! The configuration: YAML as written, checked into an immutable model, with every fault at once. Reads
//! files and nothing else; never opens a socket, a serial line or the database.

pub mod model;
pub mod template;
