//! The spool itself: what is offered, bounded, recorded and dropped. What stands in memory is `memory`'s, what
//! is in flight is `window`'s. Never writes, reads or sends.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::base::few::Few;
use crate::base::time::{Instant, Now};
use crate::mqtt::message::Message;
use crate::mqtt::qos::{PacketId, QoS};
use crate::spool::memory::{Loading, Spilled};
use crate::spool::packet_ids::PacketIds;
use crate::spool::releases::Releases;
use crate::spool::settings::{Bounds, Keeping, Offered, Tally};
use crate::spool::shares::Shares;
use crate::spool::slot::{Safety, Slot, Stage};
use crate::spool::{Hold, Ledger};
use crate::store::record::{Entry, Lsn, Phase, Record, RecoveredSpool, Seq, SpoolId};

/// What gathers for one commit while the far end is away: more of it would not make a message cheaper.
const GATHERED_MESSAGES_MAX: usize = 1000;
const GATHERED_BYTES_MAX: usize = 1 << 20;

/// A message for a spool. QoS 0 messages never enter one.
#[derive(Debug, Clone)]
pub struct Offer {
    pub message: Arc<Message>,
    /// The QoS to send it with: 1 or 2.
    pub qos: QoS,
    pub retain: bool,
    /// See [`Entry::rule`].
    pub rule: u16,
    pub subscription_identifiers: Box<[u32]>,
    /// Released when the entry is safe.
    pub hold: Option<Hold>,
}

/// A message whose session is over, or subscribes to it no more, before it was delivered.
#[derive(Debug)]
pub struct Orphan {
    pub entry: Entry,
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
    /// What is in flight by it goes again, and has not yet on this connection: the answer to that counts. To believe
    /// this one would cost the message where the far end is mistaken, to answer it the end of exactly once.
    Early,
}

/// Whether the far end is there to acknowledge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    Away,
    Here { window: usize },
}

#[derive(Debug)]
pub struct Spool {
    pub(super) id: SpoolId,
    pub(super) keeping: Keeping,
    pub(super) bounds: Bounds,
    pub(super) link: Link,
    pub(super) head: VecDeque<Slot>,
    pub(super) head_bytes: usize,
    /// All up to this one is in the head or gone: what is spilled and the tail lie behind it.
    pub(super) head_last: Seq,
    pub(super) spilled: Spilled,
    pub(super) loading: Option<Loading>,
    pub(super) tail: VecDeque<Slot>,
    /// In memory and on disk, in flight included.
    pub(super) messages: u64,
    pub(super) bytes: u64,
    next_seq: u64,
    /// How many slots of `head`, from its front, have passed each stage: sent is at most prepared.
    pub(super) prepared: usize,
    pub(super) sent: usize,
    pub(super) inflight: Few<PacketId, Seq>,
    /// Those of `inflight` that a restart found and that are still on disk alone.
    pub(super) unloaded: BTreeMap<Seq, PacketId>,
    pub(super) releases: Releases,
    /// PUBLISH packets of this connection that wait for their first answer.
    pub(super) on_wire: usize,
    pub(super) ids: PacketIds,
    /// Deadlines of what is not recorded, soonest first; may name entries that are gone.
    gathering: VecDeque<(Instant, Seq)>,
    /// The same of those that nobody waits for, once there were any.
    #[allow(clippy::box_collection)] // most sessions have none, and are to stay small
    unowed: Option<Box<VecDeque<(Instant, Seq)>>>,
    /// Bytes that began to gather since the last commit.
    gathered_bytes: usize,
    /// Positions of what is being recorded, first to last; may name entries that are gone.
    committing: VecDeque<(Lsn, Seq)>,
    pub(super) durable: Lsn,
    awaited: Lsn,
    /// QoS 1 entries before this one may have been in flight at the crash: they go before it again.
    pub(super) recovered_up_to: Seq,
    /// QoS 1 entries whose identifiers the disk knows: those in flight at the clean end of the last process.
    pub(super) noted: BTreeSet<Seq>,
    /// None: nothing was lost, as mostly.
    pub(super) tally: Option<Box<Tally>>,
    /// None: entries are not told apart by their rules.
    pub(super) shares: Option<Box<Shares>>,
    pub(super) hands_out_overdue: bool,
}

