//! Topic names, filters, the tree of filters, the router and the access rules, against an oracle that knows no trick:
//! it splits at `/` and tries every way. Filters come and go between the questions.
//!
//! Input: steps of one byte and what each takes; texts are made of pieces, so that they often match.

use std::collections::{BTreeMap, BTreeSet};

use arbitrary::{Result, Unstructured};
use tidegate::base::ids::{SlotKey, Slots};
use tidegate::broker::access::Rights;
use tidegate::broker::router::{Granted, Readiness, Router, Target};
use tidegate::broker::trie::Trie;
use tidegate::config::access::{AccessFilter, AccessRule, Glob};
use tidegate::mqtt::topic::{TopicFilter, TopicName};

const STEPS_MAX: usize = 200;
const PIECES_MAX: u8 = 12;
const SESSIONS: usize = 4;
/// Filters of more levels are not held against every topic there is.
const MEETING_LEVELS_MAX: usize = 3;

const PIECES: &[&str] = &[
    "/",
    "a",
    "/",
    "b",
    "+",
    "#",
    "/+",
    "/#",
    "$",
    "$SYS",
    "$share/",
    "g",
    "c",
    "é",
    "\0",
    "a/b",
    "*",
    "?",
    "{client_id}",
    "{user}",
    "{",
    "}",
    "A",
    "$share",
];
/// For names, which hold no wildcards.
const PLAIN: &[&str] = &["/", "a", "/", "b", "$SYS", "a/b", "é", "g", "c", "A", "$"];

pub fn check(input: &[u8]) {
    let mut world = World::new();
    let mut bytes = Unstructured::new(input);
    for _ in 0..STEPS_MAX {
        if bytes.is_empty() || world.step(&mut bytes).is_err() {
            break;
        }
    }
}

fn text(bytes: &mut Unstructured<'_>, pieces: &[&str]) -> Result<String> {
    let count = bytes.int_in_range(0..=PIECES_MAX)?;
    (0..count).map(|_| bytes.choose(pieces).copied()).collect()
}

/// What is asked, and what the oracle knows of it.
struct World {
    trie: Trie<u8, u8>,
    in_trie: BTreeMap<(String, u8), u8>,
    router: Router,
    sessions: Vec<SlotKey>,
    in_router: BTreeMap<(String, SlotKey), Granted>,
    rules: Vec<(String, u16)>,
}

impl World {
    fn new() -> Self {
        let mut slots = Slots::default();
        Self {
            trie: Trie::default(),
            in_trie: BTreeMap::new(),
            router: Router::default(),
            sessions: (0..SESSIONS).map(|_| slots.insert(())).collect(),
            in_router: BTreeMap::new(),
            rules: Vec::new(),
        }
    }

    fn step(&mut self, bytes: &mut Unstructured<'_>) -> Result<()> {
        match bytes.int_in_range(0..=8)? {
            0 => self.ask(&text(bytes, PLAIN)?),
            1 | 2 => self.subscribe(bytes)?,
            3 => self.insert(bytes)?,
            4 => self.remove(bytes)?,
            5 => self.unsubscribe(bytes)?,
            6 => check_pair(&text(bytes, PIECES)?, &text(bytes, PIECES)?),
            7 => check_access(bytes)?,
            _ => check_raw(bytes)?,
        }
        Ok(())
    }

    fn insert(&mut self, bytes: &mut Unstructured<'_>) -> Result<()> {
        let (text, key, value) = (text(bytes, PIECES)?, bytes.int_in_range(0..=3)?, bytes.arbitrary()?);
        let Some(filter) = parse_filter(&text) else { return Ok(()) };
        self.trie.insert(&filter, key, value);
        self.in_trie.insert((filter.pattern().to_owned(), key), value);
        assert_eq!(self.trie.len(), self.in_trie.len());
        Ok(())
    }

