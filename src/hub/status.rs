//! What the hub tells of itself: copied out under the lock, shown elsewhere.

use std::sync::atomic::Ordering;

use crate::base::time::Timestamp;
use crate::bridge::status::Status;
use crate::broker::sys::Stats;
use crate::hub::Hub;

/// One bridge.
#[derive(Debug, Clone)]
pub struct LinkStatus {
    pub status: Status,
    /// When its state began; None where it never changed.
    pub since: Option<Timestamp>,
}

/// The broker and the bridges at one moment.
#[derive(Debug, Clone)]
pub struct HubStatus {
    pub broker: Stats,
    /// In the order of the configuration.
    pub links: Vec<LinkStatus>,
    /// QoS 0 messages that slow readers cost.
    pub outbox_dropped: u64,
    /// Commands that found their line's queue full.
    pub commands_dropped: u64,
    /// Connections that were closed before they could say anything: too many were open.
    pub sockets_refused: u64,
    /// The gateway's own messages that went out without being kept, since the disk took nothing.
    pub unkept: u64,
}

impl Hub {
    pub fn status(&self) -> HubStatus {
        HubStatus {
            sockets_refused: self.sockets_refused.load(Ordering::Relaxed),
            unkept: self.unkept.load(Ordering::Relaxed),
            ..self.lock().status()
        }
    }
}
