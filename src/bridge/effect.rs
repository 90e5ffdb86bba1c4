//! What a visit to a bridge brain wants done. Owned by the door and reused; never interpreted here.

use std::sync::Arc;

use crate::mqtt::message::Message;
use crate::mqtt::packet::Packet;
use crate::spool::Ledger;

/// A message from the cloud, renamed, for the local router. All messages of one visit are to be routed in that
/// visit, so that their records become durable together with the bridge's own; a QoS 2 one is urgent: the
/// cloud will not send it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    pub message: Arc<Message>,
    /// To be handed to `handle_completed` once the message is safe. None for QoS 0, and for what is refused.
    pub token: Option<u64>,
    /// Older than its rule allows: nobody gets it, but who commands is told.
    pub is_expired: bool,
}

#[derive(Debug, Default)]
pub struct Effects {
    pub ledger: Ledger,
    /// To the cloud, in order.
    pub sends: Vec<Packet>,
    pub publishes: Vec<Received>,
    /// Open the transport now.
    pub connect: bool,
    /// Close the transport once the sends have left.
    pub disconnect: bool,
    /// The state of the link changed.
    pub changed: bool,
}
