//! The database file, its settings, its lock and its tables by version. Never reads or writes a row of them.
//!
//! Entries of a spool stand side by side in one clustered table, those of one commit in one row, so that a commit
//! dirties few pages and a range is read in order. Each spool ends with a row of its own, at [`TOTALS_SEQ`], that
//! holds what stands in it: an append dirties that page anyway, so that exact totals cost no page of their own, and
//! the last sequence number outlives an empty queue.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::base::time::{Duration, Timestamp};
use crate::store::error::StoreError;

pub const DATABASE_FILE: &str = "tidegate.db";
pub const LOCK_FILE: &str = "tidegate.lock";

/// Where in a spool its totals stand: behind every entry.
pub(super) const TOTALS_SEQ: i64 = i64::MAX;

/// Small: a commit in an outage writes whole pages for a kilobyte of messages.
pub(super) const PAGE_BYTES: u32 = 1024;
/// Of the log, in pages, before it is carried into the database: a page that changes often in between is written
/// there once.
const CARRIED_PAGES: u32 = 4096;
/// The log is copied in pieces of so much.
const COPY_BYTES: usize = 64 * 1024;
/// Room for every statement of the room, so that none is prepared twice.
const STATEMENTS_MAX: usize = 48;
/// Readers beside the gateway hold no lock for longer than a query.
pub(super) const BUSY_WAIT: Duration = Duration::from_secs(1);

