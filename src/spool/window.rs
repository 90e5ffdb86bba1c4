//! What of a spool is in flight: packet identifiers, the order of sending, acknowledgements. Says what is to
//! be sent, never sends.

use crate::base::time::Now;
use crate::mqtt::qos::{PacketId, QoS};
use crate::spool::Ledger;
use crate::spool::memory::position;
use crate::spool::queue::{Acknowledged, Completed, Link, Sending, Spool};
use crate::spool::settings::{Keeping, Loss};
use crate::spool::slot::Stage;
use crate::store::record::{Lsn, Phase, Record, Seq};

/// An entry that the far end may acknowledge.
pub(super) struct Flight {
    seq: Seq,
    pub(super) at: usize,
    pub(super) qos: QoS,
    on_wire: bool,
}

impl Spool {
    /// The far end lost its session: nothing is in flight any more. Messages whose PUBREC came are with the
    /// far end already. Returns how many were sent without an answer: they may arrive twice.
    pub fn handle_session_lost(&mut self, ledger: &mut Ledger) -> usize {
        let mut unanswered = self.unloaded.len();
        self.forget_unloaded(ledger);
        for (packet_id, seq) in std::mem::take(&mut self.inflight) {
            let Some(slot) = self.find_mut(seq) else { continue };
            let left = matches!(slot.stage, Stage::Sent { .. } | Stage::Prepared { dup: true, .. });
            slot.stage = Stage::Queued;
            let qos = slot.entry.qos;
            unanswered += usize::from(left);
            if self.is_noted(seq, qos) {
                self.record(Record::InflightDrop { spool: self.id, packet_id }, ledger);
            }
        }
        for packet_id in self.releases.clear() {
            self.record(Record::InflightDrop { spool: self.id, packet_id }, ledger);
        }
        self.prepared = 0;
        self.sent = 0;
        self.on_wire = 0;
        self.recovered_up_to = Seq(0);
        unanswered
    }

    /// The next packet that may leave now. Call until None after anything changed.
    pub fn next_sending(&mut self, now: Now, ledger: &mut Ledger) -> Option<Sending> {
        let Link::Here { window } = self.link else { return None };
        if let Some(packet_id) = self.next_release() {
            return Some(Sending::Release { packet_id });
        }
        // Ends: each round but the last drops an entry.
        loop {
            self.prepare(window, now, ledger);
            let slot = self.head.get_mut(self.sent)?;
            let Stage::Prepared { packet_id, after, dup } = slot.stage else { return None };
            // The far end still has what is not completed, so that counts too [MQTT-4.9.0-2].
            if after > self.durable || self.on_wire + self.releases.len() >= window {
                return None;
            }
            // Never once it has left [MQTT-4.3.3-7].
            if dup || !self.count_overdue(self.sent, now) {
                let slot = self.head.get_mut(self.sent)?;
                slot.stage = Stage::Sent { packet_id };
                let entry = slot.entry.clone();
                self.sent += 1;
                self.on_wire += 1;
                return Some(Sending::Publish { packet_id, dup, entry });
            }
            // It has its identifier since before the link broke, but never left.
            self.end_flight(packet_id, self.sent, ledger);
        }
    }

    /// How much may be unanswered from now on, where the far end is there. 0: releases alone leave.
    pub fn set_window(&mut self, packets: usize) {
        let count = self.ids.count();
        if let Link::Here { window } = &mut self.link {
            *window = packets.min(count);
        }
    }

    /// The first that has not left on this connection.
    pub fn next_unsent(&self) -> Option<Seq> {
        self.head.get(self.sent).map(|slot| slot.entry.seq)
    }

    /// Nothing before this one has still to leave on this connection. None: nothing has.
    pub fn unsent_from(&self) -> Option<Seq> {
        let behind = || (self.messages > self.head.len() as u64).then(|| Seq(self.head_last.0 + 1));
        self.next_unsent().or_else(behind)
    }

    /// Packets of this connection that the far end has to answer.
    pub fn unanswered(&self) -> usize {
        self.on_wire + self.releases.len()
    }

