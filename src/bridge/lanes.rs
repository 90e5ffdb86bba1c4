//! The buffer of a bridge: one spool a lane, with one bound, one window and one numbering for all. Says which lane
//! sends next; what happens within a lane is its spool's.

use std::collections::BTreeSet;

use crate::base::time::{Instant, Now};
use crate::bridge::lane::{ASIDE, Kind, LANES, Lane, MAIN};
use crate::bridge::replay::Rate;
use crate::config::model;
use crate::mqtt::qos::PacketId;
use crate::spool::Ledger;
use crate::spool::packet_ids::PacketIds;
use crate::spool::queue::{Acknowledged, Offer, Orphan, Sending, Spool};
use crate::spool::settings::{Offered, Tally};
use crate::spool::shares::RuleStanding;
use crate::spool::survey::{Purged, Survey};
use crate::store::record::{Entry, Lsn, Seq, SpoolId};

/// Above lie the identifiers of SUBSCRIBE.
const PUBLISH_ID_MAX: u16 = 64_999;
/// New messages that may wait in a lane of those that go at once: what comes above that waits behind.
const LIVE_MESSAGES_MAX: u64 = 1000;
/// The number of a lane stands above this bit of the sequence numbers that people see.
const LANE_SHIFT: u32 = 48;

#[derive(Debug)]
struct Part {
    lane: Lane,
    spool: Spool,
    /// The last that waited when the link came up.
    backlog: Seq,
}

#[derive(Debug)]
pub(super) struct Lanes {
    /// By their numbers; the main one is the first.
    parts: Vec<Part>,
    /// Their places in the order of sending.
    order: Vec<usize>,
    bytes_max: u64,
    /// None: the far end is not there.
    window: Option<usize>,
    rate: Option<Rate>,
    /// Something waits for the rate alone.
    held_back: bool,
    /// How much of what the server had no room for may be unanswered.
    aside_window: usize,
    /// Something was ever there.
    aside_used: bool,
}

/// A message of a lane, or the release of one.
#[derive(Debug)]
pub(super) struct Next {
    pub sending: Sending,
    pub lane: Lane,
    /// It had to wait, and new ones went before it.
    pub replayed: bool,
}

/// As people see it: which lane, then the number within.
fn shown(lane: Lane, seq: Seq) -> Seq {
    Seq(u64::from(lane.number()) << LANE_SHIFT | seq.0)
}

/// Which lane a number that people see is of, and the number within.
fn within(seen: Seq) -> (u64, Seq) {
    (seen.0 >> LANE_SHIFT, Seq(seen.0 & ((1 << LANE_SHIFT) - 1)))
}

/// An entry as people see it, of the lane of `seen`.
pub fn as_shown(entry: Entry, seen: Seq) -> Entry {
    let (lane, _) = within(seen);
    Entry { seq: Seq(lane << LANE_SHIFT | entry.seq.0), ..entry }
}

/// The identifiers that a lane gives: from a range of its own, so that two never give the same.
pub(super) fn ids_of(lane: Lane, count: u16) -> PacketIds {
    if lane == MAIN {
        return PacketIds::up_to(count.min(PUBLISH_ID_MAX));
    }
    let share = share_of(PUBLISH_ID_MAX);
    let first = lane.number() * share + 1;
    PacketIds::between(first, first + count.clamp(1, share) - 1)
}

fn share_of(id_max: u16) -> u16 {
    id_max / u16::try_from(LANES.len()).unwrap_or(u16::MAX)
}

impl Lanes {
    pub(super) fn new(main: Spool, rate: Option<Rate>) -> Self {
        let bytes_max = main.bytes_max();
        let parts = vec![Part { lane: MAIN, spool: main, backlog: Seq(0) }];
        Self {
            parts,
            order: vec![0],
            bytes_max,
            window: None,
            rate,
            held_back: false,
            aside_window: 0,
            aside_used: false,
        }
    }

