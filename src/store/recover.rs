//! Opens the database and reads what a start needs: checks it after a crash, brings it to this version, sets
//! a damaged one aside. Reads no message beyond each spool's window; never decides what to do with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};

use rusqlite::{Connection, ErrorCode};

use crate::base::boot::Boot;
use crate::base::time::{Duration, Now};
use crate::mqtt::message::Message;
use crate::mqtt::packet::connect::Will;
use crate::mqtt::packet::subscribe::SubscriptionOptions;
use crate::mqtt::qos::PacketId;
use crate::mqtt::topic::TopicFilter;
use crate::store::age::Anchor;
use crate::store::apply::{BIRTH_PREFIX, Standing, options_of_column};
use crate::store::codec::{decode_retained, decode_will};
use crate::store::dates::{keep_date, load_dates};
use crate::store::error::StoreError;
use crate::store::migrate::{check_version, fit_pages, migrate};
use crate::store::pages::{Reading, count_rules, load_page, load_totals, seq_of_column};
use crate::store::record::{Load, Phase, Recovered, RecoveredSpool, Seq, SessionRow, SpoolId};
use crate::store::reserve::{Reserve, free_bytes};
use crate::store::schema::{Access, DATABASE_FILE, Lock, Sync, beside, lock};

/// How long the check after a crash may hold up a start: what it has not seen by then is found when read.
const CHECK_WAIT: Duration = Duration::from_millis(750);
/// Exists from the moment that damage was met until a start has checked everything.
const SUSPECT_SUFFIX: &str = "-suspect";
const DATA_DIR_MODE: u32 = 0o700;

/// What a start reads of each spool: its oldest entries, within both bounds, but one at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub messages_max: usize,
    /// Topics, payloads and properties.
    pub bytes_max: usize,
}

impl Window {
    /// Behind 0 is everything: a spool's first number is 1.
    fn first_load(self, spool: SpoolId) -> Load {
        Load { spool, after: Seq(0), messages_max: self.messages_max, bytes_max: self.bytes_max }
    }
}

/// An open database that no other gateway can open.
#[derive(Debug)]
pub struct Database {
    /// Where a damaged database was moved: a person must know.
    pub set_aside: Option<PathBuf>,
    /// Rows of messages that could not be read and were passed over.
    pub unreadable: u64,
    /// By how much the wall clock was ahead of the monotonic one in this boot, when it was believed: here or by an
    /// earlier run.
    pub date_millis: Option<i64>,
    pub(super) connection: Connection,
    pub(super) access: Access,
    pub(super) anchor: Anchor,
    /// The last sequence numbers that earlier runs gave.
    pub(super) earlier: BTreeMap<SpoolId, Seq>,
    pub(super) reserve: Reserve,
    pub(super) lock: Lock,
}

/// Opens the database in `data_dir`, which is made if missing, and reads what a start needs: of each spool
/// the oldest entries, as `window` bounds them.
///
/// # Errors
/// `Locked`, `NewerSchema`, and whatever the disk says. Damage is no error: see [`Database::set_aside`].
pub fn open(
    data_dir: &Path,
    sync: Sync,
    window: Window,
    now: Now,
) -> Result<(Database, Recovered), StoreError> {
    let made = DirBuilder::new().recursive(true).mode(DATA_DIR_MODE).create(data_dir);
    made.map_err(|error| StoreError::cannot_open(data_dir, &error))?;
    let lock = lock(data_dir)?;
    let access = Access { path: data_dir.join(DATABASE_FILE), sync };
    let mut reserve = Reserve::find(data_dir);
    let anchor = Anchor::new(now, Boot::current());
    let mut set_aside = None;
    let mut opened = attempt(&access, window, anchor);
    let is_full = match opened {
        Err(StoreError::DiskFull) => true,
        Err(StoreError::Io { .. }) => free_bytes(&access.path) == 0,
        _ => false,
    };
    if is_full && reserve.give_back() {
        opened = attempt(&access, window, anchor);
    }
    if matches!(opened, Err(StoreError::Corrupt)) {
        set_aside = Some(move_aside(&access, now)?);
        opened = attempt(&access, window, anchor);
    }
    let (connection, anchor, recovered, unreadable) = opened?;
    let earlier = recovered.spools.iter().map(|(spool, found)| (*spool, found.last_seq)).collect();
    let date_millis = anchor.known_date();
    let database =
        Database { set_aside, unreadable, date_millis, connection, access, anchor, earlier, reserve, lock };
    Ok((database, recovered))
}

