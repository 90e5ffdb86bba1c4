//! The configuration read again while the gateway runs. All of it is checked and prepared first, and then applied: all of
//! it counts, or nothing. What did not change is not touched; what needs a restart is named. Reads no file itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::net::TcpListener;

use crate::app::dashboard::Dashboard;
use crate::app::error::StartError;
use crate::app::fleet::{Fleet, Plan};
use crate::app::lan::Bound;
use crate::app::running::{LastReload, Running};
use crate::app::shares::Shares;
use crate::app::{Gateway, descriptors, prepare, systemd};
use crate::base::time::Clock;
use crate::bridge::loops::echo;
use crate::bridge::node::carries;
use crate::config::diff::Changes;
use crate::config::error::Faults;
use crate::config::guarded::exposures;
use crate::config::limits::Limits;
use crate::config::model::{Bridge, Config};
use crate::device::metrics;
use crate::device::receiver::Receiver;
use crate::hub::change::Devices;
use crate::hub::login::Clients;
use crate::lan::entrance::warn_of_age;
use crate::observe::log;
use crate::sparkplug::session::Definition;
use crate::transport::server::{Renewed, TlsServer};

/// What was found good, and is to be applied.
struct Ready {
    config: Arc<Config>,
    changes: Changes,
    sockets: Sockets,
    /// Of what stays: files that are others under the same names.
    certificates: Vec<(Arc<TlsServer>, Renewed)>,
}

