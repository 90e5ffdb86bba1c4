//! How entries of one spool that follow each other and were written together stand in one row: a head that says
//! which there are, and their blobs one behind the other. Bytes from a disk are hostile: anything odd is `Corrupt`.
//! Never touches SQL.
//!
//! A row an entry costs more: a key and a header each, and the names that they share written again and again.

use crate::store::blob::{Reader, put_bytes, put_varint};
use crate::store::codec::Names;
use crate::store::error::StoreError;
use crate::store::record::Seq;

/// Entries of one stretch at most.
const MESSAGES_MAX: usize = 128;
/// Bytes of one stretch at most, where it holds more than one entry: reading one entry reads its stretch.
const BYTES_MAX: usize = 16 * 1024;

/// One entry of a stretch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) seq: Seq,
    /// What it counts in its spool.
    pub(super) size: u64,
    /// The row of the message that several entries share; None: the message stands in `data`.
    pub(super) body: Option<i64>,
    pub(super) data: Vec<u8>,
}

/// Entries whose numbers follow each other, with the names that their blobs refer to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) names: Names,
    pub(super) items: Vec<Item>,
}

/// What the head says of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) seq: Seq,
    pub(super) size: u64,
    pub(super) body: Option<i64>,
    /// Bytes of its blob.
    pub(super) length: usize,
}

/// Which of a stretch's entries have been dropped: one bit each, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Gone(Vec<u8>);

impl Gone {
    pub(super) fn from_column(bits: Option<&[u8]>) -> Self {
        Self(bits.unwrap_or_default().to_vec())
    }

    pub(super) fn bits(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn contains(&self, at: usize) -> bool {
        self.0.get(at / 8).is_some_and(|byte| byte & 1 << (at % 8) != 0)
    }

    pub(super) fn insert(&mut self, at: usize) {
        if self.0.len() <= at / 8 {
            self.0.resize(at / 8 + 1, 0);
        }
        self.0[at / 8] |= 1 << (at % 8);
    }
}

impl Stretch {
    /// Whether an entry with about so many bytes is to stand behind those that are here.
    pub(super) fn takes(&self, seq: Seq, bytes: usize) -> bool {
        let Some(last) = self.items.last() else { return true };
        let held: usize = self.items.iter().map(|item| item.data.len()).sum();
        last.seq.0 + 1 == seq.0 && self.items.len() < MESSAGES_MAX && held + bytes <= BYTES_MAX
    }

    /// The numbers of the first and of the last entry.
    pub(super) fn ends(&self) -> Option<(Seq, Seq)> {
        Some((self.items.first()?.seq, self.items.last()?.seq))
    }

    /// The head first, then the blobs.
    pub(super) fn encode(&self) -> (Vec<u8>, Vec<u8>) {
        let (mut head, mut data) = (Vec::new(), Vec::new());
        put_varint(&mut head, self.items.first().map_or(0, |item| item.seq.0));
        put_varint(&mut head, self.items.len() as u64);
        for item in &self.items {
            put_varint(&mut head, item.size << 1 | u64::from(item.body.is_some()));
            put_varint(&mut head, item.data.len() as u64);
            if let Some(body) = item.body {
                put_varint(&mut head, body.cast_unsigned());
            }
            data.extend_from_slice(&item.data);
        }
        for name in self.names.iter() {
            put_bytes(&mut head, name.as_bytes());
        }
        (head, data)
    }

    /// All of them, those that are gone as places without bytes.
    pub(super) fn hollow(head: &[u8], data: &[u8], gone: &Gone) -> Result<Self, StoreError> {
        let (places, names) = decode_head(head)?;
        let mut items = Vec::new();
        for (at, (place, blob)) in blobs(&places, data).enumerate() {
            let Place { seq, size, body, .. } = place;
            items.push(if gone.contains(at) {
                Item { seq, size: 0, body: None, data: Vec::new() }
            } else {
                Item { seq, size, body, data: blob?.to_vec() }
            });
        }
        Ok(Self { names: names.iter().copied().collect(), items })
    }

