//! Who gets a message: subscriptions, shared subscriptions, forward rules and commands in one tree. Names
//! targets in one order; never delivers.

use std::collections::BTreeMap;

use crate::base::ids::{SlotKey, Slots};
use crate::broker::trie::Trie;
use crate::mqtt::packet::subscribe::SubscriptionOptions;
use crate::mqtt::topic::{TopicFilter, TopicName};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    Session(SlotKey),
    /// A group of sessions of which one gets the message.
    Shared(SlotKey),
    Forward {
        bridge: u16,
        rule: u16,
    },
    Device(u16),
}

/// What was granted to a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Granted {
    pub options: SubscriptionOptions,
    pub identifier: Option<u32>,
}

#[derive(Debug, Default)]
struct Group {
    members: BTreeMap<SlotKey, Granted>,
    /// Who got the last message.
    last: Option<SlotKey>,
}

#[derive(Debug, Default)]
pub struct Router {
    trie: Trie<Target, Granted>,
    groups: Slots<Group>,
    /// By the whole text, share name included.
    group_keys: BTreeMap<TopicFilter, SlotKey>,
    shared: usize,
    rules: usize,
    /// Reused by every publication.
    scratch: Vec<(Target, Granted)>,
}

impl Router {
    /// A forward rule or a device's commands.
    pub fn add(&mut self, filter: &TopicFilter, target: Target) {
        self.rules += 1;
        self.trie.insert(filter, target, Granted::default());
    }

    pub fn subscribe(&mut self, session: SlotKey, filter: &TopicFilter, granted: Granted) {
        if filter.share_name().is_none() {
            // An identical filter replaces [MQTT-3.8.4-3].
            self.trie.insert(filter, Target::Session(session), granted);
            return;
        }
        let key = self.group_keys.get(filter).copied().unwrap_or_else(|| self.open_group(filter));
        if let Some(group) = self.groups.get_mut(key) {
            self.shared += usize::from(group.members.insert(session, granted).is_none());
        }
    }

    /// The sessions of a shared subscription.
    pub fn members(&self, group: SlotKey) -> impl Iterator<Item = SlotKey> {
        self.groups.get(group).into_iter().flat_map(|group| group.members.keys().copied())
    }

    /// No new message goes there from now on [MQTT-3.10.4-2].
    pub fn unsubscribe(&mut self, session: SlotKey, filter: &TopicFilter) {
        if filter.share_name().is_none() {
            self.trie.remove(filter, Target::Session(session));
            return;
        }
        let Some(&key) = self.group_keys.get(filter) else { return };
        let Some(group) = self.groups.get_mut(key) else { return };
        self.shared -= usize::from(group.members.remove(&session).is_some());
        if group.members.is_empty() {
            self.groups.remove(key);
            self.group_keys.remove(filter);
            self.trie.remove(filter, Target::Shared(key));
        }
    }

    /// Of sessions, shared ones included.
    pub fn subscriptions(&self) -> usize {
        (self.trie.len() + self.shared).saturating_sub(self.groups.len() + self.rules)
    }

    pub fn shared_subscriptions(&self) -> usize {
        self.shared
    }

    /// All targets of a topic, sorted; a session comes once for each subscription that matches. Give the list
    /// back by [`Router::reuse`].
    pub fn targets(&mut self, topic: &TopicName) -> Vec<(Target, Granted)> {
        let mut found = std::mem::take(&mut self.scratch);
        found.clear();
        self.trie.matches(topic, &mut found);
        found.sort_by_key(|(target, _)| *target);
        found
    }

    pub fn reuse(&mut self, found: Vec<(Target, Granted)>) {
        self.scratch = found;
    }

    /// The member of a group whose turn it is: of those that may, the next that is online, else the next.
    pub fn next_member(
        &mut self,
        group: SlotKey,
        may: impl Fn(SlotKey) -> bool,
        online: impl Fn(SlotKey) -> bool,
    ) -> Option<(SlotKey, Granted)> {
        let group = self.groups.get_mut(group)?;
        let behind = group.members.iter().filter(|(key, _)| group.last.is_some_and(|last| **key > last));
        let up_to = group.members.iter().filter(|(key, _)| group.last.is_none_or(|last| **key <= last));
        let mut turn =
            behind.chain(up_to).filter(|(key, _)| may(**key)).map(|(key, granted)| (*key, *granted));
        let next = turn.clone().find(|(key, _)| online(*key)).or_else(|| turn.next())?;
        group.last = Some(next.0);
        Some(next)
    }

    fn open_group(&mut self, filter: &TopicFilter) -> SlotKey {
        let key = self.groups.insert(Group::default());
        self.group_keys.insert(filter.clone(), key);
        self.trie.insert(filter, Target::Shared(key), Granted::default());
        key
    }
}

#[cfg(test)]
mod tests {
    use super::{Granted, Router, Target};
    use crate::base::ids::Slots;
    use crate::mqtt::topic::{TopicFilter, TopicName};

    #[test]
    fn a_group_goes_with_its_last_member_and_counts_are_right() {
        let mut keys = Slots::default();
        let (one, two) = (keys.insert(()), keys.insert(()));
        let filter = |text| TopicFilter::new(text).unwrap();
        let topic = TopicName::new("a/b").unwrap();
        let mut router = Router::default();
        router.add(&filter("a/#"), Target::Forward { bridge: 1, rule: 0 });
        router.subscribe(two, &filter("a/b"), Granted::default());
        router.subscribe(one, &filter("a/+"), Granted::default());
        router.subscribe(one, &filter("$share/g/a/b"), Granted::default());
        router.subscribe(two, &filter("$share/g/a/b"), Granted::default());
        router.subscribe(two, &filter("$share/g/a/b"), Granted::default());
        assert_eq!((router.subscriptions(), router.shared_subscriptions()), (4, 2));
        let found = router.targets(&topic);
        assert!(found.is_sorted_by_key(|(target, _)| *target));
        let [(first, _), (second, _), (Target::Shared(group), _), (last, _)] = found[..] else {
            panic!("{found:?}")
        };
        assert_eq!((first, second), (Target::Session(one), Target::Session(two)));
        assert_eq!(last, Target::Forward { bridge: 1, rule: 0 });
        let turn = |router: &mut Router, online: &[_]| {
            router.next_member(group, |_| true, |key| online.contains(&key)).map(|(key, _)| key)
        };
        assert_eq!(turn(&mut router, &[one, two]), Some(one));
        assert_eq!(turn(&mut router, &[one, two]), Some(two));
        assert_eq!(turn(&mut router, &[one, two]), Some(one));
        assert_eq!(turn(&mut router, &[one]), Some(one));
        assert_eq!(turn(&mut router, &[]), Some(two));
        router.unsubscribe(one, &filter("$share/g/a/b"));
        router.unsubscribe(one, &filter("$share/g/a/b"));
        router.unsubscribe(two, &filter("$share/g/a/b"));
        assert_eq!(turn(&mut router, &[two]), None);
        assert_eq!((router.subscriptions(), router.shared_subscriptions()), (2, 0));
        assert_eq!(router.targets(&topic).len(), 3);
    }
}
