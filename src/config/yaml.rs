//! YAML into a tree with positions. The only file that knows a YAML library: one parser says what stands
//! where, `serde_yaml` says what the values are, and a text that the two read differently is refused. Never
//! knows a key.

use std::collections::BTreeMap;
use std::fmt;

use saphyr_parser::{Event, Parser, Span};
use serde::de::{Deserialize, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor};

use crate::config::error::{Position, Problem};

/// Far deeper than any key is; bounds the recursion of every walk.
const LEVELS_MAX: usize = 32;
/// Far more than a thousand devices have; bounds what aliases can blow up.
const VALUES_MAX: usize = 200_000;

/// One value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub position: Position,
    pub kind: Kind,
}

impl Node {
    /// What stands under this key of a map.
    pub fn child(&self, key: &str) -> Option<&Self> {
        let Kind::Map(entries) = &self.kind else { return None };
        entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    /// Text that held `${…}`: wherever a number or a flag is wanted, it is read as one.
    Expanded(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
    /// Reported already; says nothing more.
    Faulty,
}

/// A key with its value. Keys may repeat until `settle` has seen them.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub key: String,
    pub position: Position,
    pub value: Node,
}

/// A problem with the text as a whole, and where.
#[derive(Debug, Clone, PartialEq)]
pub struct YamlError {
    pub position: Position,
    pub problem: Problem,
}

pub fn parse(text: &str) -> Result<Node, YamlError> {
    // A byte order mark is no part of the text (YAML 1.2.2, 5.2).
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // The outline comes first: it bounds depth and aliases before serde_yaml, which is slow on hostile text.
    let outline = Outliner::new(text).outline_document()?;
    let shape: Shape = serde_yaml::from_str(text).map_err(|error| syntax_error(&error))?;
    join(outline, shape)
}

fn syntax_error(error: &serde_yaml::Error) -> YamlError {
    let position =
        error.location().map_or(Position::START, |at| Position { line: at.line(), column: at.column() });
    let words = error.to_string();
    let words = words.split(" at line ").next().unwrap_or_default();
    YamlError { position, problem: Problem::Syntax(words.into()) }
}

/// What stands where, without values.
#[derive(Debug, Clone)]
struct Outline {
    position: Position,
    /// Values in it, itself included.
    values: usize,
    form: Form,
}

#[derive(Debug, Clone)]
enum Form {
    Scalar(Box<str>),
    List(Vec<Outline>),
    Map(Vec<(Outline, Outline)>),
}

struct Outliner<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    /// By the parser's number of the anchor.
    anchors: BTreeMap<usize, Outline>,
    values: usize,
}

impl<'a> Outliner<'a> {
    fn new(text: &'a str) -> Self {
        Self { parser: Parser::new_from_str(text), anchors: BTreeMap::new(), values: 0 }
    }

    fn outline_document(mut self) -> Result<Outline, YamlError> {
        let mut outline = None;
        loop {
            let (event, position) = self.next_event()?;
            match event {
                Event::StreamStart | Event::DocumentEnd | Event::Nothing => {}
                Event::DocumentStart(_) if outline.is_some() => {
                    return Err(YamlError { position, problem: Problem::SeveralDocuments });
                }
                Event::DocumentStart(_) => {
                    let (event, position) = self.next_event()?;
                    outline = Some(self.outline(event, position, 0)?);
                }
                _ => break,
            }
        }
        let empty = Outline { position: Position::START, values: 1, form: Form::Scalar("".into()) };
        Ok(outline.unwrap_or(empty))
    }

    fn next_event(&mut self) -> Result<(Event<'a>, Position), YamlError> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, position_of(span))),
            Some(Err(error)) => {
                let position = Position { line: error.marker().line(), column: error.marker().col() + 1 };
                Err(YamlError { position, problem: Problem::Syntax(error.info().into()) })
            }
            None => Ok((Event::StreamEnd, Position::START)),
        }
    }

    fn outline(&mut self, event: Event<'a>, position: Position, level: usize) -> Result<Outline, YamlError> {
        if level > LEVELS_MAX {
            return Err(YamlError { position, problem: Problem::TooDeep { levels_max: LEVELS_MAX } });
        }
        self.count_values(1, position)?;
        let before = self.values;
        let (anchor, form) = match event {
            Event::Scalar(text, _, anchor, _) => (anchor, Form::Scalar(text.into())),
            Event::SequenceStart(anchor, _) => (anchor, Form::List(self.outline_list(level)?)),
            Event::MappingStart(anchor, _) => (anchor, Form::Map(self.outline_map(level)?)),
            Event::Alias(anchor) => return self.outline_alias(anchor, position),
            _ => {
                let problem = Problem::Syntax("a value is missing".into());
                return Err(YamlError { position, problem });
            }
        };
        let outline = Outline { position, values: self.values - before + 1, form };
        if anchor > 0 {
            self.anchors.insert(anchor, outline.clone());
        }
        Ok(outline)
    }

    fn outline_list(&mut self, level: usize) -> Result<Vec<Outline>, YamlError> {
        let mut items = Vec::new();
        loop {
            let (event, position) = self.next_event()?;
            if matches!(event, Event::SequenceEnd) {
                // All of a file stands here at once, and most of its lists and maps are short.
                items.shrink_to_fit();
                return Ok(items);
            }
            items.push(self.outline(event, position, level + 1)?);
        }
    }

    fn outline_map(&mut self, level: usize) -> Result<Vec<(Outline, Outline)>, YamlError> {
        let mut entries = Vec::new();
        loop {
            let (event, position) = self.next_event()?;
            if matches!(event, Event::MappingEnd) {
                entries.shrink_to_fit();
                return Ok(entries);
            }
            let key = self.outline(event, position, level + 1)?;
            let (event, position) = self.next_event()?;
            entries.push((key, self.outline(event, position, level + 1)?));
        }
    }

    /// What an alias stands for keeps the positions of its anchor: that is where it can be mended.
    fn outline_alias(&mut self, anchor: usize, position: Position) -> Result<Outline, YamlError> {
        let Some(outline) = self.anchors.get(&anchor).cloned() else {
            let problem = Problem::Syntax("an alias that holds itself".into());
            return Err(YamlError { position, problem });
        };
        self.count_values(outline.values, position)?;
        Ok(outline)
    }

    fn count_values(&mut self, count: usize, position: Position) -> Result<(), YamlError> {
        self.values = self.values.saturating_add(count);
        if self.values > VALUES_MAX {
            return Err(YamlError { position, problem: Problem::TooManyValues { values_max: VALUES_MAX } });
        }
        Ok(())
    }
}

