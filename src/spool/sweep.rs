//! What gives way in a full spool: at once where memory holds it, page by page where it stands on disk alone. Drops
//! what the rules' policies name, never what is in flight.
//!
//! A sweep goes from the oldest entry to the newest, a bounded step a visit, as long as room is short, and goes on where it
//! stopped when room is short again. Each entry meets the policy of its own rule. It begins before the spool is full, so that
//! the disk has time to bring what is to be judged; where it does not, the oldest in memory gives way.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use crate::mqtt::topic::TopicName;
use crate::spool::Ledger;
use crate::spool::memory::{Loading, position};
use crate::spool::queue::Spool;
use crate::spool::settings::{Loss, Offered, WhenFull};
use crate::spool::shares::{Scope, Shares};
use crate::spool::slot::{Slot, Stage};
use crate::store::record::{Entry, Load, Record, Seq};

/// Room that is to be left before a sweep begins: a part of the bound, and bytes at most.
const MARGIN_PARTS: u64 = 16;
const MARGIN_BYTES_MAX: u64 = 256 * 1024;
/// What of the head one visit judges.
const HEAD_STEP_MESSAGES_MAX: usize = 128;
/// What of the disk one visit judges.
const PAGE_MESSAGES_MAX: usize = 1000;
const PAGE_BYTES_MAX: usize = 1 << 20;
/// Topics that a sweep tells apart, and of which the newest is known. Messages of any others give way by age alone.
const TOPICS_MAX: usize = 16_384;
/// A sweep reads everything: the next one waits until this part of it has come anew.
const RENEWED_PARTS: u64 = 4;
/// Entries that were dropped while a load was under way.
const GONE_MAX: usize = 1000;
/// What of the tail is looked through for an entry that may go.
const TAIL_LOOK_MAX: usize = 1000;

/// The newest message of a topic.
#[derive(Debug, Clone, Copy)]
pub(super) struct Latest {
    seq: Seq,
    bytes: usize,
}

/// How far one has come.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// Everything up to here was judged.
    cursor: Seq,
    /// What came later is for the next one.
    end: Seq,
    /// The next one begins once so many messages have ever been taken.
    next_at: u64,
    /// Of rules that thin: the topics whose last message stayed.
    kept: BTreeMap<(u16, u64), bool>,
}

fn hash_of(topic: &TopicName) -> u64 {
    let mut hasher = DefaultHasher::new();
    topic.as_str().hash(&mut hasher);
    hasher.finish()
}

enum Verdict {
    Stays,
    Goes,
    /// An older one of its topic does.
    Replaces(Latest),
}

impl Spool {
    /// Makes the newcomer fit by dropping what gives way to it, or says what becomes of it.
    pub(super) fn make_room(
        &mut self,
        newcomer: (u16, &TopicName),
        bytes: usize,
        ledger: &mut Ledger,
    ) -> Offered {
        let (rule, topic) = newcomer;
        // Ends: each round but the last drops an entry.
        while let Some(scope) = self.lacking(rule, bytes) {
            let when_full = self.when_full(rule);
            if when_full == WhenFull::Reject {
                return Offered::Rejected;
            }
            // What would not fit an empty spool costs no other.
            let hopeless = bytes as u64 > self.fill(scope).1;
            let given = !hopeless && when_full.yields() && {
                let replaced = when_full == WhenFull::KeepLast && self.drop_latest(rule, topic, ledger);
                replaced || self.drop_one(scope, ledger)
            };
            if !given {
                self.count_loss(Loss::Full, rule, bytes);
                return Offered::Dropped;
            }
        }
        Offered::Accepted
    }

    /// Drops the oldest in memory that may make room, until so many bytes are free or none is left.
    pub fn give_way(&mut self, bytes: u64, ledger: &mut Ledger) {
        let goal = self.bytes.saturating_sub(bytes);
        while self.bytes > goal && self.drop_one(Scope::Whole, ledger) {}
    }

    /// A new entry was taken: the newest of its topic.
    pub(super) fn note_latest(&mut self, entry: &Entry) {
        if self.when_full(entry.rule) != WhenFull::KeepLast {
            return;
        }
        let Some(part) = self.part_mut(entry.rule) else { return };
        let topic = hash_of(&entry.message.topic);
        if part.latest.len() < TOPICS_MAX || part.latest.contains_key(&topic) {
            part.latest.insert(topic, Latest { seq: entry.seq, bytes: entry.message.size_bytes() });
        }
    }

    /// A message of the rule was taken: where that leaves little room, a sweep goes on.
    pub(super) fn relieve_of(&mut self, rule: u16, ledger: &mut Ledger) {
        let own = self.place(rule).is_some_and(|place| self.is_short(Scope::Part(place), 1));
        if own || self.is_short(Scope::Whole, 1) {
            self.relieve(ledger);
        }
    }

