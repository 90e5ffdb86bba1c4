//! Entries of spools into their stretches and out again, within a transaction. Never decides what to keep.
//!
//! What is dropped is marked beside its stretch, which is read and removed: entries leave from the front of a spool, and a
//! stretch goes with its last one. Only one that is thinned out is written again, so that what a bound cost leaves the disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::mqtt::message::Message;
use crate::store::apply::Batch;
use crate::store::codec;
use crate::store::error::StoreError;
use crate::store::pages::{seq_column, seq_of_column};
use crate::store::record::{Entry, Seq, SpoolId};
use crate::store::schema::TOTALS_SEQ;
use crate::store::stretch::{Gone, Item, Place, Stretch, decode_head};

/// Bytes between entries that stay which are worth writing a stretch anew, and the part of it that they must be.
const HOLLOW_BYTES_MIN: usize = 1024;
const HOLLOW_PARTS: usize = 3;

/// A row as far as dropping needs it.
struct Found {
    last: Seq,
    /// None where the head is damaged: nobody has got an entry of it.
    places: Vec<Place>,
    gone: Gone,
}

impl Found {
    /// Whether what is gone between those that stay is a good part of it. Entries that leave in order make no holes.
    fn hollow(&self) -> bool {
        let first = (0..self.places.len()).find(|at| !self.gone.contains(*at)).unwrap_or(0);
        let bytes = |place: &Place| place.length;
        let holes: usize = self
            .places
            .iter()
            .enumerate()
            .skip(first)
            .filter(|(at, _)| self.gone.contains(*at))
            .map(|(_, place)| bytes(place))
            .sum();
        let all: usize = self.places.iter().map(bytes).sum();
        holes >= HOLLOW_BYTES_MIN && holes.saturating_mul(HOLLOW_PARTS) >= all
    }
}

