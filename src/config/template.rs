//! Topic templates: `sites/{gateway}/alarms/{2}/{1}`, parsed once and filled in for each message. Pure text:
//! never knows which rule or device it serves.

use std::fmt;
use std::sync::Arc;

use crate::mqtt::topic::{TopicError, TopicFilter, TopicName};

/// A parsed template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicTemplate {
    text: Arc<str>,
    parts: Vec<Part>,
}

/// One piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Literal(Arc<str>),
    /// `{topic}`: the whole topic.
    Topic,
    /// `{gateway}`
    Gateway,
    /// `{device}`
    Device,
    /// `{point}`
    Point,
    /// `{1}`: what the n-th `+` took, from 1.
    Plus(u8),
    /// `{rest}`: what `#` took.
    Rest,
}

/// As it is written.
impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(text) => f.write_str(text),
            Self::Topic => f.write_str("{topic}"),
            Self::Gateway => f.write_str("{gateway}"),
            Self::Device => f.write_str("{device}"),
            Self::Point => f.write_str("{point}"),
            Self::Plus(index) => write!(f, "{{{index}}}"),
            Self::Rest => f.write_str("{rest}"),
        }
    }
}

/// What is wrong with a template's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplateError {
    Empty,
    /// `{` without its `}`.
    Unclosed,
    /// `}` without its `{`.
    Unopened,
    /// What the braces hold is no variable.
    UnknownVariable(Arc<str>),
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("is empty"),
            Self::Unclosed => f.write_str("has `{` without its `}`"),
            Self::Unopened => f.write_str("has `}` without its `{`"),
            Self::UnknownVariable(name) => write!(f, "holds the unknown variable `{{{name}}}`"),
        }
    }
}

impl std::error::Error for TemplateError {}

impl TopicTemplate {
    pub fn new(text: &str) -> Result<Self, TemplateError> {
        if text.is_empty() {
            return Err(TemplateError::Empty);
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (literal, tail) = rest.split_at(at);
            push_literal(&mut parts, literal);
            let Some(inner) = tail.strip_prefix('{') else { return Err(TemplateError::Unopened) };
            let Some((name, after)) = inner.split_once('}') else { return Err(TemplateError::Unclosed) };
            parts.push(variable(name)?);
            rest = after;
        }
        push_literal(&mut parts, rest);
        Ok(Self { text: text.into(), parts })
    }

