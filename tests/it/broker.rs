//! The broker brain, driven packet by packet in virtual time against a disk that can lose what is not durable.

#![allow(clippy::unwrap_used)] // helpers outside of test functions too: a panic here is a failed test

mod access;
mod clock;
mod connect;
mod crash;
mod deliver;
mod outage;
mod publish;
mod retained;
#[path = "../sim/rows.rs"]
mod rows;
mod sessions;
mod shared;
mod subscribe;
mod throttle;
mod wills;
mod world;
