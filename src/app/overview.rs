//! What the gateway shows of itself: puts together what hub, lines, store and system say. Changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tracing::Level;

use crate::app::flash::{Flash, FlashStatus};
use crate::app::point::point;
use crate::app::running::{LastReload, Standing};
use crate::app::write;
use crate::base::pulse::{Pulses, words};
use crate::base::time::{Duration, Now};
use crate::bridge::status::{LinkState, Losses, RuleStatus};
use crate::broker::roster::ClientStatus;
use crate::bus::share::SharedLine;
use crate::config::model::{Config, Link};
use crate::device::share::outcome::Outcome;
use crate::device::status::{DeviceStatus, State};
use crate::hub::Hub;
use crate::hub::status::{HubStatus, LinkStatus};
use crate::observe::tail::{self, Line};
use crate::store::writer::Writer;
use crate::web::Source;
use crate::web::snapshot::{
    BridgeSnapshot, BridgeState, BrokerSnapshot, ClientSnapshot, DeviceSnapshot, DeviceState,
    DroppedSnapshot, Event, FlashSnapshot, LogLevel, PointSnapshot, ProcessSnapshot, ReloadSnapshot,
    RuleSnapshot, ShareSnapshot, Snapshot, StoreSnapshot, Subject,
};
use crate::web::write::Written;

/// How often watchers are told what has changed.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);
/// Events that a watcher may be behind before it misses some.
const EVENTS_MAX: usize = 256;

pub struct Overview {
    running: Standing,
    hub: Arc<Hub>,
    writer: Arc<Writer>,
    flash: Arc<Flash>,
    pulses: Pulses,
    started: Now,
    events: broadcast::Sender<Event>,
}

impl Overview {
    pub fn new(
        running: Standing,
        hub: Arc<Hub>,
        (writer, flash): (Arc<Writer>, Arc<Flash>),
        pulses: Pulses,
    ) -> Self {
        let started = hub.clock().now();
        Self { running, hub, writer, flash, pulses, started, events: broadcast::Sender::new(EVENTS_MAX) }
    }

    pub fn running(&self) -> &Standing {
        &self.running
    }

    pub fn flash(&self) -> FlashStatus {
        self.flash.status()
    }

    pub fn set_flash_budget(&self, bytes: Option<u64>) {
        self.flash.set_budget(bytes);
    }

    pub fn hub_status(&self) -> HubStatus {
        self.hub.status()
    }

    pub fn is_clock_set(&self) -> bool {
        !self.hub.clock().now().wall.is_doubtful()
    }

    /// In the order of the configuration.
    pub fn devices(&self) -> Vec<DeviceStatus> {
        let running = self.running.now();
        let mut devices: Vec<_> = running.lines.iter().flat_map(|line| line.borrow().clone()).collect();
        devices.sort_by(|a, b| a.name.cmp(&b.name));
        devices
    }

    pub fn device_states(&self) -> Vec<State> {
        let of_line = |line: &crate::app::LineStatus| {
            line.borrow().iter().map(|device| device.state).collect::<Vec<_>>()
        };
        self.running.now().lines.iter().flat_map(of_line).collect()
    }

    /// What keeps the gateway from being ready: publishers are refused or held back.
    pub fn trouble(&self) -> Option<String> {
        let behind = self.hub.is_congested();
        let behind = behind.then(|| "the disk is behind: publishers are held back".to_owned());
        self.writer.trouble().map(|trouble| trouble.error.to_string()).or(behind)
    }

