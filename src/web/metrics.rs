//! The snapshot as OpenMetrics text. Keeps no counts of its own.

use crate::web::snapshot::{
    BridgeSnapshot, BridgeState, DeviceSnapshot, DeviceState, DroppedSnapshot, RuleSnapshot, ShareSnapshot,
    Snapshot,
};
use std::fmt::{Display, Write};

/// The HTTP content type of what [`render`] makes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Before each name.
const PREFIX: &str = "tidegate_";

/// All metrics of a gateway, complete with `# EOF`.
pub fn render(snapshot: &Snapshot) -> String {
    let mut page = Page::default();
    page.family("build_info", Kind::Info, "The version that runs");
    page.sample(&[("version", &snapshot.version)], 1);
    page.gauge("ready", "1 while the gateway does its work", u8::from(snapshot.ready));
    let is_set = u8::from(snapshot.clock_synchronised);
    page.gauge("clock_synchronised", "1 while the clock is set and readings are not marked", is_set);
    page.gauge("uptime_seconds", "Time since the start", snapshot.uptime_seconds);
    render_broker(&mut page, snapshot);
    render_bridges(&mut page, &snapshot.bridges);
    render_devices(&mut page, &snapshot.devices);
    render_shares(&mut page, &snapshot.shares);
    render_store(&mut page, snapshot);
    page.gauge("process_resident_memory_bytes", "Memory in RAM", snapshot.process.rss_bytes);
    page.counter("process_cpu_seconds", "Processor time", snapshot.process.cpu_seconds);
    page.text.push_str("# EOF\n");
    page.text
}

fn render_broker(page: &mut Page, snapshot: &Snapshot) {
    let broker = &snapshot.broker;
    page.gauge("broker_connections", "Clients that are connected", broker.connections);
    page.gauge("broker_sessions", "Sessions, connected or kept", broker.sessions);
    page.gauge("broker_subscriptions", "Subscriptions of all sessions", broker.subscriptions);
    page.gauge("broker_retained_messages", "Topics with a retained message", broker.retained);
    page.counter("broker_messages_received", "PUBLISH packets from clients", broker.messages_received);
    page.counter("broker_messages_sent", "PUBLISH packets to clients", broker.messages_sent);
    page.counter("broker_received_bytes", "Bytes from clients", broker.bytes_received);
    page.counter("broker_sent_bytes", "Bytes to clients", broker.bytes_sent);
    page.gauge("broker_queued_messages", "Messages in the sessions' queues", broker.queued_messages);
    page.gauge("broker_queued_bytes", "What those queues hold", broker.queued_bytes);
    page.gauge("broker_inflight_messages", "Sent to clients, not acknowledged", broker.inflight);
    page.counter("broker_messages_denied", "Messages that access rules refused", broker.messages_denied);
    page.counter(
        "broker_messages_refused",
        "Messages that publishers were told to keep",
        broker.messages_refused,
    );
    page.counter(
        "broker_messages_returned",
        "Messages that bridges had sent and that came back",
        broker.messages_returned,
    );
    page.counter(
        "broker_messages_unkept",
        "The gateway's own that the disk did not take",
        broker.messages_unkept,
    );
    page.counter(
        "broker_messages_throttled",
        "Messages that waited for publish_rate",
        broker.messages_throttled,
    );
    page.counter("broker_retained_refused", "Topics beyond retained_messages", broker.retained_refused);
    page.counter("broker_connections_accepted", "Clients let in", broker.connections_accepted);
    page.counter("broker_connections_revoked", "Clients a reload shut out", broker.connections_revoked);
    page.counter("broker_keep_alive_timeouts", "Clients that fell silent", broker.keep_alive_timeouts);
    page.counter("broker_sessions_expired", "Sessions that nobody came back for", broker.sessions_expired);
    let refused = broker.connections_refused_by.iter().map(|(reason, count)| (*reason, *count));
    page.reasons("broker_connections_refused", "Clients turned away", refused);
    let (full, slow) = (broker.messages_dropped_full, broker.messages_dropped_slow);
    let other = broker.messages_dropped.saturating_sub(full + slow);
    let dropped = [("queue_full", full), ("slow_reader", slow), ("other", other)];
    page.reasons("broker_messages_dropped", "Messages that a bound cost", dropped);
    let (large, many) = (broker.packets_too_large, broker.receive_maximum_exceeded);
    let other = broker.protocol_errors.saturating_sub(large + many);
    let errors = [("packet_too_large", large), ("receive_maximum", many), ("other", other)];
    page.reasons("broker_protocol_errors", "Clients closed for what they sent", errors);
}

