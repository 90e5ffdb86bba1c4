//! Topic names and filters: parsed once, then trusted. MQTT 5 section 4.7 (3.1.1: 4.7).

use std::fmt;
use std::sync::Arc;

/// MQTT 1.5.4: the length of a string is two bytes.
const TOPIC_BYTES_MAX: usize = 65_535;

/// What is wrong with a topic name or filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicError {
    /// [MQTT-4.7.3-1] [MQTT-4.7.3-1 of 3.1.1]
    Empty,
    /// [MQTT-4.7.3-3] [MQTT-4.7.3-3 of 3.1.1]
    TooLong,
    /// [MQTT-4.7.3-2] [MQTT-4.7.3-2 of 3.1.1]
    HoldsNul,
    /// [MQTT-4.7.0-1] [MQTT-4.7.1-1 of 3.1.1]: a name holds `+` or `#`.
    HoldsWildcard,
    /// [MQTT-4.7.1-1] [MQTT-4.7.1-2 of 3.1.1]: `#` is not the last level, or not alone in it.
    MisplacedHash,
    /// [MQTT-4.7.1-2] [MQTT-4.7.1-3 of 3.1.1]: `+` is not alone in its level.
    MisplacedPlus,
    /// [MQTT-4.8.2-1]: `$share/NAME/FILTER` without a name or a filter.
    IncompleteShare,
    /// [MQTT-4.8.2-2]: the share name holds `+` or `#`.
    WildcardInShareName,
}

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "is empty",
            Self::TooLong => "is longer than 65535 bytes",
            Self::HoldsNul => "holds U+0000",
            Self::HoldsWildcard => "holds a wildcard",
            Self::MisplacedHash => "has `#` elsewhere than alone in the last level",
            Self::MisplacedPlus => "has `+` beside other characters in one level",
            Self::IncompleteShare => "begins with `$share/` but has no share name and filter",
            Self::WildcardInShareName => "has a wildcard in its share name",
        })
    }
}

impl std::error::Error for TopicError {}

/// A topic name without wildcards. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Arc<str>);

impl TopicName {
    pub fn new(text: &str) -> Result<Self, TopicError> {
        check_text(text)?;
        if text.bytes().any(|b| b == b'+' || b == b'#') {
            return Err(TopicError::HoldsWildcard);
        }
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn levels(&self) -> std::str::Split<'_, char> {
        self.0.split('/')
    }

    /// Topics that begin with `$` are the server's own; wildcards at the first level pass them by.
    pub fn is_system(&self) -> bool {
        self.0.starts_with('$')
    }
}

impl fmt::Debug for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A topic filter, shared or not. Cheap to clone. Two filters are the same when their text is
/// [MQTT-3.10.4-1] [MQTT-3.10.4-1 of 3.1.1]: the share name is part of it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicFilter {
    text: Arc<str>,
    /// Where the filter proper begins: 0, or behind `$share/NAME/`.
    filter_start: usize,
}

impl TopicFilter {
    pub fn new(text: &str) -> Result<Self, TopicError> {
        check_text(text)?;
        let filter_start = match text.strip_prefix("$share/") {
            Some(rest) => shared_filter_start(text, rest)?,
            None => 0,
        };
        check_wildcards(&text[filter_start..])?;
        Ok(Self { text: text.into(), filter_start })
    }

    /// The text as the client sent it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The filter that topics are held against, without `$share/NAME/`.
    pub fn pattern(&self) -> &str {
        &self.text[self.filter_start..]
    }

    /// The name in `$share/NAME/FILTER`.
    pub fn share_name(&self) -> Option<&str> {
        if self.filter_start == 0 {
            return None;
        }
        Some(&self.text["$share/".len()..self.filter_start - 1])
    }

    pub fn levels(&self) -> std::str::Split<'_, char> {
        self.pattern().split('/')
    }

    pub fn has_wildcard(&self) -> bool {
        self.pattern().bytes().any(|b| b == b'+' || b == b'#')
    }

    /// MQTT 4.7: whether a topic matches. The trie answers the same for many filters at once.
    pub fn matches(&self, topic: &TopicName) -> bool {
        // [MQTT-4.7.2-1] [MQTT-4.7.2-1 of 3.1.1]
        if topic.is_system() && self.pattern().starts_with(['+', '#']) {
            return false;
        }
        let mut names = topic.levels();
        for level in self.levels() {
            if level == "#" {
                return true;
            }
            match names.next() {
                Some(name) if level == "+" || level == name => {}
                _ => return false,
            }
        }
        names.next().is_none()
    }

    /// Whether there is a topic that both match. Share names play no part.
    pub fn meets(&self, other: &TopicFilter) -> bool {
        let (mut ours, mut theirs) = (self.levels(), other.levels());
        // All that they share is the empty topic, which is none [MQTT-4.7.3-1].
        if matches!((self.pattern(), other.pattern()), ("/#", "+") | ("+", "/#")) {
            return false;
        }
        // [MQTT-4.7.2-1]
        let wild = |filter: &TopicFilter| filter.pattern().starts_with(['+', '#']);
        if (wild(self) && other.pattern().starts_with('$'))
            || (wild(other) && self.pattern().starts_with('$'))
        {
            return false;
        }
        loop {
            match (ours.next(), theirs.next()) {
                // `a/#` matches `a` too (4.7.1.2).
                (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
                (Some(one), Some(two)) if one == "+" || two == "+" || one == two => {}
                _ => return false,
            }
        }
    }
}

