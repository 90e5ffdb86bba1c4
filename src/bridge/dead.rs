//! The dead letters of a bridge: what can never be delivered, kept beside its lanes until a person sends it again or drops
//! it. A spool of its own that nobody empties; what is oldest there gives way. Never sends.

use std::sync::Arc;

use crate::base::time::{Duration, Instant, Now};
use crate::bridge::Bridge;
use crate::bridge::effect::Effects;
use crate::bridge::fate::{self, CAUSES, Cause};
use crate::bridge::lane;
use crate::bridge::rules;
use crate::bridge::status::DeadStatus;
use crate::config::model;
use crate::mqtt::topic::{TopicFilter, TopicName};
use crate::spool::packet_ids::PacketIds;
use crate::spool::queue::{Offer, Orphan, Spool};
use crate::spool::settings::{Bounds, Terms, WhenFull};
use crate::store::record::{Entry, Record, RecoveredSpool, Seq, SpoolId};

/// The part of `buffer.size` that dead letters may take; one of any size has room all the same.
const SIZE_PARTS: u64 = 16;
/// What of them is held in memory; the rest stands on disk.
const MEMORY_MESSAGES_MAX: usize = 100;
const MEMORY_BYTES_MAX: usize = 256 * 1024;
/// Deaths are logged at most so often.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// The name of their spool in the database.
pub fn spool_name(bridge: &str) -> String {
    format!("{bridge}/dead")
}

#[derive(Debug)]
pub(super) struct DeadLetters {
    pub(super) spool: Spool,
    /// Of the row that names the spool. None: it is there. A bridge that never had a dead letter has none.
    unnamed: Option<Arc<str>>,
    part_bytes_max: u64,
    counts: [u64; CAUSES.len()],
    last: Option<(TopicName, String)>,
    /// Deaths that were logged.
    told: u64,
    report_at: Instant,
}

/// What one step of sending dead letters again did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Revived {
    pub messages: u64,
    /// No rule carries them any more: they stay.
    pub unroutable: u64,
    /// Everything up to here was looked at.
    pub after: Seq,
    /// More is to be looked at, at once or when it has been loaded.
    pub unfinished: bool,
    /// The buffer takes no more.
    pub full: bool,
}

/// What became of one that was to be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Left,
    Stays,
    Unroutable,
    Full,
}

impl DeadLetters {
    pub(super) fn new(bridge: &model::Bridge, id: SpoolId, recovered: Option<RecoveredSpool>) -> Self {
        let (bounds, terms) = (bounds_of(bridge), terms_of(bridge));
        let part_bytes_max = bounds.bytes_max;
        let spool = Spool::new(id, super::keeping_of(bridge), bounds, PacketIds::up_to(1)).with_rules(&terms);
        let name = spool_name(&bridge.name).into();
        let (mut spool, unnamed) = match recovered {
            Some(found) => (spool.recover(found), None),
            None => (spool, Some(name)),
        };
        // One that is larger than the part has its room after a restart, too.
        spool.set_bytes_max(part_bytes_max.max(spool.bytes()));
        Self {
            spool,
            unnamed,
            part_bytes_max,
            counts: [0; CAUSES.len()],
            last: None,
            told: 0,
            report_at: Instant::ORIGIN,
        }
    }

    /// Another configuration of the same bridge: what is dead stays so, as far as it has room.
    pub(super) fn replace_settings(&mut self, bridge: &model::Bridge) {
        let bounds = bounds_of(bridge);
        self.part_bytes_max = bounds.bytes_max;
        self.spool.replace_settings(
            super::keeping_of(bridge),
            bounds,
            PacketIds::up_to(1),
            &terms_of(bridge),
        );
        self.spool.set_bytes_max(self.part_bytes_max.max(self.spool.bytes()));
    }

    /// Durable in the visit in which the message leaves the place where it was.
    fn take(&mut self, orphan: Orphan, (cause, detail): (Cause, &str), now: Now, out: &mut Effects) {
        if let Some(bridge) = self.unnamed.take() {
            out.ledger.log.push(Record::BufferPut { spool: self.spool.id(), bridge });
        }
        let message = fate::stamped(&orphan.entry.message, cause, detail, now);
        self.last = Some((message.topic.clone(), detail.to_owned()));
        if let Some(count) = self.counts.get_mut(cause as usize) {
            *count += 1;
        }
        let size = message.size_bytes() as u64;
        self.spool.set_bytes_max(self.part_bytes_max.max(size));
        let entry = Entry { message: message.into(), ..orphan.entry };
        self.put(Orphan { entry, hold: orphan.hold }, now, out);
    }

    fn put(&mut self, orphan: Orphan, now: Now, out: &mut Effects) {
        self.spool.offer(orphan.into(), true, now, &mut out.ledger);
    }

    fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub(super) fn report_at(&self) -> Option<Instant> {
        (self.told != self.total()).then_some(self.report_at)
    }

