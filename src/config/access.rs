//! Access rules as the configuration writes them: globs for who, topic filters with `{client_id}` and `{user}` for
//! what. Parses and matches; never decides who somebody is.

use std::fmt;
use std::sync::Arc;

use crate::mqtt::topic::{TopicError, TopicFilter, TopicName};

/// What a client has to be, and what it may do then. The first rule that matches decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessRule {
    /// Matches only clients that have a user.
    pub user: Option<Glob>,
    pub client_id: Option<Glob>,
    /// Whether the client has to be without a user, or with one.
    pub anonymous: Option<bool>,
    pub publish: Vec<AccessFilter>,
    pub subscribe: Vec<AccessFilter>,
}

impl AccessRule {
    /// All that the rule names has to match.
    pub fn matches(&self, client_id: &str, user: Option<&str>) -> bool {
        let user_matches = match (&self.user, user) {
            (None, _) => true,
            (Some(glob), Some(user)) => glob.matches(user),
            (Some(_), None) => false,
        };
        user_matches
            && self.client_id.as_ref().is_none_or(|glob| glob.matches(client_id))
            && self.anonymous.is_none_or(|anonymous| anonymous == user.is_none())
    }
}

/// `user sensor-*, client_id plant-*`
impl fmt::Display for AccessRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.user.as_ref().map(|glob| format!("user {}", glob.0)));
        parts.extend(self.client_id.as_ref().map(|glob| format!("client_id {}", glob.0)));
        parts.extend(
            self.anonymous.map(|anonymous| if anonymous { "anonymous" } else { "any user" }.to_owned()),
        );
        if parts.is_empty() { f.write_str("everybody") } else { f.write_str(&parts.join(", ")) }
    }
}

/// `sensor-*`: `*` stands for any characters, `?` for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(Arc<str>);

/// It is empty, or has a character that means more elsewhere: `[`, `]`, `{`, `}` or `\`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadGlob;

impl Glob {
    pub fn new(text: &str) -> Result<Self, BadGlob> {
        let good = !text.is_empty() && !text.contains(['[', ']', '{', '}', '\\']);
        if good { Ok(Self(text.into())) } else { Err(BadGlob) }
    }

    /// Takes at most the product of both lengths in steps.
    pub fn matches(&self, text: &str) -> bool {
        let (mut pattern, mut rest) = (self.0.chars(), text.chars());
        // Where the last `*` stood, and what it has taken so far.
        let mut retry = None;
        loop {
            let mut ahead = pattern.clone();
            let mut left = rest.clone();
            match (ahead.next(), left.next()) {
                (Some('*'), _) => {
                    retry = Some((ahead.clone(), rest.clone()));
                    pattern = ahead;
                }
                (Some(wanted), Some(found)) if wanted == '?' || wanted == found => {
                    (pattern, rest) = (ahead, left);
                }
                (None, None) => return true,
                _ => {
                    let Some((behind, taken)) = &mut retry else { return false };
                    if taken.next().is_none() {
                        return false;
                    }
                    (pattern, rest) = (behind.clone(), taken.clone());
                }
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    ClientId,
    User,
}

/// `sensors/{client_id}/#`, with at least one topic that it matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessFilter(Vec<Part>);

/// What is wrong with the filter of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessFilterError {
    UnknownVariable(Box<str>),
    Filter(TopicError),
    Shared,
}

impl AccessFilter {
    pub fn new(text: &str) -> Result<Self, AccessFilterError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once('{') {
            let Some((name, behind)) = behind.split_once('}') else { break };
            parts.push(Part::Text(before.into()));
            parts.push(match name {
                "client_id" => Part::ClientId,
                "user" => Part::User,
                _ => return Err(AccessFilterError::UnknownVariable(format!("{{{name}}}").into())),
            });
            rest = behind;
        }
        parts.push(Part::Text(rest.into()));
        let filter = Self(parts);
        let example = TopicFilter::new(&filter.fill("x", "x")).map_err(AccessFilterError::Filter)?;
        if example.share_name().is_some() { Err(AccessFilterError::Shared) } else { Ok(filter) }
    }

    /// The filter for one client. None: it gives this client nothing, because it has no user, or because its name
    /// would widen the filter.
    pub fn render(&self, client_id: &str, user: Option<&str>) -> Option<TopicFilter> {
        let harmless = |name: &str| !name.is_empty() && !name.contains(['/', '+', '#']);
        for part in &self.0 {
            match part {
                Part::ClientId if !harmless(client_id) => return None,
                Part::User if !user.is_some_and(harmless) => return None,
                Part::Text(_) | Part::ClientId | Part::User => {}
            }
        }
        let filled = self.fill(client_id, user.unwrap_or_default());
        // A name that begins with `$` must not lead into the gateway's own topics, or make a share name.
        if filled.starts_with('$') != self.fill("x", "x").starts_with('$') {
            return None;
        }
        TopicFilter::new(&filled).ok()
    }

    /// Whether it lets somebody reach a topic. Inner None: whoever the rule is for; else what he has to be called.
    pub fn reach(&self, topic: &TopicName) -> Option<Option<Box<str>>> {
        if !self.0.iter().any(|part| matches!(part, Part::ClientId | Part::User)) {
            return self.render("x", Some("x"))?.matches(topic).then_some(None);
        }
        let mut names = topic.levels();
        let name = names.find(|name| self.render(name, Some(name)).is_some_and(|own| own.matches(topic)))?;
        Some(Some(name.into()))
    }

    fn fill(&self, client_id: &str, user: &str) -> String {
        self.0.iter().fold(String::new(), |text, part| {
            text + match part {
                Part::Text(text) => text,
                Part::ClientId => client_id,
                Part::User => user,
            }
        })
    }
}

impl fmt::Display for AccessFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.fill("{client_id}", "{user}"))
    }
}

