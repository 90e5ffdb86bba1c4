//! How a client publishes: by itself, or whenever its acknowledgement comes. What waits for a commit may gather as
//! long as the publishers go on; one that waits for us would only lose time. Decides from what was seen, never sends.
//!
//! A client's silence is measured from its last message or, if that came later, from the moment that it had all its
//! answers. One that publishes by itself is silent for about as long every time, whether answers wait or not; when
//! it is silent for twice as long while one waits, it waits for that. One that waits for each acknowledgement is
//! silent only for the moment that it takes to send the next message, so that it is soon found out.

use crate::base::time::{Duration, Instant};

/// A silence of so many times the longest one means that the client waits. More than one, for a client that
/// publishes by itself must be able to show it: at one, an acknowledgement halfway between two messages would make
/// each silence half as long as the rhythm, for ever.
const SILENCES: u32 = 2;
/// Who sends one message a round, each at most so long after the answer to the one before, surely waits, once that
/// was proven.
const PROMPT: Duration = Duration::from_millis(20);
/// The proof begins after so many such rounds: a round of silence for twice as long as two messages were apart. An
/// answer that comes earlier, because of somebody else, leaves it open.
const LONELY_ROUNDS_MIN: u32 = 2;
/// It holds for so many rounds: the client may go on by itself by then.
const PROVEN_ROUNDS: u32 = 16;

/// Whether a client waits for its acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    Surely,
    /// If it has not gone on by then.
    From(Instant),
}

/// One connection's. A round is what comes between two moments at which everything was answered.
#[derive(Debug, Default)]
pub struct Pace {
    /// The last message, or the moment after it at which everything was answered.
    since: Instant,
    /// The last message, and how long after the one before it came.
    message_at: Instant,
    interval: Duration,
    /// The longest silence of this round, and of the one before.
    longest: Duration,
    longest_before: Duration,
    /// Messages of this round.
    messages: u32,
    /// Rounds of one message each that came one after another.
    lonely_rounds: u32,
    /// When the connection is looked at, if an answer waits then.
    pub due: Option<Instant>,
}

impl Pace {
    /// Of a connection whose answers were all given by `answered`.
    pub fn new(answered: Instant) -> Self {
        Self { since: answered, ..Self::default() }
    }

    pub fn handle_publish(&mut self, now: Instant) {
        self.longest = self.longest.max(now.since(self.since));
        self.interval = now.since(self.message_at);
        self.message_at = now;
        self.since = now;
        self.messages = self.messages.saturating_add(1);
    }

    /// Everything is answered.
    pub fn handle_answered(&mut self, now: Instant) {
        self.since = now;
        if self.messages == 0 {
            return;
        }
        let shown = self.messages == 1 && self.proof_end().is_none_or(|end| now >= end);
        self.lonely_rounds = if shown { self.lonely_rounds.saturating_add(1) } else { 0 };
        self.longest_before = std::mem::take(&mut self.longest);
        self.messages = 0;
    }

    pub fn waiting(&self) -> Waiting {
        if let Some(end) = self.proof_end() {
            return Waiting::From(end);
        }
        if self.is_lonely() {
            return Waiting::Surely;
        }
        Waiting::From(self.since + self.silence().saturating_mul(SILENCES))
    }

    fn silence(&self) -> Duration {
        self.longest.max(self.longest_before)
    }

    fn is_lonely(&self) -> bool {
        self.messages == 1 && self.lonely_rounds >= LONELY_ROUNDS_MIN && self.silence() <= PROMPT
    }

    /// When this round has proven that the client waits; None: there is nothing to prove in it.
    fn proof_end(&self) -> Option<Instant> {
        let due = self.lonely_rounds % PROVEN_ROUNDS == LONELY_ROUNDS_MIN;
        let silence = self.silence().max(self.interval);
        (due && self.is_lonely()).then(|| self.message_at + silence.saturating_mul(SILENCES))
    }
}

#[cfg(test)]
mod tests {
    use super::{Pace, Waiting};
    use crate::base::time::{Duration, Instant};

    const COMMIT: Duration = Duration::from_millis(100);

    fn at(micros: u64) -> Instant {
        Instant::ORIGIN + Duration::from_micros(micros)
    }

