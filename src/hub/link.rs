//! The door as the hand of a bridge uses it.

use std::sync::Arc;

use crate::bridge::effect::{Effects, Received};
use crate::bridge::error::LinkFault;
use crate::hub::{Bell, Hub};
use crate::mqtt::packet::Packet;

/// What one bridge wants of its hand, and what it has for the broker.
#[derive(Debug, Default)]
pub struct LinkBox {
    pub sends: Vec<Packet>,
    pub received: Vec<Received>,
    pub connect: bool,
    pub disconnect: bool,
    pub bell: Bell,
}

impl LinkBox {
    /// Takes what a visit to the bridge left.
    pub fn collect(&mut self, out: &mut Effects, bells: &mut Vec<Bell>) {
        let rings = !out.sends.is_empty() || out.connect || out.disconnect;
        self.sends.append(&mut out.sends);
        self.received.append(&mut out.publishes);
        self.connect |= std::mem::take(&mut out.connect);
        self.disconnect |= std::mem::take(&mut out.disconnect);
        if rings {
            bells.push(self.bell.clone());
        }
    }
}

/// What the hand is to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkNext {
    /// Send what was handed out and go on.
    Go,
    /// Open the transport.
    Connect,
    /// Send what was handed out, then close the transport.
    Disconnect,
}

/// One bridge's place at the door.
pub struct LinkSeat {
    hub: Arc<Hub>,
    index: usize,
    bell: Bell,
}

impl LinkSeat {
    pub fn new(hub: Arc<Hub>, index: usize) -> Self {
        let bell = hub.lock().link(index).bell.clone();
        Self { hub, index, bell }
    }

    /// Rung when `take` has something to say.
    pub fn bell(&self) -> Bell {
        self.bell.clone()
    }

    pub fn take(&self, sends: &mut Vec<Packet>) -> LinkNext {
        let mut core = self.hub.lock();
        let link = core.link(self.index);
        sends.append(&mut link.sends);
        if std::mem::take(&mut link.disconnect) {
            return LinkNext::Disconnect;
        }
        if std::mem::take(&mut link.connect) {
            return LinkNext::Connect;
        }
        LinkNext::Go
    }

    /// The transport is up.
    pub fn handle_connected(&self) {
        self.hub.visit(|core, now| {
            core.link(self.index).sends.clear();
            core.visit_bridge(self.index, |bridge, out| bridge.handle_connected(now, out));
        });
    }

    /// Everything that one read brought. After a fault the rest is dropped: the far end sends it again.
    pub fn handle_packets(&self, packets: &mut Vec<Packet>) -> Result<(), LinkFault> {
        self.hub.visit(|core, now| {
            for packet in packets.drain(..) {
                core.visit_bridge(self.index, |bridge, out| bridge.handle_packet(packet, now, out))?;
                core.settle(now);
            }
            core.update_gates(self.index);
            Ok(())
        })
    }

    /// The transport is gone, or could not be made.
    pub fn handle_disconnected(&self) {
        self.hub.visit(|core, now| {
            core.visit_bridge(self.index, |bridge, out| bridge.handle_disconnected(now, out));
            core.link(self.index).sends.clear();
        });
    }
}
