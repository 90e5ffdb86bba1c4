//! The world of one seed: a virtual clock, the events to come, both brokers, the network and the clients. Hands
//! what happens to those whom it concerns.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use tidegate::base::time::{Duration, Instant, Now, Timestamp};
use tidegate::device::request::{Reply, RequestId};
use tidegate::hub::core::Core;

use super::cast::Cast;
use super::chance::{Chance, Of};
use super::client::Client;
use super::hands::CLIENT_TICK;
use super::line::Unit;
use super::net::{Conn, Direction, Who};
use super::plan::{Feature, Plan, cloud};
use super::reference::{LINKS, Place, Reference};
use super::site::{Rung, Site};

/// Events at one moment before the world counts as spinning.
const EVENTS_AT_ONCE_MAX: u32 = 50_000;

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
    OpenLink(u64, usize),
    /// The delay of a client's will is over.
    WillDue(usize, u64, u64),
    Waver,
    /// Somebody looks how much of the disk is free, and whether it takes what it is given.
    Watch,
    Kill(Place, u64),
    LineReply(u64, RequestId, Box<Reply>),
    LineWake(u64),
}

#[allow(clippy::struct_excessive_bools)] // each says one thing of a world, and they exclude nothing
pub struct World {
    pub now: Now,
    pub chance: Chance,
    pub plan: Plan,
    events: BTreeMap<(Instant, u64), Event>,
    next_event: u64,
    pub sites: BTreeMap<Place, Site>,
    pub conns: BTreeMap<u64, Conn>,
    pub next_conn: u64,
    pub clients: Vec<Client>,
    pub reference: Reference,
    pub unit: Unit,
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
    pub rung: VecDeque<(Place, Rung)>,
    /// Wills whose delay runs: their message, when they are due, and in which life of the gateway that was planned.
    pub delayed: BTreeMap<usize, (u64, Instant, u64)>,
    /// Connections before this one were made to a session that the cloud has forgotten.
    pub remembered_from: u64,
    /// The gateway is to be killed as soon as it hears that the cloud has forgotten it.
    pub kill_when_forgotten: bool,
    /// Messages that each bridge counted as lost in earlier lives.
    pub counted: [u64; LINKS.len()],
    /// What each buffer may hold at most, as the gateway was told last.
    pub buffer_bounds: [u64; LINKS.len()],
}

impl World {
    pub fn new(seed: u64, plan: Plan, traced: bool) -> Self {
        let Cast { reference, clients, .. } = Cast::new(&plan, seed);
        let config = |place| if place == Place::Gateway { plan.gateway() } else { cloud() };
        let readings = plan.readings_in_a_batch();
        let sites = plan.places().iter().map(|place| (*place, Site::new(config(*place), readings))).collect();
        let mut world = Self {
            now: Now {
                instant: Instant::ORIGIN + Duration::from_secs(1000),
                wall: Timestamp::from_millis(1_795_255_200_000),
            },
            chance: Chance::new(seed),
            left: plan.messages,
            buffer_bounds: [0, 1].map(|link| plan.buffer_bytes(link)),
            plan,
            events: BTreeMap::new(),
            next_event: 0,
            sites,
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
            delayed: BTreeMap::new(),
            remembered_from: 0,
            kill_when_forgotten: false,
            counted: [0; LINKS.len()],
        };
        world.trace(format_args!("{}", world.plan));
        for place in world.plan.places() {
            world.start(*place);
        }
        for client in 0..world.clients.len() {
            world.after(Duration::from_millis(10), Event::Client(client));
        }
        world.after(CLIENT_TICK, Event::Tick);
        if world.plan.has(Feature::Reserve) {
            world.after(Duration::ZERO, Event::Watch);
        }
        if world.clients.iter().any(|client| client.wavers) {
            world.after(CLIENT_TICK, Event::Waver);
        }
        world
    }

    pub fn trace(&self, what: fmt::Arguments<'_>) {
        if self.traced {
            eprintln!("{:>10} {what}", self.now.instant.as_nanos() / 1000);
        }
    }

    pub fn at(&mut self, at: Instant, event: Event) {
        self.next_event += 1;
        self.events.insert((at.max(self.now.instant), self.next_event), event);
    }

    pub fn after(&mut self, wait: Duration, event: Event) {
        self.at(self.now.instant + wait, event);
    }

    pub fn millis(&mut self, purpose: Of, most: u64) -> Duration {
        Duration::from_micros(self.chance.of(purpose).u64(0..=most * 1000))
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
        self.reference.now = instant;
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
            Event::OpenLink(epoch, link) if self.is_current(Place::Gateway, epoch) => self.open_link(link),
            Event::WillDue(client, number, epoch) => self.promise_will(client, number, epoch),
            Event::Waver => self.waver(),
            Event::Watch => self.watch(),
            Event::Kill(place, epoch) if self.is_current(place, epoch) => self.die(place, false),
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
            if self.chance.of(Of::Net).u32(0..4) == 0 {
                let wait = self.millis(Of::Net, 2);
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
            Rung::Link(link) => self.pump_link(link),
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
        let wait = self.millis(Of::Disk, wait);
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
            let most = self.chance.of(Of::Disk).usize(1..20);
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
        let (window, now) = (self.plan.recovered_window, self.now);
        let seed = self.chance.of(Of::Starts).u64(..);
        self.site(place).start(window, seed, now);
        self.trace(format_args!("{place:?} starts"));
        // As `attach_writer` does: what the start recorded goes first.
        self.visit(place, |_, _| ());
        let deadline = self.site(place).core.as_mut().and_then(Core::next_deadline);
        if let Some(at) = deadline {
            self.set_timer(place, at);
        }
        if place == Place::Gateway {
            self.buffer_bounds = [0, 1].map(|link| self.plan.buffer_bytes(link));
            for link in 0..self.sites[&place].links.len() {
                self.pump_link(link);
            }
            self.pump_line();
        }
    }

    /// The process ends, well or not: what it had only in memory is gone.
    pub fn die(&mut self, place: Place, well: bool) {
        let running = self.sites[&place].disk.running();
        let kept = if well { usize::MAX } else { self.chance.of(Of::Disk).usize(0..=running) };
        self.trace(format_args!("{place:?} dies, {kept} visits of its last commit are kept"));
        if well {
            self.site(place).disk.begin();
        }
        self.count_losses();
        self.site(place).die(kept);
        self.allow_what_came_back();
        self.rung.retain(|(of, _)| *of != place);
        let ids: Vec<u64> = self.conns.keys().copied().collect();
        for id in ids {
            let Some(conn) = self.conns.get_mut(&id) else { continue };
            if conn.place == place && !conn.server_gone {
                conn.server_gone = true;
                conn.will = None;
                conn.up.dead = true;
                self.break_pipe(id, Direction::Down, well);
            } else if place == Place::Gateway && matches!(conn.who, Who::Bridge(_)) && !conn.client_gone {
                conn.client_gone = true;
                conn.down.dead = true;
                self.break_pipe(id, Direction::Up, well);
            }
        }
        self.reference.faults += 1;
        let wait = self.millis(Of::Starts, 3000);
        self.after(wait, Event::Start(place));
    }
}
