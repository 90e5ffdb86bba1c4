//! The gateway of one case: the real `Core` and codec as a start builds them, in virtual time, on a disk whose commits
//! are steps. Carries bytes between it and the clients; judges nothing.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use bytes::BytesMut;
use tidegate::app::prepare::build;
use tidegate::auth::Credentials;
use tidegate::auth::passwords::Passwords;
use tidegate::base::time::{Duration, Instant, Now, Timestamp};
use tidegate::broker::Peer;
use tidegate::broker::effect::{ConnKey, Outgoing};
use tidegate::config::expand::Environment;
use tidegate::config::load;
use tidegate::config::model::Config;
use tidegate::hub::Bell;
use tidegate::hub::client::Flow;
use tidegate::hub::core::Core;
use tidegate::mqtt::frame::{Decoder, encode, encode_publish};
use tidegate::mqtt::packet;
use tidegate::store::record::{Lsn, Record};

use super::rows::Rows;
use super::settings::Settings;
use super::words::Version;

/// Of one spool, as many as a start of the store reads.
const ROWS_IN_MEMORY: usize = 1000;

/// Rounds of effects within one moment before the gateway counts as spinning.
const ROUNDS_MAX: u32 = 1000;

/// One connection, as its client sees it.
pub struct Client {
    key: ConnKey,
    decoder: Decoder,
    /// What the gateway has not taken.
    input: BytesMut,
    /// What the case has not looked at.
    pub output: BytesMut,
    /// What the client reads packets as.
    pub version: Version,
    /// A login is being checked: nothing more is read.
    waits: bool,
    /// The gateway has ended it.
    pub closed: bool,
    /// The case knows, or brought it about.
    pub end_expected: bool,
}

pub struct Gateway {
    config: Config,
    core: Core,
    disk: Rows,
    /// Visits whose records are not durable.
    pending: VecDeque<(Lsn, Vec<Record>)>,
    /// Nothing becomes durable by itself.
    pub disk_held: bool,
    now: Now,
    starts: u64,
    pub clients: BTreeMap<String, Client>,
}

impl Gateway {
    pub fn start(settings: &Settings) -> Result<Self, String> {
        let mut config = load::parse("case.yaml", &settings.yaml(), Path::new("/"), &Nothing)
            .map_err(|faults| format!("the settings are no configuration: {faults:?}"))?;
        if !settings.users.is_empty() {
            let file = settings.password_file();
            let passwords = Passwords::parse(&file).map_err(|errors| format!("{errors:?}"))?;
            config.broker.credentials = Credentials { passwords: Some(Arc::new(passwords)), tokens: None };
        }
        let now = Now {
            instant: Instant::ORIGIN + Duration::from_secs(100_000_000),
            wall: Timestamp::from_millis(1_795_255_200_000),
        };
        let disk = Rows::default();
        let (core, _) = build(&config, &mut disk.recovered(ROWS_IN_MEMORY), now, 1);
        let clients = BTreeMap::new();
        let pending = VecDeque::new();
        let mut gateway = Self { config, core, disk, pending, disk_held: false, now, starts: 1, clients };
        gateway.settle();
        Ok(gateway)
    }

    /// What is not durable is gone, connections are too; the next process starts from what the disk holds.
    pub fn crash(&mut self) {
        self.clients.clear();
        self.pending.clear();
        self.starts += 1;
        self.core = build(&self.config, &mut self.disk.recovered(ROWS_IN_MEMORY), self.now, self.starts).0;
        self.settle();
    }

    /// The end of a clean stop: everybody is told, everything is durable.
    pub fn stop(&mut self) {
        self.core.handle_shutdown(self.now);
        self.settle();
        self.commit();
    }

    pub fn open(&mut self, name: &str, version: Version, loopback: bool) -> Result<(), String> {
        let peer = Peer { loopback, ..Peer::default() };
        let key = self.core.handle_open(peer, Bell::default(), self.now).ok_or("the gateway takes nobody")?;
        let client = Client {
            key,
            decoder: Decoder::new(packet::Peer::Client, self.config.broker.limits.packet_bytes as usize),
            input: BytesMut::new(),
            output: BytesMut::new(),
            version,
            waits: false,
            closed: false,
            end_expected: false,
        };
        self.clients.insert(name.to_owned(), client);
        self.settle();
        Ok(())
    }

    /// The client's network connection is gone.
    pub fn cut(&mut self, name: &str) {
        if let Some(client) = self.clients.remove(name) {
            self.core.handle_closed(client.key, self.now);
            self.settle();
        }
    }

    pub fn receive(&mut self, name: &str, bytes: &[u8]) {
        let Some(client) = self.clients.get_mut(name) else { return };
        client.input.extend_from_slice(bytes);
        self.settle();
    }

    /// Lets time pass up to the next deadline, but not beyond `end`. False: `end` is reached.
    pub fn step(&mut self, end: Instant) -> bool {
        let due = self.core.next_deadline().filter(|at| *at <= end);
        self.set_time(due.unwrap_or(end));
        if due.is_some() {
            self.core.handle_timeout(self.now);
            self.settle();
        }
        due.is_some()
    }

