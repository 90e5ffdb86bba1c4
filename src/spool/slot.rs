//! One entry in memory: how far it has been sent, and how safe it is. Plain values.

use crate::mqtt::qos::{PacketId, QoS};
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
        /// It may have left before, on another connection.
        dup: bool,
    },
    Sent {
        packet_id: PacketId,
    },
}

/// Where an entry would be found after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Safety {
    /// Nowhere: the process alone has it, at the latest until its deadline.
    Gathering,
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
    /// An entry as it comes from the disk.
    pub fn durable(entry: Entry) -> Self {
        Self { entry, stage: Stage::Queued, safety: Safety::Durable, hold: None }
    }

    pub fn bytes(&self) -> usize {
        self.entry.message.size_bytes()
    }

    /// Whether another client may get it in place of this one: never what may have been received at QoS 2
    /// [MQTT-4.8.2-5].
    pub fn may_go_elsewhere(&self) -> bool {
        let may_have_left = matches!(self.stage, Stage::Sent { .. } | Stage::Prepared { dup: true, .. });
        self.entry.qos == QoS::AtLeastOnce || !may_have_left
    }

    pub fn is_recorded(&self) -> bool {
        self.safety != Safety::Gathering
    }
}
