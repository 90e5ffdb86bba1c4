//! Points and devices for the tests of this room. Never part of the product.

use std::sync::Arc;

use crate::base::backoff::BackoffBounds;
use crate::base::time::Duration;
use crate::config::model::{Device, Format, Link, Order, Point, Publish, Source, Table, ValueType, When};
use crate::config::template::TopicTemplate;
use crate::mqtt::qos::QoS;

pub(crate) fn point(name: &str, table: Table, address: u16, value_type: ValueType) -> Point {
    Point {
        name: name.into(),
        source: Source { table, address },
        value_type,
        word_order: Order::Big,
        byte_order: Order::Big,
        scale: 1.0,
        offset: 0.0,
        unit: None,
        round: None,
        deadband: None,
        invert: false,
        poll: Duration::from_secs(1),
        heartbeat: None,
        writable: false,
        min: None,
        max: None,
    }
}

pub(crate) fn device(name: &str, points: Vec<Point>) -> Device {
    Device {
        name: name.into(),
        link: Link::Tcp { address: Arc::from("127.0.0.1:502"), unit: 1 },
        poll: Duration::from_secs(1),
        timeout: Duration::from_millis(500),
        retries: 2,
        offline_after: 3,
        reconnect: BackoffBounds { min: Duration::from_secs(1), max: Duration::from_secs(60) },
        max_gap: 8,
        max_registers: 125,
        publish: Publish {
            topic: TopicTemplate::new("devices/{device}/{point}").expect("a valid template"),
            format: Format::Json,
            qos: QoS::AtLeastOnce,
            retain: true,
            when: When::Change,
            heartbeat: None,
        },
        points,
    }
}
