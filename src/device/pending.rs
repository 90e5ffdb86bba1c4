//! The commands to one device that wait to be tried, in the order in which they came; one that waits for its device lets
//! those pass that nobody keeps. Never sends one.

use std::collections::VecDeque;

use crate::base::time::{Instant, Now};

/// Commands that nobody else keeps: beyond, the oldest is refused.
const PASSING_MAX: usize = 64;

/// A command that may have been tried already.
pub(crate) trait Attempt {
    /// Nobody keeps the command until its end is told: it is done now or never.
    fn is_passing(&self) -> bool;

    /// When its time runs out.
    fn deadline(&self) -> Instant;

    /// Not tried before.
    fn not_before(&mut self) -> &mut Instant;
}

#[derive(Debug)]
pub(crate) struct Pending<A>(VecDeque<A>);

impl<A> Default for Pending<A> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<A: Attempt> Pending<A> {
    /// Behind what there is. Returns what is displaced by it.
    pub(crate) fn push(&mut self, attempt: A) -> Option<A> {
        self.0.push_back(attempt);
        let passing = self.0.iter().filter(|attempt| attempt.is_passing()).count();
        let oldest = self.0.iter().position(A::is_passing).filter(|_| passing > PASSING_MAX)?;
        self.0.remove(oldest)
    }

    /// Back to where it was taken from.
    pub(crate) fn put_back(&mut self, attempt: A) {
        self.0.push_front(attempt);
    }

    /// The first that may be tried.
    pub(crate) fn take_next(&mut self, now: Now) -> Option<A> {
        self.take(|attempt| *attempt.not_before() <= now.instant)
    }

    /// One whose time has run out.
    pub(crate) fn take_overdue(&mut self, now: Now) -> Option<A> {
        self.take(|attempt| attempt.deadline() <= now.instant)
    }

    /// One that nobody keeps.
    pub(crate) fn take_passing(&mut self) -> Option<A> {
        self.take(|attempt| attempt.is_passing())
    }

    /// The device was heard: what waits for it is tried at once.
    pub(crate) fn wake(&mut self, now: Now) {
        for attempt in &mut self.0 {
            let not_before = attempt.not_before();
            *not_before = now.instant.min(*not_before);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &A> {
        self.0.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut A> {
        self.0.iter_mut()
    }

    /// Behind what there is, whatever it comes to.
    pub(crate) fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    pub(crate) fn drain(&mut self) -> impl Iterator<Item = A> {
        self.0.drain(..)
    }

    fn take(&mut self, is_meant: impl Fn(&mut A) -> bool) -> Option<A> {
        let at = self.0.iter_mut().position(is_meant)?;
        self.0.remove(at)
    }
}
