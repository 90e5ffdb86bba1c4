//! Local to cloud: into the buffer, out of it as packets, and what the cloud says to them. Decides nothing
//! about the link.

use std::sync::Arc;

use crate::base::time::Now;
use crate::bridge::Bridge;
use crate::bridge::compress;
use crate::bridge::effect::Effects;
use crate::bridge::fate::Cause;
use crate::bridge::fault::LinkFault;
use crate::bridge::lane::{self, Lane, MAIN};
use crate::bridge::lanes::Next;
use crate::bridge::policy_of;
use crate::bridge::rules;
use crate::bridge::status::{LinkState, Loss};
use crate::config::model::ForwardRule;
use crate::config::provider::Provider;
use crate::config::uplink::Compression;
use crate::mqtt::message::{Message, MessageProperties, Origin};
use crate::mqtt::packet::ack::Ack;
use crate::mqtt::packet::publish::Publish;
use crate::mqtt::packet::{Packet, Version};
use crate::mqtt::qos::{PacketId, QoS};
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::via;
use crate::spool::Hold;
use crate::spool::queue::{Acknowledged, Offer, Orphan, Sending};
use crate::spool::settings::Offered;
use crate::store::record::{Entry, Seq};

/// The fate of a message that was not tried.
const SPARED: &str = "as another one on its topic, which the server closed the connection for; not tried";

/// A local message that a `forward` rule matches.
#[derive(Debug, Clone)]
pub struct Forwarded {
    pub rule: u16,
    pub message: Arc<Message>,
    /// Released when the message is safe.
    pub hold: Option<Hold>,
    /// The publisher will not send it again.
    pub urgent: bool,
}

/// How a message is to be sent.
pub(super) struct Manner {
    qos: QoS,
    retain: bool,
    dup: bool,
    /// New ones went before it.
    pub(super) replayed: bool,
    packet_id: Option<PacketId>,
    /// Its place in the buffer.
    pub(super) seq: Option<Seq>,
}

impl Bridge {
    pub fn handle_forward(&mut self, forwarded: Forwarded, now: Now, out: &mut Effects) {
        if self.speaks_for(&forwarded.message.topic) {
            // Of the gateway's own node this link tells by itself, in a session of its own.
            out.ledger.released.extend(forwarded.hold);
            return;
        }
        self.take_forward(forwarded, now, out);
    }

    pub(super) fn take_forward(&mut self, forwarded: Forwarded, now: Now, out: &mut Effects) {
        let message = &forwarded.message;
        let rule = self.settings.bridge.forward.get(usize::from(forwarded.rule));
        let manner = match rule {
            // What came from this cloud never goes back to it.
            Some(_) if message.origin == Origin::Bridge(self.settings.index) => None,
            Some(rule) => Some((rules::forward_qos(rule, message), rules::forward_retain(rule, message))),
            None => {
                self.count_loss(Loss::Unroutable, None, message.size_bytes());
                None
            }
        };
        match manner {
            None => out.ledger.released.extend(forwarded.hold),
            Some((QoS::AtMostOnce, retain)) => self.forward_now(&forwarded, retain, now, out),
            Some((qos, retain)) => self.forward_safely(forwarded, (qos, retain), now, out),
        }
        self.report_losses(now);
    }

    /// QoS 0: now or never.
    fn forward_now(&mut self, forwarded: &Forwarded, retain: bool, now: Now, out: &mut Effects) {
        out.ledger.released.extend(forwarded.hold);
        // Beside a message or a filter that is on trial nothing leaves that could be to blame.
        let on_trial = self.suspicion.is_at_work() && self.messages_due() > 0 || self.asked.doubt.is_asking();
        if self.phase.state() != LinkState::Up || !self.liveness.has_room() || on_trial {
            self.count_loss(Loss::AtMostOnce, Some(forwarded.rule), forwarded.message.size_bytes());
            return;
        }
        let manner =
            Manner { qos: QoS::AtMostOnce, retain, dup: false, replayed: false, packet_id: None, seq: None };
        match self.packet_of(forwarded.rule, &forwarded.message, &manner, (now, out)) {
            Ok(publish) => {
                self.counters.forwarded += 1;
                self.send_publish(publish, now, out);
            }
            Err(why) => self.count_loss(why, Some(forwarded.rule), forwarded.message.size_bytes()),
        }
    }

    /// QoS 1 and 2: through the buffer.
    fn forward_safely(
        &mut self,
        forwarded: Forwarded,
        (qos, retain): (QoS, bool),
        now: Now,
        out: &mut Effects,
    ) {
        let Forwarded { rule, message, hold, urgent } = forwarded;
        // It would push everything else out and still not fit.
        let bytes = message.size_bytes();
        if bytes as u64 > self.size_bytes(rule) {
            self.count_loss(Loss::TooLarge, Some(rule), bytes);
            out.ledger.released.extend(hold);
            return;
        }
        let offer = Offer { message, qos, retain, rule, subscription_identifiers: Box::default(), hold };
        let (lane, yields) = self.lane_of(rule, bytes);
        if self.lanes.offer(lane, offer, (urgent, yields), (now, &mut out.ledger)) == Offered::Rejected {
            self.count_loss(Loss::Rejected, Some(rule), bytes);
        }
        self.pump(now, out);
    }

