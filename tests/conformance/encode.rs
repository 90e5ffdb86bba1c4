//! Words to bytes, as a client would write them, and as none should: fields that a standard forbids are written all the
//! same. Shares nothing with the gateway's codec.

use super::words::{Kind, Property, Value, Version, Words, number, property_named};

/// Where a case says nothing: longer than most let pass, shorter than what the gateway grants.
const KEEP_ALIVE_SECS: u16 = 60_000;

/// The bytes of a packet; its words have no names left.
pub fn encode(words: &Words, version: Version) -> Result<Vec<u8>, String> {
    let body = match words.number {
        1 => connect(words, version)?,
        2 => return Err("CONNACK is only the gateway's to send; use raw".into()),
        3 => publish(words, version)?,
        4..=7 => ack(words, version)?,
        8 => subscribe(words, version)?,
        10 => unsubscribe(words, version)?,
        14 | 15 => reason(words, version)?,
        _ => Vec::new(),
    };
    let flags = match (words.get("flags"), words.number) {
        (Some(_), _) => byte(words, "flags", 0)?,
        (None, 3) => {
            let dup = if words.has("dup") { 8 } else { 0 };
            dup | byte(words, "qos", 0)? << 1 | u8::from(words.has("retain"))
        }
        (None, 6 | 8 | 10) => 2,
        (None, _) => 0,
    };
    let mut packet = vec![words.number << 4 | (flags & 15)];
    put_varint(&mut packet, body.len())?;
    packet.extend(body);
    Ok(packet)
}

fn connect(words: &Words, version: Version) -> Result<Vec<u8>, String> {
    let (name, level) = match version {
        Version::V3_1 => ("MQIsdp", 3),
        Version::V3_1_1 => ("MQTT", 4),
        Version::V5 => ("MQTT", 5),
    };
    let mut out = Vec::new();
    put_text(&mut out, words.get("name").unwrap_or(name.as_bytes()))?;
    out.push(byte(words, "level", level)?);
    let bit = |on: bool, bit: u8| if on { bit } else { 0 };
    let flags = bit(words.has("username"), 0x80)
        | bit(words.has("password"), 0x40)
        | bit(words.has("will.retain"), 0x20)
        | byte(words, "will.qos", 0)? << 3
        | bit(words.has("will"), 0x04)
        | bit(words.has("clean"), 0x02);
    out.push(byte(words, "connect-flags", flags)?);
    out.extend(u16_of(words, "keep-alive", KEEP_ALIVE_SECS)?.to_be_bytes());
    if version == Version::V5 {
        let mut words = words.clone();
        if words.has("durable") && !words.has("session-expiry") {
            words.push("session-expiry", *b"3600");
        }
        put_properties(&mut out, &words, "")?;
    } else {
        refuse_properties(words)?;
    }
    put_text(&mut out, words.get("client-id").unwrap_or_default())?;
    if let Some(topic) = words.get("will") {
        if version == Version::V5 {
            put_properties(&mut out, words, "will.")?;
        }
        put_text(&mut out, topic)?;
        put_text(&mut out, words.get("will.payload").unwrap_or_default())?;
    }
    for field in ["username", "password"] {
        if let Some(text) = words.get(field) {
            put_text(&mut out, text)?;
        }
    }
    Ok(out)
}

fn publish(words: &Words, version: Version) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    put_text(&mut out, words.get("topic").ok_or("PUBLISH needs a topic, or \"\"")?)?;
    // Whatever the QoS, so that a case can leave it out or put it where it does not belong.
    if words.has("id") {
        out.extend(u16_of(words, "id", 0)?.to_be_bytes());
    }
    end_head(&mut out, words, version)?;
    out.extend(words.get("payload").unwrap_or_default());
    Ok(out)
}

fn ack(words: &Words, version: Version) -> Result<Vec<u8>, String> {
    let mut out = u16_of(words, "id", 0)?.to_be_bytes().to_vec();
    out.extend(reason(words, version)?);
    Ok(out)
}

/// A reason code and properties, as far as they are named.
fn reason(words: &Words, version: Version) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let has_properties = has_properties(words);
    if version != Version::V5 {
        refuse_properties(words)?;
        return if words.has("code") { Err(format!("{version} has no reason code here")) } else { Ok(out) };
    }
    if words.has("code") || has_properties {
        out.push(byte(words, "code", 0)?);
    }
    if has_properties {
        put_properties(&mut out, words, "")?;
    }
    Ok(out)
}

