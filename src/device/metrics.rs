//! A device as Sparkplug tells of it: which metrics its points are, of which types, and what a reading is as one. Makes
//! messages; knows no session and never numbers anything.

use std::sync::Arc;

use crate::base::time::Now;
use crate::config::expression::{Binary, Expression, Step};
use crate::config::instrument::{FieldPoint, FieldType, Instrument};
use crate::config::model::{Config, Device, Format, Point, Publish, ValueType};
use crate::config::point::{Aggregate, AggregateOf, Computed, Meaning};
use crate::device::reading::{self, Reading};
use crate::device::value::{BitsValue, Value};
use crate::mqtt::message::{Message, Origin};
use crate::sparkplug::payload::{DataType, Metric, MetricValue, Payload, Quality};
use crate::sparkplug::session::{Definition, DeviceDefinition, MetricDefinition};
use crate::sparkplug::topic::{EdgeNode, Kind};

/// The node that this gateway is, where a device is published so.
pub fn definition(config: &Config) -> Option<Definition> {
    let gateway = &config.gateway.id;
    let devices =
        config.devices.iter().map(|device| (&device.name, &device.publish, Sheet::of_device(device)));
    let instruments =
        config.instruments.iter().map(|found| (&found.name, &found.publish, Sheet::of_instrument(found)));
    let all: Vec<_> = devices.chain(instruments).collect();
    let spoken = || all.iter().filter(|(_, publish, _)| publish.format == Format::Sparkplug);
    let (name, publish, _) = spoken().next()?;
    let defined = spoken()
        .map(|(name, _, sheet)| DeviceDefinition { name: Arc::clone(name), metrics: sheet.definitions() });
    Some(Definition { node: node_of(gateway, name, publish)?, devices: defined.collect() })
}

/// The check of the configuration lets no other topic pass.
fn node_of(gateway: &str, device: &str, publish: &Publish) -> Option<EdgeNode> {
    let topic = publish.topic.render_reading(gateway, device, "").ok()?;
    EdgeNode::of_device_data(topic.as_str()).map(|(node, _)| node)
}

/// What one point is in a payload.
#[derive(Debug)]
enum Shape {
    One(DataType),
    /// A metric for each of its named bits.
    Bits(Vec<BitMetric>),
}

#[derive(Debug)]
struct BitMetric {
    bit: Arc<str>,
    /// `POINT/BIT`
    metric: Arc<str>,
    datatype: DataType,
}

#[derive(Debug)]
struct Row {
    name: Arc<str>,
    unit: Option<Arc<str>>,
    shape: Shape,
    /// Said to the world.
    is_public: bool,
}

/// The metrics of a device's points, in the order of its channels.
#[derive(Debug)]
struct Sheet {
    rows: Vec<Row>,
}

impl Sheet {
    fn of_device(device: &Device) -> Self {
        let points = device.points.iter().map(|point| Row {
            name: Arc::clone(&point.name),
            unit: point.unit.clone(),
            shape: shape_of(point),
            is_public: point.publish,
        });
        Self { rows: points.chain(device.computed.iter().map(computed_row)).collect() }
    }

    fn of_instrument(instrument: &Instrument) -> Self {
        let points = instrument.points.iter().map(|point| Row {
            name: Arc::clone(&point.name),
            unit: point.unit.clone(),
            shape: Shape::One(aggregated(type_of_field(point), point.aggregate)),
            is_public: point.publish,
        });
        Self { rows: points.chain(instrument.computed.iter().map(computed_row)).collect() }
    }

    fn definitions(&self) -> Vec<MetricDefinition> {
        let mut all = Vec::new();
        for row in self.rows.iter().filter(|row| row.is_public) {
            match &row.shape {
                Shape::One(datatype) => all.push(MetricDefinition {
                    name: Arc::clone(&row.name),
                    datatype: *datatype,
                    unit: row.unit.clone(),
                }),
                Shape::Bits(bits) => all.extend(bits.iter().map(|bit| MetricDefinition {
                    name: Arc::clone(&bit.metric),
                    datatype: bit.datatype,
                    unit: None,
                })),
            }
        }
        all
    }

