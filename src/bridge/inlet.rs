//! What the cloud published and waits to have acknowledged: which acknowledgement may leave, in which order.
//! Never routes a message and never sends a packet.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::mqtt::packet::Packet;
use crate::mqtt::packet::ack::Ack;
use crate::mqtt::qos::PacketId;
use crate::mqtt::reason::ReasonCode;
use crate::spool::inbound::{Arrival, Inbound};
use crate::spool::settings::Keeping;
use crate::store::record::{Log, Lsn};

/// An acknowledgement that this connection owes.
#[derive(Debug)]
struct Owed {
    packet_id: PacketId,
    serial: u64,
    outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Waiting,
    Safe,
    Refused,
}

/// A message that is not safe in the gateway yet.
#[derive(Debug)]
struct Unfinished {
    /// How many of its renamed messages are not.
    parts: usize,
    refused: bool,
}

/// A QoS 2 identifier that the cloud has not released.
#[derive(Debug)]
struct Open {
    serial: u64,
    after: Lsn,
}

#[derive(Debug)]
pub(super) struct Inlet {
    inbound: Inbound,
    /// Reasons go to the cloud: MQTT 5.
    tells_reasons: bool,
    next_serial: u64,
    next_token: u64,
    /// By token: the serial of its message. Outlives the connection.
    tokens: BTreeMap<u64, u64>,
    unfinished: BTreeMap<u64, Unfinished>,
    open: BTreeMap<PacketId, Open>,
    pubacks: VecDeque<Owed>,
    pubrecs: VecDeque<Owed>,
    pubcomps: VecDeque<(Ack, Lsn)>,
    /// Identifiers that the cloud released and whose PUBCOMP has not left yet. It cannot have used them again: a
    /// PUBLISH under one of them is the old message, which Mosquitto 2.0 sends once more after its PUBREL when a
    /// second connection follows at once. Outlives the connection.
    unconfirmed: BTreeSet<PacketId>,
    /// The last release that was recorded.
    released: Lsn,
    durable: Lsn,
}

impl Inlet {
    /// What the cloud has published stays what it is.
    pub(super) fn replace_settings(&mut self, keeping: Keeping, tells_reasons: bool) {
        self.inbound.set_keeping(keeping);
        self.tells_reasons = tells_reasons;
    }

    pub(super) fn new(inbound: Inbound, tells_reasons: bool) -> Self {
        Self {
            inbound,
            tells_reasons,
            next_serial: 1,
            next_token: 1,
            tokens: BTreeMap::new(),
            unfinished: BTreeMap::new(),
            open: BTreeMap::new(),
            pubacks: VecDeque::new(),
            pubrecs: VecDeque::new(),
            pubcomps: VecDeque::new(),
            unconfirmed: BTreeSet::new(),
            released: Lsn(0),
            durable: Lsn(0),
        }
    }

    /// A QoS 1 message came that is published as `parts` local ones. Their tokens.
    pub(super) fn handle_qos1(&mut self, packet_id: PacketId, parts: usize) -> Vec<u64> {
        let (serial, tokens) = self.begin(parts);
        let outcome = if parts == 0 { Outcome::Safe } else { Outcome::Waiting };
        self.pubacks.push_back(Owed { packet_id, serial, outcome });
        tokens
    }

    /// A QoS 2 message came without DUP. Under an identifier that a start found it is one of a new session: a crash
    /// lost the record that the old one was gone. Of the same session the cloud would send it with DUP [MQTT-3.3.1-1].
    pub(super) fn handle_first(&mut self, packet_id: PacketId, log: &mut Log) {
        self.inbound.handle_first(packet_id, log);
    }

