//! What waits to be sent on one connection. Bounded: QoS 0 messages of a reader that is too slow are dropped
//! and counted. The rest is bounded elsewhere: messages above QoS 0 and acknowledgements by their windows,
//! answers by the hand, which reads no further while much of what was answered still has to be written. Gives topic
//! aliases, for behind it nothing is dropped.

use crate::broker::effect::{Delivery, Outgoing};
use crate::broker::session::Attached;
use crate::hub::Bell;
use crate::hub::client::Flow;
use crate::mqtt::alias::Aliases;
use crate::mqtt::qos::QoS;

/// QoS 0 messages beyond this are dropped for a connection.
const OUTBOX_BYTES_MAX: usize = 1 << 20;
/// The same for retained ones: who subscribes gets them all at once, however fast it reads. They share their
/// bytes with what is retained.
const OUTBOX_RETAINED_BYTES_MAX: usize = 16 << 20;
/// What a message costs in an outbox beside its own bytes.
const OVERHEAD_BYTES: usize = 128;

/// Topic aliases that the client was told of: what is in the outbox reaches it, in this order, or the connection ends
/// and they with it [MQTT-3.3.2-7].
#[derive(Debug)]
struct OutboxAliases {
    table: Aliases,
    packet_bytes_max: usize,
}

impl OutboxAliases {
    fn apply(&mut self, delivery: &mut Delivery) {
        let topic = delivery.message.topic.clone();
        let fits = |alias| {
            delivery.topic_alias = Some(alias);
            // [MQTT-3.1.2-24]
            self.packet_bytes_max == usize::MAX || delivery.size_bytes() <= self.packet_bytes_max
        };
        delivery.topic_alias = self.table.next(&topic, fits);
    }
}

#[derive(Debug)]
pub struct Outbox {
    queue: Vec<Outgoing>,
    bytes: usize,
    /// None: the client takes no topic aliases.
    aliases: Option<Box<OutboxAliases>>,
    pub bell: Bell,
    /// Close once everything has left.
    pub closing: bool,
}

impl Outbox {
    pub fn new(bell: Bell) -> Self {
        Self { queue: Vec::new(), bytes: 0, aliases: None, bell, closing: false }
    }

    /// What the client takes, once that is known.
    pub fn set_terms(&mut self, attached: Attached) {
        self.aliases = (attached.topic_alias_max > 0).then(|| {
            Box::new(OutboxAliases {
                table: Aliases::up_to(attached.topic_alias_max),
                packet_bytes_max: attached.packet_bytes_max,
            })
        });
    }

    /// False: it was a QoS 0 message too many, and was dropped.
    pub fn push(&mut self, mut outgoing: Outgoing) -> bool {
        let bytes = OVERHEAD_BYTES + size_of(&outgoing);
        if let Outgoing::Publish(delivery) = &outgoing
            && delivery.qos == QoS::AtMostOnce
            // Whoever has nothing waiting is not too slow, however large the message.
            && self.bytes > 0
            && self.bytes + bytes > bytes_max(delivery.retain)
        {
            return false;
        }
        if let (Outgoing::Publish(delivery), Some(aliases)) = (&mut outgoing, &mut self.aliases) {
            aliases.apply(delivery);
        }
        self.bytes += bytes;
        self.queue.push(outgoing);
        true
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub fn flow(&self) -> Flow {
        if self.closing { Flow::Close } else { Flow::Continue }
    }

    /// Moves all that waits behind what `into` holds already. Keeps no room: most connections have nothing waiting.
    pub fn take(&mut self, into: &mut Vec<Outgoing>) {
        self.bytes = 0;
        into.append(&mut std::mem::take(&mut self.queue));
    }
}

const fn bytes_max(retained: bool) -> usize {
    if retained { OUTBOX_RETAINED_BYTES_MAX } else { OUTBOX_BYTES_MAX }
}

fn size_of(outgoing: &Outgoing) -> usize {
    match outgoing {
        Outgoing::Packet(_) => 0,
        Outgoing::Publish(delivery) => delivery.message.size_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{OUTBOX_BYTES_MAX, Outbox};
    use crate::base::ids::Slots;
    use crate::base::time::{Instant, Now, Timestamp};
    use crate::broker::effect::{Delivery, Outgoing};
    use crate::broker::session::Attached;
    use crate::broker::terms::Marking;
    use crate::hub::Bell;
    use crate::mqtt::message::{Message, Origin};
    use crate::mqtt::packet::connect::Role;
    use crate::mqtt::qos::QoS;
    use crate::mqtt::topic::TopicName;

    fn outbox(packet_bytes_max: usize) -> Outbox {
        let mut outbox = Outbox::new(Bell::default());
        let conn = Slots::default().insert(());
        outbox.set_terms(Attached {
            conn,
            up: true,
            window: 1,
            packet_bytes_max,
            topic_alias_max: 10,
            role: Role::Client,
            marking: Marking::None,
        });
        outbox
    }

    fn delivery(payload_bytes: usize) -> Outgoing {
        let topic = TopicName::new("plant/boiler").unwrap();
        let now = Now { instant: Instant::ORIGIN, wall: Timestamp::default() };
        let message = Message::new(topic, vec![0; payload_bytes], QoS::AtMostOnce, Origin::Gateway, now);
        Outgoing::Publish(Delivery {
            message: Arc::new(message),
            qos: QoS::AtMostOnce,
            dup: false,
            retain: false,
            packet_id: None,
            subscription_identifiers: Box::default(),
            topic_alias: None,
        })
    }

    /// Topic and alias of each message.
    fn taken(outbox: &mut Outbox) -> Vec<(String, u16)> {
        let mut all = Vec::new();
        outbox.take(&mut all);
        let heads = all.iter().filter_map(|outgoing| match outgoing {
            Outgoing::Publish(delivery) => Some(delivery.head(None)),
            Outgoing::Packet(_) => None,
        });
        heads
            .map(|head| (head.topic.to_owned(), head.topic_alias.map_or(0, std::num::NonZero::get)))
            .collect()
    }

    #[test]
    fn a_message_that_is_dropped_sets_no_alias() {
        let mut outbox = outbox(usize::MAX);
        let half = OUTBOX_BYTES_MAX / 2 + 1;
        assert!(outbox.push(delivery(half)));
        assert!(!outbox.push(delivery(half)), "it would have set the alias");
        assert_eq!(taken(&mut outbox), [("plant/boiler".to_owned(), 0)]);
        for _ in 0..2 {
            assert!(outbox.push(delivery(1)));
        }
        assert_eq!(taken(&mut outbox), [("plant/boiler".to_owned(), 1), (String::new(), 1)]);
    }

    #[test]
    fn an_alias_is_not_set_where_it_would_make_the_packet_too_large() {
        let Outgoing::Publish(sized) = delivery(1) else { return };
        let mut outbox = outbox(sized.size_bytes() + 2);
        for payload_bytes in [1, 1, 1] {
            assert!(outbox.push(delivery(payload_bytes)));
        }
        assert!(taken(&mut outbox).iter().all(|(topic, alias)| topic == "plant/boiler" && *alias == 0));
    }
}
