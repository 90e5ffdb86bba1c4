//! What the web shows: plain facts that the app fills in and that leave as JSON. Takes nothing from a brain and
//! computes nothing, so that the pages and the gateway change apart from each other.

use crate::base::time::Timestamp;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;

/// The whole gateway at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct Snapshot {
    /// `gateway.id` of the configuration.
    pub gateway: String,
    pub version: String,
    #[serde(serialize_with = "rfc_3339")]
    pub started: Timestamp,
    pub uptime_seconds: u64,
    /// False: the clock is not set, and readings carry `"clock":"unsynchronised"`.
    pub clock_synchronised: bool,
    pub ready: bool,
    /// Why it is not ready.
    pub reason: Option<String>,
    /// None: there was none since the start.
    pub reload: Option<ReloadSnapshot>,
    pub broker: BrokerSnapshot,
    pub bridges: Vec<BridgeSnapshot>,
    pub devices: Vec<DeviceSnapshot>,
    pub shares: Vec<ShareSnapshot>,
    pub store: StoreSnapshot,
    pub process: ProcessSnapshot,
}

/// What came of the last reload of the configuration.
#[derive(Debug, Clone, Serialize)]
pub struct ReloadSnapshot {
    #[serde(serialize_with = "rfc_3339")]
    pub time: Timestamp,
    /// False: everything stayed as it was.
    pub ok: bool,
    /// What changed: `devices +boiler ~main-meter; unchanged: 12 devices, 1 bridge`.
    pub changed: String,
    /// Why it was not applied.
    pub faults: Vec<String>,
    /// Keys that changed and count only after a restart.
    pub restart: Vec<String>,
}

/// Connections and what went through them; counts are since the start.
#[derive(Debug, Clone, Default, Serialize)]
pub struct BrokerSnapshot {
    pub connections: u64,
    pub connections_max: u64,
    pub sessions: u64,
    pub subscriptions: u64,
    pub retained: u64,
    pub messages_received: u64,
    pub messages_sent: u64,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    /// Of clients, in queues and on their way.
    pub queued_messages: u64,
    pub queued_bytes: u64,
    /// Sent to clients and not acknowledged.
    pub inflight: u64,
    pub messages_dropped: u64,
    /// Of those: a session's queue was full.
    pub messages_dropped_full: u64,
    /// Of those: at QoS 0, for a client that reads too slowly.
    pub messages_dropped_slow: u64,
    pub messages_denied: u64,
    /// Messages that their publishers were told to keep.
    pub messages_refused: u64,
    /// Messages that a bridge of this gateway had sent, and that others sent back.
    pub messages_returned: u64,
    /// The gateway's own messages that the disk did not take.
    pub messages_unkept: u64,
    /// They had to wait: their client publishes above its rate.
    pub messages_throttled: u64,
    pub retained_refused: u64,
    pub connections_accepted: u64,
    pub connections_refused: u64,
    pub connections_refused_by: BTreeMap<&'static str, u64>,
    /// Ended because the configuration that was read again no longer lets their clients in.
    pub connections_revoked: u64,
    pub keep_alive_timeouts: u64,
    pub sessions_expired: u64,
    /// Connections that ended for what their clients sent.
    pub protocol_errors: u64,
    /// Of those: a packet was too large.
    pub packets_too_large: u64,
    /// Of those: too many messages were unacknowledged.
    pub receive_maximum_exceeded: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BridgeState {
    Up,
    Connecting,
    Down,
    /// A person closed the link.
    Paused,
}

/// One bridge with its buffer; counts are messages since the start.
#[derive(Debug, Clone, Serialize)]
pub struct BridgeSnapshot {
    pub name: String,
    /// Leaves without user name and password, whatever is written here.
    #[serde(serialize_with = "without_credentials")]
    pub url: String,
    pub state: BridgeState,
    /// When the state began.
    #[serde(serialize_with = "rfc_3339")]
    pub since: Timestamp,
    pub queued_messages: u64,
    pub queued_bytes: u64,
    pub buffer_bytes_max: u64,
    pub inflight: u64,
    pub forwarded: u64,
    pub received: u64,
    /// Bytes of MQTT, all packets with their headers: without TLS, WebSocket frames and TCP.
    pub sent_bytes: u64,
    pub received_bytes: u64,
    /// PUBLISH packets, each time that one was sent.
    pub sent_messages: u64,
    /// What one of them cost on the way up; null: none was sent.
    pub sent_bytes_per_message: Option<f64>,
    pub dropped_full: u64,
    pub dropped_aged: u64,
    pub dropped_expired: u64,
    /// Messages that died: all that was ever refused for good.
    pub refused: u64,
    /// What is kept of them.
    pub dead_letters: u64,
    pub dead_letter_bytes: u64,
    /// Messages that died, by reasons.
    pub died: BTreeMap<&'static str, u64>,
    /// All that was lost, by reasons.
    pub dropped: BTreeMap<&'static str, DroppedSnapshot>,
    /// In the order of the configuration.
    pub rules: Vec<RuleSnapshot>,
    pub possible_duplicates: u64,
    /// What the server grants less of than was asked for, in words.
    pub degraded: Vec<String>,
    pub last_error: Option<String>,
}

/// What was lost, in messages and in bytes of their topics, payloads and properties.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DroppedSnapshot {
    pub messages: u64,
    pub bytes: u64,
}

