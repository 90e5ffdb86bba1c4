//! A Sparkplug B payload: metrics with their values, as protobuf writes them. The part of it that a gateway says and is
//! told; what else a payload holds is passed over. Never knows topics or sessions.

use std::fmt;
use std::sync::Arc;

use crate::sparkplug::wire::{Field, Fields, WireError, put_bytes, put_double, put_float, put_number};

/// Metrics of one payload that are read: a metric of two bytes takes a hundred in memory.
pub const METRICS_MAX: usize = 100_000;

const QUALITY: &str = "Quality";
const UNIT: &str = "engUnit";

/// What a value is, by Sparkplug's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum DataType {
    Int8 = 1,
    Int16 = 2,
    Int32 = 3,
    Int64 = 4,
    UInt8 = 5,
    UInt16 = 6,
    UInt32 = 7,
    UInt64 = 8,
    Float = 9,
    Double = 10,
    Boolean = 11,
    String = 12,
}

impl DataType {
    const ALL: [Self; 12] = [
        Self::Int8,
        Self::Int16,
        Self::Int32,
        Self::Int64,
        Self::UInt8,
        Self::UInt16,
        Self::UInt32,
        Self::UInt64,
        Self::Float,
        Self::Double,
        Self::Boolean,
        Self::String,
    ];

    fn of(number: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|known| *known as u64 == number)
    }
}

/// How good a value is, as OPC and Sparkplug number it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quality {
    Bad,
    Good,
    Stale,
}

impl Quality {
    pub const fn number(self) -> u32 {
        match self {
            Self::Bad => 0,
            Self::Good => 192,
            Self::Stale => 500,
        }
    }

    const fn of(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::Bad),
            192 => Some(Self::Good),
            500 => Some(Self::Stale),
            _ => None,
        }
    }
}

/// A value as it stands in a metric. Signed integers are told by the metric's type: they are their two's complement.
#[derive(Debug, Clone, PartialEq)]
pub enum MetricValue {
    /// 32 bits and less.
    Int(u32),
    Long(u64),
    Float(f32),
    Double(f64),
    Boolean(bool),
    Text(Arc<str>),
}

