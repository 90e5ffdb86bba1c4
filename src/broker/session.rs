//! A session: what a client's subscriptions, queue and will amount to, with or without a connection. Makes,
//! keeps and ends them; never reads a packet.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::few::Few;
use crate::base::ids::SlotKey;
use crate::base::time::{Duration, Instant, Now};
use crate::broker::access::Rights;
use crate::broker::deadlines::Due;
use crate::broker::effect::ConnKey;
use crate::broker::router::{Granted, NO_SHARE, Readiness, share_mark};
use crate::broker::terms::Marking;
use crate::broker::{Broker, Visit};
use crate::mqtt::message::Message;
use crate::mqtt::packet::connect::{Role, Will};
use crate::mqtt::qos::{PacketId, QoS};
use crate::mqtt::topic::{TopicFilter, TopicName};
use crate::spool::Hold;
use crate::spool::inbound::Inbound;
use crate::spool::packet_ids::PacketIds;
use crate::spool::queue::{Orphan, Spool};
use crate::spool::settings::{Bounds, Keeping, WhenFull};
use crate::store::record::{Entry, Lsn, Record, SessionRow, SpoolId};

/// Entries of one durable session's queue that are in memory at once; the rest stands on disk only.
pub const MEMORY_MESSAGES_MAX: usize = 1000;
/// The same in bytes of topics, payloads and properties.
pub const MEMORY_BYTES_MAX: usize = 1024 * 1024;
/// Filters of one session.
pub const SUBSCRIPTIONS_MAX: usize = 10_000;

/// The spool of a session that the store never hears of; numbers of others begin at 1.
pub const UNRECORDED: SpoolId = SpoolId(0);

/// The connection that a session has.
#[derive(Debug, Clone, Copy)]
pub struct Attached {
    pub conn: ConnKey,
    /// CONNACK has left.
    pub up: bool,
    /// Unacknowledged messages that the client takes.
    pub window: usize,
    /// The largest packet that the client takes, whole.
    pub packet_bytes_max: usize,
    /// Topic aliases that the client takes.
    pub topic_alias_max: u16,
    pub role: Role,
    pub marking: Marking,
}

#[derive(Debug)]
pub struct Session {
    pub client_id: Arc<str>,
    pub spool: Spool,
    pub inbound: Inbound,
    /// Whether queue and subscriptions outlive the connection.
    pub durable: bool,
    /// Who came for it last, and what that client may do. None: nobody since the start.
    pub rights: Option<Rights>,
    /// Whether the store has a row of it: all durable ones, and volatile ones with a will.
    pub recorded: bool,
    /// [MQTT-3.1.2-23]: seconds that it outlives its connection.
    pub expiry_secs: u32,
    pub attached: Option<Attached>,
    /// [MQTT-3.1.2-7]
    pub will: Option<Arc<Will>>,
    /// When the last connection went; without meaning before.
    pub disconnected_at: Now,
    /// When the will is due; None while the connection is there.
    pub will_at: Option<Instant>,
    /// When the session ends; None while the connection is there.
    pub expires_at: Option<Instant>,
    pub subscriptions: Few<TopicFilter, Granted>,
    /// What the PUBREC of each QoS 2 message from the client waits for, until it is released.
    pub receiving: BTreeMap<PacketId, Hold>,
    /// The last record of an inbound identifier: an answer about an unknown one waits for it too.
    pub inbound_lsn: Lsn,
    /// The deadline that is set for the spool.
    pub spool_due: Option<Instant>,
}

impl Session {
    pub fn is_online(&self) -> bool {
        self.attached.is_some_and(|attached| attached.up)
    }

    /// Whether the client that the message would go to may have it. While nobody has come that is not known: it is
    /// asked again when it is sent.
    pub fn may_receive(&self, topic: &TopicName) -> bool {
        self.rights.as_ref().is_none_or(|rights| rights.may_receive(topic))
    }

