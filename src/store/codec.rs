//! How messages, entries and wills stand in a blob: a leading version byte, flags, variable-length integers,
//! and the payload last, without a length. Bytes from a disk are hostile: anything odd is `Corrupt`, never a
//! panic. Never touches SQL.

use std::sync::Arc;

use bytes::Bytes;

use crate::base::time::{Duration, Now, Timestamp};
use crate::mqtt::message::{Message, MessageProperties, Origin};
use crate::mqtt::packet::connect::Will;
use crate::mqtt::qos::QoS;
use crate::mqtt::topic::TopicName;
use crate::store::age::{Anchor, Run};
use crate::store::error::StoreError;
use crate::store::record::{Entry, RuleTotals, Seq};

/// The leading byte of a blob that stands for itself.
const ENCODING: u8 = 1;
/// The leading byte of a blob whose names stand beside it.
const ENCODING_NAMED: u8 = 2;

const QOS_BITS: u8 = 0b11;
const RETAIN: u8 = 1 << 2;

const ENTRY_RULE: u8 = 1 << 3;
const ENTRY_IDENTIFIERS: u8 = 1 << 4;

const MESSAGE_PROPERTIES: u8 = 1 << 3;
const MESSAGE_EXPIRY: u8 = 1 << 4;
const ORIGIN_SHIFT: u8 = 5;
const ORIGIN_BITS: u8 = 0b11;

const FORMAT_PRESENT: u8 = 1;
const FORMAT_UTF8: u8 = 1 << 1;
const CONTENT_TYPE: u8 = 1 << 2;
const RESPONSE_TOPIC: u8 = 1 << 3;
const CORRELATION: u8 = 1 << 4;

/// Topics and client identifiers that blobs of one row refer to by their place: most entries that are written
/// together have them in common.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Names(Vec<Box<str>>);

impl Names {
    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|name| &**name)
    }

    /// A row's bound on its entries bounds the search: two names each.
    pub(super) fn place(&mut self, name: &str) -> u64 {
        let found = self.0.iter().position(|known| **known == *name);
        let place = found.unwrap_or_else(|| {
            self.0.push(name.into());
            self.0.len() - 1
        });
        place as u64
    }
}

impl<'a> FromIterator<&'a str> for Names {
    fn from_iter<I: IntoIterator<Item = &'a str>>(names: I) -> Self {
        Self(names.into_iter().map(Into::into).collect())
    }
}

/// Where the names of a message go.
enum Naming<'a> {
    Inline,
    Beside(&'a mut Names),
}

impl Naming<'_> {
    fn put(&mut self, out: &mut Vec<u8>, name: &str) {
        match self {
            Self::Inline => put_bytes(out, name.as_bytes()),
            Self::Beside(names) => put_varint(out, names.place(name)),
        }
    }
}

/// What of an entry is its own: everything but the message, and `Seq`, which its row knows.
pub(super) fn encode_entry_head(out: &mut Vec<u8>, entry: &Entry) {
    put_entry_head(out, entry, ENCODING);
}

fn put_entry_head(out: &mut Vec<u8>, entry: &Entry, encoding: u8) {
    let mut flags = entry.qos.bits();
    flags |= if entry.retain { RETAIN } else { 0 };
    flags |= if entry.rule == 0 { 0 } else { ENTRY_RULE };
    flags |= if entry.subscription_identifiers.is_empty() { 0 } else { ENTRY_IDENTIFIERS };
    out.extend([encoding, flags]);
    if entry.rule != 0 {
        put_varint(out, entry.rule.into());
    }
    if !entry.subscription_identifiers.is_empty() {
        put_varint(out, entry.subscription_identifiers.len() as u64);
        for identifier in &entry.subscription_identifiers {
            put_varint(out, (*identifier).into());
        }
    }
}

/// An entry with its message, but for the names.
pub(super) fn encode_entry(out: &mut Vec<u8>, entry: &Entry, names: &mut Names, anchor: Anchor) {
    put_entry_head(out, entry, ENCODING_NAMED);
    let topic = entry.message.topic.as_str();
    put_message(out, &entry.message, topic, Naming::Beside(names), anchor);
}

