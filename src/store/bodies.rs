//! Messages that stand in a row of their own, which every entry that has them holds: those that several entries of one
//! commit have, and large ones always. Never decides what to keep.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use crate::mqtt::message::Message;
use crate::store::apply::Batch;
use crate::store::codec;
use crate::store::error::StoreError;
use crate::store::record::Record;

/// A batch shares the messages that go to several spools once that saves more than the pages of shared bodies
/// that it dirties, now and when their entries are dropped.
const SHARED_SAVING_BYTES_MIN: usize = 8192;
/// A message with so many bytes has a row of its own wherever it goes: another spool may take it with a later commit, and
/// finds it there. Beside the pages that it fills anyway its row costs little; and in a stretch it would be read
/// whole by each search that comes past it, for a key of a clustered table is compared only when all of its row is there.
const LARGE_BYTES_MIN: usize = 8192;

/// By the address of the message. As long as its `Weak` lives, no other message gets that address.
#[derive(Debug, Default)]
pub(super) struct Bodies(HashMap<usize, Body>);

#[derive(Debug)]
struct Body {
    message: Weak<Message>,
    /// None before it is stored.
    row: Option<i64>,
}

impl Bodies {
    /// And those that a batch is to store in this way.
    pub(super) fn with(mut self, records: &[Record]) -> Self {
        let mut entries: HashMap<usize, (&Arc<Message>, usize)> = HashMap::new();
        let mut saving_bytes = 0;
        for record in records {
            if let Record::EntryPut { entry, .. } = record {
                let (message, count) = entries.entry(address(&entry.message)).or_insert((&entry.message, 0));
                saving_bytes += if *count == 0 { 0 } else { message.size_bytes() };
                *count += 1;
            }
        }
        let shares = saving_bytes >= SHARED_SAVING_BYTES_MIN;
        for (address, (message, count)) in entries {
            if shares && count > 1 || message.size_bytes() >= LARGE_BYTES_MIN {
                self.0.entry(address).or_insert_with(|| Body { message: Arc::downgrade(message), row: None });
            }
        }
        self
    }

    /// What later batches may have more entries of: large messages that are still in memory, which bounds them.
    pub(super) fn kept(mut self) -> Self {
        self.0.retain(|_, body| {
            let message = body.message.upgrade().filter(|_| body.row.is_some());
            message.is_some_and(|message| message.size_bytes() >= LARGE_BYTES_MIN)
        });
        self
    }

    /// The number of a row is free for another message from now on.
    fn forget(&mut self, row: i64) {
        for body in self.0.values_mut().filter(|body| body.row == Some(row)) {
            body.row = None;
        }
    }
}

fn address(message: &Arc<Message>) -> usize {
    Arc::as_ptr(message).addr()
}

impl Batch<'_> {
    /// The row of a message that has its own, held once more; None for one that stays inline.
    pub(super) fn hold_body(&mut self, message: &Arc<Message>) -> Result<Option<i64>, StoreError> {
        let Some(stored) = self.bodies.0.get_mut(&address(message)) else { return Ok(None) };
        if let Some(row) = stored.row {
            let mut hold =
                self.connection.prepare_cached("UPDATE body SET holds = holds + 1 WHERE id = ?1")?;
            if hold.execute((row,))? == 1 {
                return Ok(Some(row));
            }
        }
        self.blob.clear();
        codec::encode_body(&mut self.blob, message, self.anchor);
        let mut insert = self.connection.prepare_cached("INSERT INTO body (holds, data) VALUES (2, ?1)")?;
        let row = insert.insert((&self.blob,))?;
        stored.row = Some(row);
        self.applied.rows += 1;
        self.applied.bytes += self.blob.len() as u64;
        Ok(Some(row))
    }

    pub(super) fn release_body(&mut self, row: i64) -> Result<(), StoreError> {
        let mut remove = self.connection.prepare_cached("DELETE FROM body WHERE id = ?1 AND holds <= 2")?;
        if remove.execute((row,))? == 1 {
            self.bodies.forget(row);
            return Ok(());
        }
        let mut release =
            self.connection.prepare_cached("UPDATE body SET holds = holds - 1 WHERE id = ?1")?;
        release.execute((row,))?;
        Ok(())
    }
}
