//! The door as the hand of a bridge uses it. To its cloud a bridge is a client, and keeps to what a client has to
//! [MQTT-7.0.0-1 of 3.1.1].

use std::sync::Arc;

use crate::base::time::Now;
use crate::bridge::Bridge;
use crate::bridge::effect::{Effects, Received};
use crate::bridge::fault::LinkFault;
use crate::bridge::note::Note;
use crate::bridge::servers::Destination;
use crate::bridge::status::LinkState;
use crate::broker::effect::Token;
use crate::device::inbox::Commanded;
use crate::hub::core::{Core, TOKEN_BITS};
use crate::hub::status::LinkStatus;
use crate::hub::{Bell, Hub};
use crate::mqtt::packet::Packet;
use crate::mqtt::qos::QoS;
use crate::observe::traffic::Traffic;

/// What one bridge wants of its hand, and what it has for the broker.
#[derive(Debug)]
pub struct LinkBox {
    sends: Vec<Packet>,
    pub received: Vec<Received>,
    /// What the hand is to do with the transport, until it takes the wish.
    wish: Option<Wish>,
    bell: Bell,
    /// Something waits that the hand has not been told of.
    ring: bool,
    /// The state changed in this visit.
    pub changed: bool,
    /// When it changed last.
    pub changed_at: Option<Now>,
    /// Counted by the hand, whichever it is.
    traffic: Arc<Traffic>,
}

impl LinkBox {
    /// A new bridge wants its transport at once.
    pub fn asking() -> Self {
        Self {
            sends: Vec::new(),
            received: Vec::new(),
            wish: Some(Wish::Connect),
            bell: Bell::default(),
            ring: false,
            changed: false,
            changed_at: None,
            traffic: Arc::default(),
        }
    }

    /// Rung when there is something for the hand.
    pub fn bell(&self) -> Bell {
        self.bell.clone()
    }

    pub fn status(&self, bridge: &Bridge) -> LinkStatus {
        LinkStatus {
            name: bridge.name().clone(),
            status: bridge.status(),
            since: self.changed_at,
            traffic: self.traffic.counts(),
        }
    }

    /// Takes what a visit to the bridge left.
    pub fn collect(&mut self, out: &mut Effects) {
        self.ring |= !out.sends.is_empty() || out.connect || out.disconnect;
        self.sends.append(&mut out.sends);
        self.received.append(&mut out.publishes);
        if std::mem::take(&mut out.connect) {
            self.wish = Some(Wish::Connect);
        }
        if std::mem::take(&mut out.disconnect) {
            self.wish = Some(Wish::Disconnect);
        }
        let changed = std::mem::take(&mut out.changed);
        self.changed |= changed;
        // The hand has to hear of the end too.
        self.ring |= changed;
    }

    /// The bell, where it is to be rung: the hand that is visiting takes what waits without it.
    pub fn take_ring(&mut self) -> Option<Bell> {
        std::mem::take(&mut self.ring).then(|| self.bell.clone())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Connect,
    Disconnect,
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

impl Hub {
    /// What bridges found out and that is not kept yet, and the names of all that there are.
    pub fn take_notes(&self) -> (Vec<(String, Note)>, Vec<String>) {
        self.visit(|core, now| {
            let names: Vec<String> = core.bridges().iter().map(|bridge| bridge.name().to_string()).collect();
            let note = |(index, name): (usize, &String)| {
                let note = core.visit_bridge(index, |bridge, _| bridge.take_note(now));
                note.map(|note| (name.clone(), note))
            };
            (names.iter().enumerate().filter_map(note).collect(), names.clone())
        })
    }

    /// What an earlier process found out. Before the link is driven.
    pub fn recall(&self, bridge: usize, note: &Note) {
        self.visit(|core, now| core.visit_bridge(bridge, |bridge, _| bridge.recall(note, now)));
    }
}

/// One bridge's place at the door. Each call is one visit: what it leaves to be sent is taken before the lock is
/// released, so that no bell is lost, and none rings for what the hand holds already.
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

    /// Where the hand counts what it sends and receives.
    pub fn traffic(&self) -> Arc<Traffic> {
        self.hub.lock().link(self.index).traffic.clone()
    }

    /// The hand has written everything and asks for more.
    pub fn take(&self, sends: &mut Vec<Packet>) -> LinkNext {
        self.hub.visit_and_take(
            |core, now| core.handle_link_flushed(self.index, now),
            |core, ()| core.take_link(self.index, sends),
        )
    }

    /// The transport is up.
    pub fn handle_connected(&self, sends: &mut Vec<Packet>) -> LinkNext {
        self.hub.visit_and_take(
            |core, now| core.handle_link_connected(self.index, now),
            |core, ()| core.take_link(self.index, sends),
        )
    }

    /// Everything that one read brought. After a fault the rest is dropped: the far end sends it again.
    pub fn handle_packets(
        &self,
        packets: &mut Vec<Packet>,
        sends: &mut Vec<Packet>,
    ) -> Result<LinkNext, LinkFault> {
        self.hub.visit_and_take(
            |core, now| core.handle_link_packets(self.index, packets, now),
            |core, handled| handled.map(|()| core.take_link(self.index, sends)),
        )
    }

    /// Where the transport is to lead to.
    pub fn destination(&self) -> Destination {
        self.hub.lock().bridges()[self.index].destination()
    }

    /// Preferred servers were looked for.
    pub fn handle_probed(&self, found: Option<usize>) {
        self.hub.visit(|core, now| {
            core.visit_bridge(self.index, |bridge, out| bridge.handle_probed(found, now, out));
        });
    }

    /// The certificates were renewed.
    pub fn handle_renewed(&self) {
        self.hub.visit(|core, now| {
            core.visit_bridge(self.index, |bridge, out| bridge.handle_renewed(now, out));
        });
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
        self.update_gates(index);
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
        self.visit_bridge(index, |bridge, out| bridge.handle_flushed(now, out));
        for packet in packets.drain(..) {
            self.visit_bridge(index, |bridge, out| bridge.handle_packet(packet, now, out))?;
            self.settle(now);
        }
        self.update_gates(index);
        Ok(())
    }

    pub(super) fn handle_received(&mut self, index: usize, received: Received, now: Now) {
        let Received { message, token, is_expired } = received;
        // The cloud sends a QoS 2 message once: all of its records belong to this visit.
        let urgent = message.qos == QoS::ExactlyOnce;
        if is_expired {
            self.handle_order(&Commanded { message, hold: None, urgent }, now);
            return;
        }
        let token = token.map(|own| ((index as u64) << TOKEN_BITS) | own);
        let published = self.broker.handle_publish(message, token.map(Token), urgent, now, &mut self.out);
        if let (Err(_), Some(token)) = (published, token) {
            self.complete(token, true, now);
        }
    }

    pub fn handle_link_disconnected(&mut self, index: usize, why: LinkFault, now: Now) {
        let link = self.link(index);
        link.sends.clear();
        link.wish = None;
        self.visit_bridge(index, |bridge, out| bridge.handle_disconnected(why, now, out));
    }

    /// What one bridge wants of its hand.
    pub fn take_link(&mut self, index: usize, sends: &mut Vec<Packet>) -> LinkNext {
        let ended = self.bridges()[index].state() == LinkState::Closed;
        let link = self.link(index);
        link.ring = false;
        sends.append(&mut link.sends);
        match (ended, link.wish.take()) {
            (true, _) => LinkNext::Stop,
            (false, Some(Wish::Disconnect)) => LinkNext::Disconnect,
            (false, Some(Wish::Connect)) => LinkNext::Connect,
            (false, None) => LinkNext::Go,
        }
    }
}
