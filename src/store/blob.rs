//! What blobs are made of: variable-length integers, and bytes with their length before them. Bytes from a disk are hostile:
//! anything odd is `Corrupt`, never a panic. Never knows what they mean.

use bytes::Bytes;

use crate::store::error::StoreError;

/// The leading byte of a blob that stands for itself.
pub(super) const ENCODING: u8 = 1;

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
pub(super) fn zigzag(number: i64) -> u64 {
    (number.cast_unsigned() << 1) ^ (number >> 63).cast_unsigned()
}

pub(super) fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

/// What is left of a blob.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Of bytes without a leading encoding.
    pub(super) fn bare(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Of a blob that stands for itself.
    pub(super) fn open(blob: &'a [u8]) -> Result<Self, StoreError> {
        match blob.split_first() {
            Some((&ENCODING, rest)) => Ok(Self(rest)),
            _ => Err(StoreError::Corrupt),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn byte(&mut self) -> Result<u8, StoreError> {
        let (byte, rest) = self.0.split_first().ok_or(StoreError::Corrupt)?;
        self.0 = rest;
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

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], StoreError> {
        let length: usize = self.integer()?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(StoreError::Corrupt)?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, StoreError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| StoreError::Corrupt)
    }

    pub(super) fn rest(&mut self) -> Bytes {
        Bytes::copy_from_slice(std::mem::take(&mut self.0))
    }

    pub(super) fn expect_end(&self) -> Result<(), StoreError> {
        if self.0.is_empty() { Ok(()) } else { Err(StoreError::Corrupt) }
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        let (array, rest) = self.0.split_first_chunk().ok_or(StoreError::Corrupt)?;
        self.0 = rest;
        Ok(*array)
    }
}
