//! From a publication to its targets: sessions now or through their queue, bridges, devices. Decides copies,
//! QoS and flags; never acknowledges.

use std::sync::Arc;

use crate::base::ids::SlotKey;
use crate::broker::barrier::Ticket;
use crate::broker::effect::{Command, Delivery, Forward, Outgoing};
use crate::broker::router::{Granted, NO_SHARE, Target, Turn};
use crate::broker::session::Attached;
use crate::broker::terms::Marking;
use crate::broker::{Broker, Visit};
use crate::mqtt::message::{Message, Origin};
use crate::mqtt::packet::Packet;
use crate::mqtt::packet::ack::Ack;
use crate::mqtt::qos::QoS;
use crate::mqtt::via;
use crate::spool::Hold;
use crate::spool::queue::{Offer, Orphan, Sending};

/// A message on its way to all its targets.
#[derive(Debug)]
pub struct Publication {
    pub message: Arc<Message>,
    /// Nobody will send it again: it is recorded in this visit wherever it has to be.
    pub urgent: bool,
    /// Counts where it is not safe yet. None: nobody waits.
    pub ticket: Option<Ticket>,
}

/// A message for one session.
#[derive(Debug)]
pub struct Copy {
    pub message: Arc<Message>,
    pub qos: QoS,
    pub retain: bool,
    pub subscription_identifiers: Box<[u32]>,
    /// The mark of the shared subscription that brings it, or [`NO_SHARE`].
    pub share: u16,
    pub urgent: bool,
    pub hold: Option<Hold>,
}

impl Broker {
    /// To every target, and to the retained messages. False: nobody subscribed.
    pub(super) fn route(&mut self, publication: &mut Publication, visit: &mut Visit<'_>) -> bool {
        if self.has_been_here(&publication.message) {
            self.stats.returned += 1;
            return true;
        }
        let found = self.router.targets(&publication.message.topic);
        self.fan_out(&found, publication, visit);
        let matched = !found.is_empty();
        self.router.reuse(found);
        self.retain(publication, visit);
        matched
    }

    /// A bridge of this gateway forwarded it, and others brought it back.
    fn has_been_here(&self, message: &Message) -> bool {
        let properties = message.properties.as_deref();
        properties.is_some_and(|properties| properties.went_through(&self.settings.mark))
    }

    /// Whether every buffer that the message is for would take it.
    pub(super) fn admits(&mut self, message: &Message) -> bool {
        if self.gates.is_empty() {
            return true;
        }
        let found = self.router.targets(&message.topic);
        let bytes = message.size_bytes() as u64;
        let admitted = found.iter().all(|(target, _)| match target {
            Target::Forward { bridge, rule } => {
                is_own_bridge(message, *bridge)
                    || self.gates.get(&(*bridge, *rule)).is_none_or(|room| bytes <= *room)
            }
            Target::Session(_) | Target::Shared(_) | Target::Device(_) => true,
        });
        self.router.reuse(found);
        admitted
    }

    /// One session's copy: now at QoS 0, else through its queue, in the order of arrival [MQTT-4.6.0-5]
    /// [MQTT-4.6.0-6] [MQTT-4.6.0-5 of 3.1.1] [MQTT-4.6.0-6 of 3.1.1].
    pub(super) fn deliver(&mut self, key: SlotKey, copy: Copy, visit: &mut Visit<'_>) {
        if copy.qos == QoS::AtMostOnce {
            self.deliver_now(key, copy, visit);
            return;
        }
        // [MQTT-4.5.0-1] [MQTT-4.5.0-1 of 3.1.1]
        let Some(session) = self.sessions.get_mut(key) else { return };
        let offer = Offer {
            message: copy.message,
            qos: copy.qos,
            retain: copy.retain,
            rule: copy.share,
            subscription_identifiers: copy.subscription_identifiers,
            hold: copy.hold,
        };
        // What the queue's bound costs is counted by the queue.
        let _counted = session.spool.offer(offer, copy.urgent, visit.now, &mut visit.out.ledger);
        self.settle(key, visit);
    }