/// What is listened at.
struct Sockets {
    listeners: Vec<Arc<Bound>>,
    shares: Shares,
    web: Option<Arc<Dashboard>>,
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
            let known = Sockets {
                listeners: gateway.lan.lock().await.bound(),
                shares: fleet.shares().clone(),
                web: gateway.web.lock().await.dashboard().cloned(),
            };
            prepare(gateway, config, &known)
        }
        (Ok(_), None) => Err(vec!["the gateway stops".to_owned()]),
        (Err(faults), _) => Err(faults),
    };
    let at = gateway.hub().clock().now().wall;
    let mut told = LastReload { at, faults: Vec::new(), changed: String::new(), restart: Vec::new() };
    match (ready, devices.as_mut()) {
        (Ok(ready), Some(fleet)) => {
            let changes = apply(gateway, ready, fleet).await;
            (told.changed, told.restart) = (changes.to_string(), changes.restart);
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
    tracing::error!(faults = faults.len(), "the configuration was not applied: everything stays as it was");
}

/// Everything that can fail. Touches nothing that runs.
fn prepare(gateway: &Gateway, config: Config, known: &Sockets) -> Result<Ready, Vec<String>> {
    let running = gateway.config();
    let mut changes = Changes::between(&running, &config);
    let mut faults: Vec<String> = changes.identity.iter().map(|key| another_gateway(key)).collect();
    let names: BTreeSet<Arc<str>> =
        prepare::receivers(&config).map(|receiver| receiver.name().clone()).collect();
    let bridges = config.bridges.iter().map(|bridge| bridge.name.clone()).collect();
    if !gateway.hub().has_room_for(&names, &bridges) {
        faults.push(
            "devices, bridges: too many names since the start (a restart forgets those of before)".to_owned(),
        );
    }
    let sockets = known.next(&config, gateway.hub().clock(), &mut faults);
    let certificates = sockets.as_ref().map_or_else(Vec::new, |sockets| sockets.renewed(&mut faults));
    let Some(sockets) = sockets.filter(|_| faults.is_empty()) else { return Err(faults) };
    let files = certificates.iter().map(|(server, _)| server.certificate_path().display().to_string());
    changes.note_certificates(files);
    let config = Arc::new(effective(&running, config));
    Ok(Ready { config, changes, sockets, certificates })
}

impl Sockets {
    /// Those of another configuration, bound beside these. None: one cannot be had.
    fn next(&self, config: &Config, clock: &Clock, faults: &mut Vec<String>) -> Option<Self> {
        let own: Vec<_> = self.own().cloned().collect();
        let shares = Shares::bind(config, &self.shares, &own);
        let listeners = Bound::all(config, &self.listeners, &own);
        let open = |http| Dashboard::open(http, self.web.as_ref(), &own, clock.clone());
        let web = config.http.as_ref().map(open).transpose();
        let mut fault = |error: StartError| faults.push(error.to_string());
        let shares = shares.map_err(&mut fault).ok();
        let listeners = listeners.map_err(&mut fault).ok();
        let web = web.map_err(&mut fault).ok();
        Some(Self { listeners: listeners?, shares: shares?, web: web? })
    }

    fn own(&self) -> impl Iterator<Item = &Arc<TcpListener>> {
        let listeners = self.listeners.iter().map(|bound| bound.listener());
        listeners.chain(self.shares.listeners()).chain(self.web.iter().map(|web| web.listener()))
    }

    /// Certificates whose files have changed since they were read: those of what stays.
    fn renewed(&self, faults: &mut Vec<String>) -> Vec<(Arc<TlsServer>, Renewed)> {
        let of_listeners = self.listeners.iter().filter_map(|bound| bound.tls());
        let mut all = Vec::new();
        for server in of_listeners.chain(self.web.iter().filter_map(|web| web.tls())) {
            match server.renewed() {
                Ok(Some(renewed)) => all.push((server, renewed)),
                Ok(None) => {}
                Err(error) => faults.push(error.to_string()),
            }
        }
        all
    }
}

fn another_gateway(key: &str) -> String {
    format!("{key}: it cannot change while the gateway runs (`systemctl restart tidegate` applies it)")
}

/// What counts from now on: keys that need a restart stay as they are.
fn effective(running: &Config, newer: Config) -> Config {
    let mut config = newer;
    config.gateway.durability = running.gateway.durability;
    config.log.format = running.log.format;
    config
}

/// What came of it.
async fn apply(gateway: &Gateway, ready: Ready, fleet: &mut Fleet) -> Changes {
    let Ready { config, mut changes, sockets, certificates } = ready;
    let Sockets { listeners, shares, web } = sockets;
    let plans = Plan::all(&config);
    let receivers: Vec<_> = prepare::receivers(&config).collect();
    let named = receivers.iter().map(Receiver::name);
    let stay = named.filter(|name| changes.devices.leaves(name)).cloned().collect();
    let before = gateway.config();
    let nodes = [&before, &config].map(|config| metrics::definition(config).map(Arc::new));
    let relinked = relinked(&changes, (&before, &config), &nodes);
    changes.note_relinked(&relinked);
    let mut uplinks = gateway.uplinks.lock().await;
    tokio::join!(fleet.part(&plans, &stay), uplinks.part(relinked.iter().chain(&changes.bridges.removed)),);

    let [_, definition] = &nodes;
    let clients = Clients {
        anonymous: config.broker.anonymous,
        credentials: config.broker.credentials.clone(),
        access: config.broker.access.clone(),
    };
    apply_limits(gateway, &config);
    for (server, renewed) in certificates {
        server.show(renewed);
        warn_of_age(&server);
    }
    apply_sockets(gateway, &config.broker.limits, listeners, web).await;
    let shut_out = gateway.hub().replace_clients(gateway.logins(), clients);
    let indices = gateway.hub().replace_devices(Devices {
        gateway: config.gateway.id.clone(),
        receivers,
        changed: changes.devices.changed.union(&changes.devices.added).cloned().collect(),
        own: prepare::own_routes(&config, definition.as_deref()),
    });
    if nodes[0] != nodes[1] {
        gateway.hub().replace_node(nodes[0].as_deref(), definition.as_deref());
    }
    gateway.hub().replace_bridges(prepare::bridges(
        &config,
        relinked,
        definition.as_ref(),
        gateway.hub().clock(),
    ));
    fleet.resume(plans, &indices, shares);
    warn_of_new((&before, &config), &changes);
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
    changes
}

/// What a start warns of, where it was not so before.
fn warn_of_new((before, after): (&Config, &Config), changes: &Changes) {
    let known = exposures(before);
    for exposure in exposures(after).into_iter().filter(|exposure| !known.contains(exposure)) {
        tracing::warn!("{exposure}");
    }
    for bridge in after.bridges.iter().filter(|bridge| !changes.bridges.leaves(&bridge.name)) {
        if let Some(warning) = echo(bridge, &after.gateway.id) {
            tracing::warn!("{warning}");
        }
    }
}

fn apply_limits(gateway: &Gateway, config: &Config) {
    if let Err(error) = log::replace_filter(&config.log.filter.to_string()) {
        tracing::error!(%error, "log.level stays as it was");
    }
    descriptors::provide(config);
    let (limits, sys_interval) = (config.broker.limits.clone(), config.broker.sys_interval);
    gateway.hub().replace_limits(limits, sys_interval);
    gateway.overview.set_flash_budget(config.gateway.flash_budget_bytes);
}

async fn apply_sockets(
    gateway: &Gateway,
    limits: &Limits,
    listeners: Vec<Arc<Bound>>,
    web: Option<Arc<Dashboard>>,
) {
    let (mut lan, mut serving) = (gateway.lan.lock().await, gateway.web.lock().await);
    lan.admission().replace(limits);
    let web_tls = web.as_ref().and_then(|web| web.tls());
    tokio::join!(lan.replace(listeners, web_tls), serving.replace(web));
}

/// The bridges whose links begin anew: those that changed or came, and those that tell of a Sparkplug node that is another
/// one now, or for the first or the last time. Devices of a node come and go within a session.
fn relinked(
    changes: &Changes,
    (before, after): (&Config, &Config),
    [old, new]: &[Option<Arc<Definition>>; 2],
) -> BTreeSet<Arc<str>> {
    let tells = |bridge: &&Bridge| {
        let carries =
            |node: &Option<Arc<Definition>>| node.as_ref().is_some_and(|node| carries(node, bridge));
        let is_same_node = match (old, new) {
            (Some(old), Some(new)) => old.node == new.node,
            _ => false,
        };
        if is_same_node { carries(old) != carries(new) } else { carries(old) || carries(new) }
    };
    let told = after.bridges.iter().filter(|_| old != new).filter(tells).map(|bridge| bridge.name.clone());
    let told = told.filter(|name| before.bridges.iter().any(|bridge| bridge.name == *name));
    told.chain(changes.bridges.changed.iter().chain(&changes.bridges.added).cloned()).collect()
}