fn attempt(
    access: &Access,
    window: Window,
    anchor: Anchor,
) -> Result<(Connection, Anchor, Recovered, u64), StoreError> {
    let suspect_path = beside(&access.path, SUSPECT_SUFFIX);
    let suspect = suspect_path.exists();
    // A clean stop leaves an empty log or none.
    let unclean = access.wal_path().metadata().is_ok_and(|found| found.len() > 0);
    if unclean {
        // A sync may have failed before the end.
        access.rewrite_log()?;
    }
    let mut connection = access.connect()?;
    check_version(&connection)?;
    if suspect {
        check_pages(&connection)?;
        std::fs::remove_file(&suspect_path)
            .map_err(|error| StoreError::cannot_open(&suspect_path, &error))?;
    } else if unclean {
        check_pages_for(&connection, CHECK_WAIT)?;
    }
    migrate(&mut connection)?;
    fit_pages(&connection)?;
    fit_rules(&connection)?;
    // A full disk must not end the start: the writer tries it again.
    let _ = keep_date(&connection, anchor);
    let anchor = anchor.with_dates(load_dates(&connection)?);
    let (recovered, unreadable) = recover(&connection, window, anchor)?;
    Ok((connection, anchor, recovered, unreadable))
}

/// Asks the next start to check everything, however long it takes.
pub(super) fn suspect_damage(access: &Access) {
    // Best effort: a disk that takes no file will be met again at the start.
    let _ = File::create(beside(&access.path, SUSPECT_SUFFIX));
}

fn check_pages(connection: &Connection) -> Result<(), StoreError> {
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict == "ok" { Ok(()) } else { Err(StoreError::Corrupt) }
}

/// The same for no longer than `wait`: running out of time is no finding.
fn check_pages_for(connection: &Connection, wait: Duration) -> Result<(), StoreError> {
    let interrupt = connection.get_interrupt_handle();
    let (done, is_done) = channel::<()>();
    let timer = std::thread::Builder::new().name("store-check".to_owned()).spawn(move || {
        if is_done.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
            interrupt.interrupt();
        }
    });
    let timer = timer.map_err(|_| StoreError::WriterGone)?;
    let result = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    drop(done);
    // The timer must be gone before the next statement, which it would interrupt.
    let _ = timer.join();
    match result {
        Ok(verdict) if verdict == "ok" => Ok(()),
        // The check reports an interruption as a finding or as an error, by where it was met.
        Ok(verdict) if verdict.contains("interrupted") => Ok(()),
        Ok(_) => Err(StoreError::Corrupt),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Moves the three files, so that what is left can be looked at with SQLite's own tools.
fn move_aside(access: &Access, now: Now) -> Result<PathBuf, StoreError> {
    let base = format!(".corrupt-{}", now.wall.as_millis());
    let free = (0u32..).map(|n| if n == 0 { base.clone() } else { format!("{base}-{n}") });
    let mut names = free.map(|suffix| beside(&access.path, &suffix)).filter(|name| !name.exists());
    let Some(aside) = names.next() else { return Err(StoreError::Corrupt) };
    for suffix in ["", "-wal", "-shm"] {
        let from = beside(&access.path, suffix);
        match std::fs::rename(&from, beside(&aside, suffix)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::cannot_open(&from, &error));
            }
            _ => {}
        }
    }
    let _ = std::fs::remove_file(beside(&access.path, SUSPECT_SUFFIX));
    Ok(aside)
}

