//! What changed between two configurations, in the words of their file. Compares; decides nothing but what cannot count
//! while a gateway runs.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::config::instrument::Instrument;
use crate::config::limits::Limits;
use crate::config::model::{Config, Device, Http, HttpLogin, Link};

/// What came, went or is other than before, of one section.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Named {
    pub added: BTreeSet<Arc<str>>,
    pub changed: BTreeSet<Arc<str>>,
    pub removed: BTreeSet<Arc<str>>,
    pub unchanged: usize,
}

/// All that a reload has to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    pub ports: Named,
    pub devices: Named,
    pub bridges: Named,
    /// Devices that are as they were and begin anew all the same: their port is another one.
    pub moved: BTreeSet<Arc<str>>,
    /// Bridges that are as they were and connect anew all the same: they tell of a Sparkplug node that is another one.
    pub relinked: BTreeSet<Arc<str>>,
    /// Other keys that count at once.
    pub keys: Vec<String>,
    /// Keys that count only after a restart.
    pub restart: Vec<String>,
    /// Keys that make it another gateway.
    pub identity: Vec<&'static str>,
}

impl Named {
    fn of<T>(old: &[T], new: &[T], name: impl Fn(&T) -> &Arc<str>, same: impl Fn(&T, &T) -> bool) -> Self {
        let mut named = Self::default();
        for newer in new {
            match old.iter().find(|older| name(older) == name(newer)) {
                None => drop(named.added.insert(Arc::clone(name(newer)))),
                Some(older) if same(older, newer) => named.unchanged += 1,
                Some(_) => drop(named.changed.insert(Arc::clone(name(newer)))),
            }
        }
        let is_gone = |older: &&T| !new.iter().any(|newer| name(newer) == name(older));
        named.removed = old.iter().filter(is_gone).map(|older| Arc::clone(name(older))).collect();
        named
    }

    /// Of two sections whose names are each other's.
    fn with(mut self, other: Self) -> Self {
        // A name that went over from one to the other is another thing.
        self.changed.extend(self.added.intersection(&other.removed).cloned());
        self.changed.extend(self.removed.intersection(&other.added).cloned());
        self.changed.extend(other.changed);
        self.added.extend(other.added);
        self.removed.extend(other.removed);
        self.added.retain(|name| !self.changed.contains(name));
        self.removed.retain(|name| !self.changed.contains(name));
        self.unchanged += other.unchanged;
        self
    }

    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }

    /// Whether it is as it was, or not there.
    pub fn leaves(&self, name: &str) -> bool {
        !self.added.contains(name) && !self.changed.contains(name) && !self.removed.contains(name)
    }
}

/// `+boiler ~main-meter -old`
impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signed = [('+', &self.added), ('~', &self.changed), ('-', &self.removed)];
        let mut separator = "";
        for (sign, name) in signed.iter().flat_map(|(sign, names)| names.iter().map(move |name| (sign, name)))
        {
            write!(f, "{separator}{sign}{name}")?;
            separator = " ";
        }
        Ok(())
    }
}

impl Changes {
    pub fn between(running: &Config, newer: &Config) -> Self {
        let devices = Named::of(
            &running.devices,
            &newer.devices,
            |device| &device.name,
            |old, new| is_same_device((running, old), (newer, new)),
        );
        let instruments = Named::of(
            &running.instruments,
            &newer.instruments,
            |device| &device.name,
            |old, new| is_same_instrument((running, old), (newer, new)),
        );
        let mut changes = Self {
            ports: Named::of(&running.ports, &newer.ports, |port| &port.name, PartialEq::eq),
            devices: devices.with(instruments),
            bridges: Named::of(&running.bridges, &newer.bridges, |bridge| &bridge.name, PartialEq::eq),
            ..Self::default()
        };
        changes.note_moved(newer);
        changes.note_gateway(running, newer);
        changes.note_keys(running, newer);
        changes
    }

    /// Those on ports that changed.
    fn note_moved(&mut self, newer: &Config) {
        let on_port = |link: &Link| match link {
            Link::Rtu { port, .. } | Link::Ascii { port, .. } => Some(*port),
            Link::Tcp { .. } | Link::RtuOverTcp { .. } => None,
        };
        let devices = newer.devices.iter().filter_map(|device| Some((&device.name, on_port(&device.link)?)));
        let instruments = newer.instruments.iter().map(|device| (&device.name, device.port));
        let is_moved =
            |port: usize| newer.ports.get(port).is_some_and(|port| self.ports.changed.contains(&port.name));
        let moved =
            devices.chain(instruments).filter(|(name, port)| self.devices.leaves(name) && is_moved(*port));
        self.moved = moved.map(|(name, _)| Arc::clone(name)).collect();
    }

    /// Bridges whose links begin anew; those that changed or came among them.
    pub fn note_relinked(&mut self, bridges: &BTreeSet<Arc<str>>) {
        self.relinked = bridges.iter().filter(|name| self.bridges.leaves(name)).cloned().collect();
    }

    /// Files of certificates that were read again for listeners or the dashboard, which did not change.
    pub fn note_certificates(&mut self, files: impl Iterator<Item = String>) {
        let files: BTreeSet<String> = files.collect();
        self.keys.extend(files.into_iter().map(|file| format!("certificate {file}")));
    }

