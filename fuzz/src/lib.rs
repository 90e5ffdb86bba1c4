//! The rooms of the gateway that decide and do nothing, built apart from the rest: they need neither SQLite nor
//! sockets, so that a fuzz target is ready in a minute. Holds no code of its own but what takes chance out of a walk.

pub mod chance;

#[path = "../../src/auth/mod.rs"]
pub mod auth;
#[path = "../../src/base/mod.rs"]
pub mod base;
#[path = "../../src/broker/mod.rs"]
pub mod broker;
#[path = "../../src/device/mod.rs"]
pub mod device;
#[path = "../../src/mqtt/mod.rs"]
pub mod mqtt;
#[path = "../../src/sparkplug/mod.rs"]
pub mod sparkplug;
#[path = "../../src/spool/mod.rs"]
pub mod spool;

/// Without what reads and checks YAML.
#[path = "../../src/config"]
pub mod config {
    #[path = "access.rs"]
    pub mod access;
    #[path = "batch.rs"]
    pub mod batch;
    #[path = "expression/mod.rs"]
    pub mod expression;
    #[path = "instrument.rs"]
    pub mod instrument;
    #[path = "link.rs"]
    pub mod link;
    #[path = "limits.rs"]
    pub mod limits;
    #[path = "listener.rs"]
    pub mod listener;
    #[path = "log.rs"]
    pub mod log;
    #[path = "model.rs"]
    pub mod model;
    #[path = "point.rs"]
    pub mod point;
    #[path = "port.rs"]
    pub mod port;
    #[path = "provider/mod.rs"]
    pub mod provider;
    #[path = "secret.rs"]
    pub mod secret;
    #[path = "sunspec/mod.rs"]
    pub mod sunspec;
    #[path = "table.rs"]
    mod table;
    #[path = "template.rs"]
    pub mod template;
    #[path = "uplink.rs"]
    pub mod uplink;
}

/// Without the database.
#[path = "../../src/store"]
pub mod store {
    #[path = "record.rs"]
    pub mod record;
}
