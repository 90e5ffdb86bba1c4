//! Bytes that the gateway sent to words. Strict: whatever a standard forbids a server to send is an error here, for
//! every packet of every case. Shares nothing with the gateway's codec.

use super::words::{Kind, PROPERTIES, Version, Words, code_text};

/// The first packet of `bytes` and its length. None while it is not whole.
pub fn decode(bytes: &[u8], version: Version) -> Result<Option<(Words, usize)>, String> {
    let Some(&first) = bytes.first() else { return Ok(None) };
    let Some((length, length_bytes)) = varint(&bytes[1..])? else { return Ok(None) };
    let end = 1 + length_bytes + length;
    let Some(body) = bytes.get(1 + length_bytes..end) else { return Ok(None) };
    let mut words = Words::new(first >> 4);
    let mut reader = Reader { rest: body, version };
    reader.packet(first & 15, &mut words).map_err(|why| format!("{why} in {}", show_hex(&bytes[..end])))?;
    if !reader.rest.is_empty() {
        return Err(format!("bytes behind the end of {words}: {}", show_hex(reader.rest)));
    }
    Ok(Some((words, end)))
}

pub fn show_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

fn varint(bytes: &[u8]) -> Result<Option<(usize, usize)>, String> {
    let mut value = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if at == 4 {
            return Err("a length of more than four bytes".into());
        }
        value |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return if at > 0 && *byte == 0 {
                Err("a length longer than needed".into())
            } else {
                Ok(Some((value, at + 1)))
            };
        }
    }
    Ok(None)
}

struct Reader<'a> {
    rest: &'a [u8],
    version: Version,
}

impl<'a> Reader<'a> {
    fn packet(&mut self, flags: u8, words: &mut Words) -> Result<(), String> {
        let wanted = if words.number == 6 { 2 } else { 0 };
        if words.number != 3 && flags != wanted {
            return Err(format!("reserved flags {flags:#x}"));
        }
        match words.number {
            2 => self.connack(words),
            3 => self.publish(flags, words),
            4..=7 => {
                self.packet_id(words)?;
                self.reason(words, ack_codes(words.number))
            }
            9 => {
                self.packet_id(words)?;
                self.properties(words)?;
                let codes: &[u8] = match self.version {
                    Version::V5 => &[0, 1, 2, 0x80, 0x83, 0x87, 0x8f, 0x91, 0x97, 0x9e, 0xa1, 0xa2],
                    Version::V3_1_1 => &[0, 1, 2, 0x80],
                    Version::V3_1 => &[0, 1, 2],
                };
                self.codes(words, codes)
            }
            11 => {
                self.packet_id(words)?;
                if self.version != Version::V5 {
                    return Ok(());
                }
                self.properties(words)?;
                self.codes(words, &[0, 0x11, 0x80, 0x83, 0x87, 0x8f, 0x91])
            }
            13 => Ok(()),
            14 if self.version == Version::V5 => self.reason(words, DISCONNECT_CODES),
            15 if self.version == Version::V5 => self.reason(words, &[0, 0x18]),
            number => Err(format!("packet type {number} is not a server's to send in {}", self.version)),
        }
    }

    fn connack(&mut self, words: &mut Words) -> Result<(), String> {
        let flags = self.byte()?;
        if flags > u8::from(self.version != Version::V3_1) {
            return Err("reserved flags of CONNACK".into());
        }
        let code = self.byte()?;
        let known = if self.version == Version::V5 { CONNACK_CODES.contains(&code) } else { code <= 5 };
        if !known {
            return Err(format!("code {code:#04x} is none of CONNACK's"));
        }
        words.push("code", code_text(code.into()));
        if flags == 1 {
            if code != 0 {
                return Err("session present with a refusal".into());
            }
            words.push("present", *b"1");
        }
        self.properties(words)
    }

    fn publish(&mut self, flags: u8, words: &mut Words) -> Result<(), String> {
        let qos = flags >> 1 & 3;
        if qos == 3 || (qos == 0 && flags & 8 != 0) {
            return Err(format!("flags {flags:#x} of PUBLISH"));
        }
        let topic = self.text()?;
        if topic.iter().any(|b| b"#+".contains(b)) {
            return Err("wildcards in a topic name".into());
        }
        words.push("topic", topic);
        if qos > 0 {
            self.packet_id(words)?;
        }
        self.properties(words)?;
        if topic.is_empty() && !words.has("topic-alias") {
            return Err("neither a topic nor an alias".into());
        }
        words.push("payload", std::mem::take(&mut self.rest));
        words.push("qos", qos.to_string());
        for (bit, name) in [(8, "dup"), (1, "retain")] {
            if flags & bit != 0 {
                words.push(name, *b"1");
            }
        }
        Ok(())
    }

