//! Log lines as they are written, for whoever watches the gateway, and the last of them for whoever comes later. Filters
//! by level alone.

use std::collections::VecDeque;
use std::fmt::{Debug, Write};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::broadcast;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_log::NormalizeEvent;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Lines that a watcher may be behind before it misses some.
const LINES_MAX: usize = 64;
/// What is longer is cut: a line is for a person's eyes.
const LINE_BYTES_MAX: usize = 1024;

/// Lines that are kept for those who come later.
pub const KEPT_LINES_MAX: usize = 200;

/// One for the process, as the log itself.
static KEPT: Mutex<VecDeque<Kept>> = Mutex::new(VecDeque::new());
/// One for the process, as the log itself.
static LINES: LazyLock<broadcast::Sender<Line>> = LazyLock::new(|| broadcast::Sender::new(LINES_MAX));

/// A line of the log: its message and its fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// INFO or worse.
    pub level: Level,
    pub text: String,
}

/// A line and when it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Since 1970, by the clock of that moment.
    pub millis: i64,
    pub line: Line,
}

/// What was logged last, oldest first.
pub fn last() -> Vec<Kept> {
    kept().iter().cloned().collect()
}

fn kept() -> MutexGuard<'static, VecDeque<Kept>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

fn keep(line: Line) {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let millis = i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX);
    let mut kept = kept();
    if kept.len() >= KEPT_LINES_MAX {
        kept.pop_front();
    }
    kept.push_back(Kept { millis, line });
}

/// What is logged from now on.
pub fn watch() -> broadcast::Receiver<Line> {
    LINES.subscribe()
}

/// A layer of tracing that keeps the last lines and tells watchers.
#[derive(Debug, Default)]
pub struct TailLayer;

impl<S: Subscriber> Layer<S> for TailLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let normalized = event.normalized_metadata();
        let level = *normalized.as_ref().unwrap_or_else(|| event.metadata()).level();
        if level > Level::INFO {
            return;
        }
        let mut text = Text::default();
        event.record(&mut text);
        let line = Line { level, text: text.line() };
        if LINES.receiver_count() > 0 {
            // Fails only where the last watcher has just gone.
            let _ = LINES.send(line.clone());
        }
        keep(line);
    }
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Text {
    fn line(self) -> String {
        let mut line = self.message + &self.fields;
        let end = (0..=LINE_BYTES_MAX.min(line.len())).rev().find(|&end| line.is_char_boundary(end));
        line.truncate(end.unwrap_or(0));
        line
    }
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a String fails only where the value's own Debug does; then what it wrote stands.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            // What tracing-log packs of a `log` record; the normalised metadata holds it.
            name if name.starts_with("log.") => Ok(()),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;
    use tracing_subscriber::layer::SubscriberExt;

    use super::{KEPT_LINES_MAX, LINE_BYTES_MAX, Line, TailLayer, last, watch};

    /// Other tests may log beside this one, so only its own lines count.
    #[test]
    fn the_last_lines_are_kept() {
        let subscriber = tracing_subscriber::registry().with(TailLayer);
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..=KEPT_LINES_MAX {
                tracing::warn!(number, "kept");
            }
        });
        let kept = last();
        assert_eq!(kept.len(), KEPT_LINES_MAX);
        let has = |number: usize| {
            kept.iter().any(|kept| kept.line.text == format!("kept number={number}") && kept.millis > 0)
        };
        assert!(has(KEPT_LINES_MAX) && !has(0));
    }

    #[test]
    fn who_watches_gets_lines_with_their_fields() {
        let subscriber = tracing_subscriber::registry().with(TailLayer);
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!("nobody hears this");
            let mut lines = watch();
            tracing::info!(bridge = "cloud", retry_in_ms = 698, reason = %"refused", "link is down");
            tracing::debug!("not for people");
            tracing::error!("{}", "ä".repeat(LINE_BYTES_MAX));
            let text = "link is down bridge=cloud retry_in_ms=698 reason=refused".to_owned();
            assert_eq!(lines.try_recv(), Ok(Line { level: Level::INFO, text }));
            let long = lines.try_recv().expect("a line");
            assert_eq!((long.level, long.text.len()), (Level::ERROR, LINE_BYTES_MAX));
            assert!(lines.try_recv().is_err());
        });
    }
}
