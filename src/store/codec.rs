//! How messages, entries and wills stand in a blob: a leading version byte, flags, variable-length integers,
//! and the payload last, without a length. Bytes from a disk are hostile: anything odd is `Corrupt`, never a
//! panic. Never touches SQL.

use std::sync::Arc;

use bytes::Bytes;

use crate::base::boot::Boot;
use crate::base::time::{Doubt, Duration, Instant, Now, Timestamp};
use crate::base::undated::correct_time;
use crate::mqtt::message::{Message, Origin};
use crate::mqtt::packet::connect::Will;
use crate::mqtt::qos::QoS;
use crate::mqtt::topic::TopicName;
use crate::store::age::{Anchor, Run, Undated};
use crate::store::blob::{ENCODING, Reader, put_bytes, put_varint, unzigzag, zigzag};
use crate::store::error::StoreError;
use crate::store::properties::{put_properties, read_properties, read_topic};
use crate::store::record::{Entry, Seq};

/// The leading byte of a blob whose names stand beside it.
const ENCODING_NAMED: u8 = 2;
/// Of either, where the message came before the clock was set.
const ENCODING_UNDATED: u8 = 3;
const ENCODING_NAMED_UNDATED: u8 = 4;

/// Stands for a boot that is not known; no boot has this id.
const NO_BOOT: Boot = Boot(0);

const QOS_BITS: u8 = 0b11;
const RETAIN: u8 = 1 << 2;

const ENTRY_RULE: u8 = 1 << 3;
const ENTRY_IDENTIFIERS: u8 = 1 << 4;

const MESSAGE_PROPERTIES: u8 = 1 << 3;
const MESSAGE_EXPIRY: u8 = 1 << 4;
const ORIGIN_SHIFT: u8 = 5;
const ORIGIN_BITS: u8 = 0b11;

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
    put_entry_head(out, entry, encoding(&entry.message, ENCODING_NAMED, ENCODING_NAMED_UNDATED));
    let topic = entry.message.topic.as_str();
    put_message(out, &entry.message, topic, Naming::Beside(names), anchor);
}

fn encoding(message: &Message, dated: u8, undated: u8) -> u8 {
    if message.arrived.wall.is_doubtful() { undated } else { dated }
}

/// A message that several entries share.
pub(super) fn encode_body(out: &mut Vec<u8>, message: &Message, anchor: Anchor) {
    out.push(encoding(message, ENCODING, ENCODING_UNDATED));
    put_message(out, message, message.topic.as_str(), Naming::Inline, anchor);
}

/// A retained message; its topic is the row's key.
pub(super) fn encode_retained(out: &mut Vec<u8>, message: &Message, anchor: Anchor) {
    out.push(encoding(message, ENCODING, ENCODING_UNDATED));
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
    let mut stored = Stored::open_beside(blobs.data, Some(blobs.names))?;
    let flags = stored.blob.byte()?;
    let rule = if flags & ENTRY_RULE == 0 { 0 } else { stored.blob.integer()? };
    let identifiers = if flags & ENTRY_IDENTIFIERS == 0 { Box::default() } else { stored.identifiers()? };
    let message = match blobs.body {
        Some(body) => {
            stored.blob.expect_end()?;
            Stored::open(body)?.message(None, anchor, run)?
        }
        None => stored.message(None, anchor, run)?,
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
    Stored::open(data)?.message(Some(topic), anchor, Run::Earlier)
}

pub(super) fn decode_will(data: &[u8]) -> Result<Will, StoreError> {
    let mut stored = Stored::open(data)?;
    let flags = stored.blob.byte()?;
    let delay_interval = stored.blob.integer()?;
    let expiry_interval = if flags & MESSAGE_EXPIRY == 0 { None } else { Some(stored.blob.integer()?) };
    let topic = read_topic(&mut stored.blob)?;
    let properties = read_properties(&mut stored.blob)?;
    Ok(Will {
        topic,
        payload: stored.blob.rest(),
        qos: qos(flags)?,
        retain: flags & RETAIN != 0,
        delay_interval,
        expiry_interval,
        properties,
    })
}

/// The rule of an entry, of which nothing else is read.
pub(super) fn decode_rule(data: &[u8]) -> Result<u16, StoreError> {
    let mut stored = Stored::open_beside(data, Some(&[]))?;
    let flags = stored.blob.byte()?;
    if flags & ENTRY_RULE == 0 { Ok(0) } else { stored.blob.integer() }
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
    if message.arrived.wall.is_doubtful() {
        // What no boot can tell any more is of none.
        let boot = if message.arrived.wall.doubt() == Doubt::Lost { NO_BOOT } else { anchor.boot() };
        out.extend(boot.0.to_le_bytes());
        put_varint(out, zigzag(message.arrived.instant.as_millis()));
    } else {
        put_varint(out, zigzag(anchor.drift(message.arrived)));
    }
    if let Some(expiry) = message.expiry_interval {
        put_varint(out, u64::try_from(expiry.as_millis()).unwrap_or(u64::MAX));
    }
    naming.put(out, topic);
    if let Some(properties) = &message.properties {
        put_properties(out, properties);
    }
    out.extend_from_slice(&message.payload);
}

fn qos(flags: u8) -> Result<QoS, StoreError> {
    QoS::from_bits(flags & QOS_BITS).ok_or(StoreError::Corrupt)
}

/// A blob of a message or an entry, behind its leading byte.
struct Stored<'a> {
    blob: Reader<'a>,
    /// Where the names stand, if not in the blob.
    names: Option<&'a [&'a str]>,
    /// The message came before the clock was set.
    undated: bool,
}

