//! What clients and the messages between them amount to, whatever connection they have: the reference that the
//! broker is held against. Where the standard leaves a choice, it takes all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use tidegate::base::time::{Duration, Instant};
use tidegate::mqtt::packet::connect::Connect;
use tidegate::mqtt::packet::publish::Publish;
use tidegate::mqtt::packet::subscribe::SubscriptionOptions;
use tidegate::mqtt::qos::{PacketId, QoS};
use tidegate::mqtt::topic::{TopicFilter, TopicName};

/// A session that an acknowledged message has to arrive in: whose, and which of that client's.
pub type Heir = (Arc<str>, u32);

/// How far a QoS 2 message of a client has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publishing {
    Sent,
    /// PUBREL went, PUBCOMP has not come.
    Releasing,
    /// The client used the identifier again before it was free: which message it stands for only the broker knows.
    Unclear,
}

/// One client, by its identifier, through all of its connections.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
pub struct Person {
    /// Counts its sessions.
    pub epoch: u32,
    pub attached: bool,
    /// Since when it is away for all that the disk may say: that it is back, CONNACK does not wait for.
    pub away_since: Option<Instant>,
    pub expiry: Duration,
    /// Its session is on disk, for a subscription was acknowledged.
    pub firm: bool,
    /// The terms of the session changed, so that it may end at either's time.
    pub vague: bool,
    /// It does not take every message, or said so once.
    pub limited: bool,
    /// Acknowledged, and not given up since.
    pub subscriptions: BTreeMap<TopicFilter, SubscriptionOptions>,
    /// The last change of each filter that is under way or done, counted.
    pub changes: BTreeMap<TopicFilter, u64>,
    changes_made: u64,
    /// All that this session ever asked for.
    pub asked_for: BTreeSet<TopicFilter>,
    pub publishing: BTreeMap<PacketId, (Publishing, Bytes)>,
    /// Sent without an answer so far.
    pub unanswered: Vec<Publish>,
    pub to_release: Vec<PacketId>,
    /// QoS 2 messages that the broker has not released.
    pub receiving: BTreeMap<PacketId, Bytes>,
    /// Identifiers that PUBREC named.
    pub received: BTreeSet<PacketId>,
    /// Acknowledged to its publisher: it has to arrive.
    pub expected: BTreeSet<Bytes>,
    pub delivered: BTreeSet<Bytes>,
    /// How often a QoS 2 message arrived as a new one.
    pub copies: BTreeMap<Bytes, usize>,
    /// Those that the client ended in a way of its own, so that they may come again.
    pub forgiven: BTreeSet<Bytes>,
}

impl Person {
    /// The broker said that there is no session.
    pub fn begin(&mut self) {
        *self = Self { epoch: self.epoch + 1, limited: self.limited, ..Self::default() };
    }

    /// A CONNECT is on its way that may end the session or change its terms, whether it is answered or not.
    pub fn handle_connect(&mut self, connect: &Connect) {
        self.vague = true;
        if connect.properties.maximum_packet_size.is_some() {
            // What is too large for it is gone, whoever comes next.
            self.limited = true;
            self.expected.clear();
        }
        if connect.clean_start {
            self.give_up();
        }
    }

    /// The session may be over, whether its client hears of that or not: nothing has to arrive any more, and no
    /// identifier is sure to stand for what it stood for.
    pub fn give_up(&mut self) {
        for (stage, _) in self.publishing.values_mut() {
            *stage = Publishing::Unclear;
        }
        self.forgiven.extend(std::mem::take(&mut self.receiving).into_values());
        self.firm = false;
        self.expected.clear();
        self.subscriptions.clear();
    }

