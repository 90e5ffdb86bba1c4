//! A serial line as it is configured: how bytes go over it, and who else may use it. Plain values; never opens one.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::time::Duration;

/// A serial line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    pub name: Arc<str>,
    pub path: PathBuf,
    pub baud_rate: u32,
    pub data_bits: DataBits,
    pub parity: Parity,
    pub stop_bits: StopBits,
    /// Silence kept after an answer, over the 3.5 characters of the standard.
    pub turnaround: Duration,
    /// None: the adapter turns the line's driver around by itself.
    pub rs485: Option<Rs485>,
    /// None: no other master is served. Never on the port of an instrument.
    pub share: Option<Share>,
}

/// A Modbus TCP server for other masters that need the same line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    pub address: SocketAddr,
    /// How old an answer may be that is not asked for again; zero: always ask.
    pub cache: Duration,
    /// Whether other masters may write.
    pub writes: bool,
}

/// How the kernel turns the driver of a line around.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rs485 {
    /// RTS is high while a request leaves, or low.
    pub rts_on_send: bool,
    pub delay_before_send: Duration,
    pub delay_after_send: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataBits {
    Seven,
    Eight,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parity {
    None,
    Even,
    Odd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopBits {
    One,
    Two,
}
