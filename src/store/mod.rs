//! SQLite: schema, one writer with group commit, recovery. The only room with SQL; never decides what to keep.

mod age;
mod apply;
mod blob;
mod bodies;
mod codec;
mod dates;
mod entries;
pub mod error;
pub mod inbox;
mod migrate;
mod pages;
mod properties;
pub mod reader;
pub mod record;
pub mod recover;
pub mod reserve;
pub mod schema;
mod shared;
mod stretch;
mod tidy;
mod totals;
pub mod trouble;
pub mod writer;