    /// Sends what a session's queue has and its client's window takes [MQTT-3.3.4-9] [MQTT-4.9.0-2]; other packets
    /// never wait for the window [MQTT-3.3.4-10] [MQTT-4.9.0-3].
    pub(super) fn send_queued(&mut self, key: SlotKey, visit: &mut Visit<'_>) {
        while let Some(session) = self.sessions.get_mut(key)
            && let Some(attached) = session.attached.filter(|attached| attached.up)
            && let Some(sending) = session.spool.next_sending(visit.now, &mut visit.out.ledger)
        {
            let (packet_id, dup, entry) = match sending {
                Sending::Publish { packet_id, dup, entry } => (packet_id, dup, entry),
                Sending::Release { packet_id } => {
                    self.send(attached.conn, Packet::Pubrel(Ack::success(packet_id)), visit.out);
                    continue;
                }
            };
            let may_receive = session.may_receive(&entry.message.topic);
            let leaving = Message::leaving(&entry.message, dup, visit.now);
            let delivery = Delivery {
                message: marked(leaving, attached, &self.settings.mark),
                qos: entry.qos,
                // [MQTT-3.3.1-1] [MQTT-3.3.1-1 of 3.1.1] [MQTT-4.3.2-2] [MQTT-4.3.3-2]
                dup,
                retain: entry.retain,
                packet_id: Some(packet_id),
                subscription_identifiers: entry.subscription_identifiers,
                topic_alias: None,
            };
            // [MQTT-3.1.2-24] [MQTT-3.1.2-25]; and rules or client may have changed since it was queued.
            if !may_receive || !fits(&delivery, attached) {
                self.stats.dropped += 1;
                let ledger = &mut visit.out.ledger;
                if dup && delivery.qos == QoS::ExactlyOnce {
                    // It may be with the client, and only PUBREL frees its identifier there.
                    session.spool.handle_pubrec(packet_id, ledger);
                } else {
                    session.spool.handle_refused(packet_id, ledger);
                }
                continue;
            }
            self.count_sent(&delivery);
            visit.out.sends.push((attached.conn, Outgoing::Publish(delivery)));
        }
    }

    fn fan_out(&mut self, found: &[(Target, Granted)], publication: &mut Publication, visit: &mut Visit<'_>) {
        // Sorted: all subscriptions of one session stand together. What a group brings it is a copy of its own,
        // with the identifier of that subscription alone [MQTT-3.3.4-5].
        for matched in found.chunk_by(|one, next| one.0 == next.0) {
            let Some((target, _)) = matched.first() else { continue };
            match *target {
                Target::Session(key) => {
                    let granted = matched.iter().map(|(_, granted)| *granted);
                    self.deliver_matched(key, granted, publication, visit);
                }
                Target::Shared(group) => self.deliver_shared(group, publication, visit),
                Target::Forward { bridge, rule } => self.pass_on(bridge, rule, publication, visit),
                Target::Device(device) => {
                    let message = publication.message.clone();
                    let waits = message.qos != QoS::AtMostOnce;
                    let hold = publication.ticket.as_mut().filter(|_| waits).map(Ticket::hold);
                    visit.out.commands.push(Command { device, message, hold, urgent: publication.urgent });
                }
            }
        }
    }

    /// One copy for all subscriptions of a session that match.
    fn deliver_matched(
        &mut self,
        key: SlotKey,
        matched: impl Iterator<Item = Granted>,
        publication: &mut Publication,
        visit: &mut Visit<'_>,
    ) {
        let Some(copy) = self.copy_for(key, matched, &publication.message) else { return };
        self.deliver_held(key, copy, publication, visit);
    }

    /// The publisher's acknowledgement waits for the copy, where it is to last.
    fn deliver_held(
        &mut self,
        key: SlotKey,
        mut copy: Copy,
        publication: &mut Publication,
        visit: &mut Visit<'_>,
    ) {
        let durable = self.sessions.get(key).is_some_and(|session| session.durable);
        let waits = durable && copy.qos != QoS::AtMostOnce;
        copy.hold = publication.ticket.as_mut().filter(|_| waits).map(Ticket::hold);
        copy.urgent = publication.urgent;
        self.deliver(key, copy, visit);
    }

    /// None: nothing is for that session.
    fn copy_for(
        &self,
        key: SlotKey,
        matched: impl Iterator<Item = Granted>,
        message: &Arc<Message>,
    ) -> Option<Copy> {
        let session = self.sessions.get(key)?;
        if !session.may_receive(&message.topic) {
            return None;
        }
        let own = matches!(&message.origin, Origin::Client(id) if *id == session.client_id);
        let mut identifiers = Vec::new();
        let mut merged: Option<(QoS, bool)> = None;
        for granted in matched {
            // [MQTT-3.8.3-3]
            if own && granted.options.no_local {
                continue;
            }
            let (qos, as_published) = merged.unwrap_or_default();
            // [MQTT-3.3.4-2] [MQTT-3.3.5-1 of 3.1.1]
            merged =
                Some((qos.max(granted.options.qos), as_published || granted.options.retain_as_published));
            // [MQTT-3.3.4-3] [MQTT-3.3.4-4]
            identifiers.extend(granted.identifier);
        }
        let (granted_qos, as_published) = merged?;
        Some(Copy {
            message: message.clone(),
            // The lower of published and granted [MQTT-3.8.4-8] [MQTT-4.8.2-3] [MQTT-3.8.4-6 of 3.1.1].
            qos: message.qos.min(granted_qos),
            // [MQTT-3.3.1-12] [MQTT-3.3.1-13] [MQTT-3.3.1-9 of 3.1.1]
            retain: message.retain && as_published,
            subscription_identifiers: identifiers.into_boxed_slice(),
            share: NO_SHARE,
            urgent: false,
            hold: None,
        })
    }

