//! The configuration: YAML as written, checked into an immutable model, with every fault at once. Reads
//! files and nothing else; never opens a socket, a serial line or the database.

pub mod access;
pub mod batch;
pub mod builtin;
mod check;
pub mod diff;
pub mod duration;
pub mod error;
pub mod expand;
pub mod expression;
pub mod format_problem;
pub mod guarded;
pub mod instrument;
pub mod limits;
mod link;
pub mod listener;
pub mod load;
pub mod log;
pub mod model;
pub mod point;
pub mod point_error;
pub mod profile;
pub mod profile_problem;
pub mod provider;
pub mod provider_problem;
pub(crate) mod raw;
pub mod serial_problem;
mod settle;
pub mod size;
pub mod sunspec;
mod table;
pub mod template;
pub mod uplink;
pub mod uplink_problem;
mod words;
mod written;
mod yaml;
