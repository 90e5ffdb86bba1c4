//! Cloud to local: which local messages a PUBLISH becomes, and when it is acknowledged. Never routes them.

use std::sync::Arc;

use crate::base::time::{Duration, Now};
use crate::bridge::Bridge;
use crate::bridge::effect::{Effects, Received};
use crate::bridge::expiry;
use crate::bridge::fault::LinkFault;
use crate::bridge::rules;
use crate::bridge::status::Loss;
use crate::mqtt::message::{Message, Origin};
use crate::mqtt::packet::publish::Publish;
use crate::mqtt::qos::QoS;

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

    pub(super) fn handle_publish(
        &mut self,
        publish: &Publish,
        now: Now,
        out: &mut Effects,
    ) -> Result<(), LinkFault> {
        let Local { messages, expired } = self.local_messages(publish, now)?;
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
        if expired {
            self.count_loss(Loss::ReceivedExpired, None, publish.payload.len());
        } else if messages.is_empty() {
            self.count_loss(Loss::ReceivedUnroutable, None, publish.payload.len());
        }
        let mut tokens = tokens.into_iter().flatten();
        out.publishes.extend(
            messages.into_iter().map(|message| Received { message: Arc::new(message), token: tokens.next() }),
        );
        Ok(())
    }

    /// One for each rule that matches, makes a topic of it, and takes what is so old.
    fn local_messages(&self, publish: &Publish, now: Now) -> Result<Local, LinkFault> {
        // We announce no topic aliases [MQTT-3.3.2-9].
        let Some(topic) = &publish.topic else { return Err(LinkFault::Unexpected("topic alias")) };
        let rules = self.settings.bridge.receive.iter().filter(|rule| rule.filter.matches(topic));
        let own_expiry = publish.expiry_interval.map(|secs| Duration::from_secs(secs.into()));
        let mut local = Local { messages: Vec::new(), expired: false };
        for rule in rules {
            let expiry = match rule.expiry.map(|most| expiry::left(most, publish, now)) {
                None => own_expiry,
                Some(Some(left)) => Some(own_expiry.map_or(left, |own| own.min(left))),
                Some(None) => {
                    local.expired = true;
                    continue;
                }
            };
            let Some(target) = rules::receive_topic(&self.settings.gateway, rule, topic) else { continue };
            local.messages.push(Message {
                topic: target,
                payload: publish.payload.clone(),
                qos: rule.qos.min(publish.qos),
                retain: publish.retain,
                properties: publish.properties.clone(),
                expiry_interval: expiry,
                origin: Origin::Bridge(self.settings.index),
                arrived: now,
            });
        }
        Ok(local)
    }
}

/// What a message of the cloud becomes.
struct Local {
    messages: Vec<Message>,
    /// A rule refused it for its age.
    expired: bool,
}
