//! SQLite: schema, one writer with group commit, recovery. The only room with SQL; never decides what to keep.

mod age;
mod apply;
mod codec;
mod entries;
pub mod error;
mod inbox;
mod migrate;
mod pages;
pub mod reader;
pub mod record;
pub mod recover;
pub mod reserve;
pub mod schema;
mod shared;
mod stretch;
pub mod trouble;
pub mod writer;