/// A message that several entries share.
pub(super) fn encode_body(out: &mut Vec<u8>, message: &Message, anchor: Anchor) {
    out.push(ENCODING);
    put_message(out, message, message.topic.as_str(), Naming::Inline, anchor);
}

/// A retained message; its topic is the row's key.
pub(super) fn encode_retained(out: &mut Vec<u8>, message: &Message, anchor: Anchor) {
    out.push(ENCODING);
    put_message(out, message, "", Naming::Inline, anchor);
}

pub(super) fn encode_will(out: &mut Vec<u8>, will: &Will) {
    let mut flags = will.qos.bits();
    flags |= if will.retain { RETAIN } else { 0 };
    flags |= if will.expiry_interval.is_some() { MESSAGE_EXPIRY } else { 0 };
    out.extend([ENCODING, flags]);
    put_varint(out, will.delay_interval.into());
    if let Some(expiry) = will.expiry_interval {
        put_varint(out, expiry.into());
    }
    put_bytes(out, will.topic.as_str().as_bytes());
    put_properties(out, &will.properties);
    out.extend_from_slice(&will.payload);
}

/// The blobs of an entry: its own, the message that it shares where it does, and the names beside them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Blobs<'a> {
    pub(super) data: &'a [u8],
    pub(super) body: Option<&'a [u8]>,
    pub(super) names: &'a [&'a str],
}

pub(super) fn decode_entry(
    seq: Seq,
    blobs: Blobs<'_>,
    anchor: Anchor,
    run: Run,
) -> Result<Entry, StoreError> {
    let mut reader = Reader::open_beside(blobs.data, blobs.names)?;
    let flags = reader.byte()?;
    let rule = if flags & ENTRY_RULE == 0 { 0 } else { reader.integer()? };
    let identifiers = if flags & ENTRY_IDENTIFIERS == 0 { Box::default() } else { reader.identifiers()? };
    let message = match blobs.body {
        Some(body) => {
            reader.expect_end()?;
            Reader::open(body)?.message(None, anchor, run)?
        }
        None => reader.message(None, anchor, run)?,
    };
    Ok(Entry {
        seq,
        qos: qos(flags)?,
        retain: flags & RETAIN != 0,
        rule,
        subscription_identifiers: identifiers,
        message: Arc::new(message),
    })
}

pub(super) fn decode_retained(topic: &str, data: &[u8], anchor: Anchor) -> Result<Message, StoreError> {
    Reader::open(data)?.message(Some(topic), anchor, Run::Earlier)
}

pub(super) fn decode_will(data: &[u8]) -> Result<Will, StoreError> {
    let mut reader = Reader::open(data)?;
    let flags = reader.byte()?;
    let delay_interval = reader.integer()?;
    let expiry_interval = if flags & MESSAGE_EXPIRY == 0 { None } else { Some(reader.integer()?) };
    let topic = reader.topic()?;
    let properties = reader.properties()?;
    Ok(Will {
        topic,
        payload: reader.rest(),
        qos: qos(flags)?,
        retain: flags & RETAIN != 0,
        delay_interval,
        expiry_interval,
        properties,
    })
}

/// What stands in a spool, so that a start need not count it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) last_seq: Seq,
}

pub(super) fn encode_totals(out: &mut Vec<u8>, totals: Totals) {
    out.push(ENCODING);
    for number in [totals.messages, totals.bytes, totals.last_seq.0] {
        put_varint(out, number);
    }
}

pub(super) fn decode_totals(data: &[u8]) -> Result<Totals, StoreError> {
    let mut reader = Reader::open(data)?;
    let totals =
        Totals { messages: reader.varint()?, bytes: reader.varint()?, last_seq: Seq(reader.varint()?) };
    reader.expect_end()?;
    Ok(totals)
}

/// What stands in a spool by the rules of its entries, beside its totals. An earlier version keeps the totals alone: then
/// neither their sums nor the last number agree, and the entries are counted anew.
pub(super) fn encode_rules(out: &mut Vec<u8>, last_seq: Seq, rules: &[RuleTotals]) {
    out.push(ENCODING);
    put_varint(out, last_seq.0);
    for totals in rules {
        for number in [totals.rule.into(), totals.messages, totals.bytes] {
            put_varint(out, number);
        }
    }
}