fn subscribe(words: &Words, version: Version) -> Result<Vec<u8>, String> {
    let mut out = u16_of(words, "id", 0)?.to_be_bytes().to_vec();
    end_head(&mut out, words, version)?;
    let mut filters: Vec<(&[u8], u8)> = Vec::new();
    for (field, value) in &words.fields {
        let Value::Bytes(bytes) = value else { continue };
        if field == "filter" {
            filters.push((bytes, 0));
            continue;
        }
        let value = number(&String::from_utf8_lossy(bytes)).and_then(|n| u8::try_from(n).ok()).unwrap_or(0);
        let bits = match field.as_str() {
            "qos" | "options" => value,
            "no-local" => 4,
            "retain-as-published" => 8,
            "retain-handling" => value << 4,
            _ => continue,
        };
        filters.last_mut().ok_or(format!("{field} stands before the filter that it is of"))?.1 |= bits;
    }
    for (filter, options) in filters {
        put_text(&mut out, filter)?;
        out.push(options);
    }
    Ok(out)
}

fn unsubscribe(words: &Words, version: Version) -> Result<Vec<u8>, String> {
    let mut out = u16_of(words, "id", 0)?.to_be_bytes().to_vec();
    end_head(&mut out, words, version)?;
    for (field, value) in &words.fields {
        if let (true, Value::Bytes(filter)) = (field == "filter", value) {
            put_text(&mut out, filter)?;
        }
    }
    Ok(out)
}

fn end_head(out: &mut Vec<u8>, words: &Words, version: Version) -> Result<(), String> {
    if version == Version::V5 { put_properties(out, words, "") } else { refuse_properties(words) }
}

fn has_properties(words: &Words) -> bool {
    words.fields.iter().any(|(field, _)| property_named(field).is_some())
}

fn refuse_properties(words: &Words) -> Result<(), String> {
    let is_property = |field: &str| property_named(field.strip_prefix("will.").unwrap_or(field)).is_some();
    match words.fields.iter().find(|(field, _)| is_property(field)) {
        Some((field, _)) => Err(format!("{field}: before 5.0 there are no properties")),
        None => Ok(()),
    }
}

/// Those whose field begins with `prefix`, in the order of the line.
fn put_properties(out: &mut Vec<u8>, words: &Words, prefix: &str) -> Result<(), String> {
    let mut list = Vec::new();
    for (field, value) in &words.fields {
        let property = field.strip_prefix(prefix).and_then(property_named);
        if let (Some(property), Value::Bytes(value)) = (property, value) {
            list.push(property.id);
            put_property(&mut list, property, value)?;
        }
    }
    put_varint(out, list.len())?;
    out.extend(list);
    Ok(())
}

fn put_property(out: &mut Vec<u8>, property: &Property, value: &[u8]) -> Result<(), String> {
    let text = String::from_utf8_lossy(value);
    let too_large = || format!("{} {text} is too large", property.name);
    let number = number(&text);
    match property.kind {
        Kind::Byte => out.push(number.and_then(|n| u8::try_from(n).ok()).ok_or_else(too_large)?),
        Kind::Two => {
            out.extend(number.and_then(|n| u16::try_from(n).ok()).ok_or_else(too_large)?.to_be_bytes());
        }
        Kind::Four => out.extend(number.ok_or_else(too_large)?.to_be_bytes()),
        Kind::Varint => put_varint(out, number.ok_or_else(too_large)? as usize)?,
        Kind::Text | Kind::Binary => put_text(out, value)?,
        Kind::Pair => {
            let colon = value.iter().position(|b| *b == b':').ok_or(format!("{text} is no NAME:VALUE"))?;
            put_text(out, &value[..colon])?;
            put_text(out, &value[colon + 1..])?;
        }
    }
    Ok(())
}

fn put_varint(out: &mut Vec<u8>, value: usize) -> Result<(), String> {
    if value > 268_435_455 {
        return Err(format!("{value} is more than four bytes of a variable byte integer hold"));
    }
    let mut left = value;
    loop {
        let low = u8::try_from(left % 128).unwrap_or(0);
        left /= 128;
        if left == 0 {
            out.push(low);
            return Ok(());
        }
        out.push(low | 0x80);
    }
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) -> Result<(), String> {
    let length = u16::try_from(text.len()).map_err(|_| format!("{} bytes do not fit a field", text.len()))?;
    out.extend(length.to_be_bytes());
    out.extend(text);
    Ok(())
}

fn byte(words: &Words, field: &str, default: u8) -> Result<u8, String> {
    let Some(text) = words.get(field) else { return Ok(default) };
    let number = number(&String::from_utf8_lossy(text)).and_then(|n| u8::try_from(n).ok());
    number.ok_or(format!("{field} is no byte"))
}

fn u16_of(words: &Words, field: &str, default: u16) -> Result<u16, String> {
    let Some(text) = words.get(field) else { return Ok(default) };
    let number = number(&String::from_utf8_lossy(text)).and_then(|n| u16::try_from(n).ok());
    number.ok_or(format!("{field} is above 65535"))
}
