//! The one thread that writes: takes all that was pushed, commits it together, then says so. Keeps a batch
//! that the disk refuses and tries again. Never drops a record and never decides what to keep.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use rusqlite::Connection;

use crate::base::pulse::Pulse;
use crate::base::time::{Duration, Now};
use crate::store::age::Anchor;
use crate::store::apply::apply_batch;
use crate::store::bodies::Bodies;
use crate::store::dates::keep_date;
use crate::store::error::StoreError;
use crate::store::inbox::{Depth, Inbox, Stage, Visits};
use crate::store::pages::{Page, Reading, load_page};
use crate::store::record::{Entry, Load, Lsn, Record, Seq, SpoolId};
use crate::store::recover::{Database, suspect_damage};
use crate::store::reserve::{Reserve, free_bytes};
use crate::store::schema::{Access, Lock};
use crate::store::shared::{PAGES_UNBOUNDED, Shared};
use crate::store::tidy::{Tidying, carry_log};
use crate::store::trouble::{Told, Trouble};

/// Between two tries of a batch that the disk refused.
pub const RETRY_WAIT: Duration = Duration::from_secs(1);
/// Records that end a commit's gathering: more would not make it cheaper.
const GATHERED_RECORDS_MAX: usize = 4096;
/// Without work for so long, the writer looks whether all is as it should be.
const IDLE_WAIT: Duration = Duration::from_secs(5);
/// How often a stop tries a batch that the disk refuses, at once: a stop must end.
const STOP_TRIES_MAX: u32 = 3;

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
        let pulse = Arc::clone(&shared.pulse);
        let work = move || {
            let ended = writing.run();
            // Not of a thread that panicked: nobody writes any more, which is to be seen.
            pulse.end();
            ended
        };
        let thread = std::thread::Builder::new().name("store".to_owned()).spawn(work);
        let thread = thread.map_err(|_| StoreError::WriterGone)?;
        Ok(Writer { shared, set_aside, unreadable, thread: Mutex::new(Some(thread)) })
    }

    /// Hands over the records of one visit; `last` is the position of the last of them. Never waits.
    pub fn push(&self, records: Vec<Record>, last: Lsn) {
        let visits = Visits::of(records, last);
        self.shared.depth_records.fetch_add(visits.depth.records, Ordering::Relaxed);
        self.shared.depth_bytes.fetch_add(visits.depth.bytes, Ordering::Relaxed);
        self.shared.inbox().push(visits);
        self.shared.bell.notify_one();
    }

    /// Asks for entries; the observer gets them after the commit of what was pushed before.
    pub fn load(&self, load: Load) {
        self.shared.inbox().load(load);
        self.shared.bell.notify_one();
    }

    /// The wall clock was set: what earlier runs left is as old as it says, and what this boot left undated can be
    /// dated by later ones.
    pub fn handle_clock(&self, now: Now) {
        self.shared.inbox().clock = Some(now);
        self.shared.bell.notify_one();
    }

    /// What is pushed and not yet safe: over its mark, the caller must stop taking more.
    pub fn depth(&self) -> Depth {
        let (records, bytes) = (&self.shared.depth_records, &self.shared.depth_bytes);
        Depth { records: records.load(Ordering::Relaxed), bytes: bytes.load(Ordering::Relaxed) }
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

    /// Whether the thread gets on. It ends a turn at least every `RETRY_WAIT` while anything waits, also for a disk that
    /// refuses: only a call that does not come back holds it up.
    pub fn pulse(&self) -> &Arc<Pulse> {
        &self.shared.pulse
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
    /// The disk has yet to hear how this boot's clocks differ; nobody waits for that.
    date_due: bool,
    /// What the log holds may be in memory alone.
    log_in_doubt: bool,
    tidying: Tidying,
    bodies: Bodies,
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
            date_due: true,
            log_in_doubt: false,
            tidying: Tidying::default(),
            bodies: Bodies::default(),
            _lock: database.lock,
        }
    }

    fn run(mut self) -> Result<(), StoreError> {
        loop {
            let (visits, stage) = {
                let calm = self.refused.is_empty() && !self.reserve.is_spent();
                let wait = if calm { IDLE_WAIT } else { RETRY_WAIT };
                drop(self.shared.wait_while(wait.min(self.tidying.wait()), |inbox| inbox.is_idle()));
                self.gather();
                let mut inbox = self.shared.inbox();
                inbox.retry_now = false;
                if let Some(now) = inbox.clock.take() {
                    self.anchor = self.anchor.with_known(now);
                    self.date_due = true;
                }
                (inbox.next(), inbox.stage)
            };
            if stage == Stage::Abandoned {
                return Ok(());
            }
            let idle = visits.is_empty();
            // An error is the end: only a handle that goes gives up what the disk refuses.
            self.commit(visits)?;
            if self.date_due {
                let anchor = self.anchor;
                self.date_due = self.connect().and_then(|to| keep_date(to, anchor)).is_err();
            }
            self.retry_loads();
            match stage {
                // What was pushed beside the stop is taken in another round.
                Stage::Stopping if idle => return self.finish(),
                Stage::Running if idle => self.keep_reserve(),
                _ => {}
            }
            self.tidy(idle);
        }
    }

    /// Waits for more to commit, as long as the flash is to be spared: what comes meanwhile goes with it.
    fn gather(&self) {
        let until =
            Instant::now() + Duration::from_millis(self.shared.gathering_millis.load(Ordering::Relaxed));
        loop {
            let left = until.saturating_duration_since(Instant::now()).min(RETRY_WAIT);
            if left.is_zero() {
                return;
            }
            let gathers = |inbox: &mut Inbox| inbox.may_gather(GATHERED_RECORDS_MAX);
            if !gathers(&mut self.shared.wait_while(left, gathers)) {
                return;
            }
        }
    }

    /// Commits, then reads what was asked for.
    fn commit(&mut self, mut batch: Visits) -> Result<(), StoreError> {
        let done = if batch.count == 0 { Ok(()) } else { self.commit_records(&mut batch) };
        for load in batch.loads {
            self.answer(load);
        }
        done
    }

    /// Tries until it works; an error only where the handle has given up. A batch that was refused may be on
    /// disk all the same, as after a failed sync: to apply it once more changes nothing.
    fn commit_records(&mut self, batch: &mut Visits) -> Result<(), StoreError> {
        let mut tries_of_stop = 0;
        loop {
            let Err(error) = self.try_commit(&batch.records) else {
                self.shared.depth_records.fetch_sub(batch.depth.records, Ordering::Relaxed);
                self.shared.depth_bytes.fetch_sub(batch.depth.bytes, Ordering::Relaxed);
                self.note_success();
                self.observer.handle_durable(batch.last);
                return Ok(());
            };
            let wait = if self.handle_failure(&error) { Duration::ZERO } else { RETRY_WAIT };
            self.report(&error);
            let stage = {
                let mut inbox =
                    self.shared.wait_while(wait, |inbox| !inbox.retry_now && inbox.stage == Stage::Running);
                inbox.retry_now = false;
                // What was pushed while the disk refused may hold the drops that make room.
                batch.append(inbox.rest());
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
        let mut bodies = std::mem::take(&mut self.bodies);
        let connection = self.connect()?;
        let _bound: i64 =
            connection.query_row(&format!("PRAGMA max_page_count = {pages_max}"), [], |row| row.get(0))?;
        let applied = apply_batch(connection, records, anchor, &mut bodies)?;
        self.bodies = bodies;
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

    /// A failure shows in the next commit, if it lasts.
    fn tidy(&mut self, idle: bool) {
        if !idle {
            self.tidying.handle_work();
        }
        let commits = self.shared.counters.commits.load(Ordering::Relaxed);
        if self.tidying.wait().is_zero() {
            let mut tidying = std::mem::take(&mut self.tidying);
            if let Ok(connection) = self.connect() {
                tidying.step(connection, commits);
            }
            self.tidying = tidying;
        }
    }

    fn finish(mut self) -> Result<(), StoreError> {
        // An empty log tells the next start that this run ended well.
        self.connect()?.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").map_err(StoreError::from)
    }
}
