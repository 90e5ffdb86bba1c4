//! What a bridge shows of itself. Plain values, copied out; never read back.

use std::fmt;

use crate::base::time::{Now, Timestamp};
use crate::bridge::fate::Cause;
use crate::bridge::fault::LinkFault;
use crate::spool::settings::Tally;
use std::sync::Arc;

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
    /// Its primary host is awaited.
    Waiting,
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
            Self::Waiting => "waiting",
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
    /// Dropped because their message expiry interval was over, or that of their rule.
    pub expired: u64,
    /// Larger than the buffer; at QoS 0, or said by the gateway's Sparkplug node, than the cloud takes.
    pub too_large: u64,
    /// Of QoS 0: their rule is gone and no other matches, or it makes no topic of them.
    pub unroutable: u64,
    /// QoS 0 while the link was not up, or stood still.
    pub at_most_once: u64,
    /// Dropped because a person said so.
    pub purged: u64,
    /// From the cloud: no rule matches, or it makes no topic of them.
    pub received_unroutable: u64,
    /// From the cloud: refused by the gateway.
    pub received_refused: u64,
    /// From the cloud: older than their rule allows.
    pub received_expired: u64,
}

/// What the bridge itself gives up; the rest is its spool's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    Rejected,
    TooLarge,
    Unroutable,
    AtMostOnce,
    ReceivedUnroutable,
    ReceivedRefused,
    ReceivedExpired,
}

/// Losses in messages and in bytes of their topics, payloads and properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lost {
    pub messages: Losses,
    pub bytes: Losses,
}

impl Lost {
    pub(super) fn add(&mut self, loss: Loss, bytes: u64) {
        self.messages.add(loss, 1);
        self.bytes.add(loss, bytes);
    }

    /// With what the spool has lost.
    pub(super) fn with(self, tally: &Tally) -> Self {
        let with = |own: Losses, spool: &crate::spool::settings::Losses| Losses {
            full: spool.full,
            aged: spool.aged,
            expired: spool.expired,
            purged: spool.purged,
            ..own
        };
        Self { messages: with(self.messages, &tally.messages), bytes: with(self.bytes, &tally.bytes) }
    }
}

impl Losses {
    fn add(&mut self, loss: Loss, amount: u64) {
        *match loss {
            Loss::Rejected => &mut self.rejected,
            Loss::TooLarge => &mut self.too_large,
            Loss::Unroutable => &mut self.unroutable,
            Loss::AtMostOnce => &mut self.at_most_once,
            Loss::ReceivedUnroutable => &mut self.received_unroutable,
            Loss::ReceivedRefused => &mut self.received_refused,
            Loss::ReceivedExpired => &mut self.received_expired,
        } += amount;
    }

    pub fn total(&self) -> u64 {
        self.counts().iter().map(|(_, count)| count).sum()
    }

    /// Each with the name of its reason.
    pub fn counts(&self) -> [(&'static str, u64); 11] {
        [
            ("full", self.full),
            ("rejected", self.rejected),
            ("aged", self.aged),
            ("expired", self.expired),
            ("too_large", self.too_large),
            ("unroutable", self.unroutable),
            ("at_most_once", self.at_most_once),
            ("purged", self.purged),
            ("received_unroutable", self.received_unroutable),
            ("received_refused", self.received_refused),
            ("received_expired", self.received_expired),
        ]
    }
}

/// Those that there are: `full 3, expired 1`.
impl fmt::Display for Losses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (name, count) in self.counts().into_iter().filter(|(_, count)| *count > 0) {
            write!(f, "{separator}{} {count}", name.replace('_', " "))?;
            separator = ", ";
        }
        Ok(())
    }
}

/// One forward rule: what waits of it, and what it lost.
#[derive(Debug, Clone)]
pub struct RuleStatus {
    pub topic: Arc<str>,
    pub queued_messages: u64,
    pub queued_bytes: u64,
    /// Its share of the buffer, where it has one.
    pub bytes_max: Option<u64>,
    pub lost: Lost,
}

/// What can never be delivered.
#[derive(Debug, Clone, Default)]
pub struct DeadStatus {
    pub messages: u64,
    pub bytes: u64,
    pub bytes_max: u64,
    /// When the one that has been dead for longest was taken, as far as memory knows.
    pub oldest: Option<Now>,
    /// Since the start, by causes.
    pub died: Vec<(Cause, u64)>,
}

#[derive(Debug, Clone)]
pub struct Status {
    pub state: LinkState,
    /// Where the link is, or is tried next.
    pub server: String,
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
    /// The same in bytes.
    pub losses_bytes: Losses,
    /// In the order of the configuration.
    pub rules: Vec<RuleStatus>,
    pub dead: DeadStatus,
    /// Messages that were in flight when the cloud lost the session.
    pub duplicates_possible: u64,
    /// `receive` filters that the cloud refused, or has no place for.
    pub filters_refused: u64,
    /// What the server grants less of than was asked for, in words. Empty while no server is there.
    pub degraded: Vec<String>,
    /// Why the link last ended or could not be made; None once it is up again.
    pub last_error: Option<LinkFault>,
    /// Since when the link is up.
    pub connected_since: Option<Timestamp>,
}