impl MetricValue {
    /// The value as people write it, for a metric of that type.
    pub fn text(&self, datatype: DataType) -> String {
        match (self, datatype) {
            (Self::Int(bits), DataType::Int8) => i8::from_le_bytes([bits.to_le_bytes()[0]]).to_string(),
            (Self::Int(bits), DataType::Int16) => (bits.cast_signed() << 16 >> 16).to_string(),
            (Self::Int(bits), DataType::Int32 | DataType::Int64) => bits.cast_signed().to_string(),
            (Self::Int(value), _) => value.to_string(),
            // Some write what fits 32 bits so.
            (Self::Long(bits), DataType::Int8 | DataType::Int16 | DataType::Int32) => {
                let low = (*bits & 0xffff_ffff) as u32;
                Self::Int(low).text(datatype)
            }
            (Self::Long(bits), DataType::Int64) => bits.cast_signed().to_string(),
            (Self::Long(value), _) => value.to_string(),
            (Self::Float(value), _) => value.to_string(),
            (Self::Double(value), _) => value.to_string(),
            (Self::Boolean(value), _) => value.to_string(),
            (Self::Text(text), _) => text.to_string(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metric {
    pub name: Option<Arc<str>>,
    pub alias: Option<u64>,
    /// Milliseconds since 1970.
    pub timestamp: Option<u64>,
    pub datatype: Option<DataType>,
    pub is_historical: bool,
    /// None: there is none, and the metric says so.
    pub value: Option<MetricValue>,
    pub quality: Option<Quality>,
    /// What the value is measured in.
    pub unit: Option<Arc<str>>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Payload {
    /// When it was sent: milliseconds since 1970.
    pub timestamp: Option<u64>,
    pub metrics: Vec<Metric>,
    pub seq: Option<u64>,
}

/// Why bytes are no payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoPayload(WireError);

impl fmt::Display for NoPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no Sparkplug payload: {}", self.0)
    }
}

impl std::error::Error for NoPayload {}

impl Payload {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(timestamp) = self.timestamp {
            put_number(&mut out, 1, timestamp);
        }
        let mut one = Vec::new();
        for metric in &self.metrics {
            one.clear();
            metric.encode(&mut one);
            put_bytes(&mut out, 2, &one);
        }
        if let Some(seq) = self.seq {
            put_number(&mut out, 3, seq);
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, NoPayload> {
        Self::read(bytes).map_err(NoPayload)
    }

    fn read(bytes: &[u8]) -> Result<Self, WireError> {
        let mut payload = Self::default();
        let mut fields = Fields::of(bytes);
        while let Some((number, field)) = fields.next()? {
            match number {
                1 => payload.timestamp = Some(field.number(1)?),
                2 if payload.metrics.len() >= METRICS_MAX => return Err(WireError::TooManyMetrics),
                2 => payload.metrics.push(Metric::read(field.bytes(2)?)?),
                3 => payload.seq = Some(field.number(3)?),
                _ => {}
            }
        }
        Ok(payload)
    }
}

impl Metric {
    fn encode(&self, out: &mut Vec<u8>) {
        if let Some(name) = &self.name {
            put_bytes(out, 1, name.as_bytes());
        }
        if let Some(alias) = self.alias {
            put_number(out, 2, alias);
        }
        if let Some(timestamp) = self.timestamp {
            put_number(out, 3, timestamp);
        }
        if let Some(datatype) = self.datatype {
            put_number(out, 4, datatype as u64);
        }
        if self.is_historical {
            put_number(out, 5, 1);
        }
        if self.value.is_none() {
            put_number(out, 7, 1);
        }
        if self.quality.is_some() || self.unit.is_some() {
            put_bytes(out, 9, &self.encode_properties());
        }
        match &self.value {
            None => {}
            Some(MetricValue::Int(value)) => put_number(out, 10, u64::from(*value)),
            Some(MetricValue::Long(value)) => put_number(out, 11, *value),
            Some(MetricValue::Float(value)) => put_float(out, 12, *value),
            Some(MetricValue::Double(value)) => put_double(out, 13, *value),
            Some(MetricValue::Boolean(value)) => put_number(out, 14, u64::from(*value)),
            Some(MetricValue::Text(text)) => put_bytes(out, 15, text.as_bytes()),
        }
    }

    fn encode_properties(&self) -> Vec<u8> {
        let mut set = Vec::new();
        let keys = [self.quality.map(|_| QUALITY), self.unit.as_ref().map(|_| UNIT)];
        for key in keys.into_iter().flatten() {
            put_bytes(&mut set, 1, key.as_bytes());
        }
        let mut value = Vec::new();
        if let Some(quality) = self.quality {
            put_number(&mut value, 1, DataType::Int32 as u64);
            put_number(&mut value, 3, u64::from(quality.number()));
            put_bytes(&mut set, 2, &value);
            value.clear();
        }
        if let Some(unit) = &self.unit {
            put_number(&mut value, 1, DataType::String as u64);
            put_bytes(&mut value, 8, unit.as_bytes());
            put_bytes(&mut set, 2, &value);
        }
        set
    }

    fn read(bytes: &[u8]) -> Result<Self, WireError> {
        let mut metric = Self::default();
        let mut fields = Fields::of(bytes);
        let mut is_null = false;
        while let Some((number, field)) = fields.next()? {
            match number {
                1 => metric.name = Some(field.text(1)?.into()),
                2 => metric.alias = Some(field.number(2)?),
                3 => metric.timestamp = Some(field.number(3)?),
                4 => metric.datatype = DataType::of(field.number(4)?),
                5 => metric.is_historical = field.number(5)? != 0,
                7 => is_null = field.number(7)? != 0,
                9 => metric.read_properties(field.bytes(9)?)?,
                10..=15 => metric.value = Some(read_value(number, field)?),
                _ => {}
            }
        }
        if is_null {
            metric.value = None;
        }
        Ok(metric)
    }

    /// Of properties that are not ours nothing is known.
    fn read_properties(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        let mut fields = Fields::of(bytes);
        while let Some((number, field)) = fields.next()? {
            match number {
                1 => keys.push(field.text(1)?),
                2 => values.push(field.bytes(2)?),
                _ => {}
            }
        }
        for (key, value) in keys.into_iter().zip(values) {
            let mut fields = Fields::of(value);
            while let Some((number, field)) = fields.next()? {
                match (key, number) {
                    (QUALITY, 3) => self.quality = Quality::of(field.number(3)?),
                    (UNIT, 8) => self.unit = Some(field.text(8)?.into()),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

fn read_value(number: u32, field: Field<'_>) -> Result<MetricValue, WireError> {
    match (number, field) {
        // A decoder of 32 bits takes the lower ones.
        (10, Field::Number(value)) => Ok(MetricValue::Int((value & 0xffff_ffff) as u32)),
        (11, Field::Number(value)) => Ok(MetricValue::Long(value)),
        (12, Field::Four(bytes)) => Ok(MetricValue::Float(f32::from_le_bytes(bytes))),
        (13, Field::Eight(bytes)) => Ok(MetricValue::Double(f64::from_le_bytes(bytes))),
        (14, Field::Number(value)) => Ok(MetricValue::Boolean(value != 0)),
        (15, field) => Ok(MetricValue::Text(field.text(15)?.into())),
        (number, _) => Err(WireError::WrongKind(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::{DataType, METRICS_MAX, Metric, MetricValue, NoPayload, Payload, Quality};
    use crate::sparkplug::wire::WireError;

    fn full() -> Payload {
        let values = [
            Some(MetricValue::Int(u32::MAX)),
            Some(MetricValue::Long(u64::MAX)),
            Some(MetricValue::Float(-230.1)),
            Some(MetricValue::Double(f64::MIN_POSITIVE)),
            Some(MetricValue::Boolean(false)),
            Some(MetricValue::Text("äö".into())),
            None,
        ];
        let metric = |(alias, value)| Metric {
            name: Some("a/b".into()),
            alias: Some(alias),
            timestamp: Some(1_795_255_200_123),
            datatype: Some(DataType::Double),
            is_historical: alias % 2 == 0,
            value,
            quality: Some(Quality::Stale),
            unit: Some("°C".into()),
        };
        Payload { timestamp: Some(0), metrics: (0..).zip(values).map(metric).collect(), seq: Some(0) }
    }

    #[test]
    fn what_is_written_reads_back() {
        let payload = full();
        assert_eq!(Payload::decode(&payload.encode()), Ok(payload));
        assert_eq!(Payload::decode(&[]), Ok(Payload::default()));
        let bare = Payload { metrics: vec![Metric::default()], ..Payload::default() };
        assert_eq!(Payload::decode(&bare.encode()), Ok(bare));
    }

    /// Written down by hand from the published definitions.
    #[test]
    fn bytes_are_as_the_definitions_say() {
        let metric = Metric {
            name: Some("t".into()),
            alias: Some(1),
            datatype: Some(DataType::UInt16),
            value: Some(MetricValue::Int(300)),
            quality: Some(Quality::Good),
            ..Metric::default()
        };
        let payload = Payload { timestamp: Some(5), metrics: vec![metric], seq: Some(0) };
        let properties = [&[0x0a, 7][..], b"Quality", &[0x12, 5, 0x08, 3, 0x18, 0xc0, 1]].concat();
        let metric =
            [&[0x0a, 1, b't', 0x10, 1, 0x20, 6, 0x4a, 16][..], &properties, &[0x50, 0xac, 2]].concat();
        let expected = [&[0x08, 5, 0x12, 28][..], &metric, &[0x18, 0]].concat();
        assert_eq!(payload.encode(), expected);
    }

    #[test]
    fn what_is_cut_or_changed_is_read_or_refused_and_never_more() {
        let whole = full().encode();
        for length in 0..whole.len() {
            let _ = Payload::decode(&whole[..length]);
            for byte in [0, 0x7f, 0x80, 0xff] {
                let mut changed = whole.clone();
                changed[length] = byte;
                let _ = Payload::decode(&changed);
            }
        }
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let mut bytes = whole.clone();
            for _ in 0..rng.usize(1..6) {
                let at = rng.usize(..bytes.len());
                bytes[at] = rng.u8(..);
            }
            if let Ok(payload) = Payload::decode(&bytes) {
                // A float that is no number is not equal to itself.
                let again = Payload::decode(&payload.encode()).expect("what we write we read");
                assert_eq!(format!("{again:?}"), format!("{payload:?}"));
            }
        }
        let many = [0x12, 0].repeat(METRICS_MAX + 1);
        assert_eq!(Payload::decode(&many), Err(NoPayload(WireError::TooManyMetrics)));
    }

    #[test]
    fn values_are_written_as_their_types_mean_them() {
        let cases = [
            (MetricValue::Int(0xffff_fffe), DataType::Int32, "-2"),
            (MetricValue::Int(0xfffe), DataType::Int16, "-2"),
            (MetricValue::Int(0xffff_fffe), DataType::Int16, "-2"),
            (MetricValue::Int(0xfe), DataType::Int8, "-2"),
            (MetricValue::Int(0xfffe), DataType::UInt16, "65534"),
            (MetricValue::Long(u64::MAX), DataType::Int64, "-1"),
            (MetricValue::Long(0xffff_ffff_ffff_ffff), DataType::Int16, "-1"),
            (MetricValue::Long(u64::MAX), DataType::UInt64, "18446744073709551615"),
            (MetricValue::Float(21.5), DataType::Float, "21.5"),
            (MetricValue::Double(0.1), DataType::Double, "0.1"),
            (MetricValue::Boolean(true), DataType::Boolean, "true"),
            (MetricValue::Text("auto".into()), DataType::String, "auto"),
        ];
        for (value, datatype, text) in cases {
            assert_eq!(value.text(datatype), text, "{value:?}");
        }
    }
}
