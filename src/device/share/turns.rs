//! Whose turn a line is: our own requests', or other masters'. Where both want all of it each has half of its time,
//! whatever single requests take. Never chooses among the requests of either.

use crate::base::time::{Duration, Instant};

/// For each part of the line's time that other masters take while our polls are due, our polls have so many.
const OWN_PARTS: u32 = 1;
/// Steps of commands and polls in a row before another master has its turn.
const OWN_IN_A_ROW_MAX: u32 = 8;

/// What the line has to do for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Own {
    /// A command's next step can be done now.
    pub has_command: bool,
    /// When the next poll or command is due, or was.
    pub due: Instant,
}

#[derive(Debug, Default)]
pub struct Turns {
    /// The time that other masters took while a request of ours was due, less what we had since.
    owed: Duration,
    /// The line was idle since then: that pays too.
    idle_since: Option<Instant>,
    own_in_a_row: u32,
    /// What the last request of another master took.
    last_cost: Duration,
}

impl Turns {
    /// When another master's request may go: at once, later if nothing else happens before, or only after a request
    /// of our own (None).
    pub fn shared_at(&mut self, own: Own, now: Instant) -> Option<Instant> {
        if let Some(since) = self.idle_since.take() {
            self.owed = self.owed.saturating_sub(now.since(since));
        }
        if own.has_command && self.own_in_a_row < OWN_IN_A_ROW_MAX {
            return None;
        }
        if self.owed.is_zero() {
            return Some(now);
        }
        if own.due <= now {
            return None;
        }
        if own.due.since(now) >= self.last_cost {
            // Nobody is kept waiting by it.
            return Some(now);
        }
        self.idle_since = Some(now);
        Some(now + self.owed)
    }

    /// A request of another master took the line from `from` to `to`; ours was due then.
    pub fn handle_shared(&mut self, due: Instant, from: Instant, to: Instant) {
        self.idle_since = None;
        self.own_in_a_row = 0;
        self.last_cost = to.since(from);
        self.owed += to.since(from.max(due)) * OWN_PARTS;
    }

    /// One of ours did.
    pub fn handle_own(&mut self, from: Instant, to: Instant) {
        self.idle_since = None;
        self.own_in_a_row = self.own_in_a_row.saturating_add(1);
        self.owed = self.owed.saturating_sub(to.since(from));
    }
}

#[cfg(test)]
mod tests {
    use super::{OWN_IN_A_ROW_MAX, Own, Turns};
    use crate::base::time::{Duration, Instant};

    const POLL: Duration = Duration::from_millis(27);

    fn at(millis: i64) -> Instant {
        Instant::from_millis(millis)
    }

    /// Polls that come round every `period` beside masters who always want more: what each had of a minute, and the
    /// longest that a poll was late. A poll that is late is skipped, as a poller does.
    fn minute(period: Duration, shared: Duration) -> (Duration, Duration, Duration) {
        let (mut turns, start) = (Turns::default(), at(1_000));
        let (mut now, mut due) = (start, start);
        let (mut own, mut others, mut latest) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        while now.since(start) < Duration::from_secs(60) {
            let shared_at = turns.shared_at(Own { has_command: false, due }, now);
            if shared_at == Some(now) {
                turns.handle_shared(due, now, now + shared);
                (now, others) = (now + shared, others + shared);
            }
            if due <= now {
                latest = latest.max(now.since(due));
                while due <= now {
                    due = due + period;
                }
                turns.handle_own(now, now + POLL);
                (now, own) = (now + POLL, own + POLL);
            } else if shared_at != Some(now) || shared.is_zero() {
                now = due.min(shared_at.unwrap_or(due)).max(now);
            }
        }
        (own, others, latest)
    }

    #[test]
    fn where_both_want_all_each_has_half() {
        for shared in [5, 27, 100, 270, 1_000] {
            // Due again before it is done.
            let (own, others, _) = minute(Duration::from_millis(20), Duration::from_millis(shared));
            let share = own.as_secs_f64() / (own + others).as_secs_f64();
            assert!((0.49..0.60).contains(&share) || shared < 27 && share > 0.49, "{shared}: {share}");
        }
    }

    #[test]
    fn polls_that_want_most_of_it_have_half_and_others_the_rest() {
        for shared in [5, 27, 100, 270] {
            let (own, others, _) = minute(Duration::from_millis(30), Duration::from_millis(shared));
            assert!(own >= Duration::from_secs(26), "{shared}: {own:?}");
            assert!(
                own + others >= Duration::from_secs(54),
                "{shared}: little is left idle: {own:?} {others:?}"
            );
        }
    }

    #[test]
    fn polls_that_want_little_are_late_by_one_request_and_none_is_lost() {
        for shared in [5, 27, 100, 270] {
            let shared = Duration::from_millis(shared);
            let (own, others, latest) = minute(Duration::from_secs(1), shared);
            assert!(own >= POLL * 59, "{shared:?}: {own:?}");
            assert!(latest <= shared, "{shared:?}: {latest:?}");
            assert!(others >= Duration::from_secs(50), "{shared:?}: {others:?}");
        }
    }

    #[test]
    fn a_long_request_is_not_paid_for_where_nobody_waits() {
        let mut turns = Turns::default();
        turns.handle_shared(at(1_010), at(1_000), at(3_000));
        turns.handle_own(at(3_000), at(3_027));
        let own = |due| Own { has_command: false, due };
        assert_eq!(turns.shared_at(own(at(60_000)), at(3_027)), Some(at(3_027)));
        // With a poll so near, it waits, and the time in which nobody used the line counts.
        let paid = turns.shared_at(own(at(4_000)), at(3_027)).expect("later");
        assert_eq!(paid, at(3_027 + 1_990 - 27));
        assert_eq!(turns.shared_at(own(at(4_000)), at(4_000)), None);
        turns.handle_own(at(4_000), at(4_027));
        let rest = 1_990 - 27 - (4_000 - 3_027) - 27;
        assert_eq!(turns.shared_at(own(at(4_030)), at(4_027)), Some(at(4_027 + rest)));
    }

    #[test]
    fn commands_go_first_but_do_not_keep_others_out_for_ever() {
        let mut turns = Turns::default();
        let own = Own { has_command: true, due: at(1_000) };
        for _ in 0..OWN_IN_A_ROW_MAX {
            assert_eq!(turns.shared_at(own, at(1_000)), None);
            turns.handle_own(at(1_000), at(1_010));
        }
        assert_eq!(turns.shared_at(own, at(1_000)), Some(at(1_000)));
        turns.handle_shared(at(1_000), at(1_000), at(1_010));
        assert_eq!(turns.shared_at(own, at(1_010)), None);
    }
}
