//! Packets as words: what a line of a case says of a packet, and what a packet that came would be written as. Knows
//! the fields of each packet; bytes are `encode`'s and `decode`'s, what a gateway should do is the case's.

use std::collections::BTreeMap;
use std::fmt;

/// How much of a value a message shows.
const SHOWN_BYTES_MAX: usize = 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    V3_1,
    V3_1_1,
    V5,
}

impl Version {
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "3.1" => Some(Self::V3_1),
            "3.1.1" => Some(Self::V3_1_1),
            "5.0" => Some(Self::V5),
            _ => None,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V3_1 => "3.1",
            Self::V3_1_1 => "3.1.1",
            Self::V5 => "5.0",
        })
    }
}

/// Each packet: its name, its number on the wire, the fields that may stand without a name, its flags, its other
/// fields.
struct Shape {
    name: &'static str,
    number: u8,
    /// The last one repeats where `repeats` says so.
    positions: &'static [&'static str],
    repeats: bool,
    switches: &'static [&'static str],
    fields: &'static [&'static str],
}

const fn shape(name: &'static str, number: u8, positions: &'static [&'static str]) -> Shape {
    Shape { name, number, positions, repeats: false, switches: &[], fields: &[] }
}

const SHAPES: [Shape; 15] = [
    Shape {
        switches: &["clean", "durable", "will.retain"],
        fields: &[
            "version",
            "name",
            "level",
            "connect-flags",
            "keep-alive",
            "will",
            "will.payload",
            "will.qos",
            "username",
            "password",
        ],
        ..shape("CONNECT", 1, &["client-id"])
    },
    Shape { switches: &["present"], ..shape("CONNACK", 2, &["code"]) },
    Shape {
        switches: &["dup", "retain"],
        fields: &["qos", "id"],
        ..shape("PUBLISH", 3, &["topic", "payload"])
    },
    shape("PUBACK", 4, &["id", "code"]),
    shape("PUBREC", 5, &["id", "code"]),
    shape("PUBREL", 6, &["id", "code"]),
    shape("PUBCOMP", 7, &["id", "code"]),
    Shape {
        repeats: true,
        switches: &["no-local", "retain-as-published"],
        fields: &["qos", "retain-handling", "options"],
        ..shape("SUBSCRIBE", 8, &["id", "filter"])
    },
    Shape { repeats: true, ..shape("SUBACK", 9, &["id", "code"]) },
    Shape { repeats: true, ..shape("UNSUBSCRIBE", 10, &["id", "filter"]) },
    Shape { repeats: true, ..shape("UNSUBACK", 11, &["id", "code"]) },
    shape("PINGREQ", 12, &[]),
    shape("PINGRESP", 13, &[]),
    shape("DISCONNECT", 14, &["code"]),
    shape("AUTH", 15, &["code"]),
];

/// What a property holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Byte,
    Two,
    Four,
    Varint,
    Text,
    Binary,
    Pair,
}

pub struct Property {
    pub name: &'static str,
    pub id: u8,
    pub kind: Kind,
    /// The packets that may carry it, by number; 0 is a will.
    pub places: &'static [u8],
}

const fn property(name: &'static str, id: u8, kind: Kind, places: &'static [u8]) -> Property {
    Property { name, id, kind, places }
}

