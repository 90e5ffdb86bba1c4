//! The world of one seed: a virtual clock, the events to come, both brokers, the network and the clients. Hands
//! what happens to those whom it concerns.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use tidegate::base::time::{Duration, Instant, Now, Timestamp};
use tidegate::bridge::fault::LinkFault;
use tidegate::broker::Peer;
use tidegate::device::request::{Reply, RequestId};
use tidegate::hub::Bell;
use tidegate::hub::core::Core;
use tidegate::mqtt::packet::{Packet, Version};

use super::client::{Client, Phase};
use super::line::{Unit, Wanted};
use super::net::{Chunk, Conn, Direction, Who};
use super::plan::Plan;
use super::reference::{Fate, Place, Reference, number_of_message};
use super::site::{LinkHand, Rung, Site};

/// Events at one moment before the world counts as spinning.
const EVENTS_AT_ONCE_MAX: u32 = 50_000;
const CLIENT_TICK: Duration = Duration::from_secs(5);
/// Silence that makes a client give its connection up.
const CLIENT_PATIENCE: Duration = Duration::from_secs(14);
/// How long the bridge's hand waits for a pipe that takes nothing.
const WRITE_WAIT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub enum Event {
    Arrive(u64, Direction),
    Commit(Place, u64),
    Timer(Place, u64, Instant),
    Start(Place),
    Client(usize),
    Tick,
    Publish(usize),
    Fault,
    Flush(Place, u64, Rung),
    OpenLink(u64),
    LineReply(u64, RequestId, Box<Reply>),
    LineWake(u64),
}

pub struct World {
    pub now: Now,
    pub rng: fastrand::Rng,
    pub plan: Plan,
    events: BTreeMap<(Instant, u64), Event>,
    next_event: u64,
    pub sites: BTreeMap<Place, Site>,
    pub conns: BTreeMap<u64, Conn>,
    next_conn: u64,
    pub clients: Vec<Client>,
    pub reference: Reference,
    unit: Unit,
    /// Everybody has connected once: the device is polled.
    pub settled: bool,
    /// Faults happen.
    pub faulty: bool,
    /// Messages that are left to publish.
    pub left: u64,
    pub steps: u64,
    /// Every effect, for whoever looks into a seed.
    pub traced: bool,
    pub digest: u64,
    rung: VecDeque<(Place, Rung)>,
}