    /// Those that are not gone.
    pub(super) fn decode(head: &[u8], data: &[u8], gone: &Gone) -> Result<Self, StoreError> {
        let (places, names) = decode_head(head)?;
        let names = names.iter().copied().collect();
        let mut items = Vec::new();
        for (at, (place, blob)) in blobs(&places, data).enumerate() {
            if !gone.contains(at) {
                let Place { seq, size, body, .. } = place;
                items.push(Item { seq, size, body, data: blob?.to_vec() });
            }
        }
        Ok(Self { names, items })
    }
}

/// What a head says: its entries in order, and the names that their blobs refer to.
pub(super) fn decode_head(head: &[u8]) -> Result<(Vec<Place>, Vec<&str>), StoreError> {
    let mut reader = Reader::bare(head);
    let (first, count) = (reader.varint()?, reader.integer::<usize>()?);
    if count == 0 || count > MESSAGES_MAX || first.checked_add(count as u64).is_none() {
        return Err(StoreError::Corrupt);
    }
    let mut places = Vec::with_capacity(count);
    for seq in (first..).take(count) {
        let size_and_kind = reader.varint()?;
        let length = reader.integer()?;
        let body = if size_and_kind & 1 == 0 { None } else { Some(reader.varint()?.cast_signed()) };
        places.push(Place { seq: Seq(seq), size: size_and_kind >> 1, body, length });
    }
    let mut names = Vec::new();
    while !reader.is_empty() {
        names.push(reader.text()?);
    }
    Ok((places, names))
}

/// Each entry with its blob, as far as the bytes go.
pub(super) fn blobs<'a>(
    places: &'a [Place],
    data: &'a [u8],
) -> impl Iterator<Item = (Place, Result<&'a [u8], StoreError>)> {
    let mut rest = Some(data);
    places.iter().map(move |place| {
        let split = rest.and_then(|rest| rest.split_at_checked(place.length));
        rest = split.map(|(_, behind)| behind);
        (*place, split.map(|(blob, _)| blob).ok_or(StoreError::Corrupt))
    })
}

#[cfg(test)]
mod tests {
    use super::{BYTES_MAX, Gone, Item, MESSAGES_MAX, Stretch, decode_head};
    use crate::store::record::Seq;

    fn random_stretch(rng: &mut fastrand::Rng) -> Stretch {
        let mut stretch = Stretch::default();
        let mut seq = rng.u64(0..1 << 40);
        for _ in 0..rng.usize(1..=MESSAGES_MAX) {
            stretch.names.place(&format!("name/{}", rng.u8(0..5)));
            seq += 1;
            let data = (0..rng.usize(0..50)).map(|_| rng.u8(..)).collect();
            let body = rng.bool().then(|| rng.i64(1..1 << 40));
            stretch.items.push(Item { seq: Seq(seq), size: rng.u64(0..1 << 30), body, data });
        }
        stretch
    }

    #[test]
    fn random_stretches_survive_without_what_is_gone() {
        let mut rng = fastrand::Rng::with_seed(1);
        for round in 0..500 {
            let stretch = random_stretch(&mut rng);
            let (head, data) = stretch.encode();
            let mut gone = Gone::default();
            let mut left = stretch.clone();
            for at in (0..stretch.items.len()).rev() {
                if rng.bool() {
                    gone.insert(at);
                    left.items.remove(at);
                }
            }
            let gone = Gone::from_column(Some(gone.bits()));
            assert_eq!(Stretch::decode(&head, &data, &gone), Ok(left), "round {round}");
        }
    }

    #[test]
    fn hostile_bytes_are_corrupt_and_never_panic() {
        let mut rng = fastrand::Rng::with_seed(2);
        for _ in 0..5000 {
            let (mut head, mut data) = random_stretch(&mut rng).encode();
            for _ in 0..rng.usize(1..6) {
                let at = rng.usize(0..head.len());
                head[at] = rng.u8(..);
            }
            head.truncate(rng.usize(0..=head.len()));
            data.truncate(rng.usize(0..=data.len()));
            let bits: Vec<u8> = (0..rng.usize(0..40)).map(|_| rng.u8(..)).collect();
            let _ = Stretch::decode(&head, &data, &Gone::from_column(Some(&bits)));
        }
        assert!(decode_head(&[]).is_err());
        assert!(decode_head(&[7, 0]).is_err());
    }

    #[test]
    fn a_stretch_is_bounded_but_takes_one_entry_of_any_size() {
        let item = |seq, bytes| Item { seq: Seq(seq), size: 1, body: None, data: vec![0; bytes] };
        let mut stretch = Stretch::default();
        assert!(stretch.takes(Seq(7), BYTES_MAX + 1));
        stretch.items.push(item(7, BYTES_MAX + 1));
        assert!(!stretch.takes(Seq(8), 0));
        let mut stretch = Stretch::default();
        for seq in 1..=MESSAGES_MAX as u64 {
            assert!(stretch.takes(Seq(seq), 1));
            stretch.items.push(item(seq, 1));
            assert!(!stretch.takes(Seq(seq + 2), 1), "a gap");
        }
        assert!(!stretch.takes(Seq(MESSAGES_MAX as u64 + 1), 1));
    }
}
