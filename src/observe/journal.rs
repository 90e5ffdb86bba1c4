//! Log lines for the systemd journal, with their fields. A thread of its own sends them, so that a journal that
//! blocks never blocks the gateway: what it does not take in time is dropped and counted. Filters nothing.

use std::fmt::{Debug, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use log::kv::{Error, Key, Source, Value, VisitSource};
use systemd_journal_logger::JournalLog;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_log::NormalizeEvent;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// Lines that wait for the journal; a burst longer than this loses its end.
const QUEUED_LINES_MAX: usize = 4096;
/// Of one message or field: a hostile payload in a line stays a line.
const TEXT_BYTES_MAX: usize = 8 * 1024;
/// How long the end of the process waits for the journal.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// Before each field's name: a field `priority` must not become the journal's PRIORITY.
const FIELD_PREFIX: &str = "TIDEGATE_";

/// A log line on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    level: log::Level,
    target: String,
    module: Option<String>,
    file: Option<String>,
    number: Option<u32>,
    message: String,
    /// With the names that the journal sees.
    fields: Vec<(String, String)>,
}

enum Parcel {
    Line(Box<Line>),
    Flush(SyncSender<()>),
}

/// Hands lines to the thread that sends them.
#[derive(Clone)]
pub struct Courier {
    parcels: SyncSender<Parcel>,
    dropped: Arc<AtomicU64>,
}

impl Debug for Courier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Courier").field("dropped", &self.dropped_lines()).finish_non_exhaustive()
    }
}

impl Courier {
    fn new() -> (Self, Receiver<Parcel>) {
        let (parcels, received) = sync_channel(QUEUED_LINES_MAX);
        (Self { parcels, dropped: Arc::default() }, received)
    }

