//! The hand of a bridge against a real Mosquitto: both protocol versions, TCP and TLS, and what goes wrong there.

#[path = "cloud/authority.rs"]
pub mod authority;
#[path = "cloud/cutter.rs"]
mod cutter;
#[path = "cloud/filters.rs"]
mod filters;
#[path = "cloud/limits.rs"]
mod limits;
#[path = "cloud/local_door.rs"]
mod local_door;
#[path = "cloud/memory.rs"]
mod memory;
#[path = "cloud/mosquitto.rs"]
pub mod mosquitto;
#[path = "cloud/peer.rs"]
mod peer;
#[path = "cloud/progress.rs"]
mod progress;
#[path = "cloud/providers.rs"]
mod providers;
#[path = "cloud/refusals.rs"]
mod refusals;
#[path = "cloud/storm.rs"]
mod storm;
#[path = "cloud/strict.rs"]
mod strict;
#[path = "cloud/traffic.rs"]
mod traffic;
#[path = "cloud/ways.rs"]
mod ways;
