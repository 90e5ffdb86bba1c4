//! The hands of the bridges: they do what the gateway's own does, in virtual time.

use tidegate::bridge::change::NewSettings;
use tidegate::bridge::fault::LinkFault;
use tidegate::bridge::loops::may_return;
use tidegate::config::model;
use tidegate::hub::change::Bridges;
use tidegate::hub::core::Core;
use tidegate::hub::link::LinkNext;
use tidegate::mqtt::packet::{Packet, Version};

use super::chance::Of;
use super::net::Who;
use super::reference::{LINKS, Place, number_of};
use super::site::{LinkHand, Rung};
use super::world::{Event, World};

impl World {
    pub fn pump_link(&mut self, link: usize) {
        match self.sites[&Place::Gateway].links[link] {
            LinkHand::Opening => {}
            LinkHand::Idle => {
                self.visit(Place::Gateway, |core, now| core.handle_link_flushed(link, now));
                let (next, _) = self.take_link(link);
                if next == LinkNext::Connect {
                    let site = self.site(Place::Gateway);
                    site.links[link] = LinkHand::Opening;
                    let epoch = site.epoch;
                    let wait = self.millis(Of::Net, self.plan.latency_ms);
                    self.after(wait, Event::OpenLink(epoch, link));
                }
            }
            LinkHand::Open(id) => {
                let now = self.now.instant;
                if let Some(conn) = self.conns.get_mut(&id)
                    && conn.up.is_full()
                {
                    conn.blocked_since.get_or_insert(now);
                    return;
                }
                self.visit(Place::Gateway, |core, now| core.handle_link_flushed(link, now));
                self.write_link(link, id);
            }
        }
    }

    /// Another configuration: a bridge parts, and begins anew with another window and the buffer that it has.
    pub fn reload_bridge(&mut self, link: usize) {
        let hand = self.site(Place::Gateway).links[link];
        // A hand that opens its transport is ended without a word; here it is left alone.
        if hand == LinkHand::Opening {
            return;
        }
        let part = |core: &mut Core, now| {
            core.visit_bridge(link, |bridge, out| bridge.handle_shutdown(now, out));
        };
        self.visit(Place::Gateway, part);
        if let LinkHand::Open(id) = hand {
            self.write_link(link, id);
        }
        let config = self.sites[&Place::Gateway].config.clone();
        // No more than the checks allow.
        let share = self.chance.of(Of::Faults).u16(1..4);
        let settings = |bridge: &model::Bridge| NewSettings {
            bridge: model::Bridge { inflight: bridge.inflight.div_ceil(share), ..bridge.clone() },
            may_return: may_return(bridge, &config.bridges, &config.gateway.id),
            definition: None,
        };
        let bridges = Bridges {
            gateway: config.gateway.id.clone(),
            bridges: config.bridges.iter().map(settings).collect(),
            changed: [config.bridges[link].name.clone()].into(),
            seed: self.chance.of(Of::Faults).u64(..),
        };
        self.visit(Place::Gateway, |core, now| core.replace_bridges(bridges, now));
        self.rung.push_back((Place::Gateway, Rung::Link(link)));
    }

    fn take_link(&mut self, link: usize) -> (LinkNext, Vec<Packet>) {
        let mut sends = Vec::new();
        let core = self.site(Place::Gateway).core.as_mut().expect("the gateway is there");
        (core.take_link(link, &mut sends), sends)
    }

    fn write_link(&mut self, link: usize, id: u64) {
        let (next, sends) = self.take_link(link);
        self.send_up(id, &sends);
        match next {
            LinkNext::Go | LinkNext::Connect => {}
            LinkNext::Disconnect | LinkNext::Stop => self.client_lost(id, LinkFault::Closed),
        }
    }

    pub fn open_link(&mut self, link: usize) {
        let place = LINKS[link].place;
        if !self.is_reachable(place) {
            self.site(Place::Gateway).links[link] = LinkHand::Idle;
            let why = LinkFault::Transport(std::io::ErrorKind::ConnectionRefused);
            self.visit(Place::Gateway, |core, now| core.handle_link_disconnected(link, why, now));
            self.rung.push_back((Place::Gateway, Rung::Link(link)));
            return;
        }
        let version = if link == 0 { self.plan.bridge_version } else { Version::V5 };
        let id = self.open(Who::Bridge(link), place, version, 100);
        self.site(Place::Gateway).links[link] = LinkHand::Open(id);
        self.visit(Place::Gateway, |core, now| core.handle_link_connected(link, now));
        self.write_link(link, id);
    }

    pub fn link_receives(&mut self, link: usize, id: u64, packets: Vec<Packet>) {
        if packets.is_empty() || self.sites[&Place::Gateway].links[link] != LinkHand::Open(id) {
            return;
        }
        for packet in &packets {
            self.trace(format_args!("link {link} gets {}", super::wire::show(packet)));
            self.note_received(packet);
        }
        let mut packets = packets;
        let handled =
            self.visit(Place::Gateway, |core, now| core.handle_link_packets(link, &mut packets, now));
        match handled {
            Some(Ok(())) => self.write_link(link, id),
            Some(Err(why)) => self.client_lost(id, why),
            None => {}
        }
        if link == 0 && id >= self.remembered_from && self.is_link_up(link) {
            self.reference.gain_downlink();
        }
    }

    fn note_received(&mut self, packet: &Packet) {
        match packet {
            Packet::Connack(connack) if !connack.session_present && self.kill_when_forgotten => {
                self.kill_when_forgotten = false;
                let epoch = self.sites[&Place::Gateway].epoch;
                let wait = self.millis(Of::Faults, self.plan.disk_ms);
                self.after(wait, Event::Kill(Place::Gateway, epoch));
            }
            Packet::Publish(publish) => {
                let topic = publish.topic.as_ref().map_or("", |topic| topic.as_str());
                if let (Some(number), Some(secs)) =
                    (number_of(topic, &publish.payload), publish.expiry_interval)
                {
                    self.reference.receive_command(number, secs);
                }
            }
            _ => {}
        }
    }
}
