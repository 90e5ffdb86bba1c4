//! The rooms of the gateway that decide and do nothing, built apart from the rest: they need neither SQLite nor
//! sockets, so that a fuzz target is ready in a minute. Holds no code of its own.

#[path = "../../src/auth/mod.rs"]
pub mod auth;
#[path = "../../src/base/mod.rs"]
pub mod base;
#[path = "../../src/broker/mod.rs"]
pub mod broker;
#[path = "../../src/mqtt/mod.rs"]
pub mod mqtt;
#[path = "../../src/spool/mod.rs"]
pub mod spool;

/// Without what reads and checks YAML.
#[path = "../../src/config"]
pub mod config {
    #[path = "access.rs"]
    pub mod access;
    #[path = "instrument.rs"]
    pub mod instrument;
    #[path = "limits.rs"]
    pub mod limits;
    #[path = "listener.rs"]
    pub mod listener;
    #[path = "model.rs"]
    pub mod model;
    #[path = "template.rs"]
    pub mod template;
}

/// Without what devices mean.
#[path = "../../src/device"]
pub mod device {
    #[path = "serial"]
    pub mod serial {
        #[path = "checksum.rs"]
        pub mod checksum;
        #[path = "framing.rs"]
        pub mod framing;
    }
}

/// Without the database.
#[path = "../../src/store"]
pub mod store {
    #[path = "record.rs"]
    pub mod record;
}