    /// Lines that found the queue full.
    pub fn dropped_lines(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until all that was sent before has reached the journal, for a second at most.
    pub fn flush(&self) {
        let (done, is_done) = sync_channel(1);
        if self.parcels.try_send(Parcel::Flush(done)).is_ok() {
            // The wait's end is all the same: the process is about to end.
            let _ = is_done.recv_timeout(FLUSH_TIMEOUT);
        }
    }

    fn send(&self, line: Line) {
        if self.parcels.try_send(Parcel::Line(Box::new(line))).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A layer of tracing that writes to the journal.
#[derive(Debug)]
pub struct JournalLayer {
    courier: Courier,
}

impl JournalLayer {
    /// Starts the sending thread, which lives as long as the process.
    pub fn start(journal: JournalLog) -> (Self, Courier) {
        let (courier, received) = Courier::new();
        let dropped = Arc::clone(&courier.dropped);
        let thread = std::thread::Builder::new().name("journal".to_owned());
        // Without the thread each line counts as dropped: no log is no reason to stand still.
        let _ = thread.spawn(move || deliver(&journal, &received, &dropped));
        (Self { courier: courier.clone() }, courier)
    }
}

/// Ends when the last sender is gone.
fn deliver(journal: &JournalLog, received: &Receiver<Parcel>, dropped: &AtomicU64) {
    let mut reported = 0;
    for parcel in received {
        match parcel {
            Parcel::Line(line) => {
                if line.hand_to(|record| journal.journal_send(record)).is_err() {
                    dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
            Parcel::Flush(done) => drop(done.try_send(())),
        }
        let total = dropped.load(Ordering::Relaxed);
        if total > reported && dropped_line(total - reported).hand_to(|r| journal.journal_send(r)).is_ok() {
            reported = total;
        }
    }
}

fn dropped_line(count: u64) -> Line {
    Line {
        level: log::Level::Warn,
        target: module_path!().to_owned(),
        module: None,
        file: None,
        number: None,
        message: format!("{count} log lines were dropped: the journal did not take them in time"),
        fields: vec![(format!("{FIELD_PREFIX}DROPPED_LINES"), count.to_string())],
    }
}

impl Line {
    /// The record that systemd-journal-logger takes; it borrows from the line.
    fn hand_to<T>(&self, take: impl FnOnce(&log::Record<'_>) -> T) -> T {
        take(
            &log::Record::builder()
                .level(self.level)
                .target(&self.target)
                .module_path(self.module.as_deref())
                .file(self.file.as_deref())
                .line(self.number)
                .key_values(&Pairs(&self.fields))
                .args(format_args!("{}", self.message))
                .build(),
        )
    }
}

struct Pairs<'a>(&'a [(String, String)]);

impl Source for Pairs<'_> {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), Error> {
        self.0
            .iter()
            .try_for_each(|(key, value)| visitor.visit_pair(Key::from_str(key), Value::from(value.as_str())))
    }
}

/// The fields of a span or an event as text.
#[derive(Default)]
struct Fields {
    message: String,
    pairs: Vec<(String, String)>,
}

impl Fields {
    fn text_for(&mut self, field: &Field) -> Option<&mut String> {
        match field.name() {
            "message" => Some(&mut self.message),
            // What tracing-log packs of a `log` record; the normalised metadata holds it.
            name if name.starts_with("log.") => None,
            name => {
                let key = journal_key(name);
                let at = self.pairs.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
                    self.pairs.push((key, String::new()));
                    self.pairs.len() - 1
                });
                self.pairs.get_mut(at).map(|(_, value)| value)
            }
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let Some(text) = self.text_for(field) else { return };
        text.clear();
        // Writing to a String fails only where the value's own Debug does; then what it wrote stands.
        let _ = write!(text, "{value:?}");
        text.truncate(cut(text).len());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let Some(text) = self.text_for(field) else { return };
        text.clear();
        text.push_str(cut(value));
    }
}

/// The longest beginning within the bound that ends between two characters.
fn cut(text: &str) -> &str {
    if text.len() <= TEXT_BYTES_MAX {
        return text;
    }
    let fits = |(at, c): (usize, char)| at + c.len_utf8() <= TEXT_BYTES_MAX;
    let end =
        text.char_indices().take_while(|&start| fits(start)).last().map_or(0, |(at, c)| at + c.len_utf8());
    text.get(..end).unwrap_or_default()
}

/// `device` to `TIDEGATE_DEVICE`: the journal knows capitals, digits and underscores.
fn journal_key(name: &str) -> String {
    let letters = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    FIELD_PREFIX.chars().chain(letters).collect()
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for JournalLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        // Outer spans first: the journal keeps all values of a field, and the innermost comes last.
        for span in
            context.event_scope(event).into_iter().flat_map(tracing_subscriber::registry::Scope::from_root)
        {
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.pairs.extend(outer.pairs.iter().cloned());
            }
        }
        event.record(&mut fields);
        let normalized = event.normalized_metadata();
        let metadata = normalized.as_ref().unwrap_or_else(|| event.metadata());
        self.courier.send(Line {
            level: log_level(*metadata.level()),
            target: metadata.target().to_owned(),
            module: metadata.module_path().map(str::to_owned),
            file: metadata.file().map(str::to_owned),
            number: metadata.line(),
            message: fields.message,
            fields: fields.pairs,
        });
    }
}

