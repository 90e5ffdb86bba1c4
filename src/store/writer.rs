//! The one thread that writes: takes all that was pushed, commits it together, then says so. Keeps a batch
//! that the disk refuses and tries again. Never drops a record and never decides what to keep.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use rusqlite::Connection;

use crate::base::time::Duration;
use crate::store::age::Anchor;
use crate::store::apply::apply_batch;
use crate::store::error::StoreError;
use crate::store::inbox::{Inbox, Stage, Visits};
use crate::store::pages::{Page, Reading, load_page};
use crate::store::record::{Entry, Load, Lsn, Record, Seq, SpoolId};
use crate::store::recover::{Database, suspect_damage};
use crate::store::reserve::{Reserve, free_bytes};
use crate::store::schema::{Access, Lock};
use crate::store::shared::{PAGES_UNBOUNDED, Shared};
use crate::store::trouble::{Told, Trouble};

/// Between two tries of a batch that the disk refused.
pub const RETRY_WAIT: Duration = Duration::from_secs(1);
/// Records that end a commit's gathering: more would not make it cheaper.
const GATHERED_RECORDS_MAX: usize = 4096;
/// Without work for so long, the writer tidies.
const IDLE_WAIT: Duration = Duration::from_secs(5);
/// How often a stop tries a batch that the disk refuses, at once: a stop must end.
const STOP_TRIES_MAX: u32 = 3;
/// Commits that are worth carrying from the log into the database while idle. Each page of the log is written
/// once more then, and the fewer of them are the same page, the more that costs.
const IDLE_COMMITS_MIN: u64 = 128;
/// Free pages that the file keeps for reuse (4 MiB): giving them back and asking again wears the flash.
const FREE_PAGES_KEPT: u32 = 4096;
/// Pages that one idle step gives back, so that work never waits long.
const VACUUM_STEP_PAGES: u32 = 1024;

/// Hears, on the writer's thread, what became of records and loads.
pub trait Observer: Send {
    /// All records up to `lsn` are safe.
    fn handle_durable(&mut self, lsn: Lsn);
    /// Entries as they stand after everything that was pushed before the load, and maybe after some that was
    /// pushed behind it. Fewer than asked for: there were no more.
    fn handle_loaded(&mut self, load: Load, entries: Vec<Entry>);
    /// The disk refuses a batch or a load: at most once a minute for each kind of error. Both are tried again
    /// until they work, which is the next `handle_durable` or `handle_loaded`. A load whose rows cannot all be read says `Corrupt`
    /// and is answered with the others.
    fn handle_failed(&mut self, error: &StoreError);
    /// The disk is full, each time that it is met: what room is left, if any, is that of the reserve.
    fn handle_full(&mut self) {}
}

/// What the writer has done since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    pub commits: u64,
    pub failures: u64,
    /// Rows written by commits.
    pub rows: u64,
    /// Encoded bytes handed to commits; what reaches the disk is more, by whole pages.
    pub bytes: u64,
    /// Connections that were given up for a new one, since what the file held was in doubt.
    pub reopened: u64,
    /// Space that is kept for a full disk; 0 where there is none or it is in use.
    pub reserve_bytes: u64,
}

/// The handle of the thread. Dropped without [`Writer::stop`], it leaves what was pushed unwritten.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    set_aside: Option<PathBuf>,
    unreadable: u64,
    thread: Mutex<Option<JoinHandle<Result<(), StoreError>>>>,
}

impl Writer {
    /// # Errors
    /// `WriterGone` where no thread can be made.
    pub fn start(database: Database, observer: Box<dyn Observer>) -> Result<Writer, StoreError> {
        let shared = Arc::new(Shared::default());
        let (set_aside, unreadable) = (database.set_aside.clone(), database.unreadable);
        let mut writing = Writing::new(database, Arc::clone(&shared), observer);
        // Here already, so that a start on a full disk shows it from its first moment on.
        writing.keep_reserve();
        let thread = std::thread::Builder::new().name("store".to_owned()).spawn(move || writing.run());
        let thread = thread.map_err(|_| StoreError::WriterGone)?;
        Ok(Writer { shared, set_aside, unreadable, thread: Mutex::new(Some(thread)) })
    }

