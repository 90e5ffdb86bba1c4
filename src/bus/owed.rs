//! Answers that units of a line without numbers still owe: an answer that comes late looks like the answer to the
//! next request of its shape. Never waits; says how much there is to doubt.
//!
//! It rests on one property of a half-duplex line: a unit answers in the order in which it is asked, or not at all.

use std::collections::VecDeque;

use tokio::time::Instant;

use crate::base::time::Duration;
use crate::bus::answer::Asked;
use crate::config::model::Table;
use crate::device::plan::REGISTERS_MAX;
use crate::device::request::RequestKind;

/// After this an answer that never came will not come any more.
const LATE_ANSWER_MAX: Duration = Duration::from_secs(5);
/// Lost requests that are remembered: the shortest time-out makes fewer within `LATE_ANSWER_MAX`.
const LOST_MAX: usize = 512;

#[derive(Debug)]
struct Lost {
    unit: u8,
    asked_at: Instant,
    asked: Asked,
    kind: RequestKind,
    /// The unit has been written to since: what it said before may be no longer so.
    is_outdated: bool,
}

/// What an answer that came may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// Only the answer to this request; what was asked before it will not be answered any more.
    None,
    /// The answer to this request or to an earlier one of the same words. One more may come.
    SameWords,
    /// That of another request, which was asked so long before this.
    Other(Duration),
}

#[derive(Debug, Default)]
pub(crate) struct Owed {
    /// Oldest first.
    lost: VecDeque<Lost>,
}

impl Owed {
    /// Of an answer, or of an exception, to a request that was sent at `sent`.
    pub(crate) fn doubt(&self, (unit, kind): (u8, &RequestKind), is_exception: bool, sent: Instant) -> Doubt {
        let asked = Asked::new(unit, kind);
        let recent = |lost: &&Lost| sent.saturating_duration_since(lost.asked_at) <= LATE_ANSWER_MAX;
        let alike = |lost: &&Lost| {
            lost.unit == unit
                && if is_exception {
                    asked.shares_exceptions_with(lost.asked)
                } else {
                    asked.is_confusable_with(lost.asked)
                }
        };
        let mut doubt = Doubt::None;
        for lost in self.lost.iter().filter(recent).filter(alike) {
            if lost.kind != *kind || lost.is_outdated {
                return Doubt::Other(sent.saturating_duration_since(lost.asked_at));
            }
            doubt = Doubt::SameWords;
        }
        doubt
    }

    /// No answer came, or not surely the one to this request.
    pub(crate) fn add(&mut self, unit: u8, kind: &RequestKind, asked_at: Instant) {
        self.lost.retain(|lost| asked_at.saturating_duration_since(lost.asked_at) <= LATE_ANSWER_MAX);
        if self.lost.len() >= LOST_MAX {
            self.lost.pop_front();
        }
        let asked = Asked::new(unit, kind);
        self.lost.push_back(Lost { unit, asked_at, asked, kind: kind.clone(), is_outdated: false });
    }

    /// A write goes to the unit; to unit 0, to all of them.
    pub(crate) fn handle_write(&mut self, unit: u8) {
        for lost in self.lost.iter_mut().filter(|lost| lost.unit == unit || unit == 0) {
            lost.is_outdated = true;
        }
    }

    /// The unit has answered something that it was asked later.
    pub(crate) fn clear(&mut self, unit: u8) {
        self.lost.retain(|lost| lost.unit != unit);
    }

    /// A read much like this one, whose answer nothing that is owed can be taken for. Once it has come, the unit owes
    /// nothing.
    pub(crate) fn probe(&self, unit: u8, kind: &RequestKind, now: Instant) -> Option<RequestKind> {
        let RequestKind::Read { table: table @ (Table::Holding | Table::Input), address, count } = *kind
        else {
            return None;
        };
        let longer = count + 1;
        let has_longer = longer <= REGISTERS_MAX && address.checked_add(count).is_some();
        let shorter = [1, count / 2, count - 1].into_iter().filter(|other| *other > 0 && *other < count);
        let counts = shorter.chain(has_longer.then_some(longer));
        let mut probes = counts.map(|count| RequestKind::Read { table, address, count });
        probes.find(|probe| self.doubt((unit, probe), false, now) == Doubt::None)
    }
}

#[cfg(test)]
mod tests {
    use super::{Doubt, Owed};
    use crate::base::time::Duration;
    use crate::config::model::Table;
    use crate::device::request::RequestKind;
    use tokio::time::Instant;

    fn read(address: u16, count: u16) -> RequestKind {
        RequestKind::Read { table: Table::Holding, address, count }
    }

    #[test]
    fn an_answer_is_doubted_where_a_lost_one_looks_like_it() {
        let mut owed = Owed::default();
        let start = Instant::now();
        let later = start + Duration::from_secs(1);
        owed.add(1, &read(30, 1), start);
        let second = Duration::from_secs(1);
        let cases = [
            (1, read(30, 1), false, later, Doubt::SameWords),
            (1, read(30, 1), true, later, Doubt::SameWords),
            (1, read(60, 1), false, later, Doubt::Other(second)),
            (1, read(60, 2), false, later, Doubt::None),
            (1, read(60, 2), true, later, Doubt::Other(second)),
            (2, read(60, 1), false, later, Doubt::None),
            (1, read(60, 1), false, start + Duration::from_secs(6), Doubt::None),
            (1, RequestKind::WriteRegister { address: 30, word: 1 }, false, later, Doubt::None),
        ];
        for (unit, kind, is_exception, at, expected) in cases {
            assert_eq!(owed.doubt((unit, &kind), is_exception, at), expected, "{unit} {kind:?}");
        }
        owed.handle_write(1);
        assert_eq!(
            owed.doubt((1, &read(30, 1)), false, later),
            Doubt::Other(second),
            "read before the write"
        );
        owed.clear(1);
        assert_eq!(owed.doubt((1, &read(60, 1)), false, later), Doubt::None);
    }

    #[test]
    fn a_probe_is_like_nothing_that_is_owed() {
        let mut owed = Owed::default();
        let now = Instant::now();
        owed.add(1, &read(30, 1), now);
        assert_eq!(owed.probe(1, &read(60, 1), now), Some(read(60, 2)));
        assert_eq!(owed.probe(1, &read(65_535, 1), now), None);
        owed.add(1, &read(30, 10), now);
        assert_eq!(owed.probe(1, &read(60, 10), now), Some(read(60, 5)));
        assert_eq!(owed.probe(1, &RequestKind::WriteCoil { address: 1, bit: true }, now), None);
    }
}
