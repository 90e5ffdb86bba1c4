//! Retained messages: the last one of each topic, bounded, and which of them the store has yet to hear of.
//! Finds them for a new subscription; never sends.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use crate::base::time::{Duration, Instant, Now};
use crate::broker::deadlines::Due;
use crate::broker::deliver::Publication;
use crate::broker::{Broker, Visit};
use crate::mqtt::message::{Message, Origin};
use crate::mqtt::qos::QoS;
use crate::mqtt::topic::{TopicFilter, TopicName};
use crate::store::record::{Log, Lsn, Record};

/// How long a retained message waits that nobody was promised: QoS 0, or from a bridge, which has it too.
pub const RETAINED_COMMIT: Duration = Duration::from_secs(10);
/// The same for what the gateway says by itself and will say again: flash wears out.
pub const RETAINED_COMMIT_OWN: Duration = Duration::from_secs(600);

/// When a retained message is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Now,
    Soon,
    Late,
    /// `$` topics are made anew by every run.
    Never,
}

#[derive(Debug, Default)]
pub struct Retained {
    messages: BTreeMap<TopicName, Arc<Message>>,
    soon: BTreeSet<TopicName>,
    late: BTreeSet<TopicName>,
    next_sweep: Instant,
}

impl Retained {
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    pub fn get(&self, topic: &TopicName) -> Option<&Arc<Message>> {
        self.messages.get(topic)
    }

    pub fn recover(&mut self, message: Arc<Message>) {
        self.put(message);
    }

    /// Those that match and are not expired [MQTT-3.3.2-5], by topic.
    pub fn matching(&self, filter: &TopicFilter, now: Now) -> Vec<Arc<Message>> {
        let live = |message: &&Arc<Message>| !message.is_expired(now);
        if !filter.has_wildcard() {
            let topic = TopicName::new(filter.pattern()).ok();
            let found = topic.and_then(|topic| self.messages.get(&topic));
            return found.into_iter().filter(live).cloned().collect();
        }
        // Only topics that begin like the filter up to its first wildcard: `a/b` for `a/b/#` and `a/b/+`.
        let literal = filter.pattern().split(['+', '#']).next().unwrap_or_default();
        let prefix = literal.strip_suffix('/').unwrap_or(literal);
        let from = TopicName::new(prefix).map_or(Bound::Unbounded, Bound::Included);
        self.messages
            .range((from, Bound::Unbounded))
            .take_while(|(topic, _)| topic.as_str().starts_with(prefix))
            .filter(|(topic, _)| filter.matches(topic))
            .map(|(_, message)| message)
            .filter(live)
            .cloned()
            .collect()
    }

    /// Dates what can be dated now, and says which: those have another payload, or another age.
    fn date(&mut self, now: Now) -> Vec<TopicName> {
        let mut dated = Vec::new();
        for (topic, message) in &mut self.messages {
            if let Some(known) = message.dated(now) {
                *message = Arc::new(known);
                dated.push(topic.clone());
            } else if let Some(arrived) = message.arrived.told_by(now)
                && message.expiry_interval.is_some()
            {
                *message = Arc::new(Message { arrived, ..Message::clone(message) });
            }
        }
        dated
    }

    /// Records what has waited for [`RETAINED_COMMIT`].
    pub fn write_soon(&mut self, log: &mut Log) {
        for topic in std::mem::take(&mut self.soon) {
            self.record(&topic, log);
        }
    }

    /// Records what has waited for [`RETAINED_COMMIT_OWN`].
    pub fn write_late(&mut self, log: &mut Log) {
        for topic in std::mem::take(&mut self.late) {
            self.record(&topic, log);
        }
    }

    /// Forgets what has expired.
    fn take_expired(&mut self, now: Now) -> Vec<TopicName> {
        let expired: Vec<TopicName> = self
            .messages
            .iter()
            .filter(|(_, message)| message.is_expired(now))
            .map(|(topic, _)| topic.clone())
            .collect();
        for topic in &expired {
            self.remove(topic);
        }
        expired
    }

    fn put(&mut self, message: Arc<Message>) {
        self.messages.insert(message.topic.clone(), message);
    }

    fn remove(&mut self, topic: &TopicName) -> bool {
        self.messages.remove(topic).is_some()
    }

