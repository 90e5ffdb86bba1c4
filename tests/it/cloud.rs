//! The hand of a bridge against a real Mosquitto: both protocol versions, TCP and TLS, and what goes wrong there.

#[path = "cloud/authority.rs"]
pub mod authority;
#[path = "cloud/cutter.rs"]
mod cutter;
#[path = "cloud/local_door.rs"]
mod local_door;
#[path = "cloud/mosquitto.rs"]
pub mod mosquitto;
#[path = "cloud/peer.rs"]
mod peer;
#[path = "cloud/providers.rs"]
mod providers;
#[path = "cloud/storm.rs"]
mod storm;
#[path = "cloud/traffic.rs"]
mod traffic;
#[path = "cloud/ways.rs"]
mod ways;
