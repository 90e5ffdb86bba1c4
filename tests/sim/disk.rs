//! The disk of one site: what is durable and what is still on its way, apart. A crash takes what is on its way.
//! Judges nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Deref;

use tidegate::base::time::Instant;
use tidegate::store::record::{Entry, Load, Lsn, Record, Seq, SpoolId};

use super::reference::{number_of, number_of_message};
use super::rows::Rows;

/// What the spool of the device is called.
pub const DEVICE: &str = "devices/plc";

/// What the records amount to, and what must never happen to them.
#[derive(Debug, Default)]
pub struct Model {
    rows: Rows,
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

impl Deref for Model {
    type Target = Rows;

    fn deref(&self) -> &Rows {
        &self.rows
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
        self.rows.last_seq.get(&spool).copied().unwrap_or_default()
    }

    /// A session and all that it had is gone, as if the broker had lost it.
    pub fn forget_session(&mut self, client_id: &str) {
        if let Some(spool) = self.spool_of_client(client_id) {
            self.apply(Record::SpoolDrop { spool });
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
        match &record {
            Record::SpoolDrop { spool } => self.holding.retain(|(id, _), _| id != spool),
            Record::EntryPut { spool, entry } => self.note_entry(*spool, entry),
            Record::EntryDrop { spool, seq, .. } => self.forget_entry(*spool, *seq),
            _ => {}
        }
        self.rows.apply(record);
    }

    fn note_entry(&mut self, spool: SpoolId, entry: &Entry) {
        assert!(self.taken.insert((spool, entry.seq)), "{entry:?} has the place of an earlier one");
        if let Some(number) = number_of_message(&entry.message) {
            *self.holding.entry((spool, number)).or_default() += 1;
            self.written.insert((spool, number));
        }
    }

    fn forget_entry(&mut self, spool: SpoolId, seq: Seq) {
        let Some(entry) = self.rows.entries.get(&(spool, seq)) else { return };
        let Some(number) = number_of_message(&entry.message) else { return };
        if let Some(count) = self.holding.get_mut(&(spool, number)) {
            *count -= 1;
            if *count == 0 {
                self.holding.remove(&(spool, number));
            }
        }
    }
}

/// Whether a spool of this name is the buffer of a bridge, or a lane of it.
pub fn is_of(bridge: &str, name: &str) -> bool {
    name.split('/').next() == Some(bridge)
}
