//! What a bridge shows of itself. Plain values, copied out; never read back.

use std::fmt;

use crate::base::time::{Now, Timestamp};
use crate::bridge::fault::LinkFault;

/// How far the link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// Waits for the next try.
    Down,
    /// Waits until a person ends it.
    Paused,
    /// The transport is being opened.
    Connecting,
    /// CONNACK is awaited.
    Greeting,
    /// SUBACK is awaited.
    Subscribing,
    Up,
    /// The transport is being closed.
    Closing,
    /// Ended for good.
    Closed,
}

impl LinkState {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Paused => "paused",
            Self::Connecting => "connecting",
            Self::Greeting => "greeting",
            Self::Subscribing => "subscribing",
            Self::Up => "up",
            Self::Closing => "closing",
            Self::Closed => "closed",
        }
    }
}

/// Messages that this bridge did not carry, and why. Since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Losses {
    /// Dropped because the buffer was full.
    pub full: u64,
    /// Turned away to their publisher because the buffer was full.
    pub rejected: u64,
    /// Dropped because they were older than the buffer's age.
    pub aged: u64,
    /// Dropped because their message expiry interval was over.
    pub expired: u64,
    /// Refused by the cloud with a reason code.
    pub refused: u64,
    /// Larger than the buffer, or than the cloud takes.
    pub too_large: u64,
    /// Their rule is gone and no other matches, or it makes no topic of them.
    pub unroutable: u64,
    /// QoS 0 while the link was not up, or stood still.
    pub at_most_once: u64,
    /// Dropped because a person said so.
    pub purged: u64,
    /// From the cloud: no rule matches, or it makes no topic of them.
    pub received_unroutable: u64,
    /// From the cloud: refused by the gateway.
    pub received_refused: u64,
}

/// Those that there are: `full 3, expired 1`.
impl fmt::Display for Losses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            ("full", self.full),
            ("rejected", self.rejected),
            ("aged", self.aged),
            ("expired", self.expired),
            ("refused", self.refused),
            ("too large", self.too_large),
            ("unroutable", self.unroutable),
            ("QoS 0 while down", self.at_most_once),
            ("purged", self.purged),
            ("received, unroutable", self.received_unroutable),
            ("received, refused", self.received_refused),
        ];
        let mut separator = "";
        for (name, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            write!(f, "{separator}{name} {count}")?;
            separator = ", ";
        }
        Ok(())
    }
}

#[derive(Debug, Clone)]
pub struct Status {
    pub state: LinkState,
    /// In the buffer, those in flight included.
    pub queued_messages: u64,
    pub queued_bytes: u64,
    pub inflight: usize,
    /// When the oldest of them was taken, as far as memory knows.
    pub oldest: Option<Now>,
    /// Messages that the buffer ever took, over all restarts.
    pub accepted: u64,
    /// Given to the cloud: acknowledged by it, or sent with QoS 0.
    pub forwarded: u64,
    /// Taken from the cloud, before its rules.
    pub received: u64,
    pub losses: Losses,
    /// Messages that were in flight when the cloud lost the session.
    pub duplicates_possible: u64,
    /// `receive` filters that the cloud refused at the last SUBSCRIBE.
    pub filters_refused: u64,
    /// Why the link last ended or could not be made; None once it is up again.
    pub last_error: Option<LinkFault>,
    /// Since when the link is up.
    pub connected_since: Option<Timestamp>,
}
