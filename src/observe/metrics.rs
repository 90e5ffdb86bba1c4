//! Counters and gauges, and their OpenMetrics text. Knows no domain type: whoever counts names what it counts.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Label sets of one name. What would be more is counted nowhere but in `metrics_refused`: a label that a client
/// chooses must not grow the gateway.
pub const SERIES_PER_NAME_MAX: usize = 1024;
/// Before each name.
const PREFIX: &str = "tidegate_";
/// The HTTP content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Only goes up. Cheap to clone; clones count together.
#[derive(Debug, Clone, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Goes up and down, in base units (bytes, seconds). Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Gauge(Arc<AtomicU64>);

impl Gauge {
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }

    pub fn value(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
}

#[derive(Debug)]
struct Family {
    kind: Kind,
    help: &'static str,
    /// By the labels as they are printed; a gauge's bits are those of an f64.
    series: BTreeMap<String, Arc<AtomicU64>>,
}

/// All that is counted, by name.
#[derive(Debug, Default)]
pub struct Metrics {
    families: Mutex<BTreeMap<&'static str, Family>>,
    refused: Counter,
}

/// Names and values, like `("device", "boiler")`.
pub type Labels<'a> = &'a [(&'static str, &'a str)];

impl Metrics {
    /// The counter `tidegate_NAME_total`; the same for the same labels, however often it is asked for.
    pub fn counter(&self, name: &'static str, help: &'static str, labels: Labels<'_>) -> Counter {
        Counter(self.series(Kind::Counter, name, help, labels))
    }

    /// The gauge `tidegate_NAME`; the same for the same labels.
    pub fn gauge(&self, name: &'static str, help: &'static str, labels: Labels<'_>) -> Gauge {
        Gauge(self.series(Kind::Gauge, name, help, labels))
    }

    /// Forgets a series whose device, bridge or client is gone.
    pub fn release_series(&self, name: &'static str, labels: Labels<'_>) {
        let mut families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(family) = families.get_mut(name) {
            family.series.remove(&label_text(labels));
        }
    }

    fn series(
        &self,
        kind: Kind,
        name: &'static str,
        help: &'static str,
        labels: Labels<'_>,
    ) -> Arc<AtomicU64> {
        let mut families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        let family = families.entry(name).or_insert_with(|| Family { kind, help, series: BTreeMap::new() });
        let text = label_text(labels);
        let is_new = !family.series.contains_key(&text);
        if family.kind != kind || (is_new && family.series.len() >= SERIES_PER_NAME_MAX) {
            self.refused.add(1);
            return Arc::default();
        }
        Arc::clone(family.series.entry(text).or_default())
    }

    /// OpenMetrics text, in order of names and labels.
    pub fn render(&self) -> String {
        let families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = String::new();
        for (name, family) in &*families {
            render_family(&mut out, name, family);
        }
        let refused = Family {
            kind: Kind::Counter,
            help: "Series that found no room",
            series: BTreeMap::from([(String::new(), Arc::clone(&self.refused.0))]),
        };
        render_family(&mut out, "metrics_refused", &refused);
        out.push_str("# EOF\n");
        out
    }
}

fn render_family(out: &mut String, name: &str, family: &Family) {
    let (kind, suffix) = match family.kind {
        Kind::Counter => ("counter", "_total"),
        Kind::Gauge => ("gauge", ""),
    };
    // Writing to a String cannot fail.
    let _ = writeln!(out, "# HELP {PREFIX}{name} {}\n# TYPE {PREFIX}{name} {kind}", escape(family.help));
    for (labels, cell) in &family.series {
        let bits = cell.load(Ordering::Relaxed);
        let _ = match family.kind {
            Kind::Counter => writeln!(out, "{PREFIX}{name}{suffix}{labels} {bits}"),
            Kind::Gauge => writeln!(out, "{PREFIX}{name}{suffix}{labels} {}", f64::from_bits(bits)),
        };
    }
}

fn label_text(labels: Labels<'_>) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let pairs: Vec<String> =
        labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
    format!("{{{}}}", pairs.join(","))
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::{Metrics, SERIES_PER_NAME_MAX};

    #[test]
    fn the_text_is_openmetrics() {
        let metrics = Metrics::default();
        let polls = metrics.counter("polls", "Requests to devices", &[("device", "a\"b\\c\nd")]);
        polls.add(2);
        metrics.counter("polls", "Requests to devices", &[("device", "a\"b\\c\nd")]).add(1);
        metrics.gauge("buffer_bytes", "What waits", &[("bridge", "cloud"), ("rule", "1")]).set(1.5);
        metrics.gauge("buffer_bytes", "What waits", &[]).set(2.0);
        let expected = r#"# HELP tidegate_buffer_bytes What waits
# TYPE tidegate_buffer_bytes gauge
tidegate_buffer_bytes 2
tidegate_buffer_bytes{bridge="cloud",rule="1"} 1.5
# HELP tidegate_polls Requests to devices
# TYPE tidegate_polls counter
tidegate_polls_total{device="a\"b\\c\nd"} 3
# HELP tidegate_metrics_refused Series that found no room
# TYPE tidegate_metrics_refused counter
tidegate_metrics_refused_total 0
# EOF
"#;
        assert_eq!(metrics.render(), expected);
        assert_eq!(polls.count(), 3);
    }

    #[test]
    fn series_are_bounded_and_released() {
        let metrics = Metrics::default();
        for n in 0..SERIES_PER_NAME_MAX {
            metrics.counter("messages", "x", &[("client", &n.to_string())]).add(1);
        }
        metrics.counter("messages", "x", &[("client", "one more")]).add(1);
        metrics.gauge("messages", "x", &[]).set(1.0);
        let text = metrics.render();
        assert!(!text.contains("one more") && text.contains("tidegate_metrics_refused_total 2\n"));
        metrics.release_series("messages", &[("client", "0")]);
        metrics.counter("messages", "x", &[("client", "one more")]).add(1);
        let text = metrics.render();
        assert!(text.contains("{client=\"one more\"} 1\n") && !text.contains("{client=\"0\"}"));
    }
}
