//! What changed between two configurations and needs a restart to count. Compares; decides nothing.

use std::collections::BTreeSet;

use crate::config::limits::Limits;
use crate::config::model::{Config, Gateway, Log};

/// The keys that changed, but for `broker.authentication` and `broker.access`, which count without a restart.
pub fn needs_restart(running: &Config, newer: &Config) -> Vec<String> {
    let mut changed = Changed::default();
    changed.gateway(&running.gateway, &newer.gateway);
    changed.log(&running.log, &newer.log);
    changed.note("http", running.http != newer.http);
    let (old, new) = (&running.broker, &newer.broker);
    changed.note("broker.listeners", old.listeners != new.listeners);
    changed.limits(&old.limits, &new.limits);
    changed.note("broker.sys_interval", old.sys_interval != new.sys_interval);
    changed.named("ports", &running.ports, &newer.ports, |port| &port.name);
    changed.named("devices", &running.devices, &newer.devices, |device| &device.name);
    changed.named("bridges", &running.bridges, &newer.bridges, |bridge| &bridge.name);
    changed.0
}

#[derive(Default)]
struct Changed(Vec<String>);

impl Changed {
    fn note(&mut self, key: &str, changed: bool) {
        if changed {
            self.0.push(key.to_owned());
        }
    }

    fn gateway(&mut self, old: &Gateway, new: &Gateway) {
        let Gateway { id, data_dir, durability, flash_budget_bytes } = old;
        self.note("gateway.id", *id != new.id);
        self.note("gateway.data_dir", *data_dir != new.data_dir);
        self.note("gateway.durability", *durability != new.durability);
        self.note("gateway.flash_budget", *flash_budget_bytes != new.flash_budget_bytes);
    }

    fn log(&mut self, old: &Log, new: &Log) {
        let Log { filter, format } = old;
        self.note("log.level", *filter != new.filter);
        self.note("log.format", *format != new.format);
    }

    /// Taken apart, so that a new one is not forgotten.
    fn limits(&mut self, old: &Limits, new: &Limits) {
        let Limits {
            connections,
            connections_per_address,
            packet_bytes,
            inflight,
            queued_messages,
            queued_bytes,
            retained_messages,
            keep_alive,
            session_expiry,
            publish_rate,
        } = old;
        let changed = [
            ("connections", *connections != new.connections),
            ("connections_per_address", *connections_per_address != new.connections_per_address),
            ("packet_size", *packet_bytes != new.packet_bytes),
            ("inflight", *inflight != new.inflight),
            ("queued_messages", *queued_messages != new.queued_messages),
            ("queued_bytes", *queued_bytes != new.queued_bytes),
            ("retained_messages", *retained_messages != new.retained_messages),
            ("keep_alive", *keep_alive != new.keep_alive),
            ("session_expiry", *session_expiry != new.session_expiry),
            ("publish_rate", *publish_rate != new.publish_rate),
        ];
        for (key, changed) in changed {
            self.note(&format!("broker.limits.{key}"), changed);
        }
    }

    /// Those that came, went or changed, by name.
    fn named<T: PartialEq>(&mut self, section: &str, old: &[T], new: &[T], name: impl Fn(&T) -> &str) {
        let names: BTreeSet<&str> = old.iter().chain(new).map(&name).collect();
        for wanted in names {
            let find = |of: &[T]| of.iter().position(|one| name(one) == wanted);
            let (before, after) = (find(old).map(|at| &old[at]), find(new).map(|at| &new[at]));
            self.note(&format!("{section}.{wanted}"), before != after);
        }
    }
}