    /// What a point's reading is, with names and types.
    fn metrics_of(&self, at: usize, reading: &Reading, now: Now) -> Vec<Metric> {
        let Some(row) = self.rows.get(at).filter(|row| row.is_public) else { return Vec::new() };
        let metric = |name: &Arc<str>, datatype, value: Option<MetricValue>, unit| Metric {
            name: Some(Arc::clone(name)),
            timestamp: u64::try_from(reading.at.dated_by(now).as_millis()).ok(),
            datatype: Some(datatype),
            quality: Some(if value.is_some() { quality_of(reading.quality) } else { Quality::Bad }),
            value,
            unit,
            ..Metric::default()
        };
        match &row.shape {
            Shape::One(datatype) => {
                let value = reading.value.as_ref().and_then(|value| value_as(*datatype, value));
                vec![metric(&row.name, *datatype, value, row.unit.clone())]
            }
            Shape::Bits(bits) => {
                let told = bits.iter().map(|bit| {
                    let value = reading.value.as_ref().and_then(|value| bit_of(&bit.bit, value));
                    metric(&bit.metric, bit.datatype, value, None)
                });
                told.collect()
            }
        }
    }
}

fn computed_row(computed: &Computed) -> Row {
    Row {
        name: Arc::clone(&computed.name),
        unit: computed.unit.clone(),
        shape: Shape::One(aggregated(type_of_expression(&computed.expression), computed.aggregate)),
        is_public: computed.publish,
    }
}

fn quality_of(quality: reading::Quality) -> Quality {
    match quality {
        reading::Quality::Good => Quality::Good,
        reading::Quality::Stale => Quality::Stale,
        reading::Quality::Bad => Quality::Bad,
    }
}

fn shape_of(point: &Point) -> Shape {
    if !point.bits.is_empty() {
        let bits = point.bits.iter().map(|field| BitMetric {
            bit: Arc::clone(&field.name),
            metric: format!("{}/{}", point.name, field.name).into(),
            datatype: if field.width == 1 { DataType::Boolean } else { DataType::UInt64 },
        });
        return Shape::Bits(bits.collect());
    }
    let meanings = point.labels.iter().map(|label| &label.meaning);
    let is_scaled = (point.scale, point.offset) != (1.0, 0.0) || point.scale_from.is_some();
    let plain = match point.value_type {
        _ if !point.labels.is_empty() => labelled(meanings),
        ValueType::Bool => DataType::Boolean,
        ValueType::String { .. } => DataType::String,
        _ if is_scaled => DataType::Double,
        ValueType::U16 | ValueType::Bcd16 => DataType::UInt16,
        ValueType::I16 => DataType::Int16,
        ValueType::U32 | ValueType::Bcd32 => DataType::UInt32,
        ValueType::I32 => DataType::Int32,
        ValueType::U64 | ValueType::Bcd64 => DataType::UInt64,
        ValueType::I64 => DataType::Int64,
        ValueType::F32 => DataType::Float,
        ValueType::F64 => DataType::Double,
    };
    Shape::One(aggregated(plain, point.aggregate))
}

fn labelled<'a>(mut meanings: impl Iterator<Item = &'a Meaning>) -> DataType {
    let all_flags = meanings.all(|meaning| matches!(meaning, Meaning::Flag(_)));
    if all_flags { DataType::Boolean } else { DataType::String }
}

fn aggregated(plain: DataType, aggregate: Option<Aggregate>) -> DataType {
    match aggregate.map(|aggregate| aggregate.of) {
        Some(AggregateOf::Mean | AggregateOf::Sum) => DataType::Double,
        Some(AggregateOf::Min | AggregateOf::Max | AggregateOf::Last) | None => plain,
    }
}

/// By its last step. What may come to one or the other is a number.
fn type_of_expression(expression: &Expression) -> DataType {
    let branches = expression.steps().iter().any(|step| matches!(step, Step::Jump(_) | Step::JumpUnless(_)));
    match expression.steps().last() {
        _ if branches => DataType::Double,
        Some(
            Step::Flag(_)
            | Step::Not
            | Step::Truth
            | Step::Binary(
                Binary::Equal
                | Binary::NotEqual
                | Binary::Less
                | Binary::LessOrEqual
                | Binary::Greater
                | Binary::GreaterOrEqual,
            ),
        ) => DataType::Boolean,
        Some(Step::Text(_)) => DataType::String,
        _ => DataType::Double,
    }
}

fn type_of_field(point: &FieldPoint) -> DataType {
    let is_scaled = (point.scale, point.offset) != (1.0, 0.0);
    match point.value_type {
        _ if !point.labels.is_empty() => labelled(point.labels.iter().map(|label| &label.meaning)),
        FieldType::AsSaid | FieldType::Text => DataType::String,
        FieldType::Bool => DataType::Boolean,
        FieldType::Float => DataType::Double,
        FieldType::Integer { .. } if is_scaled => DataType::Double,
        FieldType::Integer { min, max } => {
            let fitting = [
                (0, u16::MAX.into(), DataType::UInt16),
                (i16::MIN.into(), i16::MAX.into(), DataType::Int16),
                (0, u32::MAX.into(), DataType::UInt32),
                (i32::MIN.into(), i32::MAX.into(), DataType::Int32),
                (0, u64::MAX.into(), DataType::UInt64),
            ];
            let fits = |(least, most, _): &(i128, i128, DataType)| *least <= min && max <= *most;
            fitting.into_iter().find(fits).map_or(DataType::Int64, |(_, _, datatype)| datatype)
        }
    }
}

