//! The broker brain: sessions, subscriptions, routing, acknowledgements, for MQTT 3.1, 3.1.1 and 5.0. No I/O,
//! no clock, no task: packets and time come in, effects go out. This file holds its parts and what each visit is
//! passed on to.

pub mod access;
mod barrier;
mod close;
mod connect;
mod connection;
mod deadlines;
mod deliver;
pub mod effect;
pub mod login;
mod publish;
mod recover;
mod retained;
pub mod router;
mod session;
mod subscribe;
pub mod sys;
pub mod trie;
pub mod violation;
mod will;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::base::ids::{SlotKey, Slots};
use crate::base::time::{Duration, Instant, Now};
use crate::broker::access::Denied;
use crate::broker::barrier::{Barrier, Owner};
use crate::broker::connection::{Conn, Link};
use crate::broker::deadlines::{Deadlines, Due};
use crate::broker::effect::{ConnKey, Effects, Outgoing};
use crate::broker::retained::Retained;
use crate::broker::router::{Router, Target};
use crate::broker::session::Session;
use crate::broker::sys::Stats;
use crate::broker::violation::{Fault, Violation};
use crate::config::access::AccessRule;
use crate::config::model::{Anonymous, Limits};
use crate::mqtt::packet::Packet;
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::topic::TopicFilter;
use crate::spool::Hold;
use crate::store::record::{Entry, Load, Lsn, SpoolId};

/// How long a connection may stay without CONNECT.
pub const CONNECT_WAIT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub struct Settings {
    pub limits: Limits,
    pub anonymous: Anonymous,
    /// Whether there is something that names can be held against; without it nobody can be known.
    pub logins: bool,
    /// None: everybody may do everything.
    pub access: Option<Arc<[AccessRule]>>,
    /// The longest that a message for a durable session that is online waits in memory before it is recorded.
    pub commit: Duration,
    /// For client identifiers that the broker assigns.
    pub seed: u64,
    /// How often `$SYS` topics are published; None: never.
    pub sys_interval: Option<Duration>,
}

/// Where a connection comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peer {
    pub loopback: bool,
    /// IPv6, or IPv4 mapped into it.
    pub address: u128,
    /// Whom its verified certificate names: who it is, whatever CONNECT says.
    pub certificate_user: Option<Arc<str>>,
}

/// One entry of the door: when, and where effects go.
#[derive(Debug)]
struct Visit<'a> {
    now: Now,
    out: &'a mut Effects,
}

#[derive(Debug)]
pub struct Broker {
    settings: Settings,
    conns: Slots<Conn>,
    sessions: Slots<Session>,
    by_client: BTreeMap<Arc<str>, SlotKey>,
    /// Sessions that the store knows.
    by_spool: BTreeMap<SpoolId, SlotKey>,
    router: Router,
    retained: Retained,
    barrier: Barrier,
    deadlines: Deadlines,
    /// Sessions whose queue waits for a position.
    awaited: BTreeSet<(Lsn, SlotKey)>,
    /// Bytes that the buffers behind forward rules still take; a rule that is missing takes everything.
    gates: BTreeMap<(u16, u16), u64>,
    durable: Lsn,
    /// Durable sessions whose end is not on disk. Who is told that none is there waits for it: else a crash would
    /// bring back what the client was told is gone. Bounded by what one commit takes.
    ended: BTreeMap<Arc<str>, Lsn>,
    /// Clients are not read at all.
    reading_paused: bool,
    /// When that was over the last time.
    read_since: Instant,
    /// Connections whose CONNACK has just left.
    opened: Vec<ConnKey>,
    next_spool: u32,
    random: fastrand::Rng,
    started: Option<Instant>,
    stats: Stats,
    denied: Option<Denied>,
}

impl Broker {
    pub fn new(settings: Settings) -> Self {
        let random = fastrand::Rng::with_seed(settings.seed);
        Self {
            settings,
            conns: Slots::default(),
            sessions: Slots::default(),
            by_client: BTreeMap::new(),
            by_spool: BTreeMap::new(),
            router: Router::default(),
            retained: Retained::default(),
            barrier: Barrier::default(),
            deadlines: Deadlines::default(),
            awaited: BTreeSet::new(),
            gates: BTreeMap::new(),
            durable: Lsn(0),
            ended: BTreeMap::new(),
            reading_paused: false,
            read_since: Instant::ORIGIN,
            opened: Vec::new(),
            next_spool: 1,
            random,
            started: None,
            stats: Stats::default(),
            denied: None,
        }
    }

