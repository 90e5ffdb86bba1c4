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

/// What a spool has lost, and why. Each is a promise of the configuration, never a surprise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Losses {
    /// Dropped because the spool was full.
    pub full: u64,
    /// Dropped because they were older than `age_max`.
    pub aged: u64,
    /// Dropped because their message expiry interval was over [MQTT-3.3.2-5].
    pub expired: u64,
    /// Refused by the far end with a reason code of 0x80 or above [MQTT-4.4.0-2].
    pub refused: u64,
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
