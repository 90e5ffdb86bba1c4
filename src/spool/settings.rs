//! How a spool is bounded and kept. Plain values.

use crate::base::time::Duration;

/// Whether entries outlive the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    /// Ends with its connection: nothing is ever recorded, and a hold is released at once.
    Volatile,
    /// Recorded at the latest after `commit`, unless the far end acknowledges before.
    Durable { commit: Duration },
}

/// What happens to a message that finds the spool full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    #[default]
    DropOldest,
    DropNewest,
    Reject,
    /// Of each topic the newest stays. Of a spool with [`Terms`] only.
    KeepLast,
    /// Of each topic every other one goes, from the oldest on, again and again. Of a spool with [`Terms`] only.
    Thin,
}

impl WhenFull {
    /// Whether what waits makes room for what comes.
    pub const fn yields(self) -> bool {
        matches!(self, Self::DropOldest | Self::KeepLast | Self::Thin)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub messages_max: u64,
    /// Topics, payloads and properties, as `Message::size_bytes` counts.
    pub bytes_max: u64,
    /// Entries older than this are dropped.
    pub age_max: Option<Duration>,
    pub when_full: WhenFull,
    /// Entries of a durable spool that are held in memory at once; the rest stands on disk only.
    pub memory_messages_max: usize,
    pub memory_bytes_max: usize,
}

/// How the messages of one rule stand beside those of the others in a spool: by their own policy, and within a
/// share of their own where they have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    pub bytes_max: Option<u64>,
    pub when_full: WhenFull,
    /// Those older than this are dropped when their turn comes.
    pub expiry: Option<Duration>,
}

impl Terms {
    /// Of entries that no rule brought.
    pub(super) fn of_others(bounds: &Bounds) -> Self {
        Self { bytes_max: None, when_full: bounds.when_full, expiry: None }
    }
}

/// What a spool has lost, and why. Each is a promise of the configuration, never a surprise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Losses {
    /// Dropped because the spool, or the share of their rule, was full.
    pub full: u64,
    /// Dropped because they were older than `age_max`.
    pub aged: u64,
    /// Dropped because their message expiry interval was over [MQTT-3.3.2-5], or that of their rule.
    pub expired: u64,
    /// Refused by the far end with a reason code of 0x80 or above [MQTT-4.4.0-2].
    pub refused: u64,
    /// Dropped because a person said so.
    pub purged: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    Full,
    Aged,
    Expired,
    Refused,
    Purged,
}

impl Losses {
    #[must_use]
    pub fn with(self, other: &Losses) -> Self {
        Self {
            full: self.full + other.full,
            aged: self.aged + other.aged,
            expired: self.expired + other.expired,
            refused: self.refused + other.refused,
            purged: self.purged + other.purged,
        }
    }

    fn add(&mut self, loss: Loss, amount: u64) {
        *match loss {
            Loss::Full => &mut self.full,
            Loss::Aged => &mut self.aged,
            Loss::Expired => &mut self.expired,
            Loss::Refused => &mut self.refused,
            Loss::Purged => &mut self.purged,
        } += amount;
    }
}

/// Losses in messages and in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    pub messages: Losses,
    pub bytes: Losses,
}

impl Tally {
    #[must_use]
    pub fn with(self, other: &Tally) -> Self {
        Self { messages: self.messages.with(&other.messages), bytes: self.bytes.with(&other.bytes) }
    }

    pub(super) fn add(&mut self, loss: Loss, bytes: u64) {
        self.messages.add(loss, 1);
        self.bytes.add(loss, bytes);
    }
}

/// What became of an offered message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    Accepted,
    /// The spool was full and the message was dropped, as configured.
    Dropped,
    /// The spool is full and its publisher is to keep the message.
    Rejected,
}