fn log_level(level: Level) -> log::Level {
    match level {
        Level::ERROR => log::Level::Error,
        Level::WARN => log::Level::Warn,
        Level::INFO => log::Level::Info,
        Level::DEBUG => log::Level::Debug,
        Level::TRACE => log::Level::Trace,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::path::Path;

    use systemd_journal_logger::JournalLog;
    use tracing_subscriber::layer::SubscriberExt;

    use super::{
        Courier, FIELD_PREFIX, FLUSH_TIMEOUT, JournalLayer, Line, Parcel, QUEUED_LINES_MAX, TEXT_BYTES_MAX,
    };

    /// The lines that `speak` logs, as they would be sent.
    fn lines_of(speak: impl FnOnce()) -> Vec<Line> {
        let (courier, received) = Courier::new();
        let layer = JournalLayer { courier };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), speak);
        let line = |parcel| match parcel {
            Parcel::Line(line) => Some(*line),
            Parcel::Flush(_) => None,
        };
        received.try_iter().filter_map(line).collect()
    }

    fn field<'a>(line: &'a Line, name: &str) -> Vec<&'a str> {
        let key = format!("{FIELD_PREFIX}{name}");
        line.fields.iter().filter(|(known, _)| *known == key).map(|(_, value)| value.as_str()).collect()
    }

    #[test]
    fn events_carry_their_own_fields_and_those_of_their_spans() {
        let lines = lines_of(|| {
            let span = tracing::info_span!("poll", device = "boiler", unit = tracing::field::Empty);
            let _entered = span.enter();
            span.record("unit", 7);
            tracing::warn!(client = "c1", priority = 0, "slow for {} ms", 7);
        });
        let [line] = lines.as_slice() else { panic!("one line, not {lines:?}") };
        assert_eq!((line.level, line.message.as_str()), (log::Level::Warn, "slow for 7 ms"));
        assert_eq!(line.target, "tidegate::observe::journal::tests");
        assert_eq!((field(line, "DEVICE"), field(line, "UNIT")), (vec!["boiler"], vec!["7"]));
        assert_eq!((field(line, "CLIENT"), field(line, "PRIORITY")), (vec!["c1"], vec!["0"]));
        assert!(
            line.file.as_deref().is_some_and(|file| file.ends_with("journal.rs")) && line.number.is_some()
        );
    }

    #[test]
    fn names_and_long_texts_are_made_fit() {
        let long = "é".repeat(TEXT_BYTES_MAX);
        let lines = lines_of(|| tracing::info!("bridge.name" = "cloud", payload = long.as_str(), "{long}"));
        assert_eq!(field(&lines[0], "BRIDGE_NAME"), ["cloud"]);
        assert_eq!(
            (field(&lines[0], "PAYLOAD")[0].len(), lines[0].message.len()),
            (TEXT_BYTES_MAX, TEXT_BYTES_MAX)
        );
    }

    #[test]
    fn a_journal_that_blocks_costs_lines_and_never_time() {
        let (courier, received) = Courier::new();
        let layer = JournalLayer { courier: courier.clone() };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            (0..QUEUED_LINES_MAX + 3).for_each(|n| tracing::info!(n, "line"));
        });
        assert_eq!((courier.dropped_lines(), received.try_iter().count()), (3, QUEUED_LINES_MAX));
    }

    /// Plays the journal at its fixed path: only root can, and only where no journal is.
    #[test]
    fn the_journal_receives_fields() {
        const SOCKET: &str = "/run/systemd/journal/socket";
        if Path::new(SOCKET).exists() {
            return eprintln!("not run: {SOCKET} belongs to a journal");
        }
        let folder_made = std::fs::create_dir_all("/run/systemd/journal");
        let socket = match folder_made.and_then(|()| UnixDatagram::bind(SOCKET)) {
            Ok(socket) => socket,
            Err(error) => return eprintln!("not run: {SOCKET} cannot be made here: {error}"),
        };
        socket.set_read_timeout(Some(FLUSH_TIMEOUT)).expect("a time-out");
        let journal = JournalLog::new();
        let received = journal.map(|journal| {
            let (layer, courier) = JournalLayer::start(journal.with_syslog_identifier("tidegate".to_owned()));
            tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
                tracing::error!(device = "boiler", "gone");
            });
            courier.flush();
            let mut datagram = vec![0; 4096];
            // The first is the empty one that asks whether a journal listens.
            let lengths = [socket.recv(&mut datagram).ok(), socket.recv(&mut datagram).ok()];
            datagram.truncate(lengths[1].unwrap_or(0));
            datagram
        });
        std::fs::remove_file(SOCKET).expect("our own socket");
        let received = received.expect("a journal that listens");
        let text = String::from_utf8_lossy(&received);
        assert!(text.contains("PRIORITY=3\n") && text.contains("SYSLOG_IDENTIFIER=tidegate\n"), "{text}");
        let device = [b"TIDEGATE_DEVICE\n".as_slice(), &6_u64.to_le_bytes(), b"boiler\n"].concat();
        assert!(received.windows(device.len()).any(|window| window == device), "{text}");
    }
}