/// One forward rule.
#[derive(Debug, Clone, Serialize)]
pub struct RuleSnapshot {
    pub topic: String,
    pub queued_messages: u64,
    pub queued_bytes: u64,
    /// Its share of the buffer; null: none of its own.
    pub bytes_max: Option<u64>,
    pub dropped: BTreeMap<&'static str, DroppedSnapshot>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceState {
    Online,
    Offline,
    /// Not asked yet.
    Unknown,
}

#[derive(Debug, Clone, Serialize)]
pub struct DeviceSnapshot {
    pub name: String,
    /// The line and the unit, for people: `rs485-a, unit 1`.
    pub link: String,
    pub state: DeviceState,
    pub polls: u64,
    /// Polls left out because the line was not free in time.
    pub skipped: u64,
    pub errors: u64,
    pub last_error: Option<String>,
    #[serde(serialize_with = "rfc_3339_or_null")]
    pub last_seen: Option<Timestamp>,
    /// What the unit says of itself; null where it says nothing.
    pub vendor: Option<String>,
    pub product: Option<String>,
    pub revision: Option<String>,
    pub points: Vec<PointSnapshot>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Quality {
    Good,
    /// The last value known; the device does not answer.
    Stale,
    /// The device refused, or the value cannot be decoded.
    Bad,
}

/// A point with its last reading. Before the first one, `value`, `quality` and `time` are null.
#[derive(Debug, Clone, Serialize)]
pub struct PointSnapshot {
    pub name: String,
    pub value: serde_json::Value,
    pub unit: Option<String>,
    pub quality: Option<Quality>,
    #[serde(serialize_with = "rfc_3339_or_null")]
    pub time: Option<Timestamp>,
    pub error: Option<String>,
    pub writable: bool,
}

/// A line that other masters share.
#[derive(Debug, Clone, Serialize)]
pub struct ShareSnapshot {
    pub port: String,
    /// Where they connect.
    pub address: String,
    pub cache_seconds: f64,
    pub writes: bool,
    pub connections: u64,
    pub connections_refused: u64,
    /// Requests that wait for their answers.
    pub waiting: u64,
    /// By what came of them.
    pub requests: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct StoreSnapshot {
    /// What the writer has not committed yet.
    pub records_waiting: u64,
    pub commits: u64,
    pub rows: u64,
    pub bytes_written: u64,
    pub database_bytes: u64,
    /// Commits and reads that the disk refused.
    pub failures: u64,
    /// Times that the database was opened anew, since what its file held was in doubt.
    pub reopened: u64,
    /// Space that is kept for a full disk.
    pub reserve_bytes: u64,
    /// Why the disk takes nothing, or is full; null while all is well.
    pub trouble: Option<String>,
    /// Where this start moved a damaged database.
    pub set_aside: Option<String>,
    /// Rows that this start could not read.
    pub unreadable_rows: u64,
    pub flash: FlashSnapshot,
}

/// What was written to flash, against `gateway.flash_budget`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct FlashSnapshot {
    /// In the last 24 hours; null where the kernel does not count.
    pub written_day_bytes: Option<u64>,
    /// Null: no limit.
    pub budget_bytes: Option<u64>,
    /// The budget runs short: commits gather longer.
    pub short: bool,
    /// How long a commit waits for others beside its own time.
    pub commit_wait_ms: u64,
    /// How long at least what nobody waits for stays in memory.
    pub unowed_wait_ms: u64,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct ProcessSnapshot {
    pub rss_bytes: u64,
    /// User and system time together.
    pub cpu_seconds: f64,
}

/// A client that is connected.
#[derive(Debug, Clone, Serialize)]
pub struct ClientSnapshot {
    pub client_id: String,
    /// Who it proved to be; null: it is nobody in particular.
    pub user: Option<String>,
    pub address: String,
    /// As in the configuration: `5`, `3.1.1` or `3.1`.
    pub protocol: &'static str,
    #[serde(serialize_with = "rfc_3339")]
    pub connected_since: Timestamp,
    pub durable: bool,
    pub subscriptions: u64,
    /// Waiting for it and on their way to it.
    pub queued_messages: u64,
    pub queued_bytes: u64,
}

/// Something happened. Its name on the wire is `kind`.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Event {
    Reading {
        device: String,
        point: String,
        topic: Option<String>,
        value: serde_json::Value,
        unit: Option<String>,
        quality: Quality,
        error: Option<String>,
        #[serde(serialize_with = "rfc_3339")]
        time: Timestamp,
    },
    State {
        #[serde(flatten)]
        subject: Subject,
        reason: Option<String>,
        #[serde(serialize_with = "rfc_3339")]
        time: Timestamp,
    },
    Log {
        level: LogLevel,
        message: String,
        #[serde(serialize_with = "rfc_3339")]
        time: Timestamp,
    },
}

impl Event {
    /// The `kind`, also the name of the server-sent event.
    pub fn kind(&self) -> &'static str {
        match self {
            Event::Reading { .. } => "reading",
            Event::State { .. } => "state",
            Event::Log { .. } => "log",
        }
    }
}