#[cfg(test)]
mod tests {
    use super::{AccessFilter, AccessFilterError, AccessRule, BadGlob, Glob};
    use crate::mqtt::topic::{TopicError, TopicFilter};

    #[test]
    fn globs_match_whole_names() {
        let cases = [
            ("ann", "ann", true),
            ("ann", "anna", false),
            ("ann", "an", false),
            ("*", "", true),
            ("*", "anything/at all", true),
            ("sensor-*", "sensor-", true),
            ("sensor-*", "sensor-7", true),
            ("sensor-*", "Sensor-7", false),
            ("*-7", "sensor-7-7", true),
            ("*-7", "sensor-78", false),
            ("s?r", "sär", true),
            ("s?r", "sr", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("**", "x", true),
            ("?*", "", false),
        ];
        for (glob, text, wanted) in cases {
            assert_eq!(Glob::new(glob).expect("a glob").matches(text), wanted, "{glob} {text}");
        }
        for text in ["", "[ab]", "{user}", "a\\*"] {
            assert_eq!(Glob::new(text), Err(BadGlob), "{text}");
        }
        // Bounded by the product of the lengths, not by 2 to the power of them.
        let hostile = format!("{}b", "a*".repeat(40));
        assert!(!Glob::new(&hostile).expect("a glob").matches(&"a".repeat(5000)));
    }

    #[test]
    fn all_that_a_rule_names_has_to_match() {
        let glob = |text: &str| Some(Glob::new(text).expect("a glob"));
        let rule = |user: Option<&str>, client_id: Option<&str>, anonymous| AccessRule {
            user: user.and_then(glob),
            client_id: client_id.and_then(glob),
            anonymous,
            publish: Vec::new(),
            subscribe: Vec::new(),
        };
        let cases = [
            (rule(None, None, None), true, true),
            (rule(Some("*"), None, None), true, false),
            (rule(Some("ann"), Some("c*"), None), true, false),
            (rule(Some("ann"), Some("d*"), None), false, false),
            (rule(None, Some("c1"), None), true, true),
            (rule(None, None, Some(true)), false, true),
            (rule(None, None, Some(false)), true, false),
            (rule(None, Some("d"), Some(true)), false, false),
        ];
        for (rule, for_ann, for_nobody) in cases {
            let found = (rule.matches("c1", Some("ann")), rule.matches("c1", None));
            assert_eq!(found, (for_ann, for_nobody), "{rule:?}");
        }
    }

    #[test]
    fn a_name_never_widens_a_filter() {
        let cases = [
            ("a/#", "c", None, Some("a/#")),
            ("s/{client_id}/#", "c", None, Some("s/c/#")),
            ("s/{client_id}", "", None, None),
            ("s/{client_id}", "+", None, None),
            ("s/{client_id}", "#", None, None),
            ("s/{client_id}", "a/b", None, None),
            ("s/{client_id}x", "a#", None, None),
            ("s/{client_id}", "$SYS", None, Some("s/$SYS")),
            ("{client_id}/#", "$SYS", None, None),
            ("{client_id}/#", "$share", None, None),
            ("$SYS/{user}", "c", Some("ann"), Some("$SYS/ann")),
            ("{user}/{client_id}/+", "c", Some("ann"), Some("ann/c/+")),
            ("{user}/#", "c", None, None),
            ("{user}/#", "c", Some(""), None),
            ("{user}/#", "c", Some("+"), None),
            ("{user}/#", "c", Some("{client_id}"), Some("{client_id}/#")),
            ("a{b", "c", None, Some("a{b")),
        ];
        for (text, client_id, user, wanted) in cases {
            let filter = AccessFilter::new(text).expect(text);
            assert_eq!(filter.to_string(), text);
            let rendered = filter.render(client_id, user);
            assert_eq!(rendered.as_ref().map(TopicFilter::as_str), wanted, "{text} {client_id:?} {user:?}");
        }
    }

    #[test]
    fn filters_that_can_match_nothing_are_refused() {
        let cases = [
            ("", AccessFilterError::Filter(TopicError::Empty)),
            ("a/#/b", AccessFilterError::Filter(TopicError::MisplacedHash)),
            ("a/{client_id}#", AccessFilterError::Filter(TopicError::MisplacedHash)),
            ("a/+{user}", AccessFilterError::Filter(TopicError::MisplacedPlus)),
            ("$share/g/a", AccessFilterError::Shared),
            ("a/{device}", AccessFilterError::UnknownVariable("{device}".into())),
            ("a/{}", AccessFilterError::UnknownVariable("{}".into())),
        ];
        for (text, error) in cases {
            assert_eq!(AccessFilter::new(text), Err(error), "{text}");
        }
    }
}
