//! Who gets on: each part of the gateway counts its turns, so that who waits is told from who hangs within one. Ends
//! nothing, and logs nothing.
//!
//! A turn is work between two waits: one poll of a task, one round of a thread, one visit to the door. Whoever waits for a
//! socket, a timer or work is within none, however long. A turn that does not end is a busy loop, a call that blocks, or a lock
//! that nobody gives back.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use crate::base::lock::lock;

/// The turns of one part. One thread at a time has turns of it; anybody may look.
#[derive(Debug, Default)]
pub struct Pulse {
    /// Begun and ended turns: odd within one.
    turns: AtomicU64,
    #[cfg(debug_assertions)]
    hang: hang::Hook,
}

/// Ends with its scope, by a panic too.
#[must_use]
pub struct Turn<'a>(&'a Pulse);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Pulse {
    /// A turn begins; one that was not ended ends with it.
    pub fn begin(&self) {
        self.mark_begun();
        #[cfg(debug_assertions)]
        self.hang.meet();
    }

    /// Somebody else's turn, who was asked for a sign of life, begins; unless he still owes the last one.
    pub fn ask(&self) {
        if self.current().is_none() {
            self.mark_begun();
        }
    }

    pub fn end(&self) {
        let turns = self.turns.load(Ordering::Relaxed);
        self.turns.store(turns.wrapping_add(turns & 1), Ordering::Relaxed);
    }

    pub fn turn(&self) -> Turn<'_> {
        self.begin();
        Turn(self)
    }

    /// Each poll of `task` is a turn.
    pub async fn watch<F: Future>(&self, task: F) -> F::Output {
        let mut task = pin!(task);
        poll_fn(|context| {
            let _turn = self.turn();
            task.as_mut().poll(context)
        })
        .await
    }

    /// The turn that runs; None between two.
    fn current(&self) -> Option<u64> {
        let turns = self.turns.load(Ordering::Relaxed);
        (turns & 1 == 1).then_some(turns)
    }

    fn mark_begun(&self) {
        let turns = self.turns.load(Ordering::Relaxed);
        self.turns.store(turns.wrapping_add(1 + (turns & 1)), Ordering::Relaxed);
    }
}

/// A part that has not ended its turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hung {
    pub part: Arc<str>,
    /// Since it was first seen within this turn.
    pub since: Duration,
}

/// All parts of a gateway.
#[derive(Debug, Clone, Default)]
pub struct Pulses(Arc<Mutex<Watched>>);

#[derive(Debug, Default)]
struct Watched {
    parts: Vec<Part>,
    /// As the last look found.
    hung: Vec<Hung>,
}

#[derive(Debug)]
struct Part {
    name: Arc<str>,
    /// A part that has ended counts no more.
    pulse: Weak<Pulse>,
    /// The turn that the last look saw, and when it was first seen.
    seen: Option<(u64, Instant)>,
}

impl Pulses {
    /// A new part.
    pub fn part(&self, name: &str) -> Arc<Pulse> {
        let pulse = Arc::default();
        self.add(name, &pulse);
        pulse
    }

    /// One that has its pulse already.
    pub fn add(&self, name: &str, pulse: &Arc<Pulse>) {
        #[cfg(debug_assertions)]
        pulse.hang.arm(name);
        let part = Part { name: name.into(), pulse: Arc::downgrade(pulse), seen: None };
        lock(&self.0).parts.push(part);
    }

    /// Looks at all parts. Whoever was within the same turn at each look for `patience` hangs.
    pub fn look(&self, now: Instant, patience: Duration) -> Vec<Hung> {
        let mut watched = lock(&self.0);
        watched.parts.retain(|part| part.pulse.strong_count() > 0);
        let stood_still = watched.parts.iter_mut().filter_map(|part| {
            let since = part.stood_still(now);
            (since >= patience).then(|| Hung { part: part.name.clone(), since })
        });
        watched.hung = stood_still.collect();
        watched.hung.clone()
    }

    /// As the last look found.
    pub fn hung(&self) -> Vec<Hung> {
        lock(&self.0).hung.clone()
    }
}