    /// Before anything else is done.
    pub(super) fn add(&mut self, lane: Lane, spool: Spool) {
        self.parts[0].spool.limit_identifiers(share_of(PUBLISH_ID_MAX));
        self.parts.push(Part { lane, spool, backlog: Seq(0) });
        self.parts.sort_by_key(|part| part.lane.number());
        self.order = (0..self.parts.len()).collect();
        self.order.sort_by_key(|place| self.parts[*place].lane.rank());
        // What an earlier configuration left in flight may have identifiers of another lane's.
        let all: Vec<BTreeSet<PacketId>> =
            self.parts.iter().map(|part| part.spool.identifiers().collect()).collect();
        for (place, part) in self.parts.iter_mut().enumerate() {
            let others = all.iter().enumerate().filter(|(other, _)| *other != place);
            part.spool.set_reserved(others.flat_map(|(_, ids)| ids.iter().copied()).collect());
        }
        self.share_out();
    }

    pub(super) fn lanes(&self) -> impl Iterator<Item = Lane> {
        self.parts.iter().map(|part| part.lane)
    }

    /// Other settings, while the far end is away. Lanes that no rule needs any more stay.
    pub(super) fn replace_settings(&mut self, bridge: &model::Bridge) {
        let id_max = if self.parts.len() > 1 { share_of(PUBLISH_ID_MAX) } else { PUBLISH_ID_MAX };
        for part in &mut self.parts {
            let (keeping, bounds, mut ids, terms) = super::spool_settings(bridge, part.lane);
            if part.lane == MAIN {
                ids.limit(id_max);
            }
            part.spool.replace_settings(keeping, bounds, ids, &terms);
        }
        self.bytes_max = bridge.buffer.size_bytes;
        self.rate = bridge.buffer.replay_rate.map(Rate::per_second);
        self.share_out();
    }

    pub(super) fn spools(&self) -> impl Iterator<Item = &Spool> {
        self.parts.iter().map(|part| &part.spool)
    }

    fn spools_mut(&mut self) -> impl Iterator<Item = &mut Spool> {
        self.parts.iter_mut().map(|part| &mut part.spool)
    }

    pub(super) fn owns(&self, spool: SpoolId) -> bool {
        self.spools().any(|own| own.id() == spool)
    }

    pub(super) fn main(&self) -> &Spool {
        &self.parts[0].spool
    }

    pub(super) fn messages(&self) -> u64 {
        self.spools().map(Spool::messages).sum()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.spools().map(Spool::bytes).sum()
    }

    pub(super) fn inflight(&self) -> usize {
        self.spools().map(Spool::inflight).sum()
    }

    pub(super) fn unanswered(&self) -> usize {
        self.spools().map(Spool::unanswered).sum()
    }

    pub(super) fn aside(&self) -> Option<&Spool> {
        self.parts.iter().find(|part| part.lane == ASIDE).map(|part| &part.spool)
    }

    pub(super) fn set_aside_window(&mut self, messages: usize) {
        self.aside_window = messages;
    }

    /// All that messages of any lane leave with.
    pub(super) fn identifiers(&self) -> Vec<PacketId> {
        let used = self.parts.iter().filter(|part| part.lane != ASIDE || self.aside_used);
        used.flat_map(|part| part.spool.identifiers_given()).collect()
    }

    pub(super) fn set_aside_used(&mut self) {
        self.aside_used = true;
    }

    /// Of both lanes nothing before this one has still to leave on this connection. None: nothing has.
    pub(super) fn unsent_from(&self, waiting: Lane, live: Option<Lane>) -> Option<Seq> {
        let lanes = [Some(waiting), live].into_iter().flatten();
        lanes.filter_map(|lane| self.parts[self.place_of(lane)].spool.unsent_from()).min()
    }

    pub(super) fn awaited(&self) -> Option<Lsn> {
        self.spools().filter_map(Spool::awaited).max()
    }

    pub(super) fn oldest(&self) -> Option<Now> {
        self.spools().filter_map(Spool::oldest).min_by_key(|arrived| arrived.instant)
    }

