//! Wills: kept with their session, published when it is due, or forgotten.

use std::sync::Arc;

use crate::base::ids::SlotKey;
use crate::base::time::Duration;
use crate::broker::deadlines::Due;
use crate::broker::deliver::Publication;
use crate::broker::publish::is_reserved;
use crate::broker::{Broker, Visit};
use crate::mqtt::message::{Message, Origin};
use crate::mqtt::packet::connect::Will;
use crate::store::record::Record;

impl Broker {
    /// [MQTT-3.1.2-7] [MQTT-3.1.2-8 of 3.1.1]; an earlier one is forgotten.
    pub(super) fn keep_will(&mut self, key: SlotKey, will: Arc<Will>, visit: &mut Visit<'_>) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.will = Some(will.clone());
        session.will_at = None;
        visit.out.ledger.log.push(Record::WillPut { spool: session.spool.id(), will });
    }

    /// [MQTT-3.1.2-10] [MQTT-3.1.2-10 of 3.1.1]: it will not be published.
    pub(super) fn forget_will(&mut self, key: SlotKey, visit: &mut Visit<'_>) -> Option<Arc<Will>> {
        let session = self.sessions.get_mut(key)?;
        if let Some(at) = session.will_at.take() {
            self.deadlines.remove(at, Due::Will(key));
        }
        let will = session.will.take()?;
        visit.out.ledger.log.push(Record::WillDrop { spool: session.spool.id() });
        Some(will)
    }

    pub(super) fn handle_will_due(&mut self, key: SlotKey, visit: &mut Visit<'_>) {
        let due = self.sessions.get(key).and_then(|session| session.will_at);
        if due.is_some_and(|at| at <= visit.now.instant) {
            self.publish_will(key, visit);
        }
    }

    /// [MQTT-3.1.2-8] [MQTT-3.1.2-8 of 3.1.1]. Urgent, so that a crash finds the will or what became of it, never
    /// neither.
    pub(super) fn publish_will(&mut self, key: SlotKey, visit: &mut Visit<'_>) {
        let Some(will) = self.forget_will(key, visit) else { return };
        let Some(session) = self.sessions.get(key) else { return };
        if is_reserved(&will.topic) {
            return;
        }
        // The rules may be others than when it came.
        if session.rights.as_ref().is_some_and(|rights| !rights.may_publish(&will.topic)) {
            self.stats.denied += 1;
            return;
        }
        let properties = (!will.properties.is_empty()).then(|| Box::new(will.properties.clone()));
        let message = Message {
            topic: will.topic.clone(),
            payload: will.payload.clone(),
            qos: will.qos,
            // [MQTT-3.1.2-14] [MQTT-3.1.2-15] [MQTT-3.1.2-16, -17 of 3.1.1]
            retain: will.retain,
            properties,
            expiry_interval: will.expiry_interval.map(|secs| Duration::from_secs(u64::from(secs))),
            origin: Origin::Client(session.client_id.clone()),
            arrived: visit.now,
        };
        self.stats.wills += 1;
        self.route(&mut Publication { message: Arc::new(message), urgent: true, ticket: None }, visit);
    }
}
