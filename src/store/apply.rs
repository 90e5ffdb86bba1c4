//! Turns a batch of records into one transaction. Never decides what to keep, but leaves out what the same
//! batch takes back.

use std::collections::{BTreeMap, HashMap};

use rusqlite::Connection;

use crate::mqtt::packet::subscribe::{RetainHandling, SubscriptionOptions};
use crate::mqtt::qos::{PacketId, QoS};
use crate::store::age::Anchor;
use crate::store::bodies::Bodies;
use crate::store::codec;
use crate::store::error::StoreError;
use crate::store::pages::{load_totals, seq_column};
use crate::store::record::{Entry, Record, RuleTotals, Seq, SessionRow, SpoolId};
use crate::store::schema::TOTALS_SEQ;
use crate::store::totals::{Totals, encode_rules, encode_totals};

/// What the name of a Sparkplug session's mark begins with; behind it stands the spool.
pub(super) const BIRTH_PREFIX: &str = "birth:";

/// What a transaction took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Applied {
    /// Rows written, not counting what the batch itself took back.
    pub(super) rows: u64,
    /// Encoded bytes handed to the database, keys not counted.
    pub(super) bytes: u64,
}

/// All records or none. On an error nothing is assumed of the connection but that no transaction is open.
pub(super) fn apply_batch(
    connection: &Connection,
    records: &[Record],
    anchor: Anchor,
    bodies: &mut Bodies,
) -> Result<Applied, StoreError> {
    // Of a batch that fails, nobody knows which rows are on disk.
    let known = std::mem::take(bodies);
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let result = apply_all(connection, records, anchor, known)
        .and_then(|done| connection.execute_batch("COMMIT").map(|()| done).map_err(StoreError::from));
    // A full disk has rolled back by itself.
    if result.is_err() && !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK")?;
    }
    let (applied, known) = result?;
    *bodies = known;
    Ok(applied)
}

fn apply_all(
    connection: &Connection,
    records: &[Record],
    anchor: Anchor,
    bodies: Bodies,
) -> Result<(Applied, Bodies), StoreError> {
    let mut batch = Batch {
        connection,
        anchor,
        bodies: bodies.with(records),
        puts: BTreeMap::new(),
        totals: BTreeMap::new(),
        blob: Vec::new(),
        applied: Applied::default(),
    };
    // Drops come first: they depend on nothing before them, and the pages that they free take the rest in,
    // which lets a full database drain.
    for (spool, entries) in dropped(records) {
        batch.drop_entries(spool, &entries)?;
    }
    let last = last_positions(records);
    for (position, record) in records.iter().enumerate() {
        let superseded = key(record).and_then(|key| last.get(&key)).is_some_and(|last| *last > position);
        if !superseded {
            batch.apply(record)?;
        }
    }
    for (spool, entries) in std::mem::take(&mut batch.puts) {
        batch.put_entries(spool, entries)?;
    }
    batch.put_totals()?;
    Ok((batch.applied, batch.bodies.kept()))
}

/// What the batch drops of each spool, in the order of the numbers, each with its rule.
fn dropped(records: &[Record]) -> BTreeMap<SpoolId, Vec<(Seq, u16)>> {
    let mut dropped: BTreeMap<SpoolId, Vec<(Seq, u16)>> = BTreeMap::new();
    for record in records {
        if let Record::EntryDrop { spool, seq, rule } = record {
            dropped.entry(*spool).or_default().push((*seq, *rule));
        }
    }
    for entries in dropped.values_mut() {
        entries.sort_unstable();
    }
    dropped
}

/// What a record is about, where a later record on the same makes it void.
#[derive(PartialEq, Eq, Hash)]
enum Key<'a> {
    Session(SpoolId),
    Entry(SpoolId, Seq),
    Inflight(SpoolId, PacketId),
    Inbound(SpoolId, PacketId),
    Birth(SpoolId),
    Retained(&'a str),
}

fn key(record: &Record) -> Option<Key<'_>> {
    match record {
        Record::SessionPut(row) => Some(Key::Session(row.spool)),
        Record::EntryPut { spool, entry } => Some(Key::Entry(*spool, entry.seq)),
        Record::EntryDrop { spool, seq, .. } => Some(Key::Entry(*spool, *seq)),
        Record::InflightPut { spool, packet_id, .. } | Record::InflightDrop { spool, packet_id } => {
            Some(Key::Inflight(*spool, *packet_id))
        }
        Record::InboundPut { spool, packet_id } | Record::InboundDrop { spool, packet_id } => {
            Some(Key::Inbound(*spool, *packet_id))
        }
        Record::BirthPut { spool, .. } => Some(Key::Birth(*spool)),
        Record::RetainedPut { message } => Some(Key::Retained(message.topic.as_str())),
        Record::RetainedDrop { topic } => Some(Key::Retained(topic.as_str())),
        Record::SpoolDrop { .. }
        | Record::BufferPut { .. }
        | Record::SubscriptionPut { .. }
        | Record::SubscriptionDrop { .. }
        | Record::WillPut { .. }
        | Record::WillDrop { .. } => None,
    }
}