/// Table 2-4 of MQTT 5.
pub const PROPERTIES: [Property; 27] = [
    property("payload-format", 0x01, Kind::Byte, &[0, 3]),
    property("message-expiry", 0x02, Kind::Four, &[0, 3]),
    property("content-type", 0x03, Kind::Text, &[0, 3]),
    property("response-topic", 0x08, Kind::Text, &[0, 3]),
    property("correlation-data", 0x09, Kind::Binary, &[0, 3]),
    property("subscription-identifier", 0x0b, Kind::Varint, &[3, 8]),
    property("session-expiry", 0x11, Kind::Four, &[1, 2, 14]),
    property("assigned-client-id", 0x12, Kind::Text, &[2]),
    property("server-keep-alive", 0x13, Kind::Two, &[2]),
    property("authentication-method", 0x15, Kind::Text, &[1, 2, 15]),
    property("authentication-data", 0x16, Kind::Binary, &[1, 2, 15]),
    property("request-problem-information", 0x17, Kind::Byte, &[1]),
    property("delay", 0x18, Kind::Four, &[0]),
    property("request-response-information", 0x19, Kind::Byte, &[1]),
    property("response-information", 0x1a, Kind::Text, &[2]),
    property("server-reference", 0x1c, Kind::Text, &[2, 14]),
    property("reason-string", 0x1f, Kind::Text, &[2, 4, 5, 6, 7, 9, 11, 14, 15]),
    property("receive-maximum", 0x21, Kind::Two, &[1, 2]),
    property("topic-alias-maximum", 0x22, Kind::Two, &[1, 2]),
    property("topic-alias", 0x23, Kind::Two, &[3]),
    property("maximum-qos", 0x24, Kind::Byte, &[2]),
    property("retain-available", 0x25, Kind::Byte, &[2]),
    property("user-property", 0x26, Kind::Pair, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14, 15]),
    property("maximum-packet-size", 0x27, Kind::Four, &[1, 2]),
    property("wildcard-subscription-available", 0x28, Kind::Byte, &[2]),
    property("subscription-identifiers-available", 0x29, Kind::Byte, &[2]),
    property("shared-subscription-available", 0x2a, Kind::Byte, &[2]),
];

/// What every CONNACK of 5.0 announces: a case names them where it is about them.
const ANNOUNCED: [&str; 3] = ["receive-maximum", "maximum-packet-size", "topic-alias-maximum"];

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Numbers are kept as decimal text, codes as `0x87`.
    Bytes(Vec<u8>),
    /// `$name`: what it stands for, or whatever comes first.
    Named(String),
    /// `*`: whatever comes.
    Any,
}

#[derive(Debug, Clone)]
pub struct Words {
    pub number: u8,
    /// In the order of the line, or of the packet.
    pub fields: Vec<(String, Value)>,
    /// The line ends in `..`: fields that it does not name may be there.
    pub open: bool,
}

impl Words {
    pub fn new(number: u8) -> Self {
        Self { number, fields: Vec::new(), open: false }
    }

    pub fn push(&mut self, field: &str, value: impl Into<Vec<u8>>) {
        self.fields.push((field.to_owned(), Value::Bytes(value.into())));
    }

