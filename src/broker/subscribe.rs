//! SUBSCRIBE and UNSUBSCRIBE, and the retained messages that a subscription brings.

use std::sync::Arc;

use crate::base::ids::SlotKey;
use crate::broker::deliver::Copy;
use crate::broker::effect::ConnKey;
use crate::broker::router::{Granted, NO_SHARE, share_mark};
use crate::broker::session::SUBSCRIPTIONS_MAX;
use crate::broker::trie::FILTER_LEVELS_MAX;
use crate::broker::violation::Fault;
use crate::broker::{Broker, Visit};
use crate::mqtt::message::Message;
use crate::mqtt::packet::Packet;
use crate::mqtt::packet::connect::Role;
use crate::mqtt::packet::subscribe::{
    RetainHandling, Suback, Subscribe, SubscriptionOptions, Unsuback, Unsubscribe,
};
use crate::mqtt::qos::QoS;
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::topic::TopicFilter;
use crate::store::record::{Entry, Lsn, Record};

impl Broker {
    pub(super) fn apply_subscribe(
        &mut self,
        key: ConnKey,
        subscribe: Subscribe,
        visit: &mut Visit<'_>,
    ) -> Result<(), Fault> {
        let Some(session_key) = self.session_of(key) else { return Ok(()) };
        // [MQTT-3.8.3-4]
        if subscribe.filters.iter().any(|(filter, options)| filter.share_name().is_some() && options.no_local)
        {
            return Err(Fault::NoLocalOnShared);
        }
        let mut reasons = Vec::with_capacity(subscribe.filters.len());
        let mut wanted = Vec::new();
        let mut last = None;
        // Several filters are like several SUBSCRIBEs with one answer [MQTT-3.8.4-5] [MQTT-3.8.4-4 of 3.1.1].
        let role = self.sessions.get(session_key).and_then(|session| session.attached).map(|at| at.role);
        let is_bridge = role.is_some_and(|role| role != Role::Client);
        for (filter, options) in subscribe.filters {
            let options = if is_bridge { of_bridge(&filter, options) } else { options };
            let granted = Granted { options, identifier: subscribe.subscription_identifier };
            match self.add_subscription(session_key, &filter, granted, visit) {
                Ok(added) => {
                    last = added.record.or(last);
                    wanted.extend(added.retained_wanted.then_some((filter, granted)));
                    reasons.push(granted_reason(options.qos));
                }
                Err(reason) => reasons.push(reason),
            }
        }
        // [MQTT-3.8.4-1] [MQTT-3.8.4-2] [MQTT-3.8.4-6] [MQTT-3.8.4-7] [MQTT-2.2.1-6] [MQTT-3.9.3-1]
        // [MQTT-2.3.1-7 of 3.1.1] [MQTT-3.8.4-1 of 3.1.1] [MQTT-3.8.4-2 of 3.1.1] [MQTT-3.8.4-5 of 3.1.1]
        // [MQTT-3.9.3-1 of 3.1.1]; without texts [MQTT-3.9.2-1] [MQTT-3.9.2-2]
        let suback = Suback { packet_id: subscribe.packet_id, reasons, properties: None };
        self.answer_after(key, Packet::Suback(suback), last, visit);
        for (filter, granted) in wanted {
            self.send_retained(session_key, &filter, granted, visit);
        }
        Ok(())
    }

    pub(super) fn apply_unsubscribe(
        &mut self,
        key: ConnKey,
        unsubscribe: &Unsubscribe,
        visit: &mut Visit<'_>,
    ) {
        let Some(session_key) = self.session_of(key) else { return };
        let mut last = None;
        let mut reasons = Vec::with_capacity(unsubscribe.filters.len());
        // [MQTT-3.10.4-6] [MQTT-3.10.4-6 of 3.1.1]
        for filter in &unsubscribe.filters {
            let Some(session) = self.sessions.get_mut(session_key) else { return };
            // Exactly the same text [MQTT-3.10.4-1] [MQTT-3.10.4-1 of 3.1.1]; what is in flight goes on
            // [MQTT-3.10.4-3] [MQTT-3.10.4-3 of 3.1.1].
            if session.subscriptions.remove(filter).is_none() {
                reasons.push(ReasonCode::NoSubscriptionExisted);
                continue;
            }
            if session.durable {
                let (spool, filter) = (session.spool.id(), filter.clone());
                last = Some(visit.out.ledger.log.push(Record::SubscriptionDrop { spool, filter }));
            }
            self.router.unsubscribe(session_key, filter);
            self.pass_on_waiting(session_key, filter, visit);
            reasons.push(ReasonCode::Success);
        }
        // [MQTT-3.10.4-4] [MQTT-3.10.4-5] [MQTT-3.11.3-1] [MQTT-3.10.4-4 of 3.1.1]
        // [MQTT-3.10.4-5 of 3.1.1]; without texts [MQTT-3.11.2-1] [MQTT-3.11.2-2]
        let unsuback = Unsuback { packet_id: unsubscribe.packet_id, reasons, properties: None };
        self.answer_after(key, Packet::Unsuback(unsuback), last, visit);
    }

