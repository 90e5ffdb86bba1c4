//! Logins on their way to be checked: a bounded pool of threads hashes, so that nobody inside the door waits for it.
//! Failures are answered late, known logins at once. Decides nothing: who is right says `auth`, what follows the
//! broker.

use std::sync::{Arc, Mutex};

use tokio::sync::{Mutex as AsyncMutex, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::auth::cache::Cache;
use crate::auth::password::HashNotMade;
use crate::auth::slowdown::{Slowdown, Source, source_of};
use crate::auth::{Credentials, Identity, Proof, Refusal};
use crate::base::lock::lock;
use crate::base::time::Instant;
use crate::broker::effect::Authentication;
use crate::broker::login::Change;
use crate::config::access::AccessRule;
use crate::config::model::Anonymous;
use crate::hub::Hub;

/// Logins that the door has handed out and nobody has looked at; beyond it a client is told that the server is busy.
const QUEUE_LOGINS_MAX: usize = 1024;
/// Logins that wait for a thread to be hashed.
const HASHES_WAITING_MAX: usize = 256;
/// Failures that wait for their answer; beyond it they are answered at once.
const DELAYS_MAX: usize = 1024;
/// Hashes at a time take a core and 19 MiB each.
const HASHES_AT_ONCE_MAX: usize = 4;

/// What logins are checked with. Outlives the task that does it.
pub struct Logins {
    credentials: Mutex<Arc<Credentials>>,
    cache: Mutex<Cache>,
    slowdown: Mutex<Slowdown>,
    queue: AsyncMutex<mpsc::Receiver<Authentication>>,
    waiting: Arc<Semaphore>,
    hashing: Arc<Semaphore>,
    delayed: Arc<Semaphore>,
}

impl Logins {
    /// The place of all logins of a hub: from now on it hands them out.
    pub fn attach(hub: &Hub, credentials: Credentials) -> Result<Arc<Self>, HashNotMade> {
        let (sender, queue) = mpsc::channel(QUEUE_LOGINS_MAX);
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let logins = Arc::new(Self {
            credentials: Mutex::new(Arc::new(credentials)),
            cache: Mutex::new(Cache::new()?),
            slowdown: Mutex::default(),
            queue: AsyncMutex::new(queue),
            waiting: Arc::new(Semaphore::new(HASHES_WAITING_MAX)),
            hashing: Arc::new(Semaphore::new(cores.div_ceil(2).min(HASHES_AT_ONCE_MAX))),
            delayed: Arc::new(Semaphore::new(DELAYS_MAX)),
        });
        assert!(hub.logins.set(sender).is_ok(), "a hub has one place for logins");
        Ok(logins)
    }

    /// Other credentials from now on; what the old ones proved counts no more for those who come again.
    fn replace(&self, credentials: Credentials) {
        *lock(&self.credentials) = Arc::new(credentials);
        lock(&self.cache).clear();
    }

    fn is_current(&self, credentials: &Arc<Credentials>) -> bool {
        Arc::ptr_eq(&lock(&self.credentials), credentials)
    }

    /// What needs no hash: a login that was right a moment ago, and too many at a time.
    fn begin(&self, login: &Authentication, now: Instant) -> Begun {
        let credentials = lock(&self.credentials).clone();
        if let Some(user) = &login.username
            && !credentials.takes_as_token(&login.password)
            && lock(&self.cache).knows(user, &login.password, now)
        {
            let identity = Identity { user: user.clone(), proof: Proof::Password, until: None };
            return Begun::Answered(Ok(identity), credentials);
        }
        let source = source_of(login.address);
        let Ok(waiting) = self.waiting.clone().try_acquire_owned() else {
            return Begun::Answered(Err(Refusal::Busy), credentials);
        };
        if !lock(&self.slowdown).begin(source, now) {
            return Begun::Answered(Err(Refusal::Busy), credentials);
        }
        Begun::ToCheck(Check { credentials, source, _waiting: waiting })
    }

    fn remember(&self, login: &Authentication, check: &Check, now: Instant) {
        let Some(user) = &login.username else { return };
        let current = lock(&self.credentials);
        // What credentials proved that were replaced meanwhile proves nothing.
        if Arc::ptr_eq(&current, &check.credentials) && !current.takes_as_token(&login.password) {
            lock(&self.cache).remember(user, &login.password, now);
        }
    }
}

/// Who may come in, and do what.
#[derive(Debug, Clone)]
pub struct Clients {
    pub anonymous: Anonymous,
    pub credentials: Credentials,
    pub access: Option<Arc<[AccessRule]>>,
}

impl Hub {
    /// Others may come in, and do other things, from now on: for new clients, and for those who are here. How many
    /// were shut out.
    pub fn replace_clients(&self, logins: &Logins, clients: Clients) -> u64 {
        let Clients { anonymous, credentials, access } = clients;
        let old = lock(&logins.credentials).clone();
        let revoked = old.revoked_by(&credentials);
        let change = Change { anonymous, logins: !credentials.is_empty(), revoked: &revoked };
        // In one visit, so that no login that the old ones have proved slips in behind it.
        self.visit(|core, now| {
            logins.replace(credentials);
            core.handle_clients(&change, access, now)
        })
    }
}

enum Begun {
    Answered(Result<Identity, Refusal>, Arc<Credentials>),
    ToCheck(Check),
}

struct Check {
    credentials: Arc<Credentials>,
    source: Source,
    _waiting: OwnedSemaphorePermit,
}

/// Runs until it is cancelled.
pub async fn run(hub: Arc<Hub>, logins: Arc<Logins>, cancel: CancellationToken) {
    let mut queue = logins.queue.lock().await;
    // Bounded by the permits that each task holds.
    let mut running = JoinSet::new();
    loop {
        let login = tokio::select! {
            () = cancel.cancelled() => return,
            Some(_ended) = running.join_next(), if !running.is_empty() => continue,
            login = queue.recv() => login,
        };
        let Some(login) = login else { return };
        match logins.begin(&login, hub.clock().now().instant) {
            Begun::Answered(result, credentials) => {
                hub.handle_authenticated(login.conn, result, || logins.is_current(&credentials));
            }
            Begun::ToCheck(check) => {
                running.spawn(answer(hub.clone(), logins.clone(), login, check));
            }
        }
    }
}

async fn answer(hub: Arc<Hub>, logins: Arc<Logins>, login: Authentication, check: Check) {
    let conn = login.conn;
    let result = hash(&hub, &logins, &login, &check).await;
    let now = hub.clock().now().instant;
    let (source, credentials) = (check.source, check.credentials.clone());
    lock(&logins.slowdown).end(source);
    if result.is_ok() {
        logins.remember(&login, &check, now);
    }
    // Nobody else waits for a thread because of this one any more; and its password is not kept.
    drop((check, login));
    if result == Err(Refusal::Wrong)
        && let Ok(_delayed) = logins.delayed.clone().try_acquire_owned()
    {
        let delay = lock(&logins.slowdown).handle_failure(source, now);
        tokio::time::sleep(delay).await;
        lock(&logins.slowdown).release(source);
    }
    hub.handle_authenticated(conn, result, || logins.is_current(&credentials));
}

async fn hash(
    hub: &Hub,
    logins: &Logins,
    login: &Authentication,
    check: &Check,
) -> Result<Identity, Refusal> {
    let Ok(_hashing) = logins.hashing.acquire().await else { return Err(Refusal::Busy) };
    let (credentials, wall) = (check.credentials.clone(), hub.clock().now().wall);
    let (username, password) = (login.username.clone(), login.password.clone());
    let checked =
        tokio::task::spawn_blocking(move || credentials.check(username.as_deref(), &password, wall)).await;
    checked.unwrap_or(Err(Refusal::Busy))
}
