//! How often the log says the same: what a device, a client or an attacker can have said again and again leaves out lines,
//! and how many they were is told later. DEBUG and TRACE are not bounded: who asks for them wants all.

use std::collections::HashMap;
use std::fmt::{self, Debug, Write};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

const WINDOW: Duration = Duration::from_secs(60);
/// Lines a window of one place in the code about one device, bridge, client or address.
const SUBJECT_LINES_MAX: u32 = 60;
/// Lines a window of one place in the code about all of them.
const PLACE_LINES_MAX: u32 = 600;
/// Subjects that are counted; lines about any more are bounded by their place alone.
const SUBJECTS_MAX: usize = 1024;
/// How often it is told what was left out.
const TELL_INTERVAL: Duration = Duration::from_secs(10);
/// Whom a line is about.
const SUBJECTS: [&str; 9] =
    ["device", "bridge", "client", "line", "port", "part", "address", "path", "log.target"];

/// One for the process, as the log itself.
static LINES: LazyLock<Mutex<Counts>> = LazyLock::new(Mutex::default);

/// A layer of tracing that keeps lines from all others.
#[derive(Debug, Default)]
pub struct LimitLayer;

impl<S: Subscriber> Layer<S> for LimitLayer {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        if *event.metadata().level() > Level::INFO {
            return true;
        }
        let place = Place { target: event.metadata().target(), line: event.metadata().line() };
        let mut hasher = DefaultHasher::new();
        event.metadata().callsite().hash(&mut hasher);
        let of_place = hasher.finish();
        event.record(&mut Subject(&mut hasher));
        let of_subject = hasher.finish();
        let counts = LINES.lock();
        counts.is_ok_and(|mut counts| counts.admits(place, [of_place, of_subject], Instant::now()))
    }
}

/// Tells what was left out, until it is cancelled.
pub async fn run(cancel: CancellationToken) {
    let mut ticks = tokio::time::interval(TELL_INTERVAL);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = ticks.tick() => {}
        }
        // Said outside of the lock, which each line takes.
        let left_out = LINES.lock().map(|mut counts| counts.take_left_out(Instant::now()));
        for (place, left_out) in left_out.unwrap_or_default() {
            let Place { target, line } = place;
            tracing::warn!(
                left_out,
                of = target,
                at = line,
                "lines were left out of the log: too many of a kind"
            );
        }
    }
}

/// Where in the code a line is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    target: &'static str,
    line: Option<u32>,
}

#[derive(Debug)]
struct Count {
    place: Place,
    since: Instant,
    lines: u32,
    left_out: u64,
}

impl Count {
    fn admits(&mut self, lines_max: u32, now: Instant) -> bool {
        if now.duration_since(self.since) >= WINDOW {
            (self.since, self.lines) = (now, 0);
        }
        let admits = self.lines < lines_max;
        self.lines += u32::from(admits);
        self.left_out += u64::from(!admits);
        admits
    }
}

#[derive(Debug, Default)]
struct Counts {
    /// As many as the code has.
    places: HashMap<u64, Count>,
    subjects: HashMap<u64, Count>,
}

impl Counts {
    /// Whether a line may be logged, by its place and subject and by its place alone.
    fn admits(&mut self, place: Place, [of_place, of_subject]: [u64; 2], now: Instant) -> bool {
        let new = || Count { place, since: now, lines: 0, left_out: 0 };
        if self.subjects.len() >= SUBJECTS_MAX && !self.subjects.contains_key(&of_subject) {
            self.subjects.retain(|_, count| count.left_out > 0 || now.duration_since(count.since) < WINDOW);
        }
        let has_room = self.subjects.len() < SUBJECTS_MAX || self.subjects.contains_key(&of_subject);
        let is_few =
            !has_room || self.subjects.entry(of_subject).or_insert_with(new).admits(SUBJECT_LINES_MAX, now);
        is_few && self.places.entry(of_place).or_insert_with(new).admits(PLACE_LINES_MAX, now)
    }

    /// Since it was asked last.
    fn take_left_out(&mut self, now: Instant) -> Vec<(Place, u64)> {
        let mut told = Vec::new();
        for counts in [&mut self.subjects, &mut self.places] {
            let some = counts.values_mut().filter(|count| count.left_out > 0);
            told.extend(some.map(|count| (count.place, std::mem::take(&mut count.left_out))));
            counts.retain(|_, count| now.duration_since(count.since) < WINDOW);
        }
        told
    }
}

/// Takes in what a line says of whom it is about.
struct Subject<'a>(&'a mut DefaultHasher);

impl Visit for Subject<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if SUBJECTS.contains(&field.name()) {
            // Fails only where the value's own Debug does; then what it wrote counts.
            let _ = write!(self, "{}={value:?} ", field.name());
        }
    }
}

impl Write for Subject<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::{Counts, PLACE_LINES_MAX, Place, SUBJECT_LINES_MAX, SUBJECTS_MAX, WINDOW};

    const PLACE: Place = Place { target: "tidegate::hub", line: Some(7) };

    #[test]
    fn what_is_said_too_often_is_left_out_and_counted() {
        let (mut counts, start) = (Counts::default(), Instant::now());
        let mut say = |keys, times: u32, now| (0..times).filter(|_| counts.admits(PLACE, keys, now)).count();
        let max = SUBJECT_LINES_MAX as usize;
        assert_eq!(say([1, 2], SUBJECT_LINES_MAX + 5, start), max);
        // Somebody else's lines are his own, and so is the next minute.
        assert_eq!(say([1, 3], 1, start), 1);
        assert_eq!(say([1, 2], 1, start + WINDOW), 1);
        assert_eq!(counts.take_left_out(start + WINDOW), [(PLACE, 5)]);
        assert_eq!(counts.take_left_out(start + WINDOW * 3), []);
        assert!(counts.subjects.is_empty() && counts.places.is_empty());
    }

    #[test]
    fn a_flood_of_subjects_is_bounded_by_its_place_and_costs_no_memory() {
        let (mut counts, start) = (Counts::default(), Instant::now());
        let floods = (2..100_000).filter(|&subject| counts.admits(PLACE, [1, subject], start)).count();
        assert_eq!(floods, PLACE_LINES_MAX as usize);
        assert!(counts.subjects.len() <= SUBJECTS_MAX && counts.places.len() == 1);
        let left_out: u64 = counts.take_left_out(start).iter().map(|(_, left_out)| left_out).sum();
        assert_eq!(left_out, 100_000 - 2 - u64::from(PLACE_LINES_MAX));
    }
}
