//! The configuration read again while the gateway runs. All of it is checked and prepared first, and then applied: all of
//! it counts, or nothing. What did not change is not touched; what needs a restart is named. Reads no file itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::app::fleet::{Fleet, Plan};
use crate::app::lan::Bound;
use crate::app::running::{LastReload, Running};
use crate::app::shares::Shares;
use crate::app::{Gateway, descriptors, prepare, systemd};
use crate::bridge::node::carries;
use crate::config::diff::Changes;
use crate::config::error::Faults;
use crate::config::model::{Bridge, Config};
use crate::device::metrics;
use crate::device::receiver::Receiver;
use crate::hub::change::Devices;
use crate::hub::login::Clients;
use crate::observe::log;
use crate::sparkplug::session::Definition;

/// What was found good, and is to be applied.
struct Ready {
    config: Arc<Config>,
    changes: Changes,
    shares: Shares,
    listeners: Vec<Arc<Bound>>,
}

/// Applies what `load` reads; with faults everything stays as it was.
pub async fn reload<L>(gateway: &Gateway, load: L)
where
    L: FnOnce() -> Result<Config, Faults> + Send + 'static,
{
    systemd::notify_reloading();
    // One that is stopping takes nothing in any more.
    let mut devices = gateway.devices.lock().await;
    let read = match tokio::task::spawn_blocking(load).await {
        Ok(Ok(config)) => Ok(config),
        Ok(Err(Faults(faults))) => Err(faults.iter().map(ToString::to_string).collect()),
        Err(_) => Err(vec!["reading the configuration panicked".to_owned()]),
    };
    let ready = match (read, devices.as_ref()) {
        (Ok(config), Some(fleet)) => {
            let known = gateway.lan.lock().await.bound();
            prepare(gateway, config, (fleet.shares(), &known))
        }
        (Ok(_), None) => Err(vec!["the gateway stops".to_owned()]),
        (Err(faults), _) => Err(faults),
    };
    let at = gateway.hub().clock().now().wall;
    let mut told = LastReload { at, faults: Vec::new(), changed: String::new(), restart: Vec::new() };
    match (ready, devices.as_mut()) {
        (Ok(ready), Some(fleet)) => {
            (told.changed, told.restart) = (ready.changes.to_string(), ready.changes.restart.clone());
            apply(gateway, ready, fleet).await;
        }
        (ready, _) => {
            told.faults = ready.err().unwrap_or_default();
            tell_faults(&told.faults);
        }
    }
    let running = gateway.running.see().now();
    gateway.running.replace(Running { reload: Some(told), ..Running::clone(&running) });
    systemd::notify_ready(&gateway.status_line());
}

fn tell_faults(faults: &[String]) {
    for fault in faults {
        tracing::error!("not reloaded: {fault}");
    }
    tracing::error!(faults = faults.len(), "the configuration is faulty: everything stays as it was");
}

/// Everything that can fail. Touches nothing that runs.
fn prepare(
    gateway: &Gateway,
    config: Config,
    (shares, listeners): (&Shares, &[Arc<Bound>]),
) -> Result<Ready, Vec<String>> {
    let running = gateway.config();
    let changes = Changes::between(&running, &config);
    let mut faults: Vec<String> = changes.identity.iter().map(|key| another_gateway(key)).collect();
    let names: BTreeSet<Arc<str>> =
        prepare::receivers(&config).map(|receiver| receiver.name().clone()).collect();
    let bridges = config.bridges.iter().map(|bridge| bridge.name.clone()).collect();
    if !gateway.hub().has_room_for(&names, &bridges) {
        faults.push(
            "devices, bridges: too many names since the start (a restart forgets those of before)".to_owned(),
        );
    }
    let shares = Shares::bind(&config, shares).map_err(|error| faults.push(error.to_string()));
    let listeners = Bound::all(&config, listeners).map_err(|error| faults.push(error.to_string()));
    match (shares, listeners) {
        (Ok(shares), Ok(listeners)) if faults.is_empty() => {
            let config = Arc::new(effective(&running, config));
            Ok(Ready { config, changes, shares, listeners })
        }
        _ => Err(faults),
    }
}