    /// An entry is gone before it was on disk alone: nobody may look for it there.
    pub(super) fn forget_latest(&mut self, entry: &Entry) {
        let Some(part) = self.part_mut(entry.rule).filter(|part| !part.latest.is_empty()) else { return };
        let topic = hash_of(&entry.message.topic);
        if part.latest.get(&topic).is_some_and(|latest| latest.seq == entry.seq) {
            part.latest.remove(&topic);
        }
    }

    /// Goes on with the sweep of one who is short of room, in turn.
    pub(super) fn relieve(&mut self, ledger: &mut Ledger) {
        let Some(shares) = self.shares.as_deref() else { return };
        let (first, scopes) = (shares.turn, shares.parts.len() + 1);
        for step in 0..scopes {
            let turn = (first + step) % scopes;
            let scope = turn.checked_sub(1).map_or(Scope::Whole, Scope::Part);
            if self.is_short(scope, 1) && self.sweep_on(scope, ledger) {
                if let Some(shares) = self.shares.as_deref_mut() {
                    shares.turn = (turn + 1) % scopes;
                }
                return;
            }
        }
    }

    /// Whether one more message of a rule would be kept, and nothing that waits go for it, at once or in a sweep.
    pub fn has_ease_for(&self, rule: u16, bytes: usize) -> bool {
        let own = self.place(rule).map(Scope::Part);
        let mut scopes = own.into_iter().chain([Scope::Whole]);
        self.has_room_for(rule, bytes) && !scopes.any(|scope| self.would_be_short(scope, 1, bytes as u64))
    }

    /// Whether there is less room than so many margins, and a sweep is what makes more.
    fn is_short(&self, scope: Scope, margins: u64) -> bool {
        self.would_be_short(scope, margins, 0)
    }

    fn would_be_short(&self, scope: Scope, margins: u64, more: u64) -> bool {
        let Some(shares) = self.shares.as_deref() else { return false };
        let (held, max) = self.fill(scope);
        let held = held.saturating_add(more);
        let margin = (max / MARGIN_PARTS).min(MARGIN_BYTES_MAX);
        let swept = match scope {
            Scope::Part(place) => shares.parts.get(place).is_some_and(|part| part.terms.when_full.yields()),
            // Where all drop their oldest, the head holds it.
            Scope::Whole => shares.sweeps_whole,
        };
        swept && held.saturating_add(margin.saturating_mul(margins)) > max
    }

    /// One step. False: nothing is left to judge, or it has to wait.
    fn sweep_on(&mut self, scope: Scope, ledger: &mut Ledger) -> bool {
        self.renew_sweep(scope);
        let Some(sweep) = self.sweep(scope) else { return false };
        let (cursor, end) = (sweep.cursor, sweep.end);
        if cursor >= end {
            return false;
        }
        if cursor < self.head_last {
            self.sweep_head(scope, ledger);
        } else if self.spilled.messages > 0 && cursor < self.spilled.last && self.loading.is_none() {
            self.loading = Some(Loading { up_to: self.spilled.last, sweep: Some(scope) });
            let (messages_max, bytes_max) = (PAGE_MESSAGES_MAX, PAGE_BYTES_MAX);
            ledger.loads.push(Load { spool: self.id, after: cursor, messages_max, bytes_max });
        } else if self.loading.is_none() {
            // What is left is too new to have left memory. Who drops the oldest comes back for it.
            if !self.is_endless(scope) {
                self.set_cursor(scope, end);
            }
            return false;
        }
        true
    }

    /// Begins anew where the last one has ended and enough has come since.
    fn renew_sweep(&mut self, scope: Scope) {
        let last = self.last_seq();
        let all = (self.messages, last.0);
        let endless = self.is_endless(scope);
        let Some(shares) = self.shares.as_deref_mut() else { return };
        let (sweep, (messages, accepted)) = match scope {
            Scope::Whole => (&mut shares.whole, all),
            Scope::Part(place) => {
                let Some(part) = shares.parts.get_mut(place) else { return };
                (&mut part.sweep, (part.messages, part.accepted))
            }
        };
        if endless {
            sweep.end = last;
        } else if sweep.cursor >= sweep.end && accepted >= sweep.next_at {
            let next_at = accepted + messages / RENEWED_PARTS + 1;
            *sweep = Sweep { end: last, next_at, ..Sweep::default() };
            // Where there is no room for new topics, all are forgotten: it meets those of which something waits.
            let parts = shares.parts.iter_mut().filter(|part| part.latest.len() >= TOPICS_MAX);
            parts.for_each(|part| part.latest.clear());
        }
    }