    /// One that is there as often as one that is not.
    fn remove(&mut self, bytes: &mut Unstructured<'_>) -> Result<()> {
        let known = bytes.arbitrary::<bool>()?.then(|| self.in_trie.keys().cloned().collect::<Vec<_>>());
        let (pattern, key) = match known.filter(|known| !known.is_empty()) {
            Some(known) => bytes.choose(&known)?.clone(),
            None => (text(bytes, PIECES)?, bytes.int_in_range(0..=3)?),
        };
        let Some(filter) = parse_filter(&pattern) else { return Ok(()) };
        let was_there = self.in_trie.remove(&(filter.pattern().to_owned(), key)).is_some();
        assert_eq!(self.trie.remove(&filter, key), was_there, "{pattern:?}");
        assert_eq!(self.trie.len(), self.in_trie.len());
        assert_eq!(self.trie.is_empty(), self.in_trie.is_empty(), "what goes leaves nothing behind");
        Ok(())
    }

    fn subscribe(&mut self, bytes: &mut Unstructured<'_>) -> Result<()> {
        let text = text(bytes, PIECES)?;
        let who = bytes.int_in_range(0..=SESSIONS)?;
        let granted = Granted { identifier: Some(bytes.int_in_range(1..=9)?), ..Granted::default() };
        let Some(filter) = parse_filter(&text) else { return Ok(()) };
        let Some(session) = self.sessions.get(who) else {
            self.add_rule(&filter);
            return Ok(());
        };
        self.router.subscribe(*session, &filter, granted);
        self.in_router.insert((text, *session), granted);
        self.check_counts();
        Ok(())
    }

    /// Rules are the configuration's: never shared, each with a number of its own.
    fn add_rule(&mut self, filter: &TopicFilter) {
        let Ok(rule) = u16::try_from(self.rules.len()) else { return };
        if filter.share_name().is_none() {
            self.router.add(filter, Target::Forward { bridge: 0, rule });
            self.rules.push((filter.as_str().to_owned(), rule));
            self.check_counts();
        }
    }

    fn unsubscribe(&mut self, bytes: &mut Unstructured<'_>) -> Result<()> {
        let known: Vec<_> = self.in_router.keys().cloned().collect();
        let (text, session) = if known.is_empty() || bytes.ratio(1, 4)? {
            (text(bytes, PIECES)?, *bytes.choose(&self.sessions)?)
        } else {
            bytes.choose(&known)?.clone()
        };
        let Some(filter) = parse_filter(&text) else { return Ok(()) };
        self.router.unsubscribe(session, &filter);
        self.in_router.remove(&(text, session));
        self.check_counts();
        Ok(())
    }

    fn check_counts(&self) {
        let shared = self.in_router.keys().filter(|(text, _)| is_shared(text)).count();
        let counted = (self.router.subscriptions(), self.router.shared_subscriptions());
        assert_eq!(counted, (self.in_router.len(), shared));
    }

    fn ask(&mut self, text: &str) {
        let Some(topic) = parse_name(text) else { return };
        let mut found = Vec::new();
        self.trie.matches(&topic, &mut found);
        found.sort_unstable();
        let matching = self.in_trie.iter().filter(|((filter, _), _)| matches(filter, text));
        let mut wanted: Vec<_> = matching.map(|((_, key), value)| (*key, *value)).collect();
        wanted.sort_unstable();
        assert_eq!(found, wanted, "{text:?}");
        self.ask_router(&topic);
    }

    fn ask_router(&mut self, topic: &TopicName) {
        let text = topic.as_str();
        let found = self.router.targets(topic);
        assert!(found.is_sorted_by_key(|(target, _)| *target), "targets come in one order");
        let mut sessions = Vec::new();
        let mut rules = Vec::new();
        let mut groups = Vec::new();
        for (target, granted) in &found {
            match target {
                Target::Session(key) => sessions.push((*key, granted.identifier)),
                Target::Forward { rule, .. } => rules.push(*rule),
                Target::Shared(key) => groups.push(*key),
                Target::Device(_) => unreachable!("no device was added"),
            }
        }
        let own =
            self.in_router.iter().filter(|((filter, _), _)| !is_shared(filter) && matches(filter, text));
        let mut wanted: Vec<_> = own.map(|((_, key), granted)| (*key, granted.identifier)).collect();
        sessions.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(sessions, wanted, "{text:?}");
        let wanted = self.rules.iter().filter(|(filter, _)| matches(filter, text));
        assert_eq!(rules, wanted.map(|(_, rule)| *rule).collect::<Vec<_>>(), "{text:?}");
        self.router.reuse(found);
        self.ask_groups(text, groups);
    }