fn render_bridges(page: &mut Page, bridges: &[BridgeSnapshot]) {
    type Amount = (&'static str, &'static str, fn(&DroppedSnapshot) -> u64);
    type Column = (&'static str, Kind, &'static str, fn(&BridgeSnapshot) -> u64);
    let columns: [Column; 14] = [
        ("bridge_up", Kind::Gauge, "1 while the link stands", |b| u64::from(b.state == BridgeState::Up)),
        ("bridge_queued_messages", Kind::Gauge, "Messages in the buffer", |b| b.queued_messages),
        ("bridge_queued_bytes", Kind::Gauge, "What the buffer holds", |b| b.queued_bytes),
        ("bridge_buffer_max_bytes", Kind::Gauge, "What the buffer may hold", |b| b.buffer_bytes_max),
        ("bridge_inflight_messages", Kind::Gauge, "Sent, not acknowledged", |b| b.inflight),
        ("bridge_messages_forwarded", Kind::Counter, "Acknowledged by the cloud", |b| b.forwarded),
        ("bridge_messages_received", Kind::Counter, "Taken from the cloud", |b| b.received),
        ("bridge_sent_messages", Kind::Counter, "PUBLISH packets to the cloud", |b| b.sent_messages),
        ("bridge_sent_bytes", Kind::Counter, "Bytes of MQTT to the cloud", |b| b.sent_bytes),
        ("bridge_received_bytes", Kind::Counter, "Bytes of MQTT from the cloud", |b| b.received_bytes),
        ("bridge_messages_refused", Kind::Counter, "Found undeliverable, for any reason", |b| b.refused),
        ("bridge_dead_letters", Kind::Gauge, "Undeliverable messages that are kept", |b| b.dead_letters),
        ("bridge_dead_letters_bytes", Kind::Gauge, "What those hold", |b| b.dead_letter_bytes),
        ("bridge_possible_duplicates", Kind::Counter, "Messages sent again", |b| b.possible_duplicates),
    ];
    for (name, kind, help, value) in columns {
        page.family(name, kind, help);
        for bridge in bridges {
            page.sample(&[("bridge", &bridge.name)], value(bridge));
        }
    }
    let amounts: [Amount; 2] = [
        ("bridge_messages_dropped", "Messages that were lost", |dropped| dropped.messages),
        ("bridge_dropped_bytes", "What those messages held", |dropped| dropped.bytes),
    ];
    for (name, help, amount) in amounts {
        page.family(name, Kind::Counter, help);
        for bridge in bridges {
            for (reason, dropped) in &bridge.dropped {
                page.sample(&[("bridge", &bridge.name), ("reason", reason)], amount(dropped));
            }
        }
    }
    // Not the gauge's name: a family has one kind.
    page.family("bridge_messages_dead", Kind::Counter, "Messages that became dead letters");
    for bridge in bridges {
        for (reason, messages) in &bridge.died {
            page.sample(&[("bridge", &bridge.name), ("reason", reason)], messages);
        }
    }
    render_rules(page, bridges);
}

fn render_rules(page: &mut Page, bridges: &[BridgeSnapshot]) {
    type Column = (&'static str, Kind, &'static str, fn(&RuleSnapshot) -> u64);
    let columns: [Column; 4] = [
        ("bridge_rule_queued_messages", Kind::Gauge, "Of one rule, in the buffer", |r| r.queued_messages),
        ("bridge_rule_queued_bytes", Kind::Gauge, "What those hold", |r| r.queued_bytes),
        ("bridge_rule_messages_dropped", Kind::Counter, "Messages that were lost", |r| {
            r.dropped.values().map(|dropped| dropped.messages).sum()
        }),
        ("bridge_rule_dropped_bytes", Kind::Counter, "What those messages held", |r| {
            r.dropped.values().map(|dropped| dropped.bytes).sum()
        }),
    ];
    for (name, kind, help, value) in columns {
        page.family(name, kind, help);
        for bridge in bridges {
            for (number, rule) in bridge.rules.iter().enumerate() {
                let number = number.to_string();
                let labels = [("bridge", &*bridge.name), ("rule", &number), ("topic", &rule.topic)];
                page.sample(&labels, value(rule));
            }
        }
    }
}

fn render_devices(page: &mut Page, devices: &[DeviceSnapshot]) {
    type Column = (&'static str, Kind, &'static str, fn(&DeviceSnapshot) -> u64);
    let columns: [Column; 4] = [
        ("device_up", Kind::Gauge, "1 while it answers", |d| u64::from(d.state == DeviceState::Online)),
        ("device_polls", Kind::Counter, "Requests to the device", |d| d.polls),
        ("device_skipped_polls", Kind::Counter, "Polls left out: the line was not free in time", |d| {
            d.skipped
        }),
        ("device_errors", Kind::Counter, "Requests that failed", |d| d.errors),
    ];
    for (name, kind, help, value) in columns {
        page.family(name, kind, help);
        for device in devices {
            page.sample(&[("device", &device.name)], value(device));
        }
    }
    page.family("device_last_seen_timestamp_seconds", Kind::Gauge, "When it last answered");
    for device in devices {
        if let Some(time) = device.last_seen {
            let (seconds, millis) = (time.as_millis().div_euclid(1000), time.as_millis().rem_euclid(1000));
            page.sample(&[("device", &device.name)], format_args!("{seconds}.{millis:03}"));
        }
    }
}