    /// Tells watchers what has changed, until it is cancelled. Costs nothing while nobody watches.
    pub async fn watch(self: Arc<Self>, cancel: CancellationToken) {
        let mut ticks = tokio::time::interval(WATCH_INTERVAL);
        let mut lines = None;
        let mut last = None;
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                line = next_line(&mut lines) => {
                    self.tell_line(line);
                    continue;
                }
                _ = ticks.tick() => {}
            }
            if self.events.receiver_count() == 0 {
                (last, lines) = (None, None);
                continue;
            }
            lines.get_or_insert_with(tail::watch);
            let now = self.snapshot();
            if let Some(before) = &last {
                self.tell_changes(before, &now);
            }
            last = Some(now);
        }
    }

    fn tell_changes(&self, before: &Snapshot, now: &Snapshot) {
        let wall = self.hub.clock().now().wall;
        for new in &now.bridges {
            let Some(old) = before.bridges.iter().find(|old| old.name == new.name) else { continue };
            if old.state != new.state {
                let subject = Subject::Bridge { bridge: new.name.clone(), state: new.state };
                self.tell(Event::State { subject, reason: new.last_error.clone(), time: wall });
            }
        }
        for new in &now.devices {
            let Some(old) = before.devices.iter().find(|old| old.name == new.name) else { continue };
            if old.state != new.state {
                let subject = Subject::Device { device: new.name.clone(), state: new.state };
                self.tell(Event::State { subject, reason: new.last_error.clone(), time: wall });
            }
            for point in &new.points {
                let Some(old) = old.points.iter().find(|old| old.name == point.name) else { continue };
                if old.time != point.time || old.quality != point.quality {
                    self.tell_reading(&new.name, point);
                }
            }
        }
    }

    fn tell_reading(&self, device: &str, point: &PointSnapshot) {
        let (Some(quality), Some(time)) = (point.quality, point.time) else { return };
        self.tell(Event::Reading {
            device: device.to_owned(),
            point: point.name.clone(),
            topic: None,
            value: point.value.clone(),
            unit: point.unit.clone(),
            quality,
            error: point.error.clone(),
            time,
        });
    }

    fn tell_line(&self, line: Line) {
        let level = match line.level {
            Level::ERROR => LogLevel::Error,
            Level::WARN => LogLevel::Warn,
            _ => LogLevel::Info,
        };
        self.tell(Event::Log { level, message: line.text, time: self.hub.clock().now().wall });
    }

    fn tell(&self, event: Event) {
        // Fails only when the last watcher has just gone.
        let _ = self.events.send(event);
    }

    fn bridges(&self, config: &Config, hub: &HubStatus, now: Now) -> Vec<BridgeSnapshot> {
        let bridges = config.bridges.iter();
        let bridges = bridges.filter_map(|configured| Some((configured, hub.link(&configured.name)?)));
        let shown = bridges.map(|(configured, LinkStatus { status, since, traffic, .. })| BridgeSnapshot {
            name: configured.name.to_string(),
            url: status.server.clone(),
            state: state_of_link(status.state),
            since: since.unwrap_or(self.started).dated_by(now),
            queued_messages: status.queued_messages,
            queued_bytes: status.queued_bytes,
            buffer_bytes_max: configured.buffer.size_bytes,
            inflight: status.inflight as u64,
            forwarded: status.forwarded,
            received: status.received,
            sent_bytes: traffic.sent_bytes,
            received_bytes: traffic.received_bytes,
            sent_messages: traffic.sent_messages,
            sent_bytes_per_message: traffic.sent_bytes_per_message(),
            dropped_full: status.losses.full + status.losses.rejected,
            dropped_aged: status.losses.aged,
            dropped_expired: status.losses.expired,
            refused: status.dead.died.iter().map(|(_, count)| count).sum(),
            dead_letters: status.dead.messages,
            dead_letter_bytes: status.dead.bytes,
            died: status.dead.died.iter().map(|(cause, count)| (cause.name(), *count)).collect(),
            dropped: dropped(&status.losses, &status.losses_bytes),
            rules: status.rules.iter().map(rule).collect(),
            possible_duplicates: status.duplicates_possible,
            degraded: status.degraded.clone(),
            last_error: status.last_error.as_ref().map(ToString::to_string),
        });
        shown.collect()
    }

    fn device(config: &Config, status: &DeviceStatus, now: Now) -> DeviceSnapshot {
        let identity = status.identity.clone().unwrap_or_default();
        let shown = |text: Option<Arc<str>>| text.map(|text| text.to_string());
        DeviceSnapshot {
            name: status.name.to_string(),
            link: link_of(config, &status.name),
            state: match status.state {
                State::Unknown => DeviceState::Unknown,
                State::Online => DeviceState::Online,
                State::Offline => DeviceState::Offline,
            },
            polls: status.polls,
            skipped: status.skipped,
            errors: status.errors,
            last_error: status.last_failure.as_ref().map(ToString::to_string),
            last_seen: status.last_seen.map(|at| at.dated_by(now)),
            vendor: shown(identity.vendor),
            product: shown(identity.product),
            revision: shown(identity.revision),
            points: status.points.iter().map(|status| point(status, now)).collect(),
        }
    }
}