    /// Each group that matches comes once, and gives each of its members a turn before one has a second.
    fn ask_groups(&mut self, text: &str, groups: Vec<SlotKey>) {
        let mut wanted: BTreeMap<&str, BTreeSet<SlotKey>> = BTreeMap::new();
        for (filter, session) in self.in_router.keys() {
            if is_shared(filter) && matches(shared_parts(filter).1, text) {
                wanted.entry(filter).or_default().insert(*session);
            }
        }
        let mut wanted: Vec<_> = wanted.into_values().collect();
        assert_eq!(groups.len(), wanted.len(), "{text:?}");
        for group in groups {
            let some = self.turn(group, |_| Some(Readiness::Away));
            let turns = (0..SESSIONS).filter_map(|_| self.turn(group, |_| Some(Readiness::Takes)));
            let turn: BTreeSet<SlotKey> = turns.collect();
            assert!(some.is_some_and(|key| turn.contains(&key)));
            assert_eq!(self.turn(group, |_| None), None, "nobody may");
            let ready = |key| if Some(key) == some { Readiness::Takes } else { Readiness::Away };
            assert_eq!(self.turn(group, |key| Some(ready(key))), some, "who is online goes first");
            let at = wanted.iter().position(|members| *members == turn).expect("a group of these members");
            wanted.remove(at);
        }
    }

    fn turn(&mut self, group: SlotKey, ready: impl Fn(SlotKey) -> Option<Readiness>) -> Option<SlotKey> {
        self.router.next_member(group, |key, _| ready(key)).map(|turn| turn.session)
    }
}

/// Bytes as they come, where they are UTF-8.
fn check_raw(bytes: &mut Unstructured<'_>) -> Result<()> {
    let count = bytes.int_in_range(0..=32)?.min(bytes.len());
    if let Ok(text) = std::str::from_utf8(bytes.bytes(count)?) {
        check_pair(text, text);
    }
    Ok(())
}

fn check_pair(one: &str, two: &str) {
    parse_name(one);
    let (Some(filter), Some(other)) = (parse_filter(one), parse_filter(two)) else { return };
    let (meets, back) = (filter.meets(&other), other.meets(&filter));
    assert_eq!(meets, back, "{one:?} {two:?}");
    let (pattern, other_pattern) = (filter.pattern(), other.pattern());
    if let Some(topic) = parse_name(two) {
        assert_eq!(filter.matches(&topic), matches(pattern, two), "{one:?} {two:?}");
    }
    let few = |text: &str| text.split('/').count() <= MEETING_LEVELS_MAX;
    if few(pattern) && few(other_pattern) {
        let found = every_topic(pattern, other_pattern)
            .iter()
            .any(|topic| matches(pattern, topic) && matches(other_pattern, topic));
        assert_eq!(meets, found, "{one:?} {two:?}");
    }
}

/// All topics of the levels that two filters name, and one that neither does.
fn every_topic(one: &str, two: &str) -> Vec<String> {
    let levels: BTreeSet<&str> = one
        .split('/')
        .chain(two.split('/'))
        .filter(|level| !matches!(*level, "+" | "#"))
        .chain(["x"])
        .collect();
    let mut topics: Vec<String> = levels.iter().map(ToString::to_string).collect();
    let mut last = topics.clone();
    for _ in 1..MEETING_LEVELS_MAX {
        last = last
            .iter()
            .flat_map(|topic| levels.iter().map(move |level| format!("{topic}/{level}")))
            .collect();
        topics.extend_from_slice(&last);
    }
    topics.retain(|topic| !topic.is_empty());
    topics
}

