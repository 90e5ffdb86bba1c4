//! What waits for the writer's thread, in order and in commits of a bounded size. Never decides what to write.

use std::collections::VecDeque;

use crate::base::time::Now;
use crate::store::record::{Load, Lsn, Record};

/// Messages of one commit, but one visit at least. More would not make a byte cheaper, and whoever comes behind a stream
/// of large ones waits for one commit of theirs rather than for all that came with his own.
const COMMIT_BYTES_MAX: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Stage {
    #[default]
    Running,
    Stopping,
    Abandoned,
}

/// How much waits for the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Depth {
    pub records: usize,
    /// Of messages; one that goes to several spools counts for each.
    pub bytes: usize,
}

impl Depth {
    pub(super) fn of(records: &[Record]) -> Self {
        let message_bytes = |record: &Record| match record {
            Record::EntryPut { entry, .. } => entry.message.size_bytes(),
            Record::RetainedPut { message } => message.size_bytes(),
            _ => 0,
        };
        Self { records: records.len(), bytes: records.iter().map(message_bytes).sum() }
    }

    /// Whether it passes a mark in any way.
    #[must_use]
    pub fn is_over(self, mark: Self) -> bool {
        self.records > mark.records || self.bytes > mark.bytes
    }
}

/// Records of visits in order, and what is to be read once they are on disk.
#[derive(Debug, Default)]
pub(super) struct Visits {
    pub(super) count: usize,
    pub(super) records: Vec<Record>,
    /// The position of the last record.
    pub(super) last: Lsn,
    pub(super) loads: Vec<Load>,
    pub(super) depth: Depth,
}

impl Visits {
    pub(super) fn of(records: Vec<Record>, last: Lsn) -> Self {
        Self { count: 1, depth: Depth::of(&records), records, last, loads: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0 && self.loads.is_empty()
    }

    pub(super) fn append(&mut self, mut behind: Visits) {
        if self.records.is_empty() {
            self.records = behind.records;
        } else {
            self.records.append(&mut behind.records);
        }
        self.last = self.last.max(behind.last);
        self.count += behind.count;
        self.loads.append(&mut behind.loads);
        self.depth.records += behind.depth.records;
        self.depth.bytes += behind.depth.bytes;
    }
}

/// Bounded by the caller, who heeds the depth; loads by one a spool.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    commits: VecDeque<Visits>,
    pub(super) stage: Stage,
    /// Both clocks, where the wall clock was set anew.
    pub(super) clock: Option<Now>,
    /// Something has changed that a refused batch may have waited for.
    pub(super) retry_now: bool,
}

impl Inbox {
    pub(super) fn push(&mut self, visits: Visits) {
        match self.commits.back_mut() {
            Some(last) if last.depth.bytes.saturating_add(visits.depth.bytes) <= COMMIT_BYTES_MAX => {
                last.append(visits);
            }
            _ => self.commits.push_back(visits),
        }
    }

    /// To be read after all that was pushed before.
    pub(super) fn load(&mut self, load: Load) {
        self.push(Visits { loads: vec![load], ..Visits::default() });
    }

    /// Whether there is nothing to do.
    pub(super) fn is_idle(&self) -> bool {
        self.commits.is_empty() && self.stage == Stage::Running && self.clock.is_none()
    }

    /// Whether what waits may wait for more: it is one commit of few records, and nobody asks for anything else.
    pub(super) fn may_gather(&self, records_max: usize) -> bool {
        let is_small = |visits: &Visits| visits.loads.is_empty() && visits.records.len() < records_max;
        let asked = self.stage != Stage::Running || self.clock.is_some() || self.retry_now;
        !asked && self.commits.len() == 1 && self.commits.iter().all(is_small)
    }

    /// What the next commit takes.
    pub(super) fn next(&mut self) -> Visits {
        self.commits.pop_front().unwrap_or_default()
    }

    /// All that waits, however much it is.
    pub(super) fn rest(&mut self) -> Visits {
        let mut all = self.next();
        for visits in std::mem::take(&mut self.commits) {
            all.append(visits);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{COMMIT_BYTES_MAX, Depth, Inbox, Visits};
    use crate::base::time::Now;
    use crate::mqtt::message::{Message, Origin};
    use crate::mqtt::qos::QoS;
    use crate::mqtt::topic::TopicName;
    use crate::store::record::{Load, Lsn, Record, Seq, SpoolId};

    /// One visit with one message.
    fn visit(lsn: u64, payload_bytes: usize) -> Visits {
        let topic = TopicName::new("t").unwrap();
        let payload = vec![0; payload_bytes];
        let message = Message::new(topic, payload, QoS::AtLeastOnce, Origin::Gateway, Now::default());
        Visits::of(vec![Record::RetainedPut { message: Arc::new(message) }], Lsn(lsn))
    }

    #[test]
    fn commits_are_bounded_by_bytes_but_take_a_visit_of_any_size_and_keep_the_order() {
        let (half, whole) = (COMMIT_BYTES_MAX / 2 - 1, COMMIT_BYTES_MAX - 1);
        let mut inbox = Inbox::default();
        let load = Load { spool: SpoolId(1), after: Seq(0), messages_max: 1, bytes_max: 1 };
        for (lsn, bytes) in [(1, half), (2, half), (3, 0), (4, whole), (5, 9 * whole), (6, 0)] {
            inbox.push(visit(lsn, bytes));
            if lsn == 4 {
                inbox.load(load);
            }
        }
        let taken: Vec<_> = std::iter::from_fn(|| (!inbox.is_idle()).then(|| inbox.next())).collect();
        let found: Vec<_> =
            taken.iter().map(|visits| (visits.last.0, visits.count, visits.loads.len())).collect();
        assert_eq!(found, [(2, 2, 0), (3, 1, 0), (4, 1, 1), (5, 1, 0), (6, 1, 0)]);
        assert!(inbox.next().is_empty());
        for visits in taken {
            inbox.push(visits);
        }
        let rest = inbox.rest();
        assert_eq!((rest.last, rest.count, rest.loads, rest.records.len()), (Lsn(6), 6, vec![load], 6));
        assert_eq!(rest.depth, Depth { records: 6, bytes: 6 + 2 * half + 10 * whole });
    }

    #[test]
    fn a_depth_passes_a_mark_by_records_or_by_bytes() {
        let mark = Depth { records: 2, bytes: 10 };
        for (records, bytes, over) in [(2, 10, false), (3, 0, true), (0, 11, true)] {
            assert_eq!(Depth { records, bytes }.is_over(mark), over);
        }
    }
}
