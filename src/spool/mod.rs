//! The bounded, ordered, durable queue that sessions and bridges share, with the window of packets in flight
//! that empties it. Pure: it emits records and asks for loads, it never writes, reads or sends.

mod change;
pub mod inbound;
mod memory;
pub mod packet_ids;
mod passage;
pub mod queue;
mod releases;
pub mod settings;
pub mod shares;
mod slot;
pub mod survey;
mod sweep;
mod window;

use crate::base::time::Duration;
use crate::store::record::{Load, Log};

/// One acknowledgement that somebody owes and holds back. A publication that goes to three spools is held
/// three times; the barrier counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hold(pub u64);

/// What visits to spools leave for the door. One for the whole gateway, so that all records have one order.
#[derive(Debug, Default)]
pub struct Ledger {
    pub log: Log,
    /// One item for each time that something held became safe: acknowledged further on, on disk, or given up by a
    /// configured bound.
    pub released: Vec<Hold>,
    /// Holds whose message gathers with others for a commit, because its far end is away.
    pub gathered: Vec<Hold>,
    pub loads: Vec<Load>,
    /// What nobody waits for gathers so long at least: the flash is to be spared.
    pub unowed_wait: Duration,
}