fn last_positions(records: &[Record]) -> HashMap<Key<'_>, usize> {
    records.iter().enumerate().filter_map(|(position, record)| Some((key(record)?, position))).collect()
}

/// What stands in a spool, in all and by the rules of its entries.
#[derive(Debug, Default)]
pub(super) struct Standing {
    totals: Totals,
    rules: BTreeMap<u16, (u64, u64)>,
}

impl Standing {
    pub(super) fn of(totals: Totals, rules: &[RuleTotals]) -> Self {
        let rules = rules.iter().map(|found| (found.rule, (found.messages, found.bytes))).collect();
        Self { totals, rules }
    }

    pub(super) fn count_in(&mut self, seq: Seq, rule: u16, bytes: u64) {
        self.totals.messages = self.totals.messages.saturating_add(1);
        self.totals.bytes = self.totals.bytes.saturating_add(bytes);
        self.totals.last_seq = self.totals.last_seq.max(seq);
        let of_rule = self.rules.entry(rule).or_default();
        *of_rule = (of_rule.0.saturating_add(1), of_rule.1.saturating_add(bytes));
    }

    pub(super) fn count_out(&mut self, rule: u16, bytes: u64) {
        self.totals.messages = self.totals.messages.saturating_sub(1);
        self.totals.bytes = self.totals.bytes.saturating_sub(bytes);
        if let Some(of_rule) = self.rules.get_mut(&rule) {
            *of_rule = (of_rule.0.saturating_sub(1), of_rule.1.saturating_sub(bytes));
        }
    }

    /// The totals first, then the rules.
    fn encode(&self) -> (Vec<u8>, Vec<u8>) {
        let (mut head, mut data) = (Vec::new(), Vec::new());
        encode_totals(&mut head, self.totals);
        let rules = self.rules.iter().filter(|(_, (messages, _))| *messages > 0);
        let rules = rules.map(|(rule, (messages, bytes))| RuleTotals {
            rule: *rule,
            messages: *messages,
            bytes: *bytes,
        });
        encode_rules(&mut data, self.totals.last_seq, &rules.collect::<Vec<_>>());
        (head, data)
    }

    pub(super) fn store(&self, connection: &Connection, spool: SpoolId) -> Result<u64, StoreError> {
        let (head, data) = self.encode();
        let mut put = connection.prepare_cached(
            "INSERT INTO stretch (spool, last, head, data) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET head = excluded.head, data = excluded.data",
        )?;
        put.execute((spool.0, TOTALS_SEQ, &head, &data))?;
        Ok((head.len() + data.len()) as u64)
    }
}

/// A transaction in the making.
pub(super) struct Batch<'a> {
    pub(super) connection: &'a Connection,
    pub(super) anchor: Anchor,
    pub(super) bodies: Bodies,
    /// Entries that are to be written, together for each spool.
    puts: BTreeMap<SpoolId, BTreeMap<Seq, &'a Entry>>,
    /// Of the spools that were touched; written once, at the end.
    totals: BTreeMap<SpoolId, Standing>,
    /// Reused by every encoding.
    pub(super) blob: Vec<u8>,
    pub(super) applied: Applied,
}

impl<'a> Batch<'a> {
    fn apply(&mut self, record: &'a Record) -> Result<(), StoreError> {
        match record {
            Record::SessionPut(row) => self.put_session(row),
            Record::SpoolDrop { spool } => self.drop_spool(*spool),
            Record::BufferPut { spool, bridge } => {
                self.execute("INSERT OR REPLACE INTO buffer VALUES (?1, ?2)", (spool.0, &**bridge))
            }
            Record::SubscriptionPut { spool, filter, options, identifier } => self.execute(
                "INSERT OR REPLACE INTO subscription VALUES (?1, ?2, ?3, ?4)",
                (spool.0, filter.as_str(), options_column(*options), *identifier),
            ),
            Record::SubscriptionDrop { spool, filter } => self.execute(
                "DELETE FROM subscription WHERE spool = ?1 AND filter = ?2",
                (spool.0, filter.as_str()),
            ),
            Record::WillPut { spool, will } => {
                self.blob.clear();
                codec::encode_will(&mut self.blob, will);
                self.execute_blob("INSERT OR REPLACE INTO will VALUES (?1, ?2)", spool.0)
            }
            Record::WillDrop { spool } => self.execute("DELETE FROM will WHERE spool = ?1", (spool.0,)),
            Record::EntryPut { spool, entry } => {
                self.puts.entry(*spool).or_default().insert(entry.seq, entry);
                Ok(())
            }
            // Done before all else.
            Record::EntryDrop { .. } => Ok(()),
            Record::InflightPut { spool, packet_id, seq, phase } => self.execute(
                "INSERT OR REPLACE INTO inflight VALUES (?1, ?2, ?3, ?4)",
                (spool.0, packet_id.as_u16(), seq_column(*seq), *phase as u8),
            ),
            Record::InflightDrop { spool, packet_id } => self.execute(
                "DELETE FROM inflight WHERE spool = ?1 AND packet_id = ?2",
                (spool.0, packet_id.as_u16()),
            ),
            Record::InboundPut { spool, packet_id } => {
                self.execute("INSERT OR REPLACE INTO inbound VALUES (?1, ?2)", (spool.0, packet_id.as_u16()))
            }
            Record::InboundDrop { spool, packet_id } => self.execute(
                "DELETE FROM inbound WHERE spool = ?1 AND packet_id = ?2",
                (spool.0, packet_id.as_u16()),
            ),
            Record::BirthPut { spool, bd_seq } => self.execute(
                "INSERT OR REPLACE INTO mark VALUES (?1, ?2)",
                (format!("{BIRTH_PREFIX}{}", spool.0), *bd_seq),
            ),
            Record::RetainedPut { message } => {
                self.blob.clear();
                codec::encode_retained(&mut self.blob, message, self.anchor);
                self.execute_blob("INSERT OR REPLACE INTO retained VALUES (?1, ?2)", message.topic.as_str())
            }
            Record::RetainedDrop { topic } => {
                self.execute("DELETE FROM retained WHERE topic = ?1", (topic.as_str(),))
            }
        }
    }

