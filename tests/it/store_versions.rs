//! Databases of earlier versions: what waits in them is there after the update, in its order and with all its parts.

use std::path::Path;

use tempfile::TempDir;

use tidegate::base::time::{Duration, Instant, Now, Timestamp};
use tidegate::mqtt::message::Origin;
use tidegate::mqtt::qos::QoS;
use tidegate::store::record::{Recovered, RuleTotals, Seq, SpoolId};
use tidegate::store::recover::{Window, open};
use tidegate::store::schema::{DATABASE_FILE, Sync};

const VERSION_1: &str = include_str!("version_1.sql");
const WINDOW: Window = Window { messages_max: 100, bytes_max: usize::MAX };

fn make(dir: &Path, page_bytes: u32) {
    let database = rusqlite::Connection::open(dir.join(DATABASE_FILE)).expect("a database");
    database
        .execute_batch(&format!("PRAGMA page_size = {page_bytes}; PRAGMA auto_vacuum = INCREMENTAL"))
        .expect("an empty file");
    database.execute_batch("PRAGMA journal_mode = WAL").expect("a log");
    database.execute_batch(VERSION_1).expect("the tables");
}

fn recover(dir: &Path) -> Recovered {
    let now = Now {
        instant: Instant::ORIGIN + Duration::from_secs(90_000),
        wall: Timestamp::from_millis(1_795_400_000_000),
    };
    let (database, found) = open(dir, Sync::Normal, WINDOW, now).expect("a store that opens");
    assert_eq!((database.set_aside, database.unreadable), (None, 0));
    found
}

fn pragma(dir: &Path, name: &str) -> u32 {
    let database = rusqlite::Connection::open(dir.join(DATABASE_FILE)).expect("a database");
    database.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0)).expect("a number")
}

fn check(found: &Recovered) {
    assert_eq!(found.buffers, [(SpoolId(1), "cloud".into())]);
    assert_eq!(found.sessions.len(), 1);
    assert_eq!(&*found.sessions[0].client_id, "sleeper");
    assert_eq!(found.spools.len(), 2);
    let entries = found.spools[0].1.head.iter();
    let sizes = entries.map(|entry| (entry.rule, entry.message.size_bytes() as u64));
    assert_eq!(found.spools[0].1.rules, RuleTotals::of(sizes), "of the buffer");
    for (_, spool) in &found.spools {
        assert_eq!((spool.messages, spool.last_seq), (7, Seq(7)));
        let bytes: usize = spool.head.iter().map(|entry| entry.message.size_bytes()).sum();
        assert_eq!(spool.bytes, bytes as u64);
        let topics: Vec<_> = spool.head.iter().map(|entry| entry.message.topic.as_str()).collect();
        assert_eq!(topics, ["load/0", "load/1", "load/0", "load/1", "load/0", "load/big", "load/rich"]);
        for (n, entry) in spool.head[..5].iter().enumerate() {
            assert_eq!(entry.message.payload, format!("reading {n}"));
            assert_eq!(entry.message.origin, Origin::Client("meter-7".into()));
        }
        assert_eq!(spool.head[5].message.payload, [b'x'; 9000].as_slice());
        let rich = &spool.head[6];
        assert_eq!((rich.qos, &*rich.message.payload), (QoS::ExactlyOnce, b"rich".as_slice()));
        assert_eq!(rich.message.expiry_interval, Some(Duration::from_secs(4_000_000_000)));
        let properties = rich.message.properties.as_ref().expect("properties");
        assert_eq!(properties.content_type.as_deref(), Some("text"));
    }
}

#[test]
fn version_1_is_brought_to_this_one_and_its_pages_to_this_size() {
    for page_bytes in [4096, 1024] {
        let dir = TempDir::new().unwrap();
        make(dir.path(), page_bytes);
        // The second start finds what the first one made.
        for _ in 0..2 {
            check(&recover(dir.path()));
            let now = ["user_version", "page_size", "auto_vacuum"].map(|name| pragma(dir.path(), name));
            assert_eq!(now, [2, 1024, 2]);
        }
    }
}

#[test]
fn a_large_file_keeps_its_pages() {
    let dir = TempDir::new().unwrap();
    make(dir.path(), 4096);
    let database = rusqlite::Connection::open(dir.path().join(DATABASE_FILE)).unwrap();
    database.execute("INSERT INTO body VALUES (2, 2, zeroblob(9000000))", []).unwrap();
    drop(database);
    check(&recover(dir.path()));
    assert_eq!((pragma(dir.path(), "user_version"), pragma(dir.path(), "page_size")), (2, 4096));
}