impl<'a> Stored<'a> {
    fn open(blob: &'a [u8]) -> Result<Self, StoreError> {
        Self::open_beside(blob, None)
    }

    /// The names stand in the blob where none are beside it.
    fn open_beside(blob: &'a [u8], names: Option<&'a [&'a str]>) -> Result<Self, StoreError> {
        let (encoding, rest) = blob.split_first().ok_or(StoreError::Corrupt)?;
        let (names, undated) = match (*encoding, names) {
            (ENCODING, _) => (None, false),
            (ENCODING_UNDATED, _) => (None, true),
            (ENCODING_NAMED, Some(names)) => (Some(names), false),
            (ENCODING_NAMED_UNDATED, Some(names)) => (Some(names), true),
            _ => return Err(StoreError::Corrupt),
        };
        Ok(Self { blob: Reader::bare(rest), names, undated })
    }

    /// A topic or a client identifier.
    fn name(&mut self) -> Result<&'a str, StoreError> {
        let Some(names) = self.names else { return self.blob.text() };
        let place: usize = self.blob.integer()?;
        names.get(place).copied().ok_or(StoreError::Corrupt)
    }

    /// A count from a disk reserves nothing: the bytes that are there bound the loop.
    fn identifiers(&mut self) -> Result<Box<[u32]>, StoreError> {
        let count = self.blob.varint()?;
        (0..count).map(|_| self.blob.integer()).collect()
    }

    fn message(&mut self, topic: Option<&str>, anchor: Anchor, run: Run) -> Result<Message, StoreError> {
        let flags = self.blob.byte()?;
        let origin = match flags >> ORIGIN_SHIFT & ORIGIN_BITS {
            0 => Origin::Client(self.name()?.into()),
            1 => Origin::Bridge(self.blob.integer()?),
            2 => Origin::Device(self.blob.integer()?),
            _ => Origin::Gateway,
        };
        let (arrived, later) = self.arrived(anchor, run)?;
        let expiry_interval =
            if flags & MESSAGE_EXPIRY == 0 { None } else { Some(Duration::from_millis(self.blob.varint()?)) };
        let stored_topic = self.name()?;
        let topic = TopicName::new(topic.unwrap_or(stored_topic)).map_err(|_| StoreError::Corrupt)?;
        let properties = if flags & MESSAGE_PROPERTIES == 0 {
            None
        } else {
            Some(Box::new(read_properties(&mut self.blob)?))
        };
        let payload = self.blob.rest();
        // Only a reading holds the time that its message came with.
        let is_reading = matches!(origin, Origin::Device(_));
        let corrected = later.filter(|_| is_reading).and_then(|later| correct_time(&payload, later));
        Ok(Message {
            topic,
            payload: corrected.map_or(payload, Bytes::from),
            qos: qos(flags)?,
            retain: flags & RETAIN != 0,
            properties,
            expiry_interval,
            origin,
            arrived,
        })
    }

