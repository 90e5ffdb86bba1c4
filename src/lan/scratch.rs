//! Buffers that all connections of one worker share: each has them for one round, between two waits. So an idle
//! connection keeps none, and a busy one asks for no memory. Holds nothing from one round to the next.

use std::cell::RefCell;

use bytes::BytesMut;

use crate::broker::effect::Outgoing;
use crate::mqtt::packet::Packet;

/// Larger buffers are given back to the system: one large packet is no reason to keep them.
const KEPT_BYTES_MAX: usize = 256 * 1024;
/// The same for what one visit brought.
const KEPT_OUTGOING_MAX: usize = 4096;

#[derive(Default)]
pub struct Scratch {
    pub packets: Vec<Packet>,
    pub outgoing: Vec<Outgoing>,
    input: BytesMut,
    output: BytesMut,
}

impl Scratch {
    /// A connection that holds no output gets the spare buffer.
    pub fn lend_output(&mut self, output: &mut BytesMut) {
        lend(&mut self.output, output);
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// For one round. Never entered twice: `round` awaits nothing.
pub fn with<R>(round: impl FnOnce(&mut Scratch) -> R) -> R {
    SCRATCH.with_borrow_mut(|scratch| {
        let result = round(scratch);
        scratch.packets.clear();
        scratch.outgoing.clear();
        scratch.outgoing.shrink_to(KEPT_OUTGOING_MAX);
        result
    })
}

/// A connection that holds no input gets the spare buffer.
pub fn lend_input(input: &mut BytesMut) {
    SCRATCH.with_borrow_mut(|scratch| lend(&mut scratch.input, input));
}

/// Takes back what a connection does not need until its next round.
pub fn take_back(input: &mut BytesMut, output: &mut BytesMut) {
    SCRATCH.with_borrow_mut(|scratch| {
        take(&mut scratch.input, input);
        take(&mut scratch.output, output);
    });
}

fn lend(spare: &mut BytesMut, buffer: &mut BytesMut) {
    if buffer.capacity() == 0 {
        std::mem::swap(spare, buffer);
    }
}

fn take(spare: &mut BytesMut, buffer: &mut BytesMut) {
    if buffer.is_empty() && buffer.capacity() > 0 {
        let empty = std::mem::take(buffer);
        if spare.capacity() < empty.capacity() && empty.capacity() <= KEPT_BYTES_MAX {
            *spare = empty;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::{KEPT_BYTES_MAX, lend_input, take_back};

    #[test]
    fn an_empty_buffer_goes_round_and_a_full_one_stays() {
        let (mut input, mut output) =
            (BytesMut::with_capacity(1000), BytesMut::with_capacity(KEPT_BYTES_MAX + 1));
        take_back(&mut input, &mut output);
        assert_eq!((input.capacity(), output.capacity()), (0, 0), "an idle connection keeps nothing");
        let mut other = BytesMut::new();
        lend_input(&mut other);
        assert!(other.capacity() >= 1000, "the next one has what the first gave back");
        other.extend_from_slice(b"part of a packet");
        take_back(&mut other, &mut output);
        assert_eq!(&other[..], b"part of a packet");
    }
}
