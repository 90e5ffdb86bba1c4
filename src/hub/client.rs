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
    /// Nothing more is to be read until the bell rings: a login is being checked, or the client publishes too fast.
    Wait,
    /// Send what was handed out, then close.
    Close,
}

/// One connection's place at the door.
#[derive(Debug)]
pub struct Seat {
    pub key: ConnKey,
    /// Rung when something waits to be sent, or when the connection is to be closed.
    pub bell: Bell,
    /// On the wire since the last visit.
    received_bytes: u64,
    sent_bytes: u64,
}

impl Seat {
    /// Told to the door with the next visit.
    pub fn count_received(&mut self, bytes: usize) {
        self.received_bytes += bytes as u64;
    }

    /// Told to the door with the next visit.
    pub fn count_sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes as u64;
    }

    fn take_traffic(&mut self) -> (u64, u64) {
        (std::mem::take(&mut self.received_bytes), std::mem::take(&mut self.sent_bytes))
    }
}

impl Hub {
    /// None: the gateway ends, and nobody comes in any more.
    pub fn open(&self, peer: Peer) -> Option<Seat> {
        let bell: Bell = Arc::new(Notify::new());
        let key = self.visit(|core, now| core.handle_open(peer, bell.clone(), now))?;
        Some(Seat { key, bell, received_bytes: 0, sent_bytes: 0 })
    }

    /// Everything that one read brought. `outgoing` gets what is to be sent on this connection.
    pub fn handle_packets(
        &self,
        seat: &mut Seat,
        packets: &mut Vec<Packet>,
        malformed: Option<Malformed>,
        outgoing: &mut Vec<Outgoing>,
    ) -> Flow {
        let (key, traffic) = (seat.key, seat.take_traffic());
        self.visit_and_take(
            |core, now| {
                core.handle_traffic(traffic);
                core.handle_packets(key, packets, now);
                if let Some(malformed) = malformed {
                    core.handle_malformed(key, malformed, now);
                }
            },
            |core, ()| core.take_outgoing(key, outgoing),
        )
    }

    /// What waits to be sent on this connection.
    pub fn take_outgoing(&self, seat: &mut Seat, outgoing: &mut Vec<Outgoing>) -> Flow {
        let traffic = seat.take_traffic();
        let mut core = self.lock();
        core.handle_traffic(traffic);
        core.take_outgoing(seat.key, outgoing)
    }

    /// For a connection that is not read because its client does not read: the client took some of what it was
    /// sent. Takes nothing more for it.
    pub fn handle_progress(&self, seat: &Seat) -> Flow {
        let now = self.clock.now();
        let mut core = self.lock();
        core.handle_progress(seat.key, now);
        core.flow_of(seat.key)
    }

    /// Whether the connection goes on; takes nothing.
    pub fn flow_of(&self, seat: &Seat) -> Flow {
        self.lock().flow_of(seat.key)
    }

    /// The socket is gone.
    pub fn handle_closed(&self, seat: &mut Seat) {
        let traffic = seat.take_traffic();
        self.visit(|core, now| {
            core.handle_traffic(traffic);
            core.handle_closed(seat.key, now);
        });
    }
}
