//! MQTT's data types on the wire (1.5): a reader over received bytes and a sink for written ones. Knows no
//! packet, trusts no length and never panics.

use bytes::BytesMut;

use crate::mqtt::error::{EncodeError, Malformed};

/// 1.5.5: what four bytes of seven bits hold.
pub const VARINT_MAX: u32 = 268_435_455;

const VARINT_BYTES_MAX: usize = 4;

/// Reads a variable byte integer at the start of `bytes`: its value and its length in bytes. None where
/// the bytes end within it.
pub fn varint(bytes: &[u8]) -> Result<Option<(u32, usize)>, Malformed> {
    let mut value = 0_u32;
    for (index, byte) in bytes.iter().take(VARINT_BYTES_MAX).enumerate() {
        value |= u32::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            // [MQTT-1.5.5-1]
            if *byte == 0 && index > 0 {
                return Err(Malformed::VarintNotMinimal);
            }
            return Ok(Some((value, index + 1)));
        }
    }
    if bytes.len() >= VARINT_BYTES_MAX { Err(Malformed::VarintTooLong) } else { Ok(None) }
}

/// What is left to read of a packet's body, or of its properties.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Nothing may follow a packet's last field.
    pub const fn end(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed::TrailingBytes) }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    pub fn bytes(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    pub fn varint(&mut self) -> Result<u32, Malformed> {
        let (value, length) = varint(self.rest)?.ok_or(Malformed::Truncated)?;
        self.bytes(length)?;
        Ok(value)
    }

    /// A variable byte integer that says how many bytes follow, and a reader over those.
    pub fn section(&mut self) -> Result<Reader<'a>, Malformed> {
        let length = usize::try_from(self.varint()?).map_err(|_| Malformed::Truncated)?;
        self.bytes(length).map(Reader::new)
    }

    /// 1.5.6: binary data with its length before it.
    pub fn binary(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u16()?;
        self.bytes(usize::from(length))
    }

    /// 1.5.4. A byte order mark stays in the string [MQTT-1.5.4-3] [MQTT-1.5.3-3 of 3.1.1].
    pub fn string(&mut self) -> Result<&'a str, Malformed> {
        // [MQTT-1.5.4-1] [MQTT-1.5.3-1 of 3.1.1]: surrogates are not UTF-8 either.
        let text = str::from_utf8(self.binary()?).map_err(|_| Malformed::NotUtf8)?;
        // [MQTT-1.5.4-2] [MQTT-1.5.3-2 of 3.1.1]
        if text.as_bytes().contains(&0) {
            return Err(Malformed::HoldsNul);
        }
        Ok(text)
    }
}

/// Where written bytes go. Packets are written twice through the same code: into a `Count`, which finds the
/// lengths and every reason not to write, then into a buffer; so a length cannot disagree with its bytes.
pub trait Sink {
    fn put(&mut self, bytes: &[u8]);

    /// Notes that the packet cannot be written. The first reason stands.
    fn refuse(&mut self, error: EncodeError);

    fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    /// [MQTT-1.5.5-1]: the fewest bytes.
    fn put_varint(&mut self, value: u32) {
        if value > VARINT_MAX {
            self.refuse(EncodeError::FieldTooLong);
        }
        let mut left = value;
        while let (byte @ 0x80.., rest) = (left, left >> 7) {
            self.put_u8((byte & 0x7f) as u8 | 0x80);
            left = rest;
        }
        self.put_u8((left & 0x7f) as u8);
    }

    /// A length in bytes as a variable byte integer.
    fn put_length(&mut self, length: usize) {
        match u32::try_from(length) {
            Ok(length) => self.put_varint(length),
            Err(_) => self.refuse(EncodeError::PacketTooLarge),
        }
    }

    fn put_binary(&mut self, bytes: &[u8]) {
        match u16::try_from(bytes.len()) {
            Ok(length) => self.put_u16(length),
            Err(_) => self.refuse(EncodeError::FieldTooLong),
        }
        self.put(bytes);
    }

    fn put_string(&mut self, text: &str) {
        self.put_binary(text.as_bytes());
    }
}

/// Counts what would be written.
#[derive(Debug, Default)]
pub struct Count {
    pub bytes: usize,
    pub refused: Option<EncodeError>,
}

impl Sink for Count {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes = self.bytes.saturating_add(bytes.len());
    }

    fn refuse(&mut self, error: EncodeError) {
        self.refused.get_or_insert(error);
    }
}

impl Sink for BytesMut {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    /// Refusals are found while counting, before anything is written.
    fn refuse(&mut self, _error: EncodeError) {}
}

#[cfg(test)]
mod tests {
    use super::{Count, Reader, Sink, VARINT_MAX, varint};
    use crate::mqtt::error::{EncodeError, Malformed};
    use bytes::BytesMut;

    #[test]
    fn variable_byte_integers_are_read_as_they_are_written() {
        for (value, length) in [
            (0, 1),
            (127, 1),
            (128, 2),
            (16_383, 2),
            (16_384, 3),
            (2_097_151, 3),
            (2_097_152, 4),
            (VARINT_MAX, 4),
        ] {
            let mut out = BytesMut::new();
            out.put_varint(value);
            assert_eq!(varint(&out), Ok(Some((value, length))), "{value}");
            for end in 0..length {
                assert_eq!(varint(&out[..end]), Ok(None), "{value} cut at {end}");
            }
        }
    }

    #[test]
    fn wrong_variable_byte_integers_are_refused() {
        let cases: [(&[u8], Malformed); 5] = [
            (&[0x80, 0x00], Malformed::VarintNotMinimal),
            (&[0xff, 0x80, 0x00], Malformed::VarintNotMinimal),
            (&[0x80, 0x80, 0x80, 0x00], Malformed::VarintNotMinimal),
            (&[0xff, 0xff, 0xff, 0xff], Malformed::VarintTooLong),
            (&[0xff, 0xff, 0xff, 0x80, 0x01], Malformed::VarintTooLong),
        ];
        for (bytes, error) in cases {
            assert_eq!(varint(bytes), Err(error), "{bytes:02x?}");
        }
    }

    #[test]
    fn strings_keep_a_byte_order_mark_and_refuse_what_is_not_text() {
        let cases: [(&[u8], Result<&str, Malformed>); 6] = [
            (b"\x00\x04\xef\xbb\xbfa", Ok("\u{feff}a")),
            (b"\x00\x00", Ok("")),
            (b"\x00\x01\x00", Err(Malformed::HoldsNul)),
            (b"\x00\x03\xed\xa0\x80", Err(Malformed::NotUtf8)),
            (b"\x00\x02a", Err(Malformed::Truncated)),
            (b"\x00", Err(Malformed::Truncated)),
        ];
        for (bytes, text) in cases {
            assert_eq!(Reader::new(bytes).string(), text, "{bytes:02x?}");
        }
    }

    #[test]
    fn a_field_that_its_length_cannot_say_is_refused() {
        let mut count = Count::default();
        count.put_binary(&vec![0; 65_535]);
        assert_eq!((count.bytes, count.refused), (65_537, None));
        count.put_binary(&vec![0; 65_536]);
        assert_eq!(count.refused, Some(EncodeError::FieldTooLong));
    }
}
