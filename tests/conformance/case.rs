//! Files of cases to steps. Every line is understood or named with its file and number; nothing is run here.

use std::time::Duration;

use super::decode::show_hex;
use super::settings::Settings;
use super::statements::{Statement, covers};
use super::words::{Value, Version, Words, quoted, tokens};

#[derive(Debug, Clone)]
pub struct Case {
    pub name: String,
    pub file: String,
    pub line: usize,
    pub covers: Vec<Statement>,
    pub versions: Vec<Version>,
    pub settings: Settings,
    pub steps: Vec<Step>,
    /// `FILE::FUNCTION` of a test that shows it elsewhere.
    pub shown_by: Option<(String, String)>,
}

#[derive(Debug, Clone)]
pub struct Step {
    pub line: usize,
    /// The versions that it is for.
    pub versions: Vec<Version>,
    pub action: Action,
}

#[derive(Debug, Clone)]
pub enum Bytes {
    Packet(Words),
    Raw(Vec<u8>),
}

#[derive(Debug, Clone)]
pub enum Action {
    Open {
        client: String,
        loopback: bool,
    },
    Send(String, Bytes),
    Expect(String, Bytes),
    /// The gateway sends nothing more.
    Nothing(String),
    IsOpen(String),
    Closed(String),
    /// 5.0: DISCONNECT with the code comes first.
    Ended(String, u8),
    Cut(String),
    After(Duration),
    DiskHolds,
    DiskCommits,
    DiskRuns,
    Crash,
    Stop,
    Differ(Vec<String>),
}

/// A line that is not understood: `FILE:LINE: why`.
pub type Fault = String;

pub fn parse(file: &str, text: &str) -> Result<Vec<Case>, Vec<Fault>> {
    let (mut cases, mut faults) = (Vec::<Case>::new(), Vec::new());
    for block in blocks(text) {
        let variants = block.variants();
        for variant in &variants {
            let mut case = Case::new(&block.name(variant), file, block.line);
            for (number, line) in &block.lines {
                let line = fill(line, variant);
                let taken = case.take(&line, *number);
                faults.extend(taken.err().map(|why| format!("{file}:{number}: {why}")));
            }
            faults.extend(case.fault());
            cases.push(case);
        }
    }
    if faults.is_empty() { Ok(cases) } else { Err(faults) }
}

/// The lines of one case, with `each` apart: the case is played once for each of its values.
struct Block<'a> {
    name: &'a str,
    line: usize,
    /// `each NAME = VALUE | VALUE`.
    each: Option<(&'a str, Vec<&'a str>)>,
    lines: Vec<(usize, &'a str)>,
}

type Variant<'a> = Option<(&'a str, &'a str)>;

impl Block<'_> {
    fn variants(&self) -> Vec<Variant<'_>> {
        match &self.each {
            None => vec![None],
            Some((name, values)) => values.iter().map(|value| Some((*name, *value))).collect(),
        }
    }

    fn name(&self, variant: &Variant<'_>) -> String {
        match variant {
            None => self.name.to_owned(),
            Some((_, value)) => format!("{}: {value}", self.name),
        }
    }
}

fn fill(line: &str, variant: &Variant<'_>) -> String {
    match variant {
        None => line.to_owned(),
        Some((name, value)) => line.replace(&format!("{{{name}}}"), value),
    }
}

/// What stands before the first case is a case without a name: it has no steps, which is an error.
fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    let mut each_rest: Option<usize> = None;
    for (index, line) in text.lines().enumerate() {
        let (number, line) = (index + 1, line.trim());
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.strip_prefix("case ");
        if name.is_some() || blocks.is_empty() {
            let name = name.unwrap_or("");
            blocks.push(Block { name, line: number, each: None, lines: Vec::new() });
            each_rest = None;
            continue;
        }
        let Some(block) = blocks.last_mut() else { continue };
        let each = line.strip_prefix("each ").and_then(|rest| rest.split_once(" = "));
        if let Some((name, values)) = each {
            block.each = Some((name.trim(), Vec::new()));
            each_rest = Some(number);
            add_values(block, values);
        } else if each_rest == Some(number - 1)
            && let Some(values) = line.strip_prefix("| ")
        {
            each_rest = Some(number);
            add_values(block, values);
        } else {
            block.lines.push((number, line));
        }
    }
    blocks
}

fn add_values<'a>(block: &mut Block<'a>, values: &'a str) {
    if let Some((_, all)) = &mut block.each {
        all.extend(values.split(" | ").map(str::trim).filter(|value| !value.is_empty()));
    }
}

impl Case {
    fn new(name: &str, file: &str, line: usize) -> Self {
        Self {
            name: name.to_owned(),
            file: file.to_owned(),
            line,
            covers: Vec::new(),
            versions: vec![Version::V3_1_1, Version::V5],
            settings: Settings::default(),
            steps: Vec::new(),
            shown_by: None,
        }
    }