    /// The last number that a message got, in any lane: they have one numbering.
    pub(super) fn last_seq(&self) -> Seq {
        self.spools().map(Spool::last_seq).max().unwrap_or_default()
    }

    pub(super) fn tally(&self) -> Tally {
        self.spools().fold(Tally::default(), |sum, spool| sum.with(&spool.tally()))
    }

    /// By rules, of all lanes together.
    pub(super) fn rules(&self) -> Vec<RuleStanding> {
        let mut rules: Vec<RuleStanding> = self.main().rules().collect();
        for spool in self.spools().skip(1) {
            for (sum, more) in rules.iter_mut().zip(spool.rules()) {
                sum.messages += more.messages;
                sum.bytes += more.bytes;
                sum.tally = sum.tally.with(&more.tally);
            }
        }
        rules
    }

    pub(super) fn set_bytes_max(&mut self, bytes_max: u64) {
        self.bytes_max = bytes_max;
        self.share_out();
    }

    /// What one lane holds, the others cannot.
    pub(super) fn share_out(&mut self) {
        let (all, bytes_max) = (self.bytes(), self.bytes_max);
        for spool in self.spools_mut() {
            let others = all - spool.bytes();
            spool.set_bytes_max(bytes_max.saturating_sub(others));
        }
    }

    fn place_of(&self, lane: Lane) -> usize {
        // A rule whose lane was not made goes with the rest.
        self.parts.iter().position(|part| part.lane == lane).unwrap_or(0)
    }

    /// How much larger what waits may grow by messages of a rule.
    pub(super) fn room_bytes(&self, lane: Lane, rule: u16) -> u64 {
        let spare = self.bytes_max.saturating_sub(self.bytes());
        self.parts[self.place_of(lane)].spool.room_bytes(rule).min(spare)
    }

    pub(super) fn has_room_for(&self, lane: Lane, rule: u16, bytes: usize) -> bool {
        self.parts[self.place_of(lane)].spool.has_room_for(rule, bytes)
    }

    /// Whether one more would be kept and cost no other.
    pub(super) fn has_ease_for(&self, lane: Lane, rule: u16, bytes: usize) -> bool {
        self.parts[self.place_of(lane)].spool.has_ease_for(rule, bytes)
    }

    /// Where a message goes: with what is new, as long as the link is there and takes that.
    pub(super) fn choose(&self, waiting: Lane, live: Option<Lane>, rule: u16, bytes: usize) -> Lane {
        let Some(live) = live.filter(|_| self.window.is_some()) else { return waiting };
        let spool = &self.parts[self.place_of(live)].spool;
        let fits = spool.messages() < LIVE_MESSAGES_MAX
            && self.has_room_for(waiting, rule, bytes)
            && spool.has_room_for(rule, bytes);
        if fits { live } else { waiting }
    }

    pub(super) fn offer(
        &mut self,
        lane: Lane,
        offer: Offer,
        (urgent, yields): (bool, bool),
        (now, ledger): (Now, &mut Ledger),
    ) -> Offered {
        let (place, last) = (self.place_of(lane), self.last_seq());
        let bytes = offer.message.size_bytes() as u64;
        if yields && bytes <= self.bytes_max {
            self.make_room(place, bytes, ledger);
        }
        let spool = &mut self.parts[place].spool;
        spool.skip_past(last);
        let offered = spool.offer(offer, urgent, now, ledger);
        self.share_out();
        offered
    }

    /// Lanes of the same and of lower priority give way, the last one first.
    fn make_room(&mut self, newcomer: usize, bytes: u64, ledger: &mut Ledger) {
        let priority = self.parts[newcomer].lane.priority;
        for place in self.order.clone().into_iter().rev() {
            let lacking = (self.bytes() + bytes).saturating_sub(self.bytes_max);
            if lacking == 0 {
                break;
            }
            if place != newcomer && self.parts[place].lane.priority >= priority {
                self.parts[place].spool.give_way(lacking, ledger);
            }
        }
        self.share_out();
    }