    /// Whether it never begins anew: what it leaves behind is in flight.
    fn is_endless(&self, scope: Scope) -> bool {
        let part = |shares: &Shares, place: usize| shares.parts.get(place).map(|part| part.terms.when_full);
        match (scope, self.shares.as_deref()) {
            (Scope::Part(place), Some(shares)) => part(shares, place) == Some(WhenFull::DropOldest),
            _ => false,
        }
    }

    fn sweep_head(&mut self, scope: Scope, ledger: &mut Ledger) {
        let Some(cursor) = self.sweep(scope).map(|sweep| sweep.cursor) else { return };
        let mut at = self.head.partition_point(|slot| slot.entry.seq <= cursor);
        for _ in 0..HEAD_STEP_MESSAGES_MAX {
            let Some(slot) = self.head.get(at) else {
                self.set_cursor(scope, self.head_last);
                return;
            };
            let entry = slot.entry.clone();
            if slot.stage == Stage::Queued && self.yields(scope, entry.rule) {
                if !self.still_needs(scope, entry.rule) {
                    return;
                }
                match self.judge(scope, &entry) {
                    Verdict::Stays => {}
                    Verdict::Goes => self.lose_at(at, ledger),
                    Verdict::Replaces(older) => _ = self.drop_known(entry.rule, older, ledger),
                }
            }
            self.set_cursor(scope, entry.seq);
            // Whatever has left and come meanwhile.
            at = self.head.partition_point(|slot| slot.entry.seq <= entry.seq);
        }
    }

    /// Entries that a sweep asked for, oldest first.
    pub(super) fn sweep_page(&mut self, scope: Scope, up_to: Seq, entries: &[Entry], ledger: &mut Ledger) {
        let mut cursor = self.sweep(scope).map_or(up_to, |sweep| sweep.cursor);
        if entries.is_empty() {
            cursor = up_to;
        }
        for entry in entries.iter().take_while(|entry| entry.seq <= up_to) {
            let waits = entry.seq > self.head_last
                && !self.unloaded.contains_key(&entry.seq)
                && !self.is_gone(entry.seq);
            if waits && self.yields(scope, entry.rule) {
                if !self.still_needs(scope, entry.rule) {
                    break;
                }
                match self.judge(scope, entry) {
                    Verdict::Stays => {}
                    Verdict::Goes => {
                        self.drop_spilled(entry.seq, (entry.rule, entry.message.size_bytes()), ledger);
                    }
                    Verdict::Replaces(older) => _ = self.drop_known(entry.rule, older, ledger),
                }
            }
            cursor = entry.seq;
        }
        self.set_cursor(scope, cursor);
    }

    /// Who drops the oldest stops as soon as there is room; the others finish what they began, so that it is even.
    fn still_needs(&self, scope: Scope, rule: u16) -> bool {
        self.when_full(rule) != WhenFull::DropOldest || self.is_short(scope, 2)
    }

    fn judge(&mut self, scope: Scope, entry: &Entry) -> Verdict {
        let when_full = self.when_full(entry.rule);
        let topic = hash_of(&entry.message.topic);
        match when_full {
            WhenFull::Reject | WhenFull::DropNewest => Verdict::Stays,
            WhenFull::DropOldest => Verdict::Goes,
            WhenFull::Thin => {
                let sweep = self.shares.as_deref_mut().and_then(|shares| shares.sweep_mut(scope));
                sweep.map_or(Verdict::Stays, |sweep| sweep.judge_next((entry.rule, topic), entry.seq))
            }
            WhenFull::KeepLast => {
                let Some(part) = self.part_mut(entry.rule) else { return Verdict::Stays };
                let found = Latest { seq: entry.seq, bytes: entry.message.size_bytes() };
                match part.latest.get_mut(&topic) {
                    Some(latest) if latest.seq > entry.seq => Verdict::Goes,
                    Some(latest) if latest.seq < entry.seq => {
                        Verdict::Replaces(std::mem::replace(latest, found))
                    }
                    Some(_) => Verdict::Stays,
                    None => {
                        if part.latest.len() < TOPICS_MAX {
                            part.latest.insert(topic, found);
                        }
                        Verdict::Stays
                    }
                }
            }
        }
    }

    fn drop_latest(&mut self, rule: u16, topic: &TopicName, ledger: &mut Ledger) -> bool {
        let latest = self.part_mut(rule).and_then(|part| part.latest.remove(&hash_of(topic)));
        latest.is_some_and(|latest| self.drop_known(rule, latest, ledger))
    }

