//! Reads a page of a spool, or what the file is, beside the writer, on a connection of its own. Never writes, holds no
//! lock for longer than a query.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use serde::Serialize;

use crate::base::boot::Boot;
use crate::base::time::Now;
use crate::store::age::Anchor;
use crate::store::dates::load_dates;
use crate::store::error::StoreError;
use crate::store::migrate::{SCHEMA_VERSION, check_version};
use crate::store::pages::{Reading, load_page, load_totals};
use crate::store::record::{Entry, Load, Seq, SpoolId};
use crate::store::schema::{BUSY_WAIT, DATABASE_FILE};

/// What `load` asks for, as the last commit left it. Times are those of the wall clock; rows that cannot be
/// read are passed over.
pub fn read_page(data_dir: &Path, load: Load, now: Now) -> Result<Vec<Entry>, StoreError> {
    let connection = open(data_dir)?;
    check_version(&connection)?;
    let anchor = Anchor::new(now, Boot::current()).with_dates(load_dates(&connection)?);
    let reading = Reading { anchor, earlier: Seq(u64::MAX) };
    Ok(load_page(&connection, load, reading)?.entries)
}

fn open(data_dir: &Path) -> Result<Connection, StoreError> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE;
    let connection = Connection::open_with_flags(data_dir.join(DATABASE_FILE), flags)?;
    connection.busy_timeout(BUSY_WAIT)?;
    Ok(connection)
}

/// Tables that are counted in no time, however much waits: messages are counted by their totals.
const COUNTED_TABLES: [&str; 6] = ["session", "subscription", "will", "inflight", "inbound", "retained"];

/// What the database is and how much is in it; nothing of what it holds.
#[derive(Debug, Clone, Serialize)]
pub struct Description {
    pub sqlite: &'static str,
    /// Of the file, and of what this program writes.
    pub schema_version: u32,
    pub schema_version_known: u32,
    pub page_bytes: u64,
    pub pages: u64,
    pub pages_free: u64,
    /// By table.
    pub rows: BTreeMap<&'static str, u64>,
    /// By the names of buffers: a bridge and its lane, or a device's commands.
    pub waiting: BTreeMap<String, Waiting>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct Waiting {
    pub messages: u64,
    pub bytes: u64,
}

/// Also of a file that a later version wrote, as far as it has the same tables.
pub fn describe(data_dir: &Path) -> Result<Description, StoreError> {
    let connection = open(data_dir)?;
    let number = |name: &str| -> Result<u64, StoreError> {
        let found: i64 = connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))?;
        Ok(u64::try_from(found).unwrap_or(0))
    };
    let mut rows = BTreeMap::new();
    for table in COUNTED_TABLES {
        // A version of before or after this one may have no such table.
        let count =
            connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0));
        rows.extend(count.ok().map(|count| (table, u64::try_from(count).unwrap_or(0))));
    }
    Ok(Description {
        sqlite: rusqlite::version(),
        schema_version: u32::try_from(number("user_version")?).unwrap_or(u32::MAX),
        schema_version_known: SCHEMA_VERSION,
        page_bytes: number("page_size")?,
        pages: number("page_count")?,
        pages_free: number("freelist_count")?,
        rows,
        waiting: waiting(&connection)?,
    })
}

fn waiting(connection: &Connection) -> Result<BTreeMap<String, Waiting>, StoreError> {
    let mut statement = connection.prepare("SELECT spool, bridge FROM buffer")?;
    let spools = statement.query_map([], |row| Ok((SpoolId(row.get(0)?), row.get::<_, String>(1)?)))?;
    let mut waiting = BTreeMap::new();
    for row in spools {
        let (spool, name) = row?;
        let totals = load_totals(connection, spool)?.map(|(totals, _)| totals).unwrap_or_default();
        // Behind the name stands whose session it is.
        let name = name.split(' ').next().unwrap_or_default().to_owned();
        waiting.insert(name, Waiting { messages: totals.messages, bytes: totals.bytes });
    }
    Ok(waiting)
}
