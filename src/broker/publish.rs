//! What clients and the other brains publish, and the acknowledgements on both sides. An acknowledgement
//! leaves only through the connection's queue.

use std::sync::Arc;

use crate::base::time::{Duration, Instant, Now};
use crate::broker::barrier::{Owner, Ticket};
use crate::broker::connection::{Link, TOPIC_ALIAS_MAXIMUM};
use crate::broker::deadlines::Due;
use crate::broker::deliver::Publication;
use crate::broker::effect::{CommandAnswer, ConnKey, Effects, Outgoing, Token};
use crate::broker::session::Session;
use crate::broker::terms::Marking;
use crate::broker::violation::Fault;
use crate::broker::{Broker, Visit};
use crate::mqtt::message::{Message, Origin};
use crate::mqtt::packet::ack::Ack;
use crate::mqtt::packet::publish::Publish;
use crate::mqtt::packet::{Packet, Version};
use crate::mqtt::qos::{PacketId, QoS};
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::topic::TopicName;
use crate::mqtt::via;
use crate::spool::inbound::Arrival;
use crate::spool::queue::Acknowledged;
use crate::store::record::Lsn;

/// `$SYS` is the gateway's own: what clients publish there goes nowhere, as with Mosquitto.
pub(super) fn is_reserved(topic: &TopicName) -> bool {
    topic.levels().next() == Some("$SYS")
}

impl Broker {
    /// A message of a bridge, a device or the gateway. The token is completed when the message is safe
    /// everywhere. `QuotaExceeded`: a buffer is full and nothing was routed.
    #[allow(clippy::too_many_arguments)] // the door's batch passes them one by one, each with its own owner
    pub fn handle_publish(
        &mut self,
        message: Arc<Message>,
        token: Option<Token>,
        urgent: bool,
        now: Now,
        out: &mut Effects,
    ) -> Result<(), ReasonCode> {
        self.start(now);
        let mut visit = Visit { now, out };
        let waits = message.qos != QoS::AtMostOnce;
        if waits && !self.admits(&message) {
            self.stats.dropped += 1;
            return Err(ReasonCode::QuotaExceeded);
        }
        let ticket = token.filter(|_| waits).map(|_| self.barrier.ticket());
        let mut publication = Publication { message, urgent, ticket };
        self.route(&mut publication, &mut visit);
        let Some(token) = token else { return Ok(()) };
        if publication.ticket.is_none_or(|ticket| self.barrier.seal(&ticket, Owner::Token(token))) {
            visit.out.completed.push(token);
        }
        Ok(())
    }

    /// A device did what it was told, or it is said why not.
    pub fn handle_answer(&mut self, answer: CommandAnswer, now: Now, out: &mut Effects) {
        let CommandAnswer { message, hold, urgent } = answer;
        let waits = message.qos != QoS::AtMostOnce && hold.is_some();
        if message.qos != QoS::AtMostOnce && !self.admits(&message) {
            self.stats.dropped += 1;
            out.ledger.released.extend(hold);
            return;
        }
        let ticket = waits.then(|| self.barrier.ticket());
        let mut publication = Publication { message: Arc::new(message), urgent, ticket };
        self.route(&mut publication, &mut Visit { now, out });
        let Some(hold) = hold else { return };
        if publication.ticket.is_none_or(|ticket| self.barrier.seal(&ticket, Owner::Hold(hold))) {
            out.ledger.released.push(hold);
        }
    }

    pub(super) fn apply_publish(
        &mut self,
        key: ConnKey,
        mut publish: Publish,
        visit: &mut Visit<'_>,
    ) -> Result<(), Fault> {
        self.stats.publish_received += 1;
        self.stats.publish_bytes_received += publish.payload.len() as u64;
        // [MQTT-3.3.4-6]
        if !publish.subscription_identifiers.is_empty() {
            return Err(Fault::SubscriptionIdentifierInPublish);
        }
        let Some(link) = self.conns.link_mut(key) else { return Ok(()) };
        if link.parting {
            return Ok(());
        }
        let mut topic = resolve_topic(link, &publish)?;
        let Some(session) = self.sessions.get(link.session) else { return Ok(()) };
        if session.attached.is_some_and(|attached| attached.marking == Marking::Topic) {
            via::take_marks(&mut topic, &mut publish.properties);
        }
        let packet_id = publish.packet_id;
        let message = Arc::new(message_of(publish, topic, session, visit.now));
        // [MQTT-3.3.4-1] [MQTT-3.3.4-1 of 3.1.1]
        match (message.qos, packet_id) {
            (QoS::AtMostOnce, _) => self.take_qos0(key, message, visit),
            (QoS::AtLeastOnce, Some(id)) => self.take_qos1(key, id, message, visit)?,
            (QoS::ExactlyOnce, Some(id)) => self.take_qos2(key, id, message, visit)?,
            (QoS::AtLeastOnce | QoS::ExactlyOnce, None) => return Err(Fault::PacketIdMissing),
        }
        Ok(())
    }

