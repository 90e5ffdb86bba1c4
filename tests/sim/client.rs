//! A client as the standard has it: publishes, subscribes, keeps its half of the session, sends again what was not
//! acknowledged. Written apart from the gateway, so that both cannot be wrong in the same way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU16;

use tidegate::base::time::Instant;
use tidegate::mqtt::message::MessageProperties;
use tidegate::mqtt::packet::ack::Ack;
use tidegate::mqtt::packet::connect::{Connack, Connect, ConnectProperties, Role, Will};
use tidegate::mqtt::packet::control::Disconnect;
use tidegate::mqtt::packet::publish::Publish;
use tidegate::mqtt::packet::subscribe::{Subscribe, SubscriptionOptions, Unsubscribe};
use tidegate::mqtt::packet::{Packet, Version};
use tidegate::mqtt::qos::{PacketId, QoS};
use tidegate::mqtt::reason::ReasonCode;
use tidegate::mqtt::topic::{TopicFilter, TopicName};

use super::reference::{Fate, Place, Reference, Scope, number_of, point_of_result, readings_of};

const SESSION_EXPIRY_SECS: u32 = 86_400;
const SUBSCRIBE_ID: u16 = 60_000;
const UNSUBSCRIBE_ID: u16 = 60_001;
pub const KEEP_ALIVE_SECS: u16 = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Away,
    Greeting(u64),
    Up(u64),
}

/// How far its subscription is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Out,
    Joining,
    In,
    Leaving,
}

/// What is published when its connection ends without a word.
#[derive(Debug, Clone, Copy)]
pub struct LastWill {
    pub lane: usize,
    pub delay_secs: u32,
}

/// What the publisher has not finished.
#[derive(Debug, Clone, Copy)]
struct Flight {
    id: PacketId,
    number: u64,
    released: bool,
}

#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // each says one thing of a client, and they exclude nothing
pub struct Client {
    pub index: usize,
    pub name: String,
    pub place: Place,
    pub version: Version,
    pub durable: bool,
    pub subscription: Option<(TopicFilter, QoS)>,
    /// The lanes that it publishes.
    pub lanes: Vec<usize>,
    /// Unacknowledged messages of its own.
    pub window: usize,
    /// Those that it takes; only MQTT 5 can say so.
    pub receive_maximum: u16,
    pub pad_bytes: usize,
    pub will: Option<LastWill>,
    /// The message of this connection's will.
    pub will_number: Option<u64>,
    /// Subscribes and unsubscribes now and then.
    pub wavers: bool,
    /// What it is to be.
    wants_in: bool,
    /// Aliases that it sets.
    pub aliases_out: u16,
    /// Those that it takes.
    pub aliases_in: u16,
    named_out: Vec<String>,
    named_in: BTreeMap<NonZeroU16, TopicName>,
    pub phase: Phase,
    /// Away on purpose until then.
    pub away_until: Instant,
    pub last_heard: Instant,
    /// The session stands for sure: it must be there at every CONNECT.
    pub established: bool,
    standing: Standing,
    waiting: VecDeque<u64>,
    flights: Vec<Flight>,
    /// QoS 2 identifiers that the broker has not released.
    held: BTreeSet<PacketId>,
    /// Retained messages that a subscription brought.
    pub retained: BTreeMap<String, u64>,
    /// The same where they are no numbers.
    pub texts: BTreeMap<String, String>,
}

impl Client {
    pub fn new(index: usize, name: &str, place: Place, version: Version) -> Self {
        Self {
            index,
            name: name.to_owned(),
            place,
            version,
            durable: true,
            subscription: None,
            lanes: Vec::new(),
            window: 10,
            receive_maximum: 100,
            pad_bytes: 0,
            will: None,
            will_number: None,
            wavers: false,
            wants_in: true,
            aliases_out: 0,
            aliases_in: 0,
            named_out: Vec::new(),
            named_in: BTreeMap::new(),
            phase: Phase::Away,
            away_until: Instant::ORIGIN,
            last_heard: Instant::ORIGIN,
            established: false,
            standing: Standing::Out,
            waiting: VecDeque::new(),
            flights: Vec::new(),
            held: BTreeSet::new(),
            retained: BTreeMap::new(),
            texts: BTreeMap::new(),
        }
    }

    /// Comes at the end alone, to see what is retained.
    pub fn is_auditor(&self) -> bool {
        self.name.starts_with("auditor")
    }