    /// PUBACK of a QoS 1 message: until then it is unacknowledged [MQTT-4.3.2-3] [MQTT-4.3.2-1 of 3.1.1].
    pub fn handle_puback(&mut self, packet_id: PacketId, ledger: &mut Ledger) -> Acknowledged {
        match self.answered(packet_id) {
            Ok(flight) if flight.qos == QoS::AtLeastOnce => self.finish(packet_id, &flight, ledger),
            Ok(_) => Acknowledged::Unknown,
            Err(other) => other,
        }
    }

    /// PUBACK or PUBREC with a reason of 0x80 or above: the delivery is over [MQTT-4.4.0-2].
    pub fn handle_refused(&mut self, packet_id: PacketId, ledger: &mut Ledger) -> Acknowledged {
        let flight = match self.answered(packet_id) {
            Ok(flight) => flight,
            Err(other) => return other,
        };
        let lost = self.head.get(flight.at).map(|slot| (slot.entry.rule, slot.bytes()));
        if let Some((rule, bytes)) = lost {
            self.count_loss(Loss::Refused, rule, bytes);
        }
        self.finish(packet_id, &flight, ledger)
    }

    /// PUBREC of a QoS 2 message, which is unacknowledged until then [MQTT-4.3.3-3]: `next_sending` yields PUBREL
    /// [MQTT-4.3.3-4] [MQTT-4.3.3-1 of 3.1.1] when that is durable.
    pub fn handle_pubrec(&mut self, packet_id: PacketId, ledger: &mut Ledger) -> Acknowledged {
        if self.releases.repeat(packet_id) {
            return Acknowledged::Known;
        }
        match self.answered(packet_id) {
            Ok(flight) if flight.qos == QoS::ExactlyOnce => self.release(packet_id, &flight, ledger),
            Ok(_) => Acknowledged::Unknown,
            Err(other) => other,
        }
    }

    /// The far end has done with a message at once, whatever its QoS, and keeps no state of it. What still waits
    /// for the message is the caller's from now on. None: nothing is in flight by this identifier.
    pub fn handle_completed(&mut self, packet_id: PacketId, ledger: &mut Ledger) -> Option<Completed> {
        let flight = self.flight(packet_id)?;
        let slot = self.head.get_mut(flight.at)?;
        let completed = Completed { hold: slot.hold.take(), recorded: slot.is_recorded() };
        self.finish(packet_id, &flight, ledger);
        Some(completed)
    }

    /// PUBCOMP: the identifier is free again, and not before [MQTT-4.3.3-5].
    pub fn handle_pubcomp(&mut self, packet_id: PacketId, ledger: &mut Ledger) -> Acknowledged {
        if !self.releases.complete(packet_id) {
            return Acknowledged::Unknown;
        }
        self.record(Record::InflightDrop { spool: self.id, packet_id }, ledger);
        Acknowledged::Known
    }

    /// Records which QoS 1 messages were sent and not acknowledged, at a clean end: the next process sends them with
    /// their identifiers and DUP [MQTT-4.4.0-1] [MQTT-4.4.0-1 of 3.1.1]. After a crash they have new ones: a record
    /// for each would wear out flash, and what its absence costs is the repeat that QoS 1 allows.
    pub fn write_inflight(&mut self, ledger: &mut Ledger) {
        let sent = self.head.iter().filter_map(|slot| match slot.stage {
            Stage::Sent { packet_id } | Stage::Prepared { packet_id, dup: true, .. } => {
                (slot.entry.qos == QoS::AtLeastOnce).then_some((packet_id, slot.entry.seq))
            }
            Stage::Prepared { .. } | Stage::Queued => None,
        });
        for (packet_id, seq) in sent.collect::<Vec<_>>() {
            let (spool, phase) = (self.id, Phase::Published);
            self.record(Record::InflightPut { spool, packet_id, seq, phase }, ledger);
        }
    }

