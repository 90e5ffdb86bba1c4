//! What the brains ask the store to keep, as plain values, and where each stands in the log. Pure: the
//! writer thread turns records into SQL, a simulated disk turns them into a map.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::time::Now;
use crate::mqtt::message::Message;
use crate::mqtt::packet::connect::Will;
use crate::mqtt::packet::subscribe::SubscriptionOptions;
use crate::mqtt::qos::{PacketId, QoS};
use crate::mqtt::topic::{TopicFilter, TopicName};

/// A position in the log of records. Records become durable in this order, and all records of one visit to
/// the door become durable together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

/// A durable session's or a bridge's number. Never reused while the database lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpoolId(pub u32);

impl SpoolId {
    /// No spool has it: what is kept of the gateway's own clients stands under it.
    pub const LAN: Self = Self(0);
}

/// The place of an entry in its spool. Grows, never reused, may have gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seq(pub u64);

/// How far a QoS 2 message of ours has come (MQTT 4.3.3); a QoS 1 message is never recorded as in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// PUBLISH may have left: it is sent again with this packet identifier.
    Published = 1,
    /// PUBREC came: only PUBREL may be sent from now on [MQTT-4.3.3-6].
    Released = 2,
}

/// A message in a spool, with all that its sending needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub seq: Seq,
    /// The QoS that it will be sent with: 1 or 2.
    pub qos: QoS,
    /// The RETAIN flag that it will be sent with.
    pub retain: bool,
    /// A bridge's `forward` rule, by its index. For sessions: the mark of the shared subscription that brought it, or 0.
    pub rule: u16,
    /// MQTT 5 3.3.2.3.8, of every subscription that matched.
    pub subscription_identifiers: Box<[u32]>,
    pub message: Arc<Message>,
}

/// A session that outlives its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRow {
    pub spool: SpoolId,
    pub client_id: Arc<str>,
    /// Seconds that it outlives its connection; `u32::MAX`: for ever.
    pub expiry_interval: u32,
    /// None while it is connected; else since when it is not.
    pub disconnected_at: Option<Now>,
}

/// One change to what is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// Makes or updates a session.
    SessionPut(SessionRow),
    /// Removes a session or a buffer with all that belongs to it.
    SpoolDrop {
        spool: SpoolId,
    },
    /// Names the spool of a bridge.
    BufferPut {
        spool: SpoolId,
        bridge: Arc<str>,
    },
    SubscriptionPut {
        spool: SpoolId,
        filter: TopicFilter,
        options: SubscriptionOptions,
        identifier: Option<u32>,
    },
    SubscriptionDrop {
        spool: SpoolId,
        filter: TopicFilter,
    },
    WillPut {
        spool: SpoolId,
        will: Arc<Will>,
    },
    WillDrop {
        spool: SpoolId,
    },
    EntryPut {
        spool: SpoolId,
        entry: Entry,
    },
    EntryDrop {
        spool: SpoolId,
        seq: Seq,
        /// That of the entry: what waits is counted by rules.
        rule: u16,
    },
    /// Makes or updates. The entry may be dropped once the phase is `Released`; the row stays.
    InflightPut {
        spool: SpoolId,
        packet_id: PacketId,
        seq: Seq,
        phase: Phase,
    },
    InflightDrop {
        spool: SpoolId,
        packet_id: PacketId,
    },
    /// A QoS 2 packet identifier of the far end that is not released yet [MQTT-4.3.3-10].
    InboundPut {
        spool: SpoolId,
        packet_id: PacketId,
    },
    InboundDrop {
        spool: SpoolId,
        packet_id: PacketId,
    },
    /// The number of the last Sparkplug session that this spool's far end was told of.
    BirthPut {
        spool: SpoolId,
        bd_seq: u8,
    },
    /// Replaces the retained message of its topic.
    RetainedPut {
        message: Arc<Message>,
    },
    RetainedDrop {
        topic: TopicName,
    },
}

/// Records in order, each with its position. Owned by the door; brains only push.
#[derive(Debug)]
pub struct Log {
    next: Lsn,
    records: Vec<Record>,
}

impl Default for Log {
    fn default() -> Self {
        Self { next: Lsn(1), records: Vec::new() }
    }
}

impl Log {
    /// The position that the record got; it is safe when the durable position reaches it.
    pub fn push(&mut self, record: Record) -> Lsn {
        let lsn = self.next;
        self.next = Lsn(lsn.0 + 1);
        self.records.push(record);
        lsn
    }

    /// The position of the last record that was pushed; `Lsn(0)` before the first.
    pub fn last(&self) -> Lsn {
        Lsn(self.next.0 - 1)
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Moves the records of this visit to the writer.
    pub fn take(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.records)
    }
}

/// Entries of a spool that stand only on disk and are wanted in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    pub spool: SpoolId,
    /// Entries behind this one, oldest first.
    pub after: Seq,
    pub messages_max: usize,
    /// Topics, payloads and properties; one entry is loaded even where it alone is larger.
    pub bytes_max: usize,
}

/// What a start finds in the database. Lists are ordered by spool, then by sequence, filter or identifier.
#[derive(Debug, Default)]
pub struct Recovered {
    pub sessions: Vec<SessionRow>,
    pub buffers: Vec<(SpoolId, Arc<str>)>,
    pub subscriptions: Vec<(SpoolId, TopicFilter, SubscriptionOptions, Option<u32>)>,
    pub wills: Vec<(SpoolId, Will)>,
    pub spools: Vec<(SpoolId, RecoveredSpool)>,
    pub retained: Vec<Arc<Message>>,
    /// The last Sparkplug session of each.
    pub births: BTreeMap<SpoolId, u8>,
    /// The first number that no spool has had.
    pub next_spool: u32,
}

/// What waits of one rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RuleTotals {
    /// See [`Entry::rule`].
    pub rule: u16,
    pub messages: u64,
    pub bytes: u64,
}

impl RuleTotals {
    /// Of entries that are named by their rule and their bytes, in the order of the rules.
    pub fn of(entries: impl IntoIterator<Item = (u16, u64)>) -> Vec<Self> {
        let mut rules = BTreeMap::new();
        entries.into_iter().for_each(|(rule, bytes)| Self::count(&mut rules, rule, bytes));
        rules.into_values().collect()
    }

    pub(super) fn count(rules: &mut BTreeMap<u16, Self>, rule: u16, bytes: u64) {
        let totals = rules.entry(rule).or_insert(Self { rule, ..Self::default() });
        totals.messages += 1;
        totals.bytes = totals.bytes.saturating_add(bytes);
    }
}

/// What a start finds of one spool.
#[derive(Debug, Default)]
pub struct RecoveredSpool {
    /// The oldest entries, at most as many as fit the memory window.
    pub head: Vec<Entry>,
    /// All entries, those of `head` included.
    pub messages: u64,
    pub bytes: u64,
    /// The same by the rules of the entries, those of which nothing waits left out. Empty for sessions.
    pub rules: Vec<RuleTotals>,
    /// The last sequence number that was ever given.
    pub last_seq: Seq,
    /// In the order of `Seq`.
    pub inflight: Vec<(PacketId, Seq, Phase)>,
    pub inbound: Vec<PacketId>,
}