    /// Whether this member of a shared subscription can take a message; None where it may not have it.
    pub fn readiness(&self, message: &Message, granted: Granted) -> Option<Readiness> {
        if !self.may_receive(&message.topic) {
            return None;
        }
        let queued = message.qos.min(granted.options.qos) != QoS::AtMostOnce;
        Some(match self.is_online() {
            true if !queued || self.spool.has_window() => Readiness::Takes,
            _ if !queued || !self.spool.has_room(message.size_bytes()) => Readiness::Drops,
            true => Readiness::Busy,
            false => Readiness::Away,
        })
    }

    pub fn row(&self, disconnected_at: Option<Now>) -> Record {
        Record::SessionPut(SessionRow {
            spool: self.spool.id(),
            client_id: self.client_id.clone(),
            expiry_interval: self.expiry_secs,
            disconnected_at,
        })
    }

    pub fn expiry(&self) -> Duration {
        Duration::from_secs(u64::from(self.expiry_secs))
    }

    /// Puts expiry and will on the clock, `away` after the connection went [MQTT-3.1.2-8].
    pub fn start_clocks(&mut self, now: Instant, away: Duration) {
        self.expires_at = Some(now + self.expiry().saturating_sub(away));
        self.will_at = self.will.as_deref().map(|will| {
            let delay = Duration::from_secs(u64::from(will.delay_interval));
            now + delay.min(self.expiry()).saturating_sub(away)
        });
    }
}

impl Broker {
    /// A session without a connection yet, new [MQTT-3.1.2-6] or as a start found it.
    pub(super) fn insert_session(&mut self, client_id: Arc<str>, shape: Shape) -> SlotKey {
        let keeping = self.keeping(shape);
        let spool = self.new_spool(shape);
        let key = self.sessions.insert(Session {
            client_id: client_id.clone(),
            spool,
            inbound: Inbound::new(shape.spool, keeping),
            durable: shape.durable,
            rights: None,
            recorded: shape.recorded,
            expiry_secs: shape.expiry_secs,
            attached: None,
            will: None,
            disconnected_at: Now::default(),
            will_at: None,
            expires_at: None,
            subscriptions: Few::default(),
            receiving: BTreeMap::new(),
            inbound_lsn: Lsn(0),
            spool_due: None,
        });
        // [MQTT-3.1.3-2] [MQTT-3.1.3-2 of 3.1.1]
        self.by_client.insert(client_id, key);
        if shape.recorded {
            self.by_spool.insert(shape.spool, key);
        }
        key
    }

    /// [MQTT-4.1.0-2]: the session and all that belongs to it is gone; a will that waited is sent first. What
    /// publishers waited for in its queue is given up, or goes to others that shared a subscription with it. Retained
    /// messages are no session's, and stay [MQTT-3.1.2-7 of 3.1.1].
    pub(super) fn end_session(&mut self, key: SlotKey, visit: &mut Visit<'_>) {
        // [MQTT-3.1.2-8]: at the latest when the session ends.
        self.publish_will(key, visit);
        let Some(session) = self.sessions.remove(key) else { return };
        if self.by_client.get(&session.client_id) == Some(&key) {
            self.by_client.remove(&session.client_id);
        }
        let expiry = session.expires_at.map(|at| (at, Due::Expiry(key)));
        let commit = session.spool_due.map(|at| (at, Due::Spool(key)));
        for (at, due) in expiry.into_iter().chain(commit) {
            self.deadlines.remove(at, due);
        }
        for filter in session.subscriptions.keys() {
            self.router.unsubscribe(key, filter);
        }
        let spool = session.spool.id();
        self.stats.count_losses(session.spool.losses());
        let shared = |entry: &Entry| entry.rule != NO_SHARE;
        let orphans = session.spool.dissolve(shared, &mut visit.out.ledger);
        self.redeliver(orphans, &session.subscriptions, visit);
        if !session.recorded {
            return;
        }
        self.by_spool.remove(&spool);
        let lsn = visit.out.ledger.log.push(Record::SpoolDrop { spool });
        if session.durable {
            self.ended.insert(session.client_id, lsn);
        }
    }

