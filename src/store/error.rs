//! What can go wrong with the database, as facts. Never holds text made elsewhere: the advice stands here.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

/// What the disk or the database refused. Its text says what would help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreError {
    /// A file or directory of the store cannot be made, opened or moved.
    CannotOpen { path: PathBuf, kind: io::ErrorKind },
    /// A later version of Tidegate wrote the database.
    NewerSchema { found: u32, known: u32 },
    /// Another gateway works on the same directory.
    Locked { path: PathBuf },
    /// Pages or rows hold what no version has written.
    Corrupt,
    /// The file system is full, or the database has reached its bound.
    DiskFull,
    /// The file system or the file cannot be written.
    ReadOnly,
    /// A read, write or sync failed; SQLite's extended result code.
    Io { code: i32 },
    /// Anything else that SQLite reports, by its extended result code.
    Sqlite { code: i32 },
    /// The writer's thread could not start, or ended before its time.
    WriterGone,
}

impl StoreError {
    pub(super) fn cannot_open(path: &Path, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull,
            kind => Self::CannotOpen { path: path.to_owned(), kind },
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CannotOpen { path, kind: io::ErrorKind::NotFound } => {
                write!(f, "cannot open {}: no such file or folder (check `data_dir`)", path.display())
            }
            Self::CannotOpen { path, kind } => {
                write!(f, "cannot open {}: {kind} (check `data_dir`, its owner and its mode)", path.display())
            }
            Self::NewerSchema { found, known } => write!(
                f,
                "the database has schema {found}, this version knows {known} (run the newer tidegate, or \
                 give an empty `data_dir`)"
            ),
            Self::Locked { path } => write!(
                f,
                "another tidegate holds {} (stop it, or give each gateway a `data_dir` of its own)",
                path.display()
            ),
            Self::Corrupt => {
                f.write_str("the database is damaged (restart to set it aside; check the storage medium)")
            }
            Self::DiskFull => {
                f.write_str("no space is left for the database (free some, or make the buffers smaller)")
            }
            Self::ReadOnly => f.write_str(
                "the database cannot be written (remount the file system writable, check its mode)",
            ),
            Self::Io { code } => write!(
                f,
                "reading or writing the database failed, SQLite code {code} (check the storage medium and the \
                 kernel's log)"
            ),
            Self::Sqlite { code } => write!(f, "the database refused, SQLite code {code}"),
            Self::WriterGone => f.write_str("the writer's thread is gone (restart the gateway)"),
        }
    }
}

impl std::error::Error for StoreError {}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error {
            rusqlite::Error::SqliteFailure(failure, _) => from_failure(failure),
            // A column of another type, a value out of range, a row that must be there and is not.
            _ => Self::Corrupt,
        }
    }
}

fn from_failure(failure: rusqlite::ffi::Error) -> StoreError {
    let code = failure.extended_code;
    // The file ends within a page: what is missing does not come back.
    if code == rusqlite::ffi::SQLITE_IOERR_SHORT_READ {
        return StoreError::Corrupt;
    }
    match failure.code {
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => StoreError::Corrupt,
        ErrorCode::DiskFull => StoreError::DiskFull,
        ErrorCode::ReadOnly | ErrorCode::PermissionDenied => StoreError::ReadOnly,
        ErrorCode::SystemIoFailure | ErrorCode::CannotOpen | ErrorCode::FileLockingProtocolFailed => {
            StoreError::Io { code }
        }
        _ => StoreError::Sqlite { code },
    }
}

#[cfg(test)]
mod tests {
    use super::StoreError;
    use std::path::PathBuf;

    #[test]
    fn every_error_says_what_would_help() {
        let path = PathBuf::from("/var/lib/tidegate");
        let errors = [
            StoreError::CannotOpen { path: path.clone(), kind: std::io::ErrorKind::PermissionDenied },
            StoreError::NewerSchema { found: 2, known: 1 },
            StoreError::Locked { path },
            StoreError::Corrupt,
            StoreError::DiskFull,
            StoreError::ReadOnly,
            StoreError::Io { code: 1034 },
            StoreError::WriterGone,
        ];
        for error in errors {
            let text = error.to_string();
            assert!(text.contains('(') && text.ends_with(')') && !text.contains('\n'), "{text}");
        }
    }

    #[test]
    fn sqlite_codes_become_facts() {
        let cases = [
            (rusqlite::ffi::SQLITE_FULL, StoreError::DiskFull),
            (rusqlite::ffi::SQLITE_CORRUPT, StoreError::Corrupt),
            (rusqlite::ffi::SQLITE_NOTADB, StoreError::Corrupt),
            (rusqlite::ffi::SQLITE_IOERR_SHORT_READ, StoreError::Corrupt),
            (rusqlite::ffi::SQLITE_READONLY_DBMOVED, StoreError::ReadOnly),
            (rusqlite::ffi::SQLITE_IOERR_FSYNC, StoreError::Io { code: rusqlite::ffi::SQLITE_IOERR_FSYNC }),
        ];
        for (code, fact) in cases {
            let error = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
            assert_eq!(StoreError::from(error), fact);
        }
    }
}
