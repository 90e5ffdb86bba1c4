//! Which devices share a line: all of one serial port, all of one Modbus TCP endpoint.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::model::{Config, Device, Link};

/// What tells one line from another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum LineKey {
    Tcp(Arc<str>),
    /// An index into `Config::ports`.
    Port(usize),
}

/// Devices by their index in the configuration, in that order.
pub type LineDevices = Vec<(u16, Device)>;

pub fn lines(config: &Config) -> BTreeMap<LineKey, LineDevices> {
    let mut lines = BTreeMap::<LineKey, LineDevices>::new();
    for (index, device) in (0u16..).zip(&config.devices) {
        let key = match &device.link {
            Link::Tcp { address, .. } => LineKey::Tcp(address.clone()),
            Link::Rtu { port, .. } => LineKey::Port(*port),
        };
        lines.entry(key).or_default().push((index, device.clone()));
    }
    lines
}