    pub(super) fn apply_puback(&mut self, key: ConnKey, ack: &Ack, visit: &mut Visit<'_>) {
        let Some(session_key) = self.session_of(key) else { return };
        let Some(session) = self.sessions.get_mut(session_key) else { return };
        let ledger = &mut visit.out.ledger;
        // [MQTT-4.4.0-2] [MQTT-4.8.2-6]
        let acknowledged = if ack.reason.is_error() {
            session.spool.handle_refused(ack.packet_id, ledger)
        } else {
            session.spool.handle_puback(ack.packet_id, ledger)
        };
        self.stats.acks_unknown += u64::from(acknowledged != Acknowledged::Known);
        self.settle(session_key, visit);
    }

    pub(super) fn apply_pubrec(&mut self, key: ConnKey, ack: &Ack, visit: &mut Visit<'_>) {
        let Some(session_key) = self.session_of(key) else { return };
        let Some(session) = self.sessions.get_mut(session_key) else { return };
        let ledger = &mut visit.out.ledger;
        if ack.reason.is_error() {
            // [MQTT-4.4.0-2] [MQTT-4.8.2-6]
            session.spool.handle_refused(ack.packet_id, ledger);
        } else if session.spool.handle_pubrec(ack.packet_id, ledger) == Acknowledged::Unknown {
            self.stats.acks_unknown += 1;
            // Its PUBREL has to come from somewhere, or the client waits for ever (4.3.3). Before CONNACK it would have
            // to wait, and might then follow a PUBLISH of the same identifier that it does not release.
            if self.conns.link_mut(key).is_some_and(|link| link.up) {
                let pubrel = Ack::with_reason(ack.packet_id, self.unknown_id_reason(key));
                self.answer(key, Packet::Pubrel(pubrel), visit);
            }
        }
        self.settle(session_key, visit);
    }

    pub(super) fn apply_pubcomp(&mut self, key: ConnKey, ack: &Ack, visit: &mut Visit<'_>) {
        let Some(session_key) = self.session_of(key) else { return };
        let Some(session) = self.sessions.get_mut(session_key) else { return };
        let acknowledged = session.spool.handle_pubcomp(ack.packet_id, &mut visit.out.ledger);
        self.stats.acks_unknown += u64::from(acknowledged != Acknowledged::Known);
        self.settle(session_key, visit);
    }

    /// [MQTT-4.3.3-11]; PUBCOMP leaves when the identifier is off the disk: from then on it counts as new
    /// [MQTT-4.3.3-12].
    pub(super) fn apply_pubrel(&mut self, key: ConnKey, ack: &Ack, visit: &mut Visit<'_>) {
        let unknown = self.unknown_id_reason(key);
        let Some(session) = self.session_of(key).and_then(|key| self.sessions.get_mut(key)) else { return };
        let released = session.inbound.handle_release(ack.packet_id, &mut visit.out.ledger.log);
        session.receiving.remove(&ack.packet_id);
        let reason = if released.is_some() { ReasonCode::Success } else { unknown };
        session.inbound_lsn = session.inbound_lsn.max(released.unwrap_or_default());
        let after = session.inbound_lsn;
        let mut ticket = self.barrier.ticket();
        if after > self.durable {
            self.barrier.wait_for(&mut ticket, after);
        }
        let pubcomp = Packet::Pubcomp(Ack::with_reason(ack.packet_id, reason));
        self.owe(key, &ticket, pubcomp, visit);
    }

    /// An answer that waits for nothing. It passes acknowledgements that wait, never CONNACK.
    pub(super) fn answer(&mut self, key: ConnKey, packet: Packet, visit: &mut Visit<'_>) {
        let Some(link) = self.conns.link_mut(key) else { return };
        if link.up {
            self.send(key, packet, visit.out);
        } else {
            link.owe(self.barrier.ticket().id(), packet, true);
        }
    }

