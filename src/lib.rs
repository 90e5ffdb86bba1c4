//! Tidegate: an IoT gateway that loses nothing.
//!
//! The rooms stand on floors and imports only go down: see ARCHITECTURE.md. This file only names the
//! rooms; it re-exports nothing.

pub mod app;
pub mod auth;
pub mod base;
pub mod bridge;
pub mod broker;
pub mod bus;
pub mod cli;
pub mod cloud;
pub mod config;
pub mod device;
pub mod hub;
pub mod lan;
pub mod mqtt;
pub mod observe;
pub mod sparkplug;
pub mod spool;
pub mod store;
pub mod transport;
pub mod web;
