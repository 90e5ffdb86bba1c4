//! One window of a point's readings, and what came of the last one that ended. Windows begin at multiples of their
//! length by the wall clock; never knows points or topics.

use crate::base::time::{Duration, Instant, Now};
use crate::config::point::{Aggregate, AggregateOf};
use crate::device::compute::tidied;
use crate::device::reading::{BadReason, Quality, Reading};
use crate::device::value::{Value, nearest_float};

#[derive(Debug)]
pub(crate) struct Window {
    settings: Aggregate,
    round: Option<u8>,
    end: Instant,
    gathered: Gathered,
    /// What the last windows came to.
    closed: Option<Reading>,
}

#[derive(Debug, Default)]
struct Gathered {
    good: u64,
    /// Bad readings, and reads that were not answered.
    doubtful: u64,
    sum: f64,
    /// As long as all of them are whole.
    whole_sum: Option<i128>,
    least: Option<Value>,
    most: Option<Value>,
    last: Option<Value>,
    error: Option<BadReason>,
}

impl Window {
    /// The first one is shorter than the others.
    pub(crate) fn new(settings: Aggregate, round: Option<u8>, now: Now) -> Self {
        Self { settings, round, end: end_of(settings, now), gathered: Gathered::default(), closed: None }
    }

    pub(crate) fn end(&self) -> Instant {
        self.end
    }

    pub(crate) fn closed(&self) -> Option<&Reading> {
        self.closed.as_ref()
    }

    pub(crate) fn handle_reading(&mut self, reading: &Reading) {
        let gathered = &mut self.gathered;
        match &reading.value {
            Some(value) if reading.quality == Quality::Good => gathered.add(value),
            _ => {
                gathered.doubtful += 1;
                gathered.error.clone_from(&reading.error);
            }
        }
    }

    /// The device was asked and did not answer.
    pub(crate) fn handle_silence(&mut self) {
        self.gathered.doubtful += 1;
    }

    /// Its time is over. Says whether there is something to be published.
    pub(crate) fn close(&mut self, now: Now) -> bool {
        self.end = end_of(self.settings, now);
        let gathered = std::mem::take(&mut self.gathered);
        if let Some(value) = gathered.value(self.settings.of, self.round) {
            let whole = gathered.doubtful == 0;
            let of = gathered.good + gathered.doubtful;
            self.closed = Some(Reading {
                value: Some(value),
                quality: if whole { Quality::Good } else { Quality::Stale },
                error: (!whole).then_some(BadReason::Missing { readings: gathered.doubtful, of }),
                at: now,
            });
            return true;
        }
        match (gathered.error, &mut self.closed) {
            (Some(error), _) => {
                self.closed = Some(Reading::bad(error, now));
                true
            }
            (None, Some(reading)) if gathered.doubtful > 0 && reading.quality == Quality::Good => {
                reading.quality = Quality::Stale;
                true
            }
            // Nothing was due, or it was said.
            (None, _) => false,
        }
    }
}

impl Gathered {
    fn add(&mut self, value: &Value) {
        let is_first = self.good == 0;
        self.good += 1;
        self.last = Some(value.clone());
        let Some(number) = value.as_number() else { return };
        self.sum += number;
        let so_far = if is_first { Some(0) } else { self.whole_sum };
        self.whole_sum =
            so_far.zip(value.as_integer()).and_then(|(sum, integer): (i128, i128)| sum.checked_add(integer));
        let is_beyond = |known: &Option<Value>, beyond: fn(f64, f64) -> bool| {
            known.as_ref().and_then(Value::as_number).is_none_or(|known| beyond(number, known))
        };
        if is_beyond(&self.least, |a, b| a < b) {
            self.least = Some(value.clone());
        }
        if is_beyond(&self.most, |a, b| a > b) {
            self.most = Some(value.clone());
        }
    }

    /// None: there was no good reading, or they add up to nothing finite.
    fn value(&self, of: AggregateOf, round: Option<u8>) -> Option<Value> {
        let finite = |number: f64| number.is_finite().then(|| tidied(Value::Float(number), round));
        match of {
            _ if self.good == 0 => None,
            AggregateOf::Min => self.least.clone(),
            AggregateOf::Max => self.most.clone(),
            AggregateOf::Last => self.last.clone(),
            AggregateOf::Mean => {
                let sum = self.whole_sum.map_or(self.sum, nearest_float);
                finite(sum / nearest_float(i128::from(self.good)))
            }
            AggregateOf::Sum => match self.whole_sum {
                Some(sum) => i64::try_from(sum).map_or_else(
                    |_| finite(nearest_float(sum)),
                    |sum| Some(u64::try_from(sum).map_or(Value::Signed(sum), Value::Unsigned)),
                ),
                None => finite(self.sum),
            },
        }
    }
}

/// The next multiple of the window's length by the wall clock.
fn end_of(settings: Aggregate, now: Now) -> Instant {
    let every = settings.every;
    let millis = i128::try_from(every.as_millis()).unwrap_or(i128::MAX).max(1);
    let into = i128::from(now.wall.as_millis()).rem_euclid(millis);
    let left = u64::try_from(millis - into).unwrap_or(u64::MAX);
    now.instant + Duration::from_millis(left)
}