/// What became of an entry that its far end has done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completed {
    /// The acknowledgement that still waits for it.
    pub hold: Option<Hold>,
    /// It was on the disk, or on its way there.
    pub recorded: bool,
}

impl Spool {
    pub fn new(id: SpoolId, keeping: Keeping, mut bounds: Bounds, ids: PacketIds) -> Self {
        // Without room for one entry nothing would ever be sent.
        bounds.memory_messages_max = bounds.memory_messages_max.max(1);
        bounds.memory_bytes_max = bounds.memory_bytes_max.max(1);
        Self {
            id,
            keeping,
            bounds,
            link: Link::Away,
            head: VecDeque::new(),
            head_bytes: 0,
            head_last: Seq(0),
            spilled: Spilled::default(),
            loading: None,
            tail: VecDeque::new(),
            messages: 0,
            bytes: 0,
            next_seq: 1,
            prepared: 0,
            sent: 0,
            inflight: Few::default(),
            unloaded: BTreeMap::new(),
            releases: Releases::default(),
            on_wire: 0,
            ids,
            gathering: VecDeque::new(),
            unowed: None,
            gathered_bytes: 0,
            committing: VecDeque::new(),
            durable: Lsn(0),
            awaited: Lsn(0),
            recovered_up_to: Seq(0),
            noted: BTreeSet::new(),
            tally: None,
            shares: None,
            hands_out_overdue: false,
        }
    }

    /// Its far end judges itself what is too old, and is given everything.
    #[must_use]
    pub fn handing_out_overdue(self) -> Self {
        Self { hands_out_overdue: true, ..self }
    }