/// None: they are not those of these totals.
pub(super) fn decode_rules(data: &[u8], totals: Totals) -> Option<Vec<RuleTotals>> {
    let mut reader = Reader::open(data).ok()?;
    let last_seq = Seq(reader.varint().ok()?);
    let mut rules = Vec::new();
    let (mut messages, mut bytes) = (0u64, 0u64);
    while !reader.is_empty() {
        let rule: RuleTotals = RuleTotals {
            rule: reader.integer().ok()?,
            messages: reader.varint().ok()?,
            bytes: reader.varint().ok()?,
        };
        messages = messages.saturating_add(rule.messages);
        bytes = bytes.saturating_add(rule.bytes);
        rules.push(rule);
    }
    (last_seq == totals.last_seq && messages == totals.messages && bytes == totals.bytes).then_some(rules)
}

/// The rule of an entry, of which nothing else is read.
pub(super) fn decode_rule(data: &[u8]) -> Result<u16, StoreError> {
    let mut reader = Reader::open_beside(data, &[])?;
    let flags = reader.byte()?;
    if flags & ENTRY_RULE == 0 { Ok(0) } else { reader.integer() }
}

fn put_message(out: &mut Vec<u8>, message: &Message, topic: &str, mut naming: Naming<'_>, anchor: Anchor) {
    let mut flags = message.qos.bits();
    flags |= if message.retain { RETAIN } else { 0 };
    flags |= if message.properties.is_some() { MESSAGE_PROPERTIES } else { 0 };
    flags |= if message.expiry_interval.is_some() { MESSAGE_EXPIRY } else { 0 };
    let kind: u8 = match message.origin {
        Origin::Client(_) => 0,
        Origin::Bridge(_) => 1,
        Origin::Device(_) => 2,
        Origin::Gateway => 3,
    };
    out.push(flags | kind << ORIGIN_SHIFT);
    match &message.origin {
        Origin::Client(client_id) => naming.put(out, client_id),
        Origin::Bridge(index) | Origin::Device(index) => put_varint(out, (*index).into()),
        Origin::Gateway => {}
    }
    put_varint(out, zigzag(message.arrived.wall.as_millis()));
    put_varint(out, zigzag(anchor.drift(message.arrived)));
    if let Some(expiry) = message.expiry_interval {
        put_varint(out, u64::try_from(expiry.as_millis()).unwrap_or(u64::MAX));
    }
    naming.put(out, topic);
    if let Some(properties) = &message.properties {
        put_properties(out, properties);
    }
    out.extend_from_slice(&message.payload);
}

fn put_properties(out: &mut Vec<u8>, properties: &MessageProperties) {
    let mut flags = match properties.payload_format_utf8 {
        None => 0,
        Some(false) => FORMAT_PRESENT,
        Some(true) => FORMAT_PRESENT | FORMAT_UTF8,
    };
    flags |= if properties.content_type.is_some() { CONTENT_TYPE } else { 0 };
    flags |= if properties.response_topic.is_some() { RESPONSE_TOPIC } else { 0 };
    flags |= if properties.correlation_data.is_some() { CORRELATION } else { 0 };
    out.push(flags);
    if let Some(content_type) = &properties.content_type {
        put_bytes(out, content_type.as_bytes());
    }
    if let Some(topic) = &properties.response_topic {
        put_bytes(out, topic.as_str().as_bytes());
    }
    if let Some(correlation) = &properties.correlation_data {
        put_bytes(out, correlation);
    }
    put_varint(out, properties.user_properties.len() as u64);
    for (name, value) in &properties.user_properties {
        put_bytes(out, name.as_bytes());
        put_bytes(out, value.as_bytes());
    }
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Seven bits a byte, the lowest first; the high bit says that more follow.
pub(super) fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push((number & 0x7f) as u8);
}

