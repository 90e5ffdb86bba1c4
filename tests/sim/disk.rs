//! The disk of one site: what is durable and what is still on its way, apart. A crash takes what is on its way.
//! Judges nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tidegate::base::time::Instant;
use tidegate::mqtt::message::Message;
use tidegate::mqtt::packet::connect::Will;
use tidegate::mqtt::packet::subscribe::SubscriptionOptions;
use tidegate::mqtt::qos::PacketId;
use tidegate::mqtt::topic::{TopicFilter, TopicName};
use tidegate::store::record::{
    Entry, Load, Lsn, Phase, Record, Recovered, RecoveredSpool, RuleTotals, Seq, SessionRow, SpoolId,
};

use super::reference::{number_of, number_of_message};

/// What the spool of the device is called.
pub const DEVICE: &str = "devices/plc";

/// What the records amount to.
#[derive(Debug, Default)]
pub struct Model {
    pub sessions: BTreeMap<SpoolId, SessionRow>,
    pub buffers: BTreeMap<SpoolId, Arc<str>>,
    pub subscriptions: BTreeMap<(SpoolId, TopicFilter), (SubscriptionOptions, Option<u32>)>,
    pub wills: BTreeMap<SpoolId, Will>,
    pub entries: BTreeMap<(SpoolId, Seq), Entry>,
    pub inflight: BTreeMap<(SpoolId, PacketId), (Seq, Phase)>,
    pub inbound: BTreeSet<(SpoolId, PacketId)>,
    pub retained: BTreeMap<TopicName, Arc<Message>>,
    last_seq: BTreeMap<SpoolId, Seq>,
    next_spool: u32,
    /// How many entries of a spool hold a numbered message.
    holding: BTreeMap<(SpoolId, u64), u32>,
    /// Numbered messages that a spool ever held.
    pub written: BTreeSet<(SpoolId, u64)>,
    /// Places in spools that were ever taken.
    taken: BTreeSet<(SpoolId, Seq)>,
}

#[derive(Debug, Default)]
pub struct Disk {
    pub durable: Model,
    /// Visits in order, each with the position of its last record.
    pending: VecDeque<(Lsn, Vec<Record>)>,
    /// How many visits the commit that runs has taken.
    committing: usize,
    loads: VecDeque<Load>,
    /// The last position of this process.
    last: Lsn,
    /// Commits fail until then.
    pub full_until: Instant,
    /// A commit or a load is under way.
    pub busy: bool,
}

impl Disk {
    pub fn push(&mut self, lsn: Lsn, records: Vec<Record>) {
        assert!(self.last < lsn, "the log goes back from {:?} to {lsn:?}", self.last);
        self.last = lsn;
        self.pending.push_back((lsn, records));
    }

    pub fn push_load(&mut self, load: Load) {
        self.loads.push_back(load);
    }

    pub fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.loads.is_empty()
    }

    /// What has gathered becomes one transaction.
    pub fn begin(&mut self) {
        self.committing = self.pending.len();
    }

    /// The transaction that runs is on disk. Its last position.
    pub fn commit(&mut self) -> Option<Lsn> {
        let count = std::mem::take(&mut self.committing);
        self.apply_visits(count)
    }

    pub fn take_loads(&mut self) -> Vec<Load> {
        self.loads.drain(..).collect()
    }

    /// The process dies: of the transaction that ran, as many visits as `kept` says made it.
    pub fn crash(&mut self, kept: usize) {
        let count = kept.min(self.committing);
        self.apply_visits(count);
        self.pending.clear();
        self.loads.clear();
        self.last = Lsn(0);
        self.committing = 0;
        self.busy = false;
    }

    pub fn running(&self) -> usize {
        self.committing
    }

    fn apply_visits(&mut self, count: usize) -> Option<Lsn> {
        let visits: Vec<_> = self.pending.drain(..count).collect();
        let last = visits.last().map(|(lsn, _)| *lsn);
        let records: Vec<Record> = visits.into_iter().flat_map(|(_, records)| records).collect();
        self.durable.apply_all(records);
        last
    }
}

impl Model {
    pub fn holds(&self, spool: SpoolId, number: u64) -> bool {
        self.holding.contains_key(&(spool, number))
    }

    /// The buffer of the bridge, or what the device is to do.
    pub fn spool_named(&self, name: &str) -> Option<SpoolId> {
        self.buffers.iter().find(|(_, of)| &***of == name).map(|(spool, _)| *spool)
    }

