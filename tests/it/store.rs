//! The store on a real disk: what was reported safe is there again, after a stop, a crash, a full disk and
//! damage.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tempfile::TempDir;

use tidegate::base::time::{Instant, Now, Timestamp};
use tidegate::mqtt::message::{Message, MessageProperties, Origin};
use tidegate::mqtt::packet::connect::Will;
use tidegate::mqtt::packet::subscribe::{RetainHandling, SubscriptionOptions};
use tidegate::mqtt::qos::{PacketId, QoS};
use tidegate::mqtt::topic::{TopicFilter, TopicName};
use tidegate::store::error::StoreError;
use tidegate::store::record::{
    Entry, Load, Log, Lsn, Phase, Record, Recovered, RecoveredSpool, RuleTotals, Seq, SessionRow, SpoolId,
};
use tidegate::store::recover::{Database, Window, open};
use tidegate::store::schema::{DATABASE_FILE, Sync};
use tidegate::store::writer::{Observer, Writer};

const WINDOW: Window = Window { messages_max: 10_000, bytes_max: usize::MAX };
const HEARD_WAIT: Duration = Duration::from_secs(30);

fn messages(messages_max: usize) -> Window {
    Window { messages_max, ..WINDOW }
}

fn now() -> Now {
    Now {
        instant: Instant::ORIGIN + Duration::from_secs(90_000),
        wall: Timestamp::from_millis(1_795_255_200_123),
    }
}

fn topic(text: &str) -> TopicName {
    TopicName::new(text).expect("a valid topic")
}

fn packet_id(id: u16) -> PacketId {
    PacketId::new(id).expect("not zero")
}

fn message(text: &str, payload_bytes: usize) -> Arc<Message> {
    let payload = vec![b'x'; payload_bytes];
    Arc::new(Message::new(topic(text), payload, QoS::AtLeastOnce, Origin::Client("meter".into()), now()))
}

fn entry(seq: u64, message: &Arc<Message>) -> Entry {
    Entry {
        seq: Seq(seq),
        qos: QoS::AtLeastOnce,
        retain: false,
        rule: 0,
        subscription_identifiers: Box::default(),
        message: Arc::clone(message),
    }
}

fn entry_put(spool: u32, seq: u64, message: &Arc<Message>) -> Record {
    Record::EntryPut { spool: SpoolId(spool), entry: entry(seq, message) }
}

fn entry_drop(spool: u32, seq: u64) -> Record {
    Record::EntryDrop { spool: SpoolId(spool), seq: Seq(seq), rule: 0 }
}

#[derive(Default)]
struct Heard {
    durable: Vec<Lsn>,
    loaded: Vec<(Load, Vec<Entry>)>,
    failed: Vec<StoreError>,
    /// While true, the writer's thread waits in `handle_durable`.
    held: bool,
}

#[derive(Clone, Default)]
struct Ear(Arc<(Mutex<Heard>, Condvar)>);

impl Ear {
    fn change<T>(&self, change: impl FnOnce(&mut Heard) -> T) -> T {
        let result = change(&mut self.0.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.1.notify_all();
        result
    }

    fn wait_until(&self, what: &str, heard: impl Fn(&Heard) -> bool) {
        let guard = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_guard, result) = self
            .0
            .1
            .wait_timeout_while(guard, HEARD_WAIT, |state| !heard(state))
            .unwrap_or_else(PoisonError::into_inner);
        assert!(!result.timed_out(), "never heard: {what}");
    }

    fn wait_durable(&self, lsn: Lsn) {
        self.wait_until("durable", |heard| heard.durable.last() >= Some(&lsn));
    }
}

impl Observer for Ear {
    fn handle_durable(&mut self, lsn: Lsn) {
        self.change(|heard| heard.durable.push(lsn));
        self.wait_until("release", |heard| !heard.held);
    }

    fn handle_loaded(&mut self, load: Load, entries: Vec<Entry>) {
        self.change(|heard| heard.loaded.push((load, entries)));
    }

    fn handle_failed(&mut self, error: &StoreError) {
        self.change(|heard| heard.failed.push(error.clone()));
    }
}

/// A running store and the log that feeds it.
struct Running {
    writer: Writer,
    ear: Ear,
    log: Log,
}

impl Running {
    fn push(&mut self, records: impl IntoIterator<Item = Record>) -> Lsn {
        for record in records {
            self.log.push(record);
        }
        let last = self.log.last();
        self.writer.push(self.log.take(), last);
        last
    }

    fn push_and_wait(&mut self, records: impl IntoIterator<Item = Record>) {
        let last = self.push(records);
        self.ear.wait_durable(last);
    }

    fn load(&self, load: Load) -> Vec<Entry> {
        let before = self.ear.change(|heard| heard.loaded.len());
        self.writer.load(load);
        self.ear.wait_until("loaded", |heard| heard.loaded.len() > before);
        self.ear.change(|heard| heard.loaded.pop().expect("just heard").1)
    }
}

fn start(database: Database) -> Running {
    let ear = Ear::default();
    let writer = Writer::start(database, Box::new(ear.clone())).expect("a thread");
    Running { writer, ear, log: Log::default() }
}

fn open_at(path: &Path) -> (Database, Recovered) {
    open(path, Sync::Normal, WINDOW, now()).expect("a store that opens")
}