    fn record(&self, topic: &TopicName, log: &mut Log) -> Lsn {
        log.push(match self.messages.get(topic) {
            Some(message) => Record::RetainedPut { message: message.clone() },
            None => Record::RetainedDrop { topic: topic.clone() },
        })
    }
}

impl Broker {
    /// Takes a publication as its topic's retained message, if it is one [MQTT-3.3.1-8] [MQTT-3.3.1-12 of 3.1.1].
    pub(super) fn retain(&mut self, publication: &mut Publication, visit: &mut Visit<'_>) {
        let message = &publication.message;
        if !message.retain || !self.apply_retained(&message.clone(), visit.now) {
            return;
        }
        let topic = message.topic.clone();
        match when(publication) {
            When::Now => {
                self.retained.soon.remove(&topic);
                self.retained.late.remove(&topic);
                let lsn = self.retained.record(&topic, &mut visit.out.ledger.log);
                if let Some(ticket) = &mut publication.ticket {
                    self.barrier.wait_for(ticket, lsn);
                }
            }
            When::Soon => {
                self.write_soon(topic, visit.now);
            }
            When::Late => {
                self.write_late(topic, visit.now);
            }
            When::Never => {}
        }
    }

    /// What is retained on topics that match.
    pub fn retained_matching(&self, filter: &TopicFilter, now: Now) -> Vec<Arc<Message>> {
        self.retained.matching(filter, now)
    }

    pub(super) fn handle_retained_late(&mut self, visit: &mut Visit<'_>) {
        let expired = self.retained.take_expired(visit.now);
        self.retained.late.extend(expired);
        self.retained.write_late(&mut visit.out.ledger.log);
    }

    /// The clock is set: the right times are recorded with what comes next.
    pub(super) fn date_retained(&mut self, now: Now) {
        for topic in self.retained.date(now) {
            if !topic.is_system() {
                self.write_late(topic, now);
            }
        }
    }

    fn write_soon(&mut self, topic: TopicName, now: Now) {
        if self.retained.soon.is_empty() {
            self.deadlines.add(now.instant + RETAINED_COMMIT, Due::RetainedSoon);
        }
        self.retained.soon.insert(topic);
    }

    fn write_late(&mut self, topic: TopicName, now: Now) {
        if self.retained.late.is_empty() {
            self.deadlines.add(now.instant + RETAINED_COMMIT_OWN, Due::RetainedLate);
        }
        self.retained.late.insert(topic);
    }

    /// Whether one more topic can be retained. What has expired makes room, looked for only now and then.
    fn has_retained_room(&mut self, now: Now) -> bool {
        let max = self.settings.limits.retained_messages as usize;
        if self.retained.len() >= max && now.instant >= self.retained.next_sweep {
            self.retained.next_sweep = now.instant + RETAINED_COMMIT;
            for topic in self.retained.take_expired(now) {
                self.write_late(topic, now);
            }
        }
        self.retained.len() < max
    }

    /// False: nothing changed.
    fn apply_retained(&mut self, message: &Arc<Message>, now: Now) -> bool {
        if message.payload.is_empty() {
            // [MQTT-3.3.1-6] [MQTT-3.3.1-7] [MQTT-3.3.1-10 of 3.1.1] [MQTT-3.3.1-11 of 3.1.1]
            return self.retained.remove(&message.topic);
        }
        if self.retained.get(&message.topic).is_none() && !self.has_retained_room(now) {
            self.stats.retained_refused += 1;
            return false;
        }
        // [MQTT-3.3.1-5] [MQTT-3.3.1-5 of 3.1.1] [MQTT-3.3.1-7 of 3.1.1]
        self.retained.put(message.clone());
        true
    }
}

fn when(publication: &Publication) -> When {
    let message = &publication.message;
    if message.topic.is_system() {
        return When::Never;
    }
    // What caused it is off the disk with this visit: a will, or a QoS 2 message that its sender forgets.
    if publication.urgent {
        return When::Now;
    }
    match &message.origin {
        Origin::Client(_) if message.qos != QoS::AtMostOnce => When::Now,
        Origin::Client(_) | Origin::Bridge(_) => When::Soon,
        Origin::Device(_) | Origin::Gateway => When::Late,
    }
}
