//! One connection, as its client sees it: what it asked, what it was answered, and what it takes. Judges every packet
//! that the broker sends.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tidegate::base::time::{Duration, Instant};
use tidegate::broker::effect::ConnKey;
use tidegate::mqtt::frame::Decoder;
use tidegate::mqtt::packet::ack::Ack;
use tidegate::mqtt::packet::connect::{Connack, Connect};
use tidegate::mqtt::packet::publish::Publish;
use tidegate::mqtt::packet::subscribe::{Suback, SubscriptionOptions};
use tidegate::mqtt::packet::{Packet, PacketType, Peer, Version};
use tidegate::mqtt::qos::{PacketId, QoS};
use tidegate::mqtt::reason::ReasonCode;
use tidegate::mqtt::topic::TopicFilter;

use super::person::{Heir, Publishing, Reference};

/// The broker's limit.
pub const SESSION_EXPIRY_SECS_MAX: u32 = 3600;

/// A request, by the packet that answers it and its identifier; 0 where it has none.
type Question = (PacketType, u16);

/// What was asked.
#[derive(Debug)]
enum Asked {
    Nothing,
    /// A message, and where it has to arrive once it is acknowledged.
    Message(Bytes, Vec<Heir>),
    /// And the number of the change that each of them is.
    Filters(Vec<(TopicFilter, SubscriptionOptions)>, u64),
    /// How many filters.
    Given(usize),
}

/// The end of a PUBLISH or PUBREL that the client may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    Publish(PacketId, QoS),
    Pubrel(PacketId),
}

#[derive(Debug)]
pub struct Seat {
    pub key: ConnKey,
    pub decoder: Decoder,
    pub input: BytesMut,
    /// That of its CONNECT.
    pub version: Version,
    /// Who sits here, from CONNECT on.
    pub name: Option<Arc<str>>,
    /// CONNACK came.
    pub up: bool,
    /// Where the next packet that the client sends is changed, and how.
    pub mutation: Option<[u8; 6]>,
    /// What the client has to answer, in the order in which it came.
    pub due: VecDeque<Due>,
    asked_expiry_secs: u32,
    clean_start: bool,
    receive_max: usize,
    packet_bytes_max: usize,
    asked: BTreeMap<Question, VecDeque<Asked>>,
    /// Asked again before they were answered: which answer is whose cannot be told, where some wait and others do not.
    muddled: BTreeSet<Question>,
    /// Questions without any answer yet.
    owed: BTreeSet<Question>,
    /// Identifiers that PUBREC named on this connection.
    received: BTreeSet<PacketId>,
    /// Packets of this connection that the client has not completed.
    inflight: BTreeSet<PacketId>,
}

impl Seat {
    pub fn new(key: ConnKey, packet_bytes_max: usize) -> Self {
        Self {
            key,
            decoder: Decoder::new(Peer::Client, packet_bytes_max),
            input: BytesMut::new(),
            version: Version::V3_1_1,
            name: None,
            up: false,
            mutation: None,
            due: VecDeque::new(),
            asked_expiry_secs: 0,
            clean_start: false,
            receive_max: usize::MAX,
            packet_bytes_max: usize::MAX,
            asked: BTreeMap::new(),
            muddled: BTreeSet::new(),
            owed: BTreeSet::new(),
            received: BTreeSet::new(),
            inflight: BTreeSet::new(),
        }
    }

    pub fn owed(&self) -> Option<&Question> {
        self.owed.first()
    }

    fn ask(&mut self, answer: PacketType, id: u16, asked: Asked) {
        let asked_before = self.asked.entry((answer, id)).or_default();
        if !asked_before.is_empty() {
            self.muddled.insert((answer, id));
        }
        asked_before.push_back(asked);
        self.owed.insert((answer, id));
    }

    fn answered(&mut self, answer: PacketType, id: u16) -> Asked {
        self.owed.remove(&(answer, id));
        let asked = self.asked.get_mut(&(answer, id)).and_then(VecDeque::pop_front);
        asked.unwrap_or_else(|| panic!("{answer} {id} answers nothing"))
    }

