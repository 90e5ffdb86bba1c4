//! When the brain has to be woken, and why. What ends takes its deadline with it; what has only
//! moved is found out when it is due.

use std::collections::BTreeSet;

use crate::base::ids::SlotKey;
use crate::base::time::Instant;

/// What a deadline is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    /// A connection that has not sent CONNECT.
    Connect(SlotKey),
    KeepAlive(SlotKey),
    /// A connection whose client brought a token.
    Token(SlotKey),
    /// A client that published too fast.
    Throttle(SlotKey),
    /// A connection that ends and has been told all that it was owed.
    Parting(SlotKey),
    /// A session whose connection is gone.
    Expiry(SlotKey),
    Will(SlotKey),
    /// A connection that may wait for an acknowledgement.
    Waiting(SlotKey),
    /// The spool of a session has records to write.
    Spool(SlotKey),
    /// Retained messages that are recorded lazily.
    RetainedSoon,
    RetainedLate,
    Sys,
}

impl Due {
    pub const fn why(self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::KeepAlive(_) => "keep alive",
            Self::Token(_) => "end of a token",
            Self::Throttle(_) => "publish rate",
            Self::Parting(_) => "end of a connection",
            Self::Expiry(_) => "session expiry",
            Self::Will(_) => "will delay",
            Self::Waiting(_) => "silence of a publisher",
            Self::Spool(_) => "commit of a session's queue",
            Self::RetainedSoon | Self::RetainedLate => "commit of retained messages",
            Self::Sys => "$SYS",
        }
    }
}

#[derive(Debug, Default)]
pub struct Deadlines {
    set: BTreeSet<(Instant, Due)>,
}

impl Deadlines {
    pub fn add(&mut self, at: Instant, due: Due) {
        self.set.insert((at, due));
    }

    /// What it was for has ended.
    pub fn remove(&mut self, at: Instant, due: Due) {
        self.set.remove(&(at, due));
    }

    pub fn next(&self) -> Option<(Instant, &'static str)> {
        self.set.first().map(|(at, due)| (*at, due.why()))
    }

    /// What is due, earliest first.
    pub fn take_due(&mut self, now: Instant) -> Option<Due> {
        let (at, _) = *self.set.first()?;
        if at > now {
            return None;
        }
        self.set.pop_first().map(|(_, due)| due)
    }
}
