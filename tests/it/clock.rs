//! What waits while the clock is not set: marked, corrected, aged; by the store with its brains behind it, and with a
//! machine that is started anew in between.

#![allow(clippy::unwrap_used)] // helpers outside of test functions too: a panic here is a failed test

use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;

use tidegate::base::time::{Doubt, Duration, Instant, Now, Timestamp};
use tidegate::mqtt::message::{Message, Origin};
use tidegate::mqtt::qos::QoS;
use tidegate::mqtt::topic::TopicName;
use tidegate::store::reader::read_page;
use tidegate::store::record::{Entry, Load, Lsn, Record, Recovered, Seq, SessionRow, SpoolId};
use tidegate::store::recover::{Window, open};
use tidegate::store::schema::Sync;
use tidegate::store::writer::{Observer, Writer};

const WINDOW: Window = Window { messages_max: 10, bytes_max: 1 << 20 };
const YEAR_2026_MS: i64 = 1_795_255_200_000;
const MARKED: &str = r#"{"value":1,"time":"1970-01-01T00:00:20.000Z","clock":"unsynchronised"}"#;

/// So many seconds after the machine's start, by a clock that counts from 1970 and that nobody has set.
fn unset(secs: u32) -> Now {
    at(secs, i64::from(secs) * 1000, Doubt::Unset)
}

/// The same by a clock that is right: the machine was started so many seconds after the 21st of November 2026, 10:00.
fn set(secs: u32, started: u32) -> Now {
    at(secs, YEAR_2026_MS + (i64::from(secs) + i64::from(started)) * 1000, Doubt::None)
}

fn at(secs: u32, wall_ms: i64, doubt: Doubt) -> Now {
    Now {
        instant: Instant::BOOT + Duration::from_secs(secs.into()),
        wall: Timestamp::from_millis(wall_ms).with_doubt(doubt),
    }
}

struct Deaf;

impl Observer for Deaf {
    fn handle_durable(&mut self, _: Lsn) {}
    fn handle_loaded(&mut self, _: Load, _: Vec<Entry>) {}
    fn handle_failed(&mut self, error: &tidegate::store::error::StoreError) {
        panic!("{error}");
    }
}

/// A run of the gateway's store from one time to another.
fn run(folder: &Path, opened: Now, records: Vec<Record>, is_set: Option<Now>) -> Recovered {
    let (database, recovered) = open(folder, Sync::Off, WINDOW, opened).unwrap();
    let writer = Writer::start(database, Box::new(Deaf)).unwrap();
    let last = Lsn(records.len() as u64);
    writer.push(records, last);
    if let Some(now) = is_set {
        writer.handle_clock(now);
    }
    writer.stop().unwrap();
    recovered
}

/// What the database holds belongs to a boot that is over.
fn restart_machine(folder: &Path) {
    let path = folder.join("tidegate.db");
    let database = rusqlite::Connection::open(path).unwrap();
    let boot = tidegate::base::boot::Boot::current().0;
    let (name, other) = (format!("clock:{boot:016x}"), format!("clock:{:016x}", !boot));
    database.execute("UPDATE mark SET name = ?2 WHERE name = ?1", (name, other)).unwrap();
    // Blobs name the boot by its bytes.
    let mut rows = database.prepare("SELECT last, data FROM stretch WHERE length(data) > 0").unwrap();
    let rows: Vec<(i64, Vec<u8>)> =
        rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect();
    for (last, mut data) in rows {
        let places: Vec<usize> = data
            .windows(8)
            .enumerate()
            .filter(|(_, bytes)| **bytes == boot.to_le_bytes())
            .map(|(at, _)| at)
            .collect();
        for at in places {
            data[at..at + 8].copy_from_slice(&(!boot).to_le_bytes());
        }
        database.execute("UPDATE stretch SET data = ?2 WHERE last = ?1", (last, data)).unwrap();
    }
}

fn reading(arrived: Now) -> Message {
    let topic = TopicName::new("devices/m/voltage").unwrap();
    Message::new(topic, MARKED, QoS::AtLeastOnce, Origin::Device(0), arrived)
}

fn put(seq: u64, message: Message) -> Record {
    let entry = Entry {
        seq: Seq(seq),
        qos: QoS::AtLeastOnce,
        retain: false,
        rule: 0,
        subscription_identifiers: Box::default(),
        message: Arc::new(message),
    };
    Record::EntryPut { spool: SpoolId(1), entry }
}

fn gone(client_id: &str, spool: u32, disconnected_at: Now) -> Record {
    Record::SessionPut(SessionRow {
        spool: SpoolId(spool),
        client_id: client_id.into(),
        expiry_interval: 3600,
        disconnected_at: Some(disconnected_at),
    })
}

fn head(recovered: &Recovered) -> Vec<Arc<Message>> {
    let found = recovered.spools.iter().find(|(spool, _)| *spool == SpoolId(1));
    found.unwrap().1.head.iter().map(|entry| entry.message.clone()).collect()
}

/// What would leave of it.
fn leaves(message: &Arc<Message>, now: Now) -> String {
    String::from_utf8(Message::leaving(message, false, now).payload.to_vec()).unwrap()
}