    /// Hands over the records of one visit; `last` is the position of the last of them. Never waits.
    pub fn push(&self, records: Vec<Record>, last: Lsn) {
        self.shared.depth_records.fetch_add(records.len(), Ordering::Relaxed);
        self.shared.inbox().visits.push(records, last);
        self.shared.bell.notify_one();
    }

    /// Asks for entries; the observer gets them after the commit of what was pushed before.
    pub fn load(&self, load: Load) {
        self.shared.inbox().loads.push_back(load);
        self.shared.bell.notify_one();
    }

    /// Records that are pushed and not yet safe: over its mark, the caller must stop taking more.
    pub fn depth_records(&self) -> usize {
        self.shared.depth_records.load(Ordering::Relaxed)
    }

    /// Bounds the database in pages, from the next commit on; None: as large as the disk allows.
    /// What is over the bound already stays.
    pub fn limit_pages(&self, pages_max: Option<u32>) {
        self.shared.pages_max.store(pages_max.unwrap_or(PAGES_UNBOUNDED), Ordering::Relaxed);
        self.shared.inbox().retry_now = true;
        self.shared.bell.notify_one();
    }

    /// A commit waits so long for others to share it with, unless a load waits for it. Zero: it waits for nothing.
    pub fn set_gathering(&self, wait: Duration) {
        let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        self.shared.gathering_millis.store(millis, Ordering::Relaxed);
    }

    /// How often the thread has begun a turn or a try. It does so at least every `RETRY_WAIT` while anything
    /// waits, also for a disk that refuses: only one that does not come back stops it.
    pub fn turns(&self) -> u64 {
        self.shared.turns.load(Ordering::Relaxed)
    }

    pub fn stats(&self) -> Stats {
        let counters = &self.shared.counters;
        Stats {
            commits: counters.commits.load(Ordering::Relaxed),
            failures: counters.failures.load(Ordering::Relaxed),
            rows: counters.rows.load(Ordering::Relaxed),
            bytes: counters.bytes.load(Ordering::Relaxed),
            reopened: counters.reopened.load(Ordering::Relaxed),
            reserve_bytes: counters.reserve_bytes.load(Ordering::Relaxed),
        }
    }

    /// None: the disk takes what it is given, and has its reserve.
    pub fn trouble(&self) -> Option<Trouble> {
        self.shared.health.trouble()
    }

    /// Where the start moved a damaged database.
    pub fn set_aside(&self) -> Option<&Path> {
        self.set_aside.as_deref()
    }

    /// Rows that the start could not read and passed over.
    pub fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// Commits everything that was pushed, empties the log into the database and ends the thread.
    ///
    /// # Errors
    /// The last refusal, where some of it could not be written.
    pub fn stop(&self) -> Result<(), StoreError> {
        self.end(Stage::Stopping)
    }

    fn end(&self, stage: Stage) -> Result<(), StoreError> {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return Ok(()) };
        // The last handle may go with what the observer held: nobody can wait for himself.
        if thread.thread().id() == std::thread::current().id() {
            self.shared.inbox().stage = stage;
            return Ok(());
        }
        self.shared.inbox().stage = stage;
        self.shared.bell.notify_one();
        thread.join().unwrap_or(Err(StoreError::WriterGone))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.end(Stage::Abandoned);
    }
}

/// What the thread owns.
struct Writing {
    shared: Arc<Shared>,
    observer: Box<dyn Observer>,
    /// None after a failed read, write or sync: what the file holds is known only by opening it again.
    connection: Option<Connection>,
    access: Access,
    anchor: Anchor,
    earlier: BTreeMap<SpoolId, Seq>,
    /// Loads that the disk refuses, and when each was tried: a damaged page must not hold up the commits.
    refused: Vec<(Load, Instant)>,
    told: Told,
    reserve: Reserve,
    /// What the log holds may be in memory alone.
    log_in_doubt: bool,
    /// How many commits had been made when the log was last carried over.
    carried_commits: u64,
    _lock: Lock,
}

impl Writing {
    fn new(database: Database, shared: Arc<Shared>, observer: Box<dyn Observer>) -> Self {
        Self {
            shared,
            observer,
            connection: Some(database.connection),
            access: database.access,
            anchor: database.anchor,
            earlier: database.earlier,
            refused: Vec::new(),
            told: Told::default(),
            reserve: database.reserve,
            log_in_doubt: false,
            carried_commits: 0,
            _lock: database.lock,
        }
    }