fn run_at(path: &Path) -> Running {
    start(open_at(path).0)
}

fn recover_at(path: &Path) -> Recovered {
    open_at(path).1
}

/// The files as a crash at this moment would leave them.
fn crash_copy(from: &Path) -> TempDir {
    let copy = TempDir::new().expect("a directory");
    for name in [DATABASE_FILE.to_owned(), format!("{DATABASE_FILE}-wal")] {
        std::fs::copy(from.join(&name), copy.path().join(&name)).expect("a file to copy");
    }
    copy
}

fn query(path: &Path, sql: &str) -> i64 {
    let database = rusqlite::Connection::open(path.join(DATABASE_FILE)).expect("a database");
    database.query_row(sql, [], |row| row.get(0)).expect("a row")
}

fn session(spool: u32) -> Record {
    Record::SessionPut(SessionRow {
        spool: SpoolId(spool),
        client_id: format!("client-{spool}").into(),
        expiry_interval: u32::MAX,
        disconnected_at: Some(now()),
    })
}

fn seqs(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.seq.0).collect()
}

fn rich_message() -> Arc<Message> {
    Arc::new(Message {
        retain: true,
        properties: Some(Box::new(MessageProperties {
            payload_format_utf8: Some(true),
            content_type: Some("application/json".into()),
            response_topic: Some(topic("answers")),
            correlation_data: Some(vec![0, 1, 2].into()),
            user_properties: vec![("a".into(), "b".into()), ("a".into(), "b".into())],
        })),
        expiry_interval: Some(Duration::from_secs(60)),
        origin: Origin::Bridge(3),
        ..Message::clone(&message("rich/topic", 5))
    })
}

fn one_of_each() -> Vec<Record> {
    let options = SubscriptionOptions {
        qos: QoS::ExactlyOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::DoNotSend,
    };
    let will = Will {
        topic: topic("gone"),
        payload: b"bye".as_slice().into(),
        qos: QoS::AtLeastOnce,
        retain: true,
        delay_interval: 5,
        expiry_interval: Some(9),
        properties: MessageProperties::default(),
    };
    let spool = SpoolId(1);
    let filter = |text| TopicFilter::new(text).expect("a valid filter");
    vec![
        session(1),
        Record::BufferPut { spool: SpoolId(2), bridge: "cloud".into() },
        Record::SubscriptionPut { spool, filter: filter("b/#"), options, identifier: Some(7) },
        Record::SubscriptionPut { spool, filter: filter("$share/g/a"), options, identifier: None },
        Record::WillPut { spool, will: Arc::new(will) },
        Record::EntryPut {
            spool: SpoolId(2),
            entry: Entry {
                qos: QoS::ExactlyOnce,
                retain: true,
                rule: 4,
                subscription_identifiers: Box::new([1, 268_435_455]),
                ..entry(11, &rich_message())
            },
        },
        Record::InflightPut {
            spool: SpoolId(2),
            packet_id: packet_id(9),
            seq: Seq(12),
            phase: Phase::Released,
        },
        Record::InflightPut {
            spool: SpoolId(2),
            packet_id: packet_id(65_535),
            seq: Seq(11),
            phase: Phase::Published,
        },
        Record::InboundPut { spool, packet_id: packet_id(3) },
        Record::RetainedPut { message: rich_message() },
        Record::BirthPut { spool: SpoolId::LAN, bd_seq: 255 },
        Record::BirthPut { spool: SpoolId(2), bd_seq: 6 },
        Record::BirthPut { spool: SpoolId(2), bd_seq: 7 },
    ]
}

fn removal_of_each() -> Vec<Record> {
    let filter = |text| TopicFilter::new(text).expect("a valid filter");
    vec![
        Record::SubscriptionDrop { spool: SpoolId(1), filter: filter("b/#") },
        Record::SubscriptionDrop { spool: SpoolId(1), filter: filter("$share/g/a") },
        Record::WillDrop { spool: SpoolId(1) },
        Record::InflightDrop { spool: SpoolId(2), packet_id: packet_id(9) },
        Record::InflightDrop { spool: SpoolId(2), packet_id: packet_id(65_535) },
        Record::InboundDrop { spool: SpoolId(1), packet_id: packet_id(3) },
        Record::RetainedDrop { topic: topic("rich/topic") },
        entry_drop(2, 11),
    ]
}

