//! Typed views of the tree: sections, keys and values with their paths and positions. Reports what has the
//! wrong type or range; never knows what a key means.

use std::cell::RefCell;
use std::fmt;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::sync::Arc;

use crate::base::time::Duration;
use crate::config::error::{Fault, Faults, Position, Problem};
use crate::config::yaml::{Entry, Kind, Node};
use crate::config::{duration, size};

/// The longest value that a fault repeats.
const SHOWN_BYTES_MAX: usize = 60;

/// Where faults gather while the checks go on.
#[derive(Debug)]
pub struct Report {
    file: Arc<str>,
    /// Of all files that belong together.
    faults: Rc<RefCell<Vec<Fault>>>,
}

impl Report {
    pub fn new(file: &str) -> Self {
        Self { file: file.into(), faults: Rc::default() }
    }

    /// Of another file, whose faults gather in the same place.
    pub fn of_file(&self, file: &str) -> Self {
        Self { file: file.into(), faults: Rc::clone(&self.faults) }
    }

    pub fn add(&self, position: Position, path: &str, problem: Problem) {
        let fault = Fault { file: self.file.clone(), position, path: path.to_owned(), problem };
        self.faults.borrow_mut().push(fault);
    }

    /// Sorted by position, those of other files behind its own; None where nothing was wrong. An alias shows one place
    /// under several paths. What two devices take from one file is wrong once.
    pub fn into_faults(self) -> Option<Faults> {
        let mut faults = self.faults.take();
        let order = |fault: &Fault| (fault.file != self.file, fault.file.clone(), fault.position);
        faults.sort_by(|a, b| (order(a), &a.path).cmp(&(order(b), &b.path)));
        faults.dedup();
        if faults.is_empty() { None } else { Some(Faults(faults)) }
    }
}

/// A map with known keys.
#[derive(Debug, Clone)]
pub struct Section<'a> {
    entries: &'a [Entry],
    known: &'static [&'static str],
    position: Position,
    path: String,
    report: &'a Report,
    /// What says a key that `entries` do not.
    beneath: Option<Box<Section<'a>>>,
}

/// A value with its place.
#[derive(Debug, Clone)]
pub struct Field<'a> {
    node: &'a Node,
    /// Of the key, where there is one.
    key_position: Position,
    path: String,
    report: &'a Report,
}

impl<'a> Field<'a> {
    pub fn root(node: &'a Node, report: &'a Report) -> Self {
        Self { node, key_position: Position::START, path: String::new(), report }
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn kind(&self) -> &'a Kind {
        &self.node.kind
    }

    /// Reports a problem with the value.
    pub fn fault(&self, problem: Problem) {
        // An empty value stands nowhere; its key does.
        let empty = matches!(self.node.kind, Kind::Null);
        let position = if empty { self.key_position } else { self.node.position };
        self.report.add(position, &self.path, problem);
    }

    /// Reports a problem with the key, or with the lack of one beneath it.
    pub fn fault_at_key(&self, problem: Problem) {
        self.report.add(self.key_position, &self.path, problem);
    }

    fn refuse<T>(&self, problem: Problem) -> Option<T> {
        self.fault(problem);
        None
    }

    fn wrong_type<T>(&self, wants: &'static str) -> Option<T> {
        let found = match self.node.kind {
            Kind::Faulty => return None,
            Kind::Null => "nothing",
            Kind::Bool(_) => "a flag",
            Kind::Integer(_) | Kind::Float(_) => "a number",
            Kind::Text(_) | Kind::Expanded(_) => "text",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a map",
        };
        self.refuse(Problem::WrongType { wants, found })
    }

