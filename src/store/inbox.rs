//! What waits for the writer's thread. Keeps it in order; never decides what to write.

use std::collections::VecDeque;

use crate::base::time::Now;
use crate::store::record::{Load, Lsn, Record};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Stage {
    #[default]
    Running,
    Stopping,
    Abandoned,
}

/// Records of visits in order.
#[derive(Debug, Default)]
pub(super) struct Visits {
    pub(super) count: usize,
    pub(super) records: Vec<Record>,
    /// The position of the last record.
    pub(super) last: Lsn,
}

impl Visits {
    pub(super) fn push(&mut self, mut records: Vec<Record>, last: Lsn) {
        if self.records.is_empty() {
            self.records = records;
        } else {
            self.records.append(&mut records);
        }
        self.last = self.last.max(last);
        self.count += 1;
    }
}

/// Bounded by the caller, who heeds `depth_records`; loads by one a spool.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    pub(super) visits: Visits,
    pub(super) loads: VecDeque<Load>,
    pub(super) stage: Stage,
    /// Both clocks, where the wall clock was set anew.
    pub(super) clock: Option<Now>,
    /// Something has changed that a refused batch may have waited for.
    pub(super) retry_now: bool,
}

impl Inbox {
    /// Whether there is nothing to do.
    pub(super) fn is_idle(&self) -> bool {
        let is_running = self.stage == Stage::Running && self.clock.is_none();
        self.visits.count == 0 && self.loads.is_empty() && is_running
    }
}