fn check_access(bytes: &mut Unstructured<'_>) -> Result<()> {
    let client_id = text(bytes, PIECES)?;
    let user = bytes.arbitrary::<bool>()?.then(|| text(bytes, PIECES)).transpose()?;
    let (rule, other) = (text(bytes, PIECES)?, text(bytes, PIECES)?);
    let (asked, name) = (text(bytes, PIECES)?, text(bytes, PLAIN)?);
    let glob = check_glob(&other, &client_id);
    let (Ok(filter), Some(topic)) = (AccessFilter::new(&rule), parse_name(&name)) else { return Ok(()) };
    assert_eq!(filter.to_string(), rule);
    let rules = [
        AccessRule {
            user: None,
            client_id: glob,
            anonymous: Some(true),
            publish: Vec::new(),
            subscribe: AccessFilter::new(&other).into_iter().collect(),
        },
        AccessRule {
            user: None,
            client_id: None,
            anonymous: None,
            publish: vec![filter.clone()],
            subscribe: vec![filter],
        },
    ];
    let rights = Rights::of(Some(&rules[1..]), &client_id, user.clone().map(Into::into));
    let (may, means) = (rights.may_publish(&topic), allows(&rule, &client_id, user.as_deref(), &name));
    assert!(!may || means, "{rule:?} gives {client_id:?}, {user:?} no {name:?}");
    assert_eq!(rights.may_receive(&topic), may);
    let harmless = |name: &str| !name.is_empty() && !name.contains(['/', '+', '#', '$']);
    if harmless(&client_id) && user.as_deref().is_some_and(harmless) {
        assert_eq!(may, means, "{rule:?} {client_id:?} {user:?} {name:?}");
    }
    if let Some(asked) = parse_filter(&asked) {
        let brings = matches(asked.pattern(), &name) && rights.may_receive(&topic);
        assert!(!brings || rights.may_subscribe(&asked), "{asked} brings {name:?} and is refused");
    }
    check_first_rule(&rules, &client_id, user.as_deref(), (&other, &rule), &topic);
    Ok(())
}

/// The first rule that matches decides, whatever a later one would give.
fn check_first_rule(
    rules: &[AccessRule],
    client_id: &str,
    user: Option<&str>,
    (first, second): (&str, &str),
    topic: &TopicName,
) {
    let rights = Rights::of(Some(rules), client_id, user.map(Into::into));
    let is_first = user.is_none() && rules[0].client_id.is_none_or_matches(first, client_id);
    if rights.may_receive(topic) {
        let by = if is_first { first } else { second };
        assert!(allows(by, client_id, user, topic.as_str()), "{by:?} {client_id:?} {user:?} {topic}");
    }
    assert!(!is_first || !rights.may_publish(topic), "the first rule gives nothing to publish");
}

/// Whom the first rule is for, by the oracle.
trait Naive {
    fn is_none_or_matches(&self, pattern: &str, name: &str) -> bool;
}

impl Naive for Option<Glob> {
    fn is_none_or_matches(&self, pattern: &str, name: &str) -> bool {
        self.is_none() || glob_matches(pattern, name)
    }
}

fn check_glob(pattern: &str, name: &str) -> Option<Glob> {
    let glob = Glob::new(pattern).ok()?;
    assert_eq!(glob.matches(name), glob_matches(pattern, name), "{pattern:?} {name:?}");
    Some(glob)
}

// The oracle.

fn parse_name(text: &str) -> Option<TopicName> {
    let good = !text.is_empty() && !text.contains(['+', '#', '\0']) && text.len() <= 65_535;
    let parsed = TopicName::new(text);
    assert_eq!(parsed.is_ok(), good, "{text:?}");
    parsed.ok().inspect(|name| assert_eq!(name.as_str(), text))
}

fn parse_filter(text: &str) -> Option<TopicFilter> {
    let parsed = TopicFilter::new(text);
    assert_eq!(parsed.is_ok(), is_filter(text), "{text:?}");
    parsed.ok().inspect(|filter| {
        let (share_name, pattern) = if is_shared(text) { shared_parts(text) } else { ("", text) };
        assert_eq!((filter.share_name().unwrap_or(""), filter.pattern()), (share_name, pattern), "{text:?}");
        assert_eq!(filter.has_wildcard(), pattern.contains(['+', '#']));
    })
}

