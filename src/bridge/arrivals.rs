//! When QoS 1 messages of the cloud came first: one that comes again on the next connection is as old as it was. MQTT says
//! only that it may have come before (DUP). Known for as long as the process runs; keeps no message.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::base::time::Now;
use crate::mqtt::packet::publish::Publish;
use crate::mqtt::qos::{PacketId, QoS};
use crate::mqtt::topic::TopicName;

/// Arrivals that are remembered; of any more the oldest begin anew.
const ARRIVALS_MAX: usize = 1000;

#[derive(Debug, Clone, Copy)]
struct Arrival {
    packet_id: PacketId,
    /// Of its topic and payload: identifiers are used again.
    content: u64,
    first: Now,
}

#[derive(Debug, Default)]
pub(super) struct Arrivals {
    /// Of this connection, acknowledged or not: nobody knows which PUBACK arrived.
    current: VecDeque<Arrival>,
    /// Of those before it, until the cloud says something new: what it sends again goes first [MQTT-4.6.0-1].
    earlier: VecDeque<Arrival>,
}

impl Arrivals {
    /// When the message came first.
    pub(super) fn first(&mut self, publish: &Publish, now: Now) -> Now {
        if publish.qos == QoS::AtMostOnce {
            return now;
        }
        if !publish.dup {
            self.earlier.clear();
        }
        let Some(packet_id) = publish.packet_id.filter(|_| publish.qos == QoS::AtLeastOnce) else {
            return now;
        };
        let content = content_of(publish);
        let is_same = |known: &&Arrival| known.packet_id == packet_id && known.content == content;
        let first = self.earlier.iter().find(is_same).map_or(now, |known| known.first);
        self.current.truncate(ARRIVALS_MAX - 1);
        self.current.push_front(Arrival { packet_id, content, first });
        first
    }

    pub(super) fn handle_away(&mut self) {
        self.current.append(&mut self.earlier);
        self.current.truncate(ARRIVALS_MAX);
        std::mem::swap(&mut self.current, &mut self.earlier);
    }

    /// The cloud has nothing of before.
    pub(super) fn handle_session_lost(&mut self) {
        self.earlier.clear();
    }
}

fn content_of(publish: &Publish) -> u64 {
    let mut hasher = DefaultHasher::new();
    publish.topic.as_ref().map(TopicName::as_str).hash(&mut hasher);
    publish.payload.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::{ARRIVALS_MAX, Arrivals};
    use crate::base::time::{Instant, Now, Timestamp};
    use crate::mqtt::packet::publish::Publish;
    use crate::mqtt::qos::{PacketId, QoS};
    use crate::mqtt::topic::TopicName;

    fn at(secs: i64) -> Now {
        Now { instant: Instant::from_millis(secs * 1000), wall: Timestamp::from_millis(secs * 1000) }
    }

    fn publish(id: u16, payload: &str, dup: bool) -> Publish {
        Publish {
            dup,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: TopicName::new("down/x").ok(),
            packet_id: PacketId::new(id),
            payload: payload.to_owned().into(),
            topic_alias: None,
            expiry_interval: None,
            subscription_identifiers: Vec::new(),
            properties: None,
        }
    }

    #[test]
    fn what_comes_again_is_as_old_as_it_was() {
        let mut arrivals = Arrivals::default();
        assert_eq!(arrivals.first(&publish(1, "on", false), at(0)), at(0));
        arrivals.handle_away();
        // A connection that brings nothing changes nothing.
        arrivals.handle_away();
        assert_eq!(arrivals.first(&publish(1, "on", true), at(60)), at(0));
        arrivals.handle_away();
        assert_eq!(arrivals.first(&publish(1, "on", true), at(70)), at(0), "and once more");
        assert_eq!(
            arrivals.first(&publish(1, "off", true), at(70)),
            at(70),
            "another one under its identifier"
        );
        assert_eq!(arrivals.first(&publish(2, "on", true), at(70)), at(70));
        arrivals.handle_away();
        assert_eq!(arrivals.first(&publish(3, "on", false), at(80)), at(80));
        assert_eq!(arrivals.first(&publish(1, "on", true), at(80)), at(80), "it comes behind what is new");
        for id in 1..=2000 {
            arrivals.first(&publish(id, "on", false), at(90));
            assert!(arrivals.current.len() <= ARRIVALS_MAX);
        }
        arrivals.handle_away();
        assert!(arrivals.earlier.len() <= ARRIVALS_MAX);
        arrivals.handle_session_lost();
        assert_eq!(arrivals.first(&publish(2000, "on", true), at(100)), at(100));
    }
}
