//! The configuration: YAML as written, checked into an immutable model, with every fault at once. Reads
//! files and nothing else; never opens a socket, a serial line or the database.

pub mod access;
mod check;
pub mod diff;
pub mod duration;
pub mod error;
pub mod expand;
pub mod limits;
pub mod listener;
pub mod load;
pub mod model;
pub(crate) mod raw;
mod settle;
pub mod size;
pub mod template;
mod words;
mod written;
mod yaml;