    /// A QoS 2 message came that is published as `parts` local ones. None: it is a repeat, and only its PUBREC is
    /// owed again [MQTT-4.3.3-10].
    pub(super) fn handle_qos2(
        &mut self,
        packet_id: PacketId,
        parts: usize,
        log: &mut Log,
    ) -> Option<Vec<u64>> {
        if self.unconfirmed.contains(&packet_id) {
            self.pubrecs.push_back(Owed { packet_id, serial: 0, outcome: Outcome::Safe });
            return None;
        }
        match self.inbound.handle_publish(packet_id, log) {
            Arrival::New { after } => {
                let (serial, tokens) = self.begin(parts);
                self.open.insert(packet_id, Open { serial, after });
                let outcome = if parts == 0 { Outcome::Safe } else { Outcome::Waiting };
                self.pubrecs.push_back(Owed { packet_id, serial, outcome });
                Some(tokens)
            }
            Arrival::Repeat => {
                let serial = self.open.get(&packet_id).map_or(0, |open| open.serial);
                let waits = self.unfinished.contains_key(&serial);
                let outcome = if waits { Outcome::Waiting } else { Outcome::Safe };
                self.pubrecs.push_back(Owed { packet_id, serial, outcome });
                None
            }
        }
    }

    /// PUBREL came. PUBCOMP lets the cloud use the identifier for another message: so it waits until no crash brings
    /// the old one back, even where the release itself came on an earlier connection.
    pub(super) fn handle_pubrel(&mut self, packet_id: PacketId, log: &mut Log) {
        self.open.remove(&packet_id);
        let reason = match self.inbound.handle_release(packet_id, log) {
            Some(lsn) => {
                self.released = lsn;
                self.unconfirmed.insert(packet_id);
                ReasonCode::Success
            }
            None if self.unconfirmed.contains(&packet_id) => ReasonCode::Success,
            None => self.reason(ReasonCode::PacketIdentifierNotFound),
        };
        self.pubcomps.push_back((Ack::with_reason(packet_id, reason), self.released));
    }

    /// A local message is safe, or was refused. Returns whether the whole message was refused by this.
    pub(super) fn handle_completed(&mut self, token: u64, refused: bool, log: &mut Log) -> bool {
        let Some(serial) = self.tokens.remove(&token) else { return false };
        let Some(message) = self.unfinished.get_mut(&serial) else { return false };
        message.parts = message.parts.saturating_sub(1);
        message.refused |= refused;
        if message.parts > 0 {
            return false;
        }
        let refused = message.refused;
        self.unfinished.remove(&serial);
        let outcome = if refused { Outcome::Refused } else { Outcome::Safe };
        for owed in self.pubacks.iter_mut().chain(&mut self.pubrecs).filter(|owed| owed.serial == serial) {
            owed.outcome = outcome;
        }
        if refused && self.tells_reasons {
            self.forget_refused(serial, log);
        }
        refused
    }

    /// The cloud may use the identifier for another message once it has PUBREC with the reason [MQTT-4.3.3-9], which
    /// waits for this record.
    fn forget_refused(&mut self, serial: u64, log: &mut Log) {
        for (packet_id, open) in self.open.iter_mut().filter(|(_, open)| open.serial == serial) {
            self.inbound.handle_refused(*packet_id, log);
            open.after = log.last();
        }
    }

    pub(super) fn handle_durable(&mut self, lsn: Lsn) {
        self.durable = self.durable.max(lsn);
    }

    /// The connection is gone, and with it what it was owed. The cloud asks again.
    pub(super) fn handle_away(&mut self) {
        self.pubacks.clear();
        self.pubrecs.clear();
        self.pubcomps.clear();
    }

    /// The cloud lost its session: no identifier of it means anything any more.
    pub(super) fn handle_session_lost(&mut self, log: &mut Log) {
        self.inbound.clear(log);
        self.open.clear();
        self.unconfirmed.clear();
    }

    /// The next acknowledgement that may leave: in the order of arrival, one kind apart from the other
    /// [MQTT-4.6.0-2, -3].
    pub(super) fn next_acknowledgement(&mut self) -> Option<Packet> {
        if self.pubcomps.front().is_some_and(|(_, after)| *after <= self.durable) {
            let (ack, _) = self.pubcomps.pop_front()?;
            self.unconfirmed.remove(&ack.packet_id);
            return Some(Packet::Pubcomp(ack));
        }
        if self.pubacks.front().is_some_and(|owed| owed.outcome != Outcome::Waiting) {
            let owed = self.pubacks.pop_front()?;
            return Some(Packet::Puback(self.ack(&owed)));
        }
        let front = self.pubrecs.front()?;
        let after = self.open.get(&front.packet_id).map_or(Lsn(0), |open| open.after);
        if front.outcome == Outcome::Waiting || after > self.durable {
            return None;
        }
        let owed = self.pubrecs.pop_front()?;
        let ack = self.ack(&owed);
        if ack.reason.is_error() {
            self.open.remove(&owed.packet_id);
        }
        Some(Packet::Pubrec(ack))
    }

