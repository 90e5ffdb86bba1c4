//! Cloud to local: which local messages a PUBLISH becomes, and when it is acknowledged. Never routes them.

use std::sync::Arc;

use bytes::Bytes;

use crate::base::time::{Duration, Now};
use crate::bridge::Bridge;
use crate::bridge::compress;
use crate::bridge::effect::{Effects, Received};
use crate::bridge::expiry;
use crate::bridge::fault::LinkFault;
use crate::bridge::rules;
use crate::bridge::status::Loss;
use crate::config::uplink::Compression;
use crate::mqtt::message::{Message, MessageProperties, Origin};
use crate::mqtt::packet::Version;
use crate::mqtt::packet::publish::Publish;
use crate::mqtt::qos::QoS;
use crate::mqtt::via;

impl Bridge {
    /// A received message is safe in the gateway, or was refused: its acknowledgement may leave.
    pub fn handle_completed(&mut self, token: u64, refused: bool, now: Now, out: &mut Effects) {
        let refused = self.inlet.handle_completed(token, refused, &mut out.ledger.log);
        if refused {
            // Its size went with it.
            self.count_loss(Loss::ReceivedRefused, None, 0);
        }
        self.pump(now, out);
        self.report_losses(now);
    }

    /// Another gateway's topics carry marks over 3.1.1.
    pub(super) fn unmark(&self, publish: &mut Publish) {
        let carries = self.server.is_gateway && self.settings.bridge.protocol != Version::V5;
        if let Some(topic) = publish.topic.as_mut().filter(|_| carries) {
            via::take_marks(topic, &mut publish.properties);
        }
    }

    pub(super) fn handle_publish(
        &mut self,
        publish: &Publish,
        now: Now,
        out: &mut Effects,
    ) -> Result<(), LinkFault> {
        let to_node = self.node_messages(publish, now, out);
        let is_to_node = to_node.is_some();
        let Local { messages, expired } = if let Some(messages) = to_node {
            Local { messages, expired: Vec::new() }
        } else {
            let first = self.arrivals.first(publish, now);
            self.local_messages(publish, (first, now))?
        };
        let tokens = match (publish.qos, publish.packet_id) {
            (QoS::AtMostOnce, _) => None,
            (QoS::AtLeastOnce, Some(id)) => Some(self.inlet.handle_qos1(id, messages.len())),
            (QoS::ExactlyOnce, Some(id)) => {
                if !publish.dup {
                    self.inlet.handle_first(id, &mut out.ledger.log);
                }
                match self.inlet.handle_qos2(id, messages.len(), &mut out.ledger.log) {
                    Some(tokens) => Some(tokens),
                    None => return Ok(()),
                }
            }
            (_, None) => return Err(LinkFault::Unexpected("PUBLISH without an identifier")),
        };
        self.counters.received += 1;
        if !expired.is_empty() {
            self.count_loss(Loss::ReceivedExpired, None, publish.payload.len());
        } else if messages.is_empty() && !is_to_node {
            self.count_loss(Loss::ReceivedUnroutable, None, publish.payload.len());
        }
        let mut tokens = tokens.into_iter().flatten();
        let received =
            |message, token, is_expired| Received { message: Arc::new(message), token, is_expired };
        out.publishes.extend(messages.into_iter().map(|message| received(message, tokens.next(), false)));
        out.publishes.extend(expired.into_iter().map(|message| received(message, None, true)));
        Ok(())
    }

    /// One for each rule that matches, makes a topic of it, and takes what is so old.
    fn local_messages(&self, publish: &Publish, (first, now): (Now, Now)) -> Result<Local, LinkFault> {
        // We announce no topic aliases [MQTT-3.3.2-9].
        let Some(topic) = &publish.topic else { return Err(LinkFault::Unexpected("topic alias")) };
        let rules = self.settings.bridge.receive.iter().filter(|rule| rule.filter.matches(topic));
        let waited = now.instant.since(first.instant);
        let own_expiry =
            publish.expiry_interval.map(|secs| Duration::from_secs(secs.into()).saturating_add(waited));
        let (payload, mut properties) = self.plain_content(publish);
        self.name_answers(properties.as_deref_mut());
        let mut local = Local { messages: Vec::new(), expired: Vec::new() };
        for rule in rules {
            let left = |most| expiry::left((most, waited), &payload, properties.as_deref(), now);
            let (expiry_interval, found) = match rule.expiry.map(left) {
                None => (own_expiry, &mut local.messages),
                Some(Some(left)) => (Some(own_expiry.map_or(left, |own| own.min(left))), &mut local.messages),
                Some(None) => (Some(Duration::ZERO), &mut local.expired),
            };
            let Some(target) = rules::receive_topic(&self.settings.gateway, rule, topic) else { continue };
            found.push(Message {
                topic: target,
                payload: payload.clone(),
                qos: rule.qos.min(publish.qos),
                retain: publish.retain,
                properties: properties.clone(),
                expiry_interval,
                origin: Origin::Bridge(self.settings.index),
                arrived: first,
            });
        }
        Ok(local)
    }

    /// The cloud names its response topic as it knows it: an answer on the local name of that is carried there.
    fn name_answers(&self, properties: Option<&mut MessageProperties>) {
        let Some(response) = properties.and_then(|properties| properties.response_topic.as_mut()) else {
            return;
        };
        let settings = &self.settings;
        if let Some(local) = rules::local_topic(&settings.gateway, &settings.bridge.forward, response) {
            *response = local;
        }
    }

    /// Payload and properties, without the compression that another gateway put on.
    fn plain_content(&self, publish: &Publish) -> (Bytes, Option<Box<MessageProperties>>) {
        let (payload, mut properties) = (publish.payload.clone(), publish.properties.clone());
        if self.settings.bridge.buffer.compress == Compression::None {
            return (payload, properties);
        }
        let Some((plain, content_type)) = compress::decompress(&payload, properties.as_deref()) else {
            return (payload, properties);
        };
        if let Some(properties) = &mut properties {
            properties.content_type = content_type;
        }
        (plain, properties.filter(|properties| !properties.is_empty()))
    }
}

/// What a message of the cloud becomes.
struct Local {
    messages: Vec<Message>,
    /// What rules refused for its age.
    expired: Vec<Message>,
}
