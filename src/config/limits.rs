//! What clients may take of the gateway. Owns the shape alone: values are in range when they get here.

use std::num::NonZeroU32;

use crate::base::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// At least 1.
    pub connections: u32,
    /// Sockets from one address that may be open at once. None: as many as `connections`.
    pub connections_per_address: Option<NonZeroU32>,
    /// The largest MQTT packet, whole: 1024 to 268,435,455.
    pub packet_bytes: u32,
    /// Unacknowledged QoS 1 and 2 messages to one client: at least 1.
    pub inflight: u16,
    /// For one session that is away or slow: at least 1.
    pub queued_messages: u32,
    pub queued_bytes: u64,
    /// 0: none are kept.
    pub retained_messages: u32,
    /// The most a client may ask for: whole seconds, 1 to 65,535.
    pub keep_alive: Duration,
    /// Whole seconds, below 2^32 - 1.
    pub session_expiry: Duration,
    /// Messages a second that one client may publish. None: as many as it likes.
    pub publish_rate: Option<NonZeroU32>,
}