    // What the client says, as the broker's decoder understood it.

    pub fn note(&mut self, packet: &Packet, reference: &mut Reference) {
        match packet {
            Packet::Connect(connect) => self.note_connect(connect, reference),
            Packet::Publish(publish) => self.note_publish(publish, reference),
            Packet::Puback(ack) => self.note_ended(ack, ack.reason.is_error(), reference),
            Packet::Pubcomp(ack) => self.note_ended(ack, true, reference),
            Packet::Pubrec(ack) => self.note_pubrec(ack, reference),
            Packet::Pubrel(ack) => {
                self.ask(PacketType::Pubcomp, ack.packet_id.as_u16(), Asked::Nothing);
                if let Some(name) = &self.name {
                    reference.person(name).begin_release(ack.packet_id);
                }
            }
            Packet::Subscribe(subscribe) => {
                let filters = subscribe.filters.iter().map(|(filter, _)| filter);
                let name = self.name.as_ref();
                let change = name.map_or(0, |name| reference.person(name).change(filters));
                let asked = Asked::Filters(subscribe.filters.clone(), change);
                self.ask(PacketType::Suback, subscribe.packet_id.as_u16(), asked);
            }
            Packet::Unsubscribe(unsubscribe) => {
                let asked = Asked::Given(unsubscribe.filters.len());
                self.ask(PacketType::Unsuback, unsubscribe.packet_id.as_u16(), asked);
                let Some(name) = &self.name else { return };
                reference.person(name).change(unsubscribe.filters.iter());
            }
            Packet::Pingreq => self.ask(PacketType::Pingresp, 0, Asked::Nothing),
            Packet::Disconnect(disconnect) => {
                let changes =
                    disconnect.properties.as_ref().is_some_and(|p| p.session_expiry_interval.is_some());
                if let Some(name) = self.name.as_ref().filter(|_| changes) {
                    reference.person(name).vague = true;
                    reference.person(name).give_up();
                }
            }
            Packet::Connack(_)
            | Packet::Suback(_)
            | Packet::Unsuback(_)
            | Packet::Pingresp
            | Packet::Auth(_) => {}
        }
    }

    fn note_connect(&mut self, connect: &Connect, reference: &mut Reference) {
        if self.name.is_some() {
            return;
        }
        self.version = connect.version;
        let nameless = connect.client_id.is_empty();
        let name = if nameless { reference.nameless() } else { connect.client_id.clone() };
        let properties = &connect.properties;
        self.receive_max = properties.receive_maximum.map_or(usize::MAX, usize::from);
        self.packet_bytes_max = properties.maximum_packet_size.map_or(usize::MAX, |max| max as usize);
        self.asked_expiry_secs = match (connect.version, connect.clean_start) {
            (Version::V5, _) => properties.session_expiry_interval.unwrap_or(0),
            (_, true) => 0,
            (_, false) => u32::MAX,
        }
        .min(SESSION_EXPIRY_SECS_MAX);
        self.clean_start = connect.clean_start;
        let person = reference.person(&name);
        let expiry = Duration::from_secs(u64::from(self.asked_expiry_secs));
        if connect.clean_start || expiry != person.expiry || properties.maximum_packet_size.is_some() {
            person.handle_connect(connect);
        }
        self.name = Some(name);
        self.ask(PacketType::Connack, 0, Asked::Nothing);
        if let Some(will) = &connect.will {
            reference.note_sent(Some(&will.topic), &will.payload);
        }
    }