    /// What was sent on the last connection is to be sent again.
    pub(super) fn rewind(&mut self) {
        for slot in self.head.iter_mut().take(self.sent) {
            if let Stage::Sent { packet_id } = slot.stage {
                slot.stage = Stage::Prepared { packet_id, after: Lsn(0), dup: true };
            }
        }
        self.releases.rewind();
        self.sent = 0;
        self.on_wire = 0;
    }

    /// The oldest entry in the head that has no packet identifier yet.
    pub(super) fn first_queued(&mut self) -> Option<usize> {
        while self.head.get(self.prepared)?.stage != Stage::Queued {
            self.prepared += 1;
        }
        Some(self.prepared)
    }

    /// A message that was in flight at the crash: its identifier stays its own [MQTT-4.4.0-1].
    pub(super) fn recover_published(&mut self, packet_id: PacketId, seq: Seq) {
        if let Some(slot) = self.find_mut(seq) {
            slot.stage = Stage::Prepared { packet_id, after: Lsn(0), dup: true };
            if slot.entry.qos == QoS::AtLeastOnce {
                self.noted.insert(seq);
            }
        } else if seq > self.head_last && self.spilled.messages > 0 {
            self.unloaded.insert(seq, packet_id);
        } else {
            return;
        }
        self.inflight.insert(packet_id, seq);
        self.recovered_up_to = self.recovered_up_to.max(seq);
    }

    /// Identifiers of entries that were in flight at the crash and are not in memory: free again, because the
    /// far end forgot them or the disk does not know them.
    pub(super) fn forget_unloaded(&mut self, ledger: &mut Ledger) {
        for packet_id in std::mem::take(&mut self.unloaded).into_values() {
            self.inflight.remove(&packet_id);
            self.record(Record::InflightDrop { spool: self.id, packet_id }, ledger);
        }
    }

    /// Whether an entry that was never sent is too old to be; if so, counts it.
    pub(super) fn count_overdue(&mut self, at: usize, now: Now) -> bool {
        let Some(slot) = self.head.get(at).filter(|_| !self.hands_out_overdue) else { return false };
        let message = &slot.entry.message;
        // [MQTT-3.3.2-5]
        let expired = message.is_expired(now);
        let age = now.instant.since(message.arrived.instant);
        let aged = !expired && self.bounds.age_max.is_some_and(|age_max| age >= age_max);
        let (rule, bytes) = (slot.entry.rule, slot.bytes());
        let expired = expired || (!aged && self.expiry(rule).is_some_and(|expiry| age >= expiry));
        if expired || aged {
            self.count_loss(if expired { Loss::Expired } else { Loss::Aged }, rule, bytes);
        }
        expired || aged
    }

    pub(super) fn flight(&self, packet_id: PacketId) -> Option<Flight> {
        let seq = *self.inflight.get(&packet_id)?;
        let at = position(&self.head, seq)?;
        let slot = self.head.get(at)?;
        let on_wire = match slot.stage {
            Stage::Sent { .. } => true,
            Stage::Prepared { dup: true, .. } => false,
            // Nobody can have received it: an acknowledgement by mistake must not cost the message.
            Stage::Prepared { dup: false, .. } | Stage::Queued => return None,
        };
        Some(Flight { seq, at, qos: slot.entry.qos, on_wire })
    }

    /// What an acknowledgement of this connection may end.
    fn answered(&self, packet_id: PacketId) -> Result<Flight, Acknowledged> {
        match self.flight(packet_id) {
            Some(flight) if flight.on_wire => Ok(flight),
            Some(_) => Err(Acknowledged::Early),
            None => Err(Acknowledged::Unknown),
        }
    }

    /// The far end has it, and PUBREL follows.
    pub(super) fn release(
        &mut self,
        packet_id: PacketId,
        flight: &Flight,
        ledger: &mut Ledger,
    ) -> Acknowledged {
        self.inflight.remove(&packet_id);
        self.on_wire = self.on_wire.saturating_sub(usize::from(flight.on_wire));
        let (spool, seq) = (self.id, flight.seq);
        let record = Record::InflightPut { spool, packet_id, seq, phase: Phase::Released };
        let after = self.record_awaited(record, ledger);
        self.releases.insert(packet_id, seq, after);
        self.remove_at(flight.at, ledger);
        Acknowledged::Known
    }

