//! The gateway as a Sparkplug node towards its own clients: births, readings in the numbers of this session, and what
//! hosts on the LAN, or a cloud's through its bridge, tell the node and its devices. Decides nothing about a command.

use std::sync::Arc;

use crate::base::time::Now;
use crate::bridge::node::Said;
use crate::broker::effect::Command;
use crate::device::inbox::Commanded;
use crate::hub::core::Core;
use crate::mqtt::message::{Message, Origin};
use crate::mqtt::qos::QoS;
use crate::mqtt::topic::TopicName;
use crate::sparkplug::payload::{DataType, Metric, Payload};
use crate::sparkplug::session::{Publication, Session, asks_rebirth};
use crate::sparkplug::topic::Kind;
use crate::store::record::{Record, SpoolId};

/// What the router has in place of a device for commands to the node, and for those that name their device themselves.
pub const NODE: u16 = u16::MAX;

impl Core {
    /// A node that nobody has been told of yet.
    #[must_use]
    pub fn with_node(mut self, node: Option<Session>) -> Self {
        self.node = node;
        self
    }

    /// Whoever listens is told that the node is there, by the next number after that of the last run.
    pub fn handle_started(&mut self, now: Now) {
        let Some(node) = &mut self.node else { return };
        let bd_seq = node.begin();
        let births = node.births(now);
        self.out.ledger.log.push(Record::BirthPut { spool: SpoolId::LAN, bd_seq });
        self.publish_all(births, (QoS::AtMostOnce, &Origin::Gateway), now);
    }

    /// The node ends; each bridge says so to its own server.
    pub(super) fn stop_node(&mut self, now: Now) {
        let born = self.node.as_ref().filter(|node| node.is_born());
        let death = born.and_then(|node| node.node_death(now));
        self.publish_all(death, (QoS::AtLeastOnce, &Origin::Gateway), now);
    }

    /// What a Sparkplug device says: to each bridge that carries it, and to the clients. The message, where it is none.
    pub(super) fn publish_said(&mut self, message: Message, now: Now) -> Option<Message> {
        let known = self.node.as_ref().filter(|_| matches!(message.origin, Origin::Device(_)));
        let said = known.and_then(|node| node.node().parse(&message.topic));
        let Some((kind, Some(device))) = said else { return Some(message) };
        let (device, Ok(payload)) = (device.to_owned(), Payload::decode(&message.payload)) else {
            return Some(message);
        };
        let message = Arc::new(message);
        let said = Said { kind, device: &device, payload: &payload, message: &message };
        for index in 0..self.bridges().len() {
            self.visit_bridge(index, |bridge, out| bridge.handle_said(said, now, out));
            self.update_gates(index);
        }
        let node = self.node.as_mut()?;
        node.learn(kind, &device, &payload);
        let publications = match kind {
            Kind::DeviceBirth => node.device_birth(&device, now).into_iter().collect(),
            Kind::DeviceDeath => node.device_death(&device, now).into_iter().collect(),
            _ => node.data(&device, &payload, (message.arrived.instant, 0), now),
        };
        self.publish_all(publications, (message.qos, &message.origin), now);
        None
    }

    /// Births and deaths with QoS 0, as the specification says.
    fn publish_all(
        &mut self,
        publications: impl IntoIterator<Item = Publication>,
        (qos, origin): (QoS, &Origin),
        now: Now,
    ) {
        for Publication { topic, payload, kind } in publications {
            let qos = if matches!(kind, Kind::DeviceData | Kind::NodeDeath) { qos } else { QoS::AtMostOnce };
            let message = Arc::new(Message::new(topic, payload, qos, origin.clone(), now));
            // Refused only by a full buffer that is to reject: its bridge counts that.
            let _ = self.broker.handle_publish(message, None, false, now, &mut self.out);
        }
    }

    /// A command to the node, or to one of its devices by Sparkplug's own words.
    pub(super) fn handle_node_command(&mut self, command: Command, now: Now) {
        let Command { message, hold, urgent, .. } = command;
        let node = self.node.as_mut();
        let said = node.as_ref().and_then(|node| node.node().parse(&message.topic));
        let mut orders = match (said, node) {
            (Some((Kind::NodeCommand, _)), Some(node)) if asks_rebirth(&message.payload) => {
                tracing::info!("a Sparkplug host on the LAN asked for a rebirth");
                let births = node.births(now);
                self.publish_all(births, (QoS::AtMostOnce, &Origin::Gateway), now);
                Vec::new()
            }
            (Some((Kind::DeviceCommand, Some(device))), Some(node)) if node.carries(device) => {
                orders_of(node, device, &message)
            }
            _ => Vec::new(),
        };
        // Whoever waits for the command waits for the last of what it asks for.
        let last = orders.pop();
        for order in orders {
            self.handle_order(&Commanded { message: order, hold: None, urgent }, now);
        }
        match last {
            Some(message) => self.handle_order(&Commanded { message, hold, urgent }, now),
            None => self.out.ledger.released.extend(hold),
        }
    }
}

/// A command on its own topic for each metric that is told a value.
fn orders_of(node: &Session, device: &str, message: &Arc<Message>) -> Vec<Arc<Message>> {
    let payload = match Payload::decode(&message.payload) {
        Ok(payload) => payload,
        Err(error) => {
            tracing::warn!(device, %error, "a Sparkplug command cannot be read");
            return Vec::new();
        }
    };
    let order = |metric: &Metric| {
        let (name, datatype) = node.named(device, metric)?;
        let text = metric.value.as_ref()?.text(datatype.unwrap_or(DataType::String));
        // A bit of a point stands behind the point's name.
        let (point, value) = match name.split_once('/') {
            None => (name, serde_json::json!({ "value": text })),
            Some((point, bit)) => {
                let value = serde_json::from_str(&text).unwrap_or(serde_json::Value::Null);
                (point, serde_json::json!({ "value": { bit: value } }))
            }
        };
        let topic = TopicName::new(&format!("devices/{device}/{point}/set")).ok()?;
        Some(Arc::new(Message { topic, payload: value.to_string().into(), ..Message::clone(message) }))
    };
    payload.metrics.iter().filter_map(order).collect()
}