    /// A spool as a start found it: everything durable, what was in flight to be sent again.
    #[must_use]
    pub fn recover(mut self, found: RecoveredSpool) -> Self {
        self.messages = found.messages.max(found.head.len() as u64);
        self.bytes = found.bytes;
        self.recover_rules(&found.rules);
        self.next_seq = found.last_seq.0.saturating_add(1);
        for entry in found.head {
            self.push_head(Slot::durable(entry));
        }
        self.spilled = Spilled {
            messages: self.messages - self.head.len() as u64,
            bytes: self.bytes.saturating_sub(self.head_bytes as u64),
            last: found.last_seq,
        };
        for (packet_id, seq, phase) in found.inflight {
            self.ids.skip_past(packet_id);
            match phase {
                Phase::Published => self.recover_published(packet_id, seq),
                Phase::Released => self.releases.insert(packet_id, seq, Lsn(0)),
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

    /// The next message gets a number behind this one.
    pub fn skip_past(&mut self, seq: Seq) {
        self.next_seq = self.next_seq.max(seq.0.saturating_add(1));
    }

    /// All that are given here.
    pub fn identifiers_given(&self) -> impl Iterator<Item = PacketId> {
        self.ids.all()
    }

    /// Those in flight.
    pub fn identifiers(&self) -> impl Iterator<Item = PacketId> {
        self.inflight.iter().map(|(id, _)| *id).chain(self.releases.identifiers())
    }

    /// Those above are given no more.
    pub fn limit_identifiers(&mut self, max: u16) {
        self.ids.limit(max);
    }

    /// Never given here: others have them. Of a spool with rules only.
    pub fn set_reserved(&mut self, ids: BTreeSet<PacketId>) {
        if let Some(shares) = self.shares.as_deref_mut() {
            shares.reserved = ids;
        }
    }

    /// Entries that take memory: at most the configured head, and behind it what is not on disk yet.
    pub fn memory_messages(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    /// The last number that was given; 0 before the first.
    pub fn last_seq(&self) -> Seq {
        Seq(self.next_seq - 1)
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

    /// The last position that this spool waits for. Its owner asks after each visit and calls `handle_durable`
    /// when that position is reached, also where a later one has been named since.
    pub fn awaited(&self) -> Option<Lsn> {
        (self.awaited > self.durable).then_some(self.awaited)
    }

    /// Takes a message, or drops what the bounds say. An `urgent` one is recorded in this visit: its publisher
    /// will not send it again once it is told that it was taken.
    pub fn offer(&mut self, offer: Offer, urgent: bool, now: Now, ledger: &mut Ledger) -> Offered {
        debug_assert!(offer.qos != QoS::AtMostOnce, "QoS 0 is sent or dropped, never queued");
        let bytes = offer.message.size_bytes();
        let rule = offer.rule;
        if !self.has_room_for(rule, bytes) {
            self.drop_overdue(now, ledger);
        }
        let room = self.make_room((rule, &offer.message.topic), bytes, ledger);
        if room != Offered::Accepted {
            ledger.released.extend(offer.hold);
            return room;
        }
        let seq = Seq(self.next_seq);
        self.next_seq += 1;
        self.count_in(rule, bytes);
        let mut slot = slot_of(offer, seq);
        self.note_latest(&slot.entry);
        self.settle(&mut slot, urgent, now, ledger);
        self.append(slot);
        self.bound_gathering(ledger);
        self.relieve_of(rule, ledger);
        Offered::Accepted
    }

    /// The session is over: nobody waits for its entries any longer, but for those that are `wanted` elsewhere and
    /// may still go there. That all leave the disk is the owner's to record. Of what stands on disk alone nothing
    /// goes elsewhere.
    pub fn dissolve(self, wanted: impl Fn(&Entry) -> bool, ledger: &mut Ledger) -> Vec<Orphan> {
        let mut orphans = Vec::new();
        for slot in self.head.into_iter().chain(self.tail) {
            if wanted(&slot.entry) && slot.may_go_elsewhere() {
                orphans.push(Orphan { entry: slot.entry, hold: slot.hold });
            } else {
                ledger.released.extend(slot.hold);
            }
        }
        orphans
    }

    /// The far end is there and can hold `window` unacknowledged packets. What was in flight is sent again,
    /// in its order and with its identifiers [MQTT-4.4.0-1].
    pub fn handle_here(&mut self, window: usize, ledger: &mut Ledger) {
        self.link = Link::Here { window: window.min(self.ids.count()) };
        self.rewind();
        self.refill(ledger);
    }

    /// The far end is gone: nobody but the disk can make an entry safe.
    pub fn handle_away(&mut self, ledger: &mut Ledger) {
        self.link = Link::Away;
        self.rewind();
        self.gathered_bytes = 0;
        let gathering = self.gathering.iter();
        let holds = gathering.filter_map(|(_, seq)| self.find(*seq)?.hold);
        ledger.gathered.extend(holds);
    }

    /// Somebody who could publish more waits for what gathers here.
    pub fn handle_hurry(&mut self, ledger: &mut Ledger) {
        if self.link == Link::Away {
            self.write_all(ledger);
        }
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
        self.refill(ledger);
    }

    /// When `handle_timeout` has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        let commit = self.next_commit();
        let aged = self.bounds.age_max.and_then(|age| {
            let oldest = self.head.iter().skip(self.prepared).find(|slot| slot.stage == Stage::Queued)?;
            Some(oldest.entry.message.arrived.instant + age)
        });
        commit.into_iter().chain(aged).min()
    }

    /// Records what has gathered, once one of it has for long enough: the others are cheap beside it. Drops what is
    /// too old.
    pub fn handle_timeout(&mut self, now: Now, ledger: &mut Ledger) {
        if self.next_commit().is_some_and(|until| until <= now.instant) {
            self.write_all(ledger);
        }
        if self.bounds.age_max.is_some() {
            self.drop_overdue(now, ledger);
        }
    }

    fn pop_gathering(&mut self) -> Option<(Instant, Seq)> {
        let unowed = || self.unowed.as_deref_mut().and_then(VecDeque::pop_front);
        self.gathering.pop_front().or_else(unowed)
    }

    fn next_commit(&self) -> Option<Instant> {
        let unowed = self.unowed.as_deref().and_then(VecDeque::front);
        self.gathering.front().into_iter().chain(unowed).map(|(until, _)| *until).min()
    }

    /// Records everything that is only in memory.
    pub fn write_all(&mut self, ledger: &mut Ledger) {
        self.gathered_bytes = 0;
        while let Some((_, seq)) = self.pop_gathering() {
            self.write(seq, ledger);
        }
    }

    /// Whether one more message would leave at once.
    pub fn has_window(&self) -> bool {
        match self.link {
            Link::Here { window } => self.messages + (self.releases.len() as u64) < window as u64,
            Link::Away => false,
        }
    }

    /// Whether one more message of that size would be kept without dropping another.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.messages < self.bounds.messages_max && self.bytes + bytes as u64 <= self.bounds.bytes_max
    }

    /// Drops what is too old to be sent, from the front up to the first that is not.
    fn drop_overdue(&mut self, now: Now, ledger: &mut Ledger) {
        while let Some(at) = self.first_queued()
            && self.count_overdue(at, now)
        {
            self.remove_at(at, ledger);
        }
    }

    /// Decides how a new entry becomes safe.
    fn settle(&mut self, slot: &mut Slot, urgent: bool, now: Now, ledger: &mut Ledger) {
        let Keeping::Durable { commit } = self.keeping else {
            ledger.released.extend(slot.hold.take());
            return;
        };
        if urgent {
            let record = Record::EntryPut { spool: self.id, entry: slot.entry.clone() };
            let lsn = self.record_awaited(record, ledger);
            slot.safety = Safety::Committing(lsn);
            self.committing.push_back((lsn, slot.entry.seq));
        } else {
            slot.safety = Safety::Gathering;
            let (queue, wait) = match slot.hold {
                Some(_) => (&mut self.gathering, commit),
                None => (&mut **self.unowed.get_or_insert_default(), commit.max(ledger.unowed_wait)),
            };
            queue.push_back((now.instant + wait, slot.entry.seq));
            self.gathered_bytes = self.gathered_bytes.saturating_add(slot.bytes());
            if self.link == Link::Away {
                ledger.gathered.extend(slot.hold);
            }
        }
    }

    /// A commit that is large enough waits for nothing.
    fn bound_gathering(&mut self, ledger: &mut Ledger) {
        let messages = self.gathering.len() + self.unowed.as_deref().map_or(0, VecDeque::len);
        let full = messages >= GATHERED_MESSAGES_MAX || self.gathered_bytes >= GATHERED_BYTES_MAX;
        if full && self.link == Link::Away {
            self.write_all(ledger);
        }
    }

    /// Records an entry that is only in memory.
    pub(super) fn write(&mut self, seq: Seq, ledger: &mut Ledger) {
        let id = self.id;
        let Some(slot) = self.find_mut(seq) else { return };
        if slot.is_recorded() {
            return;
        }
        let record = Record::EntryPut { spool: id, entry: slot.entry.clone() };
        let lsn = ledger.log.push(record);
        slot.safety = Safety::Committing(lsn);
        self.awaited = lsn;
        self.committing.push_back((lsn, seq));
    }

    /// Records what nobody waits for.
    pub(super) fn record(&mut self, record: Record, ledger: &mut Ledger) -> Lsn {
        match self.keeping {
            Keeping::Volatile => Lsn(0),
            Keeping::Durable { .. } => ledger.log.push(record),
        }
    }

    pub(super) fn record_awaited(&mut self, record: Record, ledger: &mut Ledger) -> Lsn {
        let lsn = self.record(record, ledger);
        self.awaited = self.awaited.max(lsn);
        lsn
    }

    /// Forgets deadlines of what is gone or recorded, so that an idle link wakes nobody.
    pub(super) fn trim_gathering(&mut self) {
        while let Some((_, seq)) = self.gathering.front()
            && self.find(*seq).is_none_or(Slot::is_recorded)
        {
            self.gathering.pop_front();
        }
        while let Some((_, seq)) = self.unowed.as_deref().and_then(VecDeque::front)
            && self.find(*seq).is_none_or(Slot::is_recorded)
        {
            self.unowed.as_deref_mut().and_then(VecDeque::pop_front);
        }
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
