//! Watches that the gateway gets on, from a thread of its own that needs nothing of what it watches. Feeds systemd's
//! watchdog only while no part hangs, names who does before it fires, and asks for time while a start or an end works.
//! Ends nothing itself.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::app::systemd;
use crate::base::lock::lock;
use crate::base::pulse::{Hung, Pulse, Pulses, words};
use crate::base::time::Duration;

/// How long a turn may take where no watchdog says so: an SD card may keep a write for half of it.
const PATIENCE_DEFAULT: Duration = Duration::from_secs(30);
/// Looks within the watchdog's time.
const LOOKS: u32 = 8;
/// How often a start or an end asks for more time, and how much it asks for.
const BUSY_INTERVAL: Duration = Duration::from_secs(5);
const BUSY_WAIT: Duration = Duration::from_secs(30);
/// What a start may take in all that recovers or migrates a large database from an old SD card.
const START_MAX: Duration = Duration::from_secs(3600);
/// What an end may take in all that has much to write.
const END_MAX: Duration = Duration::from_secs(600);
/// Processor time that counts as work; the thread here needs a thousandth of it.
const WORK_MIN: Duration = Duration::from_millis(20);

/// What is watched of a gateway that runs.
#[derive(Debug)]
pub struct Vitals {
    pub pulses: Pulses,
    runtime: Runtime,
    /// What the gateway says of itself.
    status: Mutex<String>,
}

/// The runtime of everything but clients: whether it gets round to a task that asks for nothing. This is who is named where
/// something hangs that has no name of its own.
#[derive(Debug)]
struct Runtime {
    pulse: Arc<Pulse>,
    asked: Notify,
}

impl Vitals {
    pub fn new(pulses: Pulses) -> Self {
        let runtime = Runtime { pulse: pulses.part("runtime"), asked: Notify::new() };
        Self { pulses, runtime, status: Mutex::default() }
    }

    /// Gives signs of life for the runtime that it runs on, until it is cancelled.
    pub async fn answer(self: Arc<Self>, cancel: CancellationToken) {
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                () = self.runtime.asked.notified() => self.runtime.pulse.end(),
            }
        }
        self.runtime.pulse.end();
    }

    /// What `systemctl status` is to say. Told by the thread here: systemd may be busy, and nobody else waits for it.
    pub fn set_status(&self, status: String) {
        *lock(&self.status) = status;
    }

    fn look(&self, patience: Duration) -> Vec<Hung> {
        self.runtime.pulse.ask();
        self.runtime.asked.notify_one();
        self.pulses.look(Instant::now(), patience)
    }
}

#[derive(Debug, Clone)]
enum Phase {
    Starting,
    Running(Arc<Vitals>),
    Ending,
    Over,
}

/// From before the start until after the end. Dropped, it ends its thread.
#[derive(Debug)]
pub struct Watchdog {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    entered: Mutex<Entered>,
    bell: Condvar,
}

#[derive(Debug)]
struct Entered {
    phase: Phase,
    /// The thread has yet to hear of it.
    news: bool,
}

