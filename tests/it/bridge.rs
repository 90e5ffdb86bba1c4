//! The bridge brain in virtual time against a model cloud and a disk that loses what it has not written.

#[path = "bridge/chaos.rs"]
mod chaos;
#[path = "bridge/cloud_model.rs"]
mod cloud_model;
#[path = "bridge/cost.rs"]
mod cost;
#[path = "bridge/dead.rs"]
mod dead;
#[path = "bridge/greeting.rs"]
mod greeting;
#[path = "bridge/lanes.rs"]
mod lanes;
#[path = "bridge/limits.rs"]
mod limits;
#[path = "bridge/provider.rs"]
mod provider;
#[path = "bridge/scenarios.rs"]
mod scenarios;
#[path = "bridge/servers.rs"]
mod servers;
#[path = "bridge/sparkplug.rs"]
mod sparkplug;
#[path = "bridge/storm.rs"]
mod storm;
#[path = "bridge/world.rs"]
mod world;