/// Where the device of this name answers.
fn link_of(config: &Config, name: &str) -> String {
    let port_name = |port: usize| config.ports.get(port).map_or("?", |port| &port.name);
    if let Some(instrument) = config.instruments.iter().find(|device| *device.name == *name) {
        return format!("{}, serial", port_name(instrument.port));
    }
    let device = config.devices.iter().find(|device| *device.name == *name);
    match device.map(|device| &device.link) {
        Some(Link::Tcp { address, unit } | Link::RtuOverTcp { address, unit }) => {
            format!("{address}, unit {unit}")
        }
        Some(Link::Rtu { port, unit } | Link::Ascii { port, unit }) => {
            format!("{}, unit {unit}", port_name(*port))
        }
        None => String::new(),
    }
}

impl Source for Overview {
    fn snapshot(&self) -> Snapshot {
        let now = self.hub.clock().now();
        let running = self.running.now();
        let config = &*running.config;
        let hub = self.hub.status();
        let store = self.store();
        let reason = self.trouble();
        let devices = self.devices();
        Snapshot {
            gateway: config.gateway.id.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.started.dated_by(now),
            uptime_seconds: now.instant.since(self.started.instant).as_secs(),
            clock_synchronised: !now.wall.is_doubtful(),
            ready: reason.is_none(),
            reason,
            reload: running.reload.as_ref().map(reload),
            broker: broker(&hub),
            bridges: self.bridges(config, &hub, now),
            devices: devices.iter().map(|device| Self::device(config, device, now)).collect(),
            shares: running.shares.iter().map(|line| share(line)).collect(),
            store,
            process: process(),
        }
    }

    fn clients(&self, clients_max: usize) -> Vec<ClientSnapshot> {
        self.hub.clients(clients_max).iter().map(client).collect()
    }

    fn config(&self) -> Arc<str> {
        self.running.config().written.clone()
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    fn hung(&self) -> Option<String> {
        let hung = self.pulses.hung();
        (!hung.is_empty()).then(|| format!("hangs: {}", words(&hung)))
    }

    fn write(&self, device: &str, point: &str, command: Bytes) -> Written {
        write::write(&self.hub, device, point, command)
    }
}

impl Overview {
    fn store(&self) -> StoreSnapshot {
        let stats = self.writer.stats();
        let database = self.running.config().gateway.data_dir.join(crate::store::schema::DATABASE_FILE);
        StoreSnapshot {
            records_waiting: self.writer.depth().records as u64,
            commits: stats.commits,
            rows: stats.rows,
            bytes_written: stats.bytes,
            database_bytes: std::fs::metadata(database).map_or(0, |file| file.len()),
            failures: stats.failures,
            reopened: stats.reopened,
            reserve_bytes: stats.reserve_bytes,
            trouble: self.writer.trouble().map(|trouble| trouble.error.to_string()),
            set_aside: self.writer.set_aside().map(|path| path.display().to_string()),
            unreadable_rows: self.writer.unreadable(),
            flash: flash(self.flash.status()),
        }
    }
}

fn flash(status: FlashStatus) -> FlashSnapshot {
    let millis = |wait: Duration| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    FlashSnapshot {
        written_day_bytes: status.written_bytes,
        budget_bytes: status.budget_bytes,
        short: !status.waits.owed.is_zero(),
        commit_wait_ms: millis(status.waits.owed),
        unowed_wait_ms: millis(status.waits.unowed),
    }
}

/// Never, while nobody watches. What a watcher misses of a flood is in the log itself.
async fn next_line(lines: &mut Option<broadcast::Receiver<Line>>) -> Line {
    let Some(lines) = lines else { return std::future::pending().await };
    loop {
        match lines.recv().await {
            Ok(line) => return line,
            Err(RecvError::Lagged(_)) => {}
            // The log lives as long as the process.
            Err(RecvError::Closed) => return std::future::pending().await,
        }
    }
}

fn reload(last: &LastReload) -> ReloadSnapshot {
    let LastReload { at, faults, changed, restart } = last.clone();
    ReloadSnapshot { time: at, ok: faults.is_empty(), changed, faults, restart }
}

fn broker(hub: &HubStatus) -> BrokerSnapshot {
    let stats = &hub.broker;
    BrokerSnapshot {
        connections: stats.connections,
        connections_max: stats.connections_max,
        sessions: stats.sessions,
        subscriptions: stats.subscriptions,
        retained: stats.retained,
        messages_received: stats.publish_received,
        messages_sent: stats.publish_sent,
        bytes_received: stats.bytes_received,
        bytes_sent: stats.bytes_sent,
        messages_dropped: stats.dropped + hub.outbox_dropped,
        queued_messages: stats.queued,
        queued_bytes: stats.queued_bytes,
        inflight: stats.inflight,
        messages_dropped_full: stats.dropped_full,
        messages_dropped_slow: hub.outbox_dropped,
        messages_denied: stats.denied,
        messages_refused: stats.publish_refused,
        messages_returned: stats.returned,
        messages_unkept: hub.unkept,
        messages_throttled: stats.throttled,
        retained_refused: stats.retained_refused,
        connections_accepted: stats.connections_accepted,
        connections_refused: hub.refused.total(),
        connections_refused_by: hub.refused.0.clone(),
        connections_revoked: stats.revoked,
        keep_alive_timeouts: stats.keep_alive_timeouts,
        sessions_expired: stats.clients_expired,
        protocol_errors: stats.violations,
        packets_too_large: stats.packets_too_large,
        receive_maximum_exceeded: stats.receive_maximum_exceeded,
    }
}

fn rule(status: &RuleStatus) -> RuleSnapshot {
    RuleSnapshot {
        topic: status.topic.to_string(),
        queued_messages: status.queued_messages,
        queued_bytes: status.queued_bytes,
        bytes_max: status.bytes_max,
        dropped: dropped(&status.lost.messages, &status.lost.bytes),
    }
}

fn share(line: &SharedLine) -> ShareSnapshot {
    let status = line.status();
    ShareSnapshot {
        port: line.name.to_string(),
        address: line.share.address.to_string(),
        cache_seconds: line.share.cache.as_secs_f64(),
        writes: line.share.writes,
        connections: status.connections as u64,
        connections_refused: status.connections_refused,
        waiting: status.waiting as u64,
        requests: Outcome::ALL.iter().map(|outcome| (outcome.name(), status.counts.of(*outcome))).collect(),
    }
}

fn dropped(messages: &Losses, bytes: &Losses) -> BTreeMap<&'static str, DroppedSnapshot> {
    let counts = messages.counts().into_iter().zip(bytes.counts());
    counts.map(|((reason, messages), (_, bytes))| (reason, DroppedSnapshot { messages, bytes })).collect()
}

