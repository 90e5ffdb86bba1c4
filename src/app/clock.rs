//! Watches the wall clock: whether it is set, and when it is stepped. Only looks; who knows the time is asked, never
//! told, and what follows is the brains' to decide.
//!
//! No call tells a program without privileges whether the clock is right, in a container least of all, so that
//! `verdict` weighs what can be seen. A clock that was believed once stays so: it may drift, but it was set.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use tokio::process::Command;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::base::time::{Clock, Duration, Instant, Now, Timestamp};
use crate::hub::Hub;

const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Looks from one question to the system's time service to the next.
const LOOKS_PER_QUESTION: u32 = 10;
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// A smaller difference from one look to the next is no step but a clock that is slewed.
const STEP_MILLIS_MIN: u64 = 1000;
/// Both clocks are read together if they are read within this time, ...
const READING_MAX: Duration = Duration::from_millis(100);
/// ... for which so many tries are made.
const READINGS_MAX: u32 = 10;

/// 2025-08-07: when the compiler came out that this program needs. No clock that is right says less.
const EARLIEST: Timestamp = Timestamp::from_millis(1_754_524_800_000);
/// A clock that is kept by a battery alone may be behind what was written before a restart, but by no more.
const BEHIND_MILLIS_MAX: i64 = 86_400_000;
/// A clock that was set from one with a battery differs from it by no more.
const BATTERY_MILLIS_MAX: u64 = 60_000;
/// Where nobody can be asked, whoever sets clocks has done so by then, or never will.
const SETTLED_AFTER: Duration = Duration::from_secs(600);

/// `systemd-timesyncd` makes it once it has the time.
const TIMESYNC_FILE: &str = "/run/systemd/timesync/synchronized";
/// Exists where systemd runs, whose `timedatectl` tells what the kernel was told by whatever service there is.
const SYSTEMD_FOLDER: &str = "/run/systemd/system";
const BATTERY_FOLDER: &str = "/sys/class/rtc";

/// What those say who know whether the clock was set from elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Witness {
    /// Nobody can be asked.
    Nobody,
    NotSet,
    Set,
}

/// What can be seen of the clock.
#[derive(Debug, Clone, Copy)]
struct Evidence {
    now: Now,
    /// When the database was written last.
    written: Option<Timestamp>,
    witness: Witness,
    /// It was stepped before our eyes.
    stepped: bool,
    /// What a clock with a battery says.
    battery: Option<Timestamp>,
    /// What the time is by the clock that an earlier run of this boot believed.
    recalled: Option<Timestamp>,
    /// This kind of machine has such a clock, whether it is shown to us or not.
    has_battery: bool,
}

/// Whether the clock is to be believed.
fn verdict(seen: &Evidence) -> bool {
    let wall = seen.now.wall;
    let is_behind = |time: Timestamp, by: i64| wall.as_millis().saturating_add(by) < time.as_millis();
    let agrees = |time: Timestamp| wall.as_millis().abs_diff(time.as_millis()) <= BATTERY_MILLIS_MAX;
    if seen.witness == Witness::Set {
        return true;
    }
    if is_behind(EARLIEST, 0) {
        return false;
    }
    // Services that guess the time from a file do so before any other is started: who steps it now knows better.
    if seen.stepped {
        return true;
    }
    if seen.written.is_some_and(|written| is_behind(written, BEHIND_MILLIS_MAX)) {
        return false;
    }
    let is_settled = seen.now.instant.since(Instant::BOOT) >= SETTLED_AFTER;
    let vouched = [seen.battery, seen.recalled].into_iter().flatten().any(agrees);
    seen.has_battery || vouched || (seen.witness == Witness::Nobody && is_settled)
}

/// What is known of the clock from one look to the next.
#[derive(Debug, Clone)]
pub struct Watch {
    clock: Clock,
    written: Option<Timestamp>,
    is_set: bool,
    offset_millis: i64,
    /// By how much the wall clock was ahead of the monotonic one when an earlier run of this boot believed it.
    recalled_millis: Option<i64>,
    /// What the time service said last; None before the first question.
    answer: Option<Witness>,
    looks: u32,
}

/// What a look has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    step_millis: Option<i64>,
    was_set: bool,
    is_set: bool,
}

impl Watch {
    /// The first look, before anything is recovered by this clock. `written`: when the database was written last.
    pub fn begin(clock: &Clock, written: Option<Timestamp>) -> Self {
        let now = read(clock);
        let mut watch = Self {
            clock: clock.clone(),
            written,
            is_set: false,
            offset_millis: now.offset_millis(),
            recalled_millis: None,
            answer: None,
            looks: 0,
        };
        watch.look(now);
        if !watch.is_set {
            tracing::warn!(
                time = %now.wall,
                "the clock is not set: readings are marked, and corrected where they still wait when it is"
            );
        }
        watch
    }

