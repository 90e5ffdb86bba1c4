//! How readings of a device are gathered for one message. Plain values; gathers nothing.

use crate::base::time::Duration;

/// Whichever bound is reached first closes a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// From its first reading on.
    pub every: Duration,
    /// Messages that it stands for.
    pub readings: usize,
    /// Of the packet that it becomes: what `size` says, and never more than the broker takes.
    pub packet_bytes_max: usize,
}