impl Batch<'_> {
    /// Numbers in their order. Of an entry that is not there, nothing is touched: a batch that puts and drops it
    /// never wrote it.
    pub(super) fn drop_entries(&mut self, spool: SpoolId, entries: &[(Seq, u16)]) -> Result<(), StoreError> {
        let mut rest = entries;
        // Ends: each round takes at least the first.
        while let Some((first, _)) = rest.first()
            && let Some(found) = self.find_stretch(spool, *first)?
        {
            let (here, behind) = rest.split_at(rest.partition_point(|(seq, _)| *seq <= found.last));
            self.drop_here(spool, found, here)?;
            rest = behind;
        }
        Ok(())
    }

    /// Entries of one spool by their numbers; one that is there already is replaced.
    pub(super) fn put_entries(
        &mut self,
        spool: SpoolId,
        entries: BTreeMap<Seq, &Entry>,
    ) -> Result<(), StoreError> {
        let mut stretch = Stretch::default();
        for (seq, entry) in entries {
            let size = entry.message.size_bytes();
            if !stretch.takes(seq, size) {
                self.put_stretch(spool, &std::mem::take(&mut stretch))?;
            }
            let body = self.hold_body(&entry.message)?;
            let mut data = Vec::with_capacity(size);
            match body {
                Some(_) => codec::encode_entry_head(&mut data, entry),
                None => codec::encode_entry(&mut data, entry, &mut stretch.names, self.anchor),
            }
            stretch.items.push(Item { seq, size: size as u64, body, data });
        }
        self.put_stretch(spool, &stretch)
    }

    fn put_stretch(&mut self, spool: SpoolId, stretch: &Stretch) -> Result<(), StoreError> {
        let Some((first, last)) = stretch.ends() else { return Ok(()) };
        self.make_way(spool, first, last)?;
        self.insert_stretch(spool, stretch)?;
        let totals = self.totals(spool)?;
        for item in &stretch.items {
            totals.count_in(item.seq, codec::decode_rule(&item.data)?, item.size);
        }
        self.applied.rows += stretch.items.len() as u64;
        Ok(())
    }

    fn insert_stretch(&mut self, spool: SpoolId, stretch: &Stretch) -> Result<(), StoreError> {
        let Some((_, last)) = stretch.ends() else { return Ok(()) };
        let (head, data) = stretch.encode();
        let sql = "INSERT OR REPLACE INTO stretch (spool, last, head, data) VALUES (?1, ?2, ?3, ?4)";
        self.connection.prepare_cached(sql)?.execute((spool.0, seq_column(last), &head, &data))?;
        self.applied.bytes += (head.len() + data.len()) as u64;
        Ok(())
    }

    /// Removes what stands under these numbers: a batch that is tried again may be on disk already. What stands
    /// beside them in the same stretch stays, each entry in a stretch of its own.
    fn make_way(&mut self, spool: SpoolId, first: Seq, last: Seq) -> Result<(), StoreError> {
        let mut from = first;
        while let Some(found) = self.find_stretch(spool, from)?
            && found.places.first().is_some_and(|place| place.seq <= last)
        {
            let held = self.take_stretch(spool, &found)?;
            for item in held.items {
                if item.seq >= first && item.seq <= last {
                    let rule = codec::decode_rule(&item.data).unwrap_or_default();
                    self.count_out(spool, (item.size, item.body), rule)?;
                } else {
                    let alone = Stretch { names: held.names.clone(), items: vec![item] };
                    self.insert_stretch(spool, &alone)?;
                }
            }
            from = Seq(found.last.0 + 1);
        }
        Ok(())
    }

    /// The first stretch that ends with this number or behind it.
    fn find_stretch(&self, spool: SpoolId, seq: Seq) -> Result<Option<Found>, StoreError> {
        let mut find = self.connection.prepare_cached(
            "SELECT stretch.last, stretch.head, gone.bits FROM stretch LEFT JOIN gone USING (spool, last)
             WHERE stretch.spool = ?1 AND stretch.last >= ?2 AND stretch.last < ?3
             ORDER BY stretch.last LIMIT 1",
        )?;
        let mut rows = find.query((spool.0, seq_column(seq), TOTALS_SEQ))?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let head = row.get_ref(1)?.as_blob().map_err(|_| StoreError::Corrupt)?;
        let bits = row.get_ref(2)?.as_blob_or_null().map_err(|_| StoreError::Corrupt)?;
        Ok(Some(Found {
            last: seq_of_column(row.get(0)?)?,
            places: decode_head(head).map(|(places, _)| places).unwrap_or_default(),
            gone: Gone::from_column(bits),
        }))
    }

    fn drop_here(
        &mut self,
        spool: SpoolId,
        mut found: Found,
        entries: &[(Seq, u16)],
    ) -> Result<(), StoreError> {
        let mut dropped = false;
        for (seq, rule) in entries {
            let Ok(at) = found.places.binary_search_by_key(seq, |place| place.seq) else { continue };
            if found.gone.contains(at) {
                continue;
            }
            found.gone.insert(at);
            self.count_out(spool, (found.places[at].size, found.places[at].body), *rule)?;
            dropped = true;
        }
        if !dropped {
            return Ok(());
        }
        if (0..found.places.len()).all(|at| found.gone.contains(at)) {
            return self.remove_stretch(spool, found.last);
        }
        if found.hollow() {
            return self.hollow_out(spool, &found);
        }
        self.mark_gone(spool, &found)
    }

    fn mark_gone(&self, spool: SpoolId, found: &Found) -> Result<(), StoreError> {
        let mut mark = self
            .connection
            .prepare_cached("INSERT OR REPLACE INTO gone (spool, last, bits) VALUES (?1, ?2, ?3)")?;
        mark.execute((spool.0, seq_column(found.last), found.gone.bits()))?;
        Ok(())
    }

    /// Writes a stretch anew without the bytes of what is gone, which keeps its place.
    fn hollow_out(&mut self, spool: SpoolId, found: &Found) -> Result<(), StoreError> {
        let sql = "SELECT head, data FROM stretch WHERE spool = ?1 AND last = ?2";
        let mut read = self.connection.prepare_cached(sql)?;
        let (head, data): (Vec<u8>, Vec<u8>) =
            read.query_row((spool.0, seq_column(found.last)), |row| Ok((row.get(0)?, row.get(1)?)))?;
        drop(read);
        // Of one that nobody can read, nothing is given back.
        if let Ok(hollowed) = Stretch::hollow(&head, &data, &found.gone) {
            self.insert_stretch(spool, &hollowed)?;
        }
        self.mark_gone(spool, found)
    }

    /// Removes a stretch and returns what of it was not gone.
    fn take_stretch(&mut self, spool: SpoolId, found: &Found) -> Result<Stretch, StoreError> {
        let sql = "SELECT head, data FROM stretch WHERE spool = ?1 AND last = ?2";
        let stored = self
            .connection
            .prepare_cached(sql)?
            .query_row((spool.0, seq_column(found.last)), |row| Ok((row.get(0)?, row.get(1)?)));
        let (head, data): (Vec<u8>, Vec<u8>) = stored?;
        self.remove_stretch(spool, found.last)?;
        Stretch::decode(&head, &data, &found.gone)
    }

    fn remove_stretch(&mut self, spool: SpoolId, last: Seq) -> Result<(), StoreError> {
        for sql in [
            "DELETE FROM stretch WHERE spool = ?1 AND last = ?2",
            "DELETE FROM gone WHERE spool = ?1 AND last = ?2",
        ] {
            self.connection.prepare_cached(sql)?.execute((spool.0, seq_column(last)))?;
        }
        Ok(())
    }

    fn count_out(
        &mut self,
        spool: SpoolId,
        (size, body): (u64, Option<i64>),
        rule: u16,
    ) -> Result<(), StoreError> {
        if let Some(body) = body {
            self.release_body(body)?;
        }
        self.applied.rows += 1;
        self.totals(spool)?.count_out(rule, size);
        Ok(())
    }

    /// Lets go of every message that entries of a spool share.
    pub(super) fn release_bodies(&mut self, spool: SpoolId) -> Result<(), StoreError> {
        let mut from = Seq(0);
        while let Some(found) = self.find_stretch(spool, from)? {
            for (at, place) in found.places.iter().enumerate() {
                if let Some(body) = place.body.filter(|_| !found.gone.contains(at)) {
                    self.release_body(body)?;
                }
            }
            from = Seq(found.last.0 + 1);
        }
        Ok(())
    }

    /// The row of a message that several entries share, held once more; None for one that stays inline.
    fn hold_body(&mut self, message: &Arc<Message>) -> Result<Option<i64>, StoreError> {
        let Some(stored) = self.shared.get_mut(&Arc::as_ptr(message)) else { return Ok(None) };
        if let Some(body) = *stored {
            let mut hold =
                self.connection.prepare_cached("UPDATE body SET holds = holds + 1 WHERE id = ?1")?;
            if hold.execute((body,))? == 1 {
                return Ok(Some(body));
            }
        }
        self.blob.clear();
        codec::encode_body(&mut self.blob, message, self.anchor);
        let mut insert = self.connection.prepare_cached("INSERT INTO body (holds, data) VALUES (2, ?1)")?;
        let body = insert.insert((&self.blob,))?;
        *stored = Some(body);
        self.applied.rows += 1;
        self.applied.bytes += self.blob.len() as u64;
        Ok(Some(body))
    }

    fn release_body(&mut self, body: i64) -> Result<(), StoreError> {
        let mut remove = self.connection.prepare_cached("DELETE FROM body WHERE id = ?1 AND holds <= 2")?;
        if remove.execute((body,))? == 1 {
            // The number is free for another message from now on.
            self.shared
                .values_mut()
                .filter(|stored| **stored == Some(body))
                .for_each(|stored| *stored = None);
            return Ok(());
        }
        let mut release =
            self.connection.prepare_cached("UPDATE body SET holds = holds - 1 WHERE id = ?1")?;
        release.execute((body,))?;
        Ok(())
    }
}
