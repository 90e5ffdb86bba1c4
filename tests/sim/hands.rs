//! The hands that drive clients, the bridge and the line: they do what the gateway's own hands do, in virtual time.

use std::time::Duration;

use tidegate::base::time::Instant;
use tidegate::bridge::fault::LinkFault;
use tidegate::broker::Peer;
use tidegate::hub::Bell;
use tidegate::hub::link::LinkNext;
use tidegate::mqtt::packet::{Packet, Version};

use super::client::Phase;
use super::line::{LineModel, Wanted};
use super::net::{Conn, Who};
use super::reference::{Fate, Place, number_of_message};
use super::site::{LinkHand, Rung};
use super::world::{Event, World};

pub const CLIENT_TICK: Duration = Duration::from_secs(5);
/// Silence that makes a client give its connection up.
const CLIENT_PATIENCE: Duration = Duration::from_secs(14);
/// How long the bridge's hand waits for a pipe that takes nothing.
const WRITE_WAIT: Duration = Duration::from_secs(10);

impl World {
    fn open(&mut self, who: Who, place: Place, version: Version, window: usize) -> u64 {
        let id = self.next_conn;
        self.next_conn += 1;
        let bell = Bell::default();
        let rung = bell.clone();
        let key = self.visit(place, |core, now| core.handle_open(Peer::default(), rung, now));
        let key = key.flatten().expect("the broker is there and takes connections");
        self.site(place).conns.insert(id, (key, bell));
        self.conns.insert(id, Conn::new(who, place, key, version, window));
        id
    }

    pub fn is_reachable(&self, place: Place) -> bool {
        let site = &self.sites[&place];
        site.core.is_some() && site.unreachable_until <= self.now.instant
    }

    pub fn connect_client(&mut self, index: usize) {
        let jitter = self.millis(2000);
        let client = &self.clients[index];
        if client.phase != Phase::Away {
            return;
        }
        let (place, version, away_until) = (client.place, client.version, client.away_until);
        let retry = self.now.instant + Duration::from_millis(200) + jitter;
        if away_until > self.now.instant || self.sites[&place].core.is_none() {
            self.at(retry.max(away_until), Event::Client(index));
            return;
        }
        let most = usize::from(self.sites[&place].config.broker.limits.inflight);
        let window =
            if version == Version::V5 { most.min(usize::from(client.receive_maximum)) } else { most };
        let id = self.open(Who::Client(index), place, version, window);
        self.clients[index].phase = Phase::Greeting(id);
        self.clients[index].last_heard = self.now.instant;
        let connect = self.clients[index].connect();
        self.send_up(id, &[connect]);
    }

    pub fn client_receives(&mut self, index: usize, id: u64, packets: Vec<Packet>) {
        for packet in packets {
            if self.clients[index].conn() != Some(id) {
                return;
            }
            self.trace(format_args!("{} gets {}", self.clients[index].name, super::wire::show(&packet)));
            self.clients[index].last_heard = self.now.instant;
            let answers = self.clients[index].handle(packet, &mut self.reference);
            self.send_up(id, &answers);
        }
    }

    pub fn tick(&mut self) {
        self.after(CLIENT_TICK, Event::Tick);
        for index in 0..self.clients.len() {
            let Some(id) = self.clients[index].conn() else { continue };
            if self.now.instant.since(self.clients[index].last_heard) > CLIENT_PATIENCE {
                self.client_lost(id, LinkFault::Closed);
            } else if matches!(self.clients[index].phase, Phase::Up(_)) {
                self.send_up(id, &[Packet::Pingreq]);
            }
        }
        if let LinkHand::Open(id) = self.sites[&Place::Gateway].link
            && let Some(since) = self.conns.get(&id).and_then(|conn| conn.blocked_since)
            && self.now.instant.since(since) > WRITE_WAIT
        {
            self.client_lost(id, LinkFault::Stalled);
        }
    }

    pub fn publish(&mut self, index: usize) {
        if self.left == 0 {
            return;
        }
        self.left -= 1;
        let wait = self.millis(self.plan.publish_gap_ms * 2);
        self.after(wait, Event::Publish(index));
        let lanes = &self.clients[index].lanes;
        let lane = lanes[self.rng.usize(..lanes.len())];
        let number = self.reference.publish(lane);
        self.trace(format_args!("{number} is for {}", self.reference.lanes[lane].topic));
        let packets = self.clients[index].publish(number, &mut self.reference);
        if let Phase::Up(id) = self.clients[index].phase {
            self.send_up(id, &packets);
        }
    }

