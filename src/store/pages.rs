//! Reads entries of a spool in order, a page at a time. Never writes.

use rusqlite::Connection;

use crate::store::age::{Anchor, Run};
use crate::store::codec::{Totals, decode_entry, decode_totals};
use crate::store::error::StoreError;
use crate::store::record::{Entry, Load, Seq, SpoolId};
use crate::store::schema::TOTALS_SEQ;

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

/// One damaged row must not hold up those behind it: it is passed over and counted.
pub(super) fn load_page(connection: &Connection, load: Load, reading: Reading) -> Result<Page, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT entry.seq, entry.data, entry.body, body.data FROM entry
         LEFT JOIN body ON body.id = entry.body
         WHERE entry.spool = ?1 AND entry.seq > ?2 AND entry.seq < ?3 ORDER BY entry.seq",
    )?;
    let mut rows = statement.query((load.spool.0, seq_column(load.after), TOTALS_SEQ))?;
    let mut page = Page::default();
    let mut bytes = 0usize;
    // Rows are read as they are asked for: the bounds count entries, not damaged rows.
    while page.entries.len() < load.messages_max {
        let Some(row) = rows.next()? else { break };
        let seq = seq_of_column(row.get(0)?)?;
        let run = if seq > reading.earlier { Run::This } else { Run::Earlier };
        let data = row.get_ref(1)?.as_blob().map_err(|_| StoreError::Corrupt)?;
        let shared: Option<i64> = row.get(2)?;
        let body = row.get_ref(3)?.as_blob_or_null().map_err(|_| StoreError::Corrupt)?;
        let decoded = match (shared, body) {
            (Some(_), None) => Err(StoreError::Corrupt),
            (_, body) => decode_entry(seq, data, body, reading.anchor, run),
        };
        match decoded {
            Ok(entry) => {
                bytes = bytes.saturating_add(entry.message.size_bytes());
                if bytes > load.bytes_max && !page.entries.is_empty() {
                    break;
                }
                page.entries.push(entry);
            }
            Err(_) => page.unreadable += 1,
        }
    }
    Ok(page)
}

/// What stands in a spool; None where nothing ever did.
pub(super) fn load_totals(connection: &Connection, spool: SpoolId) -> Result<Option<Totals>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT data FROM entry WHERE spool = ?1 AND seq = ?2")?;
    let mut rows = statement.query((spool.0, TOTALS_SEQ))?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let data = row.get_ref(0)?.as_blob().map_err(|_| StoreError::Corrupt)?;
    let totals = decode_totals(data)?;
    // A next number must be left.
    if totals.last_seq.0 > seq_column(totals.last_seq).cast_unsigned() {
        return Err(StoreError::Corrupt);
    }
    Ok(Some(totals))
}

/// SQLite's integers are signed; a spool that gives a million numbers a second fills them in 292,000 years.
pub(super) fn seq_column(seq: Seq) -> i64 {
    i64::try_from(seq.0).unwrap_or(TOTALS_SEQ).min(TOTALS_SEQ - 1)
}

pub(super) fn seq_of_column(column: i64) -> Result<Seq, StoreError> {
    u64::try_from(column).map(Seq).map_err(|_| StoreError::Corrupt)
}