    /// A number for a new spool; sessions and bridges share them.
    pub fn next_spool_id(&mut self) -> SpoolId {
        let id = SpoolId(self.next_spool);
        self.next_spool = self.next_spool.saturating_add(1);
        id
    }

    /// Messages that match go to the buffer of a bridge.
    pub fn forward(&mut self, filter: &TopicFilter, bridge: u16, rule: u16) {
        self.router.add(filter, Target::Forward { bridge, rule });
    }

    /// Messages that match are commands to a device.
    pub fn command(&mut self, topic: &TopicFilter, device: u16) {
        self.router.add(topic, Target::Device(device));
    }

    /// What the buffer behind a forward rule still takes. None: it takes everything, and drops by itself. Some:
    /// a message that is larger is refused to its publisher.
    pub fn handle_gate(&mut self, bridge: u16, rule: u16, room_bytes: Option<u64>) {
        match room_bytes {
            Some(room) => self.gates.insert((bridge, rule), room),
            None => self.gates.remove(&(bridge, rule)),
        };
    }

    /// A connection was accepted. CONNECT has to come within [`CONNECT_WAIT`].
    pub fn handle_open(&mut self, peer: Peer, now: Now) -> ConnKey {
        self.start(now);
        let key = self.conns.insert(Conn::new(peer, now.instant));
        self.set_due(key, now.instant + CONNECT_WAIT, Due::Connect(key));
        key
    }

    /// Hands stop reading clients, or go on: what a client says meanwhile nobody hears, so that its silence
    /// does not count.
    pub fn handle_reading(&mut self, paused: bool, now: Now) {
        self.reading_paused = paused;
        self.read_since = now.instant;
    }

    /// The client is not read for it reads too slowly, but it does read: it is there.
    pub fn handle_progress(&mut self, key: ConnKey, now: Now) {
        if let Some(conn) = self.conns.get_mut(key) {
            conn.last_seen = now.instant;
        }
    }

    /// A packet came. An error was answered already and has closed the connection.
    pub fn handle_packet(
        &mut self,
        key: ConnKey,
        packet: Packet,
        now: Now,
        out: &mut Effects,
    ) -> Result<(), Violation> {
        let mut visit = Visit { now, out };
        // After a refusal nothing more is processed [MQTT-3.1.4-6].
        let Some(conn) = self.conns.get_mut(key) else { return Ok(()) };
        conn.last_seen = now.instant;
        self.stats.messages_received += 1;
        self.process(key, packet, &mut visit)
    }

    /// Someone let go of what an acknowledgement waited for.
    pub fn handle_released(&mut self, hold: Hold, out: &mut Effects) {
        match self.barrier.release(hold) {
            Some(Owner::Conn(conn)) => {
                if let Some(link) = self.conns.get_mut(conn).and_then(|conn| conn.link.as_mut()) {
                    link.handle_done(hold);
                }
                self.release_owed(conn, out);
            }
            Some(Owner::Token(token)) => out.completed.push(token),
            None => {}
        }
    }

    /// Records up to `lsn` are on disk.
    pub fn handle_durable(&mut self, lsn: Lsn, now: Now, out: &mut Effects) {
        self.durable = self.durable.max(lsn);
        self.ended.retain(|_, at| *at > lsn);
        while let Some(hold) = self.barrier.next_durable(lsn) {
            self.handle_released(hold, out);
        }
        let mut visit = Visit { now, out };
        self.attach_opened(&mut visit);
        while let Some((at, key)) = self.awaited.first().copied()
            && at <= lsn
        {
            self.awaited.pop_first();
            let Some(session) = self.sessions.get_mut(key) else { continue };
            session.spool.handle_durable(lsn, &mut visit.out.ledger);
            self.settle(key, &mut visit);
        }
    }

    /// Entries that were asked for. False: the spool is not a session's.
    pub fn handle_loaded(&mut self, load: Load, entries: Vec<Entry>, now: Now, out: &mut Effects) -> bool {
        let Some(&key) = self.by_spool.get(&load.spool) else { return false };
        let Some(session) = self.sessions.get_mut(key) else { return false };
        session.spool.handle_loaded(entries, &mut out.ledger);
        self.settle(key, &mut Visit { now, out });
        true
    }