fn render_shares(page: &mut Page, shares: &[ShareSnapshot]) {
    type Column = (&'static str, Kind, &'static str, fn(&ShareSnapshot) -> u64);
    let columns: [Column; 3] = [
        ("share_connections", Kind::Gauge, "Other masters of the line", |s| s.connections),
        ("share_connections_refused", Kind::Counter, "Masters that were too many", |s| s.connections_refused),
        ("share_waiting_requests", Kind::Gauge, "Requests of theirs that wait", |s| s.waiting),
    ];
    for (name, kind, help, value) in columns {
        page.family(name, kind, help);
        for share in shares {
            page.sample(&[("port", &share.port)], value(share));
        }
    }
    page.family("share_requests", Kind::Counter, "Requests of other masters, by what came of them");
    for share in shares {
        for (outcome, count) in &share.requests {
            page.sample(&[("port", &share.port), ("outcome", outcome)], count);
        }
    }
}

fn render_store(page: &mut Page, snapshot: &Snapshot) {
    let store = &snapshot.store;
    page.gauge("store_waiting_records", "Records not committed yet", store.records_waiting);
    page.counter("store_commits", "Transactions", store.commits);
    page.counter("store_rows", "Rows written", store.rows);
    page.counter("store_written_bytes", "Bytes written to the disk", store.bytes_written);
    let flash = &store.flash;
    if let Some(written) = flash.written_day_bytes {
        page.gauge("flash_written_day_bytes", "Written to flash in the last 24 hours", written);
    }
    page.gauge(
        "flash_budget_bytes",
        "What may be written a day; 0: no limit",
        flash.budget_bytes.unwrap_or(0),
    );
    page.gauge("flash_budget_short", "1 while commits gather longer to spare flash", u8::from(flash.short));
    page.gauge("store_database_bytes", "Size of the database", store.database_bytes);
    page.gauge("store_up", "1 while the disk takes what it is given", u8::from(store.trouble.is_none()));
    page.counter("store_failures", "Commits and reads that the disk refused", store.failures);
    page.counter("store_reopened", "Times that the database was opened anew", store.reopened);
    page.gauge("store_reserve_bytes", "Space kept for a full disk", store.reserve_bytes);
    page.gauge(
        "store_set_aside",
        "1: the start found a damaged database",
        u8::from(store.set_aside.is_some()),
    );
    page.gauge("store_unreadable_rows", "Rows that the start could not read", store.unreadable_rows);
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Gauge,
    Counter,
    Info,
}

/// The text, and the family that samples go to. Writing to a String cannot fail.
#[derive(Debug, Default)]
struct Page {
    text: String,
    name: &'static str,
    kind: Kind,
}

impl Page {
    fn family(&mut self, name: &'static str, kind: Kind, help: &'static str) {
        (self.name, self.kind) = (name, kind);
        // A family's name leaves out what its samples add.
        let family = if kind == Kind::Info { name.trim_end_matches("_info") } else { name };
        let kind = match kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::Info => "info",
        };
        let _ = writeln!(self.text, "# HELP {PREFIX}{family} {help}\n# TYPE {PREFIX}{family} {kind}");
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        let suffix = if self.kind == Kind::Counter { "_total" } else { "" };
        let _ = write!(self.text, "{PREFIX}{}{suffix}", self.name);
        for (number, (name, value)) in labels.iter().enumerate() {
            let before = if number == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{before}{name}=\"{}\"", escape(value));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{end} {value}");
    }

    fn gauge(&mut self, name: &'static str, help: &'static str, value: impl Display) {
        self.family(name, Kind::Gauge, help);
        self.sample(&[], value);
    }

    fn counter(&mut self, name: &'static str, help: &'static str, value: impl Display) {
        self.family(name, Kind::Counter, help);
        self.sample(&[], value);
    }

    /// A counter for each reason.
    fn reasons(
        &mut self,
        name: &'static str,
        help: &'static str,
        counts: impl IntoIterator<Item = (&'static str, u64)>,
    ) {
        self.family(name, Kind::Counter, help);
        for (reason, count) in counts {
            self.sample(&[("reason", reason)], count);
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::{Kind, Page};

    #[test]
    fn labels_are_escaped_and_counters_end_in_total() {
        let mut page = Page::default();
        page.family("polls", Kind::Counter, "Requests");
        page.sample(&[("device", "a\"b\\c\nd"), ("x", "")], 1.5);
        page.gauge("up", "Stands", 1);
        let expected = "# HELP tidegate_polls Requests\n# TYPE tidegate_polls counter\n\
            tidegate_polls_total{device=\"a\\\"b\\\\c\\nd\",x=\"\"} 1.5\n\
            # HELP tidegate_up Stands\n# TYPE tidegate_up gauge\ntidegate_up 1\n";
        assert_eq!(page.text, expected);
    }
}