    fn note_publish(&mut self, publish: &Publish, reference: &mut Reference) {
        let Some(name) = self.name.clone() else { return };
        reference.note_sent(publish.topic.as_ref(), &publish.payload);
        let Some(id) = publish.packet_id else { return };
        let heirs = match &publish.topic {
            Some(topic) if publish.expiry_interval.is_none() => reference.heirs(topic, Some(&name)),
            Some(_) | None => Vec::new(),
        };
        let asked = Asked::Message(publish.payload.clone(), heirs);
        if publish.qos == QoS::AtLeastOnce {
            self.ask(PacketType::Puback, id.as_u16(), asked);
            return;
        }
        let publishing = &mut reference.person(&name).publishing;
        let repeated = match publishing.get_mut(&id) {
            None => {
                publishing.insert(id, (Publishing::Sent, publish.payload.clone()));
                self.ask(PacketType::Pubrec, id.as_u16(), asked);
                return;
            }
            // Before CONNACK nobody knows whether its session is the one that had it.
            Some((stage, payload)) => {
                let same = self.up && *stage == Publishing::Sent && *payload == publish.payload;
                if !same {
                    *stage = Publishing::Unclear;
                }
                same
            }
        };
        self.ask(PacketType::Pubrec, id.as_u16(), Asked::Nothing);
        if repeated {
            reference.note_repeated(&publish.payload);
        }
    }

    /// Whatever it was about: the client has no more of it.
    fn note_ended(&mut self, ack: &Ack, out_of_turn: bool, reference: &mut Reference) {
        self.inflight.remove(&ack.packet_id);
        if let Some(name) = self.name.as_ref().filter(|_| out_of_turn) {
            reference.person(name).end_delivery(ack.packet_id);
        }
    }

    fn note_pubrec(&mut self, ack: &Ack, reference: &mut Reference) {
        if ack.reason.is_error() {
            self.note_ended(ack, true, reference);
        } else if let Some(name) = &self.name {
            reference.person(name).received.insert(ack.packet_id);
            self.received.insert(ack.packet_id);
        }
    }

    // What the broker says.

    pub fn receive(&mut self, packet: Packet, packet_bytes: usize, now: Instant, reference: &mut Reference) {
        let max = self.packet_bytes_max;
        assert!(
            packet_bytes <= max,
            "{packet_bytes} bytes are more than the {max} that the client takes: {packet:?}"
        );
        if let Packet::Connack(connack) = &packet {
            self.receive_connack(connack, now, reference);
            return;
        }
        assert!(self.up, "before CONNACK: {packet:?}");
        let Some(name) = self.name.clone() else { return };
        match packet {
            Packet::Publish(publish) => self.receive_publish(&publish, &name, reference),
            Packet::Puback(ack) => self.receive_ack(PacketType::Puback, &ack, &name, reference),
            Packet::Pubrec(ack) => self.receive_ack(PacketType::Pubrec, &ack, &name, reference),
            Packet::Pubcomp(ack) => {
                self.answered(PacketType::Pubcomp, ack.packet_id.as_u16());
                reference.person(&name).end_publishing(ack.packet_id);
            }
            Packet::Pubrel(ack) => {
                // What became too large or is no longer allowed is given up, and its identifier freed.
                let gives_up = !reference.complete || reference.person(&name).limited;
                let person = reference.person(&name);
                let received = person.received.contains(&ack.packet_id);
                assert!(received || gives_up, "PUBREL {} without PUBREC", ack.packet_id);
                person.receiving.remove(&ack.packet_id);
                self.due.push_back(Due::Pubrel(ack.packet_id));
            }
            Packet::Suback(suback) => self.receive_suback(&suback, &name, reference),
            Packet::Unsuback(unsuback) => {
                let asked = self.answered(PacketType::Unsuback, unsuback.packet_id.as_u16());
                let Asked::Given(filters) = asked else { panic!("{asked:?}") };
                let codes = if self.version == Version::V5 { filters } else { 0 };
                let muddled = self.muddled.contains(&(PacketType::Unsuback, unsuback.packet_id.as_u16()));
                assert!(muddled || unsuback.reasons.len() == codes, "{unsuback:?}");
            }
            Packet::Pingresp => {
                self.answered(PacketType::Pingresp, 0);
            }
            Packet::Disconnect(_) => {}
            other => panic!("a server never sends {other:?}"),
        }
    }

