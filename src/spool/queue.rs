//! The spool itself. Order in memory: `head` (what is sent next), then what stands only on disk, then `tail`
//! (what is not durable yet while others before it are only on disk). Sequence numbers grow through all three.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::base::time::{Instant, Now};
use crate::mqtt::message::Message;
use crate::mqtt::qos::{PacketId, QoS};
use crate::spool::packet_ids::PacketIds;
use crate::spool::settings::{Bounds, Keeping, Losses, Offered, WhenFull};
use crate::spool::slot::{Release, Safety, Slot, Stage};
use crate::spool::{Hold, Ledger};
use crate::store::record::{Entry, Load, Lsn, Phase, Record, RecoveredSpool, Seq, SpoolId};

/// A message for a spool. QoS 0 messages never enter one.
#[derive(Debug, Clone)]
pub struct Offer {
    pub message: Arc<Message>,
    /// The QoS to send it with: 1 or 2.
    pub qos: QoS,
    pub retain: bool,
    pub rule: u16,
    pub subscription_identifiers: Box<[u32]>,
    /// Released when the entry is safe.
    pub hold: Option<Hold>,
}

/// What is to be sent now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sending {
    Publish { packet_id: PacketId, dup: bool, entry: Entry },
    Release { packet_id: PacketId },
}

/// What an acknowledgement meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledged {
    Known,
    /// We have nothing in flight by this identifier, or not in that phase.
    Unknown,
}

/// Whether the far end is there to acknowledge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Away,
    Here { window: usize },
}

#[derive(Debug, Default)]
struct Spilled {
    messages: u64,
    bytes: u64,
    last: Seq,
}

#[derive(Debug)]
pub struct Spool {
    id: SpoolId,
    keeping: Keeping,
    bounds: Bounds,
    link: Link,
    head: VecDeque<Slot>,
    head_bytes: usize,
    spilled: Spilled,
    tail: VecDeque<Slot>,
    messages: u64,
    bytes: u64,
    next_seq: u64,
    /// How many slots of `head`, from its front, have passed each stage (those that are gone included).
    prepared: usize,
    sent: usize,
    inflight: BTreeMap<PacketId, Seq>,
    releases: VecDeque<Release>,
    on_wire: usize,
    ids: PacketIds,
    gathering: VecDeque<(Instant, Seq)>,
    committing: VecDeque<(Lsn, Seq)>,
    durable: Lsn,
    awaited: Lsn,
    loading: bool,
    /// QoS 1 entries before this one may have been in flight at the crash: they go before it again.
    recovered_up_to: Seq,
    losses: Losses,
}

impl Spool {
    pub fn new(id: SpoolId, keeping: Keeping, bounds: Bounds, ids: PacketIds) -> Self {
        Self {
            id,
            keeping,
            bounds,
            link: Link::Away,
            head: VecDeque::new(),
            head_bytes: 0,
            spilled: Spilled::default(),
            tail: VecDeque::new(),
            messages: 0,
            bytes: 0,
            next_seq: 1,
            prepared: 0,
            sent: 0,
            inflight: BTreeMap::new(),
            releases: VecDeque::new(),
            on_wire: 0,
            ids,
            gathering: VecDeque::new(),
            committing: VecDeque::new(),
            durable: Lsn(0),
            awaited: Lsn(0),
            loading: false,
            recovered_up_to: Seq(0),
            losses: Losses::default(),
        }
    }

    /// A spool as a start found it: everything durable, what was in flight to be sent again.
    #[must_use]
    pub fn recover(mut self, found: RecoveredSpool) -> Self {
        self.messages = found.messages;
        self.bytes = found.bytes;
        self.next_seq = found.last_seq.0 + 1;
        for entry in found.head {
            self.head_bytes += entry.message.size_bytes();
            self.head.push_back(Slot { entry, stage: Stage::Queued, safety: Safety::Durable, hold: None });
        }
        self.spilled = Spilled {
            messages: found.messages.saturating_sub(self.head.len() as u64),
            bytes: found.bytes.saturating_sub(self.head_bytes as u64),
            last: found.last_seq,
        };
        for (packet_id, seq, phase) in found.inflight {
            self.ids.skip_past(packet_id);
            match phase {
                Phase::Published => self.recover_published(packet_id, seq),
                Phase::Released => {
                    self.releases.push_back(Release { packet_id, after: Lsn(0), sent: false, on_wire: false })
                }
            }
        }
        self
    }