#[test]
fn every_record_survives_a_restart_and_goes_when_it_is_dropped() {
    let dir = TempDir::new().unwrap();
    let mut running = run_at(dir.path());
    running.push(one_of_each());
    running.writer.stop().unwrap();

    let (database, found) = open_at(dir.path());
    assert_eq!(database.set_aside, None);
    assert_eq!(found.sessions.len(), 1);
    assert_eq!(Record::SessionPut(found.sessions[0].clone()), one_of_each()[0]);
    assert_eq!(found.buffers, [(SpoolId(2), "cloud".into())]);
    let filters: Vec<_> = found.subscriptions.iter().map(|row| (row.1.as_str(), row.3)).collect();
    assert_eq!(filters, [("$share/g/a", None), ("b/#", Some(7))]);
    assert_eq!(found.subscriptions[0].2.retain_handling, RetainHandling::DoNotSend);
    let Record::WillPut { will, .. } = &one_of_each()[4] else { panic!("the fifth is the will") };
    assert_eq!(found.wills, [(SpoolId(1), Will::clone(will))]);
    assert_eq!(found.retained, [rich_message()]);
    assert_eq!(found.births.into_iter().collect::<Vec<_>>(), [(SpoolId::LAN, 255), (SpoolId(2), 7)]);
    assert_eq!(found.next_spool, 3);
    assert_eq!(found.spools.len(), 2);
    assert_eq!(found.spools[0].1.inbound, [packet_id(3)]);
    let (_, spool) = &found.spools[1];
    let Record::EntryPut { entry, .. } = &one_of_each()[5] else { panic!("the sixth is the entry") };
    assert_eq!(spool.head, std::slice::from_ref(entry));
    assert_eq!((spool.messages, spool.bytes), (1, entry.message.size_bytes() as u64));
    assert_eq!(spool.last_seq, Seq(12));
    let inflight = [(packet_id(65_535), Seq(11), Phase::Published), (packet_id(9), Seq(12), Phase::Released)];
    assert_eq!(spool.inflight, inflight);

    let mut running = start(database);
    running.push(removal_of_each());
    running.writer.stop().unwrap();
    let (database, found) = open_at(dir.path());
    assert!(found.subscriptions.is_empty() && found.wills.is_empty() && found.retained.is_empty());
    let (_, spool) = &found.spools[1];
    assert!(spool.head.is_empty() && spool.inflight.is_empty());
    // The queue is empty, its numbers are still taken.
    assert_eq!((spool.messages, spool.bytes, spool.last_seq), (0, 0, Seq(11)));

    let mut running = start(database);
    running.push([1, 2].map(|spool| Record::SpoolDrop { spool: SpoolId(spool) }));
    running.writer.stop().unwrap();
    let found = recover_at(dir.path());
    assert!(found.sessions.is_empty() && found.buffers.is_empty() && found.spools.is_empty());
    assert_eq!(found.next_spool, 3, "a spool's number is never given twice");
}

#[test]
fn what_was_reported_durable_survives_a_crash() {
    for sync in [Sync::Full, Sync::Normal, Sync::Off] {
        let dir = TempDir::new().unwrap();
        let mut running = start(open(dir.path(), sync, WINDOW, now()).unwrap().0);
        for seq in 1..=300 {
            running.push([entry_put(1, seq, &message("a/b", 100))]);
            if seq % 50 == 0 {
                let last = running.log.last();
                running.ear.wait_durable(last);
                let copy = crash_copy(dir.path());
                let (database, found) = open_at(copy.path());
                assert_eq!(database.set_aside, None);
                assert_eq!(seqs(&found.spools[0].1.head), (1..=seq).collect::<Vec<_>>());
                assert_eq!(found.spools[0].1.messages, seq);
            }
        }
        // Not waited for: all or a beginning of it may be there, and what was reported must be.
        for seq in 301..=400 {
            running.push([entry_put(1, seq, &message("a/b", 100))]);
        }
        let Running { writer, ear, .. } = running;
        drop(writer);
        let reported = ear.change(|heard| heard.durable.last().copied()).unwrap();
        let found = recover_at(dir.path());
        let count = found.spools[0].1.messages;
        assert!(count >= reported.0, "{count} of {reported:?}");
        assert_eq!(seqs(&found.spools[0].1.head), (1..=count).collect::<Vec<_>>());
    }
}

#[test]
fn what_gathers_during_a_commit_is_committed_together() {
    let dir = TempDir::new().unwrap();
    let mut running = run_at(dir.path());
    running.ear.change(|heard| heard.held = true);
    running.push_and_wait([entry_put(1, 1, &message("a", 10))]);
    for seq in 2..=101 {
        running.push([entry_put(1, seq, &message("a", 10))]);
    }
    assert_eq!(running.writer.depth().records, 100);
    running.ear.change(|heard| heard.held = false);
    running.ear.wait_durable(Lsn(101));
    assert_eq!(running.ear.change(|heard| heard.durable.clone()), [Lsn(1), Lsn(101)]);
    let stats = running.writer.stats();
    assert_eq!((stats.commits, stats.rows, stats.failures), (2, 101, 0));
    assert_eq!(running.writer.depth().records, 0);
    running.writer.stop().unwrap();
}

#[test]
fn a_full_disk_is_told_once_and_costs_nothing_when_it_has_room_again() {
    let dir = TempDir::new().unwrap();
    let mut running = run_at(dir.path());
    running.push_and_wait([entry_put(1, 1, &message("a", 10))]);
    running.writer.limit_pages(Some(60));
    let last = running.push((2..=500).map(|seq| entry_put(1, seq, &message("a", 1000))));
    running.ear.wait_until("a failure", |heard| !heard.failed.is_empty());
    assert_eq!(running.writer.depth().records, 499);
    // A nudge that changes nothing: tried again, not told again.
    running.writer.limit_pages(Some(61));
    let failures = running.writer.stats().failures;
    let more = running.push([entry_put(1, 501, &message("a", 1000))]);
    running.writer.limit_pages(Some(62));
    assert!(running.ear.change(|heard| heard.durable.last() < Some(&last)));
    assert!(failures >= 1);
    running.writer.limit_pages(None);
    running.ear.wait_durable(more);
    assert_eq!(running.ear.change(|heard| heard.failed.clone()), [StoreError::DiskFull]);
    running.writer.stop().unwrap();
    assert_eq!(recover_at(dir.path()).spools[0].1.messages, 501);
}