    /// When the message came, and how many milliseconds later than its wall clock said.
    fn arrived(&mut self, anchor: Anchor, run: Run) -> Result<(Now, Option<i64>), StoreError> {
        let wall = Timestamp::from_millis(unzigzag(self.blob.varint()?));
        if !self.undated {
            let drift = unzigzag(self.blob.varint()?);
            return Ok((anchor.arrived(wall, drift, run), None));
        }
        let boot = self.blob.array()?;
        let instant = Instant::from_millis(unzigzag(self.blob.varint()?));
        let boot = Boot(u64::from_le_bytes(boot));
        Ok(anchor.undated(Undated { boot, arrived: Now { instant, wall } }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::{
        Blobs, ENCODING_UNDATED, ENTRY_IDENTIFIERS, Names, ORIGIN_SHIFT, decode_entry, decode_retained,
        decode_will, encode_body, encode_entry, encode_entry_head, encode_retained, encode_will,
    };
    use crate::base::boot::Boot;
    use crate::base::time::{Doubt, Duration, Instant, Now, Timestamp};
    use crate::mqtt::message::{Message, MessageProperties, Origin};
    use crate::mqtt::packet::connect::Will;
    use crate::mqtt::qos::QoS;
    use crate::mqtt::topic::TopicName;
    use crate::store::age::{Anchor, Run};
    use crate::store::blob::ENCODING;
    use crate::store::error::StoreError;
    use crate::store::record::{Entry, Seq};

    const NOW: Now = Now {
        instant: Instant::from_nanos(3_600_000_000_000),
        wall: Timestamp::from_millis(1_795_255_200_123),
    };

    const ANCHOR: Anchor = Anchor::new(NOW, Boot(7));

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
        let doubt = if rng.bool() { Doubt::None } else { Doubt::Unset };
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
                arrived: Now {
                    instant,
                    wall: Timestamp::from_millis(NOW.wall.as_millis() + step).with_doubt(doubt),
                },
            }),
        }
    }

    #[test]
    fn random_entries_survive_beside_their_names_and_shared() {
        let mut rng = fastrand::Rng::with_seed(1);
        for round in 0..2000 {
            let entry = random_entry(&mut rng);
            let (mut own, mut names) = (Vec::new(), Names::default());
            encode_entry(&mut own, &entry, &mut names, ANCHOR);
            let names: Vec<&str> = names.iter().collect();
            let blobs = Blobs { data: &own, body: None, names: &names };
            let decoded = decode_entry(entry.seq, blobs, ANCHOR, Run::This);
            assert_eq!(decoded.as_ref(), Ok(&entry), "round {round}");
            let (mut head, mut body) = (Vec::new(), Vec::new());
            encode_entry_head(&mut head, &entry);
            encode_body(&mut body, &entry.message, ANCHOR);
            let blobs = Blobs { data: &head, body: Some(&body), names: &[] };
            let decoded = decode_entry(entry.seq, blobs, ANCHOR, Run::This);
            assert_eq!(decoded.as_ref(), Ok(&entry), "round {round}");
        }
    }

    #[test]
    fn wills_and_retained_messages_survive() {
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
            encode_retained(&mut blob, &message, ANCHOR);
            let decoded = decode_retained(message.topic.as_str(), &blob, ANCHOR).unwrap();
            assert_eq!(decoded.arrived.wall, message.arrived.wall);
            assert_eq!(Message { arrived: message.arrived, ..decoded }, *message);
        }
    }

    #[test]
    fn hostile_bytes_are_corrupt_and_never_panic() {
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..5000 {
            let mut blob = Vec::new();
            let mut names = Names::default();
            encode_entry(&mut blob, &random_entry(&mut rng), &mut names, ANCHOR);
            let names: Vec<&str> = names.iter().collect();
            for _ in 0..rng.usize(1..6) {
                let at = rng.usize(0..blob.len());
                blob[at] = rng.u8(..);
            }
            blob.truncate(rng.usize(0..=blob.len()));
            let run = if rng.bool() { Run::This } else { Run::Earlier };
            for body in [None, Some(&*blob)] {
                let _ = decode_entry(Seq(1), Blobs { data: &blob, body, names: &names }, ANCHOR, run);
            }
            let _ = decode_will(&blob);
            let _ = decode_retained("a", &blob, ANCHOR);
        }
        let corrupt: [&[u8]; 6] = [
            &[],
            &[5, 0, 0, 0],
            &[ENCODING_UNDATED, 1, 3 << ORIGIN_SHIFT, 0, 1, 2, 3, 4, 5, 6, 7],
            &[ENCODING, 1 | ENTRY_IDENTIFIERS, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 5],
            &[ENCODING, 1, 3 << ORIGIN_SHIFT, 0, 0, 0xff, 0xff, 0x03],
            &[ENCODING, 1, 3 << ORIGIN_SHIFT | 3, 0, 0, 1, b'a'],
        ];
        for blob in corrupt {
            let blobs = Blobs { data: blob, body: None, names: &[] };
            let decoded = decode_entry(Seq(1), blobs, ANCHOR, Run::This);
            assert_eq!(decoded, Err(StoreError::Corrupt), "{blob:?}");
        }
    }
}