    pub fn name(&self) -> &'static str {
        shape_of(self.number).map_or("?", |shape| shape.name)
    }

    pub fn has(&self, field: &str) -> bool {
        self.fields.iter().any(|(name, _)| name == field)
    }

    /// The first value of a field, with names replaced by what they stand for.
    pub fn get(&self, field: &str) -> Option<&[u8]> {
        self.fields.iter().find_map(|(name, value)| match value {
            Value::Bytes(bytes) if name == field => Some(bytes.as_slice()),
            _ => None,
        })
    }

    /// `PUBLISH a/b hello qos=1 id=7`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut tokens = tokens(text)?.into_iter();
        let Some(Token { key: None, value: Value::Bytes(name), quoted: false }) = tokens.next() else {
            return Err("a packet's name is missing".into());
        };
        let name = String::from_utf8_lossy(&name).into_owned();
        let shape = SHAPES.iter().find(|shape| shape.name == name).ok_or(format!("no packet is a {name}"))?;
        let mut words = Self::new(shape.number);
        let mut position = 0;
        for token in tokens {
            words.take(shape, token, &mut position)?;
        }
        Ok(words)
    }

    fn take(&mut self, shape: &Shape, token: Token, position: &mut usize) -> Result<(), String> {
        let Token { key, value, quoted } = token;
        if let Some(key) = key {
            let known = shape.fields.contains(&key.as_str())
                || shape.positions.contains(&key.as_str())
                || key == "flags"
                || is_property(&key);
            if !known {
                return Err(format!("{} has no field {key}", shape.name));
            }
            self.fields.push((key.clone(), normal(shape, &key, value)?));
            return Ok(());
        }
        if let (Value::Bytes(word), false) = (&value, quoted) {
            if word == b".." {
                self.open = true;
                return Ok(());
            }
            let word = String::from_utf8_lossy(word);
            if shape.switches.contains(&&*word) {
                self.push(&word, *b"1");
                return Ok(());
            }
        }
        let last = shape.positions.len().checked_sub(1);
        let at = if shape.repeats { last.map(|last| last.min(*position)) } else { Some(*position) };
        let field = at.and_then(|at| shape.positions.get(at));
        let field = field.ok_or(format!("{}: a word too many", shape.name))?;
        *position += 1;
        self.fields.push(((*field).to_owned(), normal(shape, field, value)?));
        Ok(())
    }

    /// Replaces names by what they stand for. All have to be known.
    pub fn resolve(&self, names: &BTreeMap<String, Vec<u8>>) -> Result<Self, String> {
        let mut words = self.clone();
        for (_, value) in &mut words.fields {
            match value {
                Value::Bytes(_) => {}
                Value::Named(name) => {
                    let known = names.get(name).ok_or(format!("${name} stands for nothing yet"))?;
                    *value = Value::Bytes(known.clone());
                }
                Value::Any => return Err("`*` cannot be sent".into()),
            }
        }
        Ok(words)
    }

    /// Whether `got` is what was wanted. Names that stand for nothing stand for what came from now on.
    pub fn matches(&self, got: &Words, names: &mut BTreeMap<String, Vec<u8>>) -> bool {
        if self.number != got.number {
            return false;
        }
        let mut wanted = self.plain_fields();
        let mut came = got.plain_fields();
        let implied = |name: &str| self.number == 2 && ANNOUNCED.contains(&name);
        came.retain(|(name, _)| {
            let is_named = wanted.iter().any(|(wanted, _)| wanted == name);
            is_named || !(self.open || implied(name))
        });
        // Repeated fields keep their order, others have none.
        wanted.sort_by(|a, b| a.0.cmp(&b.0));
        came.sort_by(|a, b| a.0.cmp(&b.0));
        let mut learnt = names.clone();
        let same = wanted.len() == came.len()
            && wanted.iter().zip(&came).all(|((name, value), (other, came))| {
                let Value::Bytes(came) = came else { return false };
                name == other
                    && match value {
                        Value::Any => true,
                        Value::Bytes(bytes) => bytes == came,
                        Value::Named(name) => {
                            learnt.entry(name.clone()).or_insert_with(|| came.clone()) == came
                        }
                    }
            });
        if same {
            *names = learnt;
        }
        same
    }

    /// Without what says no more than its absence.
    fn plain_fields(&self) -> Vec<(String, Value)> {
        let default = |name: &str, value: &Value| match (name, self.number) {
            ("qos", 3) => *value == Value::Bytes(b"0".to_vec()),
            ("code", 4..=7 | 14 | 15) => *value == Value::Bytes(b"0x00".to_vec()),
            _ => false,
        };
        self.fields.iter().filter(|(name, value)| !default(name, value)).cloned().collect()
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        let shape = shape_of(self.number);
        for (name, value) in &self.fields {
            let positional = shape.is_some_and(|shape| shape.positions.contains(&name.as_str()));
            let switch = shape.is_some_and(|shape| shape.switches.contains(&name.as_str()));
            match value {
                _ if switch => write!(f, " {name}")?,
                value if positional => write!(f, " {}", show(value))?,
                value => write!(f, " {name}={}", show(value))?,
            }
        }
        if self.open { f.write_str(" ..") } else { Ok(()) }
    }
}

fn shape_of(number: u8) -> Option<&'static Shape> {
    SHAPES.iter().find(|shape| shape.number == number)
}

pub fn property_named(name: &str) -> Option<&'static Property> {
    PROPERTIES.iter().find(|property| property.name == name)
}

/// `will.` before a property says that it is the will's.
fn is_property(key: &str) -> bool {
    property_named(key.strip_prefix("will.").unwrap_or(key)).is_some()
}

/// Numbers in one form, so that they can be compared.
fn normal(shape: &Shape, field: &str, value: Value) -> Result<Value, String> {
    let Value::Bytes(bytes) = &value else { return Ok(value) };
    let property = property_named(field.strip_prefix("will.").unwrap_or(field));
    let is_property_number =
        property.is_some_and(|p| matches!(p.kind, Kind::Byte | Kind::Two | Kind::Four | Kind::Varint));
    let is_number = is_property_number
        || matches!(
            field,
            "id" | "qos"
                | "will.qos"
                | "keep-alive"
                | "level"
                | "connect-flags"
                | "options"
                | "retain-handling"
                | "flags"
        );
    if field != "code" && !is_number {
        return Ok(value);
    }
    let text = String::from_utf8_lossy(bytes);
    let number = number(&text).ok_or(format!("{}: {field} {text} is no number", shape.name))?;
    Ok(Value::Bytes(if field == "code" { code_text(number) } else { number.to_string().into_bytes() }))
}