impl fmt::Debug for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn check_text(text: &str) -> Result<(), TopicError> {
    if text.is_empty() {
        return Err(TopicError::Empty);
    }
    if text.len() > TOPIC_BYTES_MAX {
        return Err(TopicError::TooLong);
    }
    if text.contains('\0') {
        return Err(TopicError::HoldsNul);
    }
    Ok(())
}

fn shared_filter_start(text: &str, rest: &str) -> Result<usize, TopicError> {
    let Some((name, filter)) = rest.split_once('/') else { return Err(TopicError::IncompleteShare) };
    if name.is_empty() || filter.is_empty() {
        return Err(TopicError::IncompleteShare);
    }
    if name.contains(['+', '#']) {
        return Err(TopicError::WildcardInShareName);
    }
    Ok(text.len() - filter.len())
}

fn check_wildcards(pattern: &str) -> Result<(), TopicError> {
    let mut levels = pattern.split('/').peekable();
    while let Some(level) = levels.next() {
        if level.contains('#') && (level != "#" || levels.peek().is_some()) {
            return Err(TopicError::MisplacedHash);
        }
        if level.contains('+') && level != "+" {
            return Err(TopicError::MisplacedPlus);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{TopicError, TopicFilter, TopicName};

    #[test]
    fn names_and_filters_are_refused_for_the_right_reason() {
        let names = [
            ("", Some(TopicError::Empty)),
            ("a\0b", Some(TopicError::HoldsNul)),
            ("a/+", Some(TopicError::HoldsWildcard)),
            ("/", None),
            ("a//b", None),
            ("\u{feff}a", None),
        ];
        for (text, error) in names {
            assert_eq!(TopicName::new(text).err(), error, "{text:?}");
        }
        let filters = [
            ("a/#/b", Some(TopicError::MisplacedHash)),
            ("a#", Some(TopicError::MisplacedHash)),
            ("sport+", Some(TopicError::MisplacedPlus)),
            ("$share/x", Some(TopicError::IncompleteShare)),
            ("$share//a", Some(TopicError::IncompleteShare)),
            ("$share/x/", Some(TopicError::IncompleteShare)),
            ("$share/+/a", Some(TopicError::WildcardInShareName)),
            ("$share/x/a/#", None),
            ("+/+/#", None),
        ];
        for (text, error) in filters {
            assert_eq!(TopicFilter::new(text).err(), error, "{text:?}");
        }
    }

    #[test]
    fn filters_match_as_section_4_7_shows() {
        let cases = [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
            ("sport/#", "sport", true),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/uptime", false),
            ("+/monitor", "$SYS/monitor", false),
            ("$SYS/#", "$SYS/monitor", true),
            ("$share/g/a/+", "a/b", true),
            ("a", "A", false),
        ];
        for (filter, topic, matches) in cases {
            let filter = TopicFilter::new(filter).expect("a valid filter");
            let topic = TopicName::new(topic).expect("a valid topic");
            assert_eq!(filter.matches(&topic), matches, "{filter} {topic}");
        }
    }

    #[test]
    fn filters_meet_where_one_topic_matches_both() {
        let cases = [
            ("a/#", "#", true),
            ("a/#", "a", true),
            ("a/#", "+", true),
            ("a/#", "b/#", false),
            ("a/+", "a", false),
            ("a/+", "+/b", true),
            ("a/+/c", "a/b/+", true),
            ("a/+/c", "a/b/d", false),
            ("a/b", "a/b/c", false),
            ("a", "A", false),
            ("#", "$SYS/#", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/+", true),
            ("$share/g/a/#", "a/b", true),
            ("#", "+", true),
            ("/#", "+", false),
            ("/#", "+/+", true),
        ];
        for (one, two, wanted) in cases {
            let (one, two) = (TopicFilter::new(one).expect("valid"), TopicFilter::new(two).expect("valid"));
            assert_eq!((one.meets(&two), two.meets(&one)), (wanted, wanted), "{one} {two}");
        }
    }

    #[test]
    fn a_shared_filter_keeps_its_parts() {
        let filter = TopicFilter::new("$share/group/a/b").expect("a valid filter");
        assert_eq!((filter.share_name(), filter.pattern()), (Some("group"), "a/b"));
    }
}
