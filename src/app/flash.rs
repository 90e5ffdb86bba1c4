//! How much the process writes to flash, and how long commits gather where `gateway.flash_budget` runs short. Counts and
//! paces; writing is the store's.
//!
//! Counted is what the kernel says that the process made it write, in whole pages (`write_bytes` of `/proc/self/io`): database,
//! log and checkpoints alike. The day is the last 24 hours, in hours, by a clock that nobody sets. Over a restart the wall clock
//! says how long the process was away; one that is behind, since no battery kept it, means no time at all, so that the budget
//! is rather kept too well.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio_util::sync::CancellationToken;

use crate::base::lock::lock;
use crate::base::time::{Clock, Duration, Instant, Now, Timestamp};
use crate::config::model::Config;
use crate::hub::Hub;
use crate::store::writer::Writer;

/// What was written, for the next start: one line, written once an hour and at the end.
pub const FLASH_FILE: &str = "tidegate.flash";
const FLASH_FILE_VERSION: u64 = 1;
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
const HOURS: usize = 24;
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// How long a commit gathers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Waits {
    /// Of what somebody waits for: acknowledgements come that much later.
    pub owed: Duration,
    /// Of what nobody waits for, readings for the most part: a loss of power costs that much of them.
    pub unowed: Duration,
}

/// From which thousandth of the budget on, commits gather how long, in milliseconds. The last is the bound.
const PACES: [(u64, u64, u64); 5] =
    [(500, 250, 1000), (600, 500, 5000), (700, 1000, 15_000), (800, 1500, 30_000), (900, 2000, 60_000)];

fn waits(written: u64, budget: Option<u64>) -> Waits {
    let Some(budget) = budget else { return Waits::default() };
    let thousandths = u128::from(written) * 1000 / u128::from(budget.max(1));
    let pace = PACES.iter().rfind(|(from, _, _)| u128::from(*from) <= thousandths);
    pace.map_or(Waits::default(), |(_, owed, unowed)| Waits {
        owed: Duration::from_millis(*owed),
        unowed: Duration::from_millis(*unowed),
    })
}

/// Bytes of the last 24 hours, the running one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Day {
    hours: [u64; HOURS],
    /// Of the running hour.
    elapsed: Duration,
}

impl Day {
    fn pass(&mut self, time: Duration) {
        let time = (self.elapsed + time).min(DAY);
        let hours = usize::try_from(time.as_secs() / HOUR.as_secs()).unwrap_or(HOURS).min(HOURS);
        self.hours.rotate_right(hours % HOURS);
        self.hours[..hours].fill(0);
        self.elapsed = Duration::from_secs(time.as_secs() % HOUR.as_secs());
    }

    fn written(&self) -> u64 {
        self.hours.iter().fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }

    fn line(&self, wall: Timestamp) -> String {
        let hours: Vec<String> = self.hours.iter().map(u64::to_string).collect();
        let elapsed = self.elapsed.as_secs();
        format!("{FLASH_FILE_VERSION} {} {elapsed} {}\n", wall.as_millis(), hours.join(" "))
    }

    /// As it is now, by the wall clock. None: nobody can read it.
    fn parse(line: &str, now: Timestamp) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        if words.next()?.parse() != Ok(FLASH_FILE_VERSION) {
            return None;
        }
        let wall = Timestamp::from_millis(words.next()?.parse().ok()?);
        let elapsed = Duration::from_secs(words.next()?.parse().ok()?);
        let mut day = Day { elapsed: elapsed.min(HOUR), ..Day::default() };
        for bytes in &mut day.hours {
            *bytes = words.next()?.parse().ok()?;
        }
        day.pass(now.since(wall));
        Some(day)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlashStatus {
    /// In the last 24 hours. None: the kernel does not count.
    pub written_bytes: Option<u64>,
    pub budget_bytes: Option<u64>,
    pub waits: Waits,
}

#[derive(Debug)]
struct Counting {
    budget: Option<u64>,
    day: Day,
    /// What the kernel has counted so far, and when.
    counted: Option<u64>,
    at: Instant,
    waits: Waits,
}

pub struct Flash {
    path: PathBuf,
    clock: Clock,
    counting: Mutex<Counting>,
}

impl Flash {
    /// As the last process left it.
    pub fn find(config: &Config, clock: Clock) -> Self {
        let (path, now) = (config.gateway.data_dir.join(FLASH_FILE), clock.now());
        let found = std::fs::read_to_string(&path).ok();
        let day = found.and_then(|line| Day::parse(&line, now.wall)).unwrap_or_default();
        // What this process wrote before counts too: its start.
        let budget = config.gateway.flash_budget_bytes;
        let counting = Counting { budget, day, counted: Some(0), at: now.instant, waits: Waits::default() };
        Self { path, clock, counting: Mutex::new(counting) }
    }

    pub fn status(&self) -> FlashStatus {
        let counting = lock(&self.counting);
        FlashStatus {
            written_bytes: counting.counted.map(|_| counting.day.written()),
            budget_bytes: counting.budget,
            waits: counting.waits,
        }
    }

    /// Another budget, from the next look on.
    pub fn set_budget(&self, bytes: Option<u64>) {
        lock(&self.counting).budget = bytes;
    }