    pub fn conn(&self) -> Option<u64> {
        match self.phase {
            Phase::Away => None,
            Phase::Greeting(conn) | Phase::Up(conn) => Some(conn),
        }
    }

    pub fn is_ready(&self) -> bool {
        let wanted = if self.wants_in { Standing::In } else { Standing::Out };
        matches!(self.phase, Phase::Up(_)) && (self.standing == wanted || self.subscription.is_none())
    }

    /// Nothing is left to do.
    pub fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.flights.is_empty() && self.held.is_empty()
    }

    pub fn publish(&mut self, number: u64, reference: &mut Reference) -> Vec<Packet> {
        self.waiting.push_back(number);
        self.pump(reference)
    }

    pub fn connect(&mut self, reference: &mut Reference) -> Packet {
        self.named_out.clear();
        self.named_in.clear();
        self.will_number = self.will.map(|will| reference.arm(will.lane));
        let properties = match self.version {
            Version::V5 => ConnectProperties {
                session_expiry_interval: self.durable.then_some(SESSION_EXPIRY_SECS),
                receive_maximum: Some(self.receive_maximum),
                topic_alias_maximum: (self.aliases_in > 0).then_some(self.aliases_in),
                ..ConnectProperties::default()
            },
            Version::V3_1 | Version::V3_1_1 => ConnectProperties::default(),
        };
        Packet::Connect(Box::new(Connect {
            version: self.version,
            role: Role::Client,
            client_id: self.name.as_str().into(),
            clean_start: !self.durable,
            keep_alive: KEEP_ALIVE_SECS,
            will: self.will.zip(self.will_number).map(|(will, number)| will_of(will, number, reference)),
            username: None,
            password: None,
            properties,
        }))
    }

    /// Its connection is gone. A will that nobody took back must come; one with a delay may have been forgotten.
    pub fn lose(&mut self, reference: &mut Reference) {
        let accepted = matches!(self.phase, Phase::Up(_));
        self.phase = Phase::Away;
        let number = self.will_number.take();
        if let Some((will, number)) = self.will.zip(number)
            && accepted
            && will.delay_secs == 0
        {
            reference.settle(number, Fate::Acknowledged);
        }
    }

    /// Changes its mind about its subscription.
    pub fn waver(&mut self, wants_in: bool, reference: &mut Reference) -> Vec<Packet> {
        self.wants_in = wants_in;
        if matches!(self.phase, Phase::Up(_)) { self.adjust(reference) } else { Vec::new() }
    }

    /// Goes on towards what it wants, unless it waits for an answer.
    fn adjust(&mut self, reference: &mut Reference) -> Vec<Packet> {
        let Some((filter, qos)) = self.subscription.clone() else { return Vec::new() };
        match (self.standing, self.wants_in) {
            (Standing::Out, true) => {
                reference.ask_in(self.index);
                self.standing = Standing::Joining;
                let options = SubscriptionOptions { qos, ..SubscriptionOptions::default() };
                vec![Packet::Subscribe(Subscribe {
                    packet_id: PacketId::new(SUBSCRIBE_ID).unwrap(),
                    subscription_identifier: None,
                    user_properties: Vec::new(),
                    filters: vec![(filter, options)],
                })]
            }
            (Standing::In, false) => {
                reference.ask_out(self.index);
                self.standing = Standing::Leaving;
                vec![Packet::Unsubscribe(Unsubscribe {
                    packet_id: PacketId::new(UNSUBSCRIBE_ID).unwrap(),
                    user_properties: Vec::new(),
                    filters: vec![filter],
                })]
            }
            _ => Vec::new(),
        }
    }

    /// Leaves with a word, and keeps its session.
    pub fn part(&mut self) -> Packet {
        self.will_number = None;
        Packet::Disconnect(Disconnect::with_reason(ReasonCode::Success))
    }

    /// What a packet of the broker makes it send.
    pub fn handle(&mut self, packet: Packet, reference: &mut Reference) -> Vec<Packet> {
        match (self.phase, packet) {
            (Phase::Greeting(conn), Packet::Connack(connack)) => {
                self.handle_connack(conn, &connack, reference)
            }
            (_, Packet::Publish(publish)) => self.handle_publish(&publish, reference),
            (_, Packet::Puback(ack)) => self.handle_puback(&ack, reference),
            (_, Packet::Pubrec(ack)) => self.handle_pubrec(&ack, reference),
            (_, Packet::Pubrel(ack)) => {
                self.held.remove(&ack.packet_id);
                vec![Packet::Pubcomp(Ack::success(ack.packet_id))]
            }
            (_, Packet::Pubcomp(ack)) => {
                let flight = self.flight(ack.packet_id);
                assert!(self.flights[flight].released, "PUBCOMP before PUBREL");
                self.flights.remove(flight);
                self.pump(reference)
            }
            (_, Packet::Suback(suback)) => {
                assert!(suback.reasons.iter().all(|reason| !reason.is_error()));
                reference.come_in(self.index);
                self.standing = Standing::In;
                self.adjust(reference)
            }
            (_, Packet::Unsuback(unsuback)) => {
                assert!(unsuback.reasons.iter().all(|reason| !reason.is_error()));
                reference.come_out(self.index);
                self.standing = Standing::Out;
                self.adjust(reference)
            }
            (_, Packet::Pingresp | Packet::Disconnect(_)) => Vec::new(),
            (phase, other) => panic!("{} got {other:?} while {phase:?}", self.name),
        }
    }

    fn handle_connack(&mut self, conn: u64, connack: &Connack, reference: &mut Reference) -> Vec<Packet> {
        assert_eq!(connack.reason, ReasonCode::Success, "{} was refused", self.name);
        let present = connack.session_present;
        assert!(present || !(self.durable && self.established), "{}'s session is lost", self.name);
        assert!(!present || self.durable, "{} has a session that it never wanted", self.name);
        self.phase = Phase::Up(conn);
        if !present {
            self.begin_anew(reference);
        }
        // What was not answered on the last connection is asked again.
        self.standing = match self.standing {
            Standing::Joining => Standing::Out,
            Standing::Leaving => Standing::In,
            settled => settled,
        };
        let mut packets = self.adjust(reference);
        for flight in self.flights.clone() {
            packets.push(if flight.released {
                Packet::Pubrel(Ack::success(flight.id))
            } else {
                self.publish_of(flight.number, Some(flight.id), true, reference)
            });
        }
        packets.extend(self.pump(reference));
        packets
    }

    /// No session: what was not acknowledged is published as if it were new.
    fn begin_anew(&mut self, reference: &mut Reference) {
        self.standing = Standing::Out;
        self.held.clear();
        for flight in std::mem::take(&mut self.flights).iter().rev() {
            self.waiting.push_front(flight.number);
        }
        if !self.durable {
            reference.forget(self.index);
        }
    }

    fn handle_publish(&mut self, publish: &Publish, reference: &mut Reference) -> Vec<Packet> {
        let topic = self.topic_of(publish);
        let lane = number_of(topic.as_str(), &publish.payload).map(|number| reference.lane_of(number));
        if let Some(left) = publish.expiry_interval {
            let said = lane.and_then(|lane| lane.expiry_secs);
            assert!(said.is_some_and(|said| left <= said), "{left} s are left of {said:?}");
        }
        let fresh = publish.packet_id.is_none_or(|id| !self.held.contains(&id));
        if fresh {
            self.take(topic.as_str(), &publish.payload, publish.retain, reference);
        }
        match (publish.qos, publish.packet_id) {
            (QoS::AtLeastOnce, Some(id)) => vec![Packet::Puback(Ack::success(id))],
            (QoS::ExactlyOnce, Some(id)) => {
                assert!(fresh || publish.dup, "{}: {id} came again without DUP", self.name);
                self.held.insert(id);
                vec![Packet::Pubrec(Ack::success(id))]
            }
            (QoS::AtMostOnce, None) => Vec::new(),
            (qos, id) => panic!("{qos:?} with {id:?}"),
        }
    }

    /// The topic that a message names, itself or by an alias.
    fn topic_of(&mut self, publish: &Publish) -> TopicName {
        let Some(alias) = publish.topic_alias else {
            return publish.topic.clone().expect("a topic or an alias");
        };
        assert!(
            alias.get() <= self.aliases_in,
            "{} takes {} aliases, not {alias}",
            self.name,
            self.aliases_in
        );
        if let Some(topic) = &publish.topic {
            self.named_in.insert(alias, topic.clone());
        }
        self.named_in.get(&alias).cloned().expect("an alias that was set on this connection")
    }

    fn take(&mut self, topic: &str, payload: &[u8], retain: bool, reference: &mut Reference) {
        if let Some(point) = point_of_result(topic) {
            reference.hear_result(self.index, point);
        }
        reference.hear(&readings_of(topic, payload));
        let Some(number) = number_of(topic, payload) else {
            if retain {
                self.texts.insert(topic.to_owned(), String::from_utf8_lossy(payload).into_owned());
            }
            return;
        };
        if retain {
            self.retained.insert(topic.to_owned(), number);
        } else {
            reference.deliver(self.index, number, topic);
        }
    }

    fn handle_puback(&mut self, ack: &Ack, reference: &mut Reference) -> Vec<Packet> {
        let flight = self.flights.remove(self.flight(ack.packet_id));
        Self::settle(flight.number, ack, reference);
        self.pump(reference)
    }

    fn handle_pubrec(&mut self, ack: &Ack, reference: &mut Reference) -> Vec<Packet> {
        let at = self.flight(ack.packet_id);
        assert!(!self.flights[at].released, "PUBREC again, on one connection");
        Self::settle(self.flights[at].number, ack, reference);
        if ack.reason.is_error() {
            self.flights.remove(at);
            return self.pump(reference);
        }
        self.flights[at].released = true;
        vec![Packet::Pubrel(Ack::success(ack.packet_id))]
    }

    fn settle(number: u64, ack: &Ack, reference: &mut Reference) {
        if ack.reason.is_error() {
            assert!(reference.may_be_refused(number), "{number} was refused: {:?}", ack.reason);
            reference.settle(number, Fate::Unpromised);
        } else {
            reference.settle(number, Fate::Acknowledged);
        }
    }

    fn flight(&self, id: PacketId) -> usize {
        let found = self.flights.iter().position(|flight| flight.id == id);
        found
            .unwrap_or_else(|| panic!("{} got an acknowledgement of {id}, which is not in flight", self.name))
    }

    fn pump(&mut self, reference: &mut Reference) -> Vec<Packet> {
        let mut packets = Vec::new();
        while matches!(self.phase, Phase::Up(_))
            && self.flights.len() < self.window
            && let Some(number) = self.waiting.pop_front()
        {
            let mut id = None;
            if reference.lane_of(number).qos == QoS::AtMostOnce {
                reference.settle(number, Fate::Unpromised);
            } else {
                // The lowest that is free, so that identifiers come again as soon as they may.
                let mut free = (1..).filter_map(PacketId::new);
                id = free.find(|id| self.flights.iter().all(|flight| flight.id != *id));
                self.flights.extend(id.map(|id| Flight { id, number, released: false }));
            }
            packets.push(self.publish_of(number, id, false, reference));
        }
        packets
    }

    fn publish_of(
        &mut self,
        number: u64,
        packet_id: Option<PacketId>,
        dup: bool,
        reference: &Reference,
    ) -> Packet {
        let lane = reference.lane_of(number);
        // A command is read as it stands.
        let pad =
            if lane.scope == Scope::Set { String::new() } else { format!(":{}", "x".repeat(self.pad_bytes)) };
        let topic = TopicName::new(&lane.topic).unwrap();
        let (topic, topic_alias) = self.name_of(topic);
        Packet::Publish(Publish {
            dup,
            qos: lane.qos,
            retain: lane.retain,
            topic,
            packet_id,
            payload: format!("{number}{pad}").into(),
            topic_alias,
            expiry_interval: lane.expiry_secs,
            subscription_identifiers: Vec::new(),
            properties: None,
        })
    }

    /// How it names a topic: by an alias once that is set.
    fn name_of(&mut self, topic: TopicName) -> (Option<TopicName>, Option<NonZeroU16>) {
        let known = self.named_out.iter().position(|named| named == topic.as_str());
        let number = |at: usize| u16::try_from(at + 1).ok().and_then(NonZeroU16::new);
        if let Some(at) = known {
            return (None, number(at));
        }
        if self.named_out.len() >= usize::from(self.aliases_out) {
            return (Some(topic), None);
        }
        self.named_out.push(topic.as_str().to_owned());
        (Some(topic), number(self.named_out.len() - 1))
    }
}

fn will_of(will: LastWill, number: u64, reference: &Reference) -> Box<Will> {
    let lane = &reference.lanes[will.lane];
    Box::new(Will {
        topic: TopicName::new(&lane.topic).unwrap(),
        payload: number.to_string().into(),
        qos: lane.qos,
        retain: lane.retain,
        delay_interval: will.delay_secs,
        expiry_interval: None,
        properties: MessageProperties::default(),
    })
}