    /// One member of the group gets it. What was sent to that member is nobody else's while its session lasts: so
    /// QoS 2 is completed with whom it was begun [MQTT-4.8.2-4], and what a member refuses is gone [MQTT-4.8.2-6].
    fn deliver_shared(&mut self, group: SlotKey, publication: &mut Publication, visit: &mut Visit<'_>) {
        let Some((turn, copy)) = self.next_turn(group, &publication.message) else { return };
        self.deliver_held(turn.session, copy, publication, visit);
    }

    /// A message that a member leaves behind goes to another. Nobody will send it again, so that it is urgent.
    pub(super) fn deliver_orphan(&mut self, orphan: Orphan, group: SlotKey, visit: &mut Visit<'_>) {
        let Orphan { entry, mut hold } = orphan;
        let next = self.next_turn(group, &entry.message);
        let kept = next.as_ref().is_some_and(|(_, copy)| copy.qos != QoS::AtMostOnce);
        if !kept {
            visit.out.ledger.released.extend(hold.take());
        }
        let Some((turn, copy)) = next else { return };
        self.deliver(turn.session, Copy { urgent: true, hold, ..copy }, visit);
    }

    /// Round the group, to whoever can take it; else it waits with one of them.
    fn next_turn(&mut self, group: SlotKey, message: &Arc<Message>) -> Option<(Turn, Copy)> {
        let sessions = &self.sessions;
        let turn =
            self.router.next_member(group, |key, granted| sessions.get(key)?.readiness(message, granted))?;
        let copy = self.copy_for(turn.session, std::iter::once(turn.granted), message)?;
        Some((turn, Copy { share: turn.mark, ..copy }))
    }

    fn pass_on(&mut self, bridge: u16, rule: u16, publication: &mut Publication, visit: &mut Visit<'_>) {
        let message = &publication.message;
        // A bridge does not get back what it brought.
        if is_own_bridge(message, bridge) {
            return;
        }
        // One that does not fit has no publisher to be told; the bridge drops and counts it.
        if let Some(room) = self.gates.get_mut(&(bridge, rule)) {
            *room = room.checked_sub(message.size_bytes() as u64).unwrap_or(*room);
        }
        let waits = message.qos != QoS::AtMostOnce;
        visit.out.forwards.push(Forward {
            bridge,
            rule,
            message: message.clone(),
            hold: publication.ticket.as_mut().filter(|_| waits).map(Ticket::hold),
            urgent: publication.urgent,
        });
    }

    /// QoS 0: whoever is away does not get it.
    fn deliver_now(&mut self, key: SlotKey, copy: Copy, visit: &mut Visit<'_>) {
        let Some(attached) = self.sessions.get(key).and_then(|session| session.attached) else { return };
        let leaving = Message::leaving(&copy.message, false, visit.now);
        let delivery = Delivery {
            message: marked(leaving, attached, &self.settings.mark),
            qos: QoS::AtMostOnce,
            // [MQTT-3.3.1-2] [MQTT-3.3.1-2 of 3.1.1] [MQTT-4.3.1-1] [MQTT-4.3.1-1 of 3.1.1]
            dup: false,
            retain: copy.retain,
            packet_id: None,
            subscription_identifiers: copy.subscription_identifiers,
            topic_alias: None,
        };
        // [MQTT-3.1.2-24] [MQTT-3.1.2-25]
        if !fits(&delivery, attached) {
            self.stats.dropped += 1;
            return;
        }
        if attached.up {
            self.count_sent(&delivery);
            visit.out.sends.push((attached.conn, Outgoing::Publish(delivery)));
            return;
        }
        let link = self.conns.link_mut(attached.conn);
        if !link.is_some_and(|link| link.defer(delivery)) {
            self.stats.dropped += 1;
        }
    }

    pub(super) fn count_sent(&mut self, delivery: &Delivery) {
        self.stats.messages_sent += 1;
        self.stats.publish_sent += 1;
        self.stats.publish_bytes_sent += delivery.message.payload.len() as u64;
    }
}

/// What another gateway is sent says that it was here, so that it is known when it comes back.
fn marked(message: Arc<Message>, attached: Attached, mark: &Arc<str>) -> Arc<Message> {
    if attached.marking == Marking::None {
        return message;
    }
    let mut marked = Message::clone(&message);
    via::add_mark(&mut marked.properties, mark);
    if attached.marking == Marking::Topic {
        let topic = via::with_marks(&marked.topic, &marked.properties);
        marked.topic = topic.unwrap_or(marked.topic);
    }
    Arc::new(marked)
}

/// Whether the client takes a packet of that size. Only 5.0 clients can say no.
fn fits(delivery: &Delivery, attached: Attached) -> bool {
    if attached.packet_bytes_max == usize::MAX {
        return true;
    }
    delivery.size_bytes() <= attached.packet_bytes_max
}

fn is_own_bridge(message: &Message, bridge: u16) -> bool {
    message.origin == Origin::Bridge(bridge)
}
