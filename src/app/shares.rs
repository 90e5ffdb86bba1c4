//! The ports of lines that other masters share: taken before anything runs, served beside their lines. Knows no Modbus.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;

use crate::app::error::StartError;
use crate::app::supervise::Supervisor;
use crate::base::time::Clock;
use crate::bus::Endpoint;
use crate::bus::share::SharedLine;
use crate::config::model::Config;
use crate::device::LineSettings;
use crate::lan::listener;

#[derive(Clone, Default)]
pub struct Shares {
    /// By the names of their ports.
    bound: Vec<(Arc<str>, SocketAddr, Arc<TcpListener>)>,
}

impl Shares {
    /// What others have bound already is theirs and ours. `own` are all of ours that may have a port.
    pub fn bind(config: &Config, others: &Self, own: &[Arc<TcpListener>]) -> Result<Self, StartError> {
        let mut bound = Vec::new();
        for port in &config.ports {
            let Some(share) = port.share else { continue };
            // Port 0 is another one each time.
            let known = others.bound.iter().find(|(name, address, _)| {
                *address == share.address && (address.port() != 0 || *name == port.name)
            });
            if let Some((_, address, listener)) = known {
                bound.push((Arc::clone(&port.name), *address, Arc::clone(listener)));
                continue;
            }
            let listener = listener::bind_beside(share.address, own).map_err(|error| StartError::Share {
                port: Arc::clone(&port.name),
                address: share.address,
                error,
            })?;
            bound.push((Arc::clone(&port.name), share.address, Arc::new(listener)));
        }
        Ok(Self { bound })
    }

    pub fn listeners(&self) -> impl Iterator<Item = &Arc<TcpListener>> {
        self.bound.iter().map(|(.., listener)| listener)
    }

    /// Serves other masters for as long as their line is driven. None: it is not shared.
    pub fn serve(
        &self,
        (endpoint, settings): (&Endpoint, &LineSettings),
        clock: &Clock,
        tasks: &mut Supervisor,
    ) -> Option<Arc<SharedLine>> {
        let shared = Arc::new(SharedLine::of(endpoint, settings, clock.clone())?);
        let (.., listener) = self.bound.iter().find(|(name, ..)| *name == shared.name)?;
        if let Some(warning) = warning(&shared.name, shared.share.address, shared.share.writes) {
            tracing::warn!("{warning}");
        }
        let (serving, listener) = (Arc::clone(&shared), Arc::clone(listener));
        tasks.spawn(format!("share:{}", shared.name), move |cancel| {
            Arc::clone(&serving).serve(Arc::clone(&listener), cancel)
        });
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
