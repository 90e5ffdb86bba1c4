//! Gives pages that nobody needs back to the file system, and the log back to the database, one bounded step at a
//! time. Never touches a row.

use std::time::Instant;

use rusqlite::Connection;

use crate::base::time::Duration;
use crate::store::error::StoreError;

/// Without work for so long, the disk is nobody's but ours.
const QUIET_WAIT: Duration = Duration::from_secs(5);
/// Between two steps, so that whoever waits for a commit comes in between.
const STEP_WAIT: Duration = Duration::from_millis(100);
/// Commits that are worth carrying from the log into the database while it is quiet. Each page of the log is written
/// once more then, and the fewer of them are the same page, the more that costs.
const QUIET_COMMITS_MIN: u64 = 128;
/// Free pages that the file keeps for reuse (4 MiB): giving them back and asking again wears the flash.
const FREE_PAGES_KEPT: u64 = 4096;
/// Pages that one step gives back.
const STEP_PAGES: u64 = 1024;

#[derive(Debug)]
pub(super) struct Tidying {
    worked_at: Instant,
    next_at: Instant,
    /// How many commits had been made when the log was last carried over.
    carried_commits: u64,
    /// Pages were given back in the log alone: the file is cut when all of that is carried over.
    uncut: bool,
}

impl Default for Tidying {
    fn default() -> Self {
        let now = Instant::now();
        Self { worked_at: now, next_at: now + QUIET_WAIT, carried_commits: 0, uncut: false }
    }
}

impl Tidying {
    /// Until the next step.
    pub(super) fn wait(&self) -> Duration {
        self.next_at.saturating_duration_since(Instant::now())
    }

    /// Something was committed or read.
    pub(super) fn handle_work(&mut self) {
        self.worked_at = Instant::now();
    }

    pub(super) fn step(&mut self, connection: &Connection, commits: u64) {
        let wait = self.take_step(connection, commits);
        self.next_at = Instant::now() + wait;
    }

    /// Returns how long the next one can wait. A gateway may never be without work: one that uses less than half of its file gives back the rest all
    /// the same. Before that the pages at the end are mostly in use, and to move them costs what they will soon be
    /// given back for nothing.
    fn take_step(&mut self, connection: &Connection, commits: u64) -> Duration {
        let quiet = self.worked_at.elapsed() >= QUIET_WAIT;
        let (pages, free) = (number(connection, "page_count"), number(connection, "freelist_count"));
        let surplus = free.saturating_sub(FREE_PAGES_KEPT);
        if surplus > 0 && (quiet || surplus > pages.saturating_sub(free)) {
            self.uncut |= give_back(connection, surplus.min(STEP_PAGES)).is_ok();
            return STEP_WAIT;
        }
        if self.uncut || (quiet && commits - self.carried_commits >= QUIET_COMMITS_MIN) {
            let carried = carry_log(connection);
            self.uncut &= carried != Ok(true);
            if carried.is_ok() {
                self.carried_commits = commits;
            }
        }
        QUIET_WAIT
    }
}

fn give_back(connection: &Connection, pages: u64) -> Result<(), StoreError> {
    let mut statement = connection.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
    let mut rows = statement.query([])?;
    // A page a row.
    while rows.next()?.is_some() {}
    Ok(())
}

/// Zero where it cannot be read: a step then does nothing.
fn number(connection: &Connection, name: &str) -> u64 {
    connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, u32>(0)).map_or(0, u64::from)
}

