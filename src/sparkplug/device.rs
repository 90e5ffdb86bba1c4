//! One device of an edge node: its metrics with their last values, whether it answers, and whether the session has named
//! all of it. Makes no message.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::time::Now;
use crate::sparkplug::payload::{DataType, Metric, MetricValue, Quality};

#[derive(Debug)]
pub(super) struct Device {
    pub(super) name: Arc<str>,
    metrics: Vec<Held>,
    by_name: BTreeMap<Arc<str>, usize>,
    /// It answers.
    pub(super) is_alive: bool,
    pub(super) birth: Birth,
    /// The session takes it at all.
    pub(super) is_carried: bool,
}

/// What this session has said of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Birth {
    /// Nothing, or that it died.
    Unborn,
    /// That it is there; but not all of its metrics as they are now.
    Outdated,
    Whole,
}

/// A metric with its last value.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) name: Arc<str>,
    pub(super) alias: u64,
    pub(super) datatype: DataType,
    pub(super) unit: Option<Arc<str>>,
    timestamp: Option<u64>,
    value: Option<MetricValue>,
    quality: Quality,
}

impl Device {
    pub(super) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            metrics: Vec::new(),
            by_name: BTreeMap::new(),
            is_alive: false,
            birth: Birth::Unborn,
            is_carried: true,
        }
    }

    /// One more metric, which is to be born.
    pub(super) fn add(
        &mut self,
        alias: u64,
        (name, datatype, unit): (&Arc<str>, DataType, Option<Arc<str>>),
    ) -> &mut Held {
        self.outdate();
        let at = self.metrics.len();
        self.by_name.insert(Arc::clone(name), at);
        self.metrics.push(Held {
            name: Arc::clone(name),
            alias,
            datatype,
            unit,
            timestamp: None,
            value: None,
            quality: Quality::Stale,
        });
        &mut self.metrics[at]
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// The metric of that name; one that is of another type now is to be born.
    pub(super) fn held_as(&mut self, name: &str, datatype: Option<DataType>) -> Option<&mut Held> {
        let at = *self.by_name.get(name)?;
        if let Some(datatype) = datatype.filter(|datatype| *datatype != self.metrics[at].datatype) {
            self.outdate();
            self.metrics[at].datatype = datatype;
            self.metrics[at].value = None;
        }
        self.metrics.get_mut(at)
    }

    /// No other metrics than these.
    pub(super) fn keep(&mut self, is_kept: impl Fn(&str) -> bool) {
        self.metrics.retain(|held| is_kept(&held.name));
        let names = self.metrics.iter().map(|held| Arc::clone(&held.name));
        self.by_name = names.zip(0..).collect();
        self.outdate();
    }

    /// Its metrics are others now than the session has said.
    fn outdate(&mut self) {
        if self.birth == Birth::Whole {
            self.birth = Birth::Outdated;
        }
    }

    /// The metric that a host names.
    pub(super) fn named(&self, metric: &Metric) -> Option<&Held> {
        match (&metric.name, metric.alias) {
            (Some(name), _) => self.by_name.get(name).and_then(|at| self.metrics.get(*at)),
            (None, Some(alias)) => self.metrics.iter().find(|held| held.alias == alias),
            (None, None) => None,
        }
    }

    /// What another session has learned of the metrics that this one has too.
    pub(super) fn recall(&mut self, known: &Self) {
        self.is_alive = known.is_alive;
        for metric in &known.metrics {
            let held = self.by_name.get(&metric.name).and_then(|at| self.metrics.get_mut(*at));
            if let Some(held) = held.filter(|held| held.datatype == metric.datatype) {
                held.timestamp = metric.timestamp;
                held.value.clone_from(&metric.value);
                held.quality = metric.quality;
            }
        }
    }

    /// All that is known, as a birth says it.
    pub(super) fn birth_metrics(&self, now: Now) -> Vec<Metric> {
        self.metrics.iter().map(|held| held.metric(self.is_alive, now)).collect()
    }
}

impl Held {
    pub(super) fn learn(&mut self, metric: &Metric) {
        self.timestamp = metric.timestamp;
        self.value.clone_from(&metric.value);
        self.quality = metric.quality.unwrap_or(Quality::Good);
    }

    fn metric(&self, is_alive: bool, now: Now) -> Metric {
        let quality = match self.quality {
            Quality::Good if !is_alive => Quality::Stale,
            quality => quality,
        };
        Metric {
            name: Some(Arc::clone(&self.name)),
            alias: Some(self.alias),
            timestamp: Some(self.timestamp.unwrap_or_else(|| millis(now))),
            datatype: Some(self.datatype),
            is_historical: false,
            value: self.value.clone(),
            quality: Some(quality),
            unit: self.unit.clone(),
        }
    }
}

/// Milliseconds since 1970 by the wall clock.
pub(super) fn millis(now: Now) -> u64 {
    u64::try_from(now.wall.as_millis()).unwrap_or(0)
}