fn client(status: &ClientStatus) -> ClientSnapshot {
    ClientSnapshot {
        client_id: status.client_id.to_string(),
        user: status.user.as_deref().map(str::to_owned),
        address: status.address.to_string(),
        protocol: status.version.name(),
        connected_since: status.connected_at,
        durable: status.durable,
        subscriptions: status.subscriptions,
        queued_messages: status.queued_messages,
        queued_bytes: status.queued_bytes,
    }
}

const fn state_of_link(state: LinkState) -> BridgeState {
    match state {
        LinkState::Up => BridgeState::Up,
        LinkState::Connecting | LinkState::Greeting | LinkState::Subscribing | LinkState::Waiting => {
            BridgeState::Connecting
        }
        LinkState::Paused => BridgeState::Paused,
        LinkState::Down | LinkState::Closing | LinkState::Closed => BridgeState::Down,
    }
}

/// As the kernel counts; zeros where it does not say.
fn process() -> ProcessSnapshot {
    let page_bytes = rustix::param::page_size() as u64;
    let ticks_per_second = rustix::param::clock_ticks_per_second();
    let resident_pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok())
        .unwrap_or(0);
    // Behind the name, which may hold anything but ends with the last bracket: user and system time are the
    // 12th and 13th fields.
    let cpu_ticks = std::fs::read_to_string("/proc/self/stat").ok().and_then(|text| {
        let mut fields = text.rsplit_once(") ")?.1.split(' ').skip(11);
        let user: u32 = fields.next()?.parse().ok()?;
        let system: u32 = fields.next()?.parse().ok()?;
        Some(f64::from(user) + f64::from(system))
    });
    let ticks_per_second = u32::try_from(ticks_per_second).map_or(100.0, f64::from);
    ProcessSnapshot {
        rss_bytes: resident_pages * page_bytes,
        cpu_seconds: cpu_ticks.unwrap_or(0.0) / ticks_per_second,
    }
}