    /// What the database knows of this boot: it counts from the next look on.
    #[must_use]
    pub fn recalling(self, offset_millis: Option<i64>) -> Self {
        Self { recalled_millis: offset_millis, ..self }
    }

    /// Looks until it is cancelled.
    pub async fn run(mut self, hub: Arc<Hub>, cancel: CancellationToken) {
        let mut ticks = interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = ticks.tick() => {}
            }
            if !self.is_set && self.looks.is_multiple_of(LOOKS_PER_QUESTION) {
                self.answer = Some(ask().await);
            }
            self.looks = self.looks.wrapping_add(1);
            let found = self.look(read(&self.clock));
            tell(found, &hub);
        }
    }

    fn look(&mut self, now: Now) -> Found {
        let step = now.offset_millis().saturating_sub(self.offset_millis);
        self.offset_millis = now.offset_millis();
        let stepped = step.unsigned_abs() >= STEP_MILLIS_MIN;
        let was_set = self.is_set;
        if stepped || !was_set {
            self.is_set = verdict(&self.evidence(now, stepped));
            self.clock.set_doubt(!self.is_set);
        }
        Found { step_millis: stepped.then_some(step), was_set, is_set: self.is_set }
    }

    fn evidence(&self, now: Now, stepped: bool) -> Evidence {
        let witness = match self.answer {
            _ if Path::new(TIMESYNC_FILE).exists() => Witness::Set,
            Some(answer) => answer,
            None if Path::new(SYSTEMD_FOLDER).exists() => Witness::NotSet,
            None => Witness::Nobody,
        };
        let has_battery = cfg!(any(target_arch = "x86_64", target_arch = "x86"));
        let battery = read_battery(Path::new(BATTERY_FOLDER));
        let recall = |offset| Timestamp::from_millis(now.instant.as_millis().saturating_add(offset));
        let recalled = self.recalled_millis.map(recall);
        Evidence { now, written: self.written, witness, stepped, battery, recalled, has_battery }
    }
}

fn tell(found: Found, hub: &Hub) {
    let Found { step_millis, was_set, is_set } = found;
    if let Some(step_millis) = step_millis {
        tracing::info!(step_millis, "the clock was stepped");
        hub.handle_clock_step();
    }
    match (was_set, is_set) {
        (false, true) => {
            tracing::info!("the clock is set: readings that still wait are corrected");
            hub.handle_clock_set();
        }
        (true, false) => tracing::warn!("the clock is wrong: readings are marked until it is set"),
        _ => {}
    }
}

/// Both clocks at one moment, also on a machine that is too busy to read them one behind the other.
fn read(clock: &Clock) -> Now {
    let mut before = clock.now();
    for _ in 0..READINGS_MAX {
        let now = clock.now();
        if now.instant.since(before.instant) < READING_MAX {
            return now;
        }
        before = now;
    }
    before
}

async fn ask() -> Witness {
    let mut question = Command::new("timedatectl");
    question.args(["show", "--property=NTPSynchronized", "--value"]);
    question.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let Ok(Ok(answer)) = timeout(ANSWER_WAIT, question.output()).await else { return Witness::Nobody };
    match answer.stdout.trim_ascii() {
        b"yes" => Witness::Set,
        b"no" => Witness::NotSet,
        _ => Witness::Nobody,
    }
}

/// The first clock that runs without power, in UTC as nearly all of them.
fn read_battery(folder: &Path) -> Option<Timestamp> {
    let mut clocks: Vec<_> = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).collect();
    clocks.sort();
    clocks.iter().find_map(|clock| {
        let seconds: i64 = std::fs::read_to_string(clock.join("since_epoch")).ok()?.trim().parse().ok()?;
        Some(Timestamp::from_millis(seconds.saturating_mul(1000)))
    })
}

#[cfg(test)]
mod tests {
    use super::{
        BEHIND_MILLIS_MAX, EARLIEST, Evidence, SETTLED_AFTER, Watch, Witness, read_battery, verdict,
    };
    use crate::base::time::{Clock, Duration, Instant, Now, Timestamp};

    const YEAR_2026: Timestamp = Timestamp::from_millis(1_795_255_200_123);
    const YEAR_1970: Timestamp = Timestamp::from_millis(5_000);

    /// A board without a battery, soon after its start, with an image's date and nobody to ask.
    fn board(wall: Timestamp) -> Evidence {
        let instant = Instant::BOOT + Duration::from_secs(30);
        Evidence {
            now: Now { instant, wall },
            written: None,
            witness: Witness::Nobody,
            stepped: false,
            battery: None,
            recalled: None,
            has_battery: false,
        }
    }