fn recover(connection: &Connection, window: Window, anchor: Anchor) -> Result<(Recovered, u64), StoreError> {
    let mut recovered = Recovered {
        sessions: sessions(connection, anchor)?,
        buffers: buffers(connection)?,
        subscriptions: subscriptions(connection)?,
        wills: wills(connection)?,
        births: births(connection)?,
        ..Recovered::default()
    };
    let mut unreadable = 0;
    recovered.retained = retained(connection, anchor, &mut unreadable)?;
    let mut spools = entry_spools(connection)?;
    spools.extend(recovered.sessions.iter().map(|row| row.spool));
    spools.extend(recovered.buffers.iter().map(|(spool, _)| *spool));
    for table in ["inflight", "inbound"] {
        let sql = format!("SELECT DISTINCT spool FROM {table}");
        spools.extend(rows(connection, &sql, |row| Ok(SpoolId(row.get(0)?)))?);
    }
    recovered.next_spool =
        spools.last().map_or(1, |last| last.0.saturating_add(1)).max(next_spool(connection)?);
    for spool in spools {
        let (found, passed_over) = recover_spool(connection, spool, window, anchor)?;
        unreadable += passed_over;
        recovered.spools.push((spool, found));
    }
    Ok((recovered, unreadable))
}

/// Counts by rules what an earlier version has counted in all alone. Sessions have no rules.
fn fit_rules(connection: &Connection) -> Result<(), StoreError> {
    for (spool, _) in buffers(connection)? {
        if let Some((totals, None)) = load_totals(connection, spool)? {
            Standing::of(totals, &count_rules(connection, spool)?).store(connection, spool)?;
        }
    }
    Ok(())
}

fn recover_spool(
    connection: &Connection,
    spool: SpoolId,
    window: Window,
    anchor: Anchor,
) -> Result<(RecoveredSpool, u64), StoreError> {
    let (totals, rules) = load_totals(connection, spool)?.unwrap_or_default();
    let reading = Reading { anchor, earlier: Seq(u64::MAX) };
    let page = load_page(connection, window.first_load(spool), reading)?;
    let mut inflight: Vec<(PacketId, Seq, Phase)> = Vec::new();
    let mut statement =
        connection.prepare_cached("SELECT packet_id, seq, phase FROM inflight WHERE spool = ?1")?;
    let mut found = statement.query((spool.0,))?;
    while let Some(row) = found.next()? {
        inflight.push((packet_id(row.get(0)?)?, seq_of_column(row.get(1)?)?, phase(row.get(2)?)?));
    }
    inflight.sort_by_key(|(packet_id, seq, _)| (*seq, *packet_id));
    let mut inbound = Vec::new();
    let mut statement =
        connection.prepare_cached("SELECT packet_id FROM inbound WHERE spool = ?1 ORDER BY packet_id")?;
    let mut found = statement.query((spool.0,))?;
    while let Some(row) = found.next()? {
        inbound.push(packet_id(row.get(0)?)?);
    }
    // An entry that was put and dropped within one batch left no totals, but may be in flight still.
    let last_seq = inflight.last().map_or(Seq(0), |(_, seq, _)| *seq).max(totals.last_seq);
    let spool = RecoveredSpool {
        head: page.entries,
        messages: totals.messages,
        bytes: totals.bytes,
        rules: rules.unwrap_or_default(),
        last_seq,
        inflight,
        inbound,
    };
    Ok((spool, page.unreadable))
}

