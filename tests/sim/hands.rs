//! The hands that drive clients, the bridge and the line: they do what the gateway's own hands do, in virtual time.

use std::time::Duration;

use tidegate::base::time::Instant;
use tidegate::bridge::fault::LinkFault;
use tidegate::broker::Peer;
use tidegate::hub::Bell;
use tidegate::mqtt::packet::{Packet, Version};

use super::chance::Of;
use super::client::Phase;
use super::line::{LineModel, Wanted};
use super::net::{Conn, Who};
use super::plan::Fault;
use super::reference::{Place, Scope, readings_of};
use super::site::LinkHand;
use super::world::{Event, World};

pub const CLIENT_TICK: Duration = Duration::from_secs(5);
/// Silence that makes a client give its connection up.
const CLIENT_PATIENCE: Duration = Duration::from_secs(14);
/// How long the bridge's hand waits for a pipe that takes nothing.
const WRITE_WAIT: Duration = Duration::from_secs(10);

impl World {
    pub fn open(&mut self, who: Who, place: Place, version: Version, window: usize) -> u64 {
        let id = self.next_conn;
        self.next_conn += 1;
        let bell = Bell::default();
        let rung = bell.clone();
        let key = self.visit(place, |core, now| core.handle_open(Peer::default(), rung, now));
        let key = key.flatten().expect("the broker is there and takes connections");
        self.site(place).conns.insert(id, (key, bell));
        let mut conn = Conn::new(who, place, key, version, window);
        conn.opened_at = self.now.instant;
        self.site(place).taken += 1;
        self.conns.insert(id, conn);
        id
    }

    pub fn is_reachable(&self, place: Place) -> bool {
        let site = &self.sites[&place];
        site.core.is_some() && site.unreachable_until <= self.now.instant
    }

    pub fn connect_client(&mut self, index: usize) {
        let jitter = self.millis(Of::Net, 2000);
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
        let connect = self.clients[index].connect(&mut self.reference);
        let client = &self.clients[index];
        if let Some(number) = client.will_number {
            self.trace(format_args!("{} comes with will {number}", client.name));
        }
        let will = client.will_number.zip(client.will);
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.will = will.map(|(number, will)| (number, will.delay_secs));
        }
        self.send_up(id, &[connect]);
    }

    /// Clients that waver change their minds.
    pub fn waver(&mut self) {
        let wait = Duration::from_millis(500) + self.millis(Of::Load, 3000);
        if self.faulty {
            self.after(wait, Event::Waver);
        }
        for index in 0..self.clients.len() {
            let wants_in = !self.faulty || self.chance.of(Of::Load).bool();
            if self.clients[index].wavers {
                let packets = self.clients[index].waver(wants_in, &mut self.reference);
                if let Some(id) = self.clients[index].conn() {
                    self.send_up(id, &packets);
                }
            }
        }
    }

    pub fn client_receives(&mut self, index: usize, id: u64, packets: Vec<Packet>) {
        for packet in packets {
            if self.clients[index].conn() != Some(id) {
                return;
            }
            self.trace(format_args!("{} gets {}", self.clients[index].name, super::wire::show(&packet)));
            self.clients[index].last_heard = self.now.instant;
            if matches!(packet, Packet::Connack(_)) && self.refuses(self.clients[index].place) {
                // Nothing is promised of a will that the disk does not take.
                self.clients[index].will_number = None;
            }
            let answers = self.clients[index].handle(packet, &mut self.reference);
            self.send_up(id, &answers);
        }
    }

    pub fn tick(&mut self) {
        self.after(CLIENT_TICK, Event::Tick);
        if !self.faulty && self.plan.faults.contains(&Fault::CloudRefuses) {
            self.retry_dead_letters();
        }
        for index in 0..self.clients.len() {
            let Some(id) = self.clients[index].conn() else { continue };
            if self.now.instant.since(self.clients[index].last_heard) > CLIENT_PATIENCE {
                self.client_lost(id, LinkFault::Closed);
            } else if matches!(self.clients[index].phase, Phase::Up(_)) {
                self.send_up(id, &[Packet::Pingreq]);
            }
        }
        for link in self.sites[&Place::Gateway].links.clone() {
            if let LinkHand::Open(id) = link
                && let Some(since) = self.conns.get(&id).and_then(|conn| conn.blocked_since)
                && self.now.instant.since(since) > WRITE_WAIT
            {
                self.client_lost(id, LinkFault::Stalled);
            }
        }
    }

    pub fn publish(&mut self, index: usize) {
        if self.left == 0 {
            return;
        }
        self.left -= 1;
        let wait = self.millis(Of::Load, self.plan.publish_gap_ms * 2);
        self.after(wait, Event::Publish(index));
        let lanes = &self.clients[index].lanes;
        let lane = lanes[self.chance.of(Of::Load).usize(..lanes.len())];
        let number = self.reference.publish(lane);
        self.trace(format_args!("{number} is for {}", self.reference.lanes[lane].topic));
        let packets = self.clients[index].publish(number, &mut self.reference);
        if let Phase::Up(id) = self.clients[index].phase {
            self.send_up(id, &packets);
        }
    }

    pub fn pump_line(&mut self) {
        if !self.settled {
            return;
        }
        self.take_orders();
        let now = self.now;
        let (mut unit, mut rng) = (std::mem::take(&mut self.unit), self.chance.of(Of::Line).fork());
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
            self.reference.lanes.iter().position(|lane| lane.scope == Scope::Reading).expect("the device's");
        for message in &messages {
            let readings = readings_of(message.topic.as_str(), &message.payload);
            self.reference.say(&readings, lane);
            if !readings.is_empty() {
                self.trace(format_args!("the device says {readings:?}"));
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