/// Small negative numbers become small positive ones.
fn zigzag(number: i64) -> u64 {
    (number.cast_unsigned() << 1) ^ (number >> 63).cast_unsigned()
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

fn qos(flags: u8) -> Result<QoS, StoreError> {
    QoS::from_bits(flags & QOS_BITS).ok_or(StoreError::Corrupt)
}

/// What is left of a blob.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    /// Where the names stand, if not in the blob.
    names: Option<&'a [&'a str]>,
}

impl<'a> Reader<'a> {
    /// Of bytes without a leading encoding.
    pub(super) fn bare(rest: &'a [u8]) -> Self {
        Self { rest, names: None }
    }

    fn open(blob: &'a [u8]) -> Result<Self, StoreError> {
        match blob.split_first() {
            Some((&ENCODING, rest)) => Ok(Self::bare(rest)),
            _ => Err(StoreError::Corrupt),
        }
    }

    fn open_beside(blob: &'a [u8], names: &'a [&'a str]) -> Result<Self, StoreError> {
        match blob.split_first() {
            Some((&ENCODING_NAMED, rest)) => Ok(Self { rest, names: Some(names) }),
            _ => Self::open(blob),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn byte(&mut self) -> Result<u8, StoreError> {
        let (byte, rest) = self.rest.split_first().ok_or(StoreError::Corrupt)?;
        self.rest = rest;
        Ok(*byte)
    }

    pub(super) fn varint(&mut self) -> Result<u64, StoreError> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return Err(StoreError::Corrupt);
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(StoreError::Corrupt)
    }

    pub(super) fn integer<T: TryFrom<u64>>(&mut self) -> Result<T, StoreError> {
        T::try_from(self.varint()?).map_err(|_| StoreError::Corrupt)
    }

    fn bytes(&mut self) -> Result<&'a [u8], StoreError> {
        let length: usize = self.integer()?;
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(StoreError::Corrupt)?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, StoreError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| StoreError::Corrupt)
    }

