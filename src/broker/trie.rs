//! Topic filters as a tree of levels: which of many filters match a topic. Knows nothing of who subscribed.

use std::collections::HashMap;

use crate::base::few::Few;
use crate::mqtt::topic::{TopicFilter, TopicName};

/// Levels of a filter. A bound, because the tree is as deep and is left by recursion.
pub const FILTER_LEVELS_MAX: usize = 200;

#[derive(Debug)]
struct Node<K, V> {
    /// Only ever asked by name.
    children: HashMap<Box<str>, Node<K, V>>,
    plus: Option<Box<Node<K, V>>>,
    /// Filters that end here with `#`.
    hash: Few<K, V>,
    /// Filters that end here.
    here: Few<K, V>,
}

impl<K, V> Default for Node<K, V> {
    fn default() -> Self {
        Self { children: HashMap::new(), plus: None, hash: Few::default(), here: Few::default() }
    }
}

impl<K: Ord, V> Node<K, V> {
    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.plus.is_none() && self.hash.is_empty() && self.here.is_empty()
    }
}

#[derive(Debug)]
pub struct Trie<K, V> {
    root: Node<K, V>,
    filters: usize,
}

impl<K, V> Default for Trie<K, V> {
    fn default() -> Self {
        Self { root: Node::default(), filters: 0 }
    }
}

impl<K: Ord + Copy, V: Clone> Trie<K, V> {
    /// Pairs of filter and key.
    pub fn len(&self) -> usize {
        self.filters
    }

    /// Whether no filter is there, nor anything that one left behind.
    pub fn is_empty(&self) -> bool {
        self.root.is_empty()
    }

    /// Puts or replaces [MQTT-3.8.4-3]. The caller has held the filter against [`FILTER_LEVELS_MAX`].
    pub fn insert(&mut self, filter: &TopicFilter, key: K, value: V) {
        let mut node = &mut self.root;
        for level in filter.levels() {
            match level {
                "#" => {
                    self.filters += usize::from(node.hash.insert(key, value).is_none());
                    return;
                }
                "+" => node = node.plus.get_or_insert_with(Box::default),
                name => node = node.children.entry(name.into()).or_default(),
            }
        }
        self.filters += usize::from(node.here.insert(key, value).is_none());
    }

    /// Whether it was there.
    pub fn remove(&mut self, filter: &TopicFilter, key: K) -> bool {
        let levels: Vec<&str> = filter.levels().collect();
        let removed = remove_below(&mut self.root, &levels, key);
        self.filters -= usize::from(removed);
        removed
    }

    /// All keys whose filters match [MQTT-3.3.2-3] [MQTT-3.3.2-3 of 3.1.1]; one that matches by several filters
    /// comes several times.
    pub fn matches(&self, topic: &TopicName, found: &mut Vec<(K, V)>) {
        let mut levels = topic.levels();
        let Some(first) = levels.next() else { return };
        if let Some(child) = self.root.children.get(first) {
            collect(child, levels.clone(), found);
        }
        // [MQTT-4.7.2-1] [MQTT-4.7.2-1 of 3.1.1]
        if topic.is_system() {
            return;
        }
        take(&self.root.hash, found);
        if let Some(plus) = &self.root.plus {
            collect(plus, levels, found);
        }
    }
}

fn take<K: Ord + Copy, V: Clone>(from: &Few<K, V>, found: &mut Vec<(K, V)>) {
    found.extend(from.iter().map(|(key, value)| (*key, value.clone())));
}

fn collect<K: Ord + Copy, V: Clone>(
    node: &Node<K, V>,
    mut levels: std::str::Split<'_, char>,
    found: &mut Vec<(K, V)>,
) {
    // `a/#` matches `a` too (4.7.1.2).
    take(&node.hash, found);
    let Some(level) = levels.next() else {
        take(&node.here, found);
        return;
    };
    // Character by character, nothing is normalised [MQTT-4.7.3-4] [MQTT-4.7.3-4 of 3.1.1].
    if let Some(child) = node.children.get(level) {
        collect(child, levels.clone(), found);
    }
    if let Some(plus) = &node.plus {
        collect(plus, levels, found);
    }
}

fn remove_below<K: Ord + Copy, V>(node: &mut Node<K, V>, levels: &[&str], key: K) -> bool {
    let Some((level, rest)) = levels.split_first() else { return node.here.remove(&key).is_some() };
    match *level {
        "#" => node.hash.remove(&key).is_some(),
        "+" => {
            let Some(plus) = &mut node.plus else { return false };
            let removed = remove_below(plus, rest, key);
            if plus.is_empty() {
                node.plus = None;
            }
            removed
        }
        name => {
            let Some(child) = node.children.get_mut(name) else { return false };
            let removed = remove_below(child, rest, key);
            if child.is_empty() {
                node.children.remove(name);
            }
            removed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Trie;
    use crate::mqtt::topic::{TopicFilter, TopicName};

    const FILTERS: &[&str] = &[
        "#", "+", "+/+", "/+", "/#", "a", "a/#", "a/+", "a/b", "a/b/#", "a/+/c", "+/b/c", "+/#", "a//b",
        "$SYS/#", "$SYS/+", "/", "a/b/c/d", "+/+/+", "a/",
    ];
    const TOPICS: &[&str] =
        &["a", "a/b", "a/b/c", "/a", "/", "a/", "a//b", "$SYS/a", "$SYS", "b/b/c", "a/x/c", "a/b/c/d", "A"];

    #[test]
    fn the_tree_agrees_with_each_filter_alone() {
        let filters: Vec<TopicFilter> = FILTERS.iter().map(|text| TopicFilter::new(text).unwrap()).collect();
        let mut trie = Trie::default();
        for (key, filter) in filters.iter().enumerate() {
            trie.insert(filter, key, ());
        }
        assert_eq!(trie.len(), filters.len());
        for topic in TOPICS.iter().map(|text| TopicName::new(text).unwrap()) {
            let mut found = Vec::new();
            trie.matches(&topic, &mut found);
            let mut keys: Vec<usize> = found.into_iter().map(|(key, ())| key).collect();
            keys.sort_unstable();
            let wanted: Vec<usize> = (0..filters.len()).filter(|key| filters[*key].matches(&topic)).collect();
            assert_eq!(keys, wanted, "{topic}");
        }
        for (key, filter) in filters.iter().enumerate() {
            assert!(trie.remove(filter, key));
            assert!(!trie.remove(filter, key));
        }
        assert_eq!(trie.len(), 0);
        assert!(trie.root.is_empty(), "nothing is left behind");
    }
}
