//! What of a spool stands in memory and what on disk alone. Order: `head` (what is sent next), then what is
//! spilled (only on disk), then `tail` (not durable yet while others before it are only on disk). Sequence
//! numbers grow through all three. Asks for loads, never reads.

use std::collections::VecDeque;

use crate::mqtt::qos::QoS;
use crate::spool::Ledger;
use crate::spool::queue::{Orphan, Spool};
use crate::spool::settings::Keeping;
use crate::spool::shares::Scope;
use crate::spool::slot::{Safety, Slot, Stage};
use crate::store::record::{Entry, Load, Lsn, Record, Seq};

/// Entries that stand only on disk: durable, and neither sent nor dropped from there.
#[derive(Debug, Default)]
pub struct Spilled {
    pub messages: u64,
    pub bytes: u64,
    pub last: Seq,
}

/// A load that is under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Loading {
    /// The last entry that was spilled when it was asked for.
    pub(super) up_to: Seq,
    /// Whose sweep it is for; None: it is for the head.
    pub(super) sweep: Option<Scope>,
}

impl Spool {
    /// Entries that were asked for by a `Load`, oldest first.
    pub fn handle_loaded(&mut self, entries: Vec<Entry>, ledger: &mut Ledger) {
        // What was spilled since the load was asked for may be there with gaps: the disk gets entries in the
        // order of their records, not of their sequence. It comes with the next load.
        let Some(Loading { up_to, sweep }) = self.loading.take() else { return };
        match sweep {
            Some(scope) => self.sweep_page(scope, up_to, &entries, ledger),
            None => self.take_loaded(up_to, entries, ledger),
        }
        if let Some(shares) = self.shares.as_deref_mut() {
            shares.gone.clear();
        }
        self.refill(ledger);
        self.relieve(ledger);
    }

    fn take_loaded(&mut self, up_to: Seq, entries: Vec<Entry>, ledger: &mut Ledger) {
        let mut taken = 0;
        for entry in entries {
            if entry.seq <= self.head_last || entry.seq > up_to {
                continue;
            }
            taken += 1;
            if self.is_gone(entry.seq) {
                self.head_last = entry.seq;
                continue;
            }
            let mut slot = Slot::durable(entry);
            if let Some(packet_id) = self.unloaded.remove(&slot.entry.seq) {
                slot.stage = Stage::Prepared { packet_id, after: Lsn(0), dup: true };
                if slot.entry.qos == QoS::AtLeastOnce {
                    self.noted.insert(slot.entry.seq);
                }
            }
            self.spilled.messages = self.spilled.messages.saturating_sub(1);
            self.spilled.bytes = self.spilled.bytes.saturating_sub(slot.bytes() as u64);
            self.push_head(slot);
        }
        if taken == 0 && up_to == self.spilled.last {
            // The disk has no more: whatever the counters say, nothing is left out.
            self.messages = self.messages.saturating_sub(self.spilled.messages);
            self.bytes = self.bytes.saturating_sub(self.spilled.bytes);
            self.spilled = Spilled { messages: 0, bytes: 0, last: self.spilled.last };
            self.recount_rules();
        }
        if taken == 0 {
            self.head_last = self.head_last.max(up_to);
        }
        if self.spilled.messages == 0 {
            self.forget_unloaded(ledger);
        }
    }

    pub(super) fn head_has_room(&self) -> bool {
        match self.keeping {
            Keeping::Volatile => true,
            Keeping::Durable { .. } => {
                self.head.len() < self.bounds.memory_messages_max
                    && self.head_bytes < self.bounds.memory_bytes_max
            }
        }
    }

    /// Takes in a new entry at the end of the order.
    pub(super) fn append(&mut self, slot: Slot) {
        if self.tail.is_empty() && self.spilled.messages == 0 && self.head_has_room() {
            self.push_head(slot);
        } else {
            self.tail.push_back(slot);
        }
    }

    pub(super) fn push_head(&mut self, slot: Slot) {
        self.head_bytes += slot.bytes();
        self.head_last = slot.entry.seq;
        self.head.push_back(slot);
    }

