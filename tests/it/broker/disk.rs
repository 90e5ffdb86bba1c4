//! The disk as a map that records are applied to. It has what was durable, and nothing else, after a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidegate::mqtt::message::Message;
use tidegate::mqtt::packet::connect::Will;
use tidegate::mqtt::packet::subscribe::SubscriptionOptions;
use tidegate::mqtt::qos::PacketId;
use tidegate::mqtt::topic::{TopicFilter, TopicName};
use tidegate::store::record::{
    Entry, Load, Phase, Record, Recovered, RecoveredSpool, Seq, SessionRow, SpoolId,
};

/// What a store amounts to once records are applied.
#[derive(Debug, Default, Clone)]
pub struct Model {
    pub sessions: BTreeMap<SpoolId, SessionRow>,
    buffers: BTreeMap<SpoolId, Arc<str>>,
    pub subscriptions: BTreeMap<(SpoolId, TopicFilter), (SubscriptionOptions, Option<u32>)>,
    pub wills: BTreeMap<SpoolId, Will>,
    pub entries: BTreeMap<(SpoolId, Seq), Entry>,
    pub inflight: BTreeMap<(SpoolId, PacketId), (Seq, Phase)>,
    pub inbound: BTreeSet<(SpoolId, PacketId)>,
    pub retained: BTreeMap<TopicName, Arc<Message>>,
    last_seq: BTreeMap<SpoolId, Seq>,
    next_spool: u32,
}

impl Model {
    pub fn apply(&mut self, record: Record) {
        match record {
            Record::SessionPut(row) => {
                self.next_spool = self.next_spool.max(row.spool.0 + 1);
                self.sessions.insert(row.spool, row);
            }
            Record::SpoolDrop { spool } => {
                self.sessions.remove(&spool);
                self.wills.remove(&spool);
                self.subscriptions.retain(|(id, _), _| *id != spool);
                self.entries.retain(|(id, _), _| *id != spool);
                self.inflight.retain(|(id, _), _| *id != spool);
                self.inbound.retain(|(id, _)| *id != spool);
            }
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
            Record::BirthPut { .. } => panic!("a broker never records it"),
            Record::RetainedPut { message } => {
                self.retained.insert(message.topic.clone(), message);
            }
            Record::RetainedDrop { topic } => {
                self.retained.remove(&topic);
            }
        }
    }

    pub fn recovered(&self) -> Recovered {
        let spool = |id: SpoolId| {
            let entries: Vec<&Entry> =
                self.entries.iter().filter(|((spool, _), _)| *spool == id).map(|(_, entry)| entry).collect();
            let mut inflight: Vec<_> = self
                .inflight
                .iter()
                .filter(|((spool, _), _)| *spool == id)
                .map(|((_, packet_id), (seq, phase))| (*packet_id, *seq, *phase))
                .collect();
            inflight.sort_by_key(|(_, seq, _)| *seq);
            RecoveredSpool {
                head: entries.iter().take(1000).map(|entry| Entry::clone(entry)).collect(),
                messages: entries.len() as u64,
                bytes: entries.iter().map(|entry| entry.message.size_bytes() as u64).sum(),
                rules: Vec::new(),
                last_seq: self.last_seq.get(&id).copied().unwrap_or_default(),
                inflight,
                inbound: self.inbound.iter().filter(|(spool, _)| *spool == id).map(|(_, id)| *id).collect(),
            }
        };
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
            spools: self.sessions.keys().chain(self.buffers.keys()).map(|id| (*id, spool(*id))).collect(),
            retained: self.retained.values().cloned().collect(),
            births: BTreeMap::new(),
            next_spool: self.next_spool,
        }
    }

    pub fn load(&self, load: &Load) -> Vec<Entry> {
        let from = (load.spool, Seq(load.after.0 + 1));
        let to = (load.spool, Seq(u64::MAX));
        self.entries.range(from..=to).take(load.messages_max).map(|(_, entry)| entry.clone()).collect()
    }
}