impl Watchdog {
    /// # Errors
    /// Where no thread can be made.
    pub fn start() -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            entered: Mutex::new(Entered { phase: Phase::Starting, news: true }),
            bell: Condvar::new(),
        });
        let limit = systemd::watchdog_limit();
        let watcher = Watcher {
            shared: shared.clone(),
            patience: limit.unwrap_or(PATIENCE_DEFAULT),
            effort: Effort::begin(START_MAX),
            hung: Vec::new(),
            status: String::new(),
        };
        let thread = std::thread::Builder::new().name("watchdog".to_owned());
        let thread = thread.spawn(move || watcher.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// The gateway is ready: from now on its parts are watched.
    pub fn handle_ready(&self, vitals: Arc<Vitals>) {
        self.enter(Phase::Running(vitals));
    }

    /// The gateway is about to end.
    pub fn handle_ending(&self) {
        self.enter(Phase::Ending);
    }

    fn enter(&self, phase: Phase) {
        *lock(&self.shared.entered) = Entered { phase, news: true };
        self.shared.bell.notify_one();
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.enter(Phase::Over);
        if let Some(thread) = self.thread.take() {
            // It has no more to do than to see that it is over.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn take_news(&self) -> Phase {
        let mut entered = lock(&self.entered);
        entered.news = false;
        entered.phase.clone()
    }

    fn wait_for_news(&self, longest: Duration) {
        let entered = lock(&self.entered);
        let waited = self.bell.wait_timeout_while(entered, longest, |entered| !entered.news);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

/// What the thread owns.
struct Watcher {
    shared: Arc<Shared>,
    patience: Duration,
    effort: Effort,
    /// As it was told last.
    hung: Vec<Arc<str>>,
    status: String,
}

impl Watcher {
    fn run(mut self) {
        let mut was_ending = false;
        loop {
            let wait = match self.shared.take_news() {
                Phase::Over => return,
                Phase::Starting => self.look_at_effort(),
                Phase::Ending => {
                    if !std::mem::replace(&mut was_ending, true) {
                        self.effort = Effort::begin(END_MAX);
                    }
                    let wait = self.look_at_effort();
                    // Its end has a time-out of its own; the watchdog must not come before it.
                    systemd::notify_alive();
                    wait.min(self.patience / LOOKS)
                }
                Phase::Running(vitals) => {
                    self.look_at_parts(&vitals);
                    self.patience / LOOKS
                }
            };
            self.shared.wait_for_news(wait);
        }
    }

    fn look_at_effort(&mut self) -> Duration {
        if self.effort.goes_on() {
            systemd::notify_busy(BUSY_WAIT);
        }
        BUSY_INTERVAL
    }

    fn look_at_parts(&mut self, vitals: &Vitals) {
        let hung = vitals.look(self.patience);
        if hung.is_empty() {
            systemd::notify_alive();
            if !std::mem::take(&mut self.hung).is_empty() {
                tracing::warn!("all parts get on again: the watchdog is fed");
            }
            let status = lock(&vitals.status).clone();
            return self.tell(status);
        }
        let parts: Vec<_> = hung.iter().map(|hung| hung.part.clone()).collect();
        if parts == self.hung {
            return;
        }
        // The log comes last, since the part may hang in it.
        self.tell(format!("hangs: {}; the watchdog is not fed", words(&hung)));
        let new: Vec<_> = parts.iter().filter(|part| !self.hung.contains(part)).cloned().collect();
        self.hung = parts;
        for part in new {
            tracing::error!(%part, seconds = self.patience.as_secs(), "a part hangs: the watchdog is not fed");
        }
    }

    fn tell(&mut self, status: String) {
        if status != self.status && !status.is_empty() {
            systemd::notify_status(&status);
            self.status = status;
        }
    }
}

/// Whether the process works at its start or its end: reads, writes or computes. One that waits for what does not come does
/// none of these, and the time-out is for it.
struct Effort {
    began: Instant,
    longest: Duration,
    done: Work,
}

impl Effort {
    fn begin(longest: Duration) -> Self {
        Self { began: Instant::now(), longest, done: Work::now() }
    }

    fn goes_on(&mut self) -> bool {
        let now = Work::now();
        let before = std::mem::replace(&mut self.done, now);
        self.began.elapsed() < self.longest && now.is_more_than(before)
    }
}

/// What the process has done since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Work {
    disk_bytes: u64,
    processor: Duration,
}

impl Work {
    fn now() -> Self {
        let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
        let counted = |line: &str| {
            let (name, bytes) = line.split_once(": ")?;
            matches!(name, "read_bytes" | "write_bytes").then(|| bytes.trim().parse().ok())?
        };
        let disk_bytes = io.lines().filter_map(counted).fold(0, u64::saturating_add);
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
        Self { disk_bytes, processor: Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0)) }
    }

    fn is_more_than(self, before: Self) -> bool {
        self.disk_bytes > before.disk_bytes || self.processor >= before.processor + WORK_MIN
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, Effort, WORK_MIN, Work};

    #[test]
    fn work_is_told_from_waiting() {
        let work = |disk_bytes, processor| Work { disk_bytes, processor };
        let before = work(1000, Duration::from_secs(1));
        assert!(!before.is_more_than(before));
        assert!(!work(1000, before.processor + WORK_MIN / 2).is_more_than(before));
        assert!(work(1001, before.processor).is_more_than(before));
        assert!(work(1000, before.processor + WORK_MIN).is_more_than(before));
    }

    #[test]
    fn an_effort_ends_with_its_time_whatever_it_does() {
        let mut effort = Effort::begin(Duration::from_secs(3600));
        effort.done = Work::default();
        // A process that has come so far has computed for longer than that.
        while Work::now().processor < WORK_MIN {}
        assert!(effort.goes_on());
        let mut effort = Effort::begin(Duration::ZERO);
        effort.done = Work::default();
        assert!(!effort.goes_on());
    }
}