    /// An entry of the head is with the far end, or given up: it leaves memory, the disk and the counters.
    pub(super) fn remove_at(&mut self, at: usize, ledger: &mut Ledger) {
        // In flight entries lie at the front: this moves at most a window of slots, none for acks in order.
        let Some(slot) = self.head.remove(at) else { return };
        if self.head.is_empty() {
            // Most sessions wait for nothing most of the time, and are to keep no room for it.
            self.head = VecDeque::new();
        }
        self.prepared -= usize::from(at < self.prepared);
        self.sent -= usize::from(at < self.sent);
        self.head_bytes = self.head_bytes.saturating_sub(slot.bytes());
        self.forget(slot, ledger);
        self.refill(ledger);
    }

    /// Drops the oldest entry in memory that is not in flight; false where there is none before the spilled.
    pub(super) fn drop_oldest(&mut self, ledger: &mut Ledger) -> bool {
        if let Some(at) = self.first_queued() {
            self.remove_at(at, ledger);
            return true;
        }
        if self.spilled.messages > 0 {
            return false;
        }
        self.remove_in_tail(0, ledger)
    }

    /// False: nothing stands there.
    pub(super) fn remove_in_tail(&mut self, at: usize, ledger: &mut Ledger) -> bool {
        let Some(slot) = self.tail.remove(at) else { return false };
        if at == 0 && self.spilled.messages == 0 {
            // Its record may still be on the disk when what is behind it is loaded.
            self.head_last = slot.entry.seq;
        }
        self.forget_latest(&slot.entry);
        self.forget(slot, ledger);
        true
    }

    /// Takes out what is `wanted` elsewhere and was never sent. What stands on disk alone stays.
    pub fn take_waiting(&mut self, wanted: impl Fn(&Entry) -> bool, ledger: &mut Ledger) -> Vec<Orphan> {
        let mut orphans = Vec::new();
        let mut at = self.prepared;
        while let Some(slot) = self.head.get_mut(at) {
            if slot.stage == Stage::Queued && wanted(&slot.entry) {
                orphans.push(Orphan { entry: slot.entry.clone(), hold: slot.hold.take() });
                self.remove_at(at, ledger);
            } else {
                at += 1;
            }
        }
        orphans
    }

    fn forget(&mut self, mut slot: Slot, ledger: &mut Ledger) {
        ledger.released.extend(slot.hold.take());
        let (seq, rule) = (slot.entry.seq, slot.entry.rule);
        self.count_out(rule, slot.bytes());
        if slot.is_recorded() {
            self.record(Record::EntryDrop { spool: self.id, seq, rule }, ledger);
        }
        self.trim_gathering();
    }

    /// Keeps the head filled: from the tail where nothing lies between, else from disk.
    pub(super) fn refill(&mut self, ledger: &mut Ledger) {
        while self.spilled.messages == 0
            && self.head_has_room()
            && let Some(slot) = self.tail.pop_front()
        {
            self.push_head(slot);
        }
        self.spill();
        let low = self.head.len() <= self.bounds.memory_messages_max / 2
            && self.head_bytes <= self.bounds.memory_bytes_max / 2;
        if self.spilled.messages == 0 || self.loading.is_some() || !low {
            return;
        }
        self.loading = Some(Loading { up_to: self.spilled.last, sweep: None });
        ledger.loads.push(Load {
            spool: self.id,
            after: self.head_last,
            messages_max: self.bounds.memory_messages_max - self.head.len(),
            bytes_max: self.bounds.memory_bytes_max - self.head_bytes,
        });
    }

    /// Entries of the tail that are on disk leave memory, oldest first. Only after the head was filled.
    fn spill(&mut self) {
        while self.tail.front().is_some_and(|slot| slot.safety == Safety::Durable)
            && let Some(slot) = self.tail.pop_front()
        {
            self.spilled.messages += 1;
            self.spilled.bytes += slot.bytes() as u64;
            self.spilled.last = slot.entry.seq;
        }
    }

    pub(super) fn find(&self, seq: Seq) -> Option<&Slot> {
        let slots = if seq <= self.head_last { &self.head } else { &self.tail };
        slots.get(position(slots, seq)?)
    }

    pub(super) fn find_mut(&mut self, seq: Seq) -> Option<&mut Slot> {
        let slots = if seq <= self.head_last { &mut self.head } else { &mut self.tail };
        let at = position(slots, seq)?;
        slots.get_mut(at)
    }
}

/// Where an entry stands: slots are in the order of their sequence.
pub(super) fn position(slots: &VecDeque<Slot>, seq: Seq) -> Option<usize> {
    slots.binary_search_by_key(&seq, |slot| slot.entry.seq).ok()
}
