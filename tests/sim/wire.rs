//! What goes over a connection: packets to bytes and back through the real codec, and the checks that each packet
//! has to pass when it leaves.

use std::ops::ControlFlow;

use bytes::BytesMut;
use tidegate::broker::effect::Outgoing;
use tidegate::hub::client::Flow;
use tidegate::mqtt::frame::{encode, encode_publish};
use tidegate::mqtt::packet::ack::Ack;
use tidegate::mqtt::packet::{Packet, Version};
use tidegate::mqtt::qos::{PacketId, QoS};
use tidegate::store::record::{Phase, SpoolId};

use super::chance::Of;
use super::net::{Chunk, Conn, Direction, Who};
use super::reference::{Fate, LINKS, Place, number_of, number_of_message};
use super::site::LinkHand;
use super::world::World;

/// A packet on its way, as far as it is checked.
#[derive(Debug, Clone, Copy)]
enum Sent {
    Publish(QoS, Option<PacketId>, Option<u64>),
    Received(PacketId),
    Puback(PacketId),
    Release(PacketId),
    Complete(PacketId),
    Other,
}

impl World {
    /// The client's side of a connection writes.
    pub fn send_up(&mut self, id: u64, packets: &[Packet]) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let (version, who, place) = (conn.version, conn.who, conn.place);
        let mut output = BytesMut::new();
        for packet in packets {
            encode(packet, version, &mut output).unwrap_or_else(|why| panic!("{packet:?}: {why}"));
            let sent = sent_of(packet);
            if let Sent::Publish(_, Some(packet_id), number) = sent
                && let Some(conn) = self.conns.get_mut(&id)
            {
                conn.numbers_up.insert(packet_id, number);
            }
            if let Who::Bridge(link) = who {
                self.trace(format_args!("link {link} sends {}", show(packet)));
                let spools = self.sites[&Place::Gateway].disk.durable.lanes_of(LINKS[link].name);
                self.check_sent(id, (Direction::Up, Place::Gateway), &spools, sent);
            } else {
                self.trace(format_args!("{place:?} is sent {}", show(packet)));
            }
        }
        self.write_bytes(id, Direction::Up, output);
    }

    /// The broker reads what is whole, unless its client takes nothing.
    pub fn serve(&mut self, id: u64) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if conn.server_gone {
            return;
        }
        if conn.down.is_full() {
            conn.blocked = true;
            return;
        }
        let (place, key) = (conn.place, conn.key);
        let flow = self.sites[&place].core.as_ref().map(|core| core.flow_of(key));
        if flow != Some(Flow::Continue) {
            return;
        }
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let mut packets = conn.server_packets();
        if packets.is_empty() {
            return;
        }
        for packet in &packets {
            close_window(conn, packet);
        }
        self.note_read(id, &packets);
        self.visit(place, |core, now| core.handle_packets(key, &mut packets, now));
        self.flush(id);
    }

    /// The broker writes what waits.
    pub fn flush(&mut self, id: u64) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if conn.server_gone {
            return;
        }
        if conn.down.is_full() {
            conn.blocked = true;
            return;
        }
        let (place, key, version) = (conn.place, conn.key, conn.version);
        let Some(core) = self.sites.get_mut(&place).and_then(|site| site.core.as_mut()) else { return };
        let mut outgoing = Vec::new();
        let flow = core.take_outgoing(key, &mut outgoing);
        let goes_on = flow == Flow::Continue && conn.waits_to_be_read();
        let mut output = BytesMut::new();
        for outgoing in &outgoing {
            self.encode_down(id, outgoing, version, &mut output);
        }
        self.write_bytes(id, Direction::Down, output);
        if flow == Flow::Close {
            self.write(id, Direction::Down, Chunk::End);
            if let Some(conn) = self.conns.get_mut(&id) {
                conn.up.dead = true;
            }
            self.let_go(id);
            self.visit(place, |core, now| core.handle_closed(key, now));
        }
        if goes_on {
            self.serve(id);
        }
    }

    /// What the gateway hears of its clients' wills.
    fn note_read(&mut self, id: u64, packets: &[Packet]) {
        let now = self.now.instant;
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let (Who::Client(client), Place::Gateway) = (conn.who, conn.place) else { return };
        for packet in packets {
            match packet {
                // Back before the delay was over [MQTT-3.1.3-9].
                Packet::Connect(_) => {
                    if let Some((number, due_at, epoch)) = self.delayed.remove(&client)
                        && now < due_at
                        && epoch == self.sites[&Place::Gateway].epoch
                    {
                        self.reference.forbid(number);
                    }
                }
                // Behind messages that have to wait it waits too, and may never be read.
                Packet::Disconnect(_) if self.plan.publish_rate == 0 => {
                    if let Some((number, _)) = conn.will.take() {
                        self.reference.forbid(number);
                    }
                }
                _ => {}
            }
        }
    }

    /// A will that nobody can have taken back is to come.
    pub fn promise_will(&mut self, client: usize, number: u64, epoch: u64) {
        let pending = self.delayed.get(&client).is_some_and(|(due, _, _)| *due == number);
        if pending {
            self.delayed.remove(&client);
            if self.sites[&Place::Gateway].epoch == epoch && self.sites[&Place::Gateway].core.is_some() {
                self.reference.settle(number, Fate::Acknowledged);
            }
        }
    }

    /// A crash brings back the wills whose end was not on disk.
    pub fn allow_what_came_back(&mut self) {
        let disk = &self.sites[&Place::Gateway].disk.durable;
        self.reference.allow_those(|number| disk.keeps_will(number));
    }

    fn write_bytes(&mut self, id: u64, direction: Direction, mut output: BytesMut) {
        for byte in &output {
            self.digest = (self.digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.digest ^= self.now.instant.as_nanos();
        if output.len() > 1 && self.chance.of(Of::Net).u32(0..4) == 0 {
            let rest = output.split_off(self.chance.of(Of::Net).usize(1..output.len()));
            self.write(id, direction, Chunk::Bytes(output.freeze()));
            output = rest;
        }
        if !output.is_empty() {
            self.write(id, direction, Chunk::Bytes(output.freeze()));
        }
    }

    fn encode_down(&mut self, id: u64, outgoing: &Outgoing, version: Version, output: &mut BytesMut) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let sent = match outgoing {
            Outgoing::Packet(packet) => {
                encode(packet, version, output).unwrap_or_else(|why| panic!("{packet:?}: {why}"));
                sent_of(packet)
            }
            Outgoing::Publish(delivery) => {
                let head = delivery.head(delivery.message.expiry_left_secs(self.now));
                let overdue =
                    !delivery.dup && delivery.qos != QoS::AtMostOnce && delivery.message.is_expired(self.now);
                assert!(!overdue, "{head:?} leaves after its expiry");
                encode_publish(&head, &delivery.message.payload, version, output).unwrap();
                Sent::Publish(delivery.qos, delivery.packet_id, number_of_message(&delivery.message))
            }
        };
        if let Sent::Publish(_, Some(packet_id), number) = sent {
            conn.numbers_down.insert(packet_id, number);
            assert!(conn.open_down.insert(packet_id), "{packet_id} is used twice at once");
            let (open, most) = (conn.open_down.len(), conn.window_down);
            assert!(open <= most, "{open} messages are under way to {:?}, which takes {most}", conn.who);
        }
        let (who, place) = (conn.who, conn.place);
        let name = match who {
            Who::Client(client) => self.clients[client].name.clone(),
            Who::Bridge(link) => LINKS[link].client_id.to_owned(),
        };
        let durable = match who {
            Who::Client(client) => self.clients[client].durable,
            Who::Bridge(_) => true,
        };
        let spool = self.sites[&place].disk.durable.spool_of_client(&name).filter(|_| durable);
        self.check_sent(id, (Direction::Down, place), &Vec::from_iter(spool), sent);
    }

    /// What a packet vouches for must be on the disk of its sender, `place`, or further on.
    fn check_sent(&self, id: u64, (direction, place): (Direction, Place), spools: &[SpoolId], sent: Sent) {
        let conn = &self.conns[&id];
        let numbers = if direction == Direction::Up { &conn.numbers_down } else { &conn.numbers_up };
        if let Sent::Puback(packet_id) | Sent::Received(packet_id) = sent {
            let number = numbers.get(&packet_id).unwrap_or_else(|| panic!("{packet_id} was never published"));
            if let Some(number) = number
                && let ControlFlow::Break(why) = self.is_safe(*number, place)
            {
                panic!("{number} is acknowledged by {place:?} and not safe: {why}");
            }
        }
        let is_current = match conn.who {
            Who::Client(client) => self.clients[client].conn() == Some(id),
            Who::Bridge(link) => self.sites[&Place::Gateway].links.get(link) == Some(&LinkHand::Open(id)),
        };
        if !is_current || spools.is_empty() {
            return;
        }
        let any = |holds: &dyn Fn(SpoolId) -> bool| spools.iter().any(|spool| holds(*spool));
        let disk = &self.sites[&place].disk.durable;
        let wrong = match sent {
            Sent::Publish(QoS::ExactlyOnce, Some(packet_id), _) => {
                !any(&|spool| disk.inflight.contains_key(&(spool, packet_id)))
            }
            Sent::Release(packet_id) => any(&|spool| {
                disk.inflight.get(&(spool, packet_id)).is_some_and(|(_, phase)| *phase == Phase::Published)
            }),
            Sent::Received(packet_id) => !any(&|spool| disk.inbound.contains(&(spool, packet_id))),
            Sent::Complete(packet_id) => any(&|spool| disk.inbound.contains(&(spool, packet_id))),
            Sent::Publish(..) | Sent::Puback(_) | Sent::Other => false,
        };
        assert!(!wrong, "{place:?} sends {sent:?} to {:?}, and its disk would not know of it", conn.who);
    }
}

