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
    /// This session has said so, and named all of its metrics.
    pub(super) is_born: bool,
    /// The session takes it at all.
    pub(super) is_carried: bool,
}

/// A metric with its last value.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) name: Arc<str>,
    pub(super) alias: u64,
    pub(super) datatype: DataType,
    unit: Option<Arc<str>>,
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
            is_born: false,
            is_carried: true,
        }
    }

    /// One more metric, which is to be born.
    pub(super) fn add(
        &mut self,
        alias: u64,
        (name, datatype, unit): (&Arc<str>, DataType, Option<Arc<str>>),
    ) -> &mut Held {
        self.is_born = false;
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
        let held = self.by_name.get(name).and_then(|at| self.metrics.get_mut(*at))?;
        if let Some(datatype) = datatype.filter(|datatype| *datatype != held.datatype) {
            self.is_born = false;
            held.datatype = datatype;
            held.value = None;
        }
        Some(held)
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