#[test]
fn a_full_disk_drains_while_a_batch_waits() {
    let dir = TempDir::new().unwrap();
    let mut running = run_at(dir.path());
    running.push_and_wait((1..=100).map(|seq| entry_put(1, seq, &message("a", 3000))));
    running.writer.limit_pages(Some(1));
    running.push((101..=150).map(|seq| entry_put(1, seq, &message("a", 3000))));
    running.ear.wait_until("a failure", |heard| !heard.failed.is_empty());
    let last = running.push((1..=60).map(|seq| entry_drop(1, seq)));
    running.ear.wait_durable(last);
    running.writer.stop().unwrap();
    let found = recover_at(dir.path());
    assert_eq!(seqs(&found.spools[0].1.head), (61..=150).collect::<Vec<_>>());
}

#[test]
fn a_batch_that_is_refused_is_kept_and_goes_through_a_new_connection() {
    let dir = TempDir::new().unwrap();
    let mut running = run_at(dir.path());
    running.push_and_wait([session(1)]);
    let intruder = rusqlite::Connection::open(dir.path().join(DATABASE_FILE)).unwrap();
    intruder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let last = running.push([entry_put(1, 1, &message("a", 10))]);
    running.ear.wait_until("a failure", |heard| !heard.failed.is_empty());
    assert!(matches!(running.ear.change(|heard| heard.failed[0].clone()), StoreError::Sqlite { .. }));
    intruder.execute_batch("ROLLBACK").unwrap();
    running.ear.wait_durable(last);
    running.writer.stop().unwrap();
    assert_eq!(recover_at(dir.path()).spools[0].1.messages, 1);
}

#[test]
fn a_damaged_page_refuses_its_load_and_no_commit() {
    let dir = TempDir::new().unwrap();
    let mut running = run_at(dir.path());
    running.push((1..=2000).map(|seq| entry_put(1, seq, &message("a/b", 100))));
    running.writer.stop().unwrap();
    let path = dir.path().join(DATABASE_FILE);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[40 * 4096..][..4096].fill(0xa5);
    std::fs::write(&path, &bytes).unwrap();
    // The stop was clean and the window small: the start does not meet the damage.
    let (database, _) = open(dir.path(), Sync::Normal, messages(1), now()).unwrap();
    assert_eq!(database.set_aside, None);
    let mut running = start(database);
    running.writer.load(Load { spool: SpoolId(1), after: Seq(0), messages_max: 2000, bytes_max: usize::MAX });
    running.ear.wait_until("a failure", |heard| !heard.failed.is_empty());
    running.push_and_wait([session(2)]);
    assert_eq!(running.ear.change(|heard| heard.failed.clone()), [StoreError::Corrupt]);
    assert!(running.ear.change(|heard| heard.loaded.is_empty()));
    running.writer.stop().unwrap();
    // The next start looks at every page.
    assert!(open_at(dir.path()).0.set_aside.is_some());
}

#[test]
fn a_stop_ends_although_the_disk_is_full() {
    let dir = TempDir::new().unwrap();
    let mut running = run_at(dir.path());
    running.writer.limit_pages(Some(1));
    running.push((1..=50).map(|seq| entry_put(1, seq, &message("a", 3000))));
    assert_eq!(running.writer.stop(), Err(StoreError::DiskFull));
    assert!(recover_at(dir.path()).spools.is_empty());
}

/// The commit that the stop gives up began before it.
#[test]
fn a_stop_tells_that_a_commit_under_way_was_given_up() {
    let dir = TempDir::new().unwrap();
    let mut running = run_at(dir.path());
    running.writer.limit_pages(Some(1));
    running.push((1..=50).map(|seq| entry_put(1, seq, &message("a", 3000))));
    let begun = std::time::Instant::now();
    while running.writer.trouble().is_none() {
        assert!(begun.elapsed() < HEARD_WAIT, "the disk takes it");
        std::thread::yield_now();
    }
    assert_eq!(running.writer.stop(), Err(StoreError::DiskFull));
}

#[test]
fn a_second_gateway_is_refused_and_a_reader_is_not() {
    let dir = TempDir::new().unwrap();
    let mut running = run_at(dir.path());
    running.push_and_wait([session(1)]);
    let refused = open(dir.path(), Sync::Normal, messages(1), now()).err();
    assert_eq!(refused, Some(StoreError::Locked { path: dir.path().to_owned() }));
    assert_eq!(query(dir.path(), "SELECT count(*) FROM session"), 1);
    running.writer.stop().unwrap();
    assert_eq!(recover_at(dir.path()).sessions.len(), 1);
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let dir = TempDir::new().unwrap();
    drop(open_at(dir.path()));
    let database = rusqlite::Connection::open(dir.path().join(DATABASE_FILE)).unwrap();
    database.pragma_update(None, "user_version", 7).unwrap();
    drop(database);
    let before = std::fs::read(dir.path().join(DATABASE_FILE)).unwrap();
    let refused = open(dir.path(), Sync::Normal, messages(1), now()).err();
    assert_eq!(refused, Some(StoreError::NewerSchema { found: 7, known: 2 }));
    assert!(std::fs::read(dir.path().join(DATABASE_FILE)).unwrap() == before);
}

