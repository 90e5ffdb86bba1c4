//! Protobuf's own encoding: numbers, lengths and field keys. Reads hostile bytes; never knows what a field means.

use std::fmt;

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireError {
    Truncated,
    /// A number of more than 64 bits.
    NumberTooLong,
    /// Field 0, or a kind of field that is no longer used.
    BadKey,
    /// The field of this number is of another kind.
    WrongKind(u32),
    NotUtf8,
    /// More metrics than anybody sends.
    TooManyMetrics,
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("it ends within a field"),
            Self::NumberTooLong => f.write_str("a number has more than 64 bits"),
            Self::BadKey => f.write_str("a field's key is none"),
            Self::WrongKind(field) => write!(f, "field {field} is of another kind"),
            Self::NotUtf8 => f.write_str("a text is not UTF-8"),
            Self::TooManyMetrics => f.write_str("it has too many metrics"),
        }
    }
}

impl std::error::Error for WireError {}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field<'a> {
    Number(u64),
    Eight([u8; 8]),
    Bytes(&'a [u8]),
    Four([u8; 4]),
}

/// Fields with their numbers, in the order of the bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) const fn of(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// None: there are no more.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Field<'a>)>, WireError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.number()?;
        let number = u32::try_from(key >> 3).ok().filter(|number| *number > 0).ok_or(WireError::BadKey)?;
        let field = match key & 7 {
            0 => Field::Number(self.number()?),
            1 => Field::Eight(self.array()?),
            2 => {
                let length = usize::try_from(self.number()?).map_err(|_| WireError::Truncated)?;
                Field::Bytes(self.take(length)?)
            }
            5 => Field::Four(self.array()?),
            _ => return Err(WireError::BadKey),
        };
        Ok(Some((number, field)))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn number(&mut self) -> Result<u64, WireError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit.
            if shift == 63 && bits > 1 {
                return Err(WireError::NumberTooLong);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(WireError::NumberTooLong)
    }
}

impl<'a> Field<'a> {
    pub(super) fn number(self, field: u32) -> Result<u64, WireError> {
        if let Self::Number(value) = self { Ok(value) } else { Err(WireError::WrongKind(field)) }
    }

    pub(super) fn bytes(self, field: u32) -> Result<&'a [u8], WireError> {
        if let Self::Bytes(bytes) = self { Ok(bytes) } else { Err(WireError::WrongKind(field)) }
    }

    pub(super) fn text(self, field: u32) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.bytes(field)?).map_err(|_| WireError::NotUtf8)
    }
}

pub(super) fn put_number(out: &mut Vec<u8>, field: u32, value: u64) {
    put_varint(out, u64::from(field) << 3);
    put_varint(out, value);
}

pub(super) fn put_float(out: &mut Vec<u8>, field: u32, value: f32) {
    put_varint(out, u64::from(field) << 3 | 5);
    out.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn put_double(out: &mut Vec<u8>, field: u32, value: f64) {
    put_varint(out, u64::from(field) << 3 | 1);
    out.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn put_bytes(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    put_varint(out, u64::from(field) << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let bits = value.to_le_bytes()[0] & 0x7f;
        value >>= 7;
        if value == 0 {
            out.push(bits);
            return;
        }
        out.push(bits | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::{Field, Fields, WireError, put_number};

    #[test]
    fn numbers_of_all_lengths_read_back() {
        for value in (0..64).flat_map(|bit| [1u64 << bit, (1 << bit) - 1]).chain([u64::MAX]) {
            let mut out = Vec::new();
            put_number(&mut out, 536_870_911, value);
            let mut fields = Fields::of(&out);
            assert_eq!(fields.next(), Ok(Some((536_870_911, Field::Number(value)))));
            assert_eq!(fields.next(), Ok(None));
        }
    }

    #[test]
    fn what_is_no_field_is_refused() {
        let long = [&[0x08][..], &[0xff; 9], &[2]].concat();
        let endless = [&[0x08][..], &[0xff; 12]].concat();
        let cases: [(&[u8], WireError); 8] = [
            (&[0x08], WireError::Truncated),
            (&[0x08, 0x80], WireError::Truncated),
            (&[0x09, 1, 2, 3], WireError::Truncated),
            (&[0x12, 5, 1], WireError::Truncated),
            (&[0x00, 1], WireError::BadKey),
            (&[0x0b], WireError::BadKey),
            (&long, WireError::NumberTooLong),
            (&endless, WireError::NumberTooLong),
        ];
        for (bytes, error) in cases {
            assert_eq!(Fields::of(bytes).next(), Err(error), "{bytes:02x?}");
        }
    }
}
