//! What waits in a spool, for a person who wants to see it or wants it gone. Sends nothing, reads no disk.

use crate::base::time::Now;
use crate::spool::Ledger;
use crate::spool::memory::position;
use crate::spool::queue::Spool;
use crate::spool::settings::Loss;
use crate::spool::slot::{Slot, Stage};
use crate::store::record::{Entry, Seq};

/// Of which part of a buffer somebody speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// What is to leave.
    Waiting,
    /// What can never be delivered.
    Dead,
}

/// A page of what waits, or where to read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Survey {
    /// Oldest first, each with whether it is in flight. None: nothing waits behind the place asked for.
    Here(Vec<(Entry, bool)>),
    /// What comes next stands on disk alone, up to and with this one.
    OnDisk { up_to: Seq },
}

/// What one step of a purge did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Purged {
    pub messages: u64,
    pub bytes: u64,
    /// More is to go, at once or when it has been loaded.
    pub unfinished: bool,
}

impl Spool {
    /// When the oldest entry in memory was taken: the oldest of all but while one is being loaded.
    pub fn oldest(&self) -> Option<Now> {
        self.head.front().or(self.tail.front()).map(|slot| slot.entry.message.arrived)
    }

    /// What waits behind `after`, at most so many messages, and so many bytes but one message at least.
    pub fn survey(&self, after: Seq, messages_max: usize, bytes_max: usize) -> Survey {
        let spilled = self.spilled.messages > 0 && after < self.spilled.last;
        let slots = match after {
            after if self.head.back().is_some_and(|last| last.entry.seq > after) => &self.head,
            _ if spilled => return Survey::OnDisk { up_to: self.spilled.last },
            _ => &self.tail,
        };
        let from = position(slots, Seq(after.0.saturating_add(1)));
        let from = from.unwrap_or_else(|| slots.partition_point(|slot| slot.entry.seq <= after));
        let mut bytes = 0;
        let fits = |(at, slot): &(usize, &Slot)| {
            bytes += slot.bytes();
            *at == 0 || bytes <= bytes_max
        };
        let found = slots.iter().skip(from).take(messages_max).enumerate().take_while(fits);
        Survey::Here(found.map(|(_, slot)| (slot.entry.clone(), slot.stage != Stage::Queued)).collect())
    }

    /// Drops what is not in flight up to and with `up_to`, at most so many in this visit. What is in flight
    /// keeps its identifier and its place: the far end may have it already.
    pub fn purge(&mut self, up_to: Seq, messages_max: u64, ledger: &mut Ledger) -> Purged {
        let (messages, bytes) = (self.messages, self.bytes);
        let mut unfinished = true;
        for _ in 0..messages_max {
            let next = match self.first_queued() {
                Some(at) => self.head.get(at),
                None if self.spilled.messages > 0 => break,
                None => self.tail.front(),
            };
            let found = next.filter(|slot| slot.entry.seq <= up_to);
            let Some((rule, bytes)) = found.map(|slot| (slot.entry.rule, slot.bytes())) else {
                unfinished = false;
                break;
            };
            if !self.drop_oldest(ledger) {
                unfinished = false;
                break;
            }
            self.count_loss(Loss::Purged, rule, bytes);
        }
        let unfinished = unfinished && (self.head_last < up_to || self.first_queued().is_some());
        Purged {
            messages: messages.saturating_sub(self.messages),
            bytes: bytes.saturating_sub(self.bytes),
            unfinished,
        }
    }
}
