//! The one door to the brains: entered once a batch, never held across an await or a syscall. Owns the lock
//! around broker and bridges, the outboxes, the bells and the way to the store; decides nothing itself.

pub mod asked;
pub mod buffer;
pub mod change;
pub mod client;
mod clock;
pub mod core;
mod ear;
pub mod left;
pub mod line;
pub mod link;
pub mod login;
pub mod node;
pub mod outbox;
pub mod reach;
pub mod refusals;
pub mod status;
pub mod timer;
mod told;

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use tokio::sync::{Notify, broadcast, mpsc, watch};

use crate::auth::{Identity, Refusal};
use crate::base::pulse::{Pulse, Turn};
use crate::base::time::{Clock, Duration, Instant, Now};
use crate::broker::effect::{Authentication, ConnKey};
use crate::config::limits::Limits;
use crate::hub::core::Core;
use crate::hub::refusals::{Cause, Refusals};
use crate::mqtt::message::Message;
use crate::mqtt::qos::QoS;
use crate::mqtt::reason::ReasonCode;
use crate::store::error::StoreError;
use crate::store::inbox::Depth;
use crate::store::record::{Entry, Load, Lsn};
use crate::store::writer::{Observer, Writer};

/// With more than this on its way to the disk, workers stop reading publishers: TCP tells them.
const WRITER_DEPTH_HIGH: Depth = Depth { records: 20_000, bytes: 4 << 20 };
/// The same while the disk refuses: what would add records is refused to its publishers then, and the rest is read.
const WRITER_DEPTH_REFUSING: Depth = Depth { records: 40_000, bytes: 8 << 20 };
/// With no more than this they read again.
const WRITER_DEPTH_LOW: Depth = Depth { records: 5_000, bytes: 1 << 20 };

/// Readings that a watcher may be behind before it misses some.
const WATCHED_READINGS_MAX: usize = 1024;

/// Something that waits to be told that there is work for it.
pub type Bell = Arc<Notify>;

pub struct Hub {
    core: Mutex<Core>,
    pulse: Arc<Pulse>,
    clock: Clock,
    packet_bytes_max: AtomicUsize,
    /// What devices publish, for whoever watches: the dashboard, the demo. Slow watchers miss some.
    readings: broadcast::Sender<Message>,
    writer: OnceLock<Arc<Writer>>,
    /// Where logins are checked.
    logins: OnceLock<mpsc::Sender<Authentication>>,
    /// Rung when a deadline comes up that is earlier than the one the timer sleeps for.
    timer: Notify,
    congested: AtomicBool,
    /// The disk takes nothing, and publishers are told so.
    refusing: AtomicBool,
    /// The gateway's own messages that went out without being kept, since the disk took nothing.
    unkept: AtomicU64,
    relieved: Notify,
    refusals: Refusals,
    /// Up to where everything is on disk, for commands that wait for it.
    durable: watch::Sender<Lsn>,
}

/// Somebody within the door.
struct Inside<'a> {
    /// First, so that a turn ends before another one can begin.
    _turn: Turn<'a>,
    core: MutexGuard<'a, Core>,
}

impl Deref for Inside<'_> {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

impl DerefMut for Inside<'_> {
    fn deref_mut(&mut self) -> &mut Core {
        &mut self.core
    }
}

impl Hub {
    pub fn new(core: Core, clock: Clock, packet_bytes_max: usize) -> Arc<Hub> {
        Arc::new(Hub {
            core: Mutex::new(core),
            pulse: Arc::default(),
            clock,
            packet_bytes_max: AtomicUsize::new(packet_bytes_max),
            readings: broadcast::Sender::new(WATCHED_READINGS_MAX),
            writer: OnceLock::new(),
            logins: OnceLock::new(),
            timer: Notify::new(),
            congested: AtomicBool::new(false),
            refusing: AtomicBool::new(false),
            unkept: AtomicU64::new(0),
            relieved: Notify::new(),
            refusals: Refusals::default(),
            durable: watch::Sender::new(Lsn(0)),
        })
    }

    /// Gives the hub its way to the disk. What start-up recorded before goes first.
    pub fn attach_writer(&self, writer: Arc<Writer>) {
        assert!(self.writer.set(writer).is_ok(), "a hub has one writer");
        self.visit(|_, _| ());
    }

    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The largest packet that a client may send, whole.
    pub fn packet_bytes_max(&self) -> usize {
        self.packet_bytes_max.load(Ordering::Relaxed)
    }