impl Part {
    fn stood_still(&mut self, now: Instant) -> Duration {
        let current = self.pulse.upgrade().and_then(|pulse| pulse.current());
        self.seen = current.map(|turn| match self.seen {
            Some((seen, since)) if seen == turn => (seen, since),
            _ => (turn, now),
        });
        self.seen.map_or(Duration::ZERO, |(_, since)| now.saturating_duration_since(since))
    }
}

/// `line:rs485-a for 31 s, runtime for 31 s`
pub fn words(hung: &[Hung]) -> String {
    let each: Vec<_> =
        hung.iter().map(|Hung { part, since }| format!("{part} for {} s", since.as_secs())).collect();
    each.join(", ")
}

/// For tests of who watches: `TIDEGATE_DEBUG_HANG=PART:SECONDS` has a part hang in its first turn after so long. A release
/// has none of this.
#[cfg(debug_assertions)]
mod hang {
    use std::sync::OnceLock;
    use std::time::{Duration, Instant};

    const VARIABLE: &str = "TIDEGATE_DEBUG_HANG";

    #[derive(Debug, Default)]
    pub(super) struct Hook(OnceLock<Instant>);

    impl Hook {
        pub(super) fn arm(&self, name: &str) {
            let Ok(wanted) = std::env::var(VARIABLE) else { return };
            if let Some((part, seconds)) = wanted.rsplit_once(':')
                && part == name
                && let Ok(seconds) = seconds.parse()
            {
                // A second time it is the same part.
                let _ = self.0.set(Instant::now() + Duration::from_secs(seconds));
            }
        }

        pub(super) fn meet(&self) {
            while self.0.get().is_some_and(|at| *at <= Instant::now()) {
                std::thread::sleep(Duration::from_secs(1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};
    use std::time::{Duration, Instant};

    use super::{Pulses, words};

    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn only_a_turn_that_does_not_end_hangs() {
        let pulses = Pulses::default();
        let (line, writer) = (pulses.part("line:a"), pulses.part("writer"));
        let start = Instant::now();
        let look = |seconds| words(&pulses.look(start + Duration::from_secs(seconds), PATIENCE));
        line.begin();
        assert_eq!(look(0), "");
        assert_eq!(look(29), "");
        assert_eq!(look(30), "line:a for 30 s");
        // The next turn begins its own time, also where nobody ended the last one.
        line.begin();
        writer.begin();
        assert_eq!(look(40), "");
        assert_eq!(look(70), "line:a for 30 s, writer for 30 s");
        line.end();
        drop(writer.turn());
        assert_eq!((look(100), pulses.hung()), (String::new(), Vec::new()));
        // Who waits is within no turn, however long; nor is who has ended.
        line.begin();
        assert_eq!(look(200), "");
        drop(line);
        assert_eq!(look(300), "");
    }

    #[test]
    fn who_owes_a_sign_of_life_is_not_asked_for_another() {
        let pulses = Pulses::default();
        let runtime = pulses.part("runtime");
        let start = Instant::now();
        let look = |seconds| words(&pulses.look(start + Duration::from_secs(seconds), PATIENCE));
        runtime.ask();
        assert_eq!(look(0), "");
        runtime.ask();
        assert_eq!(look(30), "runtime for 30 s");
        runtime.end();
        runtime.end();
        runtime.ask();
        assert_eq!(look(60), "");
    }

    #[test]
    fn a_poll_is_a_turn_also_one_that_panics() {
        let pulses = Pulses::default();
        let pulse = pulses.part("link:cloud");
        let mut polls = 0;
        let task = std::future::poll_fn(|_| {
            polls += 1;
            assert!(pulse.current().is_some());
            assert!(polls < 2, "the second one");
            Poll::<()>::Pending
        });
        let mut watched = Box::pin(pulse.watch(task));
        let mut context = Context::from_waker(Waker::noop());
        assert!(watched.as_mut().poll(&mut context).is_pending());
        assert_eq!(pulse.current(), None);
        let panicked = std::panic::AssertUnwindSafe(|| watched.as_mut().poll(&mut context));
        assert!(std::panic::catch_unwind(panicked).is_err());
        assert_eq!(pulse.current(), None);
    }
}
