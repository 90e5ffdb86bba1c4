//! What a store amounts to once records are applied, as maps: for the worlds whose disk is made. Loses nothing by itself and
//! judges nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidegate::mqtt::message::Message;
use tidegate::mqtt::packet::connect::Will;
use tidegate::mqtt::packet::subscribe::SubscriptionOptions;
use tidegate::mqtt::qos::PacketId;
use tidegate::mqtt::topic::{TopicFilter, TopicName};
use tidegate::store::record::{
    Entry, Load, Phase, Record, Recovered, RecoveredSpool, RuleTotals, Seq, SessionRow, SpoolId,
};

#[derive(Debug, Default, Clone)]
pub struct Rows {
    pub sessions: BTreeMap<SpoolId, SessionRow>,
    pub buffers: BTreeMap<SpoolId, Arc<str>>,
    pub subscriptions: BTreeMap<(SpoolId, TopicFilter), (SubscriptionOptions, Option<u32>)>,
    pub wills: BTreeMap<SpoolId, Will>,
    pub entries: BTreeMap<(SpoolId, Seq), Entry>,
    pub inflight: BTreeMap<(SpoolId, PacketId), (Seq, Phase)>,
    pub inbound: BTreeSet<(SpoolId, PacketId)>,
    pub retained: BTreeMap<TopicName, Arc<Message>>,
    /// The last place that each spool gave.
    pub last_seq: BTreeMap<SpoolId, Seq>,
    next_spool: u32,
}

impl Rows {
    pub fn apply(&mut self, record: Record) {
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
            Record::EntryPut { spool, entry } => {
                let last = self.last_seq.entry(spool).or_default();
                *last = (*last).max(entry.seq);
                self.entries.insert((spool, entry.seq), entry);
            }
            Record::EntryDrop { spool, seq, .. } => {
                self.entries.remove(&(spool, seq));
            }
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
            Record::BirthPut { .. } => panic!("nobody here has Sparkplug"),
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
        self.last_seq.remove(&spool);
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
    PacketId::new(id).expect("never 0")
}