    /// The next packet that may leave now. Call until None after anything changed.
    pub(super) fn next_sending(&mut self, now: Now, ledger: &mut Ledger) -> Option<Next> {
        let window = self.window?;
        self.held_back = false;
        let mut below = self.unanswered();
        // What the lanes before have given identifiers to leaves before, so that no more wait than a window holds.
        let mut before = 0;
        for at in 0..self.order.len() {
            let place = self.order[at];
            below -= self.parts[place].spool.unanswered();
            let others = before + below;
            let part = &mut self.parts[place];
            let buffered = part.lane.kind == Kind::Replay
                || part.spool.next_unsent().is_some_and(|seq| seq <= part.backlog);
            let waits = buffered && self.rate.as_ref().is_some_and(|rate| !rate.allows(now.instant));
            // Releases leave all the same.
            let room = if waits { 0 } else { window.saturating_sub(others) };
            let most = if part.lane == ASIDE { self.aside_window } else { usize::MAX };
            part.spool.set_window(room.min(most));
            let Some(sending) = part.spool.next_sending(now, ledger) else {
                self.held_back |= waits && part.spool.next_unsent().is_some();
                before += part.spool.inflight();
                continue;
            };
            if buffered
                && matches!(sending, Sending::Publish { .. })
                && let Some(rate) = &mut self.rate
            {
                rate.take(now.instant);
            }
            let lane = part.lane;
            return Some(Next { sending, lane, replayed: lane.kind == Kind::Replay });
        }
        None
    }

    pub(super) fn handle_here(&mut self, window: usize, now: Instant, ledger: &mut Ledger) {
        self.window = Some(window);
        if let Some(rate) = &mut self.rate {
            rate.begin(now);
        }
        for part in &mut self.parts {
            part.backlog = part.spool.last_seq();
            part.spool.handle_here(window, ledger);
        }
    }

    /// Nothing new leaves any more on this connection; what has left is completed.
    pub(super) fn hold_back(&mut self) {
        self.set_window(0);
    }

    /// How many may be unanswered from now on, while the far end is there.
    pub(super) fn set_window(&mut self, messages: usize) {
        self.window = self.window.map(|_| messages);
    }

    pub(super) fn handle_away(&mut self, ledger: &mut Ledger) {
        self.window = None;
        self.held_back = false;
        self.spools_mut().for_each(|spool| spool.handle_away(ledger));
    }

    /// How many were sent without an answer.
    pub(super) fn handle_session_lost(&mut self, ledger: &mut Ledger) -> usize {
        self.spools_mut().map(|spool| spool.handle_session_lost(ledger)).sum()
    }

    pub(super) fn handle_durable(&mut self, lsn: Lsn, ledger: &mut Ledger) {
        self.spools_mut().for_each(|spool| spool.handle_durable(lsn, ledger));
    }

    pub(super) fn handle_hurry(&mut self, ledger: &mut Ledger) {
        self.spools_mut().for_each(|spool| spool.handle_hurry(ledger));
    }

    pub(super) fn handle_clock_set(&mut self, now: Now) {
        self.spools_mut().for_each(|spool| spool.handle_clock_set(now));
    }

    pub(super) fn write_all(&mut self, ledger: &mut Ledger) {
        self.spools_mut().for_each(|spool| spool.write_all(ledger));
    }

    pub(super) fn handle_loaded(&mut self, spool: SpoolId, entries: Vec<Entry>, ledger: &mut Ledger) {
        self.share_out();
        if let Some(own) = self.spools_mut().find(|own| own.id() == spool) {
            own.handle_loaded(entries, ledger);
        }
        self.share_out();
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.spools().filter_map(Spool::next_deadline).min()
    }

    /// When what waits for the rate alone may leave.
    pub(super) fn replay_at(&self) -> Option<Instant> {
        self.rate.as_ref().filter(|_| self.held_back).map(Rate::next_at)
    }