    /// Where a message of a rule goes now, and whether others make room for it.
    fn lane_of(&self, rule: u16, bytes: usize) -> (Lane, bool) {
        let Some(configured) = self.settings.bridge.forward.get(usize::from(rule)) else {
            return (MAIN, false);
        };
        let lane = self.lanes.choose(lane::waiting(configured), lane::live(configured), rule, bytes);
        (lane, policy_of(configured.when_full).yields())
    }

    /// What may wait of a rule at most.
    fn size_bytes(&self, rule: u16) -> u64 {
        let buffer = self.settings.bridge.buffer.size_bytes;
        let share = self.settings.bridge.forward.get(usize::from(rule)).and_then(|rule| rule.size_bytes);
        share.map_or(buffer, |share| share.min(buffer))
    }

    /// Sends what the window takes.
    pub(super) fn pump_spool(&mut self, now: Now, out: &mut Effects) {
        self.open_aside();
        while self.liveness.has_room() && !self.aside.is_settling() {
            let Some(Next { sending, lane, replayed }) = self.lanes.next_sending(now, &mut out.ledger) else {
                return self.say_turns(None, now, out);
            };
            match sending {
                Sending::Release { packet_id } => {
                    self.liveness.handle_in_flight(packet_id, now.instant);
                    self.send(Packet::Pubrel(Ack::success(packet_id)), now, out);
                }
                Sending::Publish { packet_id, dup, entry } => {
                    if self.goes_aside(lane, (packet_id, dup), &entry) {
                        let orphan = self.take_unsent((packet_id, dup), out);
                        if let Some(orphan) = orphan {
                            self.move_aside(orphan, now, out);
                        }
                        continue;
                    }
                    self.send_entry((packet_id, dup, replayed), &entry, (now, out));
                }
            }
        }
    }

    fn send_entry(
        &mut self,
        (packet_id, dup, replayed): (PacketId, bool, bool),
        entry: &Entry,
        (now, out): (Now, &mut Effects),
    ) {
        if let Some(cause) = self.suspicion.condemns(&entry.message, now.instant) {
            let orphan = self.take_unsent((packet_id, dup), out);
            return self.bury(orphan, (cause, SPARED), now, out);
        }
        // [MQTT-3.2.2-11]
        let qos = entry.qos.min(self.server.maximum_qos);
        let acknowledged = qos != QoS::AtMostOnce;
        let manner = Manner {
            qos,
            // What is kept is what came last, and that went before.
            retain: entry.retain && !replayed,
            dup: dup && acknowledged,
            replayed,
            packet_id: acknowledged.then_some(packet_id),
            seq: Some(entry.seq),
        };
        match self.packet_of(entry.rule, &entry.message, &manner, (now, out)) {
            Ok(publish) => {
                self.send_publish(publish, now, out);
                if acknowledged {
                    self.liveness.handle_in_flight(packet_id, now.instant);
                    self.note_sent(packet_id, entry, qos);
                } else {
                    self.finish(packet_id, out);
                    self.counters.forwarded += 1;
                }
            }
            Err(why) => {
                let orphan = self.take_unsent((packet_id, dup), out);
                let detail = self.words_of(why);
                self.bury(orphan, (Cause::of_loss(why), &detail), now, out);
            }
        }
    }

    /// One that does not leave now. `dup`: on another connection, or before the rules changed, it may have left.
    fn take_unsent(&mut self, (packet_id, dup): (PacketId, bool), out: &mut Effects) -> Option<Orphan> {
        if dup && self.server.maximum_qos == QoS::ExactlyOnce {
            self.lanes.take_unanswered(packet_id, &mut out.ledger)
        } else {
            self.lanes.take_refused(packet_id, &mut out.ledger)
        }
    }

    fn words_of(&self, why: Loss) -> String {
        match why {
            Loss::TooLarge => format!("larger than the server takes: {}", self.server.limits()),
            _ => "no rule, or no topic of the server's, carries it".to_owned(),
        }
    }

    /// As the far end is to have it: what a Sparkplug node says has the numbers of its session.
    fn packet_of(
        &mut self,
        rule: u16,
        message: &Arc<Message>,
        manner: &Manner,
        (now, out): (Now, &mut Effects),
    ) -> Result<Publish, Loss> {
        let told = self.told_now(message, manner, now, out)?;
        let made = self.publish_of(rule, &told, manner, now);
        if made.is_err() && !Arc::ptr_eq(&told, message) {
            self.take_back();
        }
        made
    }