    pub fn after(&mut self, duration: Duration) {
        let end = self.now.instant + duration;
        while self.step(end) {}
    }

    pub fn instant(&self) -> Instant {
        self.now.instant
    }

    /// All that waits becomes durable.
    pub fn commit(&mut self) {
        while self.commit_some() || self.settle_once() {}
    }

    fn set_time(&mut self, at: Instant) {
        let instant = at.max(self.now.instant);
        let millis = |at: Instant| i64::try_from(at.as_nanos() / 1_000_000).unwrap_or(i64::MAX);
        let passed = millis(instant) - millis(self.now.instant);
        self.now = Now { instant, wall: Timestamp::from_millis(self.now.wall.as_millis() + passed) };
    }

    /// Until nothing happens any more at this moment.
    fn settle(&mut self) {
        for round in 0.. {
            assert!(round < ROUNDS_MAX, "the gateway goes in circles");
            let moved = self.settle_once();
            let committed = !self.disk_held && self.commit_some();
            if !moved && !committed {
                return;
            }
        }
    }

    /// What each hand has to do. False: nothing.
    fn settle_once(&mut self) -> bool {
        let mut moved = false;
        let names: Vec<String> = self.clients.keys().cloned().collect();
        for name in &names {
            moved |= self.read(name);
        }
        self.core.settle(self.now);
        for login in self.core.take_authentications() {
            let (user, password) = (login.username.as_deref(), &login.password);
            let checked = self.config.broker.credentials.check(user, password, self.now.wall);
            self.core.handle_authenticated(login.conn, checked, self.now);
            self.core.settle(self.now);
            moved = true;
        }
        let ledger = self.core.ledger();
        if !ledger.log.is_empty() {
            let last = ledger.log.last();
            self.pending.push_back((last, ledger.log.take()));
        }
        for name in &names {
            moved |= self.write(name);
        }
        self.core.take_bells();
        moved
    }

    /// As the hand of a connection does: all that is whole goes in at once, and what is no packet behind it.
    fn read(&mut self, name: &str) -> bool {
        let Some(client) = self.clients.get_mut(name) else { return false };
        if client.closed || client.waits || client.input.is_empty() {
            return false;
        }
        let mut packets = Vec::new();
        let malformed = loop {
            match client.decoder.decode(&mut client.input) {
                Ok(Some(packet)) => packets.push(packet),
                Ok(None) => break None,
                Err(malformed) => break Some(malformed),
            }
        };
        let key = client.key;
        let moved = !packets.is_empty() || malformed.is_some();
        self.core.handle_packets(key, &mut packets, self.now);
        if let Some(malformed) = malformed {
            self.core.handle_malformed(key, malformed, self.now);
            self.core.settle(self.now);
        }
        moved
    }

    fn write(&mut self, name: &str) -> bool {
        let Some(client) = self.clients.get_mut(name).filter(|client| !client.closed) else { return false };
        let mut outgoing = Vec::new();
        let flow = self.core.take_outgoing(client.key, &mut outgoing);
        let moved = !outgoing.is_empty() || flow == Flow::Close;
        let version = client.decoder.version();
        for outgoing in outgoing {
            // A packet that a version has no form for is silence.
            let _ = match outgoing {
                Outgoing::Packet(packet) => encode(&packet, version, &mut client.output),
                Outgoing::Publish(delivery) => {
                    let head = delivery.head(delivery.message.expiry_left_secs(self.now));
                    encode_publish(&head, &delivery.message.payload, version, &mut client.output)
                }
            };
        }
        let resumed = client.waits && flow == Flow::Continue;
        client.waits = flow == Flow::Wait;
        if flow == Flow::Close {
            client.closed = true;
            self.core.handle_closed(client.key, self.now);
        }
        moved || resumed
    }

    /// The oldest visit becomes durable, and what was to be read behind it is read.
    fn commit_some(&mut self) -> bool {
        let mut moved = false;
        let loads: Vec<_> = self.core.ledger().loads.drain(..).collect();
        if let Some((lsn, records)) = self.pending.pop_front() {
            for record in records {
                self.disk.apply(record);
            }
            self.core.handle_durable(lsn, self.now);
            self.core.settle(self.now);
            moved = true;
        }
        if !self.pending.is_empty() {
            self.core.ledger().loads.extend(loads);
            return moved;
        }
        for load in loads {
            let entries = self.disk.load(&load, usize::MAX);
            self.core.handle_loaded(load, entries, self.now);
            self.core.settle(self.now);
            moved = true;
        }
        moved
    }
}

/// A case's settings use no variables.
struct Nothing;

impl Environment for Nothing {
    fn variable(&self, _name: &str) -> Option<String> {
        None
    }

    fn host_name(&self) -> Option<String> {
        None
    }
}