    /// Whether a buffer holds a message, in any of its lanes.
    pub fn buffer_holds(&self, bridge: &str, number: u64) -> bool {
        self.lanes_of(bridge).into_iter().any(|spool| self.holds(spool, number))
    }

    /// The spools of a bridge.
    pub fn lanes_of(&self, bridge: &str) -> Vec<SpoolId> {
        self.buffers.iter().filter(|(_, name)| is_of(bridge, name)).map(|(spool, _)| *spool).collect()
    }

    pub fn spool_of_client(&self, client_id: &str) -> Option<SpoolId> {
        self.sessions.values().find(|row| &*row.client_id == client_id).map(|row| row.spool)
    }

    /// The last place that a spool gave.
    pub fn last_seq(&self, spool: SpoolId) -> Seq {
        self.last_seq.get(&spool).copied().unwrap_or_default()
    }

    /// A session and all that it had is gone, as if the broker had lost it.
    pub fn forget_session(&mut self, client_id: &str) {
        if let Some(spool) = self.spool_of_client(client_id) {
            self.drop_spool(spool);
        }
    }

    /// Numbered wills that are kept.
    pub fn keeps_will(&self, number: u64) -> bool {
        self.wills.values().any(|will| number_of(will.topic.as_str(), &will.payload) == Some(number))
    }

    /// One transaction. As the store does, it never writes an entry that it takes back itself.
    fn apply_all(&mut self, records: Vec<Record>) {
        let dropped: BTreeSet<_> = records
            .iter()
            .filter_map(|record| match record {
                Record::EntryDrop { spool, seq, .. } => Some((*spool, *seq)),
                _ => None,
            })
            .collect();
        for record in records {
            match record {
                Record::EntryPut { spool, entry } if dropped.contains(&(spool, entry.seq)) => {}
                other => self.apply(other),
            }
        }
    }

    fn apply(&mut self, record: Record) {
        match record {
            Record::SessionPut(row) => {
                self.next_spool = self.next_spool.max(row.spool.0 + 1);
                self.sessions.insert(row.spool, row);
            }
            Record::SpoolDrop { spool } => self.drop_spool(spool),
            Record::BufferPut { spool, bridge } => {
                self.next_spool = self.next_spool.max(spool.0 + 1);
                self.buffers.insert(spool, bridge);
            }
            Record::SubscriptionPut { spool, filter, options, identifier } => {
                self.subscriptions.insert((spool, filter), (options, identifier));
            }
            Record::SubscriptionDrop { spool, filter } => {
                self.subscriptions.remove(&(spool, filter));
            }
            Record::WillPut { spool, will } => {
                self.wills.insert(spool, Will::clone(&will));
            }
            Record::WillDrop { spool } => {
                self.wills.remove(&spool);
            }
            Record::EntryPut { spool, entry } => self.put_entry(spool, entry),
            Record::EntryDrop { spool, seq, .. } => self.drop_entry(spool, seq),
            Record::InflightPut { spool, packet_id, seq, phase } => {
                self.inflight.insert((spool, packet_id), (seq, phase));
            }
            Record::InflightDrop { spool, packet_id } => {
                self.inflight.remove(&(spool, packet_id));
            }
            Record::InboundPut { spool, packet_id } => {
                self.inbound.insert((spool, packet_id));
            }
            Record::InboundDrop { spool, packet_id } => {
                self.inbound.remove(&(spool, packet_id));
            }
            Record::BirthPut { .. } => panic!("no world has Sparkplug"),
            Record::RetainedPut { message } => {
                self.retained.insert(message.topic.clone(), message);
            }
            Record::RetainedDrop { topic } => {
                self.retained.remove(&topic);
            }
        }
    }

    fn drop_spool(&mut self, spool: SpoolId) {
        self.next_spool = self.next_spool.max(spool.0 + 1);
        self.sessions.remove(&spool);
        self.buffers.remove(&spool);
        self.wills.remove(&spool);
        self.subscriptions.retain(|(id, _), _| *id != spool);
        self.entries.retain(|(id, _), _| *id != spool);
        self.inflight.retain(|(id, _), _| *id != spool);
        self.inbound.retain(|(id, _)| *id != spool);
        self.holding.retain(|(id, _), _| *id != spool);
        self.last_seq.remove(&spool);
    }

