//! Which units of a shared line are worth a request: who is dead by our polls or by what others asked, and whether the
//! line is there at all. Never asks a unit.

use crate::base::time::{Duration, Instant};
use crate::device::request::{LineError, Reply};

/// Requests in a row that a unit which is no device of ours leaves unanswered, after which it counts as dead.
pub(super) const DEAD_AFTER: u8 = 3;
/// A line that could not be opened is not tried again for other masters before.
pub(super) const LINE_PAUSE: Duration = Duration::from_secs(1);

/// Some of all units.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Units([u64; 4]);

impl Units {
    pub fn insert(&mut self, unit: u8) {
        if let Some(bits) = self.0.get_mut(usize::from(unit / 64)) {
            *bits |= 1 << (unit % 64);
        }
    }

    pub fn contains(&self, unit: u8) -> bool {
        self.0.get(usize::from(unit / 64)).is_some_and(|bits| bits >> (unit % 64) & 1 == 1)
    }
}

/// What our own polls know of the units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Those that our polls found dead.
    pub offline: Units,
    /// No dead unit is asked before, for the sake of the others.
    pub spared_until: Instant,
}

/// Why nothing is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotAsked {
    NoLine,
    /// It is spared for the sake of the others.
    Dead,
}

/// What is known of the units, from whoever asked them.
#[derive(Debug)]
pub(super) struct Health {
    known: Known,
    /// Of each unit: requests of other masters in a row that it left unanswered.
    failures: [u8; 256],
    line_gone_until: Instant,
}

impl Default for Health {
    fn default() -> Self {
        let known = Known { offline: Units::default(), spared_until: Instant::ORIGIN };
        Self { known, failures: [0; 256], line_gone_until: Instant::ORIGIN }
    }
}

impl Health {
    pub(super) fn handle_known(&mut self, known: Known) {
        self.known = known;
    }

    pub(super) fn is_dead(&self, unit: u8) -> bool {
        let failures = self.failures.get(usize::from(unit)).copied().unwrap_or(0);
        self.known.offline.contains(unit) || failures >= DEAD_AFTER
    }

    pub(super) fn may_ask(&self, unit: u8, now: Instant) -> Result<(), NotAsked> {
        if now < self.line_gone_until {
            return Err(NotAsked::NoLine);
        }
        if self.is_dead(unit) && now < self.known.spared_until {
            return Err(NotAsked::Dead);
        }
        Ok(())
    }

    /// What a unit answered another master, or that it did not.
    pub(super) fn handle_reply(&mut self, unit: u8, reply: &Reply) {
        if let Some(failures) = self.failures.get_mut(usize::from(unit)) {
            *failures = if reply.is_ok() { 0 } else { failures.saturating_add(1) };
        }
    }

    pub(super) fn handle_line_gone(&mut self, now: Instant) {
        self.line_gone_until = now + LINE_PAUSE;
    }
}

/// The port is gone, or cannot be opened: no unit was asked.
pub(super) fn is_line_gone(error: &LineError) -> bool {
    match error {
        LineError::Open { .. }
        | LineError::NoRs485 { .. }
        | LineError::Connect { .. }
        | LineError::Broken(_) => true,
        LineError::Timeout
        | LineError::Garbled
        | LineError::Mismatch
        | LineError::WrongCount
        | LineError::Untrusted
        | LineError::Busy => false,
    }
}
