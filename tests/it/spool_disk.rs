//! The disk of the spool's model: what is safe, and what a power cut takes away. Judges what is written, never
//! why.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tidegate::mqtt::qos::PacketId;
use tidegate::store::record::{Entry, Load, Lsn, Phase, Record, RecoveredSpool, RuleTotals, Seq};

/// `a/b` and eight bytes of payload.
pub const MESSAGE_BYTES: u64 = 11;

/// What is safe, and what a power cut takes away.
#[derive(Default)]
pub struct Disk {
    pub entries: BTreeMap<Seq, Entry>,
    pub inflight: BTreeMap<PacketId, (Seq, Phase)>,
    pub last_seq: Seq,
    pub durable: Lsn,
    pub pending: VecDeque<(Lsn, Vec<Record>)>,
    /// Messages whose entry ever became durable.
    pub written: BTreeSet<u64>,
    /// Entries that were read.
    pub loaded: Cell<u64>,
}

impl Disk {
    pub fn commit_one(&mut self) -> bool {
        let Some((lsn, records)) = self.pending.pop_front() else { return false };
        self.durable = lsn;
        for record in records {
            self.apply(record);
        }
        true
    }

    fn apply(&mut self, record: Record) {
        match record {
            Record::EntryPut { entry, .. } => {
                self.last_seq = self.last_seq.max(entry.seq);
                self.written.insert(number(&entry));
                assert!(self.entries.insert(entry.seq, entry).is_none(), "an entry is written twice");
            }
            Record::EntryDrop { seq, .. } => {
                assert!(self.entries.remove(&seq).is_some(), "{seq:?} is dropped but was never written");
            }
            Record::InflightPut { packet_id, seq, phase, .. } => {
                self.inflight.insert(packet_id, (seq, phase));
            }
            Record::InflightDrop { packet_id, .. } => {
                assert!(self.inflight.remove(&packet_id).is_some(), "{packet_id} is not in flight");
            }
            other => panic!("a spool does not write {other:?}"),
        }
    }

    pub fn load(&self, load: &Load) -> Vec<Entry> {
        let (mut bytes, mut found) = (0, Vec::new());
        for entry in self.entries.values().filter(|entry| entry.seq > load.after).take(load.messages_max) {
            bytes += entry.message.size_bytes();
            if !found.is_empty() && bytes > load.bytes_max {
                break;
            }
            found.push(entry.clone());
        }
        self.loaded.set(self.loaded.get() + found.len() as u64);
        found
    }

    pub fn recover(&mut self, memory_messages_max: usize) -> RecoveredSpool {
        self.pending.clear();
        self.durable = Lsn(0);
        let mut inflight: Vec<_> =
            self.inflight.iter().map(|(id, (seq, phase))| (*id, *seq, *phase)).collect();
        inflight.sort_by_key(|(_, seq, _)| *seq);
        RecoveredSpool {
            head: self.entries.values().take(memory_messages_max).cloned().collect(),
            messages: self.entries.len() as u64,
            bytes: self.entries.len() as u64 * MESSAGE_BYTES,
            rules: RuleTotals::of(self.entries.values().map(|entry| (entry.rule, MESSAGE_BYTES))),
            last_seq: self.last_seq,
            inflight,
            inbound: Vec::new(),
        }
    }
}

/// The number that a message carries.
pub fn number(entry: &Entry) -> u64 {
    u64::from_be_bytes(entry.message.payload.as_ref().try_into().expect("eight bytes"))
}
