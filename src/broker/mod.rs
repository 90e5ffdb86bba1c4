//! The broker brain: sessions, subscriptions, routing, acknowledgements, for MQTT 3.1, 3.1.1 and 5.0. No I/O,
//! no clock, no task: packets and time come in, effects go out. Asks nothing of a client that the standards do not
//! [MQTT-7.0.0-2 of 3.1.1]. This file holds its parts and what each visit is
//! passed on to.

pub mod access;
mod barrier;
mod clock;
mod close;
mod connect;
mod connection;
mod deadlines;
mod deliver;
pub mod disk;
pub mod effect;
mod limits;
pub mod login;
mod pace;
mod publish;
mod recover;
pub mod refusal;
mod retained;
pub mod roster;
pub mod router;
pub mod session;
mod subscribe;
pub mod sys;
pub mod terms;
pub mod throttle;
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
use crate::broker::disk::Outage;
use crate::broker::effect::{ConnKey, Effects, Outgoing};
use crate::broker::pace::Waiting;
use crate::broker::retained::Retained;
use crate::broker::router::{Router, Target};
use crate::broker::session::Session;
use crate::broker::sys::Stats;
use crate::broker::throttle::Throttled;
use crate::broker::violation::{Fault, Violation};
use crate::config::access::AccessRule;
use crate::config::limits::Limits;
use crate::config::model::Anonymous;
use crate::mqtt::packet::Packet;
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::topic::TopicFilter;
use crate::spool::Hold;
use crate::store::record::{Entry, Load, Lsn, SpoolId};