    fn run(mut self) -> Result<(), StoreError> {
        loop {
            self.shared.turns.fetch_add(1, Ordering::Relaxed);
            let (visits, loads, stage) = {
                let calm = self.refused.is_empty() && !self.reserve.is_spent();
                let wait = if calm { IDLE_WAIT } else { RETRY_WAIT };
                let mut inbox = self.shared.wait_while(wait, |inbox| {
                    inbox.visits.count == 0 && inbox.loads.is_empty() && inbox.stage == Stage::Running
                });
                inbox.retry_now = false;
                (std::mem::take(&mut inbox.visits), std::mem::take(&mut inbox.loads), inbox.stage)
            };
            if stage == Stage::Abandoned {
                return Ok(());
            }
            let idle = visits.count == 0 && loads.is_empty();
            if stage == Stage::Running && loads.is_empty() && !idle {
                self.gather(visits.records.len());
            }
            let done = self.commit(visits);
            for load in loads {
                self.answer(load);
            }
            self.retry_loads();
            match stage {
                // What was pushed beside the stop is taken in another round.
                Stage::Stopping if idle || done.is_err() => return done.and_then(|()| self.finish()),
                Stage::Running if idle => {
                    self.tidy();
                    self.keep_reserve();
                }
                _ => {}
            }
        }
    }

