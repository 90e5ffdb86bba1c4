//! What a point says now and what was published of it: quality, dead band, heartbeat. Never knows registers.

use std::fmt;
use std::sync::Arc;

use crate::base::time::{Duration, Instant, Now};
use crate::config::model::When;
use crate::config::point::Deadband;
use crate::device::compute::ComputeError;
use crate::device::map::ValueError;
use crate::device::request::Exception;
use crate::device::serial::field::FieldError;
use crate::device::value::Value;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quality {
    Good,
    /// The last value known: the device does not answer.
    Stale,
    /// The device answered, but with nothing that is a value.
    Bad,
}

impl Quality {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Stale => "stale",
            Self::Bad => "bad",
        }
    }
}

/// Why a reading is bad, or not wholly good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadReason {
    Exception(Exception),
    Value(ValueError),
    /// The point of this name, from which it is computed, is bad.
    Input(Arc<str>),
    Compute(ComputeError),
    /// So many of a window's readings were bad or not answered: its value is that of the others.
    Missing {
        readings: u64,
        of: u64,
    },
    Field(FieldError),
    /// The unit has no `SunSpec` map.
    NoSunspec,
}

impl fmt::Display for BadReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exception(exception) => exception.fmt(f),
            Self::Value(error) => error.fmt(f),
            Self::Input(point) => write!(f, "{point} is bad"),
            Self::Compute(error) => error.fmt(f),
            Self::Missing { readings, of } => write!(f, "{readings} of {of} readings are missing"),
            Self::Field(error) => error.fmt(f),
            Self::NoSunspec => f.write_str("no SunSpec map at 40000, 50000 or 0"),
        }
    }
}

/// What a point said last.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// None where the quality is bad.
    pub value: Option<Value>,
    pub quality: Quality,
    /// Why it is bad, or what its window lacks.
    pub error: Option<BadReason>,
    /// When the device answered.
    pub at: Now,
}

impl Reading {
    pub fn good(value: Value, at: Now) -> Self {
        Self { value: Some(value), quality: Quality::Good, error: None, at }
    }

    pub fn bad(error: BadReason, at: Now) -> Self {
        Self { value: None, quality: Quality::Bad, error: Some(error), at }
    }
}

/// When a reading is worth a message.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    pub when: When,
    pub deadband: Option<Deadband>,
    pub heartbeat: Option<Duration>,
    /// How often the point is read: a heartbeat that falls due between two polls is sent with the nearer one.
    pub poll: Duration,
}

/// A point's reading and what the world last heard of it.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    last: Option<Reading>,
    published: Option<(Reading, Instant)>,
}

impl Memory {
    pub fn last(&self) -> Option<&Reading> {
        self.last.as_ref()
    }

    /// Takes a reading and says whether it is to be published.
    pub fn apply_reading(&mut self, reading: Reading, rule: &Rule, now: Instant) -> bool {
        let is_news = self.is_news(&reading, rule, now);
        self.last = Some(reading);
        is_news
    }

    /// The device fell silent. Says whether there is a value that is to be published as stale.
    pub fn apply_silence(&mut self) -> bool {
        match &mut self.last {
            Some(reading) if reading.quality == Quality::Good => {
                reading.quality = Quality::Stale;
                true
            }
            _ => false,
        }
    }

    /// The last reading was published.
    pub fn handle_published(&mut self, now: Instant) {
        self.published = self.last.clone().map(|reading| (reading, now));
    }

    fn is_news(&self, reading: &Reading, rule: &Rule, now: Instant) -> bool {
        let Some((published, at)) = &self.published else { return true };
        if rule.when == When::Poll {
            return true;
        }
        let is_due = rule.heartbeat.is_some_and(|every| now.since(*at) + rule.poll / 2 >= every);
        is_due || is_change(published, reading, rule.deadband)
    }
}

