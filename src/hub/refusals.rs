//! Who did not come in: counted by the cause, and logged with the address, each address and cause once a minute at
//! most. Closes nothing itself.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::sync::{Mutex, PoisonError};

use crate::base::address::Address;
use crate::base::time::{Duration, Instant};
use crate::broker::refusal::{NotAdmitted, Refused};
use crate::hub::Hub;
use crate::hub::told::LOG_INTERVAL;

/// Pairs of address and cause that are remembered, and so the lines in [`LOG_INTERVAL`]. What is refused beyond is
/// counted and no more.
const REMEMBERED_MAX: usize = 512;
/// How often room is made for others by forgetting, at most.
const FORGET_INTERVAL: Duration = Duration::from_secs(1);

/// Why a connection came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Closed unheard: more are open than `limits.connections` takes.
    Sockets,
    /// Closed unheard: `limits.connections_per_address`.
    PerAddress,
    Tls,
    /// Its certificate has no name of the kind that is asked for.
    Certificate,
    WebSocket,
    HandshakeTimeout,
    Broker(NotAdmitted),
}

/// Those that no brain counts.
const OWN: [Cause; 6] = [
    Cause::Sockets,
    Cause::PerAddress,
    Cause::Tls,
    Cause::Certificate,
    Cause::WebSocket,
    Cause::HandshakeTimeout,
];

impl Cause {
    /// What metrics call it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Sockets => NotAdmitted::TooManyConnections.label(),
            Self::PerAddress => "connections_per_address",
            Self::Tls => "tls",
            Self::Certificate => "certificate_name",
            Self::WebSocket => "websocket",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::Broker(why) => why.label(),
        }
    }
}

impl Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sockets => "more connections are open than limits.connections takes",
            Self::PerAddress => "limits.connections_per_address connections from there are open",
            Self::Tls => "its TLS handshake failed",
            Self::Certificate => "its certificate names nobody",
            Self::WebSocket => "its WebSocket handshake failed",
            Self::HandshakeTimeout => "its handshake took too long",
            Self::Broker(why) => return why.fmt(f),
        })
    }
}

/// Since the start, by what metrics call the cause. Each is there, with 0 too.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RefusedBy(pub BTreeMap<&'static str, u64>);

impl RefusedBy {
    pub fn of(&self, label: &str) -> u64 {
        self.0.get(label).copied().unwrap_or(0)
    }

    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    fn add(&mut self, cause: Cause, count: u64) {
        *self.0.entry(cause.label()).or_default() += count;
    }
}

#[derive(Debug, Default)]
pub struct Refusals(Mutex<Noted>);

#[derive(Debug, Default)]
struct Noted {
    counts: BTreeMap<Cause, u64>,
    said: BTreeMap<(Address, Cause), Said>,
    forgot_at: Option<Instant>,
}

#[derive(Debug)]
struct Said {
    at: Instant,
    /// How many came since.
    since: u64,
}

impl Hub {
    /// A connection came to nothing; `detail` is what is known beside the cause.
    pub fn handle_refused(&self, address: Address, cause: Cause, detail: Option<&dyn Display>) {
        let now = self.clock().now().instant;
        let times = self.refusals.lock().note(address, cause, now);
        if let Some(times) = times {
            say(address, cause, times, detail);
        }
    }
}

impl Refusals {
    /// With what the broker has counted.
    pub fn status(&self, broker: &Refused) -> RefusedBy {
        let mut by = RefusedBy::default();
        for why in NotAdmitted::ALL {
            by.add(Cause::Broker(why), broker.of(why));
        }
        let noted = self.lock();
        for cause in OWN {
            by.add(cause, noted.counts.get(&cause).copied().unwrap_or(0));
        }
        by
    }

    /// Nothing is half done under it.
    fn lock(&self) -> std::sync::MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Noted {
    /// How many refusals the log is to tell of now. None: it is silent.
    fn note(&mut self, address: Address, cause: Cause, now: Instant) -> Option<u64> {
        if !matches!(cause, Cause::Broker(_)) {
            *self.counts.entry(cause).or_default() += 1;
        }
        if let Some(said) = self.said.get_mut(&(address, cause)) {
            said.since += 1;
            if now.since(said.at) < LOG_INTERVAL {
                return None;
            }
            let times = std::mem::take(&mut said.since);
            said.at = now;
            return Some(times);
        }
        self.make_room(now);
        if self.said.len() >= REMEMBERED_MAX {
            return None;
        }
        self.said.insert((address, cause), Said { at: now, since: 0 });
        Some(1)
    }

    fn make_room(&mut self, now: Instant) {
        let lately = self.forgot_at.is_some_and(|at| now.since(at) < FORGET_INTERVAL);
        if self.said.len() >= REMEMBERED_MAX && !lately {
            self.forgot_at = Some(now);
            self.said.retain(|_, said| now.since(said.at) < LOG_INTERVAL);
        }
    }
}

/// Ports are scanned everywhere: only what an operator may want to change is a warning.
fn say(address: Address, cause: Cause, times: u64, detail: Option<&dyn Display>) {
    let detail = detail.map(tracing::field::display);
    match cause {
        Cause::Tls | Cause::WebSocket | Cause::HandshakeTimeout | Cause::Broker(NotAdmitted::Silent) => {
            tracing::info!(%address, times, detail, "a client did not come in: {cause}");
        }
        Cause::Sockets | Cause::PerAddress | Cause::Certificate | Cause::Broker(_) => {
            tracing::warn!(%address, times, detail, "a client was refused: {cause}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Cause, LOG_INTERVAL, Noted, REMEMBERED_MAX, Refusals};
    use crate::base::address::Address;
    use crate::base::time::{Duration, Instant};
    use crate::broker::refusal::{NotAdmitted, Refused};

    const START: Instant = Instant::from_nanos(7);

    #[test]
    fn an_address_and_a_cause_are_logged_once_a_minute() {
        let mut noted = Noted::default();
        let login = Cause::Broker(NotAdmitted::WrongLogin);
        let a_moment = Duration::from_nanos(1);
        let cases = [
            (1, login, START, Some(1)),
            (1, login, START, None),
            (1, Cause::PerAddress, START, Some(1)),
            (2, login, START, Some(1)),
            (1, login, START + LOG_INTERVAL - a_moment, None),
            (1, login, START + LOG_INTERVAL, Some(3)),
            (1, login, START + LOG_INTERVAL, None),
        ];
        for (address, cause, now, times) in cases {
            assert_eq!(noted.note(Address(address), cause, now), times, "{address} {cause:?} {now:?}");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_is_counted_is_not() {
        let refusals = Refusals::default();
        let many = 10 * REMEMBERED_MAX as u128;
        let said =
            (0..many).filter(|address| refusals.lock().note(Address(*address), Cause::Tls, START).is_some());
        assert_eq!(said.count(), REMEMBERED_MAX);
        assert_eq!(refusals.lock().said.len(), REMEMBERED_MAX);
        let status = refusals.status(&Refused::default());
        assert_eq!((u128::from(status.of("tls")), status.of("login")), (many, 0));
        // A minute later others are heard of.
        let later = START + LOG_INTERVAL;
        assert_eq!(refusals.lock().note(Address(many), Cause::Tls, later), Some(1));
        assert_eq!(refusals.lock().said.len(), 1);
    }
}
