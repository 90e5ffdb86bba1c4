//! Integration tests, one binary. Never sleeps to reach a verdict.

mod auth;
mod bridge;
mod broker;
mod buffer;
mod bus;
mod cloud;
mod codec;
mod codec_packets;
mod codec_peers;
mod commands;
mod config;
mod device;
mod gateway;
mod http;
mod process;
mod reload;
mod spool;
mod spool_cases;
mod spool_disk;
mod spool_full;
mod store;
mod store_versions;
mod tools;
mod transports;
mod web;