    /// Other bounds from now on: for new connections, and for what waits for sessions.
    pub fn replace_limits(&self, limits: Limits, sys_interval: Option<Duration>) {
        let packet_bytes_max = usize::try_from(limits.packet_bytes).unwrap_or(usize::MAX);
        self.packet_bytes_max.store(packet_bytes_max, Ordering::Relaxed);
        self.visit(|core, now| {
            core.broker.handle_limits(limits);
            core.broker.handle_sys_interval(sys_interval, now);
        });
    }

    /// Every message of a device from now on.
    pub fn watch_readings(&self) -> broadcast::Receiver<Message> {
        self.readings.subscribe()
    }

    /// A turn is one visit to the door.
    pub fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }

    /// Publishes what the gateway says of itself. Nobody watches it but by MQTT.
    pub fn publish_system(&self, messages: Vec<Message>) {
        let keeps = !self.is_refusing() || !self.depth().is_over(WRITER_DEPTH_HIGH);
        self.visit(|core, now| {
            for mut message in messages {
                if !keeps && message.qos != QoS::AtMostOnce {
                    message.qos = QoS::AtMostOnce;
                    self.unkept.fetch_add(1, Ordering::Relaxed);
                }
                core.publish_own(message, now);
            }
        });
    }

    /// Shows what a device says to whoever watches.
    fn show<'a>(&self, messages: impl Iterator<Item = &'a Message>) {
        if self.readings.receiver_count() > 0 {
            for message in messages {
                // Fails only when the last watcher has just gone.
                let _ = self.readings.send(message.clone());
            }
        }
    }

    /// How much of the data directory's file system is free.
    pub fn handle_disk_free(&self, bytes: u64) {
        self.visit(|core, _| core.handle_disk_free(bytes));
    }

    /// What the disk is like; to be told again and again. `reason`: it takes nothing, and what publishers hear.
    pub fn handle_disk(&self, reason: Option<ReasonCode>) {
        let was_refusing = self.refusing.swap(reason.is_some(), Ordering::Relaxed);
        let begins = reason.is_some() && !was_refusing;
        self.visit(|core, now| core.handle_disk(reason, now));
        if begins && !self.depth().is_over(WRITER_DEPTH_REFUSING) {
            self.relieve();
        }
    }

    /// Whether publishers are refused what the disk would have to take.
    pub fn is_refusing(&self) -> bool {
        self.refusing.load(Ordering::Relaxed)
    }

    /// The first thing, before anybody is served.
    pub fn handle_started(&self) {
        self.visit(Core::handle_started);
    }

    /// The last thing before the end: brains write down what only memory has, clients are told.
    pub fn handle_shutdown(&self) {
        self.visit(Core::handle_shutdown);
    }

    /// What is on its way to the disk.
    pub fn depth(&self) -> Depth {
        self.writer.get().map_or_else(Depth::default, |writer| writer.depth())
    }

    /// What nobody waits for gathers for a commit so long at least.
    pub fn set_unowed_wait(&self, wait: Duration) {
        self.lock().ledger().unowed_wait = wait;
    }

    /// Whether the disk is so far behind that publishers are not to be read.
    pub fn is_congested(&self) -> bool {
        self.congested.load(Ordering::Relaxed)
    }

    /// Returns once the disk has caught up.
    pub async fn until_relieved(&self) {
        loop {
            let relieved = self.relieved.notified();
            if !self.is_congested() {
                return;
            }
            relieved.await;
        }
    }

    /// Enters the door once: lets `act` talk to the brains, carries what they want done from one to the other,
    /// hands records to the writer in their order, and rings bells outside the lock. `act` has the core alone:
    /// whatever comes in here again waits for itself for ever.
    fn visit<R>(&self, act: impl FnOnce(&mut Core, Now) -> R) -> R {
        self.visit_and_take(act, |_, result| result)
    }

    /// A visit that takes with it, by `take`, what there is once all effects are carried.
    fn visit_and_take<A, R>(
        &self,
        act: impl FnOnce(&mut Core, Now) -> A,
        take: impl FnOnce(&mut Core, A) -> R,
    ) -> R {
        let now = self.clock.now();
        let mut core = self.lock();
        let acted = act(&mut core, now);
        core.settle(now);
        self.hand_over(&mut core, now);
        let result = take(&mut core, acted);
        let wakes_earlier = core.plan_wake();
        let bells = core.take_bells();
        let authentications = core.take_authentications();
        let refused = core.take_refused();
        drop(core);
        for bell in bells {
            bell.notify_one();
        }
        if wakes_earlier {
            self.timer.notify_one();
        }
        for authentication in authentications {
            self.pass_on(authentication);
        }
        for (address, why) in refused {
            self.handle_refused(address, Cause::Broker(why), None);
        }
        result
    }

    /// Nobody waits here: where no more can wait, the client is told at once.
    fn pass_on(&self, authentication: Authentication) {
        let conn = authentication.conn;
        let passed = self.logins.get().is_some_and(|logins| logins.try_send(authentication).is_ok());
        if !passed {
            self.handle_authenticated(conn, Err(Refusal::Busy), || true);
        }
    }

    /// What came of a login. `still` is asked inside: whether what it was held against still counts. If not, the
    /// client is to try again.
    fn handle_authenticated(
        &self,
        conn: ConnKey,
        result: Result<Identity, Refusal>,
        still: impl FnOnce() -> bool,
    ) {
        self.visit(|core, now| {
            let result = result.and_then(|identity| if still() { Ok(identity) } else { Err(Refusal::Busy) });
            core.handle_authenticated(conn, result, now);
        });
    }

    /// Under the lock, so that records reach the writer in the order of their positions. The writer's own lock
    /// is taken inside of this one and never the other way round: its thread calls the hub without it.
    fn hand_over(&self, core: &mut Core, now: Now) {
        let Some(writer) = self.writer.get() else { return };
        let ledger = core.ledger();
        if !ledger.log.is_empty() {
            let last = ledger.log.last();
            writer.push(ledger.log.take(), last);
        }
        for load in ledger.loads.drain(..) {
            writer.load(load);
        }
        let mark = if self.is_refusing() { WRITER_DEPTH_REFUSING } else { WRITER_DEPTH_HIGH };
        if writer.depth().is_over(mark) && !self.congested.swap(true, Ordering::Relaxed) {
            core.handle_reading(true, now);
        }
    }

    /// A panic inside the door ends the process: systemd restarts it, and recovery is the normal start.
    fn lock(&self) -> Inside<'_> {
        match self.core.lock() {
            Ok(core) => Inside { _turn: self.pulse.turn(), core },
            Err(_) => std::process::abort(),
        }
    }

    fn handle_durable(&self, lsn: Lsn) {
        self.visit(|core, now| core.handle_durable(lsn, now));
        self.durable.send_replace(lsn);
        if self.is_congested() && !self.depth().is_over(WRITER_DEPTH_LOW) {
            self.relieve();
        }
    }

    /// Publishers are read again, if they were not.
    fn relieve(&self) {
        let relieved = self.visit(|core, now| {
            let relieved = self.congested.swap(false, Ordering::Relaxed);
            if relieved {
                core.handle_reading(false, now);
            }
            relieved
        });
        if relieved {
            self.relieved.notify_waiters();
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.lock().next_deadline()
    }
}

/// What the writer thread tells the hub.
pub struct HubObserver(pub std::sync::Weak<Hub>);

impl Observer for HubObserver {
    fn handle_durable(&mut self, lsn: Lsn) {
        if let Some(hub) = self.0.upgrade() {
            hub.handle_durable(lsn);
        }
    }

    fn handle_loaded(&mut self, load: Load, entries: Vec<Entry>) {
        if let Some(hub) = self.0.upgrade() {
            hub.visit(|core, now| core.handle_loaded(load, entries, now));
        }
    }

    fn handle_full(&mut self) {
        if let Some(hub) = self.0.upgrade() {
            hub.handle_disk(Some(ReasonCode::QuotaExceeded));
        }
    }

    fn handle_failed(&mut self, error: &StoreError) {
        if matches!(error, StoreError::Corrupt) {
            tracing::error!("the database is damaged: the gateway ends, and sets it aside at its next start");
            std::process::abort();
        }
        tracing::error!(%error, "cannot write to the database; what is acknowledged waits until it can");
    }
}
