//! Reads a page of a spool beside the writer, on a connection of its own. Never writes, holds no lock for longer
//! than a query.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use crate::base::boot::Boot;
use crate::base::time::Now;
use crate::store::age::Anchor;
use crate::store::dates::load_dates;
use crate::store::error::StoreError;
use crate::store::migrate::check_version;
use crate::store::pages::{Reading, load_page};
use crate::store::record::{Entry, Load, Seq};
use crate::store::schema::{BUSY_WAIT, DATABASE_FILE};

/// What `load` asks for, as the last commit left it. Times are those of the wall clock; rows that cannot be
/// read are passed over.
pub fn read_page(data_dir: &Path, load: Load, now: Now) -> Result<Vec<Entry>, StoreError> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE;
    let connection = Connection::open_with_flags(data_dir.join(DATABASE_FILE), flags)?;
    connection.busy_timeout(BUSY_WAIT)?;
    check_version(&connection)?;
    let anchor = Anchor::new(now, Boot::current()).with_dates(load_dates(&connection)?);
    let reading = Reading { anchor, earlier: Seq(u64::MAX) };
    Ok(load_page(&connection, load, reading)?.entries)
}