    fn note_gateway(&mut self, running: &Config, newer: &Config) {
        let (old, new) = (&running.gateway, &newer.gateway);
        let identity = [("gateway.id", old.id != new.id), ("gateway.data_dir", old.data_dir != new.data_dir)];
        self.identity = identity.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect();
        let restart = [
            ("gateway.durability", old.durability != new.durability),
            ("log.format", running.log.format != newer.log.format),
        ];
        note(&mut self.restart, "", &restart);
        let is_other = old.flash_budget_bytes != new.flash_budget_bytes;
        note(&mut self.keys, "", &[("gateway.flash_budget", is_other)]);
    }

    fn note_keys(&mut self, running: &Config, newer: &Config) {
        let (old, new) = (&running.broker, &newer.broker);
        let authentication = old.anonymous != new.anonymous || old.credentials != new.credentials;
        note(
            &mut self.keys,
            "",
            &[
                ("log.level", running.log.filter != newer.log.filter),
                ("broker.authentication", authentication),
                ("broker.access", old.access != new.access),
                ("broker.listeners", old.listeners != new.listeners),
                ("broker.sys_interval", old.sys_interval != new.sys_interval),
            ],
        );
        note(&mut self.keys, "broker.limits.", &limits(&old.limits, &new.limits));
        match (&running.http, &newer.http) {
            (Some(old), Some(new)) => note(&mut self.keys, "http.", &http(old, new)),
            (old, new) => note(&mut self.keys, "", &[("+http", new.is_some()), ("-http", old.is_some())]),
        }
    }

    /// Nothing counts that did not before.
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty() && self.devices.is_empty() && self.bridges.is_empty() && self.keys.is_empty()
    }
}

fn note(keys: &mut Vec<String>, section: &str, changed: &[(&str, bool)]) {
    let changed = changed.iter().filter(|(_, changed)| *changed);
    keys.extend(changed.map(|(key, _)| format!("{section}{key}")));
}

/// Taken apart, so that a new key is not forgotten.
fn http(old: &Http, new: &Http) -> [(&'static str, bool); 4] {
    let Http { address, login, tls } = old;
    let user = |login: &Option<HttpLogin>| login.as_ref().map(|login| Arc::clone(&login.username));
    let hash = |login: &Option<HttpLogin>| login.as_ref().map(|login| login.password_hash.clone());
    [
        ("address", *address != new.address),
        ("username", user(login) != user(&new.login)),
        ("password_hash", hash(login) != hash(&new.login)),
        ("tls", *tls != new.tls),
    ]
}

/// Taken apart, so that a new one is not forgotten.
fn limits(old: &Limits, new: &Limits) -> [(&'static str, bool); 10] {
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
    [
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
    ]
}

/// A port is known by its name: its place moves with those of others.
fn is_same_device((before, old): (&Config, &Arc<Device>), (after, new): (&Config, &Arc<Device>)) -> bool {
    let port = |config: &Config, link: &Link| match link {
        Link::Rtu { port, .. } | Link::Ascii { port, .. } => {
            config.ports.get(*port).map(|port| Arc::clone(&port.name))
        }
        Link::Tcp { .. } | Link::RtuOverTcp { .. } => None,
    };
    let is_moved = match (&old.link, &new.link) {
        (Link::Rtu { unit: a, .. }, Link::Rtu { unit: b, .. })
        | (Link::Ascii { unit: a, .. }, Link::Ascii { unit: b, .. }) => a != b,
        (a, b) => a != b,
    };
    let is_moved = is_moved || port(before, &old.link) != port(after, &new.link);
    !is_moved && **old == Device { link: old.link.clone(), ..Device::clone(new) }
}

fn is_same_instrument((before, old): (&Config, &Instrument), (after, new): (&Config, &Instrument)) -> bool {
    let name = |config: &Config, port: usize| config.ports.get(port).map(|port| Arc::clone(&port.name));
    name(before, old.port) == name(after, new.port) && *old == Instrument { port: old.port, ..new.clone() }
}

/// `devices +boiler ~main-meter -old, bridges ~cloud, log.level; unchanged: 12 devices, 1 bridge`
impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sections = [("ports", &self.ports), ("devices", &self.devices), ("bridges", &self.bridges)];
        let mut separator = "";
        for (section, named) in sections.iter().filter(|(_, named)| !named.is_empty()) {
            write!(f, "{separator}{section} {named}")?;
            separator = ", ";
        }
        for key in &self.keys {
            write!(f, "{separator}{key}")?;
            separator = ", ";
        }
        if self.is_empty() {
            f.write_str(if self.restart.is_empty() {
                "nothing changed"
            } else {
                "nothing changed that counts without a restart"
            })?;
        }
        let anew = [("their ports", &self.moved), ("the Sparkplug node", &self.relinked)];
        for (what, names) in anew.iter().filter(|(_, names)| !names.is_empty()) {
            let names: Vec<&str> = names.iter().map(|name| &**name).collect();
            write!(f, "; begun anew with {what}: {}", names.join(", "))?;
        }
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        let devices = self.devices.unchanged.saturating_sub(self.moved.len());
        let bridges = self.bridges.unchanged.saturating_sub(self.relinked.len());
        write!(f, "; unchanged: {devices} device{}, {bridges} bridge{}", plural(devices), plural(bridges))
    }
}
