//! QoS 2 packet identifiers that the far end has published and not released yet: what makes a repeat a
//! repeat (MQTT 5 section 4.3.3). Never judges the message itself.

use std::collections::BTreeSet;

use crate::mqtt::qos::PacketId;
use crate::spool::settings::Keeping;
use crate::store::record::{Log, Lsn, Record, SpoolId};

/// Whether a QoS 2 PUBLISH is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Route it; PUBREC may leave when this position is durable and all targets have it.
    New { after: Lsn },
    /// It was routed before: only PUBREC again [MQTT-4.3.3-10], but never before the first one may leave: a
    /// publisher that came back repeats also what is not safe yet.
    Repeat,
}

#[derive(Debug)]
pub struct Inbound {
    spool: SpoolId,
    keeping: Keeping,
    ids: BTreeSet<PacketId>,
    /// Those of `ids` that a start found.
    recovered: BTreeSet<PacketId>,
}

impl Inbound {
    pub fn new(spool: SpoolId, keeping: Keeping) -> Self {
        Self { spool, keeping, ids: BTreeSet::new(), recovered: BTreeSet::new() }
    }

    pub fn set_keeping(&mut self, keeping: Keeping) {
        self.keeping = keeping;
    }

    pub fn recover(spool: SpoolId, keeping: Keeping, ids: impl IntoIterator<Item = PacketId>) -> Self {
        let ids: BTreeSet<PacketId> = ids.into_iter().collect();
        Self { spool, keeping, recovered: ids.clone(), ids }
    }

    /// A PUBLISH that its sender has never sent before: where a start found its identifier, that and all others that
    /// it found are of a session that the far end has lost.
    pub fn handle_first(&mut self, id: PacketId, log: &mut Log) {
        if !self.recovered.contains(&id) {
            return;
        }
        for packet_id in std::mem::take(&mut self.recovered) {
            self.ids.remove(&packet_id);
            let record = Record::InboundDrop { spool: self.spool, packet_id };
            self.record(log, record);
        }
    }

    pub fn contains(&self, id: PacketId) -> bool {
        self.ids.contains(&id)
    }

    /// A QoS 2 PUBLISH came.
    pub fn handle_publish(&mut self, id: PacketId, log: &mut Log) -> Arrival {
        if !self.ids.insert(id) {
            return Arrival::Repeat;
        }
        let record = Record::InboundPut { spool: self.spool, packet_id: id };
        Arrival::New { after: self.record(log, record) }
    }

    /// The message was refused: its identifier counts as new again [MQTT-4.3.3-9].
    pub fn handle_refused(&mut self, id: PacketId, log: &mut Log) {
        if self.remove(id) {
            let record = Record::InboundDrop { spool: self.spool, packet_id: id };
            self.record(log, record);
        }
    }

    /// PUBREL came: PUBCOMP may leave when the returned position is durable. None: it was unknown.
    pub fn handle_release(&mut self, id: PacketId, log: &mut Log) -> Option<Lsn> {
        if !self.remove(id) {
            return None;
        }
        let record = Record::InboundDrop { spool: self.spool, packet_id: id };
        Some(self.record(log, record))
    }

    /// The far end lost its session: nothing of it will be released any more.
    pub fn clear(&mut self, log: &mut Log) {
        self.recovered.clear();
        for packet_id in std::mem::take(&mut self.ids) {
            let record = Record::InboundDrop { spool: self.spool, packet_id };
            self.record(log, record);
        }
    }

    fn remove(&mut self, id: PacketId) -> bool {
        self.recovered.remove(&id);
        self.ids.remove(&id)
    }

    fn record(&self, log: &mut Log, record: Record) -> Lsn {
        match self.keeping {
            Keeping::Volatile => Lsn(0),
            Keeping::Durable { .. } => log.push(record),
        }
    }
}