    /// Whether nothing that this connection brought waits for its acknowledgement.
    pub(super) fn owes_nothing(&self) -> bool {
        self.pubacks.is_empty() && self.pubrecs.is_empty() && self.pubcomps.is_empty()
    }

    /// The last position that an acknowledgement waits for.
    pub(super) fn awaited(&self) -> Option<Lsn> {
        let releases = self.pubcomps.iter().map(|(_, after)| *after);
        let arrivals = self.open.values().map(|open| open.after);
        releases.chain(arrivals).filter(|after| *after > self.durable).max()
    }

    fn begin(&mut self, parts: usize) -> (u64, Vec<u64>) {
        let serial = self.next_serial;
        self.next_serial += 1;
        if parts > 0 {
            self.unfinished.insert(serial, Unfinished { parts, refused: false });
        }
        let first = self.next_token;
        self.next_token += parts as u64;
        let tokens: Vec<u64> = (first..self.next_token).collect();
        self.tokens.extend(tokens.iter().map(|token| (*token, serial)));
        (serial, tokens)
    }

    fn ack(&self, owed: &Owed) -> Ack {
        let reason = match owed.outcome {
            Outcome::Refused => self.reason(ReasonCode::QuotaExceeded),
            Outcome::Waiting | Outcome::Safe => ReasonCode::Success,
        };
        Ack::with_reason(owed.packet_id, reason)
    }

    fn reason(&self, reason: ReasonCode) -> ReasonCode {
        if self.tells_reasons { reason } else { ReasonCode::Success }
    }
}

#[cfg(test)]
mod tests {
    use super::Inlet;
    use crate::base::time::Duration;
    use crate::mqtt::packet::Packet;
    use crate::mqtt::packet::ack::Ack;
    use crate::mqtt::qos::PacketId;
    use crate::mqtt::reason::ReasonCode;
    use crate::spool::inbound::Inbound;
    use crate::spool::settings::Keeping;
    use crate::store::record::{Log, SpoolId};

    fn id(value: u16) -> PacketId {
        PacketId::new(value).expect("not zero")
    }

    fn inlet() -> Inlet {
        let keeping = Keeping::Durable { commit: Duration::from_millis(100) };
        Inlet::new(Inbound::new(SpoolId(1), keeping), true)
    }

    #[test]
    fn pubacks_leave_in_the_order_of_arrival_once_every_part_is_safe() {
        let (mut inlet, mut log) = (inlet(), Log::default());
        let first = inlet.handle_qos1(id(1), 2);
        let second = inlet.handle_qos1(id(2), 1);
        assert_eq!((first.len(), second.len()), (2, 1));
        inlet.handle_completed(second[0], false, &mut log);
        inlet.handle_completed(first[0], false, &mut log);
        inlet.handle_completed(first[0], false, &mut log);
        assert_eq!(inlet.next_acknowledgement(), None);
        inlet.handle_completed(first[1], false, &mut log);
        assert_eq!(inlet.next_acknowledgement(), Some(Packet::Puback(Ack::success(id(1)))));
        assert_eq!(inlet.next_acknowledgement(), Some(Packet::Puback(Ack::success(id(2)))));
    }

