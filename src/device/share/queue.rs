//! Requests of other masters that wait for a line: in their order for each master, and masters in turn. Reads of the
//! same are one. Never asks anybody.

use std::collections::{BTreeMap, VecDeque};

use crate::base::time::Instant;
use crate::device::plan::Span;
use crate::device::share::ask::Ask;

/// Requests of one master that wait for their answers.
pub const WAITING_OF_ONE_MAX: usize = 16;
/// Requests of all masters of a line that wait for their answers.
pub const WAITING_MAX: usize = 128;

/// A connection of another master.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Master(pub u64);

/// Who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiter {
    pub master: Master,
    /// Which of its requests this is.
    pub transaction: u16,
    pub since: Instant,
}

#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) unit: u8,
    pub(crate) ask: Ask,
    /// Several where they ask the same.
    pub(crate) waiters: Vec<Waiter>,
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// None is empty.
    lanes: BTreeMap<Master, VecDeque<Job>>,
    /// Whose turn was last.
    last: Option<Master>,
    under_way: Option<Job>,
}

impl Queue {
    fn waiting(&self) -> impl Iterator<Item = &Job> {
        self.lanes.values().flatten()
    }

    fn waiters(&self) -> impl Iterator<Item = &Waiter> {
        self.waiting().chain(&self.under_way).flat_map(|job| &job.waiters)
    }

    /// Of all masters.
    pub(crate) fn len(&self) -> usize {
        self.waiters().count()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.lanes.is_empty()
    }

    pub(crate) fn has_room_for(&self, master: Master) -> bool {
        let own = self.waiters().filter(|waiter| waiter.master == master).count();
        own < WAITING_OF_ONE_MAX && self.len() < WAITING_MAX
    }

    /// Whether a write that comes before may change what is read here.
    pub(crate) fn will_change(&self, unit: u8, span: Span) -> bool {
        self.waiting().chain(&self.under_way).any(|job| {
            (job.unit == unit || job.unit == 0)
                && matches!(&job.ask, Ask::Write { touches, .. } if touches.overlaps(span))
        })
    }

    pub(crate) fn push(&mut self, job: Job) {
        let Some(Waiter { master, .. }) = job.waiters.first() else { return };
        self.lanes.entry(*master).or_default().push_back(job);
    }

    /// Waits along with whoever asks the same already.
    pub(crate) fn join(
        &mut self,
        (unit, ask): (u8, &Ask),
        waiter: Waiter,
        also_under_way: AlsoUnderWay,
    ) -> bool {
        let under_way = self.under_way.as_mut().filter(|_| also_under_way == AlsoUnderWay::Yes);
        let mut jobs = self.lanes.values_mut().flatten().chain(under_way);
        let Some(job) = jobs.find(|job| job.unit == unit && job.ask == *ask) else { return false };
        job.waiters.push(waiter);
        true
    }

    /// The next to be asked; it is under way until it is finished.
    pub(crate) fn take_next(&mut self) -> Option<Job> {
        let after = self.last.and_then(|last| self.lanes.keys().find(|master| **master > last));
        let master = *after.or_else(|| self.lanes.keys().next())?;
        self.last = Some(master);
        let lane = self.lanes.get_mut(&master)?;
        let job = lane.pop_front();
        if lane.is_empty() {
            self.lanes.remove(&master);
        }
        job
    }

    pub(crate) fn begin(&mut self, job: Job) {
        self.under_way = Some(job);
    }

    pub(crate) fn finish(&mut self) -> Option<Job> {
        self.under_way.take()
    }

    /// Nothing is done for somebody who is gone.
    pub(crate) fn close(&mut self, master: Master) {
        let stays = |job: &mut Job| {
            job.waiters.retain(|waiter| waiter.master != master);
            !job.waiters.is_empty()
        };
        for lane in self.lanes.values_mut() {
            lane.retain_mut(stays);
        }
        self.lanes.retain(|_, lane| !lane.is_empty());
        if let Some(job) = &mut self.under_way {
            stays(job);
        }
    }
}

/// Whether the request on the wire counts as one that asks the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AlsoUnderWay {
    Yes,
    No,
}

#[cfg(test)]
mod tests {
    use super::{AlsoUnderWay, Job, Master, Queue, WAITING_MAX, WAITING_OF_ONE_MAX, Waiter};
    use crate::base::time::Instant;
    use crate::config::model::Table;
    use crate::device::plan::Span;
    use crate::device::share::ask::{Ask, Touches};

    fn span(start: u32) -> Span {
        Span { table: Table::Holding, start, end: start + 2 }
    }

    fn waiter(master: u64, transaction: u16) -> Waiter {
        Waiter { master: Master(master), transaction, since: Instant::BOOT }
    }

    fn read(start: u32, waiter: Waiter) -> Job {
        Job { unit: 7, ask: Ask::Read(span(start)), waiters: vec![waiter] }
    }

    #[test]
    fn masters_take_turns_and_each_keeps_its_order() {
        let mut queue = Queue::default();
        for (master, transaction) in [(1, 1), (1, 2), (1, 3), (2, 4), (3, 5), (2, 6)] {
            queue.push(read(u32::from(transaction), waiter(master, transaction)));
        }
        let order: Vec<u16> =
            std::iter::from_fn(|| queue.take_next()).map(|job| job.waiters[0].transaction).collect();
        assert_eq!(order, [1, 4, 5, 2, 6, 3]);
        assert!(queue.is_idle());
    }

    #[test]
    fn who_asks_the_same_waits_along_and_a_write_that_comes_before_is_known() {
        let mut queue = Queue::default();
        queue.push(read(1, waiter(1, 1)));
        let first = queue.take_next().expect("the first");
        queue.begin(first);
        let same = (7, &Ask::Read(span(1)));
        assert!(!queue.join(same, waiter(2, 2), AlsoUnderWay::No));
        assert!(queue.join(same, waiter(2, 2), AlsoUnderWay::Yes));
        assert!(!queue.join((8, same.1), waiter(2, 3), AlsoUnderWay::Yes));
        assert_eq!(queue.finish().map(|job| job.waiters.len()), Some(2));
        let touches = Touches::Span(span(2));
        queue.push(Job { unit: 0, ask: Ask::Write { pdu: vec![16], touches }, waiters: vec![waiter(1, 4)] });
        assert!(queue.will_change(7, span(1)) && !queue.will_change(7, span(4)));
    }

    #[test]
    fn each_has_its_bound_and_all_together_have_one() {
        let mut queue = Queue::default();
        for transaction in 0..40 {
            for master in 0..20 {
                if queue.has_room_for(Master(master)) {
                    queue.push(read(0, waiter(master, transaction)));
                }
            }
        }
        assert_eq!(queue.len(), WAITING_MAX);
        queue.close(Master(0));
        for transaction in 0..40 {
            if queue.has_room_for(Master(99)) {
                queue.push(read(0, waiter(99, transaction)));
            }
        }
        let own = queue.waiters().filter(|waiter| waiter.master == Master(99)).count();
        assert!(own < WAITING_OF_ONE_MAX && queue.len() == WAITING_MAX, "{own}");
        (0..100).for_each(|master| queue.close(Master(master)));
        assert!(queue.is_idle());
    }
}