fn rows<T>(
    connection: &Connection,
    sql: &str,
    mut decode: impl FnMut(&rusqlite::Row<'_>) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let mut statement = connection.prepare(sql)?;
    let mut found = statement.query([])?;
    let mut all = Vec::new();
    while let Some(row) = found.next()? {
        all.push(decode(row)?);
    }
    Ok(all)
}

/// One step a spool, however many entries each has.
fn entry_spools(connection: &Connection) -> Result<BTreeSet<SpoolId>, StoreError> {
    let mut next = connection.prepare("SELECT min(spool) FROM stretch WHERE spool > ?1")?;
    let mut spools = BTreeSet::new();
    let mut after = -1i64;
    while let Some(spool) = next.query_row((after,), |row| row.get::<_, Option<u32>>(0))? {
        spools.insert(SpoolId(spool));
        after = spool.into();
    }
    Ok(spools)
}

fn next_spool(connection: &Connection) -> Result<u32, StoreError> {
    let sql = "SELECT value FROM mark WHERE name = 'next_spool'";
    Ok(connection.query_row(sql, [], |row| row.get(0))?)
}

fn sessions(connection: &Connection, anchor: Anchor) -> Result<Vec<SessionRow>, StoreError> {
    let sql = "SELECT spool, client_id, expiry_interval, disconnected_at FROM session ORDER BY spool";
    rows(connection, sql, |row| {
        Ok(SessionRow {
            spool: SpoolId(row.get(0)?),
            client_id: row.get::<_, Arc<str>>(1)?,
            expiry_interval: row.get(2)?,
            disconnected_at: row.get::<_, Option<i64>>(3)?.map(|column| anchor.of_column(column)),
        })
    })
}

fn buffers(connection: &Connection) -> Result<Vec<(SpoolId, Arc<str>)>, StoreError> {
    let sql = "SELECT spool, bridge FROM buffer ORDER BY spool";
    rows(connection, sql, |row| Ok((SpoolId(row.get(0)?), row.get::<_, Arc<str>>(1)?)))
}

type SubscriptionRow = (SpoolId, TopicFilter, SubscriptionOptions, Option<u32>);

fn subscriptions(connection: &Connection) -> Result<Vec<SubscriptionRow>, StoreError> {
    let sql = "SELECT spool, filter, options, identifier FROM subscription ORDER BY spool, filter";
    rows(connection, sql, |row| {
        let text: String = row.get(1)?;
        let filter = TopicFilter::new(&text).map_err(|_| StoreError::Corrupt)?;
        Ok((SpoolId(row.get(0)?), filter, options_of_column(row.get(2)?)?, row.get(3)?))
    })
}

fn wills(connection: &Connection) -> Result<Vec<(SpoolId, Will)>, StoreError> {
    rows(connection, "SELECT spool, data FROM will ORDER BY spool", |row| {
        Ok((SpoolId(row.get(0)?), decode_will(&row.get::<_, Vec<u8>>(1)?)?))
    })
}

/// A mark that is none costs the number of one session.
fn births(connection: &Connection) -> Result<BTreeMap<SpoolId, u8>, StoreError> {
    let found = rows(connection, "SELECT name, value FROM mark WHERE name GLOB 'birth:*'", |row| {
        let name: String = row.get(0)?;
        let spool = name.strip_prefix(BIRTH_PREFIX).and_then(|number| number.parse().ok());
        Ok(spool.map(SpoolId).zip(u8::try_from(row.get::<_, i64>(1)?).ok()))
    })?;
    Ok(found.into_iter().flatten().collect())
}

fn retained(
    connection: &Connection,
    anchor: Anchor,
    unreadable: &mut u64,
) -> Result<Vec<Arc<Message>>, StoreError> {
    let decoded = rows(connection, "SELECT topic, data FROM retained ORDER BY topic", |row| {
        let topic: String = row.get(0)?;
        let message = decode_retained(&topic, &row.get::<_, Vec<u8>>(1)?, anchor);
        *unreadable += u64::from(message.is_err());
        Ok(message.ok().map(Arc::new))
    })?;
    Ok(decoded.into_iter().flatten().collect())
}

fn packet_id(column: u16) -> Result<PacketId, StoreError> {
    PacketId::new(column).ok_or(StoreError::Corrupt)
}

fn phase(column: u8) -> Result<Phase, StoreError> {
    match column {
        1 => Ok(Phase::Published),
        2 => Ok(Phase::Released),
        _ => Err(StoreError::Corrupt),
    }
}

#[cfg(test)]
mod tests {
    use super::{CHECK_WAIT, Window, check_pages_for, open};
    use crate::base::time::{Duration, Now};
    use crate::store::schema::Sync;

    #[test]
    fn a_check_that_runs_out_of_time_is_no_finding_and_harms_no_later_query() {
        let dir = tempfile::tempdir().unwrap();
        let window = Window { messages_max: 1, bytes_max: 1 };
        let (database, _) = open(dir.path(), Sync::Off, window, Now::default()).unwrap();
        let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
                    INSERT INTO stretch SELECT 1, i, zeroblob(10), zeroblob(100) FROM n";
        database.connection.execute_batch(fill).unwrap();
        for wait in [Duration::ZERO, Duration::from_millis(1), CHECK_WAIT] {
            assert_eq!(check_pages_for(&database.connection, wait), Ok(()), "{wait:?}");
            let count: u32 =
                database.connection.query_row("SELECT count(*) FROM stretch", [], |row| row.get(0)).unwrap();
            assert_eq!(count, 100_000);
        }
    }
}