fn another_gateway(key: &str) -> String {
    format!("{key}: it cannot change while the gateway runs (`systemctl restart tidegate` applies it)")
}

/// What counts from now on: keys that need a restart stay as they are.
fn effective(running: &Config, newer: Config) -> Config {
    let mut config = newer;
    config.gateway = running.gateway.clone();
    config.log.format = running.log.format;
    config.http.clone_from(&running.http);
    config
}

async fn apply(gateway: &Gateway, ready: Ready, fleet: &mut Fleet) {
    let Ready { config, changes, shares, listeners } = ready;
    let plans = Plan::all(&config);
    let receivers: Vec<_> = prepare::receivers(&config).collect();
    let named = receivers.iter().map(Receiver::name);
    let stay = named.filter(|name| changes.devices.leaves(name)).cloned().collect();
    let before = gateway.config();
    let nodes = [&before, &config].map(|config| metrics::definition(config).map(Arc::new));
    let relinked = relinked(&changes, (&before, &config), &nodes);
    let mut uplinks = gateway.uplinks.lock().await;
    tokio::join!(fleet.part(&plans, &stay), uplinks.part(relinked.iter().chain(&changes.bridges.removed)),);

    let [_, definition] = &nodes;
    let clients = Clients {
        anonymous: config.broker.anonymous,
        credentials: config.broker.credentials.clone(),
        access: config.broker.access.clone(),
    };
    apply_limits(gateway, &config, listeners).await;
    let shut_out = gateway.hub().replace_clients(gateway.logins(), clients);
    let indices = gateway.hub().replace_devices(Devices {
        gateway: config.gateway.id.clone(),
        receivers,
        changed: changes.devices.changed.union(&changes.devices.added).cloned().collect(),
        own: prepare::own_routes(&config, definition.as_deref()),
    });
    if nodes[0] != nodes[1] {
        gateway.hub().replace_node(definition.as_deref());
    }
    gateway.hub().replace_bridges(prepare::bridges(
        &config,
        relinked,
        definition.as_ref(),
        gateway.hub().clock(),
    ));
    fleet.resume(plans, &indices, shares);
    uplinks.resume(&config.bridges);
    let running = gateway.running.see().now();
    gateway.running.replace(Running {
        config,
        lines: fleet.statuses(),
        shares: fleet.shared(),
        reload: running.reload.clone(),
    });
    tracing::info!(shut_out, "reloaded: {changes}");
    if !changes.restart.is_empty() {
        tracing::warn!(keys = changes.restart.join(", "), "changed keys count only after a restart");
    }
}

async fn apply_limits(gateway: &Gateway, config: &Config, listeners: Vec<Arc<Bound>>) {
    if let Err(error) = log::replace_filter(&config.log.filter.to_string()) {
        tracing::error!(%error, "log.level stays as it was");
    }
    descriptors::provide(config);
    let (limits, sys_interval) = (config.broker.limits.clone(), config.broker.sys_interval);
    let mut lan = gateway.lan.lock().await;
    lan.admission().replace(&limits);
    gateway.hub().replace_limits(limits, sys_interval);
    lan.replace(listeners, gateway.web_tls.clone()).await;
}

/// The bridges whose links begin anew: those that changed or came, and those that tell of a Sparkplug node that changed.
fn relinked(
    changes: &Changes,
    (before, after): (&Config, &Config),
    [old, new]: &[Option<Arc<Definition>>; 2],
) -> BTreeSet<Arc<str>> {
    let tells = |bridge: &&Bridge| {
        let carries =
            |node: &Option<Arc<Definition>>| node.as_ref().is_some_and(|node| carries(node, bridge));
        carries(old) || carries(new)
    };
    let told = after.bridges.iter().filter(|_| old != new).filter(tells).map(|bridge| bridge.name.clone());
    let told = told.filter(|name| before.bridges.iter().any(|bridge| bridge.name == *name));
    told.chain(changes.bridges.changed.iter().chain(&changes.bridges.added).cloned()).collect()
}