    /// What a member that leaves its group was not sent yet goes to another, if there is one.
    fn pass_on_waiting(&mut self, key: SlotKey, filter: &TopicFilter, visit: &mut Visit<'_>) {
        let Some(group) = filter.share_name().and_then(|_| self.router.group_of(filter)) else { return };
        let Some(session) = self.sessions.get_mut(key) else { return };
        let mark = share_mark(filter);
        let came_by = |entry: &Entry| entry.rule == mark && filter.matches(&entry.message.topic);
        for orphan in session.spool.take_waiting(came_by, &mut visit.out.ledger) {
            self.deliver_orphan(orphan, group, visit);
        }
    }

    fn add_subscription(
        &mut self,
        key: SlotKey,
        filter: &TopicFilter,
        granted: Granted,
        visit: &mut Visit<'_>,
    ) -> Result<Added, ReasonCode> {
        if filter.levels().count() > FILTER_LEVELS_MAX {
            return Err(ReasonCode::TopicFilterInvalid);
        }
        let Some(session) = self.sessions.get_mut(key) else { return Err(ReasonCode::UnspecifiedError) };
        if session.rights.as_ref().is_some_and(|rights| !rights.may_subscribe(filter)) {
            return Err(ReasonCode::NotAuthorized);
        }
        let is_new = !session.subscriptions.contains_key(filter);
        if is_new && session.subscriptions.len() >= SUBSCRIPTIONS_MAX {
            return Err(ReasonCode::QuotaExceeded);
        }
        session.subscriptions.insert(filter.clone(), granted);
        let record = session.durable.then(|| {
            visit.out.ledger.log.push(Record::SubscriptionPut {
                spool: session.spool.id(),
                filter: filter.clone(),
                options: granted.options,
                identifier: granted.identifier,
            })
        });
        self.router.subscribe(key, filter, granted);
        let retained_wanted = wants_retained(filter, granted.options, is_new);
        Ok(Added { record, retained_wanted })
    }

    /// A session that was a plain client's, or this bridge's before it said so: what it subscribed to counts as if it had
    /// been said to us now. The other way round nothing changes: a subscription is what it was made as.
    pub(super) fn serve_as_bridge(&mut self, key: SlotKey, visit: &mut Visit<'_>) {
        let Some(session) = self.sessions.get(key) else { return };
        let changed = session.subscriptions.iter().filter_map(|(filter, granted)| {
            let options = of_bridge(filter, granted.options);
            (options != granted.options).then(|| (filter.clone(), Granted { options, ..*granted }))
        });
        for (filter, granted) in changed.collect::<Vec<_>>() {
            // Refused is only what the client may not subscribe to any more, and gets nothing of.
            let _taken = self.add_subscription(key, &filter, granted, visit);
        }
    }

    fn answer_after(&mut self, key: ConnKey, packet: Packet, record: Option<Lsn>, visit: &mut Visit<'_>) {
        let Some(lsn) = record else {
            self.answer(key, packet, visit);
            return;
        };
        let mut ticket = self.barrier.ticket();
        self.barrier.wait_for(&mut ticket, lsn);
        self.owe(key, &ticket, packet, visit);
    }

    /// The retained message of each topic that matches [MQTT-3.3.1-6 of 3.1.1], with RETAIN set
    /// [MQTT-3.3.1-8 of 3.1.1].
    fn send_retained(&mut self, key: SlotKey, filter: &TopicFilter, granted: Granted, visit: &mut Visit<'_>) {
        let found: Vec<Arc<Message>> = self.retained.matching(filter, visit.now);
        for message in found {
            if !self.sessions.get(key).is_some_and(|session| session.may_receive(&message.topic)) {
                continue;
            }
            let copy = Copy {
                qos: message.qos.min(granted.options.qos),
                message,
                retain: true,
                subscription_identifiers: granted.identifier.into_iter().collect(),
                share: NO_SHARE,
                urgent: false,
                hold: None,
            };
            self.deliver(key, copy, visit);
        }
    }
}

/// What became of one filter.
struct Added {
    record: Option<Lsn>,
    retained_wanted: bool,
}

/// What a bridge of 3.x has in place of subscription options. A group is never denied its own [MQTT-3.8.3-4].
fn of_bridge(filter: &TopicFilter, options: SubscriptionOptions) -> SubscriptionOptions {
    SubscriptionOptions { no_local: filter.share_name().is_none(), retain_as_published: true, ..options }
}

const fn granted_reason(qos: QoS) -> ReasonCode {
    match qos {
        QoS::AtMostOnce => ReasonCode::Success,
        QoS::AtLeastOnce => ReasonCode::GrantedQos1,
        QoS::ExactlyOnce => ReasonCode::GrantedQos2,
    }
}

/// Never for shared subscriptions (4.8.2).
fn wants_retained(filter: &TopicFilter, options: SubscriptionOptions, is_new: bool) -> bool {
    if filter.share_name().is_some() {
        return false;
    }
    match options.retain_handling {
        // [MQTT-3.3.1-9] [MQTT-3.8.4-4] [MQTT-3.8.4-3 of 3.1.1]
        RetainHandling::Send => true,
        // [MQTT-3.3.1-10]
        RetainHandling::SendIfNew => is_new,
        // [MQTT-3.3.1-11]
        RetainHandling::DoNotSend => false,
    }
}
