//! The hand of a shared line's other masters: a Modbus TCP server in front of the line's own task. Connections hand
//! requests to the brain and answers to their masters; the line asks the brain what to do next. Decides nothing.

mod connection;
mod line;
mod mbap;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::base::time::{Clock, Duration};
use crate::bus::Endpoint;
use crate::bus::framing::Framing;
use crate::config::port;
use crate::device::LineSettings;
use crate::device::share::outcome::Counts;
use crate::device::share::queue::{Master, WAITING_OF_ONE_MAX};
use crate::device::share::{Answer, FrameEnd, Question, Settings, Share};

/// Masters of one line.
const CONNECTIONS_MAX: usize = 32;
/// Of units that are no devices of ours, where no device says how patient the line is.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(1);
/// How long to wait when the system has no more descriptors: accepting at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a shared line says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShareStatus {
    pub connections: usize,
    /// Since the start.
    pub connections_refused: u64,
    /// Requests that wait for their answers.
    pub waiting: usize,
    pub counts: Counts,
}

/// Of the units that are devices of ours, and of all others.
fn timeouts_of(settings: &LineSettings) -> (Vec<(u8, Duration)>, Duration) {
    let devices = || settings.devices.iter().map(|(_, device)| device);
    let default = devices().map(|device| device.timeout).max().unwrap_or(TIMEOUT_DEFAULT);
    (devices().map(|device| (device.link.unit(), device.timeout)).collect(), default)
}

/// One line's, between its masters and its task.
pub struct SharedLine {
    /// The port.
    pub name: Arc<str>,
    pub share: port::Share,
    clock: Clock,
    /// Rung when there may be something to ask.
    bell: Arc<Notify>,
    inner: Mutex<Inner>,
}

struct Inner {
    brain: Share,
    masters: BTreeMap<Master, mpsc::Sender<Answer>>,
    next_master: u64,
    connections_refused: u64,
}

impl SharedLine {
    /// None: the line is not shared.
    pub fn of(endpoint: &Endpoint, settings: &LineSettings, clock: Clock) -> Option<Self> {
        let port = endpoint.port()?;
        Some(Self::new((Arc::clone(&port.name), port.share?), endpoint, settings, clock))
    }

    /// Of a line of any kind.
    pub fn new(
        (name, share): (Arc<str>, port::Share),
        endpoint: &Endpoint,
        settings: &LineSettings,
        clock: Clock,
    ) -> Self {
        let (timeouts, timeout_default) = timeouts_of(settings);
        let brain = Share::new(Settings {
            cache: share.cache,
            writes: share.writes,
            frame_end: match endpoint.framing() {
                Framing::Rtu | Framing::Tcp => FrameEnd::Length,
                Framing::Ascii => FrameEnd::Mark,
            },
            timeouts,
            timeout_default,
        });
        let inner = Inner { brain, masters: BTreeMap::new(), next_master: 0, connections_refused: 0 };
        Self { name, share, clock, bell: Arc::default(), inner: Mutex::new(inner) }
    }

    pub fn status(&self) -> ShareStatus {
        let inner = self.lock();
        ShareStatus {
            connections: inner.masters.len(),
            connections_refused: inner.connections_refused,
            waiting: inner.brain.waiting(),
            counts: inner.brain.counts(),
        }
    }

    /// Serves masters until it is cancelled. The listener outlives a task that is started again.
    pub async fn serve(self: Arc<Self>, listener: Arc<TcpListener>, cancel: CancellationToken) {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = cancel.cancelled() => break,
                // None where there is no connection.
                Some(ended) = connections.join_next() => {
                    if let Err(error) = ended {
                        warn!(line = %self.name, %error, "a connection of another master failed");
                    }
                    continue;
                }
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, from)) => {
                    let Some((master, answers)) = self.admit() else {
                        debug!(line = %self.name, %from, "too many masters");
                        continue;
                    };
                    debug!(line = %self.name, %from, "another master connected");
                    let seat = connection::Seat { line: Arc::clone(&self), master, answers };
                    connections.spawn(seat.serve(stream));
                }
                Err(error) => {
                    warn!(line = %self.name, %error, "another master cannot be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        connections.shutdown().await;
    }

    /// None: there are as many as there may be.
    fn admit(&self) -> Option<(Master, mpsc::Receiver<Answer>)> {
        let mut inner = self.lock();
        if inner.masters.len() >= CONNECTIONS_MAX {
            inner.connections_refused += 1;
            return None;
        }
        let master = Master(inner.next_master);
        inner.next_master += 1;
        // As many as wait at most, and those that left the queue while their master was not reading.
        let (sender, answers) = mpsc::channel(WAITING_OF_ONE_MAX * 2);
        inner.masters.insert(master, sender);
        Some((master, answers))
    }

    fn leave(&self, master: Master) {
        let mut inner = self.lock();
        inner.masters.remove(&master);
        inner.brain.handle_closed(master);
    }

    /// The answer, where there is one at once.
    fn ask(&self, question: Question<'_>) -> Option<Vec<u8>> {
        let now = self.clock.now().instant;
        let answer = self.lock().brain.handle_request(question, now);
        if answer.is_none() {
            self.bell.notify_one();
        }
        answer
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn deliver(&mut self, answers: Vec<Answer>) {
        for answer in answers {
            // Fails only for a master that is leaving.
            let _ = self.masters.get(&answer.master).map(|sender| sender.try_send(answer));
        }
    }
}