    pub(super) fn handle_timeout(&mut self, now: Now, ledger: &mut Ledger) {
        for spool in self.spools_mut() {
            if spool.next_deadline().is_some_and(|at| at <= now.instant) {
                spool.handle_timeout(now, ledger);
            }
        }
        self.share_out();
    }

    pub(super) fn handle_puback(&mut self, id: PacketId, ledger: &mut Ledger) -> Acknowledged {
        self.first_known(|spool| spool.handle_puback(id, ledger))
    }

    pub(super) fn handle_pubrec(&mut self, id: PacketId, ledger: &mut Ledger) -> Acknowledged {
        self.first_known(|spool| spool.handle_pubrec(id, ledger))
    }

    pub(super) fn handle_pubcomp(&mut self, id: PacketId, ledger: &mut Ledger) -> Acknowledged {
        self.first_known(|spool| spool.handle_pubcomp(id, ledger))
    }

    pub(super) fn handle_put_back(&mut self, id: PacketId, ledger: &mut Ledger) -> Acknowledged {
        self.first_known(|spool| spool.handle_put_back(id, ledger))
    }

    /// See [`Spool::take_refused`].
    pub(super) fn take_refused(&mut self, id: PacketId, ledger: &mut Ledger) -> Option<Orphan> {
        self.spools_mut().find_map(|spool| spool.take_refused(id, ledger))
    }

    /// See [`Spool::take_unanswered`].
    pub(super) fn take_unanswered(&mut self, id: PacketId, ledger: &mut Ledger) -> Option<Orphan> {
        self.spools_mut().find_map(|spool| spool.take_unanswered(id, ledger))
    }

    /// No two lanes have an identifier in common.
    fn first_known(&mut self, handle: impl FnMut(&mut Spool) -> Acknowledged) -> Acknowledged {
        let known = self.spools_mut().map(handle).find(|found| *found != Acknowledged::Unknown);
        known.unwrap_or(Acknowledged::Unknown)
    }

    /// What waits behind `after`, lane by lane.
    pub(super) fn survey(&self, after: Seq, messages_max: usize, bytes_max: usize) -> Survey {
        let (first, behind) = within(after);
        for part in &self.parts {
            let number = u64::from(part.lane.number());
            let after = if number == first { behind } else { Seq(0) };
            if number < first {
                continue;
            }
            match part.spool.survey(after, messages_max, bytes_max) {
                Survey::Here(found) if found.is_empty() => {}
                Survey::Here(found) => {
                    let seen = |(entry, in_flight)| (as_shown(entry, shown(part.lane, Seq(0))), in_flight);
                    return Survey::Here(found.into_iter().map(seen).collect());
                }
                Survey::OnDisk { up_to } => return Survey::OnDisk { up_to: shown(part.lane, up_to) },
            }
        }
        Survey::Here(Vec::new())
    }

    /// Where on disk stands what a survey did not have: the spool, and the numbers within it.
    pub(super) fn on_disk(&self, after: Seq, up_to: Seq) -> (SpoolId, Seq) {
        let ((from, behind), (lane, _)) = (within(after), within(up_to));
        let part = self.parts.iter().find(|part| u64::from(part.lane.number()) == lane);
        let spool = part.map_or(self.main().id(), |part| part.spool.id());
        (spool, if from == lane { behind } else { Seq(0) })
    }

    /// One step, up to the last number that all lanes have in common.
    pub(super) fn purge(&mut self, up_to: Seq, messages_max: u64, ledger: &mut Ledger) -> Purged {
        let mut sum = Purged::default();
        for spool in self.spools_mut() {
            let left = messages_max - sum.messages.min(messages_max);
            let step = spool.purge(up_to, left, ledger);
            sum.messages += step.messages;
            sum.bytes += step.bytes;
            sum.unfinished |= step.unfinished;
        }
        self.share_out();
        sum
    }
}