    pub fn id(&self) -> SpoolId {
        self.id
    }

    /// Entries that wait or are in flight, in memory and on disk.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn bytes_max(&self) -> u64 {
        self.bounds.bytes_max
    }

    /// The bound moves with the room that others leave. What is over it is dropped when the next message comes.
    pub fn set_bytes_max(&mut self, bytes_max: u64) {
        self.bounds.bytes_max = bytes_max;
    }

    pub fn inflight(&self) -> usize {
        self.inflight.len() + self.releases.len()
    }

    pub fn losses(&self) -> Losses {
        self.losses
    }

    /// The last position that this spool waits for. Its owner calls `handle_durable` when that is reached.
    pub fn awaited(&self) -> Option<Lsn> {
        (self.awaited > self.durable).then_some(self.awaited)
    }

    /// Whether a message of this size would be turned away to its publisher.
    pub fn would_reject(&self, bytes: usize) -> bool {
        self.bounds.when_full == WhenFull::Reject && !self.has_room(bytes)
    }

    /// Takes a message, or drops what the bounds say. An `urgent` one is recorded in this visit: its publisher
    /// will not send it again once it is told that it was taken.
    pub fn offer(&mut self, offer: Offer, urgent: bool, now: Now, ledger: &mut Ledger) -> Offered {
        debug_assert!(offer.qos != QoS::AtMostOnce, "QoS 0 is sent or dropped, never queued");
        let bytes = offer.message.size_bytes();
        if !self.has_room(bytes) {
            match self.make_room(bytes, ledger) {
                Offered::Accepted => {}
                refused => {
                    ledger.released.extend(offer.hold);
                    return refused;
                }
            }
        }
        let seq = Seq(self.next_seq);
        self.next_seq += 1;
        self.messages += 1;
        self.bytes += bytes as u64;
        let mut slot = slot_of(offer, seq);
        self.settle(&mut slot, urgent, now, ledger);
        if self.tail.is_empty() && self.spilled.messages == 0 && self.head_has_room() {
            self.head_bytes += bytes;
            self.head.push_back(slot);
        } else {
            self.tail.push_back(slot);
        }
        Offered::Accepted
    }

    /// The far end is there and can hold `window` unacknowledged packets. What was in flight is sent again,
    /// in its order and with its identifiers [MQTT-4.4.0-1].
    pub fn handle_here(&mut self, window: usize, ledger: &mut Ledger) {
        self.link = Link::Here { window };
        self.rewind();
        self.refill(ledger);
    }

    /// The far end is gone: what somebody waits for is recorded at once.
    pub fn handle_away(&mut self, ledger: &mut Ledger) {
        self.link = Link::Away;
        self.rewind();
        for (until, seq) in std::mem::take(&mut self.gathering) {
            let held = self.find(seq).is_some_and(|slot| slot.hold.is_some());
            if held {
                self.write(seq, ledger);
            } else if self.find(seq).is_some() {
                self.gathering.push_back((until, seq));
            }
        }
    }

    /// The far end lost its session: nothing is in flight any more. Messages whose PUBREC came are with the
    /// far end already. Returns how many were sent without an answer: they may arrive twice.
    pub fn handle_session_lost(&mut self, ledger: &mut Ledger) -> usize {
        let mut unanswered = 0;
        for (packet_id, seq) in std::mem::take(&mut self.inflight) {
            let Some(slot) = self.find_mut(seq) else { continue };
            let recorded = slot.entry.qos == QoS::ExactlyOnce;
            unanswered +=
                usize::from(matches!(slot.stage, Stage::Sent { .. } | Stage::Prepared { dup: true, .. }));
            slot.stage = Stage::Queued;
            if recorded {
                self.record(Record::InflightDrop { spool: self.id, packet_id }, ledger);
            }
        }
        for release in std::mem::take(&mut self.releases) {
            self.record(Record::InflightDrop { spool: self.id, packet_id: release.packet_id }, ledger);
        }
        self.prepared = 0;
        self.sent = 0;
        self.on_wire = 0;
        unanswered
    }

    /// The next packet that may leave now. Call until None after anything changed.
    pub fn next_sending(&mut self, now: Now, ledger: &mut Ledger) -> Option<Sending> {
        let Link::Here { window } = self.link else { return None };
        if let Some(packet_id) = self.next_release(window) {
            return Some(Sending::Release { packet_id });
        }
        self.prepare(window, now, ledger);
        while let Some(slot) = self.head.get_mut(self.sent) {
            match slot.stage {
                Stage::Gone => self.sent += 1,
                Stage::Prepared { packet_id, after, dup }
                    if after <= self.durable && self.on_wire < window =>
                {
                    slot.stage = Stage::Sent { packet_id };
                    self.sent += 1;
                    self.on_wire += 1;
                    return Some(Sending::Publish { packet_id, dup, entry: slot.entry.clone() });
                }
                Stage::Prepared { .. } | Stage::Queued | Stage::Sent { .. } => return None,
            }
        }
        None
    }

    /// PUBACK of a QoS 1 message.
    pub fn handle_puback(&mut self, packet_id: PacketId, ledger: &mut Ledger) -> Acknowledged {
        self.finish(packet_id, QoS::AtLeastOnce, ledger)
    }

    /// PUBACK or PUBREC with a reason of 0x80 or above: the delivery is over [MQTT-4.4.0-2].
    pub fn handle_refused(&mut self, packet_id: PacketId, ledger: &mut Ledger) -> Acknowledged {
        let Some(qos) =
            self.inflight.get(&packet_id).and_then(|seq| self.find(*seq)).map(|slot| slot.entry.qos)
        else {
            return Acknowledged::Unknown;
        };
        self.losses.refused += 1;
        self.finish(packet_id, qos, ledger)
    }

    /// PUBREC of a QoS 2 message: `next_sending` yields PUBREL when that is durable.
    pub fn handle_pubrec(&mut self, packet_id: PacketId, ledger: &mut Ledger) -> Acknowledged {
        if self.releases.iter().any(|release| release.packet_id == packet_id) {
            self.releases.iter_mut().filter(|r| r.packet_id == packet_id).for_each(|r| r.sent = false);
            return Acknowledged::Known;
        }
        let Some(&seq) = self.inflight.get(&packet_id) else { return Acknowledged::Unknown };
        let Some(slot) = self.find(seq).filter(|slot| slot.entry.qos == QoS::ExactlyOnce) else {
            return Acknowledged::Unknown;
        };
        let on_wire = matches!(slot.stage, Stage::Sent { .. });
        self.inflight.remove(&packet_id);
        let after = self
            .record(Record::InflightPut { spool: self.id, packet_id, seq, phase: Phase::Released }, ledger);
        self.releases.push_back(Release { packet_id, after, sent: false, on_wire });
        self.remove(seq, ledger);
        Acknowledged::Known
    }

    /// PUBCOMP: the identifier is free again.
    pub fn handle_pubcomp(&mut self, packet_id: PacketId, ledger: &mut Ledger) -> Acknowledged {
        let Some(at) = self.releases.iter().position(|release| release.packet_id == packet_id) else {
            return Acknowledged::Unknown;
        };
        let release = self.releases.remove(at);
        self.on_wire -= usize::from(release.is_some_and(|release| release.on_wire)).min(self.on_wire);
        self.record(Record::InflightDrop { spool: self.id, packet_id }, ledger);
        Acknowledged::Known
    }

    /// Records up to `lsn` are on disk.
    pub fn handle_durable(&mut self, lsn: Lsn, ledger: &mut Ledger) {
        self.durable = self.durable.max(lsn);
        while let Some((at, seq)) = self.committing.front().copied()
            && at <= lsn
        {
            self.committing.pop_front();
            if let Some(slot) = self.find_mut(seq)
                && slot.safety == Safety::Committing(at)
            {
                slot.safety = Safety::Durable;
                ledger.released.extend(slot.hold.take());
            }
        }
        self.spill();
        self.refill(ledger);
    }

    /// Entries that were asked for by a `Load`, oldest first.
    pub fn handle_loaded(&mut self, entries: Vec<Entry>, ledger: &mut Ledger) {
        self.loading = false;
        let mut taken = 0;
        for entry in entries {
            let known = self.head.back().map_or(Seq(0), |slot| slot.entry.seq);
            if entry.seq <= known || entry.seq > self.spilled.last {
                continue;
            }
            let bytes = entry.message.size_bytes();
            self.spilled.messages = self.spilled.messages.saturating_sub(1);
            self.spilled.bytes = self.spilled.bytes.saturating_sub(bytes as u64);
            self.head_bytes += bytes;
            self.head.push_back(Slot { entry, stage: Stage::Queued, safety: Safety::Durable, hold: None });
            taken += 1;
        }
        if taken == 0 {
            // The disk has no more: whatever the counters say, nothing is left out.
            self.messages = self.messages.saturating_sub(self.spilled.messages);
            self.bytes = self.bytes.saturating_sub(self.spilled.bytes);
            self.spilled = Spilled { messages: 0, bytes: 0, last: self.spilled.last };
        }
        self.refill(ledger);
    }

    /// When `handle_timeout` has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        let commit = self.gathering.front().map(|(until, _)| *until);
        let aged = self.bounds.age_max.and_then(|age| {
            let oldest = self.head.iter().skip(self.prepared).find(|slot| slot.stage == Stage::Queued)?;
            Some(oldest.entry.message.arrived.instant + age)
        });
        commit.into_iter().chain(aged).min()
    }

    /// Records what has gathered for long enough; drops what is too old.
    pub fn handle_timeout(&mut self, now: Now, ledger: &mut Ledger) {
        while let Some((until, seq)) = self.gathering.front().copied()
            && until <= now.instant
        {
            self.gathering.pop_front();
            self.write(seq, ledger);
        }
        if let Some(age) = self.bounds.age_max {
            while self
                .head
                .get(self.prepared)
                .is_some_and(|slot| now.instant.since(slot.entry.message.arrived.instant) >= age)
            {
                self.losses.aged += 1;
                self.drop_at(self.prepared, ledger);
            }
            self.refill(ledger);
        }
    }

    /// Records everything that is only in memory: the last thing before a clean end.
    pub fn write_all(&mut self, ledger: &mut Ledger) {
        while let Some((_, seq)) = self.gathering.pop_front() {
            self.write(seq, ledger);
        }
    }

    fn recover_published(&mut self, packet_id: PacketId, seq: Seq) {
        let Ok(at) = self.head.binary_search_by_key(&seq, |slot| slot.entry.seq) else { return };
        self.head[at].stage = Stage::Prepared { packet_id, after: Lsn(0), dup: true };
        self.inflight.insert(packet_id, seq);
        self.recovered_up_to = self.recovered_up_to.max(seq);
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.messages < self.bounds.messages_max && self.bytes + bytes as u64 <= self.bounds.bytes_max
    }

    fn head_has_room(&self) -> bool {
        match self.keeping {
            Keeping::Volatile => true,
            Keeping::Durable { .. } => {
                self.head.len() < self.bounds.memory_messages_max
                    && self.head_bytes < self.bounds.memory_bytes_max
            }
        }
    }

    /// Drops the oldest that are not in flight until the newcomer fits, or says what becomes of it.
    fn make_room(&mut self, bytes: usize, ledger: &mut Ledger) -> Offered {
        match self.bounds.when_full {
            WhenFull::Reject => return Offered::Rejected,
            WhenFull::DropNewest => {
                self.losses.full += 1;
                return Offered::Dropped;
            }
            WhenFull::DropOldest => {}
        }
        while !self.has_room(bytes) {
            self.losses.full += 1;
            let Some(oldest) = self.first_queued() else {
                // Everything in memory is in flight, or the oldest are being loaded: the newcomer has to go.
                return Offered::Dropped;
            };
            self.drop_at(oldest, ledger);
        }
        self.refill(ledger);
        Offered::Accepted
    }

    /// Decides how a new entry becomes safe.
    fn settle(&mut self, slot: &mut Slot, urgent: bool, now: Now, ledger: &mut Ledger) {
        let Keeping::Durable { commit } = self.keeping else {
            ledger.released.extend(slot.hold.take());
            return;
        };
        let waited_for = self.link == Link::Away && slot.hold.is_some();
        if urgent || waited_for {
            let record = Record::EntryPut { spool: self.id, entry: slot.entry.clone() };
            let lsn = self.record(record, ledger);
            slot.safety = Safety::Committing(lsn);
            self.committing.push_back((lsn, slot.entry.seq));
        } else {
            let until = now.instant + commit;
            slot.safety = Safety::Gathering { until };
            self.gathering.push_back((until, slot.entry.seq));
        }
    }

    /// Records an entry that is only in memory.
    fn write(&mut self, seq: Seq, ledger: &mut Ledger) {
        let id = self.id;
        let Some(slot) = self.find_mut(seq) else { return };
        if slot.stage == Stage::Gone || slot.is_recorded() {
            return;
        }
        let record = Record::EntryPut { spool: id, entry: slot.entry.clone() };
        let lsn = ledger.log.push(record);
        slot.safety = Safety::Committing(lsn);
        self.awaited = lsn;
        self.committing.push_back((lsn, seq));
    }

    fn record(&mut self, record: Record, ledger: &mut Ledger) -> Lsn {
        match self.keeping {
            Keeping::Volatile => Lsn(0),
            Keeping::Durable { .. } => {
                self.awaited = ledger.log.push(record);
                self.awaited
            }
        }
    }

    fn next_release(&mut self, window: usize) -> Option<PacketId> {
        let durable = self.durable;
        // In the order of their PUBRECs [MQTT-4.6.0-4]: one that is not durable holds those behind it.
        let release = self.releases.iter_mut().find(|release| !release.sent)?;
        if release.after > durable || (!release.on_wire && self.on_wire >= window) {
            return None;
        }
        self.on_wire += usize::from(!release.on_wire);
        release.on_wire = true;
        release.sent = true;
        Some(release.packet_id)
    }

    /// Gives identifiers to the next entries as far as the window goes.
    fn prepare(&mut self, window: usize, now: Now, ledger: &mut Ledger) {
        while let Some(at) = self.first_queued() {
            let slot = &self.head[at];
            if self.inflight() >= window && slot.entry.seq > self.recovered_up_to {
                return;
            }
            // [MQTT-3.3.2-5], never after it was sent once [MQTT-4.3.3-7]
            if slot.entry.message.is_expired(now) {
                self.losses.expired += 1;
                self.drop_at(at, ledger);
                continue;
            }
            let (seq, qos) = (slot.entry.seq, slot.entry.qos);
            let (inflight, releases) = (&self.inflight, &self.releases);
            let in_use = |id| inflight.contains_key(&id) || releases.iter().any(|r| r.packet_id == id);
            let Some(packet_id) = self.ids.take(in_use) else { return };
            let after =
                if qos == QoS::ExactlyOnce { self.record_published(packet_id, seq, ledger) } else { Lsn(0) };
            self.inflight.insert(packet_id, seq);
            self.head[at].stage = Stage::Prepared { packet_id, after, dup: false };
            self.prepared = at + 1;
        }
    }

    /// The identifier of a QoS 2 message is durable before its PUBLISH leaves: else a crash could send it
    /// again under another one.
    fn record_published(&mut self, packet_id: PacketId, seq: Seq, ledger: &mut Ledger) -> Lsn {
        if self.keeping == Keeping::Volatile {
            return Lsn(0);
        }
        self.write(seq, ledger);
        self.record(Record::InflightPut { spool: self.id, packet_id, seq, phase: Phase::Published }, ledger)
    }

    fn finish(&mut self, packet_id: PacketId, qos: QoS, ledger: &mut Ledger) -> Acknowledged {
        let Some(&seq) = self.inflight.get(&packet_id) else { return Acknowledged::Unknown };
        let Some(slot) = self.find(seq).filter(|slot| slot.entry.qos == qos) else {
            return Acknowledged::Unknown;
        };
        let was_on_wire = matches!(slot.stage, Stage::Sent { .. });
        self.inflight.remove(&packet_id);
        self.on_wire = self.on_wire.saturating_sub(usize::from(was_on_wire));
        if qos == QoS::ExactlyOnce {
            self.record(Record::InflightDrop { spool: self.id, packet_id }, ledger);
        }
        self.remove(seq, ledger);
        Acknowledged::Known
    }

    /// The entry is with the far end, or given up: it leaves memory, the disk and the counters.
    fn remove(&mut self, seq: Seq, ledger: &mut Ledger) {
        let Ok(at) = self.head.binary_search_by_key(&seq, |slot| slot.entry.seq) else { return };
        self.forget(at, ledger);
        self.head[at].stage = Stage::Gone;
        while self.head.front().is_some_and(|slot| slot.stage == Stage::Gone) {
            self.head.pop_front();
            self.prepared = self.prepared.saturating_sub(1);
            self.sent = self.sent.saturating_sub(1);
        }
        self.refill(ledger);
    }

    /// The oldest entry in memory that has no packet identifier yet.
    fn first_queued(&mut self) -> Option<usize> {
        while self.head.get(self.prepared)?.stage != Stage::Queued {
            self.prepared += 1;
        }
        Some(self.prepared)
    }

    /// Drops an entry that is not in flight.
    fn drop_at(&mut self, at: usize, ledger: &mut Ledger) {
        debug_assert_eq!(self.head[at].stage, Stage::Queued, "an entry in flight is never dropped");
        self.forget(at, ledger);
        self.head.remove(at);
    }

    fn forget(&mut self, at: usize, ledger: &mut Ledger) {
        let slot = &mut self.head[at];
        let (seq, bytes, recorded) = (slot.entry.seq, slot.bytes(), slot.is_recorded());
        ledger.released.extend(slot.hold.take());
        self.head_bytes = self.head_bytes.saturating_sub(bytes);
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes as u64);
        if recorded {
            self.record(Record::EntryDrop { spool: self.id, seq }, ledger);
        }
    }

    /// What was sent on the last connection is to be sent again.
    fn rewind(&mut self) {
        for slot in self.head.iter_mut().take(self.sent) {
            if let Stage::Sent { packet_id } = slot.stage {
                slot.stage = Stage::Prepared { packet_id, after: Lsn(0), dup: true };
            }
        }
        for release in &mut self.releases {
            release.sent = false;
            release.on_wire = false;
        }
        self.sent = 0;
        self.on_wire = 0;
    }

    /// Entries of the tail that are on disk leave memory, oldest first.
    fn spill(&mut self) {
        while self.tail.front().is_some_and(|slot| slot.safety == Safety::Durable) {
            if self.spilled.messages == 0 && self.head_has_room() {
                return;
            }
            if let Some(slot) = self.tail.pop_front() {
                self.spilled.messages += 1;
                self.spilled.bytes += slot.bytes() as u64;
                self.spilled.last = slot.entry.seq;
            }
        }
    }

    /// Keeps the head filled: from the tail where nothing lies between, else from disk.
    fn refill(&mut self, ledger: &mut Ledger) {
        if self.spilled.messages == 0 {
            while self.head_has_room()
                && let Some(slot) = self.tail.pop_front()
            {
                self.head_bytes += slot.bytes();
                self.head.push_back(slot);
            }
            return;
        }
        let low = self.head.len() * 2 <= self.bounds.memory_messages_max
            && self.head_bytes * 2 <= self.bounds.memory_bytes_max;
        if self.loading || !low {
            return;
        }
        self.loading = true;
        let after = self.head.back().map_or(Seq(0), |slot| slot.entry.seq);
        let messages_max = self.bounds.memory_messages_max - self.head.len();
        let bytes_max = self.bounds.memory_bytes_max - self.head_bytes;
        ledger.loads.push(Load { spool: self.id, after, messages_max, bytes_max });
    }

    fn find(&self, seq: Seq) -> Option<&Slot> {
        let slots =
            if self.head.back().is_some_and(|slot| seq <= slot.entry.seq) { &self.head } else { &self.tail };
        let at = slots.binary_search_by_key(&seq, |slot| slot.entry.seq).ok()?;
        slots.get(at).filter(|slot| slot.stage != Stage::Gone)
    }

    fn find_mut(&mut self, seq: Seq) -> Option<&mut Slot> {
        let in_head = self.head.back().is_some_and(|slot| seq <= slot.entry.seq);
        let slots = if in_head { &mut self.head } else { &mut self.tail };
        let at = slots.binary_search_by_key(&seq, |slot| slot.entry.seq).ok()?;
        slots.get_mut(at).filter(|slot| slot.stage != Stage::Gone)
    }
}

fn slot_of(offer: Offer, seq: Seq) -> Slot {
    let entry = Entry {
        seq,
        qos: offer.qos,
        retain: offer.retain,
        rule: offer.rule,
        subscription_identifiers: offer.subscription_identifiers,
        message: offer.message,
    };
    // A volatile entry is as safe as it will ever be.
    Slot { entry, stage: Stage::Queued, safety: Safety::Durable, hold: offer.hold }
}
