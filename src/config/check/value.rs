//! Values that several sections have: back-off, QoS, orders, heartbeats. Knows no section.

use std::ops::RangeInclusive;

use crate::base::backoff::BackoffBounds;
use crate::base::time::Duration;
use crate::config::error::Problem;
use crate::config::model::Order;
use crate::config::point::WordOrder;
use crate::config::raw::{Field, Section, is_zero};
use crate::mqtt::qos::QoS;

const SECOND: Duration = Duration::from_secs(1);
const WEEK: Duration = Duration::from_secs(7 * 86_400);
pub(super) const POLL_RANGE: RangeInclusive<Duration> = Duration::from_millis(10)..=WEEK;
const RECONNECT_KEYS: &[&str] = &["min", "max"];
const RECONNECT_RANGE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(86_400);

/// `reconnect` of a device or bridge.
pub(super) fn reconnect(section: &Section<'_>, max_default: Duration) -> BackoffBounds {
    section.read_section("reconnect", RECONNECT_KEYS, |reconnect| {
        let read = |key| reconnect.read(key, |field| field.duration(RECONNECT_RANGE));
        let (min, max) = (read("min"), read("max"));
        let bounds = BackoffBounds { min: min.unwrap_or(SECOND), max: max.unwrap_or(max_default) };
        let both_good = min.is_some() == reconnect.has("min") && max.is_some() == reconnect.has("max");
        if both_good && bounds.min > bounds.max {
            reconnect.fault(Problem::MinAboveMax);
        }
        bounds
    })
}

/// Zero: never.
pub(super) fn heartbeat(field: &Field<'_>) -> Option<Duration> {
    if is_zero(field.kind()) { Some(Duration::ZERO) } else { field.duration(SECOND..=WEEK) }
}

pub(super) fn unless_zero(duration: Duration) -> Option<Duration> {
    if duration.is_zero() { None } else { Some(duration) }
}

pub(super) fn qos(field: &Field<'_>) -> Option<QoS> {
    QoS::from_bits(field.integer(0..=2u8)?)
}

pub(super) fn order(field: &Field<'_>) -> Option<Order> {
    field.choice(&[("big", Order::Big), ("little", Order::Little)])
}

/// `big-swapped` and `little-swapped` say something of their own in 64 bits alone.
pub(super) fn word_order(field: &Field<'_>) -> Option<WordOrder> {
    let known = [
        ("big", WordOrder::Big),
        ("little", WordOrder::Little),
        ("big-swapped", WordOrder::BigSwapped),
        ("little-swapped", WordOrder::LittleSwapped),
    ];
    field.choice(&known)
}
