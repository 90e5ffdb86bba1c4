//! The `broker` section: listeners, who may come in, limits.

use std::num::NonZeroU32;
use std::path::Path;

use crate::base::time::Duration;
use crate::config::check::address::{self, Addresses};
use crate::config::check::{access, authentication, listener};
use crate::config::limits::Limits;
use crate::config::listener::Listener;
use crate::config::model::Broker;
use crate::config::raw::{Section, is_zero};

pub(super) const KEYS: &[&str] = &["listeners", "authentication", "access", "limits", "sys_interval"];
const LIMITS_KEYS: &[&str] = &[
    "connections",
    "connections_per_address",
    "packet_size",
    "inflight",
    "queued_messages",
    "queued_bytes",
    "retained_messages",
    "keep_alive",
    "session_expiry",
    "publish_rate",
];

/// Nobody else's machine gets in before somebody says so.
const LISTENER_DEFAULT: &str = "127.0.0.1:1883";
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);
/// MQTT 3.1.2.10: two bytes of seconds.
const KEEP_ALIVE_MAX: Duration = Duration::from_secs(65_535);
const SESSION_EXPIRY_MAX: Duration = Duration::from_secs(3650 * 86_400);
const CONNECTIONS_MAX: u32 = 1_000_000;
/// Messages a second: more than any machine that this runs on can take.
const PUBLISH_RATE_MAX: u32 = 1_000_000;
/// MQTT 1.5.5: the largest remaining length, 268,435,455, with room for the header.
const PACKET_BYTES_MAX: u64 = 255 << 20;

pub(super) fn check(section: &Section<'_>, base_dir: &Path, addresses: &mut Addresses) -> Broker {
    let default =
        vec![Listener { address: address::fixed(LISTENER_DEFAULT), tls: None, websocket_path: None }];
    let listeners = section.read("listeners", |field| {
        let fields = field.items()?;
        Some(fields.iter().filter_map(|field| listener::check(field, addresses, base_dir)).collect())
    });
    let interval = Duration::from_secs(10);
    let sys_interval = section.read_or("sys_interval", interval, |field| {
        if is_zero(field.kind()) { Some(Duration::ZERO) } else { field.duration(SECOND..=DAY) }
    });
    let (anonymous, credentials) =
        section.read_section("authentication", authentication::KEYS, |s| authentication::check(s, base_dir));
    Broker {
        listeners: listeners.unwrap_or(default),
        anonymous,
        credentials,
        access: section.read("access", access::check),
        limits: section.read_section("limits", LIMITS_KEYS, check_limits),
        sys_interval: if sys_interval.is_zero() { None } else { Some(sys_interval) },
    }
}

fn check_limits(section: &Section<'_>) -> Limits {
    let packet_bytes = section.read("packet_size", |field| field.size(1 << 10..=PACKET_BYTES_MAX));
    Limits {
        connections: section.read_or("connections", 10_000, |field| field.integer(1..=CONNECTIONS_MAX)),
        connections_per_address: section
            .read("connections_per_address", |field| field.integer(0..=CONNECTIONS_MAX))
            .and_then(NonZeroU32::new),
        packet_bytes: packet_bytes.and_then(|bytes| u32::try_from(bytes).ok()).unwrap_or(1 << 20),
        inflight: section.read_or("inflight", 100, |field| field.integer(1..=u16::MAX)),
        queued_messages: section.read_or("queued_messages", 10_000, |field| field.integer(1..=10_000_000)),
        queued_bytes: section.read_or("queued_bytes", 16 << 20, |field| field.size(64 << 10..=16 << 30)),
        retained_messages: section
            .read_or("retained_messages", 100_000, |field| field.integer(0..=10_000_000)),
        keep_alive: section.read_or("keep_alive", Duration::from_secs(18 * 3600), |field| {
            field.seconds(SECOND..=KEEP_ALIVE_MAX)
        }),
        session_expiry: section
            .read_or("session_expiry", 30 * DAY, |field| field.seconds(Duration::ZERO..=SESSION_EXPIRY_MAX)),
        publish_rate: section
            .read("publish_rate", |field| field.integer(0..=PUBLISH_RATE_MAX))
            .and_then(NonZeroU32::new),
    }
}