    /// Any text, empty too.
    pub fn text(&self) -> Option<&'a str> {
        match &self.node.kind {
            Kind::Text(text) | Kind::Expanded(text) => Some(text),
            Kind::Bool(_) | Kind::Integer(_) | Kind::Float(_) => self.wrong_type("text: put it in quotes"),
            _ => self.wrong_type("text"),
        }
    }

    pub fn filled_text(&self) -> Option<&'a str> {
        let text = self.text()?;
        if text.is_empty() { self.refuse(Problem::EmptyText) } else { Some(text) }
    }

    /// What the file itself says, to be shown; None for what is long, or came from elsewhere and may be a
    /// secret.
    pub fn shown(&self) -> Option<Box<str>> {
        match &self.node.kind {
            Kind::Text(text) if text.len() <= SHOWN_BYTES_MAX => Some(text.as_str().into()),
            _ => None,
        }
    }

    pub fn flag(&self) -> Option<bool> {
        match &self.node.kind {
            Kind::Bool(value) => Some(*value),
            Kind::Expanded(text) if text == "true" => Some(true),
            Kind::Expanded(text) if text == "false" => Some(false),
            _ => self.wrong_type("true or false"),
        }
    }

    pub fn integer<T>(&self, range: RangeInclusive<T>) -> Option<T>
    where
        T: Copy + fmt::Display + TryFrom<i128> + Into<i128>,
    {
        let value = match &self.node.kind {
            Kind::Integer(value) => *value,
            Kind::Expanded(text) if text.parse::<i128>().is_ok() => text.parse().ok()?,
            _ => return self.wrong_type("a whole number"),
        };
        let (min, max) = (*range.start(), *range.end());
        if value < min.into() || value > max.into() {
            let (min, max) = (min.to_string().into(), max.to_string().into());
            return self.refuse(Problem::OutOfRange { min, max });
        }
        T::try_from(value).ok()
    }

    /// Any finite number.
    pub fn number(&self) -> Option<f64> {
        let value = match &self.node.kind {
            // Beyond 2^53 the nearest number that a value can have.
            #[allow(clippy::cast_precision_loss)]
            Kind::Integer(value) => *value as f64,
            Kind::Float(value) => *value,
            Kind::Expanded(text) if text.parse::<f64>().is_ok() => text.parse().ok()?,
            _ => return self.wrong_type("a number"),
        };
        if value.is_finite() { Some(value) } else { self.refuse(Problem::NotFinite) }
    }

    pub fn duration(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        let text = match &self.node.kind {
            Kind::Text(text) | Kind::Expanded(text) => text.as_str(),
            // `5` without its unit.
            Kind::Integer(_) | Kind::Float(_) => return self.refuse(Problem::BadDuration),
            _ => return self.wrong_type("a duration: 500ms, 5s, 10m, 24h, 7d"),
        };
        let Some(value) = duration::parse(text) else { return self.refuse(Problem::BadDuration) };
        if range.contains(&value) {
            return Some(value);
        }
        self.refuse(Problem::duration_range(*range.start(), *range.end()))
    }

    pub fn seconds(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        let value = self.duration(range)?;
        if value.subsec_millis() == 0 { Some(value) } else { self.refuse(Problem::NotWholeSeconds) }
    }

    /// Bytes.
    pub fn size(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let text = match &self.node.kind {
            Kind::Text(text) | Kind::Expanded(text) => text.as_str(),
            Kind::Integer(_) | Kind::Float(_) => return self.refuse(Problem::BadSize),
            _ => return self.wrong_type("a size: 64KiB, 256MiB, 1GiB"),
        };
        let Some(value) = size::parse(text) else { return self.refuse(Problem::BadSize) };
        if range.contains(&value) {
            return Some(value);
        }
        self.refuse(Problem::size_range(*range.start(), *range.end()))
    }

    /// One word of several.
    pub fn choice<T: Copy>(&self, known: &[(&'static str, T)]) -> Option<T> {
        let text = self.text()?;
        if let Some((_, value)) = known.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let words: Box<[&'static str]> = known.iter().map(|(word, _)| *word).collect();
        let nearest = nearest(text, words.iter().copied());
        self.refuse(Problem::UnknownChoice { given: self.shown(), nearest, known: words })
    }

    /// `[A-Za-z0-9._-]+`
    pub fn name(&self) -> Option<&'a str> {
        let text = self.filled_text()?;
        if is_name(text) { Some(text) } else { self.refuse(Problem::BadName) }
    }

    pub fn items(&self) -> Option<Vec<Field<'a>>> {
        let Kind::List(items) = &self.node.kind else { return self.wrong_type("a list") };
        let fields = items.iter().enumerate().map(|(index, node)| Field {
            node,
            key_position: node.position,
            path: format!("{}[{index}]", self.path),
            report: self.report,
        });
        Some(fields.collect())
    }

    /// A map whose keys the user names. Nothing is as good as an empty map.
    pub fn named_fields(&self) -> Option<Vec<(&'a str, Field<'a>)>> {
        let mut fields = Vec::new();
        for entry in self.entries()? {
            let field = child(entry, &self.path, self.report);
            if is_name(&entry.key) {
                fields.push((entry.key.as_str(), field));
            } else {
                field.fault_at_key(Problem::BadName);
            }
        }
        Some(fields)
    }

    /// A map whose keys are any text.
    pub fn keyed_fields(&self) -> Option<Vec<(&'a str, Field<'a>)>> {
        let entries = self.entries()?.iter();
        Some(entries.map(|entry| (entry.key.as_str(), child(entry, &self.path, self.report))).collect())
    }

    /// The keys of a map that are names, without a word about the others.
    pub fn named_keys(&self) -> Vec<(&'a str, Field<'a>)> {
        let Kind::Map(entries) = &self.node.kind else { return Vec::new() };
        let named = entries.iter().filter(|entry| is_name(&entry.key));
        named.map(|entry| (entry.key.as_str(), child(entry, &self.path, self.report))).collect()
    }

    fn entries(&self) -> Option<&'a [Entry]> {
        match &self.node.kind {
            Kind::Map(entries) => Some(entries),
            Kind::Null => Some(&[]),
            _ => self.wrong_type("a map"),
        }
    }

    /// A map whose keys are `known`; any other is reported. Nothing is as good as an empty map.
    pub fn section(&self, known: &'static [&'static str]) -> Option<Section<'a>> {
        let entries = self.entries()?;
        let section = Section {
            entries,
            known,
            position: self.key_position,
            path: self.path.clone(),
            report: self.report,
            beneath: None,
        };
        for entry in entries.iter().filter(|entry| !known.contains(&entry.key.as_str())) {
            let nearest = nearest(&entry.key, known.iter().copied());
            child(entry, &self.path, self.report).fault_at_key(Problem::UnknownKey { nearest, known });
        }
        Some(section)
    }
}