fn is_change(old: &Reading, new: &Reading, deadband: Option<Deadband>) -> bool {
    if old.quality != new.quality || old.error != new.error {
        return true;
    }
    match (&old.value, &new.value) {
        (Some(old), Some(new)) => new.differs(old, deadband),
        (old, new) => old != new,
    }
}

#[cfg(test)]
mod tests {
    use super::{BadReason, Memory, Quality, Reading, Rule};
    use crate::base::time::{Duration, Instant, Now};
    use crate::config::model::When;
    use crate::config::point::Deadband;
    use crate::device::request::Exception;
    use crate::device::value::Value;

    const CHANGE: Rule = Rule {
        when: When::Change,
        deadband: Some(Deadband::Absolute(0.5)),
        heartbeat: None,
        poll: Duration::from_secs(1),
    };

    fn good(value: f64) -> Reading {
        Reading::good(Value::Float(value), Now::default())
    }

    fn bad(code: u8) -> Reading {
        Reading::bad(BadReason::Exception(Exception(code)), Now::default())
    }

    fn at(millis: u64) -> Instant {
        Instant::ORIGIN + Duration::from_millis(millis)
    }

    /// Reads once a second; says at which seconds something was published.
    fn published(rule: &Rule, readings: &[Reading]) -> Vec<usize> {
        let mut memory = Memory::default();
        let mut seconds = Vec::new();
        for (second, reading) in readings.iter().enumerate() {
            let now = at(second as u64 * 1000);
            if memory.apply_reading(reading.clone(), rule, now) {
                memory.handle_published(now);
                seconds.push(second);
            }
        }
        seconds
    }

    #[test]
    fn news_are_the_first_reading_changes_and_heartbeats() {
        let drift: Vec<Reading> = (0..8).map(|step| good(f64::from(step) * 0.2)).collect();
        let still = vec![good(1.0); 8];
        let heartbeat = Rule { heartbeat: Some(Duration::from_secs(3)), ..CHANGE };
        let always = Rule { when: When::Poll, ..CHANGE };
        let cases = [
            // The dead band is held against what was published: a slow drift is not lost.
            (CHANGE, drift, vec![0, 3, 6]),
            (CHANGE, still.clone(), vec![0]),
            (heartbeat, still.clone(), vec![0, 3, 6]),
            (always, still, (0..8).collect()),
            (CHANGE, vec![good(1.0), bad(2), bad(2), bad(4), good(1.0), good(1.0)], vec![0, 1, 3, 4]),
        ];
        for (rule, readings, expected) in cases {
            assert_eq!(published(&rule, &readings), expected, "{rule:?}");
        }
    }

    #[test]
    fn a_heartbeat_survives_polls_that_come_a_moment_early() {
        let rule = Rule { heartbeat: Some(Duration::from_secs(3)), ..CHANGE };
        let mut memory = Memory::default();
        assert!(memory.apply_reading(good(1.0), &rule, at(7)));
        memory.handle_published(at(7));
        assert!(!memory.apply_reading(good(1.0), &rule, at(2_002)));
        assert!(memory.apply_reading(good(1.0), &rule, at(3_002)));
    }

    #[test]
    fn silence_makes_a_good_value_stale_once() {
        let mut memory = Memory::default();
        assert!(!memory.apply_silence());
        memory.apply_reading(good(1.0), &CHANGE, at(0));
        memory.handle_published(at(0));
        assert!(memory.apply_silence());
        memory.handle_published(at(1));
        assert!(!memory.apply_silence());
        assert_eq!(memory.last().map(|reading| reading.quality), Some(Quality::Stale));
        assert_eq!(memory.last().and_then(|reading| reading.value.clone()), Some(Value::Float(1.0)));
        // Back with the same value: the quality alone is news.
        assert!(memory.apply_reading(good(1.0), &CHANGE, at(2)));
        let mut memory = Memory::default();
        memory.apply_reading(bad(2), &CHANGE, at(0));
        assert!(!memory.apply_silence());
    }
}