/// Whose state changed: `{"device":"boiler","state":"online"}`.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Subject {
    Device { device: String, state: DeviceState },
    Bridge { bridge: String, state: BridgeState },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
}

// serde passes fields by reference, however small.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn rfc_3339<S: Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(time)
}

// serde passes fields as they are declared.
#[allow(clippy::ref_option)]
fn rfc_3339_or_null<S: Serializer>(time: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => to.collect_str(time),
        None => to.serialize_none(),
    }
}

fn without_credentials<S: Serializer>(url: &str, to: S) -> Result<S::Ok, S::Error> {
    let Some((scheme, rest)) = url.split_once("://") else { return to.serialize_str(url) };
    // A password may hold a slash that nobody escaped, a query may carry a token: rather too little is shown.
    let rest = rest.rsplit_once('@').map_or(rest, |(_, behind)| behind);
    let shown = rest.split(['?', '#']).next().unwrap_or(rest);
    to.collect_str(&format_args!("{scheme}://{shown}"))
}

#[cfg(test)]
mod tests {
    use super::{BridgeState, Event, Subject, Timestamp, without_credentials};
    use serde_json::json;

    #[test]
    fn urls_lose_their_secrets() {
        let cases = [
            ("mqtts://cloud.example.com:8883", "mqtts://cloud.example.com:8883"),
            ("mqtts://plant:se@cr/e?t@cloud:8883/x", "mqtts://cloud:8883/x"),
            ("mqtts://plant:secret@cloud:8883", "mqtts://cloud:8883"),
            ("wss://u:p@ss@[::1]:443/mqtt?token=secret", "wss://[::1]:443/mqtt"),
            ("wss://cloud#secret", "wss://cloud"),
            ("cloud:8883", "cloud:8883"),
        ];
        for (url, expected) in cases {
            assert_eq!(without_credentials(url, serde_json::value::Serializer).unwrap(), expected);
        }
    }

    #[test]
    fn events_name_their_kind_and_subject() {
        let event = Event::State {
            subject: Subject::Bridge { bridge: "cloud".into(), state: BridgeState::Up },
            reason: None,
            time: Timestamp::from_millis(0),
        };
        let expected = json!({"kind": "state", "bridge": "cloud", "state": "up", "reason": null,
            "time": "1970-01-01T00:00:00.000Z"});
        assert_eq!(serde_json::to_value(&event).unwrap(), expected);
        assert_eq!(event.kind(), "state");
    }
}