    fn packet_id(&mut self, words: &mut Words) -> Result<(), String> {
        let id = self.number(2)?;
        if id == 0 {
            return Err("packet identifier 0".into());
        }
        words.push("id", id.to_string());
        Ok(())
    }

    /// A reason code and properties, both of which may be left out.
    fn reason(&mut self, words: &mut Words, codes: &[u8]) -> Result<(), String> {
        if self.version != Version::V5 || self.rest.is_empty() {
            return Ok(());
        }
        self.code(words, codes)?;
        if self.rest.is_empty() { Ok(()) } else { self.properties(words) }
    }

    fn codes(&mut self, words: &mut Words, codes: &[u8]) -> Result<(), String> {
        self.code(words, codes)?;
        while !self.rest.is_empty() {
            self.code(words, codes)?;
        }
        Ok(())
    }

    fn code(&mut self, words: &mut Words, codes: &[u8]) -> Result<(), String> {
        let code = self.byte()?;
        if !codes.contains(&code) {
            return Err(format!("code {code:#04x} is none of {}'s", words.name()));
        }
        words.push("code", code_text(code.into()));
        Ok(())
    }

    fn properties(&mut self, words: &mut Words) -> Result<(), String> {
        if self.version != Version::V5 {
            return Ok(());
        }
        let (length, length_bytes) = varint(self.rest)?.ok_or("no property length")?;
        self.take(length_bytes)?;
        let mut list = Reader { rest: self.take(length)?, version: self.version };
        while !list.rest.is_empty() {
            list.property(words)?;
        }
        Ok(())
    }

    fn property(&mut self, words: &mut Words) -> Result<(), String> {
        let id = self.byte()?;
        let property = PROPERTIES.iter().find(|p| p.id == id).ok_or(format!("no property is {id:#04x}"))?;
        if !property.places.contains(&words.number) || (words.number == 14 && id == 0x11) {
            return Err(format!("{} does not belong into a server's {}", property.name, words.name()));
        }
        let repeats = matches!(id, 0x26 | 0x0b);
        if words.has(property.name) && !repeats {
            return Err(format!("{} twice", property.name));
        }
        let value = match property.kind {
            Kind::Byte => self.number(1)?.to_string().into_bytes(),
            Kind::Two => self.number(2)?.to_string().into_bytes(),
            Kind::Four => self.number(4)?.to_string().into_bytes(),
            Kind::Varint => {
                let (value, bytes) = varint(self.rest)?.ok_or("a broken variable byte integer")?;
                self.take(bytes)?;
                value.to_string().into_bytes()
            }
            Kind::Text => self.text()?.to_vec(),
            Kind::Binary => self.binary()?.to_vec(),
            Kind::Pair => [self.text()?, b":", self.text()?].concat(),
        };
        words.push(property.name, value);
        Ok(())
    }

    fn text(&mut self) -> Result<&'a [u8], String> {
        let text = self.binary()?;
        match str::from_utf8(text) {
            Ok(text) if text.contains('\0') => Err("U+0000 in a string".into()),
            Ok(_) => Ok(text),
            Err(_) => Err("a string that is not UTF-8".into()),
        }
    }

    fn binary(&mut self) -> Result<&'a [u8], String> {
        let length = self.number(2)?;
        self.take(length as usize)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self, bytes: usize) -> Result<u32, String> {
        Ok(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or("the packet ends within a field")?;
        self.rest = rest;
        Ok(head)
    }
}

fn ack_codes(number: u8) -> &'static [u8] {
    match number {
        4 | 5 => &[0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99],
        _ => &[0, 0x92],
    }
}

const CONNACK_CODES: &[u8] = &[
    0, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8c, 0x90, 0x95, 0x97, 0x99, 0x9a,
    0x9b, 0x9c, 0x9d, 0x9f,
];

/// Those that table 3-13 gives to a server.
const DISCONNECT_CODES: &[u8] = &[
    0, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8b, 0x8c, 0x8d, 0x8e, 0x8f, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97,
    0x98, 0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f, 0xa0, 0xa1, 0xa2,
];