/// None: it is no value of that type.
fn value_as(datatype: DataType, value: &Value) -> Option<MetricValue> {
    let integer = || match value {
        Value::Bool(flag) => Some(i128::from(*flag)),
        other => other.as_integer(),
    };
    let number = || match value {
        Value::Bool(flag) => Some(f64::from(u8::from(*flag))),
        other => other.as_number(),
    };
    match datatype {
        DataType::Int8 | DataType::Int16 | DataType::Int32 => {
            Some(MetricValue::Int(i32::try_from(integer()?).ok()?.cast_unsigned()))
        }
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => {
            Some(MetricValue::Int(u32::try_from(integer()?).ok()?))
        }
        DataType::Int64 => Some(MetricValue::Long(i64::try_from(integer()?).ok()?.cast_unsigned())),
        DataType::UInt64 => Some(MetricValue::Long(u64::try_from(integer()?).ok()?)),
        DataType::Float => Some(MetricValue::Float(nearest_single(number()?))),
        DataType::Double => Some(MetricValue::Double(number()?)),
        DataType::Boolean => match value {
            Value::Bool(flag) => Some(MetricValue::Boolean(*flag)),
            _ => None,
        },
        DataType::String => Some(MetricValue::Text(value.to_string().into())),
    }
}

/// It came from 32 bits: 230.1 is the single that was read.
#[allow(clippy::cast_possible_truncation)] // that is what it is for
fn nearest_single(value: f64) -> f32 {
    value as f32
}

fn bit_of(name: &str, value: &Value) -> Option<MetricValue> {
    let Value::Bits(parts) = value else { return None };
    let part = parts.iter().find(|part| *part.name == *name)?;
    Some(match part.value {
        BitsValue::Flag(flag) => MetricValue::Boolean(flag),
        BitsValue::Number(number) => MetricValue::Long(number),
    })
}

/// What one device says of itself: that it is there with all of its metrics, what is news, that it is gone.
#[derive(Debug)]
pub(crate) struct Herald {
    /// In the configuration.
    index: u16,
    device: Arc<str>,
    publish: Publish,
    node: EdgeNode,
    sheet: Sheet,
    is_online: bool,
    is_born: bool,
}

impl Herald {
    /// None: the device is published otherwise.
    pub(crate) fn of_device(gateway: &str, index: u16, device: &Device) -> Option<Self> {
        Self::of((gateway, index), &device.name, &device.publish, || Sheet::of_device(device))
    }

    /// None: the device is published otherwise.
    pub(crate) fn of_instrument(gateway: &str, index: u16, instrument: &Instrument) -> Option<Self> {
        Self::of((gateway, index), &instrument.name, &instrument.publish, || Sheet::of_instrument(instrument))
    }

    fn of(
        (gateway, index): (&str, u16),
        device: &Arc<str>,
        publish: &Publish,
        sheet: impl FnOnce() -> Sheet,
    ) -> Option<Self> {
        if publish.format != Format::Sparkplug {
            return None;
        }
        let node = node_of(gateway, device, publish)?;
        Some(Self {
            index,
            device: Arc::clone(device),
            publish: publish.clone(),
            node,
            sheet: sheet(),
            is_online: false,
            is_born: false,
        })
    }

    /// The device answers: it is to be born with its next readings.
    pub(crate) fn handle_online(&mut self) {
        self.is_online = true;
    }

    pub(crate) fn owes_birth(&self) -> bool {
        self.is_online && !self.is_born
    }

    /// DBIRTH with what is known of all points, named by their places. What is news is said as data too: a birth is for
    /// whoever listens now, and nobody keeps it.
    pub(crate) fn birth<'a>(
        &mut self,
        readings: impl Iterator<Item = (usize, &'a Reading)>,
        now: Now,
    ) -> Option<Message> {
        self.is_born = true;
        self.message(Kind::DeviceBirth, readings, now)
    }

    /// DDATA.
    pub(crate) fn data<'a>(
        &self,
        readings: impl Iterator<Item = (usize, &'a Reading)>,
        now: Now,
    ) -> Option<Message> {
        self.message(Kind::DeviceData, readings, now)
    }