    /// Drops an entry wherever it stands; false where it is in flight or gone.
    fn drop_known(&mut self, rule: u16, known: Latest, ledger: &mut Ledger) -> bool {
        let Latest { seq, bytes } = known;
        if seq <= self.head_last {
            let at = position(&self.head, seq);
            let queued = at.filter(|at| self.head.get(*at).is_some_and(|slot| slot.stage == Stage::Queued));
            return queued.map(|at| self.lose_at(at, ledger)).is_some();
        }
        if let Some(at) = position(&self.tail, seq) {
            return self.lose_in_tail(at, ledger);
        }
        let spilled = self.spilled.messages > 0 && seq <= self.spilled.last;
        let room = self.loading.is_none()
            || self.shares.as_deref().is_some_and(|shares| shares.gone.len() < GONE_MAX);
        if !spilled || !room || self.unloaded.contains_key(&seq) || self.is_gone(seq) {
            return false;
        }
        self.drop_spilled(seq, (rule, bytes), ledger);
        true
    }

    /// Drops the oldest in memory that may make room and is not in flight.
    pub(super) fn drop_one(&mut self, scope: Scope, ledger: &mut Ledger) -> bool {
        let may_go =
            |spool: &Self, slot: &Slot| slot.stage == Stage::Queued && spool.yields(scope, slot.entry.rule);
        let first = self.first_queued().unwrap_or(self.head.len());
        let mut queued = (first..self.head.len()).zip(self.head.range(first..));
        if let Some((at, _)) = queued.find(|(_, slot)| may_go(self, slot)) {
            self.lose_at(at, ledger);
            return true;
        }
        if self.spilled.messages > 0 {
            return false;
        }
        let at = self.tail.iter().take(TAIL_LOOK_MAX).position(|slot| may_go(self, slot));
        at.is_some_and(|at| self.lose_in_tail(at, ledger))
    }

    fn lose_at(&mut self, at: usize, ledger: &mut Ledger) {
        let lost = self.head.get(at).map(|slot| (slot.entry.rule, slot.bytes()));
        if let Some((rule, bytes)) = lost {
            self.count_loss(Loss::Full, rule, bytes);
            self.remove_at(at, ledger);
        }
    }

    fn lose_in_tail(&mut self, at: usize, ledger: &mut Ledger) -> bool {
        let Some(slot) = self.tail.get(at) else { return false };
        self.count_loss(Loss::Full, slot.entry.rule, slot.bytes());
        self.remove_in_tail(at, ledger);
        true
    }

    fn drop_spilled(&mut self, seq: Seq, (rule, bytes): (u16, usize), ledger: &mut Ledger) {
        self.spilled.messages = self.spilled.messages.saturating_sub(1);
        self.spilled.bytes = self.spilled.bytes.saturating_sub(bytes as u64);
        self.count_loss(Loss::Full, rule, bytes);
        self.count_out(rule, bytes);
        self.record(Record::EntryDrop { spool: self.id, seq, rule }, ledger);
        if let Some(shares) = self.shares.as_deref_mut().filter(|_| self.loading.is_some()) {
            shares.gone.insert(seq);
        }
    }

    pub(super) fn is_gone(&self, seq: Seq) -> bool {
        self.shares.as_deref().is_some_and(|shares| shares.gone.contains(&seq))
    }

    fn sweep(&self, scope: Scope) -> Option<&Sweep> {
        let shares = self.shares.as_deref()?;
        match scope {
            Scope::Whole => Some(&shares.whole),
            Scope::Part(place) => shares.parts.get(place).map(|part| &part.sweep),
        }
    }

    fn set_cursor(&mut self, scope: Scope, cursor: Seq) {
        if let Some(sweep) = self.shares.as_deref_mut().and_then(|shares| shares.sweep_mut(scope)) {
            sweep.cursor = sweep.cursor.max(cursor);
        }
    }
}

impl Sweep {
    /// Of each topic every other one stays, the first among them; of those beyond the bound every other number.
    fn judge_next(&mut self, topic: (u16, u64), seq: Seq) -> Verdict {
        let stays = if self.kept.len() < TOPICS_MAX || self.kept.contains_key(&topic) {
            let kept = self.kept.entry(topic).or_default();
            *kept = !*kept;
            *kept
        } else {
            seq.0.is_multiple_of(2)
        };
        if stays { Verdict::Stays } else { Verdict::Goes }
    }
}

impl Shares {
    fn sweep_mut(&mut self, scope: Scope) -> Option<&mut Sweep> {
        match scope {
            Scope::Whole => Some(&mut self.whole),
            Scope::Part(place) => self.parts.get_mut(place).map(|part| &mut part.sweep),
        }
    }
}
