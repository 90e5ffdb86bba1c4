//! Topic aliases of one connection (MQTT 5 3.3.2.3.4): which topics leave as two bytes from their second message on.
//! Knows nothing of what a server takes but how many.

use std::collections::HashMap;
use std::num::NonZeroU16;

use crate::mqtt::packet::publish::Publish;
use crate::mqtt::topic::TopicName;

/// More are not used, whatever the server takes: its memory is not ours alone.
const ALIASES_MAX: u16 = 256;
/// An alias goes to another topic once so many messages left without it. Sooner, more topics than aliases would take
/// them from each other all the time, and each message would carry its topic and an alias that nobody uses.
const REST_MESSAGES: u64 = 1024;
/// The property: its identifier and two bytes.
pub(super) const ALIAS_BYTES: u64 = 3;

#[derive(Debug)]
struct Alias {
    number: NonZeroU16,
    used_at: u64,
}

#[derive(Debug, Default)]
pub(super) struct Aliases {
    numbers_max: u16,
    by_topic: HashMap<TopicName, Alias>,
    /// Counts messages.
    clock: u64,
}

impl Aliases {
    /// As many as the server's topic alias maximum.
    pub(super) fn new(topic_alias_maximum: u16) -> Self {
        Self { numbers_max: topic_alias_maximum.min(ALIASES_MAX), ..Self::default() }
    }

    /// Puts an alias in the place of the topic, or beside it where the server is to learn it.
    pub(super) fn shorten(&mut self, publish: &mut Publish) {
        let Some(topic) = publish.topic.as_ref().filter(|topic| topic.as_str().len() as u64 > ALIAS_BYTES)
        else {
            return;
        };
        if self.numbers_max == 0 {
            return;
        }
        self.clock += 1;
        if let Some(alias) = self.by_topic.get_mut(topic) {
            alias.used_at = self.clock;
            publish.topic_alias = Some(alias.number);
            publish.topic = None;
        } else if let Some(number) = self.free_number() {
            self.by_topic.insert(topic.clone(), Alias { number, used_at: self.clock });
            publish.topic_alias = Some(number);
        }
    }

    /// One that no topic has, or one whose topic has not been heard of for long.
    fn free_number(&mut self) -> Option<NonZeroU16> {
        let given = u16::try_from(self.by_topic.len()).ok()?;
        if given < self.numbers_max {
            return NonZeroU16::new(given + 1);
        }
        let (topic, alias) = self.by_topic.iter().min_by_key(|(_, alias)| alias.used_at)?;
        if self.clock - alias.used_at <= REST_MESSAGES {
            return None;
        }
        let (topic, number) = (topic.clone(), alias.number);
        self.by_topic.remove(&topic);
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::{Aliases, REST_MESSAGES};
    use crate::mqtt::packet::publish::Publish;
    use crate::mqtt::qos::QoS;
    use crate::mqtt::topic::TopicName;

    fn publish(topic: &str) -> Publish {
        Publish {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            topic: TopicName::new(topic).ok(),
            packet_id: None,
            payload: "x".into(),
            topic_alias: None,
            expiry_interval: None,
            subscription_identifiers: Vec::new(),
            properties: None,
        }
    }

    /// Topic and alias as they leave.
    fn leaves(aliases: &mut Aliases, topic: &str) -> (Option<String>, Option<u16>) {
        let mut publish = publish(topic);
        aliases.shorten(&mut publish);
        (publish.topic.map(|topic| topic.as_str().to_owned()), publish.topic_alias.map(u16::from))
    }

    #[test]
    fn a_topic_is_told_once() {
        let mut aliases = Aliases::new(2);
        assert_eq!(leaves(&mut aliases, "plant/a"), (Some("plant/a".into()), Some(1)));
        assert_eq!(leaves(&mut aliases, "plant/a"), (None, Some(1)));
        assert_eq!(leaves(&mut aliases, "plant/b"), (Some("plant/b".into()), Some(2)));
        assert_eq!(leaves(&mut aliases, "plant/c"), (Some("plant/c".into()), None), "no alias is left");
        assert_eq!(leaves(&mut aliases, "plant/b"), (None, Some(2)));
    }

    #[test]
    fn a_short_topic_and_a_server_without_aliases_get_none() {
        assert_eq!(leaves(&mut Aliases::new(2), "a/b"), (Some("a/b".into()), None));
        assert_eq!(leaves(&mut Aliases::new(0), "plant/a"), (Some("plant/a".into()), None));
    }

    #[test]
    fn an_alias_that_rests_goes_to_another_topic() {
        let mut aliases = Aliases::new(1);
        leaves(&mut aliases, "plant/a");
        for _ in 0..REST_MESSAGES {
            assert_eq!(leaves(&mut aliases, "plant/b"), (Some("plant/b".into()), None));
        }
        assert_eq!(leaves(&mut aliases, "plant/b"), (Some("plant/b".into()), Some(1)));
        assert_eq!(leaves(&mut aliases, "plant/a"), (Some("plant/a".into()), None));
        assert_eq!(leaves(&mut aliases, "plant/b"), (None, Some(1)));
    }
}