    /// DDEATH. None: it was not born.
    pub(crate) fn death(&mut self, now: Now) -> Option<Message> {
        self.is_online = false;
        let was_born = std::mem::take(&mut self.is_born);
        if was_born { self.message(Kind::DeviceDeath, std::iter::empty(), now) } else { None }
    }

    fn message<'a>(
        &self,
        kind: Kind,
        readings: impl Iterator<Item = (usize, &'a Reading)>,
        now: Now,
    ) -> Option<Message> {
        let metrics: Vec<Metric> =
            readings.flat_map(|(at, reading)| self.sheet.metrics_of(at, reading, now)).collect();
        if kind == Kind::DeviceData && metrics.is_empty() {
            return None;
        }
        let topic = self.node.device_topic(kind, &self.device)?;
        let payload = Payload { timestamp: None, metrics, seq: None }.encode();
        // Retained, a message of a session would outlive it.
        Some(Message::new(topic, payload, self.publish.qos, Origin::Device(self.index), now))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Shape, shape_of, value_as};
    use crate::base::time::Duration;
    use crate::config::model::{Point, Table, ValueType};
    use crate::config::point::{Aggregate, AggregateOf, BitField, Label, Meaning};
    use crate::device::fixture::point;
    use crate::device::value::Value;
    use crate::sparkplug::payload::{DataType, MetricValue};

    fn of(value_type: ValueType) -> Point {
        point("p", Table::Holding, 0, value_type)
    }

    fn datatype(point: &Point) -> Option<DataType> {
        match shape_of(point) {
            Shape::One(datatype) => Some(datatype),
            Shape::Bits(_) => None,
        }
    }

    #[test]
    fn a_point_has_the_type_of_its_values() {
        let label = |meaning| vec![Label { number: 0, meaning }];
        let window = |of| Some(Aggregate { every: Duration::from_secs(60), of });
        let cases = [
            (of(ValueType::U16), DataType::UInt16),
            (of(ValueType::I32), DataType::Int32),
            (of(ValueType::Bcd64), DataType::UInt64),
            (of(ValueType::F32), DataType::Float),
            (of(ValueType::Bool), DataType::Boolean),
            (of(ValueType::String { registers: 4 }), DataType::String),
            (Point { scale: 0.1, ..of(ValueType::I16) }, DataType::Double),
            (Point { scale_from: Some(1), ..of(ValueType::I16) }, DataType::Double),
            (Point { labels: label(Meaning::Text("off".into())), ..of(ValueType::U16) }, DataType::String),
            (Point { labels: label(Meaning::Flag(true)), ..of(ValueType::U16) }, DataType::Boolean),
            (Point { aggregate: window(AggregateOf::Mean), ..of(ValueType::U16) }, DataType::Double),
            (Point { aggregate: window(AggregateOf::Max), ..of(ValueType::U16) }, DataType::UInt16),
        ];
        for (point, expected) in cases {
            assert_eq!(datatype(&point), Some(expected), "{point:?}");
        }
        let bits = vec![
            BitField { name: "alarm".into(), first: 0, width: 1 },
            BitField { name: "gear".into(), first: 4, width: 3 },
        ];
        let Shape::Bits(parts) = shape_of(&Point { bits, ..of(ValueType::U16) }) else { panic!("no bits") };
        let parts: Vec<_> = parts.iter().map(|part| (&*part.metric, part.datatype)).collect();
        assert_eq!(parts, [("p/alarm", DataType::Boolean), ("p/gear", DataType::UInt64)]);
    }

    #[test]
    fn values_keep_what_they_are_or_are_none() {
        let text = |text: &str| Value::Text(Arc::from(text));
        let cases = [
            (DataType::UInt16, Value::Unsigned(65_535), Some(MetricValue::Int(65_535))),
            (DataType::Int16, Value::Signed(-2), Some(MetricValue::Int(0xffff_fffe))),
            (DataType::Int64, Value::Signed(-1), Some(MetricValue::Long(u64::MAX))),
            (DataType::UInt64, Value::Unsigned(u64::MAX), Some(MetricValue::Long(u64::MAX))),
            (DataType::UInt32, Value::Signed(-1), None),
            (DataType::Float, Value::Float(230.1), Some(MetricValue::Float(230.1))),
            (DataType::Double, Value::Unsigned(7), Some(MetricValue::Double(7.0))),
            (DataType::Double, text("x"), None),
            (DataType::Boolean, Value::Unsigned(1), None),
            (DataType::String, Value::Unsigned(1), Some(MetricValue::Text("1".into()))),
        ];
        for (datatype, value, expected) in cases {
            assert_eq!(value_as(datatype, &value), expected, "{datatype:?} {value:?}");
        }
    }
}