    /// The text as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    pub fn holds(&self, part: &Part) -> bool {
        self.parts.contains(part)
    }

    /// The target of a bridge's rule: `filter` is the rule's and matches `topic`. What a variable asks for
    /// and the filter did not take is empty.
    pub fn render(
        &self,
        gateway: &str,
        filter: &TopicFilter,
        topic: &TopicName,
    ) -> Result<TopicName, TopicError> {
        TopicName::new(&self.fill(|part| match part {
            Part::Literal(text) => text,
            Part::Topic => topic.as_str(),
            Part::Gateway => gateway,
            Part::Device | Part::Point => "",
            Part::Plus(index) => plus_capture(filter, topic, *index),
            Part::Rest => rest_capture(filter, topic),
        }))
    }

    /// The topic, or with `+` and `#` where nobody knows the topics, of which `render` makes this one. None: there is
    /// none.
    pub fn origin_of(&self, gateway: &str, filter: &TopicFilter, topic: &TopicName) -> Option<String> {
        let mut taken: Vec<(&Part, &str)> = Vec::new();
        let mut rest = topic.as_str();
        let mut parts = self.parts.iter().peekable();
        while let Some(part) = parts.next() {
            match part {
                Part::Literal(text) => rest = rest.strip_prefix(&**text)?,
                Part::Gateway => rest = rest.strip_prefix(gateway)?,
                Part::Device | Part::Point => return None,
                Part::Topic | Part::Plus(_) | Part::Rest => {
                    let end = match parts.peek() {
                        Some(Part::Literal(text)) => rest.find(&**text)?,
                        Some(Part::Gateway) => rest.find(gateway)?,
                        _ => rest.len(),
                    };
                    let (value, behind) = rest.split_at(end);
                    taken.push((part, value));
                    rest = behind;
                }
            }
        }
        let value_of = |part: &Part| taken.iter().find(|(of, _)| *of == part).map(|(_, value)| *value);
        let mut plus = 0;
        let levels = filter.levels().map(|level| match level {
            "+" => {
                plus += 1;
                value_of(&Part::Plus(plus)).unwrap_or("+")
            }
            "#" => value_of(&Part::Rest).unwrap_or("#"),
            level => level,
        });
        let origin = match value_of(&Part::Topic) {
            Some(whole) => whole.to_owned(),
            None => levels.collect::<Vec<_>>().join("/"),
        };
        let matches = TopicName::new(&origin).map_or(true, |origin| filter.matches(&origin));
        (rest.is_empty() && matches).then_some(origin)
    }

    /// The topic of a reading; `point` is not looked at where the template has no `{point}`.
    pub fn render_reading(&self, gateway: &str, device: &str, point: &str) -> Result<TopicName, TopicError> {
        TopicName::new(&self.fill_reading(gateway, device, point))
    }

    /// The text of that topic; with `+` as the point, of a filter that all points match.
    pub fn fill_reading(&self, gateway: &str, device: &str, point: &str) -> String {
        self.fill(|part| match part {
            Part::Literal(text) => text,
            Part::Gateway => gateway,
            Part::Device => device,
            Part::Point => point,
            Part::Topic | Part::Plus(_) | Part::Rest => "",
        })
    }

    fn fill<'a>(&'a self, value_of: impl Fn(&'a Part) -> &'a str) -> String {
        self.parts.iter().map(value_of).collect()
    }
}

impl fmt::Display for TopicTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn push_literal(parts: &mut Vec<Part>, text: &str) {
    if !text.is_empty() {
        parts.push(Part::Literal(text.into()));
    }
}

fn variable(name: &str) -> Result<Part, TemplateError> {
    match name {
        "topic" => Ok(Part::Topic),
        "gateway" => Ok(Part::Gateway),
        "device" => Ok(Part::Device),
        "point" => Ok(Part::Point),
        "rest" => Ok(Part::Rest),
        digits => match digits.parse::<u8>() {
            Ok(index) if index > 0 && !digits.starts_with(['0', '+']) => Ok(Part::Plus(index)),
            _ => Err(TemplateError::UnknownVariable(name.into())),
        },
    }
}

/// What the `index`-th `+` of the filter took, from 1.
fn plus_capture<'a>(filter: &TopicFilter, topic: &'a TopicName, index: u8) -> &'a str {
    let pairs = filter.levels().zip(topic.levels());
    let mut taken = pairs.filter(|(level, _)| *level == "+").map(|(_, name)| name);
    taken.nth(usize::from(index.saturating_sub(1))).unwrap_or("")
}

