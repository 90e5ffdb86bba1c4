//! What a stored message costs: bytes written and time, by the size of a commit; and what a start costs with
//! a million messages waiting. Prints a table; judges nothing. Bytes are those that the process hands to
//! files (`wchar`), the log's and the database's together.

// A bench's whole purpose is its output.
#![allow(clippy::print_stdout)]

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant as StdInstant;

use tidegate::base::time::Clock;
use tidegate::mqtt::message::{Message, Origin};
use tidegate::mqtt::qos::QoS;
use tidegate::mqtt::topic::TopicName;
use tidegate::store::error::StoreError;
use tidegate::store::record::{Entry, Load, Log, Lsn, Record, Seq, SpoolId};
use tidegate::store::recover::{Window, open};
use tidegate::store::schema::{DATABASE_FILE, Sync};
use tidegate::store::writer::{Observer, Writer};

const WINDOW: Window = Window { messages_max: 1000, bytes_max: 1 << 20 };
const RECOVERED_MESSAGES: u64 = 1_000_000;
const SPOOL: SpoolId = SpoolId(1);

struct Ear(Sender<Lsn>);

impl Observer for Ear {
    fn handle_durable(&mut self, lsn: Lsn) {
        let _ = self.0.send(lsn);
    }

    fn handle_loaded(&mut self, _load: Load, _entries: Vec<Entry>) {}

    fn handle_failed(&mut self, error: &StoreError) {
        panic!("{error}");
    }
}

struct Running {
    writer: Writer,
    durable: Receiver<Lsn>,
    log: Log,
    message: Arc<Message>,
    clock: Clock,
}

impl Running {
    fn start(path: &Path, sync: Sync) -> Running {
        let clock = Clock::start();
        let (database, _) = open(path, sync, WINDOW, clock.now()).expect("a store that opens");
        let (sender, durable) = channel();
        let writer = Writer::start(database, Box::new(Ear(sender))).expect("a thread");
        let topic = TopicName::new("plant/line-4/meter-17/voltage1").expect("a valid topic");
        let origin = Origin::Client("meter-17".into());
        let message = Message::new(topic, vec![b'x'; 100], QoS::AtLeastOnce, origin, clock.now());
        Running { writer, durable, log: Log::default(), message: Arc::new(message), clock }
    }

    fn put(&self, seq: u64) -> Record {
        // Each its own, as publications are.
        let message = Message { arrived: self.clock.now(), ..Message::clone(&self.message) };
        let entry = Entry {
            seq: Seq(seq),
            qos: QoS::AtLeastOnce,
            retain: false,
            rule: 0,
            subscription_identifiers: Box::default(),
            message: Arc::new(message),
        };
        Record::EntryPut { spool: SPOOL, entry }
    }

    fn drop_of(seq: u64) -> Record {
        Record::EntryDrop { spool: SPOOL, seq: Seq(seq), rule: 0 }
    }

    /// One visit, waited for: one commit.
    fn commit(&mut self, records: impl Iterator<Item = Record>) {
        for record in records {
            self.log.push(record);
        }
        let last = self.log.last();
        self.writer.push(self.log.take(), last);
        while self.durable.recv().expect("the writer lives") < last {}
    }
}

fn status(file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
    line.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

fn written_bytes() -> u64 {
    status("io", "wchar:")
}

/// What one message cost in a stretch of work, as `bytes` and microseconds.
fn measure(messages: u64, work: impl FnOnce()) -> String {
    let (bytes, start) = (written_bytes(), StdInstant::now());
    work();
    let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    format!("{:>7} B {:>6} µs", (written_bytes() - bytes) / messages, micros / messages)
}

fn print_costs(sync: Sync) {
    println!("{sync:?}: a message of 100 bytes under a topic of 30, by messages a commit");
    println!("{:>6}  {:>18}  {:>18}  {:>18}", "commit", "put", "drop", "put and drop");
    for batch in [1, 10, 100, 1000] {
        let dir = tempfile::tempdir().expect("a directory");
        let messages = (batch * 300).clamp(1000, 20_000);
        let mut running = Running::start(dir.path(), sync);
        let rounds = messages / batch;
        let put = measure(messages, || {
            for round in 0..rounds {
                let puts: Vec<_> = (1..=batch).map(|n| running.put(round * batch + n)).collect();
                running.commit(puts.into_iter());
            }
        });
        let drop = measure(messages, || {
            for round in 0..rounds {
                running.commit((1..=batch).map(|n| Running::drop_of(round * batch + n)));
            }
        });
        // A short queue in balance: each commit puts one batch and drops the one before.
        let both = measure(messages, || {
            for round in rounds..rounds * 2 {
                let puts: Vec<_> = (1..=batch).map(|n| running.put(round * batch + n)).collect();
                let drops = (1..=batch).map(|n| Running::drop_of((round - 1) * batch + n));
                running.commit(puts.into_iter().chain(drops));
            }
            running.writer.stop().expect("a clean stop");
        });
        println!("{batch:>6}  {put:>18}  {drop:>18}  {both:>18}");
    }
}

fn print_recovery() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut running = Running::start(dir.path(), Sync::Off);
    let batch = 1000;
    for round in 0..RECOVERED_MESSAGES / batch {
        let puts: Vec<_> = (1..=batch).map(|n| running.put(round * batch + n)).collect();
        running.commit(puts.into_iter());
    }
    let crashed = tempfile::tempdir().expect("a directory");
    for name in [DATABASE_FILE.to_owned(), format!("{DATABASE_FILE}-wal")] {
        std::fs::copy(dir.path().join(&name), crashed.path().join(&name)).expect("a file to copy");
    }
    running.writer.stop().expect("a clean stop");
    let size = std::fs::metadata(dir.path().join(DATABASE_FILE)).map_or(0, |file| file.len());
    println!("{RECOVERED_MESSAGES} messages: {} bytes each on disk", size / RECOVERED_MESSAGES);
    for (what, path) in [("a stop", dir.path()), ("a crash", crashed.path())] {
        let rss = status("status", "VmRSS:");
        let start = StdInstant::now();
        let (database, found) =
            open(path, Sync::Off, WINDOW, Clock::start().now()).expect("a store that opens");
        let millis = start.elapsed().as_millis();
        let spool = &found.spools.first().expect("one spool").1;
        assert!(database.set_aside.is_none() && spool.messages == RECOVERED_MESSAGES);
        let grown = status("status", "VmRSS:").saturating_sub(rss);
        println!("recovered after {what} in {millis} ms, {grown} KiB more memory");
    }
}

fn main() {
    print_costs(Sync::Full);
    print_costs(Sync::Off);
    print_recovery();
}