    /// Waits for more to commit, as long as the flash is to be spared: what comes meanwhile goes with it. `held`:
    /// records that are in hand.
    fn gather(&self, held: usize) {
        let until =
            Instant::now() + Duration::from_millis(self.shared.gathering_millis.load(Ordering::Relaxed));
        loop {
            let left = until.saturating_duration_since(Instant::now()).min(RETRY_WAIT);
            if left.is_zero() {
                return;
            }
            let gathers = |inbox: &mut Inbox| {
                let few = held + inbox.visits.records.len() < GATHERED_RECORDS_MAX;
                few && inbox.loads.is_empty() && inbox.stage == Stage::Running && !inbox.retry_now
            };
            if !gathers(&mut self.shared.wait_while(left, gathers)) {
                return;
            }
            self.shared.turns.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Tries until it works; an error only where the handle has given up. A batch that was refused may be on
    /// disk all the same, as after a failed sync: to apply it once more changes nothing.
    fn commit(&mut self, mut batch: Visits) -> Result<(), StoreError> {
        if batch.count == 0 {
            return Ok(());
        }
        let mut tries_of_stop = 0;
        loop {
            self.shared.turns.fetch_add(1, Ordering::Relaxed);
            // What was pushed while the disk refused may hold the drops that make room.
            let more = std::mem::take(&mut self.shared.inbox().visits);
            batch.push(more.records, more.last);
            let Err(error) = self.try_commit(&batch.records) else {
                self.shared.depth_records.fetch_sub(batch.records.len(), Ordering::Relaxed);
                self.note_success();
                self.observer.handle_durable(batch.last);
                return Ok(());
            };
            let retry_now = self.handle_failure(&error);
            self.report(&error);
            if retry_now {
                continue;
            }
            let stage = {
                let mut inbox = self
                    .shared
                    .wait_while(RETRY_WAIT, |inbox| !inbox.retry_now && inbox.stage == Stage::Running);
                inbox.retry_now = false;
                inbox.stage
            };
            tries_of_stop += u32::from(stage == Stage::Stopping);
            if stage == Stage::Abandoned || tries_of_stop >= STOP_TRIES_MAX {
                return Err(error);
            }
        }
    }

    fn answer(&mut self, load: Load) {
        match self.try_load(load) {
            Ok(page) => {
                if page.unreadable > 0 {
                    suspect_damage(&self.access);
                    self.observer.handle_failed(&StoreError::Corrupt);
                }
                self.observer.handle_loaded(load, page.entries);
            }
            Err(error) => {
                self.handle_failure(&error);
                self.report(&error);
                self.refused.push((load, Instant::now()));
            }
        }
    }

    fn retry_loads(&mut self) {
        for (load, tried) in std::mem::take(&mut self.refused) {
            if tried.elapsed() < RETRY_WAIT {
                self.refused.push((load, tried));
                continue;
            }
            match self.try_load(load) {
                Ok(page) => {
                    self.note_success();
                    self.observer.handle_loaded(load, page.entries);
                }
                Err(error) => {
                    self.handle_failure(&error);
                    self.refused.push((load, Instant::now()));
                }
            }
        }
    }

    /// True: there is more room than before, and another try may work at once.
    fn handle_failure(&mut self, error: &StoreError) -> bool {
        self.shared.counters.failures.fetch_add(1, Ordering::Relaxed);
        self.shared.health.fail(error);
        match error {
            StoreError::DiskFull => {
                let given = self.reserve.give_back();
                self.observer.handle_full();
                // What the log holds already makes room for what it cannot take, if the database can hold it.
                let _ = self.connect().and_then(carry_log);
                return given;
            }
            StoreError::Corrupt => {
                self.connection = None;
                suspect_damage(&self.access);
            }
            // After a failed write or sync the kernel may have dropped pages: what was written must be read anew,
            // and written again before anything is added to it.
            StoreError::Io { .. } => {
                self.connection = None;
                self.log_in_doubt = true;
                // Not every call of SQLite's tells a full disk from a broken one.
                return free_bytes(&self.access.path) == 0 && self.reserve.give_back();
            }
            _ => self.connection = None,
        }
        false
    }

    fn report(&mut self, error: &StoreError) {
        if self.told.is_news(error) {
            self.observer.handle_failed(error);
        }
    }

    /// A commit has worked. A disk that has taken the reserve is full all the same: what is left is for drops.
    fn note_success(&mut self) {
        if self.reserve.is_spent() {
            self.keep_reserve();
        } else if self.refused.is_empty() {
            self.shared.health.recover();
        }
    }

    fn keep_reserve(&mut self) {
        let was_spent = self.reserve.is_spent();
        if self.reserve.bytes() == 0 {
            self.reserve.take();
        }
        match (was_spent, self.reserve.is_spent()) {
            (_, true) => self.shared.health.fail(&StoreError::DiskFull),
            (true, false) if self.refused.is_empty() => self.shared.health.recover(),
            _ => {}
        }
        self.shared.counters.reserve_bytes.store(self.reserve.bytes(), Ordering::Relaxed);
    }

    fn try_commit(&mut self, records: &[Record]) -> Result<(), StoreError> {
        let anchor = self.anchor;
        let pages_max = self.shared.pages_max.load(Ordering::Relaxed);
        let connection = self.connect()?;
        let _bound: i64 =
            connection.query_row(&format!("PRAGMA max_page_count = {pages_max}"), [], |row| row.get(0))?;
        let applied = apply_batch(connection, records, anchor)?;
        let counters = &self.shared.counters;
        counters.commits.fetch_add(1, Ordering::Relaxed);
        counters.rows.fetch_add(applied.rows, Ordering::Relaxed);
        counters.bytes.fetch_add(applied.bytes, Ordering::Relaxed);
        Ok(())
    }

    fn try_load(&mut self, load: Load) -> Result<Page, StoreError> {
        let earlier = self.earlier.get(&load.spool).copied().unwrap_or_default();
        let reading = Reading { anchor: self.anchor, earlier };
        load_page(self.connect()?, load, reading)
    }

    fn connect(&mut self) -> Result<&Connection, StoreError> {
        if self.connection.is_none() {
            if self.log_in_doubt {
                self.access.rewrite_log()?;
                self.log_in_doubt = false;
            }
            self.connection = Some(self.access.connect()?);
            self.shared.counters.reopened.fetch_add(1, Ordering::Relaxed);
        }
        self.connection.as_ref().ok_or(StoreError::WriterGone)
    }

    /// One bounded step towards a small file and an empty log. A failure shows in the next commit, if it lasts.
    fn tidy(&mut self) {
        let commits = self.shared.counters.commits.load(Ordering::Relaxed);
        let due = commits - self.carried_commits >= IDLE_COMMITS_MIN;
        let Ok(connection) = self.connect() else { return };
        let free = connection.query_row("PRAGMA freelist_count", [], |row| row.get::<_, u32>(0));
        let surplus = free.unwrap_or(0).saturating_sub(FREE_PAGES_KEPT);
        if surplus > 0 {
            let step = surplus.min(VACUUM_STEP_PAGES);
            // Each row is a page: a batch runs it to the end.
            let _ = connection.execute_batch(&format!("PRAGMA incremental_vacuum({step})"));
        } else if due && carry_log(connection).is_ok() {
            self.carried_commits = commits;
        }
    }

    fn finish(mut self) -> Result<(), StoreError> {
        // An empty log tells the next start that this run ended well.
        self.connect()?.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").map_err(StoreError::from)
    }
}

/// Writes the log into the database; the log begins anew and keeps its length, which a disk that fills up
/// cannot take away. A reader may hold parts of it back; the next turn takes them.
fn carry_log(connection: &Connection) -> Result<(), StoreError> {
    connection.execute_batch("PRAGMA wal_checkpoint(PASSIVE)").map_err(StoreError::from)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rusqlite::Connection;

    use super::{FREE_PAGES_KEPT, IDLE_COMMITS_MIN, Observer, VACUUM_STEP_PAGES, Writing};
    use crate::base::time::Now;
    use crate::mqtt::message::{Message, Origin};
    use crate::mqtt::qos::QoS;
    use crate::mqtt::topic::TopicName;
    use crate::store::error::StoreError;
    use crate::store::record::{Entry, Load, Lsn, Record, Seq, SpoolId};
    use crate::store::recover::{Window, open};
    use crate::store::schema::Sync;

    struct Deaf;

    impl Observer for Deaf {
        fn handle_durable(&mut self, _lsn: Lsn) {}
        fn handle_loaded(&mut self, _load: Load, _entries: Vec<Entry>) {}
        fn handle_failed(&mut self, error: &StoreError) {
            panic!("{error}");
        }
    }

    fn writing(path: &std::path::Path) -> Writing {
        let window = Window { messages_max: 1, bytes_max: 1 };
        let (database, _) = open(path, Sync::Off, window, Now::default()).unwrap();
        Writing::new(database, Arc::default(), Box::new(Deaf))
    }

    fn free_pages(writing: &mut Writing) -> u32 {
        let connection = writing.connect().unwrap();
        connection.query_row("PRAGMA freelist_count", [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn idle_steps_are_bounded_and_end_with_a_small_file_and_a_log_carried_over() {
        let dir = tempfile::tempdir().unwrap();
        let mut writing = writing(dir.path());
        let topic = TopicName::new("a").unwrap();
        let message =
            Arc::new(Message::new(topic, vec![0; 9000], QoS::AtLeastOnce, Origin::Gateway, Now::default()));
        let spool = SpoolId(1);
        let put = |seq| Record::EntryPut {
            spool,
            entry: Entry {
                seq: Seq(seq),
                qos: QoS::AtLeastOnce,
                retain: false,
                rule: 0,
                subscription_identifiers: Box::default(),
                message: Arc::new(Message::clone(&message)),
            },
        };
        writing.try_commit(&(1..=700).map(put).collect::<Vec<_>>()).unwrap();
        writing.try_commit(&[Record::SpoolDrop { spool }]).unwrap();
        let mut free = free_pages(&mut writing);
        assert!(free > FREE_PAGES_KEPT + VACUUM_STEP_PAGES, "{free}");
        while free > FREE_PAGES_KEPT {
            writing.tidy();
            let left = free_pages(&mut writing);
            assert!(left < free && free - left <= VACUUM_STEP_PAGES, "{free} {left}");
            free = left;
        }
        assert_eq!(free, FREE_PAGES_KEPT);
        // Too little has gathered; then enough has.
        writing.tidy();
        assert_eq!(writing.carried_commits, 0);
        for seq in 0..IDLE_COMMITS_MIN {
            writing.try_commit(&[put(1000 + seq)]).unwrap();
        }
        writing.tidy();
        assert_eq!(writing.carried_commits, IDLE_COMMITS_MIN + 2);
        // The file alone, without its log, holds all.
        let alone = dir.path().join("alone.db");
        std::fs::copy(&writing.access.path, &alone).unwrap();
        let alone = Connection::open(alone).unwrap();
        let sql = "SELECT count(*) FROM stretch WHERE last < 2000";
        let entries: i64 = alone.query_row(sql, [], |row| row.get(0)).unwrap();
        assert_eq!(entries, IDLE_COMMITS_MIN.cast_signed());
    }
}