fn corrected(time: &str) -> String {
    format!(r#"{{"value":1,"time":"{time}"}}"#)
}

#[test]
fn a_reading_is_corrected_after_a_restart_within_the_boot_and_ages_by_the_monotonic_clock() {
    let folder = TempDir::new().unwrap();
    run(folder.path(), unset(10), vec![put(1, reading(unset(20)))], None);

    // The gateway is started again, and the clock still is not set; then it is.
    let found = run(folder.path(), unset(40), vec![], Some(set(60, 0)));
    let [waits] = &head(&found)[..] else { panic!("{found:?}") };
    assert_eq!(waits.arrived, unset(20));
    assert_eq!(leaves(waits, unset(50)), MARKED);
    assert_eq!(leaves(waits, set(60, 0)), corrected("2026-11-21T10:00:20.000Z"));
    // What may have left is repeated as it was.
    let repeated = Message::leaving(waits, true, set(60, 0));
    assert_eq!(repeated.payload, MARKED);

    // Started again when it is set: neither is it older by 56 years.
    let found = run(folder.path(), set(90, 0), vec![], None);
    let [waits] = &head(&found)[..] else { panic!("{found:?}") };
    assert_eq!(set(90, 0).instant.since(waits.arrived.instant), Duration::from_secs(70));
    assert_eq!(leaves(waits, set(90, 0)), corrected("2026-11-21T10:00:20.000Z"));
    let load = Load { spool: SpoolId(1), after: Seq(0), messages_max: 10, bytes_max: 1 << 20 };
    let page = read_page(folder.path(), load, set(90, 0)).unwrap();
    assert_eq!(leaves(&page[0].message, set(90, 0)), corrected("2026-11-21T10:00:20.000Z"));
}

#[test]
fn a_reading_of_an_earlier_boot_is_corrected_if_the_clock_was_set_in_it() {
    let folder = TempDir::new().unwrap();
    run(folder.path(), unset(10), vec![put(1, reading(unset(20)))], Some(set(60, 0)));
    restart_machine(folder.path());
    // By a clock that is not set in this boot, it is right all the same; how old it is nobody knows yet.
    let found = run(folder.path(), unset(15), vec![], None);
    let [waits] = &head(&found)[..] else { panic!("{found:?}") };
    assert_eq!(waits.payload, corrected("2026-11-21T10:00:20.000Z"));
    assert_eq!(waits.arrived, Now { instant: Instant::BOOT, ..set(20, 0) });
    // By one that is, an hour later.
    let found = run(folder.path(), set(15, 3605), vec![], None);
    let [waits] = &head(&found)[..] else { panic!("{found:?}") };
    assert_eq!(waits.payload, corrected("2026-11-21T10:00:20.000Z"));
    assert_eq!(set(15, 3605).instant.since(waits.arrived.instant), Duration::from_secs(3600));
}

#[test]
fn a_reading_of_a_boot_that_never_knew_the_time_stays_marked_and_still_grows_old() {
    let folder = TempDir::new().unwrap();
    run(folder.path(), unset(10), vec![put(1, reading(unset(20)))], None);
    restart_machine(folder.path());
    let found = run(folder.path(), set(15, 3605), vec![], None);
    let [waits] = &head(&found)[..] else { panic!("{found:?}") };
    assert_eq!(waits.arrived.wall.doubt(), Doubt::Lost);
    assert_eq!(leaves(waits, set(30, 3605)), MARKED);
    assert_eq!(set(30, 3605).instant.since(waits.arrived.instant), Duration::from_secs(30));
    // Written once more, for another spool, it is not taken for one of this boot.
    let again = Record::EntryPut {
        spool: SpoolId(1),
        entry: Entry {
            seq: Seq(2),
            qos: QoS::AtLeastOnce,
            retain: false,
            rule: 0,
            subscription_identifiers: Box::default(),
            message: waits.clone(),
        },
    };
    run(folder.path(), set(40, 3605), vec![again], None);
    let found = run(folder.path(), set(50, 3605), vec![], None);
    assert!(head(&found).iter().all(|message| leaves(message, set(60, 3605)) == MARKED), "{found:?}");
}

#[test]
fn a_clock_in_the_past_or_the_future_makes_nothing_old_or_young_for_longer_than_it_is_not_set() {
    let stored = |arrived| Message { expiry_interval: Some(Duration::from_secs(600)), ..reading(arrived) };
    // The machine starts again with a clock that stands in 1970, or in 2099.
    for wall_ms in [15_000, 4_070_908_800_000] {
        let folder = TempDir::new().unwrap();
        let records = vec![put(1, stored(set(20, 0))), gone("c", 7, set(20, 0))];
        run(folder.path(), set(10, 0), records, None);
        restart_machine(folder.path());
        let opened = at(15, wall_ms, Doubt::Unset);
        let found = run(folder.path(), opened, vec![], None);
        let message = head(&found)[0].clone();
        assert!(!message.is_expired(opened), "{wall_ms}");
        assert_eq!(found.sessions[0].disconnected_at.unwrap().instant, Instant::BOOT);
        // It is set: ten minutes, or five, have passed in truth.
        for (started, expired) in [(605, true), (305, false)] {
            let now = set(15, started);
            let told = message.arrived.told_by(now).unwrap();
            let message = Message { arrived: told, ..Message::clone(&message) };
            assert_eq!(message.is_expired(now), expired, "{wall_ms}");
            let away = found.sessions[0].disconnected_at.unwrap().told_by(now).unwrap();
            assert_eq!(now.instant.since(away.instant).as_secs(), u64::from(started) - 5);
        }
    }
}

#[test]
fn a_session_that_was_left_before_the_clock_was_set_is_not_56_years_old_after_it() {
    let folder = TempDir::new().unwrap();
    run(folder.path(), unset(10), vec![gone("c", 7, unset(20))], None);
    let now = set(60, 0);
    let found = run(folder.path(), now, vec![], None);
    let away = found.sessions[0].disconnected_at.unwrap();
    assert_eq!(now.instant.since(away.instant), Duration::from_secs(40));
    assert_eq!(away.dated_by(now), set(20, 0).wall);
}
