//! What the writer's thread and its handle share: what waits, how it is to be written, what was done. Writes nothing.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::base::pulse::Pulse;
use crate::base::time::Duration;
use crate::store::inbox::Inbox;
use crate::store::trouble::Health;

/// SQLite's own bound, which stands for no bound.
pub(super) const PAGES_UNBOUNDED: u32 = u32::MAX - 1;

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) commits: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) rows: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) reopened: AtomicU64,
    pub(super) reserve_bytes: AtomicU64,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) inbox: Mutex<Inbox>,
    pub(super) bell: Condvar,
    pub(super) depth_records: AtomicUsize,
    pub(super) depth_bytes: AtomicUsize,
    /// Of the thread: a turn ends where it waits.
    pub(super) pulse: Arc<Pulse>,
    pub(super) pages_max: AtomicU32,
    pub(super) gathering_millis: AtomicU64,
    pub(super) counters: Counters,
    pub(super) health: Health,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            inbox: Mutex::default(),
            bell: Condvar::new(),
            depth_records: AtomicUsize::new(0),
            depth_bytes: AtomicUsize::new(0),
            pulse: Arc::default(),
            pages_max: AtomicU32::new(PAGES_UNBOUNDED),
            gathering_millis: AtomicU64::new(0),
            counters: Counters::default(),
            health: Health::default(),
        }
    }
}

impl Shared {
    pub(super) fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while `idle` says so, for no longer than `wait`: only the thread does.
    pub(super) fn wait_while(
        &self,
        wait: Duration,
        idle: impl FnMut(&mut Inbox) -> bool,
    ) -> MutexGuard<'_, Inbox> {
        self.pulse.end();
        let result = self.bell.wait_timeout_while(self.inbox(), wait, idle);
        self.pulse.begin();
        result.unwrap_or_else(PoisonError::into_inner).0
    }
}
