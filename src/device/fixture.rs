//! Points for the tests of this room. Never part of the product.

use crate::base::time::Duration;
use crate::config::model::{Order, Point, Source, Table, ValueType};
use crate::config::point::WordOrder;

pub(crate) const BB: (WordOrder, Order) = (WordOrder::Big, Order::Big);
pub(crate) const STRING3: ValueType = ValueType::String { registers: 3 };

pub(crate) fn point(name: &str, table: Table, address: u16, value_type: ValueType) -> Point {
    Point {
        name: name.into(),
        source: Source { table, address },
        value_type,
        word_order: WordOrder::Big,
        byte_order: Order::Big,
        scale: 1.0,
        scale_from: None,
        offset: 0.0,
        invalid: Vec::new(),
        labels: Vec::new(),
        bits: Vec::new(),
        unit: None,
        round: None,
        deadband: None,
        invert: false,
        poll: Duration::from_secs(1),
        aggregate: None,
        publish: true,
        heartbeat: None,
        writable: false,
        min: None,
        max: None,
        sunspec: None,
    }
}

/// In holding registers of these orders.
pub(crate) fn of(value_type: ValueType, (word_order, byte_order): (WordOrder, Order)) -> Point {
    Point { word_order, byte_order, ..point("p", Table::Holding, 0, value_type) }
}

/// In a holding register.
pub(crate) fn scaled(value_type: ValueType, scale: f64, offset: f64, round: Option<u8>) -> Point {
    Point { scale, offset, round, ..point("p", Table::Holding, 0, value_type) }
}