/// How long a connection may stay without CONNECT.
pub const CONNECT_WAIT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub struct Settings {
    /// What this gateway's bridges mark messages with that may come back.
    pub mark: Arc<str>,
    pub limits: Limits,
    pub anonymous: Anonymous,
    /// Whether there is something that names can be held against; without it nobody can be known.
    pub logins: bool,
    /// None: everybody may do everything.
    pub access: Option<Arc<[AccessRule]>>,
    /// The longest that a message for a durable session waits in memory before it is recorded.
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
    /// Sessions whose queue may gather for a commit.
    gathering: BTreeSet<SlotKey>,
    /// Bytes that the buffers behind forward rules still take; a rule that is missing takes everything.
    gates: BTreeMap<(u16, u16), u64>,
    durable: Lsn,
    /// The disk takes nothing.
    outage: Option<Outage>,
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
    /// When `$SYS` is published next.
    sys_due: Option<Instant>,
    random: fastrand::Rng,
    started: Option<Instant>,
    stats: Stats,
    denied: Option<Denied>,
    throttled: Option<Throttled>,
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
            gathering: BTreeSet::new(),
            gates: BTreeMap::new(),
            durable: Lsn(0),
            outage: None,
            ended: BTreeMap::new(),
            reading_paused: false,
            read_since: Instant::ORIGIN,
            opened: Vec::new(),
            next_spool: 1,
            sys_due: None,
            random,
            started: None,
            stats: Stats::default(),
            denied: None,
            throttled: None,
        }
    }

    /// What this gateway's bridges mark messages with that may come back.
    pub fn mark(&self) -> Arc<str> {
        Arc::clone(&self.settings.mark)
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

    /// No new message goes to the buffer of a bridge by this rule.
    pub fn forget_forward(&mut self, filter: &TopicFilter, bridge: u16, rule: u16) {
        self.router.remove(filter, Target::Forward { bridge, rule });
        self.gates.remove(&(bridge, rule));
    }

    /// Messages that match are no commands to this device.
    pub fn forget_command(&mut self, topic: &TopicFilter, device: u16) {
        self.router.remove(topic, Target::Device(device));
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
        // After a refusal nothing more is processed [MQTT-3.1.4-6] [MQTT-3.1.4-5 of 3.1.1].
        let Some(conn) = self.conns.get_mut(key) else { return Ok(()) };
        conn.last_seen = now.instant;
        self.stats.messages_received += 1;
        self.process(key, packet, &mut visit)
    }

    /// Someone let go of what an acknowledgement waited for.
    pub fn handle_released(&mut self, hold: Hold, now: Now, out: &mut Effects) {
        match self.barrier.release(hold) {
            Some(Owner::Conn(conn)) => {
                if let Some(link) = self.conns.link_mut(conn) {
                    link.handle_done(hold);
                }
                self.release_owed(conn, &mut Visit { now, out });
            }
            Some(Owner::Token(token)) => out.completed.push(token),
            Some(Owner::Hold(hold)) => out.ledger.released.push(hold),
            None => {}
        }
    }

    /// A message gathers with others for a commit: whoever waits for it may be able to publish more, or not.
    pub fn handle_gathered(&mut self, hold: Hold, out: &mut Effects) {
        match self.barrier.owner(hold) {
            Some(Owner::Conn(key)) => self.watch(key, out),
            // A cloud has one window for all that it sends.
            Some(Owner::Token(_)) => out.hurry = true,
            Some(Owner::Hold(hold)) => out.ledger.gathered.push(hold),
            None => {}
        }
    }

    /// What gathers in queues whose client is away is recorded.
    pub fn handle_hurry(&mut self, now: Now, out: &mut Effects) {
        for key in std::mem::take(&mut self.gathering) {
            let Some(session) = self.sessions.get_mut(key) else { continue };
            session.spool.handle_hurry(&mut out.ledger);
            self.settle(key, &mut Visit { now, out });
        }
    }

    /// Records up to `lsn` are on disk.
    pub fn handle_durable(&mut self, lsn: Lsn, now: Now, out: &mut Effects) {
        self.durable = self.durable.max(lsn);
        self.ended.retain(|_, at| *at > lsn);
        while let Some(hold) = self.barrier.next_durable(lsn) {
            self.handle_released(hold, now, out);
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
                Due::Throttle(key) => self.handle_throttle_due(key, &mut visit),
                Due::Parting(key) => self.close_with(key, ReasonCode::QuotaExceeded, &mut visit),
                Due::Expiry(key) => self.expire_session(key, &mut visit),
                Due::Will(key) => self.handle_will_due(key, &mut visit),
                Due::Waiting(key) => self.handle_waiting_due(key, &mut visit),
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
            self.sys_due = Some(now.instant);
            self.deadlines.add(now.instant, Due::Sys);
        }
    }

    fn process(&mut self, key: ConnKey, packet: Packet, visit: &mut Visit<'_>) -> Result<(), Violation> {
        let applied = match self.hold_back(key, packet, visit.now.instant) {
            Ok(Some(packet)) => self.apply(key, packet, visit),
            Ok(None) => Ok(()),
            Err(fault) => Err(fault),
        };
        self.conclude(key, applied, visit)
    }

    fn apply(&mut self, key: ConnKey, packet: Packet, visit: &mut Visit<'_>) -> Result<(), Fault> {
        let Some(conn) = self.conns.get_mut(key) else { return Ok(()) };
        match (&mut conn.login, conn.link.is_some(), packet) {
            (Some(login), _, packet) => Self::keep_waiting(login, packet),
            // Each packet adds at most one.
            (None, true, _) if conn.link.as_ref().is_some_and(Link::is_full) => Err(Fault::TooManyUnanswered),
            (None, false, Packet::Connect(connect)) => {
                self.apply_connect(key, connect, visit);
                Ok(())
            }
            // [MQTT-3.1.0-1] [MQTT-3.1.0-1 of 3.1.1]
            (None, false, _) => Err(Fault::FirstPacketNotConnect),
            (None, true, packet) => self.apply_packet(key, packet, visit),
        }
    }

    /// A fault ends the connection.
    fn conclude(
        &mut self,
        key: ConnKey,
        applied: Result<(), Fault>,
        visit: &mut Visit<'_>,
    ) -> Result<(), Violation> {
        let Err(fault) = applied else { return Ok(()) };
        if fault == Fault::BufferFull && self.part_later(key) {
            return Ok(());
        }
        let violation = Violation::from(fault);
        self.count_violation(violation.reason);
        self.close_with(key, violation.reason, visit);
        Err(violation)
    }

    fn apply_packet(&mut self, key: ConnKey, packet: Packet, visit: &mut Visit<'_>) -> Result<(), Fault> {
        match packet {
            Packet::Publish(publish) => {
                self.check_retain(key, &publish)?;
                return self.apply_publish(key, publish, visit);
            }
            Packet::Puback(ack) => self.apply_puback(key, &ack, visit),
            Packet::Pubrec(ack) => self.apply_pubrec(key, &ack, visit),
            Packet::Pubrel(ack) => self.apply_pubrel(key, &ack, visit),
            Packet::Pubcomp(ack) => self.apply_pubcomp(key, &ack, visit),
            Packet::Subscribe(subscribe) => {
                self.check_answer(key, subscribe.packet_id, subscribe.filters.len())?;
                return self.apply_subscribe(key, subscribe, visit);
            }
            Packet::Unsubscribe(unsubscribe) => {
                self.check_answer(key, unsubscribe.packet_id, unsubscribe.filters.len())?;
                self.apply_unsubscribe(key, &unsubscribe, visit);
            }
            // [MQTT-3.12.4-1] [MQTT-3.12.4-1 of 3.1.1]
            Packet::Pingreq => self.answer(key, Packet::Pingresp, visit),
            Packet::Disconnect(disconnect) => return self.apply_disconnect(key, &disconnect, visit),
            // [MQTT-3.1.0-2] [MQTT-3.1.0-2 of 3.1.1]
            Packet::Connect(_) => return Err(Fault::SecondConnect),
            // No method is ever agreed on [MQTT-4.12.0-7], so none can be used again [MQTT-4.12.1-2].
            Packet::Auth(_) => return Err(Fault::UnexpectedAuth),
            Packet::Connack(_) | Packet::Suback(_) | Packet::Unsuback(_) | Packet::Pingresp => {
                return Err(Fault::ServerPacket);
            }
        }
        Ok(())
    }

    /// Looks at a connection again when it has been silent for so long that it must wait for its acknowledgement.
    fn watch(&mut self, key: ConnKey, out: &mut Effects) {
        let link = self.conns.link_mut(key);
        let Some(pace) = link.and_then(|link| link.pace.as_deref_mut()) else { return };
        match pace.waiting() {
            Waiting::Surely => out.hurry = true,
            Waiting::From(at) if pace.due.is_none_or(|due| at < due) => {
                if let Some(later) = pace.due.replace(at) {
                    self.deadlines.remove(later, Due::Waiting(key));
                }
                self.deadlines.add(at, Due::Waiting(key));
            }
            Waiting::From(_) => {}
        }
    }

    fn handle_waiting_due(&mut self, key: ConnKey, visit: &mut Visit<'_>) {
        let Some(link) = self.conns.link_mut(key) else { return };
        let owes_nothing = link.owes_nothing();
        let Some(pace) = link.pace.as_deref_mut() else { return };
        pace.due = None;
        if owes_nothing {
            return;
        }
        match pace.waiting() {
            Waiting::From(at) if at > visit.now.instant => self.watch(key, visit.out),
            Waiting::From(_) | Waiting::Surely => visit.out.hurry = true,
        }
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
        self.conns.link(key).map(|link| link.session)
    }
}
