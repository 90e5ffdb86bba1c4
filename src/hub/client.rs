//! The door as LAN connections use it.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::broker::Peer;
use crate::broker::effect::{ConnKey, Outgoing};
use crate::hub::{Bell, Hub};
use crate::mqtt::error::Malformed;
use crate::mqtt::packet::Packet;

/// Whether a connection goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    Continue,
    /// Send what was handed out, then close.
    Close,
}

/// One connection's place at the door.
#[derive(Debug, Clone)]
pub struct Seat {
    pub key: ConnKey,
    /// Rung when something waits to be sent.
    pub bell: Bell,
}

impl Hub {
    pub fn open(&self, peer: Peer) -> Seat {
        let bell: Bell = Arc::new(Notify::new());
        let key = self.visit(|core, now| core.handle_open(peer, bell.clone(), now));
        Seat { key, bell }
    }

    /// Everything that one read brought. `outgoing` gets what is to be sent on this connection.
    pub fn handle_packets(
        &self,
        key: ConnKey,
        packets: &mut Vec<Packet>,
        malformed: Option<Malformed>,
        outgoing: &mut Vec<Outgoing>,
    ) -> Flow {
        self.visit(|core, now| {
            core.handle_packets(key, packets, now);
            if let Some(malformed) = malformed {
                core.handle_malformed(key, malformed, now);
            }
        });
        self.take_outgoing(key, outgoing)
    }

    /// What waits to be sent on this connection.
    pub fn take_outgoing(&self, key: ConnKey, outgoing: &mut Vec<Outgoing>) -> Flow {
        self.lock().take_outgoing(key, outgoing)
    }

    /// The socket is gone.
    pub fn handle_closed(&self, key: ConnKey) {
        self.visit(|core, now| core.handle_closed(key, now));
    }
}