    #[test]
    fn pubrec_waits_for_the_message_and_for_its_identifier() {
        let (mut inlet, mut log) = (inlet(), Log::default());
        let tokens = inlet.handle_qos2(id(7), 1, &mut log).expect("new");
        inlet.handle_durable(log.last());
        assert_eq!(inlet.next_acknowledgement(), None);
        // A new connection asks again while the message is still on its way.
        inlet.handle_away();
        assert_eq!(inlet.handle_qos2(id(7), 1, &mut log), None);
        assert_eq!(inlet.next_acknowledgement(), None);
        inlet.handle_completed(tokens[0], false, &mut log);
        assert_eq!(inlet.next_acknowledgement(), Some(Packet::Pubrec(Ack::success(id(7)))));
        inlet.handle_pubrel(id(7), &mut log);
        assert_eq!(inlet.next_acknowledgement(), None, "its record is not durable");
        assert_eq!(inlet.awaited(), Some(log.last()));
        inlet.handle_durable(log.last());
        assert_eq!(inlet.next_acknowledgement(), Some(Packet::Pubcomp(Ack::success(id(7)))));
        inlet.handle_pubrel(id(7), &mut log);
        let unknown = Ack::with_reason(id(7), ReasonCode::PacketIdentifierNotFound);
        assert_eq!(inlet.next_acknowledgement(), Some(Packet::Pubcomp(unknown)));
    }

    #[test]
    fn pubrec_waits_for_the_record_of_a_message_that_is_safe_already() {
        let (mut inlet, mut log) = (inlet(), Log::default());
        let tokens = inlet.handle_qos2(id(7), 1, &mut log).expect("new");
        inlet.handle_completed(tokens[0], false, &mut log);
        assert_eq!(inlet.next_acknowledgement(), None);
        inlet.handle_durable(log.last());
        assert_eq!(inlet.next_acknowledgement(), Some(Packet::Pubrec(Ack::success(id(7)))));
    }

    #[test]
    fn a_connection_that_is_gone_is_owed_nothing() {
        let (mut inlet, mut log) = (inlet(), Log::default());
        inlet.handle_qos1(id(1), 0);
        inlet.handle_qos2(id(2), 0, &mut log);
        inlet.handle_pubrel(id(3), &mut log);
        inlet.handle_durable(log.last());
        inlet.handle_away();
        assert_eq!(inlet.next_acknowledgement(), None);
    }

    #[test]
    fn pubcomp_waits_for_a_release_of_an_earlier_connection() {
        let (mut inlet, mut log) = (inlet(), Log::default());
        inlet.handle_qos2(id(7), 0, &mut log);
        inlet.handle_durable(log.last());
        inlet.handle_pubrel(id(7), &mut log);
        inlet.handle_away();
        inlet.handle_pubrel(id(7), &mut log);
        assert_eq!(inlet.next_acknowledgement(), None);
        inlet.handle_durable(log.last());
        assert!(inlet.next_acknowledgement().is_some());
    }

    /// Seen of Mosquitto 2.0.11: PUBREL on one connection, the PUBLISH again on the next.
    #[test]
    fn a_publish_after_its_pubrel_is_a_repeat_until_pubcomp_has_left() {
        let (mut inlet, mut log) = (inlet(), Log::default());
        inlet.handle_qos2(id(7), 0, &mut log);
        inlet.handle_durable(log.last());
        inlet.handle_pubrel(id(7), &mut log);
        inlet.handle_away();
        assert_eq!(inlet.handle_qos2(id(7), 1, &mut log), None);
        assert_eq!(inlet.next_acknowledgement(), Some(Packet::Pubrec(Ack::success(id(7)))));
        inlet.handle_pubrel(id(7), &mut log);
        inlet.handle_durable(log.last());
        assert_eq!(inlet.next_acknowledgement(), Some(Packet::Pubcomp(Ack::success(id(7)))));
        assert!(inlet.handle_qos2(id(7), 1, &mut log).is_some(), "the identifier is free");
    }

    #[test]
    fn a_refused_message_frees_its_identifier() {
        let (mut inlet, mut log) = (inlet(), Log::default());
        let tokens = inlet.handle_qos2(id(7), 1, &mut log).expect("new");
        inlet.handle_durable(log.last());
        assert!(inlet.handle_completed(tokens[0], true, &mut log));
        assert_eq!(inlet.next_acknowledgement(), None, "a crash would bring the identifier back");
        inlet.handle_durable(log.last());
        let refused = Ack::with_reason(id(7), ReasonCode::QuotaExceeded);
        assert_eq!(inlet.next_acknowledgement(), Some(Packet::Pubrec(refused)));
        assert!(inlet.handle_qos2(id(7), 1, &mut log).is_some());
    }
}