    /// What a member of a group leaves behind goes to another one (4.8.2).
    fn redeliver(&mut self, orphans: Vec<Orphan>, left: &Few<TopicFilter, Granted>, visit: &mut Visit<'_>) {
        for orphan in orphans {
            let came_by = |filter: &&TopicFilter| {
                share_mark(filter) == orphan.entry.rule && filter.matches(&orphan.entry.message.topic)
            };
            let filter = left.keys().filter(|filter| filter.share_name().is_some()).find(came_by);
            match filter.and_then(|filter| self.router.group_of(filter)) {
                Some(group) => self.deliver_orphan(orphan, group, visit),
                None => visit.out.ledger.released.extend(orphan.hold),
            }
        }
    }

    /// Ends a session whose time is over [MQTT-4.1.0-2].
    pub(super) fn expire_session(&mut self, key: SlotKey, visit: &mut Visit<'_>) {
        let Some(session) = self.sessions.get(key) else { return };
        match session.expires_at {
            Some(at) if at <= visit.now.instant => {
                self.stats.clients_expired += u64::from(session.durable);
                self.end_session(key, visit);
            }
            Some(_) | None => {}
        }
    }

    /// After anything changed in a session's queue: sends what may leave, and notes what it waits for.
    pub(super) fn settle(&mut self, key: SlotKey, visit: &mut Visit<'_>) {
        self.send_queued(key, visit);
        let Some(session) = self.sessions.get_mut(key) else { return };
        if let Some(lsn) = session.spool.awaited() {
            self.awaited.insert((lsn, key));
        }
        let Some(at) = session.spool.next_deadline() else { return };
        if !session.is_online() {
            self.gathering.insert(key);
        }
        if session.spool_due.is_none_or(|due| at < due) {
            if let Some(later) = session.spool_due.replace(at) {
                self.deadlines.remove(later, Due::Spool(key));
            }
            self.deadlines.add(at, Due::Spool(key));
        }
    }

    pub(super) fn handle_spool_due(&mut self, key: SlotKey, visit: &mut Visit<'_>) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        // The deadline that fired, or one that a later visit has replaced already.
        if session.spool_due.is_some_and(|at| at > visit.now.instant) {
            return;
        }
        session.spool_due = None;
        session.spool.handle_timeout(visit.now, &mut visit.out.ledger);
        self.settle(key, visit);
    }

    pub(super) fn keeping(&self, shape: Shape) -> Keeping {
        if shape.durable { Keeping::Durable { commit: self.settings.commit } } else { Keeping::Volatile }
    }

    pub(super) fn new_spool(&self, shape: Shape) -> Spool {
        // [MQTT-2.2.1-4] [MQTT-4.3.2-1] [MQTT-4.3.3-1]
        Spool::new(shape.spool, self.keeping(shape), self.session_bounds(), PacketIds::up_to(u16::MAX))
    }

    /// When a session's queue is full the newest is dropped, as Mosquitto does: what a client was promised
    /// first stays whole and in order.
    pub(super) fn session_bounds(&self) -> Bounds {
        let limits = &self.settings.limits;
        Bounds {
            messages_max: u64::from(limits.queued_messages),
            bytes_max: limits.queued_bytes,
            age_max: None,
            when_full: WhenFull::DropNewest,
            memory_messages_max: MEMORY_MESSAGES_MAX,
            memory_bytes_max: MEMORY_BYTES_MAX,
        }
    }
}

/// What kind of session is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub spool: SpoolId,
    pub durable: bool,
    pub recorded: bool,
    pub expiry_secs: u32,
}

#[cfg(test)]
mod tests {
    use super::Session;

    /// A part of the 3 KiB that an idle connection may take in all.
    const SESSION_BYTES_MAX: usize = 840;

    #[test]
    fn a_session_takes_little_memory() {
        assert!(size_of::<Session>() <= SESSION_BYTES_MAX, "{} bytes", size_of::<Session>());
    }
}
