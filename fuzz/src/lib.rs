//! The pure rooms of the gateway, built apart from its dependencies: they need neither SQLite nor TLS, so a
//! fuzz target is ready in seconds. Holds no code of its own.

#[path = "../../src/base/mod.rs"]
pub mod base;
#[path = "../../src/mqtt/mod.rs"]
pub mod mqtt;