    /// An acknowledgement that leaves when its ticket is done and all before it have left.
    pub(super) fn owe(&mut self, key: ConnKey, ticket: &Ticket, packet: Packet, visit: &mut Visit<'_>) {
        let done = self.barrier.seal(ticket, Owner::Conn(key));
        let Some(link) = self.conns.link_mut(key) else { return };
        link.owe(ticket.id(), packet, done);
        self.release_owed(key, visit);
    }

    pub(super) fn release_owed(&mut self, key: ConnKey, visit: &mut Visit<'_>) {
        let mut released = false;
        while let Some(link) = self.conns.link_mut(key)
            && let Some(outgoing) = link.next_owed()
        {
            released = true;
            match outgoing {
                Outgoing::Packet(packet) => {
                    if matches!(packet, Packet::Connack(_)) {
                        link.up = true;
                        self.opened.push(key);
                    }
                    self.send(key, packet, visit.out);
                }
                Outgoing::Publish(delivery) => {
                    self.count_sent(&delivery);
                    visit.out.sends.push((key, Outgoing::Publish(delivery)));
                }
            }
        }
        let Some(link) = self.conns.link_mut(key) else { return };
        if !link.owes_nothing() {
            return;
        }
        if released {
            link.handle_answered(visit.now.instant);
        }
        if link.parting {
            self.set_due(key, Instant::ORIGIN, Due::Parting(key));
        }
    }

    fn take_qos0(&mut self, key: ConnKey, message: Arc<Message>, visit: &mut Visit<'_>) {
        if !is_reserved(&message.topic) && !self.denies(key, &message, visit.now) {
            self.route(&mut Publication { message, urgent: false, ticket: None }, visit);
        }
    }

    /// [MQTT-4.3.2-4] [MQTT-4.3.2-5] [MQTT-4.3.2-2 of 3.1.1]: PUBACK when it is safe; the same identifier again is a
    /// new message.
    fn take_qos1(
        &mut self,
        key: ConnKey,
        id: PacketId,
        message: Arc<Message>,
        visit: &mut Visit<'_>,
    ) -> Result<(), Fault> {
        let Some(link) = self.conns.link_mut(key) else { return Ok(()) };
        link.handle_publish(visit.now.instant);
        // [MQTT-3.3.4-7]
        if !link.open_qos1() {
            return Err(Fault::ReceiveMaximumExceeded);
        }
        let ticket = self.barrier.ticket();
        if let Some(reason) = self.refusal(key, &message, visit.now)? {
            self.owe(key, &ticket, Packet::Puback(Ack::with_reason(id, reason)), visit);
            return Ok(());
        }
        let mut publication = Publication { message, urgent: false, ticket: Some(ticket) };
        let reason = self.route_for(key, &mut publication, visit);
        if let Some(ticket) = &publication.ticket {
            // [MQTT-2.2.1-5]
            self.owe(key, ticket, Packet::Puback(Ack::with_reason(id, reason)), visit);
        }
        Ok(())
    }

    /// [MQTT-4.3.3-8] [MQTT-4.3.3-2 of 3.1.1]: PUBREC when it is safe, expired or not [MQTT-4.3.3-13].
    fn take_qos2(
        &mut self,
        key: ConnKey,
        id: PacketId,
        message: Arc<Message>,
        visit: &mut Visit<'_>,
    ) -> Result<(), Fault> {
        let Some(link) = self.conns.link_mut(key) else { return Ok(()) };
        let session_key = link.session;
        link.handle_publish(visit.now.instant);
        // [MQTT-3.3.4-7]
        if !link.open_qos2(id) {
            return Err(Fault::ReceiveMaximumExceeded);
        }
        if self.sessions.get(session_key).is_some_and(|session| session.inbound.contains(id)) {
            self.repeat_pubrec(key, id, visit);
            return Ok(());
        }
        let mut ticket = self.barrier.ticket();
        if let Some(reason) = self.refusal(key, &message, visit.now)? {
            // [MQTT-4.3.3-9]: nothing was noted, so the identifier counts as new.
            self.owe(key, &ticket, Packet::Pubrec(Ack::with_reason(id, reason)), visit);
            return Ok(());
        }
        let Some(session) = self.sessions.get_mut(session_key) else { return Ok(()) };
        // Before anything that the message causes: a crash finds all of it or nothing.
        let Arrival::New { after } = session.inbound.handle_publish(id, &mut visit.out.ledger.log) else {
            return Ok(());
        };
        session.receiving.insert(id, ticket.id());
        if after > Lsn(0) {
            session.inbound_lsn = after;
            self.barrier.wait_for(&mut ticket, after);
        }
        let urgent = session.durable;
        let mut publication = Publication { message, urgent, ticket: Some(ticket) };
        let reason = self.route_for(key, &mut publication, visit);
        if let Some(ticket) = &publication.ticket {
            self.owe(key, ticket, Packet::Pubrec(Ack::with_reason(id, reason)), visit);
        }
        Ok(())
    }

