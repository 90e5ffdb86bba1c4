//! What of a spool belongs to which rule: how much waits, how much may, and what was lost. Drops nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::time::Duration;
use crate::mqtt::qos::PacketId;
use crate::spool::queue::Spool;
use crate::spool::settings::{Loss, Losses, Tally, Terms, WhenFull};
use crate::spool::sweep::{Latest, Sweep};
use crate::store::record::{RuleTotals, Seq};

/// The messages of one rule.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) terms: Terms,
    pub(super) messages: u64,
    pub(super) bytes: u64,
    /// Messages ever taken by this process.
    pub(super) accepted: u64,
    pub(super) tally: Tally,
    pub(super) sweep: Sweep,
    /// The newest message of each topic, of a rule that keeps the last.
    pub(super) latest: BTreeMap<u64, Latest>,
}

/// The rules of a spool in the order of their numbers; the last part is that of numbers which no rule has.
#[derive(Debug, Default)]
pub(super) struct Shares {
    pub(super) parts: Box<[Part]>,
    pub(super) whole: Sweep,
    /// Whether the spool as a whole makes room in another way than by dropping what is oldest.
    pub(super) sweeps_whole: bool,
    /// Entries on disk alone that were dropped while a load was under way, which may still bring them.
    pub(super) gone: BTreeSet<Seq>,
    /// Identifiers that another spool of the same far end found in flight at its start.
    pub(super) reserved: BTreeSet<PacketId>,
    /// Whose turn it is to have a page loaded.
    pub(super) turn: usize,
}

impl Part {
    /// With nothing in it yet.
    pub(super) fn new(terms: Terms) -> Self {
        Self {
            terms,
            messages: 0,
            bytes: 0,
            accepted: 0,
            tally: Tally::default(),
            sweep: Sweep::default(),
            latest: BTreeMap::new(),
        }
    }
}

impl Shares {
    pub(super) fn set_parts(&mut self, parts: Box<[Part]>) {
        let yields = parts.iter().any(|part| part.terms.when_full.yields());
        self.sweeps_whole = yields && parts.iter().any(|part| part.terms.when_full != WhenFull::DropOldest);
        self.parts = parts;
    }
}

/// Whose room is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Whole,
    /// The rule whose part has this place.
    Part(usize),
}

/// What a rule has in a spool and has lost of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleStanding {
    pub messages: u64,
    pub bytes: u64,
    pub bytes_max: Option<u64>,
    pub tally: Tally,
}

impl Spool {
    /// Entries are counted by their rules, each of which has its own terms.
    #[must_use]
    pub fn with_rules(mut self, rules: &[Terms]) -> Self {
        let others = Terms::of_others(&self.bounds);
        let mut shares = Shares::default();
        shares.set_parts(rules.iter().chain([&others]).map(|terms| Part::new(*terms)).collect());
        self.shares = Some(Box::new(shares));
        self
    }

    /// Each rule in turn; nothing where entries are not counted by rules.
    pub fn rules(&self) -> impl Iterator<Item = RuleStanding> {
        let parts = self.shares.as_deref().map_or(&[][..], |shares| &shares.parts);
        let (_, parts) = parts.split_last().map_or((None, parts), |(last, parts)| (Some(last), parts));
        parts.iter().map(|part| RuleStanding {
            messages: part.messages,
            bytes: part.bytes,
            bytes_max: part.terms.bytes_max,
            tally: part.tally,
        })
    }

    /// In messages.
    pub fn losses(&self) -> Losses {
        self.tally().messages
    }

    pub fn tally(&self) -> Tally {
        self.tally.as_deref().copied().unwrap_or_default()
    }

    /// How much larger what waits may grow by messages of a rule.
    pub fn room_bytes(&self, rule: u16) -> u64 {
        let own = self.part(rule).and_then(|part| Some(part.terms.bytes_max?.saturating_sub(part.bytes)));
        own.unwrap_or(u64::MAX).min(self.bounds.bytes_max.saturating_sub(self.bytes))
    }

