//! The ports of lines that other masters share: taken at the start, served beside their lines. Knows no Modbus.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;

use crate::app::error::StartError;
use crate::app::supervise::Supervisor;
use crate::bus::share::SharedLine;
use crate::config::model::Config;
use crate::lan::listener;

/// By the names of their ports.
#[derive(Debug, Default)]
pub struct Shares(Vec<(Arc<str>, Arc<TcpListener>)>);

impl Shares {
    pub fn bind(config: &Config) -> Result<Self, StartError> {
        let mut bound = Vec::new();
        for port in &config.ports {
            let Some(share) = port.share else { continue };
            let listener = listener::bind(share.address).map_err(|error| StartError::Share {
                port: Arc::clone(&port.name),
                address: share.address,
                error,
            })?;
            if let Some(warning) = warning(&port.name, share.address, share.writes) {
                tracing::warn!("{warning}");
            }
            bound.push((Arc::clone(&port.name), Arc::new(listener)));
        }
        Ok(Self(bound))
    }

    /// Serves the masters of a line for as long as the line is driven.
    pub fn serve(&self, line: &Arc<SharedLine>, devices: &mut Supervisor) {
        let Some((name, listener)) = self.0.iter().find(|(name, _)| *name == line.name) else { return };
        let (line, listener) = (Arc::clone(line), Arc::clone(listener));
        devices.spawn(format!("share:{name}"), move |cancel| {
            Arc::clone(&line).serve(Arc::clone(&listener), cancel)
        });
    }
}

/// What whoever opens a line to a network has to know.
pub fn warning(port: &str, address: SocketAddr, writes: bool) -> Option<String> {
    let can = if writes { "read and write" } else { "read" };
    let text = || {
        format!(
            "ports.{port}.share: Modbus has no login: whoever reaches {address} can {can} all units of this line \
             (127.0.0.1, or a firewall, would keep others out)"
        )
    };
    (!address.ip().is_loopback()).then(text)
}