    /// [MQTT-4.3.3-10]: PUBREC again, but never before the first could leave.
    fn repeat_pubrec(&mut self, key: ConnKey, id: PacketId, visit: &mut Visit<'_>) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let Some(link) = &mut conn.link else { return };
        let Some(session) = self.sessions.get(link.session) else { return };
        let hold = session.receiving.get(&id).copied();
        if hold.is_some_and(|hold| link.owes(hold)) {
            return;
        }
        let pending = hold.filter(|hold| self.barrier.rebind(*hold, Owner::Conn(key)));
        let place = pending.unwrap_or_else(|| self.barrier.ticket().id());
        link.owe(place, Packet::Pubrec(Ack::success(id)), pending.is_none());
        self.release_owed(key, visit);
    }

    /// Why a message is answered but not routed.
    fn refusal(&mut self, key: ConnKey, message: &Message, now: Now) -> Result<Option<ReasonCode>, Fault> {
        let version = self.version_of(key);
        if is_reserved(&message.topic) || self.denies(key, message, now) {
            // [MQTT-3.3.5-2 of 3.1.1]: 3.x knows no better than a normal acknowledgement.
            let v5 = version == Version::V5;
            return Ok(Some(if v5 { ReasonCode::NotAuthorized } else { ReasonCode::Success }));
        }
        let reason = match self.refused_by_disk(key, message) {
            Some(reason) => reason,
            None if self.admits(message) => return Ok(None),
            None => ReasonCode::QuotaExceeded,
        };
        self.stats.publish_refused += 1;
        match version {
            Version::V5 => Ok(Some(reason)),
            // Only without an acknowledgement does the client keep it [MQTT-4.8.0-2 of 3.1.1].
            Version::V3_1 | Version::V3_1_1 => Err(Fault::BufferFull),
        }
    }

    /// Routes, and says what a 5.0 client is told about it [MQTT-3.4.2-1] [MQTT-3.5.2-1].
    fn route_for(
        &mut self,
        key: ConnKey,
        publication: &mut Publication,
        visit: &mut Visit<'_>,
    ) -> ReasonCode {
        let matched = self.route(publication, visit);
        if matched || self.version_of(key) != Version::V5 {
            ReasonCode::Success
        } else {
            ReasonCode::NoMatchingSubscribers
        }
    }

    fn version_of(&self, key: ConnKey) -> Version {
        let link = self.conns.link(key);
        link.map_or(Version::V3_1_1, |link| link.version)
    }

    fn unknown_id_reason(&self, key: ConnKey) -> ReasonCode {
        match self.version_of(key) {
            Version::V5 => ReasonCode::PacketIdentifierNotFound,
            Version::V3_1 | Version::V3_1_1 => ReasonCode::Success,
        }
    }
}

/// The topic that a PUBLISH names, itself or by alias.
fn resolve_topic(link: &mut Link, publish: &Publish) -> Result<TopicName, Fault> {
    let Some(alias) = publish.topic_alias.map(std::num::NonZeroU16::get) else {
        return publish.topic.clone().ok_or(Fault::TopicUnknown);
    };
    // [MQTT-3.3.2-9] [MQTT-3.3.2-12]
    if alias > TOPIC_ALIAS_MAXIMUM {
        return Err(Fault::TopicAliasTooLarge);
    }
    if let Some(topic) = &publish.topic {
        link.set_alias(alias, topic.clone());
        return Ok(topic.clone());
    }
    link.topic_of(alias).cloned().ok_or(Fault::TopicUnknown)
}

/// DUP ends here [MQTT-3.3.1-3] [MQTT-3.3.1-3 of 3.1.1]; properties go on as they came.
fn message_of(publish: Publish, topic: TopicName, session: &Session, now: Now) -> Message {
    Message {
        topic,
        payload: publish.payload,
        qos: publish.qos,
        retain: publish.retain,
        properties: publish.properties,
        expiry_interval: publish.expiry_interval.map(|secs| Duration::from_secs(u64::from(secs))),
        origin: Origin::Client(session.client_id.clone()),
        arrived: now,
    }
}
