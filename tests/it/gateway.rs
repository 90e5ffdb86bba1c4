//! The whole gateway in this process, with real sockets, a real disk and clients on the project's own codec.

#![allow(clippy::unwrap_used)] // helpers outside of test functions too: a panic here is a failed test

mod bounds;
pub mod client;
mod clouds;
mod commands;
mod disk;
mod downlink;
mod ends;
mod hostile;
mod limits;
mod loops;
mod rings;
mod sparkplug;
mod traffic;
mod uplink;
