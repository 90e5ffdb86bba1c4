//! Who gets a message: subscriptions, shared subscriptions, forward rules and commands in one tree. Names
//! targets in one order; never delivers.

use std::collections::BTreeMap;
use std::ops::Bound;

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

/// Whether a member of a group can take a message now. The lower the better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Readiness {
    /// It is online and has room in its window.
    Takes,
    /// It is online and its window is full: the message waits.
    Busy,
    /// It is away: the message waits until it comes back.
    Away,
    /// The message would be dropped.
    Drops,
}

/// What marks a message in a session's queue that a shared subscription brought: the same for the same filter in
/// every run, and never [`NO_SHARE`].
pub fn share_mark(filter: &TopicFilter) -> u16 {
    // FNV-1a, folded. Two filters of one session may share a mark: then the topic decides, else the first.
    let hash = filter
        .as_str()
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let [a, b, c, d] = hash.to_be_bytes();
    (u16::from_be_bytes([a, b]) ^ u16::from_be_bytes([c, d])).max(1)
}

/// The mark of a message that came by no shared subscription.
pub const NO_SHARE: u16 = 0;

#[derive(Debug, Default)]
struct Group {
    mark: u16,
    members: BTreeMap<SlotKey, Granted>,
    /// Who got the last message.
    last: Option<SlotKey>,
}

/// The member of a group that gets a message.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    pub session: SlotKey,
    pub granted: Granted,
    pub mark: u16,
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
        let before = self.trie.len();
        self.trie.insert(filter, target, Granted::default());
        self.rules += self.trie.len() - before;
    }

    /// No new message goes there from now on.
    pub fn remove(&mut self, filter: &TopicFilter, target: Target) {
        self.rules -= usize::from(self.trie.remove(filter, target));
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

    /// No new message goes there from now on [MQTT-3.10.4-2] [MQTT-3.10.4-2 of 3.1.1].
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

    /// The group of a shared subscription; None: nobody is in it.
    pub fn group_of(&self, filter: &TopicFilter) -> Option<SlotKey> {
        self.group_keys.get(filter).copied()
    }

    /// The member of a group whose turn it is: the next of those that are readiest. None of `readiness`: the member may
    /// not have the message at all.
    pub fn next_member(
        &mut self,
        group: SlotKey,
        readiness: impl Fn(SlotKey, Granted) -> Option<Readiness>,
    ) -> Option<Turn> {
        let group = self.groups.get_mut(group)?;
        let after = group.last.map_or(Bound::Unbounded, Bound::Excluded);
        let up_to = group.last.into_iter().flat_map(|last| group.members.range(..=last));
        let mut best: Option<(Readiness, SlotKey, Granted)> = None;
        for (key, granted) in group.members.range((after, Bound::Unbounded)).chain(up_to) {
            let Some(ready) = readiness(*key, *granted) else { continue };
            if best.is_none_or(|(found, ..)| ready < found) {
                best = Some((ready, *key, *granted));
            }
            if ready == Readiness::Takes {
                break;
            }
        }
        let (_, session, granted) = best?;
        group.last = Some(session);
        Some(Turn { session, granted, mark: group.mark })
    }

    fn open_group(&mut self, filter: &TopicFilter) -> SlotKey {
        let key = self.groups.insert(Group { mark: share_mark(filter), ..Group::default() });
        self.group_keys.insert(filter.clone(), key);
        self.trie.insert(filter, Target::Shared(key), Granted::default());
        key
    }
}

#[cfg(test)]
mod tests {
    use super::{Granted, Readiness, Router, Target};
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
            let ready = |key| if online.contains(&key) { Readiness::Takes } else { Readiness::Away };
            router.next_member(group, |key, _| Some(ready(key))).map(|turn| turn.session)
        };
        assert_eq!(turn(&mut router, &[one, two]), Some(one));
        assert_eq!(turn(&mut router, &[one, two]), Some(two));
        assert_eq!(turn(&mut router, &[one, two]), Some(one));
        assert_eq!(turn(&mut router, &[one]), Some(one));
        assert_eq!(turn(&mut router, &[]), Some(two));
        assert!(router.next_member(group, |_, _| None).is_none());
        let full_or_busy = |key, _| Some(if key == one { Readiness::Drops } else { Readiness::Busy });
        assert_eq!(router.next_member(group, full_or_busy).map(|turn| turn.session), Some(two));
        router.unsubscribe(one, &filter("$share/g/a/b"));
        router.unsubscribe(one, &filter("$share/g/a/b"));
        router.unsubscribe(two, &filter("$share/g/a/b"));
        router.add(&filter("a/#"), Target::Forward { bridge: 1, rule: 0 });
        router.add(&filter("a/+"), Target::Device(1));
        router.remove(&filter("a/+"), Target::Device(1));
        router.remove(&filter("a/+"), Target::Device(1));
        assert_eq!(turn(&mut router, &[two]), None);
        assert_eq!((router.subscriptions(), router.shared_subscriptions()), (2, 0));
        assert_eq!(router.targets(&topic).len(), 3);
    }
}