    fn server(wall: Timestamp) -> Evidence {
        Evidence { has_battery: true, ..board(wall) }
    }

    #[test]
    fn who_vouches_for_the_clock_is_believed_and_nobody_else() {
        let later = |by: i64| Some(Timestamp::from_millis(YEAR_2026.as_millis() + by));
        let settled = |seen: Evidence| Evidence {
            now: Now { instant: Instant::BOOT + SETTLED_AFTER, ..seen.now },
            ..seen
        };
        let at = |seen: Evidence, witness| Evidence { witness, ..seen };
        let cases = [
            ("a board that has just started", board(YEAR_2026), false),
            ("... that was told the time", at(board(YEAR_2026), Witness::Set), true),
            ("... whose time service has none", settled(at(board(YEAR_2026), Witness::NotSet)), false),
            ("... that nobody will tell", settled(board(YEAR_2026)), true),
            ("... that nobody will tell, in 1970", settled(board(YEAR_1970)), false),
            ("... whose clock was set by hand", Evidence { stepped: true, ..board(YEAR_2026) }, true),
            ("... was set to nonsense", Evidence { stepped: true, ..board(YEAR_1970) }, false),
            ("... has a battery", Evidence { battery: later(2_000), ..board(YEAR_2026) }, true),
            ("... was believed before", Evidence { recalled: later(-59_000), ..board(YEAR_2026) }, true),
            ("... with another time", Evidence { recalled: later(-61_000), ..board(YEAR_2026) }, false),
            ("... an empty battery", Evidence { battery: Some(YEAR_1970), ..board(YEAR_2026) }, false),
            ("... and its date", Evidence { battery: Some(YEAR_1970), ..board(YEAR_1970) }, false),
            ("a server, or a container on one", server(YEAR_2026), true),
            (
                "... whose kernel says that nobody keeps the time",
                at(server(YEAR_2026), Witness::NotSet),
                true,
            ),
            ("... whose battery is empty", server(YEAR_1970), false),
            ("... a moment too early", server(Timestamp::from_millis(EARLIEST.as_millis() - 1)), false),
            (
                "... behind what it wrote",
                Evidence { written: later(BEHIND_MILLIS_MAX + 1), ..server(YEAR_2026) },
                false,
            ),
            (
                "... a little behind what it wrote",
                Evidence { written: later(BEHIND_MILLIS_MAX), ..server(YEAR_2026) },
                true,
            ),
            (
                "... that was set back",
                Evidence { written: later(i64::MAX / 2), stepped: true, ..server(YEAR_2026) },
                true,
            ),
        ];
        for (case, seen, believed) in cases {
            assert_eq!(verdict(&seen), believed, "{case}");
        }
    }

    #[test]
    fn steps_are_told_from_slewing_and_a_clock_that_was_set_stays_so() {
        let clock = Clock::start();
        let future = Timestamp::from_millis(clock.now().wall.as_millis() + 2 * BEHIND_MILLIS_MAX);
        let mut watch = Watch::begin(&clock, Some(future));
        watch.answer = Some(Witness::NotSet);
        assert!(!watch.is_set && clock.now().wall.is_doubtful());
        let real = clock.now();
        let at = |secs: u64, step: i64| Now {
            instant: real.instant + Duration::from_secs(secs),
            wall: Timestamp::from_millis(real.wall.as_millis() + secs.cast_signed() * 1000 + step),
        };
        watch.offset_millis = real.offset_millis();
        let looks = [
            (at(1, 0), None, false),
            // Slewed; stepped by somebody; slewed again; set back, and to what cannot be; set once more.
            (at(2, 900), None, false),
            (at(3, 10_000), Some(9_100), true),
            (at(4, 9_500), None, true),
            (at(5, -20_000), Some(-29_500), true),
            (at(6, -real.wall.as_millis()), Some(20_000 - real.wall.as_millis()), false),
            (at(7, -real.wall.as_millis()), None, false),
            (at(8, 0), Some(real.wall.as_millis()), true),
        ];
        for (now, step, is_set) in looks {
            let found = watch.look(now);
            assert_eq!((found.step_millis, found.is_set), (step, is_set), "{now:?}");
            assert_eq!(clock.now().wall.is_doubtful(), !is_set);
        }
    }

    #[test]
    fn a_clock_with_a_battery_is_found_among_others() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read_battery(folder.path()), None);
        for (name, text) in [("rtc0", ""), ("rtc1", "1795255200\n"), ("rtc2", "5\n")] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            std::fs::write(folder.path().join(name).join("since_epoch"), text).unwrap();
        }
        assert_eq!(read_battery(folder.path()), Some(Timestamp::from_millis(1_795_255_200_000)));
        assert_eq!(read_battery(&folder.path().join("none")), None);
    }
}