fn is_filter(text: &str) -> bool {
    if text.is_empty() || text.contains('\0') {
        return false;
    }
    if !is_shared(text) {
        return has_good_levels(text);
    }
    let (name, pattern) = shared_parts(text);
    let named = !name.is_empty() && !name.contains(['+', '#']);
    named && !pattern.is_empty() && has_good_levels(pattern)
}

fn has_good_levels(pattern: &str) -> bool {
    let levels: Vec<&str> = pattern.split('/').collect();
    levels.iter().enumerate().all(|(at, level)| match *level {
        "+" => true,
        "#" => at + 1 == levels.len(),
        other => !other.contains(['+', '#']),
    })
}

fn is_shared(text: &str) -> bool {
    text.starts_with("$share/")
}

/// Name and filter; both empty where they are missing.
fn shared_parts(text: &str) -> (&str, &str) {
    let mut parts = text.splitn(3, '/').skip(1);
    let name = parts.next().unwrap_or("");
    (name, parts.next().unwrap_or(""))
}

fn matches(pattern: &str, topic: &str) -> bool {
    let (pattern, topic): (Vec<&str>, Vec<&str>) = (pattern.split('/').collect(), topic.split('/').collect());
    let wild = pattern[0] == "+" || pattern[0] == "#";
    !(wild && topic[0].starts_with('$')) && levels_match(&pattern, &topic)
}

fn levels_match(pattern: &[&str], topic: &[&str]) -> bool {
    match (pattern, topic) {
        (["#"], _) | ([], []) => true,
        (["+", pattern @ ..], [_, topic @ ..]) => levels_match(pattern, topic),
        ([one, pattern @ ..], [two, topic @ ..]) => one == two && levels_match(pattern, topic),
        ([], _) | (_, []) => false,
    }
}

/// What a rule means: its own wildcards count, and names stand for nothing but themselves.
fn allows(rule: &str, client_id: &str, user: Option<&str>, topic: &str) -> bool {
    let Some(levels) = rule.split('/').map(|level| fill(level, client_id, user)).collect::<Option<Vec<_>>>()
    else {
        return false;
    };
    let literal: Vec<bool> = rule.split('/').map(|level| level.contains('{')).collect();
    let names: Vec<&str> = topic.split('/').collect();
    let wild = rule.starts_with(['+', '#']);
    if wild && topic.starts_with('$') {
        return false;
    }
    for (at, level) in levels.iter().enumerate() {
        if level == "#" && !literal[at] {
            return true;
        }
        match names.get(at) {
            Some(_) if level == "+" && !literal[at] => {}
            Some(name) if name == level => {}
            Some(_) | None => return false,
        }
    }
    names.len() == levels.len()
}

fn fill(level: &str, client_id: &str, user: Option<&str>) -> Option<String> {
    let Some(first) = level.chars().next() else { return Some(String::new()) };
    if let Some(rest) = level.strip_prefix("{client_id}") {
        return Some(client_id.to_owned() + &fill(rest, client_id, user)?);
    }
    if let Some(rest) = level.strip_prefix("{user}") {
        return Some(user?.to_owned() + &fill(rest, client_id, user)?);
    }
    Some(first.to_string() + &fill(&level[first.len_utf8()..], client_id, user)?)
}

/// All places of the pattern that the text can have come to, character by character.
fn glob_matches(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let stars_skipped = |mut at: usize| {
        let mut places = vec![at];
        while pattern.get(at) == Some(&'*') {
            at += 1;
            places.push(at);
        }
        places
    };
    let mut places: BTreeSet<usize> = stars_skipped(0).into_iter().collect();
    for found in text.chars() {
        let next = places.iter().filter_map(|at| match pattern.get(*at)? {
            '*' => Some(*at),
            wanted if *wanted == '?' || *wanted == found => Some(at + 1),
            _ => None,
        });
        places = next.flat_map(stars_skipped).collect();
    }
    places.contains(&pattern.len())
}