    fn put_session(&mut self, row: &SessionRow) -> Result<(), StoreError> {
        self.execute(
            "INSERT OR REPLACE INTO session VALUES (?1, ?2, ?3, ?4)",
            (
                row.spool.0,
                &*row.client_id,
                row.expiry_interval,
                row.disconnected_at.map(|at| self.anchor.to_column(at)),
            ),
        )
    }

    fn drop_spool(&mut self, spool: SpoolId) -> Result<(), StoreError> {
        self.release_bodies(spool)?;
        self.puts.remove(&spool);
        for sql in [
            "DELETE FROM stretch WHERE spool = ?1",
            "DELETE FROM gone WHERE spool = ?1",
            "DELETE FROM inflight WHERE spool = ?1",
            "DELETE FROM inbound WHERE spool = ?1",
            "DELETE FROM subscription WHERE spool = ?1",
            "DELETE FROM will WHERE spool = ?1",
            "DELETE FROM session WHERE spool = ?1",
            "DELETE FROM buffer WHERE spool = ?1",
        ] {
            self.execute(sql, (spool.0,))?;
        }
        self.totals.remove(&spool);
        self.execute("DELETE FROM mark WHERE name = ?1", (format!("{BIRTH_PREFIX}{}", spool.0),))?;
        // Only a spool that is gone can have its number forgotten; those that are there tell it themselves.
        self.execute(
            "UPDATE mark SET value = ?1 WHERE name = 'next_spool' AND value < ?1",
            (i64::from(spool.0) + 1,),
        )
    }

    /// What stands in a spool, as of this point in the batch.
    pub(super) fn totals(&mut self, spool: SpoolId) -> Result<&mut Standing, StoreError> {
        use std::collections::btree_map::Entry as Place;
        match self.totals.entry(spool) {
            Place::Occupied(place) => Ok(place.into_mut()),
            Place::Vacant(place) => {
                let stored = load_totals(self.connection, spool)?;
                let (totals, rules) = stored.unwrap_or_default();
                Ok(place.insert(Standing::of(totals, &rules.unwrap_or_default())))
            }
        }
    }

    fn put_totals(&mut self) -> Result<(), StoreError> {
        for (spool, totals) in std::mem::take(&mut self.totals) {
            self.applied.bytes += totals.store(self.connection, spool)?;
        }
        Ok(())
    }

    fn execute(&mut self, sql: &str, params: impl rusqlite::Params) -> Result<(), StoreError> {
        self.applied.rows += self.connection.prepare_cached(sql)?.execute(params)? as u64;
        Ok(())
    }

    /// The blob that was just encoded, under `key`.
    fn execute_blob(&mut self, sql: &str, key: impl rusqlite::ToSql) -> Result<(), StoreError> {
        self.applied.rows += self.connection.prepare_cached(sql)?.execute((key, &self.blob))? as u64;
        self.applied.bytes += self.blob.len() as u64;
        Ok(())
    }
}

/// The byte of SUBSCRIBE (MQTT 5 3.8.3.1).
fn options_column(options: SubscriptionOptions) -> u8 {
    options.qos.bits()
        | u8::from(options.no_local) << 2
        | u8::from(options.retain_as_published) << 3
        | (options.retain_handling as u8) << 4
}

pub(super) fn options_of_column(column: u8) -> Result<SubscriptionOptions, StoreError> {
    Ok(SubscriptionOptions {
        qos: QoS::from_bits(column & 0b11).ok_or(StoreError::Corrupt)?,
        no_local: column & 1 << 2 != 0,
        retain_as_published: column & 1 << 3 != 0,
        retain_handling: match column >> 4 {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DoNotSend,
            _ => return Err(StoreError::Corrupt),
        },
    })
}