    pub fn pump_link(&mut self) {
        match self.sites[&Place::Gateway].link {
            LinkHand::Opening => {}
            LinkHand::Idle => {
                self.visit(Place::Gateway, |core, now| core.handle_link_flushed(0, now));
                let (next, _) = self.take_link();
                if next == LinkNext::Connect {
                    let site = self.site(Place::Gateway);
                    site.link = LinkHand::Opening;
                    let epoch = site.epoch;
                    let wait = self.millis(self.plan.latency_ms);
                    self.after(wait, Event::OpenLink(epoch));
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
                self.visit(Place::Gateway, |core, now| core.handle_link_flushed(0, now));
                self.write_link(id);
            }
        }
    }

    fn take_link(&mut self) -> (LinkNext, Vec<Packet>) {
        let mut sends = Vec::new();
        let core = self.site(Place::Gateway).core.as_mut().expect("the gateway is there");
        (core.take_link(0, &mut sends), sends)
    }

    fn write_link(&mut self, id: u64) {
        let (next, sends) = self.take_link();
        self.send_up(id, &sends);
        match next {
            LinkNext::Go | LinkNext::Connect => {}
            LinkNext::Disconnect | LinkNext::Stop => self.client_lost(id, LinkFault::Closed),
        }
    }

    pub fn open_link(&mut self) {
        if !self.is_reachable(Place::Cloud) {
            self.site(Place::Gateway).link = LinkHand::Idle;
            let why = LinkFault::Transport(std::io::ErrorKind::ConnectionRefused);
            self.visit(Place::Gateway, |core, now| core.handle_link_disconnected(0, why, now));
            self.rung.push_back((Place::Gateway, Rung::Link));
            return;
        }
        let id = self.open(Who::Bridge, Place::Cloud, self.plan.bridge_version, 100);
        self.site(Place::Gateway).link = LinkHand::Open(id);
        self.visit(Place::Gateway, |core, now| core.handle_link_connected(0, now));
        self.write_link(id);
    }

    pub fn link_receives(&mut self, id: u64, packets: Vec<Packet>) {
        if packets.is_empty() || self.sites[&Place::Gateway].link != LinkHand::Open(id) {
            return;
        }
        for packet in &packets {
            self.trace(format_args!("the bridge gets {}", super::wire::show(packet)));
        }
        let mut packets = packets;
        let handled = self.visit(Place::Gateway, |core, now| core.handle_link_packets(0, &mut packets, now));
        match handled {
            Some(Ok(())) => self.write_link(id),
            Some(Err(why)) => self.client_lost(id, why),
            None => {}
        }
    }

    pub fn pump_line(&mut self) {
        if !self.settled {
            return;
        }
        self.take_orders();
        let now = self.now;
        let (mut unit, mut rng) = (std::mem::take(&mut self.unit), self.rng.fork());
        let faulty = self.faulty;
        let site = self.site(Place::Gateway);
        let epoch = site.epoch;
        let mut wanted = Vec::new();
        let mut written = Vec::new();
        for line in &mut site.lines {
            let (more, commands) = line.pump(&mut unit, &mut rng, faulty, now);
            wanted.extend(more);
            written.extend(commands);
        }
        self.unit = unit;
        for (number, changed) in written {
            self.trace(format_args!("the device is told {number}"));
            self.reference.command(number, changed);
        }
        for want in wanted {
            match want {
                Wanted::Reply(at, id, reply) => self.at(at, Event::LineReply(epoch, id, Box::new(reply))),
                Wanted::Wake(at) if at < Instant::FAR_FUTURE => self.at(at, Event::LineWake(epoch)),
                Wanted::Wake(_) => {}
            }
        }
        self.report_line();
    }

    /// What the device is to do goes to its line.
    fn take_orders(&mut self) {
        let started = self.site(Place::Gateway).lines.iter_mut().all(LineModel::is_started);
        let mut orders = Vec::new();
        self.visit(Place::Gateway, |core, now| {
            if !started {
                core.handle_line_started(0);
            }
            core.take_orders(0, &mut orders, now);
        });
        for order in orders {
            self.trace(format_args!("the line takes {order:?}"));
            let now = self.now;
            self.site(Place::Gateway).lines.iter_mut().for_each(|line| line.handle_order(&order, now));
        }
    }

    /// Readings and answers, as one visit.
    pub fn report_line(&mut self) {
        let site = self.site(Place::Gateway);
        let (mut messages, mut done, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
        for line in &mut site.lines {
            let (said, ended, answered) = line.take();
            messages.extend(said);
            done.extend(ended);
            numbers.extend(answered);
        }
        for number in numbers {
            self.reference.answer(number);
        }
        if messages.is_empty() && done.is_empty() {
            return;
        }
        let lane =
            self.reference.lanes.iter().position(|lane| lane.publisher.is_none()).expect("the device's");
        for message in &messages {
            if message.topic.as_str() == "devices/plc/counter"
                && let Some(number) = number_of_message(message)
            {
                self.reference.insert(number, lane, Fate::Unpromised);
                self.trace(format_args!("the device says {number}"));
            }
        }
        self.visit(Place::Gateway, |core, now| {
            for message in messages {
                core.publish_own(message, now);
            }
            core.handle_done(done, now);
        });
    }
}