/// What `#` took: the levels of the topic from where `#` stands.
fn rest_capture<'a>(filter: &TopicFilter, topic: &'a TopicName) -> &'a str {
    if filter.levels().next_back() != Some("#") {
        return "";
    }
    let fixed = filter.levels().count().saturating_sub(1);
    if fixed == 0 {
        return topic.as_str();
    }
    // `a/#` matches `a` too: then there is nothing to take.
    match topic.as_str().match_indices('/').nth(fixed - 1) {
        Some((at, _)) => topic.as_str().get(at + 1..).unwrap_or(""),
        None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::{Part, TemplateError, TopicTemplate};
    use crate::mqtt::topic::{TopicError, TopicFilter, TopicName};

    fn render(template: &str, filter: &str, topic: &str) -> Result<String, TopicError> {
        let filter = TopicFilter::new(filter).expect("a valid filter");
        let topic = TopicName::new(topic).expect("a valid topic");
        assert!(filter.matches(&topic), "{filter} {topic}");
        let template = TopicTemplate::new(template).expect("a valid template");
        template.render("plant-7", &filter, &topic).map(|name| name.as_str().to_owned())
    }

    #[test]
    fn rules_rename_topics() {
        let cases = [
            ("{topic}", "#", "a/b", "a/b"),
            ("sites/{gateway}/{topic}", "devices/#", "devices/m/v", "sites/plant-7/devices/m/v"),
            (
                "sites/{gateway}/alarms/{2}/{1}",
                "alarms/+/+",
                "alarms/hall/fire",
                "sites/plant-7/alarms/fire/hall",
            ),
            ("{rest}", "commands/plant-7/#", "commands/plant-7/m/v/set", "m/v/set"),
            ("x/{rest}", "#", "a/b", "x/a/b"),
            ("x/{rest}", "a/#", "a", "x/"),
            ("x/{rest}", "a/#", "a//b", "x//b"),
            ("{1}-{2}/{rest}", "+/+/#", "a/b/c/d", "a-b/c/d"),
            ("{1}/x", "+/+", "/b", "/x"),
            ("fixed", "a/+", "a/b", "fixed"),
        ];
        for (template, filter, topic, target) in cases {
            assert_eq!(render(template, filter, topic).as_deref(), Ok(target), "{template} {filter} {topic}");
        }
    }

    #[test]
    fn what_a_rule_brings_to_a_topic_is_known() {
        let cases = [
            ("{rest}", "commands/plant-7/#", "m/v/set", Some("commands/plant-7/m/v/set")),
            ("{topic}", "a/#", "a/b", Some("a/b")),
            ("{topic}", "a/#", "b", None),
            ("devices/{1}/set", "cloud/+/set", "devices/m/set", Some("cloud/m/set")),
            ("devices/{1}/set", "cloud/+/set", "devices/m", None),
            ("fixed", "a/+", "fixed", Some("a/+")),
            ("{gateway}/{rest}", "x/#", "plant-7/y", Some("x/y")),
        ];
        for (template, filter, topic, expected) in cases {
            let filter = TopicFilter::new(filter).expect("a valid filter");
            let name = TopicName::new(topic).expect("a valid topic");
            let template = TopicTemplate::new(template).expect("a valid template");
            let origin = template.origin_of("plant-7", &filter, &name);
            assert_eq!(origin.as_deref(), expected, "{template} {filter} {topic}");
        }
    }

    #[test]
    fn a_target_that_is_no_topic_is_refused() {
        assert_eq!(render("{rest}", "a/#", "a"), Err(TopicError::Empty));
        let long = format!("{}{{topic}}", "x".repeat(65_535));
        assert_eq!(render(&long, "a", "a"), Err(TopicError::TooLong));
    }

    #[test]
    fn readings_have_their_names() {
        let template = TopicTemplate::new("{gateway}/devices/{device}/{point}").expect("a valid template");
        assert!(template.holds(&Part::Point));
        let topic = template.render_reading("g", "meter", "voltage").expect("a valid topic");
        assert_eq!(topic.as_str(), "g/devices/meter/voltage");
    }

    #[test]
    fn faulty_templates_are_refused_for_the_right_reason() {
        let cases = [
            ("", TemplateError::Empty),
            ("a/{topic", TemplateError::Unclosed),
            ("a}/b", TemplateError::Unopened),
            ("{devcie}", TemplateError::UnknownVariable("devcie".into())),
            ("{0}", TemplateError::UnknownVariable("0".into())),
            ("{+1}", TemplateError::UnknownVariable("+1".into())),
            ("{01}", TemplateError::UnknownVariable("01".into())),
            ("{256}", TemplateError::UnknownVariable("256".into())),
            ("{}", TemplateError::UnknownVariable("".into())),
        ];
        for (text, error) in cases {
            assert_eq!(TopicTemplate::new(text), Err(error), "{text:?}");
        }
    }
}
