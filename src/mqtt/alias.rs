//! Topic aliases toward one MQTT 5 client (3.3.2.3.4): which topics get one, and which alias stands for which.
//! Bounded; ends with its connection; knows no packet.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU16;

use crate::mqtt::topic::TopicName;

/// Aliases on one connection at most, however many its client allows.
const ALIASES_MAX: u16 = 32;
/// A topic gets an alias when it comes again while it is among so many without one.
const SEEN_TOPICS_MAX: usize = 32;
/// A shorter topic costs no more than the alias.
const TOPIC_BYTES_MIN: usize = 4;
/// An alias that none of so many messages used may go to another topic. Fewer, and topics that take turns would take
/// it from each other for ever.
const UNUSED_MESSAGES_MIN: u64 = 256;

/// How a PUBLISH names its topic by an alias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alias {
    /// The topic stands there too, and has this alias from then on.
    Set(NonZeroU16),
    /// The alias alone.
    Use(NonZeroU16),
}

impl Alias {
    pub const fn number(self) -> NonZeroU16 {
        match self {
            Self::Set(number) | Self::Use(number) => number,
        }
    }
}

#[derive(Debug)]
struct Named {
    number: NonZeroU16,
    /// The message that used it last.
    used: u64,
}

#[derive(Debug)]
pub struct Aliases {
    max: u16,
    named: BTreeMap<TopicName, Named>,
    /// Topics that came once, oldest first.
    seen: VecDeque<TopicName>,
    messages: u64,
}

impl Aliases {
    /// No more than the client's Topic Alias Maximum [MQTT-3.1.2-26] [MQTT-3.3.2-11]; 0: none [MQTT-3.1.2-27].
    pub fn up_to(topic_alias_maximum: u16) -> Self {
        Self {
            max: topic_alias_maximum.min(ALIASES_MAX),
            named: BTreeMap::new(),
            seen: VecDeque::new(),
            messages: 0,
        }
    }

    /// What the next message names its topic by; None: by its name alone. A new alias makes the packet larger, so
    /// `may_set` is asked first.
    pub fn next(&mut self, topic: &TopicName, may_set: impl FnOnce(Alias) -> bool) -> Option<Alias> {
        if self.max == 0 || topic.as_str().len() < TOPIC_BYTES_MIN {
            return None;
        }
        self.messages += 1;
        if let Some(named) = self.named.get_mut(topic) {
            named.used = self.messages;
            return Some(Alias::Use(named.number));
        }
        if !self.is_repeated(topic) {
            return None;
        }
        let (number, from) = self.free_number()?;
        if !may_set(Alias::Set(number)) {
            return None;
        }
        if let Some(from) = from {
            self.named.remove(&from);
        }
        self.named.insert(topic.clone(), Named { number, used: self.messages });
        Some(Alias::Set(number))
    }

    /// Whether the topic came a short while ago; notes that it came.
    fn is_repeated(&mut self, topic: &TopicName) -> bool {
        if let Some(at) = self.seen.iter().position(|seen| seen == topic) {
            self.seen.remove(at);
            return true;
        }
        if self.seen.len() >= SEEN_TOPICS_MAX {
            self.seen.pop_front();
        }
        self.seen.push_back(topic.clone());
        false
    }

    /// An alias, and the topic that gives it up.
    fn free_number(&self) -> Option<(NonZeroU16, Option<TopicName>)> {
        let next = u16::try_from(self.named.len()).unwrap_or(u16::MAX).saturating_add(1);
        if next <= self.max {
            return NonZeroU16::new(next).map(|number| (number, None));
        }
        let (topic, named) = self.named.iter().min_by_key(|(_, named)| named.used)?;
        let unused = self.messages - named.used > UNUSED_MESSAGES_MIN;
        unused.then(|| (named.number, Some(topic.clone())))
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::{ALIASES_MAX, Alias, Aliases, SEEN_TOPICS_MAX, UNUSED_MESSAGES_MIN};
    use crate::mqtt::topic::TopicName;

    fn topic(number: usize) -> TopicName {
        TopicName::new(&format!("plant/{number}")).unwrap()
    }

    fn set(number: u16) -> Option<Alias> {
        NonZeroU16::new(number).map(Alias::Set)
    }

    fn used(number: u16) -> Option<Alias> {
        NonZeroU16::new(number).map(Alias::Use)
    }

    #[test]
    fn a_topic_that_repeats_gets_an_alias_and_keeps_it() {
        let mut aliases = Aliases::up_to(2);
        let mut next = |number| aliases.next(&topic(number), |_| true);
        assert_eq!([next(1), next(1), next(1)], [None, set(1), used(1)]);
        assert_eq!([next(2), next(3), next(2), next(3)], [None, None, set(2), None]);
        assert_eq!([next(1), next(2), next(3)], [used(1), used(2), None]);
    }

    #[test]
    fn an_alias_that_is_long_unused_goes_to_another_topic() {
        let mut aliases = Aliases::up_to(2);
        for number in [1, 1, 2, 2, 3] {
            aliases.next(&topic(number), |_| true);
        }
        for _ in 0..UNUSED_MESSAGES_MIN {
            assert_eq!(aliases.next(&topic(2), |_| true), used(2));
        }
        assert_eq!(aliases.next(&topic(3), |_| false), None, "it would not fit");
        assert_eq!(aliases.next(&topic(3), |_| true), None, "seen anew");
        assert_eq!(aliases.next(&topic(3), |_| true), set(1));
        assert_eq!(aliases.next(&topic(1), |_| true), None);
    }

    #[test]
    fn nothing_grows_beyond_its_bound_and_0_means_none() {
        let mut aliases = Aliases::up_to(u16::MAX);
        for number in (0..1000).flat_map(|number| [number, number]) {
            let alias = aliases.next(&topic(number), |_| true);
            assert!(alias.is_none_or(|alias| alias.number().get() <= ALIASES_MAX));
        }
        for number in 0..1000 {
            aliases.next(&topic(number), |_| true);
        }
        assert_eq!(aliases.named.len(), usize::from(ALIASES_MAX));
        assert_eq!(aliases.seen.len(), SEEN_TOPICS_MAX);
        let mut none = Aliases::up_to(0);
        assert_eq!([none.next(&topic(1), |_| true), none.next(&topic(1), |_| true)], [None, None]);
        let short = TopicName::new("a/b").unwrap();
        let mut aliases = Aliases::up_to(9);
        assert_eq!([aliases.next(&short, |_| true), aliases.next(&short, |_| true)], [None, None]);
    }
}