    /// What was due by now happens.
    pub fn handle_timeout(&mut self, now: Now, out: &mut Effects) {
        self.start(now);
        let mut visit = Visit { now, out };
        while let Some(due) = self.deadlines.take_due(now.instant) {
            match due {
                Due::Connect(key) => self.handle_connect_due(key, &mut visit),
                Due::KeepAlive(key) => self.handle_keep_alive_due(key, &mut visit),
                Due::Token(key) => self.handle_token_due(key, &mut visit),
                Due::Parting(key) => self.close_with(key, ReasonCode::QuotaExceeded, &mut visit),
                Due::Expiry(key) => self.expire_session(key, &mut visit),
                Due::Will(key) => self.handle_will_due(key, &mut visit),
                Due::Spool(key) => self.handle_spool_due(key, &mut visit),
                Due::RetainedSoon => self.retained.write_soon(&mut visit.out.ledger.log),
                Due::RetainedLate => self.handle_retained_late(&mut visit),
                Due::Sys => self.publish_sys(&mut visit),
            }
        }
    }

    /// When `handle_timeout` has something to do, and what.
    pub fn next_deadline(&self) -> Option<(Instant, &'static str)> {
        self.deadlines.next()
    }

    /// The first visit: what repeats begins.
    fn start(&mut self, now: Now) {
        if self.started.is_some() {
            return;
        }
        self.started = Some(now.instant);
        if self.settings.sys_interval.is_some() {
            self.deadlines.add(now.instant, Due::Sys);
        }
    }

    fn process(&mut self, key: ConnKey, packet: Packet, visit: &mut Visit<'_>) -> Result<(), Violation> {
        let Some(conn) = self.conns.get_mut(key) else { return Ok(()) };
        let applied = match (&mut conn.login, conn.link.is_some(), packet) {
            (Some(login), _, packet) => Self::keep_waiting(login, packet),
            // Each packet adds at most one.
            (None, true, _) if conn.link.as_ref().is_some_and(Link::is_full) => Err(Fault::TooManyUnanswered),
            (None, false, Packet::Connect(connect)) => {
                self.apply_connect(key, connect, visit);
                Ok(())
            }
            // [MQTT-3.1.0-1]
            (None, false, _) => Err(Fault::FirstPacketNotConnect),
            (None, true, packet) => self.apply_packet(key, packet, visit),
        };
        let Err(fault) = applied else { return Ok(()) };
        if fault == Fault::BufferFull && self.part_later(key) {
            return Ok(());
        }
        let violation = Violation::from(fault);
        self.stats.violations += 1;
        self.close_with(key, violation.reason, visit);
        Err(violation)
    }

    fn apply_packet(&mut self, key: ConnKey, packet: Packet, visit: &mut Visit<'_>) -> Result<(), Fault> {
        match packet {
            Packet::Publish(publish) => return self.apply_publish(key, publish, visit),
            Packet::Puback(ack) => self.apply_puback(key, &ack, visit),
            Packet::Pubrec(ack) => self.apply_pubrec(key, &ack, visit),
            Packet::Pubrel(ack) => self.apply_pubrel(key, &ack, visit),
            Packet::Pubcomp(ack) => self.apply_pubcomp(key, &ack, visit),
            Packet::Subscribe(subscribe) => return self.apply_subscribe(key, subscribe, visit),
            Packet::Unsubscribe(unsubscribe) => return self.apply_unsubscribe(key, &unsubscribe, visit),
            // [MQTT-3.12.4-1]
            Packet::Pingreq => self.answer(key, Packet::Pingresp, visit),
            Packet::Disconnect(disconnect) => return self.apply_disconnect(key, &disconnect, visit),
            // [MQTT-3.1.0-2]
            Packet::Connect(_) => return Err(Fault::SecondConnect),
            // No method is ever agreed on [MQTT-4.12.0-7].
            Packet::Auth(_) => return Err(Fault::UnexpectedAuth),
            Packet::Connack(_) | Packet::Suback(_) | Packet::Unsuback(_) | Packet::Pingresp => {
                return Err(Fault::ServerPacket);
            }
        }
        Ok(())
    }

    /// Sets the deadline of a connection, in place of the one that it had.
    fn set_due(&mut self, key: ConnKey, at: Instant, due: Due) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        if let Some((at, due)) = conn.due.replace((at, due)) {
            self.deadlines.remove(at, due);
        }
        self.deadlines.add(at, due);
    }

    fn send(&mut self, key: ConnKey, packet: Packet, out: &mut Effects) {
        self.stats.messages_sent += 1;
        out.sends.push((key, Outgoing::Packet(packet)));
    }

    fn session_of(&self, key: ConnKey) -> Option<SlotKey> {
        Some(self.conns.get(key)?.link.as_ref()?.session)
    }
}
