//! The door as the hand of a bridge uses it.

use std::sync::Arc;

use crate::base::time::{Now, Timestamp};
use crate::bridge::effect::{Effects, Received};
use crate::bridge::fault::LinkFault;
use crate::bridge::status::LinkState;
use crate::hub::core::Core;
use crate::hub::{Bell, Hub};
use crate::mqtt::packet::Packet;

/// What one bridge wants of its hand, and what it has for the broker.
#[derive(Debug)]
pub struct LinkBox {
    sends: Vec<Packet>,
    pub received: Vec<Received>,
    connect: bool,
    disconnect: bool,
    bell: Bell,
    /// The state changed in this visit.
    pub changed: bool,
    /// When it changed last.
    pub changed_at: Option<Timestamp>,
}

impl LinkBox {
    /// A new bridge wants its transport at once.
    pub fn asking() -> Self {
        Self {
            sends: Vec::new(),
            received: Vec::new(),
            connect: true,
            disconnect: false,
            bell: Bell::default(),
            changed: false,
            changed_at: None,
        }
    }

    /// Rung when there is something for the hand.
    pub fn bell(&self) -> Bell {
        self.bell.clone()
    }

    /// Takes what a visit to the bridge left.
    pub fn collect(&mut self, out: &mut Effects, bells: &mut Vec<Bell>) {
        if !out.sends.is_empty() || out.connect || out.disconnect {
            bells.push(self.bell.clone());
        }
        self.sends.append(&mut out.sends);
        self.received.append(&mut out.publishes);
        self.connect |= std::mem::take(&mut out.connect);
        self.disconnect |= std::mem::take(&mut out.disconnect);
        self.changed |= std::mem::take(&mut out.changed);
    }
}

/// What the hand is to do once it has written what it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkNext {
    Go,
    /// Open the transport.
    Connect,
    /// Close the transport.
    Disconnect,
    /// Close the transport and end.
    Stop,
}

/// One bridge's place at the door. Each call is one visit.
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

    pub fn bell(&self) -> Bell {
        self.bell.clone()
    }

    /// The hand has written everything and asks for more.
    pub fn take(&self, sends: &mut Vec<Packet>) -> LinkNext {
        self.hub.visit(|core, now| core.handle_link_flushed(self.index, now));
        self.hub.lock().take_link(self.index, sends)
    }

    /// The transport is up.
    pub fn handle_connected(&self, sends: &mut Vec<Packet>) -> LinkNext {
        self.hub.visit(|core, now| core.handle_link_connected(self.index, now));
        self.hub.lock().take_link(self.index, sends)
    }

    /// Everything that one read brought. After a fault the rest is dropped: the far end sends it again.
    pub fn handle_packets(
        &self,
        packets: &mut Vec<Packet>,
        sends: &mut Vec<Packet>,
    ) -> Result<LinkNext, LinkFault> {
        self.hub.visit(|core, now| core.handle_link_packets(self.index, packets, now))?;
        Ok(self.hub.lock().take_link(self.index, sends))
    }

    /// The transport is gone, or could not be made.
    pub fn handle_disconnected(&self, why: LinkFault) {
        self.hub.visit(|core, now| core.handle_link_disconnected(self.index, why, now));
    }
}

/// What a bridge's hand brings, without the lock around it.
impl Core {
    pub fn handle_link_flushed(&mut self, index: usize, now: Now) {
        self.visit_bridge(index, |bridge, out| bridge.handle_flushed(now, out));
    }

    pub fn handle_link_connected(&mut self, index: usize, now: Now) {
        self.link(index).sends.clear();
        self.visit_bridge(index, |bridge, out| bridge.handle_connected(now, out));
    }

    pub fn handle_link_packets(
        &mut self,
        index: usize,
        packets: &mut Vec<Packet>,
        now: Now,
    ) -> Result<(), LinkFault> {
        self.handle_link_flushed(index, now);
        for packet in packets.drain(..) {
            self.visit_bridge(index, |bridge, out| bridge.handle_packet(packet, now, out))?;
            self.settle(now);
        }
        self.update_gates(index);
        Ok(())
    }

    pub fn handle_link_disconnected(&mut self, index: usize, why: LinkFault, now: Now) {
        let link = self.link(index);
        link.sends.clear();
        link.disconnect = false;
        self.visit_bridge(index, |bridge, out| bridge.handle_disconnected(why, now, out));
    }

    /// What one bridge wants of its hand.
    pub fn take_link(&mut self, index: usize, sends: &mut Vec<Packet>) -> LinkNext {
        let ended = self.bridges()[index].status().state == LinkState::Closed;
        let link = self.link(index);
        sends.append(&mut link.sends);
        let connect = std::mem::take(&mut link.connect);
        let disconnect = std::mem::take(&mut link.disconnect);
        match (ended, disconnect, connect) {
            (true, ..) => LinkNext::Stop,
            (_, true, _) => LinkNext::Disconnect,
            (.., true) => LinkNext::Connect,
            _ => LinkNext::Go,
        }
    }
}