/// Small tables first: the check after a crash walks them in this order and may run out of time.
///
/// `body.holds` is the number of entries that share the message, plus one: SQLite keeps 0 and 1 in the row's
/// header, and only a row whose length stays is overwritten in place instead of being written anew.
pub(super) const VERSION_1: &str = "
CREATE TABLE mark (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO mark VALUES ('next_spool', 1);
CREATE TABLE session (
    spool INTEGER PRIMARY KEY, client_id TEXT NOT NULL, expiry_interval INTEGER NOT NULL,
    disconnected_at INTEGER
) STRICT;
CREATE TABLE buffer (spool INTEGER PRIMARY KEY, bridge TEXT NOT NULL) STRICT;
CREATE TABLE subscription (
    spool INTEGER NOT NULL, filter TEXT NOT NULL, options INTEGER NOT NULL, identifier INTEGER,
    PRIMARY KEY (spool, filter)
) STRICT, WITHOUT ROWID;
CREATE TABLE will (spool INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT;
CREATE TABLE inflight (
    spool INTEGER NOT NULL, packet_id INTEGER NOT NULL, seq INTEGER NOT NULL, phase INTEGER NOT NULL,
    PRIMARY KEY (spool, packet_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE inbound (
    spool INTEGER NOT NULL, packet_id INTEGER NOT NULL, PRIMARY KEY (spool, packet_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE retained (topic TEXT PRIMARY KEY, data BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE body (id INTEGER PRIMARY KEY, holds INTEGER NOT NULL, data BLOB NOT NULL) STRICT;
CREATE TABLE entry (
    spool INTEGER NOT NULL, seq INTEGER NOT NULL, size INTEGER NOT NULL, body INTEGER, data BLOB NOT NULL,
    PRIMARY KEY (spool, seq)
) STRICT, WITHOUT ROWID;
";

/// Entries of a spool in stretches, see `stretch`; `gone` says which of a stretch have been dropped.
pub(super) const VERSION_2: &str = "
CREATE TABLE stretch (
    spool INTEGER NOT NULL, last INTEGER NOT NULL, head BLOB NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (spool, last)
) STRICT, WITHOUT ROWID;
CREATE TABLE gone (
    spool INTEGER NOT NULL, last INTEGER NOT NULL, bits BLOB NOT NULL, PRIMARY KEY (spool, last)
) STRICT, WITHOUT ROWID;
";

/// What a commit survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// Loss of power: the log is synced at each commit.
    Full,
    /// The end of the process: synced at checkpoints only; power loss costs the last commits.
    Normal,
    /// The end of the process: never synced; power loss may cost the database.
    Off,
}

impl Sync {
    const fn pragma(self) -> &'static str {
        match self {
            Self::Full => "FULL",
            Self::Normal => "NORMAL",
            Self::Off => "OFF",
        }
    }
}

/// How to get a connection: kept, since a failed sync calls for a new one.
#[derive(Debug, Clone)]
pub(super) struct Access {
    pub(super) path: PathBuf,
    pub(super) sync: Sync,
}

impl Access {
    /// The write-ahead log beside the database.
    pub(super) fn wal_path(&self) -> PathBuf {
        beside(&self.path, "-wal")
    }

    /// Writes the log anew, byte for byte, and syncs it.
    ///
    /// After a failed sync the kernel may hold pages that look written and are not, and only what is written again is
    /// synced again. Behind such a hole nothing that is added to the log outlives a loss of power; and a database that
    /// has more of the log in it than what is left of the log itself is a damaged one.
    pub(super) fn rewrite_log(&self) -> Result<(), StoreError> {
        let path = self.wal_path();
        let log = match OpenOptions::new().read(true).write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened.map_err(|error| StoreError::cannot_open(&path, &error))?,
        };
        copy_onto_itself(&log).map_err(|_| StoreError::Io { code: rusqlite::ffi::SQLITE_IOERR_FSYNC })
    }

    /// A log that is new must not be lost with its name. SQLite syncs the folder too, but does not mind if that fails.
    fn sync_names(&self) -> Result<(), StoreError> {
        let folder = self.path.parent().unwrap_or(&self.path);
        if self.sync == Sync::Off {
            return Ok(());
        }
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|_| StoreError::Io { code: rusqlite::ffi::SQLITE_IOERR_DIR_FSYNC })
    }

    /// SQLite says that it cannot open the file, the system says why.
    fn why_not(&self, error: rusqlite::Error) -> StoreError {
        match File::open(&self.path) {
            Err(why) if error.sqlite_error_code() == Some(ErrorCode::CannotOpen) => {
                StoreError::cannot_open(&self.path, &why)
            }
            _ => error.into(),
        }
    }

    /// Opens or creates the file and sets what a connection does not remember.
    pub(super) fn connect(&self) -> Result<Connection, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_EXRESCODE;
        let connection =
            Connection::open_with_flags(&self.path, flags).map_err(|error| self.why_not(error))?;
        // SQLite opens what it may not write for reading alone.
        if connection.is_readonly("main")? {
            return Err(StoreError::ReadOnly);
        }
        connection.busy_timeout(BUSY_WAIT)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        // The vacuum mode would be written anew into a file that has it.
        if connection.query_row("PRAGMA page_count", [], |row| row.get::<_, u32>(0))? == 0 {
            connection.execute_batch(&format!(
                "PRAGMA page_size = {PAGE_BYTES}; PRAGMA auto_vacuum = INCREMENTAL"
            ))?;
        }
        // No mmap: a bad sector must be an error, not a signal. The log keeps its length up to 4 MiB, so that it
        // need not be allocated again.
        connection.execute_batch(&format!(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = {}; PRAGMA journal_size_limit = 4194304;
             PRAGMA wal_autocheckpoint = {CARRIED_PAGES}; PRAGMA cache_size = -2000; PRAGMA temp_store = MEMORY;
             PRAGMA mmap_size = 0; PRAGMA foreign_keys = OFF; PRAGMA trusted_schema = OFF;
             PRAGMA cell_size_check = ON;",
            self.sync.pragma()
        ))?;
        self.sync_names()?;
        Ok(connection)
    }
}

/// Writes the log into the database; the log begins anew and keeps its length, which a disk that fills up
/// cannot take away. A reader may hold parts of it back; the next turn takes them.
pub(super) fn carry_log(connection: &Connection) -> Result<(), StoreError> {
    connection.execute_batch("PRAGMA wal_checkpoint(PASSIVE)").map_err(StoreError::from)
}

fn copy_onto_itself(file: &File) -> io::Result<()> {
    let mut chunk = vec![0; COPY_BYTES];
    let mut offset = 0;
    loop {
        let length = file.read_at(&mut chunk, offset)?;
        if length == 0 {
            return file.sync_all();
        }
        file.write_all_at(chunk.get(..length).unwrap_or_default(), offset)?;
        offset += length as u64;
    }
}

/// `path` with `suffix` behind its name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// When the database was written last, as far as its files say: by the clock of that time.
pub fn last_written(data_dir: &Path) -> Option<Timestamp> {
    let database = data_dir.join(DATABASE_FILE);
    let files = [beside(&database, "-wal"), database];
    let written = files.iter().find_map(|file| file.metadata().ok().filter(|found| found.len() > 0));
    let since_epoch = written?.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since_epoch.as_millis()).ok().map(Timestamp::from_millis)
}

/// Holds off a second gateway for as long as it lives.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // To close the file is not enough: a process that is being started may share it for a moment.
        let _ended = self.0.unlock();
    }
}

/// Readers do not ask for it.
pub(super) fn lock(data_dir: &Path) -> Result<Lock, StoreError> {
    let path = data_dir.join(LOCK_FILE);
    let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = opened.map_err(|error| StoreError::cannot_open(&path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked { path: data_dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(StoreError::cannot_open(&path, &error)),
    }
}