/// Writes the log into the database; the log begins anew and keeps its length, which a disk that fills up
/// cannot take away. False: a reader holds parts of it back; the next turn takes them.
pub(super) fn carry_log(connection: &Connection) -> Result<bool, StoreError> {
    let all = |row: &rusqlite::Row<'_>| Ok(row.get::<_, i64>(1)? == row.get::<_, i64>(2)?);
    Ok(connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], all)?)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Instant;

    use rusqlite::Connection;

    use super::{FREE_PAGES_KEPT, QUIET_COMMITS_MIN, QUIET_WAIT, STEP_PAGES, STEP_WAIT, Tidying, number};
    use crate::store::schema::{Access, PAGE_BYTES, Sync};

    const PAYLOAD_BYTES: u64 = 900;

    /// A database of the gateway's settings with about so many pages in use, and one that looks at it.
    fn filled(path: &Path, pages: u64) -> (Connection, Connection) {
        let access = Access { path: path.join("test.db"), sync: Sync::Off };
        let connection = access.connect().unwrap();
        connection.execute_batch("CREATE TABLE filled (id INTEGER PRIMARY KEY, data BLOB)").unwrap();
        let fill = format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {pages})
             INSERT INTO filled SELECT i, zeroblob({PAYLOAD_BYTES}) FROM n"
        );
        connection.execute_batch(&fill).unwrap();
        let reader = access.connect().unwrap();
        (connection, reader)
    }

    fn file_bytes(path: &Path) -> u64 {
        std::fs::metadata(path.join("test.db")).unwrap().len()
    }

    fn free(connection: &Connection) -> u64 {
        number(connection, "freelist_count")
    }

    fn quiet() -> Tidying {
        Tidying { worked_at: Instant::now().checked_sub(QUIET_WAIT).unwrap(), ..Tidying::default() }
    }

    #[test]
    fn steps_are_bounded_and_end_with_a_small_file() {
        for (busy, kept) in [(false, 6000), (true, 500)] {
            let dir = tempfile::tempdir().unwrap();
            let (connection, reader) = filled(dir.path(), kept + 4 * STEP_PAGES + FREE_PAGES_KEPT);
            connection.execute(&format!("DELETE FROM filled WHERE id > {kept}"), []).unwrap();
            let mut tidying = if busy { Tidying::default() } else { quiet() };
            // Who reads holds the cut up, but not for ever.
            reader.execute_batch("BEGIN; SELECT count(*) FROM filled").unwrap();
            let mut left = free(&connection);
            while tidying.take_step(&connection, 0) == STEP_WAIT {
                assert!(tidying.uncut);
                let before = std::mem::replace(&mut left, free(&connection));
                assert_eq!(before - left, STEP_PAGES.min(before - FREE_PAGES_KEPT));
            }
            let spare = if busy { 2 * kept } else { 0 };
            assert!((FREE_PAGES_KEPT..=FREE_PAGES_KEPT + spare).contains(&left), "{left}");
            assert!(tidying.uncut);
            reader.execute_batch("COMMIT").unwrap();
            assert_eq!(tidying.take_step(&connection, 0), QUIET_WAIT);
            assert!(!tidying.uncut);
            let bytes = number(&connection, "page_count") * u64::from(PAGE_BYTES);
            assert_eq!(file_bytes(dir.path()), bytes);
        }
    }

    #[test]
    fn a_file_in_use_is_left_alone_by_a_gateway_at_work() {
        let dir = tempfile::tempdir().unwrap();
        let (connection, _) = filled(dir.path(), 4 * FREE_PAGES_KEPT);
        connection.execute("DELETE FROM filled WHERE id % 2 = 0", []).unwrap();
        let before = free(&connection);
        assert!(before > FREE_PAGES_KEPT);
        let mut tidying = Tidying::default();
        assert_eq!(tidying.take_step(&connection, 0), QUIET_WAIT);
        assert_eq!(free(&connection), before);
        assert!(!tidying.uncut);
    }

    #[test]
    fn the_log_is_carried_over_when_it_is_quiet_and_enough_has_gathered() {
        let dir = tempfile::tempdir().unwrap();
        let (connection, _) = filled(dir.path(), 10);
        for (mut tidying, commits, carried) in [
            (quiet(), QUIET_COMMITS_MIN - 1, 0),
            (Tidying::default(), QUIET_COMMITS_MIN, 0),
            (quiet(), QUIET_COMMITS_MIN, QUIET_COMMITS_MIN),
        ] {
            tidying.take_step(&connection, commits);
            assert_eq!(tidying.carried_commits, carried);
        }
        // The file alone, without its log, holds all.
        let alone = dir.path().join("alone.db");
        std::fs::copy(dir.path().join("test.db"), &alone).unwrap();
        assert_eq!(
            Connection::open(alone)
                .unwrap()
                .query_row("SELECT count(*) FROM filled", [], |row| row.get::<_, u32>(0))
                .unwrap(),
            10
        );
    }
}