impl World {
    pub fn new(seed: u64, traced: bool) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let plan = Plan::new(&mut rng);
        let mut reference = Reference::default();
        let clients = plan.clients(&mut rng, &mut reference);
        let sites = [(Place::Gateway, plan.gateway()), (Place::Cloud, plan.cloud())];
        let mut world = Self {
            now: Now {
                instant: Instant::ORIGIN + Duration::from_secs(1000),
                wall: Timestamp::from_millis(1_795_255_200_000),
            },
            rng,
            left: plan.messages,
            plan,
            events: BTreeMap::new(),
            next_event: 0,
            sites: sites.into_iter().map(|(place, config)| (place, Site::new(config))).collect(),
            conns: BTreeMap::new(),
            next_conn: 1,
            clients,
            reference,
            unit: Unit::default(),
            settled: false,
            faulty: false,
            steps: 0,
            traced,
            digest: 0,
            rung: VecDeque::new(),
        };
        world.trace(format_args!("{:?}", world.plan));
        for place in [Place::Gateway, Place::Cloud] {
            world.start(place);
        }
        for client in 0..world.clients.len() {
            world.after(Duration::from_millis(10), Event::Client(client));
        }
        world.after(CLIENT_TICK, Event::Tick);
        world
    }

    pub fn trace(&self, what: fmt::Arguments<'_>) {
        if self.traced {
            eprintln!("{:>12.6} {what}", self.now.instant.as_nanos() as f64 / 1e9);
        }
    }

    pub fn at(&mut self, at: Instant, event: Event) {
        self.next_event += 1;
        self.events.insert((at.max(self.now.instant), self.next_event), event);
    }

    pub fn after(&mut self, wait: Duration, event: Event) {
        self.at(self.now.instant + wait, event);
    }

    pub fn millis(&mut self, most: u64) -> Duration {
        Duration::from_micros(self.rng.u64(0..=most * 1000))
    }

    /// Lets happen what is to come up to `end`, or until `done`.
    pub fn run(&mut self, end: Instant, mut done: impl FnMut(&World) -> bool) -> bool {
        let mut at_once = 0;
        while let Some(((at, _), _)) = self.events.first_key_value() {
            let at = *at;
            if at > end {
                break;
            }
            at_once = if at > self.now.instant { 0 } else { at_once + 1 };
            assert!(at_once < EVENTS_AT_ONCE_MAX, "time stands still");
            self.set_time(at);
            let Some((_, event)) = self.events.pop_first() else { break };
            self.steps += 1;
            self.handle(event);
            self.look_at_rung();
            if self.steps.is_multiple_of(64) {
                self.check_bounds();
            }
            if at_once == 0 && done(self) {
                return true;
            }
        }
        self.set_time(end);
        done(self)
    }

    fn set_time(&mut self, instant: Instant) {
        let micros = |instant: Instant| i64::try_from(instant.as_nanos() / 1000).unwrap();
        let passed = micros(instant) / 1000 - micros(self.now.instant) / 1000;
        self.now = Now { instant, wall: Timestamp::from_millis(self.now.wall.as_millis() + passed) };
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive(conn, direction) => self.arrive(conn, direction),
            Event::Commit(place, epoch) if self.is_current(place, epoch) => self.commit(place),
            Event::Timer(place, epoch, at) if self.is_current(place, epoch) => self.timer(place, at),
            Event::Start(place) => self.start(place),
            Event::Client(client) => self.connect_client(client),
            Event::Tick => self.tick(),
            Event::Publish(client) => self.publish(client),
            Event::Fault => self.fault(),
            Event::Flush(place, epoch, rung) if self.is_current(place, epoch) => self.look_at(place, rung),
            Event::OpenLink(epoch) if self.is_current(Place::Gateway, epoch) => self.open_link(),
            Event::LineReply(epoch, id, reply) if self.is_current(Place::Gateway, epoch) => {
                let now = self.now;
                let site = self.site(Place::Gateway);
                site.lines.iter_mut().for_each(|line| line.handle_reply(id, (*reply).clone(), now));
                self.pump_line();
            }
            Event::LineWake(epoch) if self.is_current(Place::Gateway, epoch) => self.pump_line(),
            // Of a process that is no more.
            _ => {}
        }
    }

    pub fn site(&mut self, place: Place) -> &mut Site {
        self.sites.get_mut(&place).expect("both are there")
    }

    fn is_current(&self, place: Place, epoch: u64) -> bool {
        let site = &self.sites[&place];
        site.epoch == epoch && site.core.is_some()
    }

    /// One entry of a door, and what it leaves to do.
    pub fn visit<R>(&mut self, place: Place, act: impl FnOnce(&mut Core, Now) -> R) -> Option<R> {
        let now = self.now;
        let site = self.site(place);
        let epoch = site.epoch;
        let (result, after) = site.visit(now, act)?;
        if let Some(at) = after.wake_at {
            self.set_timer(place, at);
        }
        if after.disk {
            self.site(place).disk.busy = true;
            self.begin_commit(place);
        }
        for rung in after.rung {
            // The task that the bell wakes has its turn now, or a little later.
            if self.rng.u32(0..4) == 0 {
                let wait = self.millis(2);
                self.after(wait, Event::Flush(place, epoch, rung));
            } else if !self.rung.contains(&(place, rung)) {
                self.rung.push_back((place, rung));
            }
        }
        Some(result)
    }

    fn look_at_rung(&mut self) {
        while let Some((place, rung)) = self.rung.pop_front() {
            if self.sites[&place].core.is_some() {
                self.look_at(place, rung);
            }
        }
    }

    fn look_at(&mut self, place: Place, rung: Rung) {
        match rung {
            Rung::Conn(conn) => self.flush(conn),
            Rung::Link => self.pump_link(),
            Rung::Line => self.pump_line(),
        }
        debug_assert!(place == Place::Gateway || matches!(rung, Rung::Conn(_)));
    }

    fn set_timer(&mut self, place: Place, at: Instant) {
        let epoch = self.sites[&place].epoch;
        self.site(place).timer_at = Some(at);
        self.at(at, Event::Timer(place, epoch, at));
    }

    fn timer(&mut self, place: Place, at: Instant) {
        if self.sites[&place].timer_at != Some(at) {
            return;
        }
        self.site(place).timer_at = None;
        self.visit(place, Core::handle_timeout);
        let next = self.site(place).core.as_mut().and_then(Core::next_deadline);
        if let Some(next) = next {
            self.set_timer(place, next);
        }
    }

    fn begin_commit(&mut self, place: Place) {
        let slow = self.sites[&place].slow_disk_until > self.now.instant;
        let wait = self.plan.disk_ms * if slow { 20 } else { 1 };
        let wait = self.millis(wait);
        let site = self.site(place);
        site.disk.begin();
        let epoch = site.epoch;
        self.after(wait, Event::Commit(place, epoch));
    }

    fn commit(&mut self, place: Place) {
        let now = self.now.instant;
        let site = self.site(place);
        if now < site.disk.full_until {
            // What came meanwhile is tried with it.
            site.disk.begin();
            let epoch = site.epoch;
            self.after(Duration::from_millis(500), Event::Commit(place, epoch));
            return;
        }
        let loads = site.disk.take_loads();
        if let Some(lsn) = site.disk.commit() {
            self.trace(format_args!("{place:?} durable up to {}", lsn.0));
            self.visit(place, |core, now| core.handle_durable(lsn, now));
        }
        for load in loads {
            let most = self.rng.usize(1..20);
            let entries = self.site(place).disk.durable.load(&load, most);
            self.trace(format_args!("{place:?} loads {} for {load:?}", entries.len()));
            self.visit(place, |core, now| core.handle_loaded(load, entries, now));
        }
        let disk = &mut self.site(place).disk;
        disk.busy = !disk.is_idle();
        if disk.busy {
            self.begin_commit(place);
        }
    }

    pub fn start(&mut self, place: Place) {
        if self.sites[&place].core.is_some() {
            return;
        }
        let (window, seed, now) = (self.plan.recovered_window, self.rng.u64(..), self.now);
        self.site(place).start(window, seed, now);
        self.trace(format_args!("{place:?} starts"));
        // As `attach_writer` does: what the start recorded goes first.
        self.visit(place, |_, _| ());
        let deadline = self.site(place).core.as_mut().and_then(Core::next_deadline);
        if let Some(at) = deadline {
            self.set_timer(place, at);
        }
        if place == Place::Gateway {
            self.pump_link();
            self.pump_line();
        }
    }

    /// The process ends, well or not: what it had only in memory is gone.
    pub fn die(&mut self, place: Place, well: bool) {
        let running = self.sites[&place].disk.running();
        let kept = if well { usize::MAX } else { self.rng.usize(0..=running) };
        self.trace(format_args!("{place:?} dies, {kept} visits of its last commit are kept"));
        if well {
            self.site(place).disk.begin();
        }
        self.site(place).die(kept);
        self.rung.retain(|(of, _)| *of != place);
        let ids: Vec<u64> = self.conns.keys().copied().collect();
        for id in ids {
            let Some(conn) = self.conns.get_mut(&id) else { continue };
            if conn.place == place && !conn.server_gone {
                conn.server_gone = true;
                conn.up.dead = true;
                self.break_pipe(id, Direction::Down, well);
            } else if place == Place::Gateway && conn.who == Who::Bridge && !conn.client_gone {
                conn.client_gone = true;
                conn.down.dead = true;
                self.break_pipe(id, Direction::Up, well);
            }
        }
        self.reference.faults += 1;
        if place == Place::Gateway {
            self.reference.forget_commands();
        }
        let wait = self.millis(3000);
        self.after(wait, Event::Start(place));
    }

    // --- the network ---

    fn latency(&mut self, conn: u64, direction: Direction) -> Instant {
        let base = self.millis(self.plan.latency_ms);
        let now = self.now.instant;
        let slow = Duration::from_millis(self.rng.u64(1000..8000));
        let Some(conn) = self.conns.get_mut(&conn) else { return now };
        let pipe = conn.pipe(direction);
        let at = now + base + if now < pipe.slow_until { slow } else { Duration::ZERO };
        pipe.last_at = pipe.last_at.max(at);
        pipe.last_at
    }

    pub fn write(&mut self, id: u64, direction: Direction, chunk: Chunk) {
        let dead = self.conns.get_mut(&id).is_none_or(|conn| conn.pipe(direction).dead);
        if dead {
            return;
        }
        let at = self.latency(id, direction);
        if let Some(conn) = self.conns.get_mut(&id) {
            let pipe = conn.pipe(direction);
            pipe.dead = matches!(chunk, Chunk::End);
            pipe.push(chunk);
            self.at(at, Event::Arrive(id, direction));
        }
    }

    /// Some of what is under way still arrives, and then the end.
    pub fn break_pipe(&mut self, id: u64, direction: Direction, whole: bool) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let pipe = conn.pipe(direction);
        let kept = if whole { pipe.bytes } else { self.rng.usize(0..=pipe.bytes) };
        pipe.truncate(kept);
        pipe.dead = false;
        self.write(id, direction, Chunk::End);
    }

    fn arrive(&mut self, id: u64, direction: Direction) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let Some(chunk) = conn.pipe(direction).pop() else { return };
        match (direction, chunk) {
            (Direction::Up, Chunk::Bytes(bytes)) if !conn.server_gone => {
                conn.server_in.extend_from_slice(&bytes);
                self.serve(id);
            }
            (Direction::Down, Chunk::Bytes(bytes)) if !conn.client_gone => {
                let packets = conn.client_packets(&bytes);
                let who = conn.who;
                match who {
                    Who::Client(client) => self.client_receives(client, id, packets),
                    Who::Bridge => self.link_receives(id, packets),
                }
            }
            (Direction::Up, Chunk::End) => self.server_lost(id),
            (Direction::Down, Chunk::End) => self.client_lost(id, LinkFault::Closed),
            (_, Chunk::Bytes(_)) => {}
        }
        self.unblock(id, direction);
        let over = self.conns.get(&id).is_some_and(|conn| conn.server_gone && conn.client_gone);
        if over {
            self.conns.remove(&id);
        }
    }

    /// Whoever waited for room goes on.
    fn unblock(&mut self, id: u64, direction: Direction) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if conn.pipe(direction).is_full() {
            return;
        }
        match direction {
            Direction::Down if std::mem::take(&mut conn.blocked) => {
                self.serve(id);
                self.flush(id);
            }
            Direction::Up if conn.blocked_since.take().is_some() => {
                self.rung.push_back((Place::Gateway, Rung::Link))
            }
            _ => {}
        }
    }

    fn server_lost(&mut self, id: u64) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if std::mem::replace(&mut conn.server_gone, true) {
            return;
        }
        let (place, key) = (conn.place, conn.key);
        self.site(place).conns.remove(&id);
        self.visit(place, |core, now| core.handle_closed(key, now));
        self.write(id, Direction::Down, Chunk::End);
    }

    /// The client's side learns of the end, or makes it.
    pub fn client_lost(&mut self, id: u64, why: LinkFault) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if std::mem::replace(&mut conn.client_gone, true) {
            return;
        }
        conn.down.dead = true;
        let who = conn.who;
        self.write(id, Direction::Up, Chunk::End);
        self.reference.faults += 1;
        match who {
            Who::Client(client) if self.clients[client].conn() == Some(id) => {
                self.trace(format_args!("{} lost its connection", self.clients[client].name));
                self.clients[client].phase = Phase::Away;
                let wait = self.millis(2000);
                self.after(wait, Event::Client(client));
            }
            Who::Client(_) => {}
            Who::Bridge => {
                self.trace(format_args!("the link is down: {why}"));
                self.site(Place::Gateway).link = LinkHand::Idle;
                self.visit(Place::Gateway, |core, now| core.handle_link_disconnected(0, why, now));
                self.rung.push_back((Place::Gateway, Rung::Link));
            }
        }
    }

    // --- connections to a broker ---

    fn open(&mut self, who: Who, place: Place, version: Version, window: usize) -> u64 {
        let id = self.next_conn;
        self.next_conn += 1;
        let bell = Bell::default();
        let rung = bell.clone();
        let key = self.visit(place, |core, now| core.handle_open(Peer { loopback: false }, rung, now));
        let key = key.expect("the broker is there");
        self.site(place).conns.insert(id, (key, bell));
        self.conns.insert(id, Conn::new(who, place, key, version, window));
        id
    }

    fn is_reachable(&self, place: Place) -> bool {
        let site = &self.sites[&place];
        site.core.is_some() && site.unreachable_until <= self.now.instant
    }

    fn connect_client(&mut self, index: usize) {
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

    fn client_receives(&mut self, index: usize, id: u64, packets: Vec<Packet>) {
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

    fn tick(&mut self) {
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

    fn publish(&mut self, index: usize) {
        if self.left == 0 {
            return;
        }
        self.left -= 1;
        let wait = self.millis(self.plan.publish_gap.as_millis() as u64 * 2);
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

    // --- the bridge's hand ---

    pub fn pump_link(&mut self) {
        match self.sites[&Place::Gateway].link {
            LinkHand::Opening => {}
            LinkHand::Idle => {
                self.visit(Place::Gateway, |core, now| core.handle_link_flushed(0, now));
                let (next, _) = self.take_link();
                if next == tidegate::hub::link::LinkNext::Connect {
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

    fn take_link(&mut self) -> (tidegate::hub::link::LinkNext, Vec<Packet>) {
        let mut sends = Vec::new();
        let core = self.site(Place::Gateway).core.as_mut().expect("the gateway is there");
        (core.take_link(0, &mut sends), sends)
    }

    fn write_link(&mut self, id: u64) {
        use tidegate::hub::link::LinkNext;
        let (next, sends) = self.take_link();
        self.send_up(id, &sends);
        match next {
            LinkNext::Go | LinkNext::Connect => {}
            LinkNext::Disconnect | LinkNext::Stop => self.client_lost(id, LinkFault::Closed),
        }
    }

    fn open_link(&mut self) {
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

    fn link_receives(&mut self, id: u64, packets: Vec<Packet>) {
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

    // --- the line ---

    pub fn pump_line(&mut self) {
        if !self.settled {
            return;
        }
        let now = self.now;
        let (mut unit, mut rng) = (std::mem::take(&mut self.unit), self.rng.fork());
        let faulty = self.faulty;
        let site = self.site(Place::Gateway);
        let epoch = site.epoch;
        let mut messages = Vec::new();
        let mut wanted = Vec::new();
        let mut written = Vec::new();
        for line in &mut site.lines {
            let (more, commands) = line.pump(&mut unit, &mut rng, faulty, now);
            wanted.extend(more);
            written.extend(commands);
            messages.extend(line.take_publishes());
        }
        self.unit = unit;
        for number in written {
            self.trace(format_args!("the device is told {number}"));
            self.reference.command(number);
        }
        for want in wanted {
            match want {
                Wanted::Reply(at, id, reply) => self.at(at, Event::LineReply(epoch, id, Box::new(reply))),
                Wanted::Wake(at) if at < Instant::FAR_FUTURE => self.at(at, Event::LineWake(epoch)),
                Wanted::Wake(_) => {}
            }
        }
        self.publish_readings(messages);
    }

    fn publish_readings(&mut self, messages: Vec<tidegate::mqtt::message::Message>) {
        let lane =
            self.reference.lanes.iter().position(|lane| lane.publisher.is_none()).expect("the device's");
        for message in messages {
            if message.topic.as_str() == "devices/plc/counter"
                && let Some(number) = number_of_message(&message)
            {
                self.reference.insert(number, lane, Fate::Unpromised);
                self.trace(format_args!("the device says {number}"));
            }
            self.visit(Place::Gateway, |core, now| core.publish_own(message, now));
        }
    }
}
