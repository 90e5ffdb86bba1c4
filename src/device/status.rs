//! What `status`, the dashboard and the metrics are told of a device. Facts alone.

use std::sync::Arc;

use crate::base::time::Now;
use crate::device::identity::Identity;
use crate::device::reading::Reading;
use crate::device::request::Failure;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Has neither answered nor failed often enough.
    Unknown,
    Online,
    Offline,
}

impl State {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Online => "online",
            Self::Offline => "offline",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct DeviceStatus {
    pub name: Arc<str>,
    pub state: State,
    /// Begun since the start.
    pub polls: u64,
    /// Reads that failed after their retries, and values that were none.
    pub errors: u64,
    /// Polls left out because the line was not free in time.
    pub skipped: u64,
    pub last_failure: Option<Failure>,
    /// When the device answered last.
    pub last_seen: Option<Now>,
    /// What the unit says of itself.
    pub identity: Option<Identity>,
    /// In the order of the configuration.
    pub points: Vec<PointStatus>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct PointStatus {
    pub name: Arc<str>,
    pub unit: Option<Arc<str>>,
    pub writable: bool,
    /// None: never read.
    pub reading: Option<Reading>,
}