    pub(super) fn finish(
        &mut self,
        packet_id: PacketId,
        flight: &Flight,
        ledger: &mut Ledger,
    ) -> Acknowledged {
        self.on_wire = self.on_wire.saturating_sub(usize::from(flight.on_wire));
        self.end_flight(packet_id, flight.at, ledger);
        Acknowledged::Known
    }

    /// The next rewind lets it go first again.
    pub(super) fn put_back(&mut self, packet_id: PacketId, flight: &Flight, ledger: &mut Ledger) {
        self.on_wire = self.on_wire.saturating_sub(usize::from(flight.on_wire));
        self.inflight.remove(&packet_id);
        if self.is_noted(flight.seq, flight.qos) {
            self.record(Record::InflightDrop { spool: self.id, packet_id }, ledger);
        }
        if let Some(slot) = self.head.get_mut(flight.at) {
            slot.stage = Stage::Queued;
        }
        self.prepared = self.prepared.min(flight.at);
    }

    fn end_flight(&mut self, packet_id: PacketId, at: usize, ledger: &mut Ledger) {
        self.inflight.remove(&packet_id);
        let flight = self.head.get(at).map(|slot| (slot.entry.seq, slot.entry.qos));
        if flight.is_some_and(|(seq, qos)| self.is_noted(seq, qos)) {
            self.record(Record::InflightDrop { spool: self.id, packet_id }, ledger);
        }
        self.remove_at(at, ledger);
    }

    /// Whether the disk knows the identifier of an entry whose flight ends: at QoS 1 of those alone that the last
    /// process noted.
    fn is_noted(&mut self, seq: Seq, qos: QoS) -> bool {
        qos == QoS::ExactlyOnce || self.noted.remove(&seq)
    }

    fn next_release(&mut self) -> Option<PacketId> {
        // One that is not durable holds those behind it [MQTT-4.6.0-4 of 3.1.1]; the window holds none [MQTT-4.9.0-3].
        let (packet_id, release) = self.releases.first_unsent()?;
        if release.after > self.durable {
            return None;
        }
        self.releases.apply_sent();
        Some(packet_id)
    }

    /// Gives identifiers to the next entries as far as the window goes.
    fn prepare(&mut self, window: usize, now: Now, ledger: &mut Ledger) {
        while let Some(at) = self.first_queued() {
            let (seq, qos) = (self.head[at].entry.seq, self.head[at].entry.qos);
            // What was in flight at the crash goes before the rest, if need be a window of it at a time.
            if self.inflight() >= window && seq > self.recovered_up_to {
                return;
            }
            if self.count_overdue(at, now) {
                self.remove_at(at, ledger);
                continue;
            }
            let (inflight, releases) = (&self.inflight, &self.releases);
            let reserved = self.shares.as_deref().map(|shares| &shares.reserved);
            let in_use = |id| {
                inflight.contains_key(&id)
                    || releases.contains(id)
                    || reserved.is_some_and(|reserved| reserved.contains(&id))
            };
            let Some(packet_id) = self.ids.take(in_use) else { return };
            let after = match qos {
                QoS::ExactlyOnce => self.record_published(packet_id, seq, ledger),
                QoS::AtMostOnce | QoS::AtLeastOnce => Lsn(0),
            };
            self.inflight.insert(packet_id, seq);
            self.head[at].stage = Stage::Prepared { packet_id, after, dup: false };
            self.prepared = at + 1;
        }
    }

    /// The identifier of a QoS 2 message is durable before its PUBLISH leaves: else a crash could send it
    /// again under another one.
    fn record_published(&mut self, packet_id: PacketId, seq: Seq, ledger: &mut Ledger) -> Lsn {
        if self.keeping == Keeping::Volatile {
            return Lsn(0);
        }
        self.write(seq, ledger);
        self.trim_gathering();
        let spool = self.id;
        self.record_awaited(Record::InflightPut { spool, packet_id, seq, phase: Phase::Published }, ledger)
    }
}
