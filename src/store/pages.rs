//! Reads entries of a spool in order, a page at a time. Never writes.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension};

use crate::store::age::{Anchor, Run};
use crate::store::codec::{Blobs, Totals, decode_entry, decode_rule, decode_rules, decode_totals};
use crate::store::error::StoreError;
use crate::store::record::{Entry, Load, RuleTotals, Seq, SpoolId};
use crate::store::schema::TOTALS_SEQ;
use crate::store::stretch::{Gone, Place, blobs, decode_head};

/// Entries in order, and whether rows that nobody can read were passed over.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) entries: Vec<Entry>,
    pub(super) unreadable: u64,
}

/// Where the entries that this run has written begin, a spool.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    pub(super) anchor: Anchor,
    /// The last sequence number that an earlier run gave.
    pub(super) earlier: Seq,
}

/// One damaged entry must not hold up those behind it: it is passed over and counted, as is a stretch that
/// nobody can read.
pub(super) fn load_page(connection: &Connection, load: Load, reading: Reading) -> Result<Page, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT stretch.head, stretch.data, gone.bits FROM stretch LEFT JOIN gone USING (spool, last)
         WHERE stretch.spool = ?1 AND stretch.last > ?2 AND stretch.last < ?3 ORDER BY stretch.last",
    )?;
    let mut rows = statement.query((load.spool.0, seq_column(load.after), TOTALS_SEQ))?;
    let mut filling = Filling { connection, load, reading, page: Page::default(), bytes: 0 };
    // Rows are read as they are asked for: the bounds count entries, not damaged rows.
    while !filling.is_full()
        && let Some(row) = rows.next()?
    {
        let blob = |column| row.get_ref(column)?.as_blob().map_err(|_| StoreError::Corrupt);
        let bits = row.get_ref(2)?.as_blob_or_null().map_err(|_| StoreError::Corrupt)?;
        if filling.take_stretch(blob(0)?, blob(1)?, &Gone::from_column(bits))? == Taken::UpToBound {
            break;
        }
    }
    Ok(filling.page)
}

/// How much of a stretch the page took.
#[derive(PartialEq, Eq)]
enum Taken {
    All,
    UpToBound,
}

struct Filling<'a> {
    connection: &'a Connection,
    load: Load,
    reading: Reading,
    page: Page,
    bytes: usize,
}

impl Filling<'_> {
    fn is_full(&self) -> bool {
        self.page.entries.len() >= self.load.messages_max
    }

    fn take_stretch(&mut self, head: &[u8], data: &[u8], gone: &Gone) -> Result<Taken, StoreError> {
        let Ok((places, names)) = decode_head(head) else {
            self.page.unreadable += 1;
            return Ok(Taken::All);
        };
        for (at, (place, data)) in blobs(&places, data).enumerate() {
            if place.seq <= self.load.after || gone.contains(at) {
                continue;
            }
            if self.is_full() {
                return Ok(Taken::UpToBound);
            }
            let body = match place.body.map(|body| self.load_body(body)).transpose()? {
                Some(None) => {
                    self.page.unreadable += 1;
                    continue;
                }
                found => found.flatten(),
            };
            match self.decode(&place, data, body.as_deref(), &names) {
                Ok(entry) => {
                    self.bytes = self.bytes.saturating_add(entry.message.size_bytes());
                    if self.bytes > self.load.bytes_max && !self.page.entries.is_empty() {
                        return Ok(Taken::UpToBound);
                    }
                    self.page.entries.push(entry);
                }
                Err(_) => self.page.unreadable += 1,
            }
        }
        Ok(Taken::All)
    }

    fn decode(
        &self,
        place: &Place,
        data: Result<&[u8], StoreError>,
        body: Option<&[u8]>,
        names: &[&str],
    ) -> Result<Entry, StoreError> {
        let run = if place.seq > self.reading.earlier { Run::This } else { Run::Earlier };
        decode_entry(place.seq, Blobs { data: data?, body, names }, self.reading.anchor, run)
    }

    /// A message that several entries share; None where it is missing.
    fn load_body(&self, body: i64) -> Result<Option<Vec<u8>>, StoreError> {
        let mut find = self.connection.prepare_cached("SELECT data FROM body WHERE id = ?1")?;
        Ok(find.query_row((body,), |row| row.get(0)).optional()?)
    }
}

type TotalsRow = (Totals, Option<Vec<RuleTotals>>);

/// What stands in a spool, and by rules where it was counted by them; None where nothing ever did.
pub(super) fn load_totals(connection: &Connection, spool: SpoolId) -> Result<Option<TotalsRow>, StoreError> {
    let mut statement =
        connection.prepare_cached("SELECT head, data FROM stretch WHERE spool = ?1 AND last = ?2")?;
    let mut rows = statement.query((spool.0, TOTALS_SEQ))?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let blob = |column| row.get_ref(column)?.as_blob().map_err(|_| StoreError::Corrupt);
    let totals = decode_totals(blob(0)?)?;
    // A next number must be left.
    if totals.last_seq.0 > seq_column(totals.last_seq).cast_unsigned() {
        return Err(StoreError::Corrupt);
    }
    Ok(Some((totals, decode_rules(blob(1)?, totals))))
}

/// Counts what stands in a spool by rules: one look at each entry.
pub(super) fn count_rules(connection: &Connection, spool: SpoolId) -> Result<Vec<RuleTotals>, StoreError> {
    let mut rules = BTreeMap::new();
    let mut statement = connection.prepare_cached(
        "SELECT stretch.head, stretch.data, gone.bits FROM stretch LEFT JOIN gone USING (spool, last)
         WHERE stretch.spool = ?1 AND stretch.last < ?2",
    )?;
    let mut rows = statement.query((spool.0, TOTALS_SEQ))?;
    while let Some(row) = rows.next()? {
        let blob = |column| row.get_ref(column)?.as_blob().map_err(|_| StoreError::Corrupt);
        let gone = Gone::from_column(row.get_ref(2)?.as_blob_or_null().map_err(|_| StoreError::Corrupt)?);
        let Ok((places, _)) = decode_head(blob(0)?) else { continue };
        for (at, (place, data)) in blobs(&places, blob(1)?).enumerate() {
            if gone.contains(at) {
                continue;
            }
            RuleTotals::count(&mut rules, data.and_then(decode_rule).unwrap_or_default(), place.size);
        }
    }
    Ok(rules.into_values().collect())
}

/// SQLite's integers are signed; a spool that gives a million numbers a second fills them in 292,000 years.
pub(super) fn seq_column(seq: Seq) -> i64 {
    i64::try_from(seq.0).unwrap_or(TOTALS_SEQ).min(TOTALS_SEQ - 1)
}

pub(super) fn seq_of_column(column: i64) -> Result<Seq, StoreError> {
    u64::try_from(column).map(Seq).map_err(|_| StoreError::Corrupt)
}