pub fn code_text(code: u32) -> Vec<u8> {
    format!("{code:#04x}").into_bytes()
}

pub fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::Any => "*".into(),
        Value::Named(name) => format!("${name}"),
        Value::Bytes(bytes) => show_bytes(bytes),
    }
}

fn show_bytes(bytes: &[u8]) -> String {
    let head = &bytes[..bytes.len().min(SHOWN_BYTES_MAX)];
    let plain = |b: &u8| b.is_ascii_graphic() && !b"\"\\".contains(b);
    let text = if !head.is_empty() && head.iter().all(plain) {
        String::from_utf8_lossy(head).into_owned()
    } else {
        format!("\"{}\"", head.escape_ascii())
    };
    if head.len() == bytes.len() { text } else { format!("{text}… ({} bytes)", bytes.len()) }
}

/// A word of a line.
pub struct Token {
    pub key: Option<String>,
    pub value: Value,
    pub quoted: bool,
}

/// `word`, `"quoted \x00 \u{feff}"`, `"ab"*100`, `$name`, `*`; each may stand behind `key=`.
pub fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let key_bytes = rest.find(|c: char| !(c.is_ascii_lowercase() || c == '.' || c == '-')).unwrap_or(0);
        let mut key = None;
        if key_bytes > 0 && rest[key_bytes..].starts_with('=') {
            key = Some(rest[..key_bytes].to_owned());
            rest = &rest[key_bytes + 1..];
        }
        let (value, quoted, left) = value(rest)?;
        found.push(Token { key, value, quoted });
        rest = left.trim_start();
    }
    Ok(found)
}

fn value(text: &str) -> Result<(Value, bool, &str), String> {
    if let Some(body) = text.strip_prefix('"') {
        let (bytes, rest) = quoted(body)?;
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let times = match &rest[..end] {
            "" => 1,
            suffix => suffix
                .strip_prefix('*')
                .and_then(|times| times.parse().ok())
                .ok_or(format!("{suffix}: only *NUMBER may follow a quote"))?,
        };
        return Ok((Value::Bytes(bytes.repeat(times)), true, &rest[end..]));
    }
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    let value = match word.strip_prefix('$') {
        // `$SYS` and `$share` are topics.
        Some(name) if name.starts_with(|c: char| c.is_ascii_lowercase()) && !name.contains('/') => {
            Value::Named(name.to_owned())
        }
        _ if word == "*" => Value::Any,
        _ => Value::Bytes(word.as_bytes().to_vec()),
    };
    Ok((value, false, rest))
}

/// From behind the quote; what follows the closing one.
pub fn quoted(text: &str) -> Result<(Vec<u8>, &str), String> {
    let mut bytes = Vec::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((bytes, &text[at + 1..])),
            '\\' => match chars.next() {
                Some((_, c @ ('"' | '\\'))) => bytes.push(c as u8),
                Some((at, 'x')) => {
                    let hex = text.get(at + 1..at + 3).ok_or("a broken \\x")?;
                    bytes.push(u8::from_str_radix(hex, 16).map_err(|_| format!("\\x{hex} is no byte"))?);
                    chars.nth(1);
                }
                Some((at, 'u')) => {
                    let braces = text[at + 1..].strip_prefix('{').and_then(|rest| rest.split_once('}'));
                    let (hex, _) = braces.ok_or("a broken \\u{…}")?;
                    let code = u32::from_str_radix(hex, 16).ok().and_then(char::from_u32);
                    let c = code.ok_or(format!("\\u{{{hex}}} is no character"))?;
                    bytes.extend(c.to_string().into_bytes());
                    chars.nth(hex.len() + 1);
                }
                _ => return Err("a backslash before something else than \\ \" x u".into()),
            },
            c => bytes.extend(c.to_string().into_bytes()),
        }
    }
    Err("a quote is not closed".into())
}