    fn receive_connack(&mut self, connack: &Connack, now: Instant, reference: &mut Reference) {
        assert!(!self.up, "a second CONNACK");
        if connack.reason != ReasonCode::Success {
            assert!(!connack.session_present);
            self.name = None;
            return;
        }
        self.answered(PacketType::Connack, 0);
        self.up = true;
        let Some(name) = &self.name else { return };
        let person = reference.person(name);
        let granted = connack.properties.session_expiry_interval.unwrap_or(self.asked_expiry_secs);
        let expiry = Duration::from_secs(u64::from(granted));
        if connack.session_present {
            assert!(!self.clean_start, "a clean start resumes nothing");
            // Another connection may have begun the session on other terms since this one's CONNECT.
            person.vague |= expiry != person.expiry;
        } else {
            let lost = !self.clean_start && person.must_live(now);
            assert!(!lost, "the session of {name} is gone, away since {:?}", person.away_since);
            let mut publishing = std::mem::take(&mut person.publishing);
            publishing.retain(|id, _| self.asked.contains_key(&(PacketType::Pubrec, id.as_u16())));
            person.begin();
            person.publishing = publishing;
            person.expiry = expiry;
        }
        // What it said behind its CONNECT is this session's.
        person.received.extend(&self.received);
        for asked in self.asked.values().flatten() {
            if let Asked::Filters(filters, _) = asked {
                person.asked_for.extend(filters.iter().map(|(filter, _)| filter.clone()));
            }
        }
        person.limited |= self.packet_bytes_max != usize::MAX;
        person.attached = true;
    }

    fn receive_publish(&mut self, publish: &Publish, name: &Arc<str>, reference: &mut Reference) {
        let topic = publish.topic.as_ref().expect("no alias is set");
        // What the broker says of itself is nobody's message, but takes its place in the window as any other.
        if !topic.as_str().starts_with("$SYS/") {
            let sent = reference.sent.get(&publish.payload).expect("what arrives was sent");
            let known = sent.anywhere || sent.topics.contains(topic);
            assert!(known, "sent to {:?}, arrived at {topic}", sent.topics);
            let person = reference.persons.get_mut(name).expect("who sits here");
            person.handle_delivery(publish, topic, sent);
        }
        let Some(id) = publish.packet_id else { return };
        // [MQTT-3.3.4-9] [MQTT-2.2.1-4] [MQTT-4.4.0-1]
        assert!(self.inflight.insert(id), "{id} is in flight on this connection");
        assert!(self.inflight.len() <= self.receive_max, "{} are in flight", self.inflight.len());
        self.due.push_back(Due::Publish(id, publish.qos));
    }

    fn receive_ack(&mut self, kind: PacketType, ack: &Ack, name: &Arc<str>, reference: &mut Reference) {
        let asked = self.answered(kind, ack.packet_id.as_u16());
        let person = reference.person(name);
        person.unanswered.retain(|publish| publish.packet_id != Some(ack.packet_id));
        if ack.reason.is_error() {
            if kind == PacketType::Pubrec {
                person.end_publishing(ack.packet_id);
            }
            return;
        }
        if kind == PacketType::Pubrec {
            person.to_release.push(ack.packet_id);
        }
        if let Asked::Message(payload, heirs) = asked {
            reference.expect(&payload, &heirs);
        }
    }

    fn receive_suback(&mut self, suback: &Suback, name: &Arc<str>, reference: &mut Reference) {
        let asked = self.answered(PacketType::Suback, suback.packet_id.as_u16());
        let Asked::Filters(filters, change) = asked else { panic!("{asked:?}") };
        if self.muddled.contains(&(PacketType::Suback, suback.packet_id.as_u16())) {
            return;
        }
        assert_eq!(suback.reasons.len(), filters.len());
        let person = reference.person(name);
        for ((filter, options), reason) in filters.into_iter().zip(&suback.reasons) {
            if !reason.is_error() && person.expiry > Duration::ZERO {
                assert_eq!(reason.byte(), options.qos.bits(), "{filter}");
                person.firm = true;
                if person.changes.get(&filter) == Some(&change) {
                    person.subscriptions.insert(filter, options);
                }
            }
        }
    }
}
