//! Entries that leave a spool for another place than its far end: taken out with the acknowledgement that still waits for
//! them. Records nothing of where they go; loses none.

use crate::mqtt::qos::{PacketId, QoS};
use crate::spool::Ledger;
use crate::spool::memory::position;
use crate::spool::queue::{Acknowledged, Offer, Orphan, Spool};
use crate::spool::slot::Stage;
use crate::store::record::{Entry, Seq};

/// It goes to another spool, with who waits for it.
impl From<Orphan> for Offer {
    fn from(Orphan { entry, hold }: Orphan) -> Self {
        Self {
            message: entry.message,
            qos: entry.qos,
            retain: entry.retain,
            rule: entry.rule,
            subscription_identifiers: entry.subscription_identifiers,
            hold,
        }
    }
}

impl Spool {
    /// One that the far end has not taken, and said so, or never got: its identifier is free [MQTT-4.4.0-2].
    pub fn take_refused(&mut self, packet_id: PacketId, ledger: &mut Ledger) -> Option<Orphan> {
        let flight = self.flight(packet_id)?;
        let orphan = self.orphan_at(flight.at)?;
        self.finish(packet_id, &flight, ledger);
        Some(orphan)
    }

    /// One that the far end may have, and never answered. An identifier of QoS 2 that it may hold is released before it is
    /// used again: it would take the next message for a repeat.
    pub fn take_unanswered(&mut self, packet_id: PacketId, ledger: &mut Ledger) -> Option<Orphan> {
        let flight = self.flight(packet_id)?;
        if flight.qos != QoS::ExactlyOnce {
            return self.take_refused(packet_id, ledger);
        }
        let orphan = self.orphan_at(flight.at)?;
        self.release(packet_id, &flight, ledger);
        Some(orphan)
    }

    /// It is sent again on the next connection, in its place and under another identifier. The link has to end
    /// in this visit.
    pub fn handle_put_back(&mut self, packet_id: PacketId, ledger: &mut Ledger) -> Acknowledged {
        let Some(flight) = self.flight(packet_id) else { return Acknowledged::Unknown };
        self.put_back(packet_id, &flight, ledger);
        Acknowledged::Known
    }

    /// The first behind `after` that memory holds and that never left. None: the disk alone has what comes next, or
    /// nothing does.
    pub fn next_waiting(&self, after: Seq) -> Option<Entry> {
        let behind = self.head.partition_point(|slot| slot.entry.seq <= after);
        let in_head = self.head.iter().skip(behind);
        let in_tail = self.tail.iter().filter(|slot| self.spilled.messages == 0 && slot.entry.seq > after);
        let mut queued = in_head.chain(in_tail).filter(|slot| slot.stage == Stage::Queued);
        queued.next().map(|slot| slot.entry.clone())
    }

    /// Takes out what `next_waiting` named.
    pub fn take_one(&mut self, seq: Seq, ledger: &mut Ledger) -> Option<Orphan> {
        if let Some(at) = position(&self.head, seq) {
            let orphan = self.orphan_at(at)?;
            self.remove_at(at, ledger);
            return Some(orphan);
        }
        let at = position(&self.tail, seq)?;
        let slot = self.tail.get_mut(at)?;
        let orphan = Orphan { entry: slot.entry.clone(), hold: slot.hold.take() };
        self.remove_in_tail(at, ledger);
        Some(orphan)
    }

    /// Whether a part of it stands on disk alone, up to the last of these.
    pub fn is_on_disk_alone(&self, after: Seq) -> bool {
        self.spilled.messages > 0 && after < self.spilled.last
    }

    fn orphan_at(&mut self, at: usize) -> Option<Orphan> {
        let slot = self.head.get_mut(at)?;
        Some(Orphan { entry: slot.entry.clone(), hold: slot.hold.take() })
    }
}
