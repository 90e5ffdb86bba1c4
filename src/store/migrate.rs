//! Brings tables and file of an earlier version to this one. Never loses a row, never touches what a later version
//! wrote.

use rusqlite::Connection;

use crate::store::error::StoreError;
use crate::store::pages::{seq_column, seq_of_column};
use crate::store::schema::{PAGE_BYTES, TOTALS_SEQ, VERSION_1, VERSION_2};
use crate::store::stretch::{Item, Stretch};

/// The version that this program writes.
pub(super) const SCHEMA_VERSION: u32 = 2;
type Step = fn(&Connection) -> Result<(), StoreError>;
/// Step n brings version n to n + 1.
const STEPS: [Step; SCHEMA_VERSION as usize] = [make_tables, move_entries];
/// A file that holds no more than this is written anew with pages of this version's size. It takes so much memory,
/// and so much time on a slow disk that a start can spare it.
const REWRITTEN_BYTES_MAX: u64 = 8 << 20;

/// Refuses what a later version wrote, before anything is touched.
pub(super) fn check_version(connection: &Connection) -> Result<u32, StoreError> {
    let found: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found > SCHEMA_VERSION {
        return Err(StoreError::NewerSchema { found, known: SCHEMA_VERSION });
    }
    Ok(found)
}

/// Brings the tables to the version of this program, each step whole or not at all.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let found = check_version(connection)?;
    for (version, step) in (1u32..).zip(STEPS).skip(found as usize) {
        let transaction = connection.transaction()?;
        step(&transaction)?;
        transaction.pragma_update(None, "user_version", version)?;
        transaction.commit()?;
    }
    Ok(())
}

/// Gives the pages of an earlier version's file this version's size, where that is cheap. A file that cannot be
/// rewritten works as it is: its pages only cost more.
pub(super) fn fit_pages(connection: &Connection) -> Result<(), StoreError> {
    let number = |name: &str| {
        connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, u32>(0)).map(u64::from)
    };
    let page_bytes = number("page_size")?;
    let used = (number("page_count")? - number("freelist_count")?) * page_bytes;
    if page_bytes == u64::from(PAGE_BYTES) || used > REWRITTEN_BYTES_MAX {
        return Ok(());
    }
    // The size cannot be changed beside a write-ahead log.
    let rewritten = connection
        .execute_batch(&format!("PRAGMA journal_mode = DELETE; PRAGMA page_size = {PAGE_BYTES}; VACUUM;"));
    if let Err(error) = rewritten {
        tracing::warn!(%error, "the database keeps its larger pages, which write more to the disk");
    }
    Ok(connection.execute_batch("PRAGMA journal_mode = WAL")?)
}

fn make_tables(connection: &Connection) -> Result<(), StoreError> {
    Ok(connection.execute_batch(VERSION_1)?)
}

/// Version 1 has a row an entry. Their blobs stay as they are.
fn move_entries(connection: &Connection) -> Result<(), StoreError> {
    connection.execute_batch(VERSION_2)?;
    let mut statement =
        connection.prepare("SELECT spool, seq, size, body, data FROM entry ORDER BY spool, seq")?;
    let mut rows = statement.query([])?;
    let (mut spool, mut stretch) = (0, Stretch::default());
    while let Some(row) = rows.next()? {
        let (of, seq, data): (u32, i64, Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(4)?);
        if seq == TOTALS_SEQ {
            insert(connection, of, (seq, &data, &[]))?;
            continue;
        }
        let seq = seq_of_column(seq)?;
        if of != spool || !stretch.takes(seq, data.len()) {
            put(connection, spool, &std::mem::take(&mut stretch))?;
            spool = of;
        }
        let size = u64::try_from(row.get::<_, i64>(2)?).unwrap_or(0);
        stretch.items.push(Item { seq, size, body: row.get(3)?, data });
    }
    put(connection, spool, &stretch)?;
    drop(rows);
    drop(statement);
    Ok(connection.execute_batch("DROP TABLE entry")?)
}

fn put(connection: &Connection, spool: u32, stretch: &Stretch) -> Result<(), StoreError> {
    let Some((_, last)) = stretch.ends() else { return Ok(()) };
    let (head, data) = stretch.encode();
    insert(connection, spool, (seq_column(last), &head, &data))
}

fn insert(
    connection: &Connection,
    spool: u32,
    (last, head, data): (i64, &[u8], &[u8]),
) -> Result<(), StoreError> {
    let sql = "INSERT INTO stretch (spool, last, head, data) VALUES (?1, ?2, ?3, ?4)";
    connection.prepare_cached(sql)?.execute((spool, last, head, data))?;
    Ok(())
}