    pub(super) fn report(&mut self, bridge: &str, now: Now) {
        if self.report_at().is_none_or(|at| now.instant < at) {
            return;
        }
        if let Some((topic, reason)) = &self.last {
            let (messages, kept) = (self.total() - self.told, self.spool.messages());
            tracing::warn!(
                %bridge, messages, kept, %topic, %reason,
                "messages cannot be delivered: they are dead letters now (topic and reason of the last)"
            );
        }
        (self.told, self.report_at) = (self.total(), now.instant + REPORT_INTERVAL);
    }

    pub(super) fn status(&self) -> DeadStatus {
        DeadStatus {
            messages: self.spool.messages(),
            bytes: self.spool.bytes(),
            bytes_max: self.spool.bytes_max(),
            oldest: self.spool.oldest(),
            died: CAUSES.into_iter().zip(self.counts).collect(),
        }
    }
}

fn bounds_of(bridge: &model::Bridge) -> Bounds {
    Bounds {
        bytes_max: (bridge.buffer.size_bytes / SIZE_PARTS).max(1),
        when_full: WhenFull::DropOldest,
        memory_messages_max: MEMORY_MESSAGES_MAX,
        memory_bytes_max: MEMORY_BYTES_MAX,
        ..super::bounds_of(&bridge.buffer)
    }
}

fn terms_of(bridge: &model::Bridge) -> Vec<Terms> {
    let terms = Terms { bytes_max: None, when_full: WhenFull::DropOldest, expiry: None };
    vec![terms; bridge.forward.len()]
}

impl Bridge {
    /// A message leaves its lane for ever, and the others go on.
    pub(super) fn bury(
        &mut self,
        orphan: Option<Orphan>,
        (cause, detail): (Cause, &str),
        now: Now,
        out: &mut Effects,
    ) {
        let Some(orphan) = orphan else { return };
        self.dead.take(orphan, (cause, detail), now, out);
        self.share_with_dead();
    }

    /// What dead letters hold, the lanes cannot.
    pub(super) fn share_with_dead(&mut self) {
        self.lanes.set_bytes_max(self.bytes_max.saturating_sub(self.dead.spool.bytes()));
    }

    /// One step of putting dead letters behind all that waits in their lanes, in their order: those behind `after` up to
    /// and with `up_to` whose topics match.
    pub fn handle_revive(
        &mut self,
        filter: Option<&TopicFilter>,
        (after, up_to): (Seq, Seq),
        messages_max: u64,
        (now, out): (Now, &mut Effects),
    ) -> Revived {
        // What was wrong with them may have been put right.
        self.suspicion.forget();
        self.learned.has_news = true;
        let mut done = Revived { after, unfinished: true, ..Revived::default() };
        for _ in 0..messages_max {
            let Some(entry) = self.dead.spool.next_waiting(done.after).filter(|entry| entry.seq <= up_to)
            else {
                done.unfinished = self.dead.spool.is_on_disk_alone(done.after) && done.after < up_to;
                break;
            };
            let is_meant = filter.is_none_or(|filter| filter.matches(&entry.message.topic));
            let step = if is_meant { self.revive(&entry, now, out) } else { Step::Stays };
            match step {
                Step::Left => done.messages += 1,
                Step::Full => {
                    (done.full, done.unfinished) = (true, false);
                    break;
                }
                Step::Stays | Step::Unroutable => {
                    done.unroutable += u64::from(step == Step::Unroutable);
                    self.make_way(entry.seq, up_to, now, out);
                }
            }
            done.after = entry.seq;
        }
        self.share_with_dead();
        self.pump(now, out);
        done
    }

    /// One that stays goes behind the others where the disk alone has some of them, so that these come into memory; and
    /// once one went there, so that those that stay keep their order.
    fn make_way(&mut self, seq: Seq, up_to: Seq, now: Now, out: &mut Effects) {
        let spool = &self.dead.spool;
        if (spool.is_on_disk_alone(seq) || spool.last_seq() > up_to)
            && let Some(orphan) = self.dead.spool.take_one(seq, &mut out.ledger)
        {
            self.dead.put(orphan, now, out);
        }
    }

    fn revive(&mut self, entry: &Entry, now: Now, out: &mut Effects) -> Step {
        let forward = &self.settings.bridge.forward;
        let Some(rule) = rules::place_of(forward, entry.rule, &entry.message.topic) else {
            return Step::Unroutable;
        };
        let lane = lane::waiting(&forward[usize::from(rule)]);
        let message = fate::unstamped(&entry.message).0;
        let others = self.dead.spool.bytes().saturating_sub(entry.message.size_bytes() as u64);
        self.lanes.set_bytes_max(self.bytes_max.saturating_sub(others));
        if !self.lanes.has_ease_for(lane, rule, message.size_bytes()) {
            return Step::Full;
        }
        let Some(orphan) = self.dead.spool.take_one(entry.seq, &mut out.ledger) else { return Step::Stays };
        let offer = Offer {
            message,
            qos: entry.qos,
            retain: entry.retain,
            rule,
            subscription_identifiers: Box::default(),
            hold: orphan.hold,
        };
        self.lanes.offer(lane, offer, (true, false), (now, &mut out.ledger));
        Step::Left
    }
}
