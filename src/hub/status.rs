//! What the hub tells of itself: copied out under the lock, shown elsewhere.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::base::time::Now;
use crate::bridge::status::Status;
use crate::broker::roster::ClientStatus;
use crate::broker::sys::Stats;
use crate::hub::Hub;
use crate::hub::refusals::RefusedBy;
use crate::observe::traffic::Counts;

/// One bridge.
#[derive(Debug, Clone)]
pub struct LinkStatus {
    /// Of the bridge.
    pub name: Arc<str>,
    pub status: Status,
    /// When its state began; None where it never changed.
    pub since: Option<Now>,
    /// Bytes of MQTT, both ways.
    pub traffic: Counts,
}

/// The broker and the bridges at one moment.
#[derive(Debug, Clone)]
pub struct HubStatus {
    pub broker: Stats,
    /// Of the bridges that are configured.
    pub links: Vec<LinkStatus>,
    /// QoS 0 messages that slow readers cost.
    pub outbox_dropped: u64,
    /// Commands that were refused because too many waited for their device.
    pub commands_refused: u64,
    /// Connections that came to nothing.
    pub refused: RefusedBy,
    /// The gateway's own messages that went out without being kept, since the disk took nothing.
    pub unkept: u64,
}

impl HubStatus {
    /// Of the bridge of this name.
    pub fn link(&self, bridge: &str) -> Option<&LinkStatus> {
        self.links.iter().find(|link| *link.name == *bridge)
    }
}

/// Sessions that are looked at in one visit: ten thousand at once would hold everybody else up.
const CLIENTS_PAGE_MAX: usize = 256;

impl Hub {
    /// Who is connected: the first ones by name.
    pub fn clients(&self, clients_max: usize) -> Vec<ClientStatus> {
        let mut clients = Vec::new();
        let mut after: Option<Arc<str>> = None;
        loop {
            after = self.lock().broker.clients(after.as_deref(), CLIENTS_PAGE_MAX, &mut clients);
            if after.is_none() || clients.len() >= clients_max {
                clients.truncate(clients_max);
                return clients;
            }
        }
    }

    pub fn status(&self) -> HubStatus {
        let status = self.lock().status();
        HubStatus {
            refused: self.refusals.status(&status.broker.refused),
            unkept: self.unkept.load(Ordering::Relaxed),
            ..status
        }
    }
}