impl<'a> Section<'a> {
    /// Itself, and for the keys that it does not have another one.
    pub fn over(self, beneath: Self) -> Self {
        Self { beneath: Some(Box::new(beneath)), ..self }
    }

    pub fn beneath(&self) -> Option<&Self> {
        self.beneath.as_deref()
    }

    /// Of the section itself, not of what lies beneath.
    pub fn find_own(&self, key: &str) -> Option<Field<'a>> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        Some(child(entry, &self.path, self.report))
    }

    pub fn find(&self, key: &str) -> Option<Field<'a>> {
        self.find_own(key).or_else(|| self.beneath()?.find(key))
    }

    pub fn has(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    /// Reports a problem with the section as a whole, at its key.
    pub fn fault(&self, problem: Problem) {
        self.report.add(self.position, &self.path, problem);
    }

    /// Reports a problem with a key that is not there.
    pub fn fault_at(&self, key: &str, problem: Problem) {
        self.report.add(self.position, &join_path(&self.path, key), problem);
    }

    /// A key that must be there.
    pub fn require(&self, key: &str, example: &'static str) -> Option<Field<'a>> {
        let field = self.find(key);
        if field.is_none() && !self.misspells(&[key]) {
            self.fault_at(key, Problem::MissingKey { example });
        }
        field
    }

    /// Whether an unknown key, which was reported, probably means one of `keys`.
    fn misspells(&self, keys: &[&str]) -> bool {
        let unknown = self.entries.iter().filter(|entry| !self.known.contains(&entry.key.as_str()));
        let mut meant = unknown.filter_map(|entry| nearest(&entry.key, self.known.iter().copied()));
        meant.any(|key| keys.contains(&key))
    }

    /// The one of `keys` that is there; none and several are reported.
    pub fn require_one(&self, keys: &'static [&'static str]) -> Option<(&'static str, Field<'a>)> {
        let mut found = keys.iter().filter_map(|key| Some((*key, self.find(key)?)));
        let Some(first) = found.next() else {
            if !self.misspells(keys) {
                self.fault(Problem::MissingOneOf(keys));
            }
            return None;
        };
        if found.next().is_some() {
            self.fault(Problem::Conflict(keys));
            return None;
        }
        Some(first)
    }

    /// What a key says, or None where it is not there or says something wrong, which `read` has reported.
    pub fn read<T>(&self, key: &str, read: impl FnOnce(&Field<'a>) -> Option<T>) -> Option<T> {
        self.find(key).and_then(|field| read(&field))
    }

    /// The key's value or its default. A faulty value counts as the default, so that the checks go on.
    pub fn read_or<T>(&self, key: &str, default: T, read: impl FnOnce(&Field<'a>) -> Option<T>) -> T {
        self.read(key, read).unwrap_or(default)
    }

    /// Reads a section that may be left out or empty: then every key has its default. A section that is
    /// none is reported, and counts as left out.
    pub fn read_section<T>(
        &self,
        key: &str,
        known: &'static [&'static str],
        read: impl FnOnce(&Section<'a>) -> T,
    ) -> T {
        let own = self.find_own(key).and_then(|field| field.section(known));
        let beneath = self.beneath().and_then(|beneath| beneath.find(key)?.section(known));
        match (own, beneath) {
            (Some(own), Some(beneath)) => read(&own.over(beneath)),
            (Some(section), None) | (None, Some(section)) => read(&section),
            (None, None) => {
                let (path, position) = (join_path(&self.path, key), self.position);
                let report = self.report;
                read(&Section { entries: &[], known, position, path, report, beneath: None })
            }
        }
    }

    /// Reports keys that say nothing where they stand.
    pub fn refuse_keys(&self, keys: &[&str], problem: &Problem) {
        for field in keys.iter().filter_map(|key| self.find(key)) {
            field.fault_at_key(problem.clone());
        }
    }
}

fn child<'a>(entry: &'a Entry, path: &str, report: &'a Report) -> Field<'a> {
    Field { node: &entry.value, key_position: entry.position, path: join_path(path, &entry.key), report }
}

/// `a.b`, or `b` at the root.
pub fn join_path(path: &str, key: &str) -> String {
    let key = if key.is_empty() { "\"\"" } else { key };
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

pub fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// The word that was probably meant: at most a third of its letters differ.
pub fn nearest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let given = given.to_ascii_lowercase();
    let distances = known.map(|word| (strsim::damerau_levenshtein(&given, word), word));
    let (distance, word) = distances.min_by_key(|(distance, _)| *distance)?;
    if distance * 3 <= word.len().max(3) { Some(word) } else { None }
}

/// 0, in any of the ways in which a default can be written.
pub fn is_zero(kind: &Kind) -> bool {
    match kind {
        Kind::Integer(value) => *value == 0,
        Kind::Text(text) | Kind::Expanded(text) => {
            text == "0" || size::parse(text) == Some(0) || duration::parse(text) == Some(Duration::ZERO)
        }
        _ => false,
    }
}

pub fn is_text(kind: &Kind, expected: &str) -> bool {
    matches!(kind, Kind::Text(text) | Kind::Expanded(text) if text == expected)
}

/// Nothing, or nothing in it.
pub fn is_empty(kind: &Kind) -> bool {
    match kind {
        Kind::Null => true,
        Kind::Text(text) | Kind::Expanded(text) => text.is_empty(),
        Kind::List(items) => items.is_empty(),
        Kind::Map(entries) => entries.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn the_nearest_word_is_near() {
        let known = ["poll", "timeout", "retries", "offline_after", "qos"];
        let cases = [
            ("pol", Some("poll")),
            ("Poll", Some("poll")),
            ("time_out", Some("timeout")),
            ("offlineAfter", Some("offline_after")),
            ("qso", Some("qos")),
            ("banana", None),
            ("x", None),
            ("", None),
        ];
        for (given, expected) in cases {
            assert_eq!(nearest(given, known.into_iter()), expected, "{given}");
        }
    }
}