fn position_of(span: Span) -> Position {
    Position { line: span.start.line(), column: span.start.col() + 1 }
}

/// What the values are, without positions. Maps keep repeated keys.
#[derive(Debug)]
enum Shape {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Shape>),
    Map(Vec<(Shape, Shape)>),
    Tagged,
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Null)
    }

    /// A document without a value.
    fn visit_none<E>(self) -> Result<Shape, E> {
        Ok(Shape::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Shape, E> {
        Ok(Shape::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Shape, E> {
        Ok(Shape::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Shape, E> {
        Ok(Shape::Integer(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Shape, E> {
        Ok(Shape::Integer(value))
    }

    /// Beyond any range that a key has.
    fn visit_u128<E>(self, value: u128) -> Result<Shape, E> {
        Ok(Shape::Integer(i128::try_from(value).unwrap_or(i128::MAX)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Shape, E> {
        Ok(Shape::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Shape, E> {
        Ok(Shape::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Shape, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        items.shrink_to_fit();
        Ok(Shape::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        entries.shrink_to_fit();
        Ok(Shape::Map(entries))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Shape, A::Error> {
        let (_, inner): (Shape, _) = tagged.variant()?;
        inner.newtype_variant::<Shape>()?;
        Ok(Shape::Tagged)
    }
}

fn join(outline: Outline, shape: Shape) -> Result<Node, YamlError> {
    let position = outline.position;
    let kind = match (outline.form, shape) {
        (_, Shape::Tagged) => return Err(YamlError { position, problem: Problem::Tag }),
        (Form::Scalar(_), Shape::Null) => Kind::Null,
        (Form::Scalar(_), Shape::Bool(value)) => Kind::Bool(value),
        (Form::Scalar(_), Shape::Integer(value)) => Kind::Integer(value),
        (Form::Scalar(_), Shape::Float(value)) => Kind::Float(value),
        (Form::Scalar(text), Shape::Text(value)) if *text == *value => Kind::Text(value),
        (Form::List(outlines), Shape::List(shapes)) if outlines.len() == shapes.len() => {
            let items = outlines.into_iter().zip(shapes).map(|(outline, shape)| join(outline, shape));
            Kind::List(items.collect::<Result<_, _>>()?)
        }
        (Form::Map(outlines), Shape::Map(shapes)) if outlines.len() == shapes.len() => {
            let entries = outlines.into_iter().zip(shapes).map(|(outline, shape)| join_entry(outline, shape));
            Kind::Map(entries.collect::<Result<_, _>>()?)
        }
        _ => {
            let problem = Problem::Syntax("can be read in two ways (put the text in quotes)".into());
            return Err(YamlError { position, problem });
        }
    };
    Ok(Node { position, kind })
}

fn join_entry(outline: (Outline, Outline), shape: (Shape, Shape)) -> Result<Entry, YamlError> {
    let position = outline.0.position;
    match (outline.0.form, shape.0) {
        (_, Shape::Tagged) => Err(YamlError { position, problem: Problem::Tag }),
        // A key such as `1` or `off` is the text that stands there.
        (Form::Scalar(key), _) => Ok(Entry { key: key.into(), position, value: join(outline.1, shape.1)? }),
        _ => Err(YamlError { position, problem: Problem::KeyNotText }),
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, LEVELS_MAX, Node, parse};
    use crate::config::error::{Position, Problem};

    fn outline(node: &Node, out: &mut Vec<String>) {
        let Position { line, column } = node.position;
        match &node.kind {
            Kind::List(items) => {
                out.push(format!("{line}:{column} list"));
                for item in items {
                    outline(item, out);
                }
            }
            Kind::Map(entries) => {
                out.push(format!("{line}:{column} map"));
                for entry in entries {
                    out.push(format!("{}:{} {}:", entry.position.line, entry.position.column, entry.key));
                    outline(&entry.value, out);
                }
            }
            kind => out.push(format!("{line}:{column} {kind:?}")),
        }
    }

    fn outlined(text: &str) -> Vec<String> {
        let mut out = Vec::new();
        outline(&parse(text).expect("valid YAML"), &mut out);
        out
    }

    #[test]
    fn values_know_where_they_stand() {
        let text = "# note\na: 1\nb:\n  c: [x, 2.5]\n  'ä d': { e: true, f: \"no\" }\n";
        let expected = [
            "2:1 map",
            "2:1 a:",
            "2:4 Integer(1)",
            "3:1 b:",
            "4:3 map",
            "4:3 c:",
            "4:6 list",
            "4:7 Text(\"x\")",
            "4:10 Float(2.5)",
            "5:3 ä d:",
            "5:10 map",
            "5:12 e:",
            "5:15 Bool(true)",
            "5:21 f:",
            "5:24 Text(\"no\")",
        ];
        assert_eq!(outlined(text), expected);
    }

    #[test]
    fn words_that_other_yaml_takes_for_flags_are_text() {
        assert_eq!(
            outlined("[no, off, 010, 0x10, ~, 1e3, \"5\"]")[1..],
            [
                "1:2 Text(\"no\")",
                "1:6 Text(\"off\")",
                "1:11 Text(\"010\")",
                "1:16 Integer(16)",
                "1:22 Null",
                "1:25 Float(1000.0)",
                "1:30 Text(\"5\")",
            ]
        );
    }

    #[test]
    fn long_and_escaped_text_is_read_one_way() {
        let text =
            "a: |\n  x\n   y\nb: >-\n  x\n  y\n\n  z\nc: x\n  y\nd: \"\\r\\n\\x41\\u00e9\"\ne: 'it''s'\n";
        let texts: Vec<_> = outlined(text).into_iter().filter(|line| line.contains("Text")).collect();
        let values: Vec<_> = texts.iter().filter_map(|line| line.split_once(' ')).map(|(_, v)| v).collect();
        assert_eq!(
            values,
            [
                "Text(\"x\\n y\\n\")",
                "Text(\"x y\\nz\")",
                "Text(\"x y\")",
                "Text(\"\\r\\nAé\")",
                "Text(\"it's\")",
            ]
        );
        for text in ["\u{feff}a: 1\r\nb: x\r\n", "---\na: 1\nb: x\n...\n", "%YAML 1.2\n---\na: 1\nb: x\n"] {
            assert_eq!(outlined(text).len(), 5, "{text:?}");
        }
    }

    #[test]
    fn an_alias_repeats_its_anchor() {
        let nodes = outlined("a: &x { p: 1 }\nb: *x\n");
        assert_eq!(nodes[5..], ["2:1 b:", "1:7 map", "1:9 p:", "1:12 Integer(1)"]);
    }

    #[test]
    fn duplicate_keys_are_kept_for_the_report() {
        assert_eq!(outlined("a: 1\na: 2\n").len(), 5);
    }

    #[test]
    fn hostile_text_is_refused_quickly() {
        for deep in ["[".repeat(40), "- ".repeat(40), "- ".repeat(200_000)] {
            let problem = parse(&deep).map_err(|error| error.problem);
            assert_eq!(problem, Err(Problem::TooDeep { levels_max: LEVELS_MAX }));
        }
        let problem = parse(&"[".repeat(200_000)).map_err(|error| error.problem);
        assert_eq!(problem, Err(Problem::Syntax("recursion limit exceeded".into())));
        let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..10 {
            let previous = n - 1;
            let aliases = vec![format!("*a{previous}"); 10].join(", ");
            laughs.push_str(&["a", &n.to_string(), ": &a", &n.to_string(), " [", &aliases, "]\n"].concat());
        }
        let problem = parse(&laughs).map_err(|error| error.problem);
        assert!(matches!(problem, Err(Problem::TooManyValues { .. })), "{problem:?}");
        assert!(matches!(parse("a: &x [*x]").map_err(|e| e.problem), Err(Problem::Syntax(_))));
    }

    #[test]
    fn what_is_not_one_plain_document_is_refused() {
        let cases = [
            ("a: 1\n---\nb: 2\n", 2, Problem::SeveralDocuments),
            ("a: !secret x\n", 1, Problem::Tag),
            ("[a]: 1\n", 1, Problem::KeyNotText),
        ];
        for (text, line, problem) in cases {
            let error = parse(text).expect_err("refused");
            assert_eq!((error.position.line, error.problem), (line, problem), "{text:?}");
        }
        for text in ["a: [1\nb: 2\n", "a: 1\n b: 2\n", "\ta: 1\n", "a: 'x\n", "a: b: c\n", "a: *x\n"] {
            assert!(matches!(parse(text).map_err(|e| e.problem), Err(Problem::Syntax(_))), "{text:?}");
        }
    }
}