    /// Filters are subscribed or given up: until that is answered nothing is sure about them.
    pub fn change<'a>(&mut self, filters: impl Iterator<Item = &'a TopicFilter>) -> u64 {
        self.changes_made += 1;
        for filter in filters {
            self.subscriptions.remove(filter);
            self.asked_for.insert(filter.clone());
            self.changes.insert(filter.clone(), self.changes_made);
        }
        self.changes_made
    }

    /// A CONNECT was not answered: whatever it did, its client does not know.
    pub fn lose_track(&mut self) {
        self.vague = true;
        self.give_up();
    }

    pub fn begin_release(&mut self, id: PacketId) {
        if let Some((stage @ Publishing::Sent, _)) = self.publishing.get_mut(&id) {
            *stage = Publishing::Releasing;
        }
    }

    /// PUBCOMP, or a PUBREC that refuses: the identifier is free.
    pub fn end_publishing(&mut self, id: PacketId) {
        if self.publishing.get(&id).is_some_and(|(stage, _)| *stage != Publishing::Unclear) {
            self.publishing.remove(&id);
        }
    }

    pub fn leave(&mut self, now: Instant) {
        self.attached = false;
        self.away_since.get_or_insert(now);
    }

    /// Whether the session has to be there.
    pub fn must_live(&self, now: Instant) -> bool {
        let in_time = self.away_since.is_none_or(|at| now.since(at) < self.expiry);
        self.firm && !self.vague && in_time
    }

    /// The client ended a delivery by itself.
    pub fn end_delivery(&mut self, id: PacketId) {
        if let Some(payload) = self.receiving.remove(&id) {
            self.forgiven.insert(payload);
        }
    }

    /// A PUBLISH came from the broker: it is one that was asked for, and one message at a time has an identifier.
    pub fn handle_delivery(&mut self, publish: &Publish, topic: &TopicName, sent: &Sent) {
        assert!(self.asked_for.iter().any(|filter| filter.matches(topic)), "{topic} was never asked for");
        self.delivered.insert(publish.payload.clone());
        let Some(id) = publish.packet_id.filter(|_| publish.qos == QoS::ExactlyOnce) else { return };
        if let Some(before) = self.receiving.insert(id, publish.payload.clone()) {
            assert_eq!(before, publish.payload, "{id} is not released");
            return;
        }
        if publish.retain || self.forgiven.contains(&publish.payload) {
            return;
        }
        let copies = self.copies.entry(publish.payload.clone()).or_default();
        *copies += 1;
        let groups = self.asked_for.iter().filter(|filter| filter.share_name().is_some()).count();
        assert!(*copies <= sent.times * (1 + groups), "{:?} came {copies} times", publish.payload);
    }
}

/// A payload that somebody sent.
#[derive(Debug, Default)]
pub struct Sent {
    pub times: usize,
    pub topics: BTreeSet<TopicName>,
    /// By an alias: its topic is whatever the alias stood for.
    pub anywhere: bool,
}

#[derive(Debug, Default)]
pub struct Reference {
    pub persons: BTreeMap<Arc<str>, Person>,
    pub sent: BTreeMap<Bytes, Sent>,
    pub now: Instant,
    /// Neither narrow bounds nor access rules: every message arrives.
    pub complete: bool,
}

impl Reference {
    /// A name for one that the broker is to name: nobody comes back to it, and nothing has to arrive there.
    pub fn nameless(&mut self) -> Arc<str> {
        let name: Arc<str> = format!("?{}", self.persons.len()).into();
        self.person(&name).limited = true;
        name
    }

    pub fn person(&mut self, name: &Arc<str>) -> &mut Person {
        self.persons.entry(name.clone()).or_default()
    }

    /// Without a topic: by an alias.
    pub fn note_sent(&mut self, topic: Option<&TopicName>, payload: &Bytes) {
        let sent = self.sent.entry(payload.clone()).or_default();
        sent.times += 1;
        sent.topics.extend(topic.cloned());
        sent.anywhere |= topic.is_none();
    }

    /// The broker has it already: it was no new message.
    pub fn note_repeated(&mut self, payload: &Bytes) {
        if let Some(sent) = self.sent.get_mut(payload) {
            sent.times = sent.times.saturating_sub(1);
        }
    }

    /// In whose sessions a message has to arrive once it is acknowledged.
    pub fn heirs(&self, topic: &TopicName, publisher: Option<&str>) -> Vec<Heir> {
        let reserved = topic.levels().next() == Some("$SYS");
        if reserved || !self.complete {
            return Vec::new();
        }
        let entitled = self.persons.iter().filter(|(name, person)| {
            let own = publisher == Some(name);
            let takes = |(filter, options): (&TopicFilter, &SubscriptionOptions)| {
                filter.share_name().is_none()
                    && filter.matches(topic)
                    && options.qos != QoS::AtMostOnce
                    && !(own && options.no_local)
            };
            person.must_live(self.now) && !person.limited && person.subscriptions.iter().any(takes)
        });
        entitled.map(|(name, person)| (name.clone(), person.epoch)).collect()
    }

    /// The publisher was told that the message is safe: in every session that has not ended meanwhile.
    pub fn expect(&mut self, payload: &Bytes, heirs: &[Heir]) {
        let now = self.now;
        for (name, epoch) in heirs {
            let Some(person) = self.persons.get_mut(name) else { continue };
            if person.epoch == *epoch && person.must_live(now) && !person.limited {
                person.expected.insert(payload.clone());
            }
        }
    }

    /// Everything is on disk, and with it who is there.
    pub fn note_durable(&mut self) {
        for person in self.persons.values_mut().filter(|person| person.attached) {
            person.away_since = None;
        }
    }
}
