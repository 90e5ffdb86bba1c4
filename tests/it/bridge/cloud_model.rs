//! A cloud broker as the standard has it, for one client. Written apart from the product's own broker, so that
//! both cannot be wrong in the same way. Loses nothing unless told so.

use std::collections::{BTreeMap, BTreeSet};

use tidegate::base::time::{Duration, Instant};
use tidegate::mqtt::packet::Packet;
use tidegate::mqtt::packet::ack::Ack;
use tidegate::mqtt::packet::connect::{Connack, ConnackProperties, Connect, Role};
use tidegate::mqtt::packet::publish::Publish;
use tidegate::mqtt::packet::subscribe::{Suback, Subscribe};
use tidegate::mqtt::qos::{PacketId, QoS};
use tidegate::mqtt::reason::ReasonCode;
use tidegate::mqtt::topic::{TopicFilter, TopicName};

/// A message that the cloud has for the gateway.
struct Owed {
    publish: Publish,
    released: bool,
}

#[allow(clippy::struct_excessive_bools)] // each is something that a server may do
pub struct Cloud {
    pub properties: ConnackProperties,
    pub connack: Option<ReasonCode>,
    /// What PUBACK and PUBREC say to a topic.
    pub refusals: BTreeMap<String, ReasonCode>,
    pub suback: Option<ReasonCode>,
    /// Who asks for this filter loses its connection.
    pub closes_for: Option<TopicFilter>,
    /// It does now.
    pub hangs_up: bool,
    pub mute: bool,
    /// As what it takes a 3.1.1 bridge; whoever says more is turned away.
    pub takes: Role,
    /// Turned away is who gets no CONNACK, and not one that says why.
    pub closes: bool,
    /// So long after a connection that it turned away it closes the next one, too.
    pub rest: Duration,
    pub rested_at: Instant,
    pub turned_away: Vec<Role>,
    pub connects: Vec<Connect>,
    pub subscribes: Vec<Subscribe>,
    /// In order, repeats of QoS 1 included.
    pub delivered: Vec<Publish>,
    pub unknown_releases: usize,
    /// CONNECT came on the connection that stands.
    pub greeted: bool,
    aliases: BTreeMap<u16, TopicName>,
    session: bool,
    held: BTreeSet<PacketId>,
    owed: BTreeMap<u64, Owed>,
    next: u64,
}

impl Default for Cloud {
    fn default() -> Self {
        Self {
            properties: ConnackProperties::default(),
            connack: None,
            refusals: BTreeMap::new(),
            suback: None,
            closes_for: None,
            hangs_up: false,
            mute: false,
            takes: Role::Client,
            closes: false,
            rest: Duration::ZERO,
            rested_at: Instant::ORIGIN,
            turned_away: Vec::new(),
            connects: Vec::new(),
            subscribes: Vec::new(),
            delivered: Vec::new(),
            unknown_releases: 0,
            greeted: false,
            aliases: BTreeMap::new(),
            session: false,
            held: BTreeSet::new(),
            owed: BTreeMap::new(),
            next: 0,
        }
    }
}

impl Cloud {
    /// Whether CONNECT is turned away at that time.
    pub fn turns_away(&mut self, connect: &Connect, now: Instant) -> bool {
        if connect.role <= self.takes && now >= self.rested_at {
            return false;
        }
        self.turned_away.push(connect.role);
        self.rested_at = self.rested_at.max(now + self.rest);
        true
    }

    pub fn lose_session(&mut self) {
        self.session = false;
        self.held.clear();
        self.owed.clear();
    }

    /// Something for the gateway; leaves at once where a connection stands.
    pub fn publish(&mut self, topic: &str, payload: &str, qos: QoS) -> Packet {
        self.next += 1;
        // The lowest that is free, so that identifiers come again as soon as they may.
        let used: BTreeSet<_> = self.owed.values().filter_map(|owed| owed.publish.packet_id).collect();
        let free = (1..=u16::MAX).filter_map(PacketId::new).find(|id| !used.contains(id));
        let publish = Publish {
            dup: false,
            qos,
            retain: false,
            topic: Some(TopicName::new(topic).expect("a valid topic")),
            packet_id: if qos == QoS::AtMostOnce { None } else { free },
            payload: payload.to_owned().into(),
            topic_alias: None,
            expiry_interval: None,
            subscription_identifiers: Vec::new(),
            properties: None,
        };
        if qos != QoS::AtMostOnce {
            self.owed.insert(self.next, Owed { publish: publish.clone(), released: false });
        }
        Packet::Publish(publish)
    }