#[test]
fn a_data_dir_that_is_a_file_is_named() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, "x").unwrap();
    let refused = open(&path, Sync::Normal, messages(1), now()).err();
    let Some(StoreError::CannotOpen { path: named, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(named, path);
}

#[test]
fn a_damaged_database_is_set_aside() {
    let dir = TempDir::new().unwrap();
    let mut running = run_at(dir.path());
    running.push((1..=2000).map(|seq| entry_put(1, seq, &message("a/b", 100))));
    running.writer.stop().unwrap();
    let mut running = run_at(dir.path());
    running.push_and_wait([entry_put(1, 2001, &message("a/b", 100))]);
    for damaged_page in [0, 20, 40] {
        let copy = crash_copy(dir.path());
        let path = copy.path().join(DATABASE_FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[damaged_page * 4096..][..4096].fill(0xa5);
        std::fs::write(&path, &bytes).unwrap();
        let (database, found) = open(copy.path(), Sync::Normal, messages(10), now()).unwrap();
        let aside = database.set_aside.clone().unwrap_or_else(|| panic!("page {damaged_page} passed"));
        assert_eq!(std::fs::metadata(&aside).unwrap().len(), bytes.len() as u64, "page {damaged_page}");
        assert!(found.spools.is_empty());
        // The fresh one works.
        let mut fresh = start(database);
        fresh.push([session(1)]);
        fresh.writer.stop().unwrap();
        assert_eq!(recover_at(copy.path()).sessions.len(), 1);
    }
}

#[test]
fn a_row_that_nobody_can_read_does_not_hold_up_those_behind_it() {
    let dir = TempDir::new().unwrap();
    let mut running = run_at(dir.path());
    running.push((1..=5).map(|seq| entry_put(1, seq, &message("a", 10))));
    running.writer.stop().unwrap();
    let database = rusqlite::Connection::open(dir.path().join(DATABASE_FILE)).unwrap();
    // The second of five blobs, each as long as the others.
    let damage = "UPDATE stretch SET data = CAST(substr(data, 1, length(data) / 5) || x'ff00' ||
                      substr(data, length(data) / 5 + 3) AS BLOB) WHERE last = 5";
    assert_eq!(database.execute(damage, []).unwrap(), 1);
    drop(database);
    let (database, found) = open_at(dir.path());
    assert_eq!((database.set_aside.as_ref(), database.unreadable), (None, 1));
    assert_eq!(seqs(&found.spools[0].1.head), [1, 3, 4, 5]);
    let running = start(database);
    let entries =
        running.load(Load { spool: SpoolId(1), after: Seq(0), messages_max: 3, bytes_max: usize::MAX });
    assert_eq!(seqs(&entries), [1, 3, 4]);
    assert_eq!(running.ear.change(|heard| heard.failed.clone()), [StoreError::Corrupt]);
    running.writer.stop().unwrap();
}

#[test]
fn entries_that_leave_out_of_order_take_their_stretch_with_the_last() {
    let dir = TempDir::new().unwrap();
    let mut running = run_at(dir.path());
    let stretches = "SELECT count(*) FROM stretch WHERE last < 9223372036854775807";
    running.push_and_wait((1..=100).map(|seq| entry_put(1, seq, &message("a", 10))));
    assert_eq!(query(dir.path(), stretches), 1);
    for dropped in [[2, 1], [50, 3]] {
        running.push_and_wait(dropped.map(|seq| entry_drop(1, seq)));
    }
    // Twice, and what never was there.
    running.push_and_wait([3, 101, 1000].map(|seq| entry_drop(1, seq)));
    let entries =
        running.load(Load { spool: SpoolId(1), after: Seq(0), messages_max: 47, bytes_max: usize::MAX });
    assert_eq!(seqs(&entries), (4..=49).chain([51]).collect::<Vec<_>>());
    running.writer.stop().unwrap();
    let (database, found) = open_at(dir.path());
    assert_eq!((found.spools[0].1.messages, found.spools[0].1.head.len()), (96, 96));
    let mut running = start(database);
    running.push_and_wait((1..=100).map(|seq| entry_drop(1, seq)));
    assert_eq!(query(dir.path(), stretches), 0);
    assert_eq!(query(dir.path(), "SELECT count(*) FROM gone"), 0);
    running.writer.stop().unwrap();
    assert_eq!(recover_at(dir.path()).spools[0].1.last_seq, Seq(100));
}

#[test]
fn commits_gather_until_a_load_enough_records_or_the_end() {
    let dir = TempDir::new().unwrap();
    let mut running = run_at(dir.path());
    running.writer.set_gathering(Duration::from_secs(3600));
    for seq in 1..=5 {
        running.push([entry_put(1, seq, &message("a", 10))]);
    }
    let load = Load { spool: SpoolId(1), after: Seq(0), messages_max: 10, bytes_max: usize::MAX };
    assert_eq!(seqs(&running.load(load)), [1, 2, 3, 4, 5]);
    assert_eq!(running.writer.stats().commits, 1);
    running.push_and_wait((6..=5000).map(|seq| entry_put(1, seq, &message("a", 10))));
    assert_eq!(running.writer.stats().commits, 2);
    running.push([entry_put(1, 5001, &message("a", 10))]);
    running.writer.stop().unwrap();
    assert_eq!(recover_at(dir.path()).spools[0].1.messages, 5001);
}

#[test]
fn what_is_thinned_out_leaves_the_disk_and_what_stays_is_read_as_before() {
    let dir = TempDir::new().unwrap();
    let mut running = run_at(dir.path());
    let held = "SELECT sum(length(data)) FROM stretch WHERE last < 9223372036854775807";
    running.push_and_wait((1..=1000).map(|seq| entry_put(1, seq, &message("a", 100))));
    let before = query(dir.path(), held);
    // Every other one of what is left, again and again.
    let mut left: Vec<u64> = (1..=1000).collect();
    for round in 1..=5 {
        let (stays, goes): (Vec<_>, Vec<_>) = left.iter().partition(|seq| (*seq - 1) % (1 << round) == 0);
        running.push_and_wait(goes.into_iter().map(|seq| entry_drop(1, seq)));
        left = stays;
        let load = Load { spool: SpoolId(1), after: Seq(0), messages_max: 1000, bytes_max: usize::MAX };
        assert_eq!(seqs(&running.load(load)), left);
        let now = query(dir.path(), held);
        assert!(now <= before * 2 / (1 << round) + 2000, "{now} of {before}, round {round}");
    }
    running.writer.stop().unwrap();
    assert_eq!(recover_at(dir.path()).spools[0].1.messages, left.len() as u64);
}

#[test]
fn what_waits_is_counted_by_rules_also_where_an_earlier_version_wrote() {
    let dir = TempDir::new().unwrap();
    let mut running = run_at(dir.path());
    running.push([Record::BufferPut { spool: SpoolId(1), bridge: "cloud".into() }]);
    let put = |seq: u64, rule| Record::EntryPut {
        spool: SpoolId(1),
        entry: Entry { rule, ..entry(seq, &message("a", 10)) },
    };
    running.push_and_wait((1..=30).map(|seq| put(seq, [0, 3, 200][usize::try_from(seq % 3).unwrap()])));
    running.push_and_wait([Record::EntryDrop { spool: SpoolId(1), seq: Seq(4), rule: 3 }]);
    running.writer.stop().unwrap();
    let expected = [(0, 10, 110), (3, 9, 99), (200, 10, 110)].map(|(rule, messages, bytes)| RuleTotals {
        rule,
        messages,
        bytes,
    });
    let totals = "WHERE last = 9223372036854775807";
    let others = ["data = x''", "data = CAST('odd' AS BLOB)", "data = (SELECT data FROM stretch LIMIT 1)"];
    for change in [""].into_iter().chain(others) {
        if !change.is_empty() {
            let database = rusqlite::Connection::open(dir.path().join(DATABASE_FILE)).unwrap();
            assert_eq!(database.execute(&format!("UPDATE stretch SET {change} {totals}"), []).unwrap(), 1);
        }
        for _ in 0..2 {
            assert_eq!(recover_at(dir.path()).spools[0].1.rules, expected, "{change}");
        }
    }
}

#[test]
fn a_shared_message_is_stored_once_and_goes_with_its_last_entry() {
    let dir = TempDir::new().unwrap();
    let mut running = run_at(dir.path());
    let shared = message("big", 10_000);
    let bodies = "SELECT count(*) FROM body";
    running.push_and_wait((1..=5).map(session).chain((1..=5).map(|spool| entry_put(spool, 1, &shared))));
    assert_eq!(query(dir.path(), bodies), 1);
    assert_eq!(query(dir.path(), "SELECT sum(length(data)) < 12000 FROM body"), 1);
    running.push_and_wait([entry_drop(1, 1), entry_drop(2, 1)]);
    running.push_and_wait([Record::SpoolDrop { spool: SpoolId(3) }]);
    assert_eq!(query(dir.path(), bodies), 1);
    running.writer.stop().unwrap();

    let (database, found) = open_at(dir.path());
    for spool in 4..=5 {
        let (_, kept) = found.spools.iter().find(|(id, _)| *id == SpoolId(spool)).unwrap();
        assert_eq!(kept.head, [entry(1, &shared)]);
        assert_eq!(kept.bytes, 10_003);
    }
    let mut running = start(database);
    running.push_and_wait([entry_drop(4, 1)]);
    assert_eq!(query(dir.path(), bodies), 1);
    running.push_and_wait([entry_drop(5, 1)]);
    assert_eq!(query(dir.path(), bodies), 0);
    // Small ones for few are cheaper side by side with their entries.
    let small = message("small", 10);
    running.push_and_wait([entry_put(4, 2, &small), entry_put(5, 2, &small)]);
    assert_eq!(query(dir.path(), bodies), 0);
    running.writer.stop().unwrap();
}

#[test]
fn a_large_message_is_stored_once_whichever_commit_brings_it() {
    let dir = TempDir::new().unwrap();
    let mut running = run_at(dir.path());
    let (one, other) = (message("one", 10_000), message("other", 10_000));
    let bodies = "SELECT count(*) FROM body";
    for spool in 1..=3 {
        running.push_and_wait([entry_put(spool, 1, &one)]);
        assert_eq!(query(dir.path(), bodies), 1);
    }
    for spool in 1..=3 {
        assert_eq!(query(dir.path(), bodies), 1);
        running.push_and_wait([entry_drop(spool, 1)]);
    }
    assert_eq!(query(dir.path(), bodies), 0);
    // Its row is another's now.
    running.push_and_wait([entry_put(1, 2, &other)]);
    running.push_and_wait([entry_put(2, 2, &one)]);
    assert_eq!(query(dir.path(), bodies), 2);
    for (spool, stored) in [(1, &other), (2, &one)] {
        let load = Load { spool: SpoolId(spool), after: Seq(0), messages_max: 9, bytes_max: usize::MAX };
        assert_eq!(running.load(load), [entry(2, stored)]);
    }
    running.writer.stop().unwrap();
}

#[test]
fn loads_page_in_order_behind_what_was_pushed() {
    let dir = TempDir::new().unwrap();
    let mut running = run_at(dir.path());
    running.push((1..=95).map(|seq| entry_put(1, seq * 3, &message("a", 10))));
    running.push((1..=9).map(|seq| entry_put(2, seq, &message("other", 10))));
    let mut after = Seq(0);
    let mut all = Vec::new();
    for expected in [40, 40, 15, 0] {
        let entries =
            running.load(Load { spool: SpoolId(1), after, messages_max: 40, bytes_max: usize::MAX });
        assert_eq!(entries.len(), expected);
        after = entries.last().map_or(after, |entry| entry.seq);
        all.extend(seqs(&entries));
    }
    assert_eq!(all, (1..=95).map(|seq| seq * 3).collect::<Vec<_>>());
    for (bytes_max, loaded) in [(110, 10), (109, 9), (1, 1), (0, 1)] {
        let entries = running.load(Load { spool: SpoolId(1), after: Seq(9), messages_max: 50, bytes_max });
        assert_eq!(entries.len(), loaded, "{bytes_max}");
    }
    running.writer.stop().unwrap();
    let window = Window { messages_max: 50, bytes_max: 35 };
    let (_, found) = open(dir.path(), Sync::Normal, window, now()).unwrap();
    assert_eq!(seqs(&found.spools[0].1.head), [3, 6, 9]);
}

#[test]
fn ages_survive_a_clock_that_is_set_and_a_restart() {
    let dir = TempDir::new().unwrap();
    let mut running = run_at(dir.path());
    let later = |secs: u64, wall_ms: i64| Now {
        instant: now().instant + Duration::from_secs(secs),
        wall: Timestamp::from_millis(wall_ms),
    };
    let opened_ms = now().wall.as_millis();
    let arrivals = [
        later(1, opened_ms + 1_000),
        // Somebody sets the clock a year ahead, then back again.
        later(2, opened_ms + 31_536_002_000),
        later(3, opened_ms - 5_000),
    ];
    running.push((1..).zip(arrivals).map(|(seq, arrived)| {
        let message = Message { arrived, ..Message::clone(&message("a", 10)) };
        entry_put(1, seq, &Arc::new(message))
    }));
    let entries =
        running.load(Load { spool: SpoolId(1), after: Seq(0), messages_max: 10, bytes_max: usize::MAX });
    let loaded: Vec<_> = entries.iter().map(|entry| entry.message.arrived).collect();
    assert_eq!(loaded, arrivals);
    running.writer.stop().unwrap();

    let restart = later(10, opened_ms + 61_000);
    let (database, found) = open(dir.path(), Sync::Normal, messages(1), restart).unwrap();
    let head = &found.spools[0].1.head;
    assert_eq!(restart.instant.since(head[0].message.arrived.instant), Duration::from_secs(60));
    let running = start(database);
    let entries =
        running.load(Load { spool: SpoolId(1), after: Seq(1), messages_max: 10, bytes_max: usize::MAX });
    let ages: Vec<_> =
        entries.iter().map(|entry| restart.instant.since(entry.message.arrived.instant).as_secs()).collect();
    assert_eq!(ages, [0, 66]);
    running.writer.stop().unwrap();
}

#[test]
fn only_the_window_of_a_spool_is_recovered() {
    let dir = TempDir::new().unwrap();
    let mut running = run_at(dir.path());
    running.push((1..=1000).map(|seq| entry_put(1, seq, &message("a", 10))));
    running.push((1..=400).map(|seq| entry_drop(1, seq)));
    running.writer.stop().unwrap();
    let (_, found) = open(dir.path(), Sync::Normal, messages(25), now()).unwrap();
    let spool = &found.spools[0].1;
    assert_eq!(seqs(&spool.head), (401..=425).collect::<Vec<_>>());
    assert_eq!((spool.messages, spool.bytes, spool.last_seq), (600, 600 * 11, Seq(1000)));
}

/// What must be on disk, as maps.
#[derive(Default)]
struct Model {
    entries: BTreeMap<(SpoolId, Seq), Entry>,
    inflight: BTreeMap<(SpoolId, PacketId), (Seq, Phase)>,
    inbound: BTreeSet<(SpoolId, PacketId)>,
    retained: BTreeMap<TopicName, Arc<Message>>,
    sessions: BTreeMap<SpoolId, SessionRow>,
}

impl Model {
    fn apply(&mut self, record: &Record) {
        match record.clone() {
            Record::SessionPut(row) => drop(self.sessions.insert(row.spool, row)),
            Record::EntryPut { spool, entry } => drop(self.entries.insert((spool, entry.seq), entry)),
            Record::EntryDrop { spool, seq, .. } => drop(self.entries.remove(&(spool, seq))),
            Record::InflightPut { spool, packet_id, seq, phase } => {
                self.inflight.insert((spool, packet_id), (seq, phase));
            }
            Record::InflightDrop { spool, packet_id } => drop(self.inflight.remove(&(spool, packet_id))),
            Record::InboundPut { spool, packet_id } => {
                self.inbound.insert((spool, packet_id));
            }
            Record::InboundDrop { spool, packet_id } => {
                self.inbound.remove(&(spool, packet_id));
            }
            Record::RetainedPut { message } => drop(self.retained.insert(message.topic.clone(), message)),
            Record::RetainedDrop { topic } => drop(self.retained.remove(&topic)),
            Record::SpoolDrop { spool } => {
                self.entries.retain(|key, _| key.0 != spool);
                self.inflight.retain(|key, _| key.0 != spool);
                self.inbound.retain(|key| key.0 != spool);
                self.sessions.remove(&spool);
            }
            other => panic!("the test makes none: {other:?}"),
        }
    }

    fn check(&self, found: &Recovered) {
        assert!(found.sessions.iter().eq(self.sessions.values()));
        assert!(found.retained.iter().eq(self.retained.values()));
        let spools: BTreeMap<SpoolId, &RecoveredSpool> =
            found.spools.iter().map(|(spool, found)| (*spool, found)).collect();
        let entries = spools.iter().flat_map(|(spool, found)| found.head.iter().map(|entry| (*spool, entry)));
        assert!(entries.eq(self.entries.iter().map(|((spool, _), entry)| (*spool, entry))));
        for (spool, found) in spools {
            let bytes: usize = found.head.iter().map(|entry| entry.message.size_bytes()).sum();
            assert_eq!((found.messages, found.bytes), (found.head.len() as u64, bytes as u64));
            let sizes = found.head.iter().map(|entry| (entry.rule, entry.message.size_bytes() as u64));
            assert_eq!(found.rules, RuleTotals::of(sizes));
            let of_spool = self.inflight.iter().filter(|(key, _)| key.0 == spool);
            let mut inflight: Vec<_> = of_spool.map(|(key, value)| (key.1, value.0, value.1)).collect();
            inflight.sort_by_key(|row| (row.1, row.0));
            assert_eq!(found.inflight, inflight);
            let inbound = self.inbound.iter().filter(|key| key.0 == spool).map(|key| key.1);
            assert!(found.inbound.iter().copied().eq(inbound));
        }
    }
}

/// Of an entry in the model.
fn rule_of(seq: Seq) -> u16 {
    [0, 1, 700][usize::try_from(seq.0 % 3).expect("small")]
}

fn random_record(rng: &mut fastrand::Rng, shared: &[Arc<Message>]) -> Record {
    let spool = SpoolId(rng.u32(1..6));
    let seq = Seq(rng.u64(1..30));
    let packet_id = packet_id(rng.u16(1..6));
    let message = rng.choice(shared).expect("some messages").clone();
    match rng.u8(0..30) {
        0 => Record::SpoolDrop { spool },
        1 => session(spool.0),
        2..=4 => Record::InflightPut {
            spool,
            packet_id,
            seq,
            phase: if rng.bool() { Phase::Published } else { Phase::Released },
        },
        5..=6 => Record::InflightDrop { spool, packet_id },
        7..=8 => Record::InboundPut { spool, packet_id },
        9 => Record::InboundDrop { spool, packet_id },
        10 => Record::RetainedPut { message },
        11 => Record::RetainedDrop { topic: message.topic.clone() },
        12..=20 => Record::EntryDrop { spool, seq, rule: rule_of(seq) },
        _ => Record::EntryPut { spool, entry: Entry { rule: rule_of(seq), ..entry(seq.0, &message) } },
    }
}

#[test]
fn random_batches_leave_what_the_model_says() {
    for seed in 0..12 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let dir = TempDir::new().unwrap();
        let mut model = Model::default();
        let mut running = run_at(dir.path());
        for round in 0..80 {
            // Large ones are shared, small ones are not, by what a batch saves.
            let shared: Vec<_> =
                (0..4).map(|n| message(&format!("t/{n}"), rng.choice([5, 700, 9000]).unwrap())).collect();
            let records: Vec<_> = (0..rng.usize(1..40)).map(|_| random_record(&mut rng, &shared)).collect();
            for record in &records {
                model.apply(record);
            }
            // A batch that a failed sync leaves on disk is applied once more.
            if rng.u8(0..4) == 0 {
                running.push_and_wait(records.clone());
            }
            running.push_and_wait(records);
            if round % 10 == 9 {
                running.writer.stop().unwrap();
                let (database, found) = open_at(dir.path());
                model.check(&found);
                running = start(database);
            }
        }
        running.push_and_wait((1..6).map(|spool| Record::SpoolDrop { spool: SpoolId(spool) }));
        let left = "SELECT (SELECT count(*) FROM body) + (SELECT count(*) FROM stretch) + (SELECT count(*) FROM gone)
                    + (SELECT count(*) FROM inflight) + (SELECT count(*) FROM inbound)";
        assert_eq!(query(dir.path(), left), 0, "seed {seed}");
        running.writer.stop().unwrap();
    }
}