    fn publish_of(
        &self,
        rule: u16,
        message: &Arc<Message>,
        manner: &Manner,
        now: Now,
    ) -> Result<Publish, Loss> {
        let bridge = &self.settings.bridge;
        let rule: &ForwardRule =
            rules::rule_of(&bridge.forward, rule, &message.topic).ok_or(Loss::Unroutable)?;
        let topic = rules::forward_topic(&self.settings.gateway, rule, &message.topic);
        let message = Message::leaving(message, manner.dup, now);
        let speaks_properties = bridge.protocol == Version::V5;
        let mut publish = Publish {
            dup: manner.dup,
            qos: manner.qos,
            // [MQTT-3.2.2-14]
            retain: manner.retain && self.server.retain_available,
            topic: Some(topic.ok_or(Loss::Unroutable)?),
            packet_id: manner.packet_id,
            payload: message.payload.clone(),
            topic_alias: None,
            expiry_interval: if speaks_properties { message.expiry_left_secs(now) } else { None },
            subscription_identifiers: Vec::new(),
            properties: if speaks_properties { properties_of(&message, manner) } else { None },
        };
        self.mark(&mut publish, &message);
        if bridge.buffer.compress == Compression::Zstd {
            compress_payload(&mut publish);
        }
        self.server.check(&publish, bridge.protocol)?;
        Ok(publish)
    }

    /// What may come back says where it came from. A cloud that has rules of its own is told nothing that it does not
    /// ask for.
    fn mark(&self, publish: &mut Publish, message: &Message) {
        let (bridge, mark) = (&self.settings.bridge, &self.settings.mark);
        if bridge.protocol != Version::V5 {
            if self.server.is_gateway {
                let mut properties = message.properties.clone();
                via::add_mark(&mut properties, mark);
                let marked = publish.topic.as_ref().and_then(|topic| via::with_marks(topic, &properties));
                publish.topic = marked.or(publish.topic.take());
            }
            return;
        }
        let may_return = self.settings.may_return || self.server.is_gateway;
        if may_return && bridge.account.provider() == Provider::Generic {
            via::add_mark(&mut publish.properties, mark);
        }
    }

    pub(super) fn handle_puback(&mut self, ack: &Ack, now: Now, out: &mut Effects) -> Result<(), LinkFault> {
        if ack.reason.is_error() {
            return self.handle_refused(ack, QoS::AtLeastOnce, now, out);
        }
        self.note_acknowledged(QoS::AtLeastOnce);
        self.note_taken(ack.packet_id);
        self.liveness.handle_acknowledged(ack.packet_id, now.instant);
        if self.finish(ack.packet_id, out) == Acknowledged::Known {
            self.counters.forwarded += 1;
        }
        Ok(())
    }

    pub(super) fn handle_pubrec(&mut self, ack: &Ack, now: Now, out: &mut Effects) -> Result<(), LinkFault> {
        if ack.reason.is_error() {
            return self.handle_refused(ack, QoS::ExactlyOnce, now, out);
        }
        self.note_acknowledged(QoS::ExactlyOnce);
        self.note_taken(ack.packet_id);
        self.liveness.handle_acknowledged(ack.packet_id, now.instant);
        if self.lanes.handle_pubrec(ack.packet_id, &mut out.ledger) == Acknowledged::Unknown {
            let reason = match self.settings.bridge.protocol {
                Version::V5 => ReasonCode::PacketIdentifierNotFound,
                Version::V3_1 | Version::V3_1_1 => ReasonCode::Success,
            };
            self.send(Packet::Pubrel(Ack::with_reason(ack.packet_id, reason)), now, out);
        }
        Ok(())
    }

    /// Whatever its reason: the server does not know the identifier any more.
    pub(super) fn handle_pubcomp(&mut self, ack: &Ack, now: Now, out: &mut Effects) {
        self.liveness.handle_acknowledged(ack.packet_id, now.instant);
        if self.lanes.handle_pubcomp(ack.packet_id, &mut out.ledger) == Acknowledged::Known {
            self.counters.forwarded += 1;
        }
    }

    /// The message is with the server, whatever QoS it was stored with and was lowered to.
    fn finish(&mut self, packet_id: PacketId, out: &mut Effects) -> Acknowledged {
        let plain = self.lanes.handle_puback(packet_id, &mut out.ledger);
        if plain == Acknowledged::Known || self.server.maximum_qos == QoS::ExactlyOnce {
            return plain;
        }
        match self.lanes.handle_pubrec(packet_id, &mut out.ledger) {
            Acknowledged::Known => self.lanes.handle_pubcomp(packet_id, &mut out.ledger),
            other => other,
        }
    }
}

/// What had to wait says so, each time that it is sent.
fn properties_of(message: &Message, manner: &Manner) -> Option<Box<MessageProperties>> {
    let mut properties = message.properties.clone();
    if manner.replayed {
        properties.get_or_insert_default().user_properties.push(("replay".into(), "1".into()));
    }
    properties
}

fn compress_payload(publish: &mut Publish) {
    if let Some((payload, content_type)) = compress::compress(&publish.payload, publish.properties.as_deref())
    {
        publish.payload = payload;
        let properties = publish.properties.get_or_insert_default();
        properties.content_type = Some(content_type);
        // [MQTT-3.3.2-4]: it said so of what was compressed.
        properties.payload_format_utf8 = None;
    }
}
