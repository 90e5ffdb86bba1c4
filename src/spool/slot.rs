//! One entry in memory: how far it has been sent, and how safe it is.

use crate::base::time::Instant;
use crate::mqtt::qos::PacketId;
use crate::spool::Hold;
use crate::store::record::{Entry, Lsn};

/// How far an entry has been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Queued,
    /// It has its packet identifier and may be sent once `after` is durable.
    Prepared {
        packet_id: PacketId,
        after: Lsn,
        dup: bool,
    },
    Sent {
        packet_id: PacketId,
    },
    /// Acknowledged or given up; stays until it is the front.
    Gone,
}

/// Where an entry would be found after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Safety {
    /// Nowhere: the process alone has it, at the latest until the deadline.
    Gathering {
        until: Instant,
    },
    /// Nowhere yet: its record is on the way to the disk.
    Committing(Lsn),
    Durable,
}

#[derive(Debug)]
pub struct Slot {
    pub entry: Entry,
    pub stage: Stage,
    pub safety: Safety,
    /// The acknowledgement that waits for this entry; None once it is safe.
    pub hold: Option<Hold>,
}

impl Slot {
    pub fn bytes(&self) -> usize {
        self.entry.message.size_bytes()
    }

    pub fn is_recorded(&self) -> bool {
        !matches!(self.safety, Safety::Gathering { .. })
    }
}

/// A QoS 2 message whose PUBREC came: only PUBREL is left to send [MQTT-4.3.3-6].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    pub packet_id: PacketId,
    /// PUBREL may leave once this is durable.
    pub after: Lsn,
    /// Whether PUBREL left on this connection.
    pub sent: bool,
    /// Whether it has its place in the window of this connection.
    pub on_wire: bool,
}