    /// A client that publishes every `interval` by itself, as it is seen while everything is answered at the end of
    /// its commit. Returns how many messages each commit had.
    fn play(interval_micros: u64, disk_micros: u64, pace: &mut Pace, from: u64) -> Vec<u32> {
        let mut rng = fastrand::Rng::with_seed(interval_micros + disk_micros);
        let mut commits = Vec::new();
        let (mut held, mut first) = (0, Instant::ORIGIN);
        let mut next = from;
        let mut due: Option<Instant> = None;
        let end = from + 3_000_000;
        while next < end {
            let commit_at = (held > 0).then(|| due.unwrap_or(first + COMMIT).min(first + COMMIT));
            if let Some(commit_at) = commit_at.filter(|commit_at| *commit_at <= at(next)) {
                pace.handle_answered(commit_at + Duration::from_micros(disk_micros));
                commits.push(held);
                held = 0;
                continue;
            }
            let now = at(next);
            pace.handle_publish(now);
            first = if held == 0 { now } else { first };
            held += 1;
            due = match pace.waiting() {
                Waiting::Surely => Some(now),
                Waiting::From(quiet) => Some(quiet),
            };
            next += interval_micros * rng.u64(80..=120) / 100;
        }
        commits
    }

    #[test]
    fn who_publishes_by_itself_gathers_for_the_whole_commit() {
        for (interval_ms, disk_micros) in [(1, 300), (2, 1500), (5, 300), (5, 4000), (10, 9000), (30, 1500)] {
            let mut pace = Pace::default();
            pace.handle_answered(at(1_000_000));
            check_gathers(&mut pace, interval_ms, disk_micros, 1_000_200);
        }
    }

    #[test]
    fn a_client_that_went_one_by_one_is_found_out_when_it_goes_by_itself() {
        for (interval_ms, disk_micros) in [(2, 1500), (5, 300), (5, 4000), (10, 9000), (30, 1500)] {
            let mut pace = Pace::default();
            let (_, end) = go_alone(&mut pace, 100);
            check_gathers(&mut pace, interval_ms, disk_micros, end + 300);
        }
    }

    fn check_gathers(pace: &mut Pace, interval_ms: u64, disk_micros: u64, from: u64) {
        let commits = play(interval_ms * 1000, disk_micros, pace, from);
        let later = &commits[commits.len() * 2 / 3..];
        let mean = later.iter().sum::<u32>() / u32::try_from(later.len()).unwrap();
        let expected = u32::try_from(100 / interval_ms).unwrap();
        assert!(mean >= expected * 8 / 10, "every {interval_ms} ms, {disk_micros} µs a commit: {commits:?}");
    }

    /// A client that sends a message 200 µs after the answer to the one before, on a disk that takes 1.5 ms. Returns
    /// how often it was sure, and when it was over.
    fn go_alone(pace: &mut Pace, rounds: u64) -> (u32, u64) {
        let (mut surely, mut micros) = (0, 0);
        pace.handle_answered(at(0));
        for _ in 0..rounds {
            micros += 200;
            pace.handle_publish(at(micros));
            match pace.waiting() {
                Waiting::Surely => surely += 1,
                Waiting::From(quiet) => {
                    assert!(quiet > at(micros) && quiet < at(micros + 10_000));
                    micros = u64::try_from(quiet.since(Instant::ORIGIN).as_micros()).unwrap();
                }
            }
            micros += 1500;
            pace.handle_answered(at(micros));
        }
        (surely, micros)
    }

    #[test]
    fn who_sends_one_at_a_time_surely_waits_but_has_to_prove_it_now_and_then() {
        let (surely, micros) = go_alone(&mut Pace::default(), 162);
        assert_eq!(surely, 150);
        assert!(micros < 162 * 2500, "{micros}");
    }

    #[test]
    fn clients_that_cut_each_other_short_prove_nothing() {
        let mut pace = Pace::default();
        pace.handle_answered(at(0));
        // Every 10 ms by itself, answered after 2 ms each time.
        for round in 1..200 {
            pace.handle_publish(at(round * 10_000));
            assert_ne!(pace.waiting(), Waiting::Surely, "{round}");
            pace.handle_answered(at(round * 10_000 + 2000));
        }
    }

    #[test]
    fn a_burst_is_no_sign_that_the_client_waits() {
        let mut pace = Pace::default();
        pace.handle_answered(at(0));
        for second in 1..5 {
            for message in 0..5 {
                pace.handle_publish(at(second * 1_000_000 + message * 50));
            }
            let Waiting::From(quiet) = pace.waiting() else { panic!("it never sent one alone") };
            assert!(quiet > at(second * 1_000_000 + 1_000_000), "{quiet:?}");
            pace.handle_answered(at(second * 1_000_000 + 100_000));
        }
    }
}