/// The broker's window has room again when these arrive.
fn close_window(conn: &mut Conn, packet: &Packet) {
    match packet {
        Packet::Puback(ack) | Packet::Pubcomp(ack) => {
            conn.open_down.remove(&ack.packet_id);
        }
        Packet::Pubrec(ack) if ack.reason.is_error() => {
            conn.open_down.remove(&ack.packet_id);
        }
        _ => {}
    }
}

fn sent_of(packet: &Packet) -> Sent {
    let vouches = |ack: &Ack| !ack.reason.is_error();
    match packet {
        Packet::Publish(publish) => {
            let topic = publish.topic.as_ref().map_or("", |topic| topic.as_str());
            Sent::Publish(publish.qos, publish.packet_id, number_of(topic, &publish.payload))
        }
        Packet::Puback(ack) if vouches(ack) => Sent::Puback(ack.packet_id),
        Packet::Pubrec(ack) if vouches(ack) => Sent::Received(ack.packet_id),
        Packet::Pubrel(ack) => Sent::Release(ack.packet_id),
        Packet::Pubcomp(ack) => Sent::Complete(ack.packet_id),
        _ => Sent::Other,
    }
}

/// A packet in a line of the trace.
pub fn show(packet: &Packet) -> String {
    match packet {
        Packet::Publish(publish) => format!(
            "PUBLISH q{} id={:?} dup={} retain={} {} {}",
            publish.qos.bits(),
            publish.packet_id.map(PacketId::as_u16),
            publish.dup,
            publish.retain,
            publish.topic.as_ref().map_or("", |topic| topic.as_str()),
            String::from_utf8_lossy(&publish.payload[..publish.payload.len().min(12)]),
        ),
        Packet::Puback(ack) => format!("PUBACK {} {:?}", ack.packet_id, ack.reason),
        Packet::Pubrec(ack) => format!("PUBREC {} {:?}", ack.packet_id, ack.reason),
        Packet::Pubrel(ack) => format!("PUBREL {}", ack.packet_id),
        Packet::Pubcomp(ack) => format!("PUBCOMP {}", ack.packet_id),
        Packet::Connack(connack) => format!("CONNACK present={}", connack.session_present),
        other => format!("{:?}", other.packet_type()),
    }
}
