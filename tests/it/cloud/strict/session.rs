//! What a strict server keeps of one client from connection to connection: subscriptions, what it has for the client, and
//! the QoS 2 identifiers that the client has not released. Never meets a socket.

use std::collections::{BTreeMap, BTreeSet};

use tidegate::mqtt::packet::Packet;
use tidegate::mqtt::packet::ack::Ack;
use tidegate::mqtt::packet::publish::Publish;
use tidegate::mqtt::qos::{PacketId, QoS};
use tidegate::mqtt::topic::{TopicFilter, TopicName};

struct Owed {
    publish: Publish,
    released: bool,
}

#[derive(Default)]
pub struct Session {
    pub subscriptions: Vec<(TopicFilter, QoS)>,
    /// QoS 2 messages that were taken and not released.
    pub held: BTreeSet<PacketId>,
    owed: BTreeMap<PacketId, Owed>,
    next_id: u16,
}

impl Session {
    pub fn subscribe(&mut self, filter: &TopicFilter, qos: QoS) {
        self.subscriptions.retain(|(known, _)| known != filter);
        self.subscriptions.push((filter.clone(), qos));
    }

    /// None: it does not subscribe to that.
    pub fn publish(&mut self, topic: &TopicName, payload: &str, qos: QoS) -> Option<Packet> {
        let granted = self.subscriptions.iter().filter(|(filter, _)| filter.matches(topic));
        let qos = granted.map(|(_, qos)| *qos).max()?.min(qos);
        self.next_id = self.next_id % 60_000 + 1;
        let packet_id = PacketId::new(self.next_id).filter(|_| qos != QoS::AtMostOnce);
        let publish = Publish {
            dup: false,
            qos,
            retain: false,
            topic: Some(topic.clone()),
            packet_id,
            payload: payload.to_owned().into(),
            topic_alias: None,
            expiry_interval: None,
            subscription_identifiers: Vec::new(),
            properties: None,
        };
        if let Some(id) = packet_id {
            self.owed.insert(id, Owed { publish: publish.clone(), released: false });
        }
        Some(Packet::Publish(publish))
    }

    pub fn owed(&self) -> usize {
        self.owed.len()
    }

    /// What was not completed on the last connection.
    pub fn resume(&self) -> Vec<Packet> {
        let again = self.owed.iter().map(|(id, owed)| {
            if owed.released {
                Packet::Pubrel(Ack::success(*id))
            } else {
                Packet::Publish(Publish { dup: true, ..owed.publish.clone() })
            }
        });
        again.collect()
    }

    pub fn complete(&mut self, id: PacketId) {
        self.owed.remove(&id);
    }

    pub fn release(&mut self, id: PacketId) {
        if let Some(owed) = self.owed.get_mut(&id) {
            owed.released = true;
        }
    }
}