    fn put_entry(&mut self, spool: SpoolId, entry: Entry) {
        let last = self.last_seq.entry(spool).or_default();
        *last = (*last).max(entry.seq);
        assert!(self.taken.insert((spool, entry.seq)), "{entry:?} has the place of an earlier one");
        if let Some(number) = number_of_message(&entry.message) {
            *self.holding.entry((spool, number)).or_default() += 1;
            self.written.insert((spool, number));
        }
        let written = self.entries.insert((spool, entry.seq), entry);
        assert!(written.is_none(), "an entry was written over another: {written:?}");
    }

    fn drop_entry(&mut self, spool: SpoolId, seq: Seq) {
        let Some(entry) = self.entries.remove(&(spool, seq)) else { return };
        let Some(number) = number_of_message(&entry.message) else { return };
        if let Some(count) = self.holding.get_mut(&(spool, number)) {
            *count -= 1;
            if *count == 0 {
                self.holding.remove(&(spool, number));
            }
        }
    }

    /// What a start finds; `window` entries of each spool are in memory at once.
    pub fn recovered(&self, window: usize) -> Recovered {
        let mut spools: BTreeSet<SpoolId> =
            self.sessions.keys().chain(self.buffers.keys()).copied().collect();
        spools.extend(self.entries.keys().map(|(spool, _)| *spool));
        Recovered {
            sessions: self.sessions.values().cloned().collect(),
            buffers: self.buffers.iter().map(|(spool, name)| (*spool, name.clone())).collect(),
            subscriptions: self
                .subscriptions
                .iter()
                .map(|((spool, filter), (options, identifier))| {
                    (*spool, filter.clone(), *options, *identifier)
                })
                .collect(),
            wills: self.wills.iter().map(|(spool, will)| (*spool, will.clone())).collect(),
            spools: spools.into_iter().map(|spool| (spool, self.recovered_spool(spool, window))).collect(),
            retained: self.retained.values().cloned().collect(),
            births: BTreeMap::new(),
            next_spool: self.next_spool.max(1),
        }
    }

    fn recovered_spool(&self, spool: SpoolId, window: usize) -> RecoveredSpool {
        let entries: Vec<&Entry> = self.entries_behind(spool, Seq(0)).collect();
        let mut inflight: Vec<_> = self
            .inflight
            .range((spool, id(1))..=(spool, id(u16::MAX)))
            .map(|((_, packet_id), (seq, phase))| (*packet_id, *seq, *phase))
            .collect();
        inflight.sort_by_key(|(packet_id, seq, _)| (*seq, *packet_id));
        let last = self.last_seq.get(&spool).copied().unwrap_or_default();
        RecoveredSpool {
            head: entries.iter().take(window).map(|entry| Entry::clone(entry)).collect(),
            messages: entries.len() as u64,
            bytes: entries.iter().map(|entry| entry.message.size_bytes() as u64).sum(),
            rules: RuleTotals::of(
                entries.iter().map(|entry| (entry.rule, entry.message.size_bytes() as u64)),
            ),
            last_seq: inflight.last().map_or(Seq(0), |(_, seq, _)| *seq).max(last),
            inflight,
            inbound: self
                .inbound
                .range((spool, id(1))..=(spool, id(u16::MAX)))
                .map(|(_, packet_id)| *packet_id)
                .collect(),
        }
    }

    /// At most `most` of what a load asks for.
    pub fn load(&self, load: &Load, most: usize) -> Vec<Entry> {
        let (mut bytes, mut found) = (0, Vec::new());
        for entry in self.entries_behind(load.spool, load.after).take(load.messages_max.min(most)) {
            bytes += entry.message.size_bytes();
            if !found.is_empty() && bytes > load.bytes_max {
                break;
            }
            found.push(entry.clone());
        }
        found
    }

    fn entries_behind(&self, spool: SpoolId, after: Seq) -> impl Iterator<Item = &Entry> {
        self.entries.range((spool, Seq(after.0 + 1))..=(spool, Seq(u64::MAX))).map(|(_, entry)| entry)
    }
}

fn id(id: u16) -> PacketId {
    PacketId::new(id).unwrap()
}

/// Whether a spool of this name is the buffer of a bridge, or a lane of it.
pub fn is_of(bridge: &str, name: &str) -> bool {
    name.split('/').next() == Some(bridge)
}