    /// Whether one more message of a rule would be kept without dropping another.
    pub fn has_room_for(&self, rule: u16, bytes: usize) -> bool {
        self.lacking(rule, bytes).is_none()
    }

    /// Whose room does not suffice; the rule's own is asked first.
    pub(super) fn lacking(&self, rule: u16, bytes: usize) -> Option<Scope> {
        let own = self.place(rule).filter(|place| {
            let (held, max) = self.fill(Scope::Part(*place));
            held.saturating_add(bytes as u64) > max
        });
        own.map(Scope::Part).or_else(|| (!self.has_room(bytes)).then_some(Scope::Whole))
    }

    /// What it holds, and what it may.
    pub(super) fn fill(&self, scope: Scope) -> (u64, u64) {
        let part = match scope {
            Scope::Whole => None,
            Scope::Part(place) => self.shares.as_deref().and_then(|shares| shares.parts.get(place)),
        };
        match part {
            Some(part) => (part.bytes, part.terms.bytes_max.unwrap_or(u64::MAX)),
            None => (self.bytes, self.bounds.bytes_max),
        }
    }

    pub(super) fn when_full(&self, rule: u16) -> WhenFull {
        self.part(rule).map_or(self.bounds.when_full, |part| part.terms.when_full)
    }

    pub(super) fn expiry(&self, rule: u16) -> Option<Duration> {
        self.part(rule)?.terms.expiry
    }

    /// Whether an entry of this rule may make room there.
    pub(super) fn yields(&self, scope: Scope, rule: u16) -> bool {
        match scope {
            Scope::Part(place) => self.place(rule) == Some(place),
            Scope::Whole => self.when_full(rule).yields(),
        }
    }

    /// Where the part of a rule stands.
    pub(super) fn place(&self, rule: u16) -> Option<usize> {
        let last = self.shares.as_deref()?.parts.len().checked_sub(1)?;
        Some(usize::from(rule).min(last))
    }

    fn part(&self, rule: u16) -> Option<&Part> {
        self.shares.as_deref()?.parts.get(self.place(rule)?)
    }

    pub(super) fn part_mut(&mut self, rule: u16) -> Option<&mut Part> {
        let place = self.place(rule)?;
        self.shares.as_deref_mut()?.parts.get_mut(place)
    }

    pub(super) fn count_in(&mut self, rule: u16, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes as u64;
        if let Some(part) = self.part_mut(rule) {
            part.messages += 1;
            part.bytes += bytes as u64;
            part.accepted += 1;
        }
    }

    pub(super) fn count_out(&mut self, rule: u16, bytes: usize) {
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes as u64);
        if let Some(part) = self.part_mut(rule) {
            part.messages = part.messages.saturating_sub(1);
            part.bytes = part.bytes.saturating_sub(bytes as u64);
        }
    }

    pub(super) fn count_loss(&mut self, loss: Loss, rule: u16, bytes: usize) {
        self.tally.get_or_insert_default().add(loss, bytes as u64);
        if let Some(part) = self.part_mut(rule) {
            part.tally.add(loss, bytes as u64);
        }
    }

    pub(super) fn recover_rules(&mut self, found: &[RuleTotals]) {
        for totals in found {
            if let Some(part) = self.part_mut(totals.rule) {
                part.messages += totals.messages;
                part.bytes += totals.bytes;
            }
        }
    }

    /// Counts what is in memory anew: the disk holds less than it said.
    pub(super) fn recount_rules(&mut self) {
        let slots = self.head.iter().chain(&self.tail);
        let found = RuleTotals::of(slots.map(|slot| (slot.entry.rule, slot.bytes() as u64)));
        for part in self.shares.iter_mut().flat_map(|shares| &mut shares.parts) {
            (part.messages, part.bytes) = (0, 0);
        }
        self.recover_rules(&found);
    }
}