    /// Counts and paces until it is cancelled.
    pub async fn run(self: Arc<Self>, hub: Arc<Hub>, writer: Arc<Writer>, cancel: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK_INTERVAL);
        let mut paced = Waits::default();
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                _ = ticks.tick() => {}
            }
            let (waits, new_hour) = self.look(self.clock.now(), written_bytes());
            if waits != paced {
                self.tell(paced, waits);
                hub.set_unowed_wait(waits.unowed);
                writer.set_gathering(waits.owed);
                paced = waits;
            }
            if new_hour {
                self.save();
            }
        }
        // The end waits for nobody.
        writer.set_gathering(Duration::ZERO);
        self.save();
    }

    /// How long commits are to gather, and whether another hour has begun.
    fn look(&self, now: Now, written: Option<u64>) -> (Waits, bool) {
        let mut counting = lock(&self.counting);
        let Counting { budget, day, counted, at, waits: paced } = &mut *counting;
        let passed = now.instant.since(*at);
        let before = day.elapsed;
        // Whole seconds: what is left of one counts with the next look.
        let whole = Duration::from_secs(passed.as_secs());
        *at = *at + whole;
        day.pass(whole);
        if let (Some(written), Some(counted)) = (written, *counted) {
            day.hours[0] = day.hours[0].saturating_add(written.saturating_sub(counted));
        }
        *counted = written;
        *paced = waits(day.written(), *budget);
        (*paced, day.elapsed < before)
    }

    fn tell(&self, before: Waits, waits: Waits) {
        let status = self.status();
        let (written, budget) = (status.written_bytes.unwrap_or(0), status.budget_bytes.unwrap_or(0));
        let (commits_ms, unowed_ms) = (waits.owed.as_millis(), waits.unowed.as_millis());
        if waits.owed.is_zero() {
            tracing::info!(written, budget, "the flash budget suffices again: commits gather no longer");
        } else if waits.owed > before.owed {
            tracing::warn!(
                written,
                budget,
                commits_ms,
                unowed_ms,
                "the flash budget runs short: commits gather longer"
            );
        } else {
            tracing::info!(
                written,
                budget,
                commits_ms,
                unowed_ms,
                "commits gather less: the flash budget suffices longer"
            );
        }
    }

    /// A record that is lost costs the count, nothing else.
    fn save(&self) {
        let line = lock(&self.counting).day.line(self.clock.now().wall);
        if let Err(error) = replace(&self.path, &line) {
            tracing::debug!(%error, "what was written to flash cannot be noted");
        }
    }
}

fn replace(path: &Path, line: &str) -> std::io::Result<()> {
    let new = path.with_extension("flash-new");
    std::fs::write(&new, line)?;
    std::fs::rename(new, path)
}

/// By this process since its start.
fn written_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/io").ok()?;
    text.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::{Day, HOUR, HOURS, PACES, Waits, waits};
    use crate::base::time::{Duration, Timestamp};

    #[test]
    fn commits_gather_the_longer_the_less_is_left_and_never_longer_than_the_bound() {
        let budget = Some(1000);
        let owed = |written| waits(written, budget).owed.as_millis();
        assert_eq!([0, 499, 500, 899, 900, 1000, 1_000_000].map(owed), [0, 0, 250, 1500, 2000, 2000, 2000]);
        assert_eq!(waits(u64::MAX, None), Waits::default());
        assert!(PACES.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1));
    }

    #[test]
    fn what_is_older_than_a_day_counts_no_more() {
        let mut day = Day::default();
        for hour in 0..30 {
            day.hours[0] += 100 + hour;
            day.pass(HOUR);
        }
        // The running hour is the 24th of those that count.
        assert_eq!(day.written(), (7..30).map(|hour| 100 + hour).sum::<u64>());
        day.pass(HOUR * 10 + Duration::from_secs(90));
        assert_eq!(
            (day.written(), day.elapsed),
            ((17..30).map(|hour| 100 + hour).sum(), Duration::from_secs(90))
        );
        day.pass(HOUR * 1000);
        assert_eq!(day.written(), 0);
    }

    #[test]
    fn a_restart_goes_on_counting_with_and_without_a_clock() {
        let mut day = Day { elapsed: Duration::from_secs(600), ..Day::default() };
        (day.hours[0], day.hours[HOURS - 1]) = (7, 9);
        let saved = Timestamp::from_millis(1_795_255_200_123);
        let line = day.line(saved);
        let after = |millis| Day::parse(&line, Timestamp::from_millis(saved.as_millis() + millis)).unwrap();
        assert_eq!(after(0), day);
        // A clock that no battery kept: no time has passed.
        assert_eq!(after(-saved.as_millis()), day);
        let later = after(3_600_000);
        assert_eq!((later.hours[1], later.written(), later.elapsed), (7, 7, day.elapsed));
        assert_eq!(after(100 * 3_600_000).written(), 0);
        for broken in ["", "2 0 0", "1 0 0 1 2 3", &line.replace('7', "x")] {
            assert_eq!(Day::parse(broken, saved), None, "{broken}");
        }
    }
}