    pub fn owes(&self) -> usize {
        self.owed.len()
    }

    pub fn handle(&mut self, packet: Packet) -> Vec<Packet> {
        if self.mute {
            return Vec::new();
        }
        match packet {
            Packet::Connect(connect) => self.handle_connect(*connect),
            Packet::Subscribe(subscribe) => {
                let reason = self.suback.unwrap_or(ReasonCode::GrantedQos2);
                let reasons = vec![reason; subscribe.filters.len()];
                let packet_id = subscribe.packet_id;
                self.hangs_up =
                    subscribe.filters.iter().any(|(filter, _)| Some(filter) == self.closes_for.as_ref());
                self.subscribes.push(subscribe);
                if self.hangs_up {
                    return Vec::new();
                }
                vec![Packet::Suback(Suback { packet_id, reasons, properties: None })]
            }
            Packet::Publish(publish) => self.handle_publish(publish),
            Packet::Pubrel(ack) => {
                self.unknown_releases += usize::from(!self.held.remove(&ack.packet_id));
                vec![Packet::Pubcomp(Ack::success(ack.packet_id))]
            }
            Packet::Puback(ack) | Packet::Pubcomp(ack) => {
                self.owed.retain(|_, owed| owed.publish.packet_id != Some(ack.packet_id));
                Vec::new()
            }
            Packet::Pubrec(ack) => {
                let owed = self.owed.values_mut().filter(|o| o.publish.packet_id == Some(ack.packet_id));
                owed.for_each(|owed| owed.released = true);
                vec![Packet::Pubrel(Ack::success(ack.packet_id))]
            }
            Packet::Pingreq => vec![Packet::Pingresp],
            Packet::Disconnect(_) => Vec::new(),
            other => panic!("a client never sends {other:?}"),
        }
    }

    fn handle_connect(&mut self, connect: Connect) -> Vec<Packet> {
        assert!(!connect.clean_start);
        self.connects.push(connect);
        let reason = self.connack.unwrap_or(ReasonCode::Success);
        self.greeted = reason == ReasonCode::Success;
        self.aliases.clear();
        let session_present = self.session && reason == ReasonCode::Success;
        self.session |= reason == ReasonCode::Success;
        let properties = self.properties.clone();
        let mut answers = vec![Packet::Connack(Box::new(Connack { session_present, reason, properties }))];
        for owed in self.owed.values() {
            answers.push(match (owed.released, owed.publish.packet_id) {
                (true, Some(id)) => Packet::Pubrel(Ack::success(id)),
                _ => Packet::Publish(Publish { dup: true, ..owed.publish.clone() }),
            });
        }
        answers
    }

    /// 3.3.2.3.4
    fn resolve_alias(&mut self, publish: &mut Publish) {
        let Some(alias) = publish.topic_alias.take() else { return };
        assert!(Some(alias.get()) <= self.properties.topic_alias_maximum, "{alias} is above the maximum");
        match &publish.topic {
            Some(topic) => drop(self.aliases.insert(alias.get(), topic.clone())),
            None => publish.topic = self.aliases.get(&alias.get()).cloned(),
        }
        assert!(publish.topic.is_some(), "{alias} stands for nothing");
    }

    fn handle_publish(&mut self, mut publish: Publish) -> Vec<Packet> {
        self.resolve_alias(&mut publish);
        assert!(publish.qos <= self.properties.maximum_qos.unwrap_or(QoS::ExactlyOnce));
        let topic = publish.topic.as_ref().map(|topic| topic.as_str().to_owned()).unwrap_or_default();
        let refusal = self.refusals.get(&topic).copied();
        match (publish.qos, publish.packet_id) {
            (QoS::AtMostOnce, None) => {
                self.delivered.push(publish);
                Vec::new()
            }
            (QoS::AtLeastOnce, Some(id)) => {
                if let Some(reason) = refusal {
                    return vec![Packet::Puback(Ack::with_reason(id, reason))];
                }
                self.delivered.push(publish);
                vec![Packet::Puback(Ack::success(id))]
            }
            (QoS::ExactlyOnce, Some(id)) => {
                if let Some(reason) = refusal {
                    return vec![Packet::Pubrec(Ack::with_reason(id, reason))];
                }
                if self.held.insert(id) {
                    self.delivered.push(publish);
                }
                vec![Packet::Pubrec(Ack::success(id))]
            }
            (qos, id) => panic!("{qos:?} with {id:?}"),
        }
    }
}
