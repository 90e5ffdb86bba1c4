//! How the hand of a bridge meets its brain. The hub implements it; nothing here does any work.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::bridge::fault::LinkFault;
use crate::bridge::servers::Destination;
use crate::mqtt::packet::Packet;

/// What the hand does once it has written the sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Read, and wait for the bell.
    Go,
    /// Open the transport. Said once for each try.
    Connect,
    /// Close the transport, then call `disconnected`.
    Disconnect,
    /// Close the transport and end: the bridge is shut down.
    Stop,
}

/// The door to one bridge. Every call is one visit and never blocks for long. The hand calls only after it has
/// written all that earlier calls gave it, so each visit begins with the brain's `handle_flushed`, and gives
/// the hand all that waits to be sent.
pub trait Door: Send + Sync {
    /// The transport is up.
    fn connected(&self, sends: &mut Vec<Packet>) -> Next;
    /// Drains the batch. Err: the transport is to be closed; `disconnected` follows.
    fn packets(&self, batch: &mut Vec<Packet>, sends: &mut Vec<Packet>) -> Result<Next, LinkFault>;
    /// The transport is gone, or could not be made. What was not taken is discarded.
    fn disconnected(&self, why: LinkFault);
    /// Where `Next::Connect` is to lead to.
    fn destination(&self) -> Destination;
    /// The preferred servers were looked for beside a connection: the first that was there.
    fn probed(&self, found: Option<usize>);
    /// The files of the certificates have changed, and are good.
    fn renewed(&self);
    /// The bell rang, or the hand is idle.
    fn take_sends(&self, sends: &mut Vec<Packet>) -> Next;
    /// Rung with `notify_one` when `take_sends` has something new to say.
    fn bell(&self) -> Arc<Notify>;
}
