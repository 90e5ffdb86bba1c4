//! The configuration read again while the gateway runs: who may come in, and do what. All of it counts, or nothing;
//! what needs a restart is named. Reads no file itself.

use crate::app::{Gateway, systemd};
use crate::config::diff::needs_restart;
use crate::config::error::Faults;
use crate::config::model::Config;
use crate::hub::login::Clients;

/// Applies what `load` reads; with faults everything stays as it was.
pub async fn reload<L>(gateway: &Gateway, load: L)
where
    L: FnOnce() -> Result<Config, Faults> + Send + 'static,
{
    systemd::notify_reloading();
    match tokio::task::spawn_blocking(load).await {
        Ok(Ok(config)) => apply(gateway, &config),
        Ok(Err(Faults(faults))) => {
            for fault in &faults {
                tracing::error!("not reloaded: {fault}");
            }
            let faults = faults.len();
            tracing::error!(faults, "the configuration is faulty: everything stays as it was");
        }
        Err(_) => tracing::error!("not reloaded: reading the configuration panicked"),
    }
    systemd::notify_ready(&gateway.status_line());
}

fn apply(gateway: &Gateway, config: &Config) {
    let keys = needs_restart(gateway.config(), config);
    let clients = Clients {
        anonymous: config.broker.anonymous,
        credentials: config.broker.credentials.clone(),
        access: config.broker.access.clone(),
    };
    let shut_out = gateway.hub().replace_clients(gateway.logins(), clients);
    tracing::info!(shut_out, "reloaded: passwords, tokens and access rules");
    if !keys.is_empty() {
        tracing::warn!(keys = keys.join(", "), "changed keys count only after a restart");
    }
}
