//! The ports of lines that other masters share: taken at the start, served beside their lines. Knows no Modbus.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;

use crate::app::error::StartError;
use crate::app::prepare::Line;
use crate::app::supervise::Supervisor;
use crate::base::time::Clock;
use crate::bus::share::SharedLine;
use crate::config::model::Config;
use crate::lan::listener;

#[derive(Default)]
pub struct Shares {
    /// By the names of their ports.
    bound: Vec<(Arc<str>, Arc<TcpListener>)>,
    pub served: Vec<Arc<SharedLine>>,
}

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
        Ok(Self { bound, served: Vec::new() })
    }

    /// Serves other masters for as long as their line is driven. None: it is not shared.
    pub fn serve(&mut self, line: &Line, clock: &Clock, devices: &mut Supervisor) -> Option<Arc<SharedLine>> {
        let shared = Arc::new(SharedLine::of(&line.endpoint, &line.settings, clock.clone())?);
        let (name, listener) = self.bound.iter().find(|(name, _)| *name == shared.name)?;
        let (serving, listener) = (Arc::clone(&shared), Arc::clone(listener));
        devices.spawn(format!("share:{name}"), move |cancel| {
            Arc::clone(&serving).serve(Arc::clone(&listener), cancel)
        });
        self.served.push(Arc::clone(&shared));
        Some(shared)
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
