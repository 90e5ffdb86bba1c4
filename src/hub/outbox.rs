//! What waits to be sent on one connection. Bounded: QoS 0 messages of a reader that is too slow are dropped
//! and counted. The rest is bounded elsewhere: messages above QoS 0 and acknowledgements by their windows,
//! answers by the hand, which reads no further while much of what was answered still has to be written.

use crate::broker::effect::Outgoing;
use crate::hub::Bell;
use crate::hub::client::Flow;
use crate::mqtt::qos::QoS;

/// QoS 0 messages beyond this are dropped for a connection.
const OUTBOX_BYTES_MAX: usize = 1 << 20;
/// The same for retained ones: who subscribes gets them all at once, however fast it reads. They share their
/// bytes with what is retained.
const OUTBOX_RETAINED_BYTES_MAX: usize = 16 << 20;
/// What a message costs in an outbox beside its own bytes.
const OVERHEAD_BYTES: usize = 128;

#[derive(Debug)]
pub struct Outbox {
    queue: Vec<Outgoing>,
    bytes: usize,
    pub bell: Bell,
    /// Close once everything has left.
    pub closing: bool,
}

impl Outbox {
    pub fn new(bell: Bell) -> Self {
        Self { queue: Vec::new(), bytes: 0, bell, closing: false }
    }

    /// False: it was a QoS 0 message too many, and was dropped.
    pub fn push(&mut self, outgoing: Outgoing) -> bool {
        let bytes = OVERHEAD_BYTES + size_of(&outgoing);
        if let Outgoing::Publish(delivery) = &outgoing
            && delivery.qos == QoS::AtMostOnce
            && self.bytes + bytes > bytes_max(delivery.retain)
        {
            return false;
        }
        self.bytes += bytes;
        self.queue.push(outgoing);
        true
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub fn flow(&self) -> Flow {
        if self.closing { Flow::Close } else { Flow::Continue }
    }

    /// Moves all that waits behind what `into` holds already. Keeps no room: most connections have nothing waiting.
    pub fn take(&mut self, into: &mut Vec<Outgoing>) {
        self.bytes = 0;
        into.append(&mut std::mem::take(&mut self.queue));
    }
}

const fn bytes_max(retained: bool) -> usize {
    if retained { OUTBOX_RETAINED_BYTES_MAX } else { OUTBOX_BYTES_MAX }
}

fn size_of(outgoing: &Outgoing) -> usize {
    match outgoing {
        Outgoing::Packet(_) => 0,
        Outgoing::Publish(delivery) => delivery.message.size_bytes(),
    }
}