    /// A topic or a client identifier.
    fn name(&mut self) -> Result<&'a str, StoreError> {
        let Some(names) = self.names else { return self.text() };
        let place: usize = self.integer()?;
        names.get(place).copied().ok_or(StoreError::Corrupt)
    }

    fn topic(&mut self) -> Result<TopicName, StoreError> {
        TopicName::new(self.text()?).map_err(|_| StoreError::Corrupt)
    }

    fn rest(&mut self) -> Bytes {
        Bytes::copy_from_slice(std::mem::take(&mut self.rest))
    }

    fn expect_end(&self) -> Result<(), StoreError> {
        if self.rest.is_empty() { Ok(()) } else { Err(StoreError::Corrupt) }
    }

    /// A count from a disk reserves nothing: the bytes that are there bound the loop.
    fn identifiers(&mut self) -> Result<Box<[u32]>, StoreError> {
        let count = self.varint()?;
        (0..count).map(|_| self.integer()).collect()
    }

    fn message(&mut self, topic: Option<&str>, anchor: Anchor, run: Run) -> Result<Message, StoreError> {
        let flags = self.byte()?;
        let origin = match flags >> ORIGIN_SHIFT & ORIGIN_BITS {
            0 => Origin::Client(self.name()?.into()),
            1 => Origin::Bridge(self.integer()?),
            2 => Origin::Device(self.integer()?),
            _ => Origin::Gateway,
        };
        let wall = Timestamp::from_millis(unzigzag(self.varint()?));
        let drift = unzigzag(self.varint()?);
        let expiry_interval =
            if flags & MESSAGE_EXPIRY == 0 { None } else { Some(Duration::from_millis(self.varint()?)) };
        let stored_topic = self.name()?;
        let topic = TopicName::new(topic.unwrap_or(stored_topic)).map_err(|_| StoreError::Corrupt)?;
        let properties =
            if flags & MESSAGE_PROPERTIES == 0 { None } else { Some(Box::new(self.properties()?)) };
        Ok(Message {
            topic,
            payload: self.rest(),
            qos: qos(flags)?,
            retain: flags & RETAIN != 0,
            properties,
            expiry_interval,
            origin,
            arrived: Now { instant: anchor.instant(wall, drift, run), wall },
        })
    }

    fn properties(&mut self) -> Result<MessageProperties, StoreError> {
        let flags = self.byte()?;
        let payload_format_utf8 = (flags & FORMAT_PRESENT != 0).then_some(flags & FORMAT_UTF8 != 0);
        let content_type = if flags & CONTENT_TYPE == 0 { None } else { Some(self.text()?.into()) };
        let response_topic = if flags & RESPONSE_TOPIC == 0 { None } else { Some(self.topic()?) };
        let correlation_data =
            if flags & CORRELATION == 0 { None } else { Some(Bytes::copy_from_slice(self.bytes()?)) };
        let mut user_properties = Vec::new();
        for _ in 0..self.varint()? {
            user_properties.push((self.text()?.into(), self.text()?.into()));
        }
        Ok(MessageProperties {
            payload_format_utf8,
            content_type,
            response_topic,
            correlation_data,
            user_properties,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::{
        Blobs, ENCODING, ENTRY_IDENTIFIERS, Names, ORIGIN_SHIFT, Totals, decode_entry, decode_retained,
        decode_totals, decode_will, encode_body, encode_entry, encode_entry_head, encode_retained,
        encode_totals, encode_will,
    };
    use crate::base::time::{Duration, Instant, Now, Timestamp};
    use crate::mqtt::message::{Message, MessageProperties, Origin};
    use crate::mqtt::packet::connect::Will;
    use crate::mqtt::qos::QoS;
    use crate::mqtt::topic::TopicName;
    use crate::store::age::{Anchor, Run};
    use crate::store::error::StoreError;
    use crate::store::record::{Entry, Seq};

    const NOW: Now = Now {
        instant: Instant::from_nanos(3_600_000_000_000),
        wall: Timestamp::from_millis(1_795_255_200_123),
    };

    fn random_text(rng: &mut fastrand::Rng) -> String {
        (0..rng.usize(1..40)).map(|_| rng.choice(['a', '/', 'é', '0', '漢']).unwrap_or('x')).collect()
    }

    fn random_bytes(rng: &mut fastrand::Rng, length_max: usize) -> Bytes {
        let length = rng.usize(0..length_max);
        (0..length).map(|_| rng.u8(..)).collect()
    }

    fn random_properties(rng: &mut fastrand::Rng) -> MessageProperties {
        let user = rng.usize(0..4);
        MessageProperties {
            payload_format_utf8: rng.bool().then(|| rng.bool()),
            content_type: rng.bool().then(|| random_text(rng).into()),
            response_topic: rng.bool().then(|| TopicName::new(&random_text(rng)).unwrap()),
            correlation_data: rng.bool().then(|| random_bytes(rng, 200)),
            user_properties: (0..user).map(|_| (random_text(rng).into(), random_text(rng).into())).collect(),
        }
    }

    fn random_entry(rng: &mut fastrand::Rng) -> Entry {
        let origin = match rng.u8(0..4) {
            0 => Origin::Client(random_text(rng).into()),
            1 => Origin::Bridge(rng.u16(..)),
            2 => Origin::Device(rng.u16(..)),
            _ => Origin::Gateway,
        };
        let identifiers = rng.usize(0..3);
        let step = rng.i64(-100_000_000..100_000_000);
        let instant = NOW.instant + Duration::from_millis(rng.u64(0..100_000_000));
        Entry {
            seq: Seq(7),
            qos: QoS::from_bits(rng.u8(1..3)).unwrap(),
            retain: rng.bool(),
            rule: if rng.bool() { 0 } else { rng.u16(..) },
            subscription_identifiers: (0..identifiers).map(|_| rng.u32(1..268_435_456)).collect(),
            message: Arc::new(Message {
                topic: TopicName::new(&random_text(rng)).unwrap(),
                payload: random_bytes(rng, 3000),
                qos: QoS::from_bits(rng.u8(0..3)).unwrap(),
                retain: rng.bool(),
                properties: rng.bool().then(|| Box::new(random_properties(rng))),
                expiry_interval: rng.bool().then(|| Duration::from_secs(rng.u32(..).into())),
                origin,
                arrived: Now { instant, wall: Timestamp::from_millis(NOW.wall.as_millis() + step) },
            }),
        }
    }

    #[test]
    fn random_entries_survive_beside_their_names_and_shared() {
        let mut rng = fastrand::Rng::with_seed(1);
        for round in 0..2000 {
            let entry = random_entry(&mut rng);
            let (mut own, mut names) = (Vec::new(), Names::default());
            encode_entry(&mut own, &entry, &mut names, Anchor(NOW));
            let names: Vec<&str> = names.iter().collect();
            let blobs = Blobs { data: &own, body: None, names: &names };
            let decoded = decode_entry(entry.seq, blobs, Anchor(NOW), Run::This);
            assert_eq!(decoded.as_ref(), Ok(&entry), "round {round}");
            let (mut head, mut body) = (Vec::new(), Vec::new());
            encode_entry_head(&mut head, &entry);
            encode_body(&mut body, &entry.message, Anchor(NOW));
            let blobs = Blobs { data: &head, body: Some(&body), names: &[] };
            let decoded = decode_entry(entry.seq, blobs, Anchor(NOW), Run::This);
            assert_eq!(decoded.as_ref(), Ok(&entry), "round {round}");
        }
    }

    #[test]
    fn wills_totals_and_retained_messages_survive() {
        let mut rng = fastrand::Rng::with_seed(2);
        for _ in 0..500 {
            let will = Will {
                topic: TopicName::new(&random_text(&mut rng)).unwrap(),
                payload: random_bytes(&mut rng, 300),
                qos: QoS::from_bits(rng.u8(0..3)).unwrap(),
                retain: rng.bool(),
                delay_interval: rng.u32(..),
                expiry_interval: rng.bool().then(|| rng.u32(..)),
                properties: random_properties(&mut rng),
            };
            let mut blob = Vec::new();
            encode_will(&mut blob, &will);
            assert_eq!(decode_will(&blob), Ok(will));

            let message = random_entry(&mut rng).message;
            let mut blob = Vec::new();
            encode_retained(&mut blob, &message, Anchor(NOW));
            let decoded = decode_retained(message.topic.as_str(), &blob, Anchor(NOW)).unwrap();
            assert_eq!(decoded.arrived.wall, message.arrived.wall);
            assert_eq!(Message { arrived: message.arrived, ..decoded }, *message);

            let totals = Totals { messages: rng.u64(..), bytes: rng.u64(..), last_seq: Seq(rng.u64(..)) };
            let mut blob = Vec::new();
            encode_totals(&mut blob, totals);
            assert_eq!(decode_totals(&blob), Ok(totals));
        }
    }

    #[test]
    fn hostile_bytes_are_corrupt_and_never_panic() {
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..5000 {
            let mut blob = Vec::new();
            let mut names = Names::default();
            encode_entry(&mut blob, &random_entry(&mut rng), &mut names, Anchor(NOW));
            let names: Vec<&str> = names.iter().collect();
            for _ in 0..rng.usize(1..6) {
                let at = rng.usize(0..blob.len());
                blob[at] = rng.u8(..);
            }
            blob.truncate(rng.usize(0..=blob.len()));
            let run = if rng.bool() { Run::This } else { Run::Earlier };
            for body in [None, Some(&*blob)] {
                let _ = decode_entry(Seq(1), Blobs { data: &blob, body, names: &names }, Anchor(NOW), run);
            }
            let _ = decode_will(&blob);
            let _ = decode_totals(&blob);
            let _ = decode_retained("a", &blob, Anchor(NOW));
        }
        let corrupt: [&[u8]; 5] = [
            &[],
            &[3, 0, 0, 0],
            &[ENCODING, 1 | ENTRY_IDENTIFIERS, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 5],
            &[ENCODING, 1, 3 << ORIGIN_SHIFT, 0, 0, 0xff, 0xff, 0x03],
            &[ENCODING, 1, 3 << ORIGIN_SHIFT | 3, 0, 0, 1, b'a'],
        ];
        for blob in corrupt {
            let blobs = Blobs { data: blob, body: None, names: &[] };
            let decoded = decode_entry(Seq(1), blobs, Anchor(NOW), Run::This);
            assert_eq!(decoded, Err(StoreError::Corrupt), "{blob:?}");
        }
    }
}