    /// What is wrong with it as a whole.
    fn fault(&self) -> Option<Fault> {
        let at = format!("{}:{}", self.file, self.line);
        if self.steps.is_empty() && self.shown_by.is_none() {
            return Some(format!("{at}: the case does nothing"));
        }
        let runs = |version: &str| self.versions.iter().any(|v| v.to_string() == version);
        let unshown = self.covers.iter().find(|(version, _)| !runs(version));
        unshown.map(|(version, id)| format!("{at}: covers {id} of {version}, and does not run in {version}"))
    }

    fn take(&mut self, line: &str, number: usize) -> Result<(), String> {
        if let Some(rest) = line.strip_prefix("covers ") {
            self.covers.extend(covers(rest)?);
            return Ok(());
        }
        if let Some(rest) = line.strip_prefix("versions ") {
            let versions = rest.split_whitespace().map(|text| Version::parse(text).ok_or(text));
            self.versions =
                versions.collect::<Result<_, _>>().map_err(|text| format!("{text} is no version"))?;
            return Ok(());
        }
        if let Some(rest) = line.strip_prefix("shown by ") {
            let (file, function) = rest.split_once("::").ok_or("shown by FILE::FUNCTION")?;
            self.shown_by = Some((file.to_owned(), function.to_owned()));
            return Ok(());
        }
        if self.settings.take(line) {
            return if self.steps.is_empty() {
                Ok(())
            } else {
                Err("settings stand before the first step".into())
            };
        }
        let (versions, line) = prefix(line);
        let action = action(line)?;
        self.steps.push(Step { line: number, versions, action });
        Ok(())
    }
}

/// `5.0: …`, `3.1.1: …`, `3.1: …`, and `3.x: …` for both of the latter.
fn prefix(line: &str) -> (Vec<Version>, &str) {
    let all = vec![Version::V3_1, Version::V3_1_1, Version::V5];
    let Some((named, rest)) = line.split_once(": ") else { return (all, line) };
    match (named, Version::parse(named)) {
        ("3.x", _) => (vec![Version::V3_1, Version::V3_1_1], rest.trim()),
        (_, Some(version)) => (vec![version], rest.trim()),
        _ => (all, line),
    }
}

fn action(line: &str) -> Result<Action, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let client = || words[0].to_owned();
    Ok(match words.as_slice() {
        ["after", time] => Action::After(duration(time).ok_or(format!("{time} is no time"))?),
        ["disk", "holds"] => Action::DiskHolds,
        ["disk", "commits"] => Action::DiskCommits,
        ["disk", "runs"] => Action::DiskRuns,
        ["gateway", "crashes"] => Action::Crash,
        ["gateway", "stops"] => Action::Stop,
        ["differ", names @ ..] => {
            let names = names.iter().map(|name| name.strip_prefix('$').map(str::to_owned));
            Action::Differ(names.collect::<Option<_>>().ok_or("differ $NAME $NAME …")?)
        }
        [_, "opens"] => Action::Open { client: client(), loopback: true },
        [_, "opens", "from", "afar"] => Action::Open { client: client(), loopback: false },
        [_, "nothing"] => Action::Nothing(client()),
        [_, "open"] => Action::IsOpen(client()),
        [_, "closed"] => Action::Closed(client()),
        [_, "cut"] => Action::Cut(client()),
        [_, "ended", code] => Action::Ended(client(), byte(code).ok_or(format!("{code} is no code"))?),
        [_, ">", ..] => Action::Send(client(), bytes(line)?),
        [_, "<", ..] => Action::Expect(client(), bytes(line)?),
        _ => return Err(format!("`{line}` is neither a step nor a setting")),
    })
}

/// Behind the client's name and the direction.
fn bytes(line: &str) -> Result<Bytes, String> {
    let rest = line.split_once(['>', '<']).map_or("", |(_, rest)| rest).trim();
    match rest.strip_prefix("raw ") {
        Some(raw) => raw_bytes(raw).map(Bytes::Raw),
        None => Words::parse(rest).map(Bytes::Packet),
    }
}

/// Pairs of hexadecimal digits, and quoted text.
fn raw_bytes(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if let Some(body) = rest.strip_prefix('"') {
            let (text, left) = quoted(body)?;
            let end = left.find(char::is_whitespace).unwrap_or(left.len());
            let word = tokens(&rest[..rest.len() - left.len() + end])?.pop().map(|token| token.value);
            bytes.extend(if let Some(Value::Bytes(text)) = word { text } else { text });
            rest = left[end..].trim_start();
            continue;
        }
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let word = &rest[..end];
        let byte = u8::from_str_radix(word, 16).ok().filter(|_| word.len() == 2);
        bytes.push(byte.ok_or(format!("{word} is no byte"))?);
        rest = rest[end..].trim_start();
    }
    Ok(bytes)
}

fn byte(text: &str) -> Option<u8> {
    super::words::number(text).and_then(|number| u8::try_from(number).ok())
}

/// `90s`, `1500ms`, `2m`, `3h`, `4d`.
fn duration(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number * 60),
        "h" => Duration::from_secs(number * 3600),
        "d" => Duration::from_secs(number * 86_400),
        _ => return None,
    })
}

impl std::fmt::Display for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Packet(words) => write!(f, "{words}"),
            Self::Raw(bytes) => write!(f, "raw {}", show_hex(bytes)),
        }
    }
}
