//! The house rules as tests: floors, forbidden words, lengths, openings, reasons. Reads the sources as text;
//! never runs the product. Each rule has a second test that shows it failing on a bad snippet.

#[path = "conformance/statements.rs"]
mod statements;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

/// Rooms and their floors. An import goes to the same room or to a lower floor.
const FLOORS: [(&str, u8); 23] = [
    ("base", 0),
    ("observe", 0),
    ("mqtt", 10),
    ("auth", 15),
    ("sparkplug", 15),
    ("config", 20),
    ("store", 20),
    ("transport", 20),
    ("spool", 25),
    ("broker", 30),
    ("bridge", 30),
    ("device", 30),
    ("hub", 40),
    ("lan", 50),
    ("cloud", 50),
    ("bus", 50),
    ("web", 50),
    ("app", 60),
    ("cli", 70),
    ("main", 80),
    ("lib", 80),
    ("sim", 80),
    ("it", 80),
];

/// What a brain may not name: everything that reads a clock, waits, or touches the machine.
const BRAIN_FORBIDS: &[&str] = &[
    "tokio",
    "tokio_util",
    "rusqlite",
    "socket2",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::fs",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "crate::base::time::Clock",
];

const FORBIDDEN: [(&str, &[&str]); 12] = [
    ("broker", BRAIN_FORBIDS),
    ("bridge", BRAIN_FORBIDS),
    ("device", BRAIN_FORBIDS),
    ("spool", BRAIN_FORBIDS),
    ("mqtt", BRAIN_FORBIDS),
    ("auth", BRAIN_FORBIDS),
    ("sparkplug", BRAIN_FORBIDS),
    ("store", &["tokio", "tokio_util"]),
    ("transport", &["crate::mqtt"]),
    ("hub", &["std::net", "tokio::net", "socket2"]),
    ("app", &["crate::mqtt::packet"]),
    ("config", &["tokio", "tokio_util", "std::net::TcpStream", "std::net::TcpListener"]),
];

/// Folders that hold no source of ours.
const SKIPPED: [&str; 8] =
    ["target", ".git", "node_modules", "corpus", "artifacts", "__pycache__", ".venv", ".cache"];

/// Chapters of the standards that are not complete: what they lack the conformance table reports, and nobody demands.
const OPEN_CHAPTERS: &[&str] = &[
    "3.1.2-26", "3.3.", "3.4.", "3.5.", "3.6.", "3.7.", "3.8.", "3.9.", "3.10.", "3.11.", "4.1.", "4.3.",
    "4.4.", "4.5.", "4.6.", "4.7.", "4.8.", "4.9.",
];

/// A file, and the same with comments and literals blanked out, so that rules see code alone.
struct Source {
    path: String,
    text: String,
    code: String,
    /// Where the unit tests begin, in lines from 0; the number of lines where there are none.
    tests_start: usize,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let code = blank_out(text);
        let tests_start = tests_start(&code);
        Self { path: path.into(), text: text.into(), code, tests_start }
    }

    fn room(&self) -> &str {
        let below = self.path.strip_prefix("src/").unwrap_or(&self.path);
        below.split('/').next().unwrap_or(below).trim_end_matches(".rs")
    }

    fn finding(&self, line: usize, what: &str) -> String {
        format!("{}:{}: {what}", self.path, line + 1)
    }

    /// Every path in the code (`a::b::c`) with its line; imports are taken apart to full paths.
    fn paths(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        let mut rest = self.code.as_str();
        let mut line = 0;
        while let Some(start) = rest.find(|c: char| c.is_alphabetic() || c == '_') {
            line += rest[..start].matches('\n').count();
            rest = &rest[start..];
            let is_use = rest.starts_with("use ");
            let end = if is_use {
                rest.find(';').unwrap_or(rest.len())
            } else {
                rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(rest.len())
            };
            if is_use {
                let tree: String = rest[4..end].split_whitespace().collect::<Vec<_>>().join(" ");
                expand_use(&tree, "", &mut |path| found.push((line, path)));
            } else {
                found.push((line, rest[..end].trim_end_matches(':').to_owned()));
            }
            line += rest[..end].matches('\n').count();
            rest = &rest[end..];
        }
        found
    }
}

fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// `a::{b, c::{d, e as f}}` to `a::b`, `a::c::d`, `a::c::e`; `self` names its parent.
fn expand_use(tree: &str, prefix: &str, found: &mut dyn FnMut(String)) {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        let name = tree.split(" as ").next().unwrap_or(tree).trim();
        let path =
            if name == "self" { prefix.trim_end_matches(':').to_owned() } else { format!("{prefix}{name}") };
        return found(path);
    };
    let inner_prefix = format!("{prefix}{}", tree[..open].trim());
    let inner = tree[open + 1..].trim_end_matches([' ', ',']).strip_suffix('}').unwrap_or(&tree[open + 1..]);
    let (mut depth, mut start) = (0_usize, 0);
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                expand_use(&inner[start..at], &inner_prefix, found);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !inner[start..].trim().is_empty() {
        expand_use(&inner[start..], &inner_prefix, found);
    }
}

/// The code with comments, strings and characters replaced by spaces; line breaks stay where they are.
fn blank_out(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let before = out.chars().next_back();
        let length = literal_length(rest, before);
        if length == 0 {
            let c = rest.chars().next().unwrap_or(' ');
            out.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            out.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[length..];
        }
    }
    out
}

/// How many bytes of comment, string or character stand here; 0 where code does.
fn literal_length(rest: &str, before: Option<char>) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return rest.find("*/").map_or(rest.len(), |end| end + 2);
    }
    if rest.starts_with('"') {
        return quoted_length(rest, '"');
    }
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let raw = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r')).filter(|_| !in_word);
    if let Some(raw) = raw {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            let body = rest.len() - raw.len() + hashes + 1;
            return rest[body..].find(&close).map_or(rest.len(), |end| body + end + close.len());
        }
    }
    if let Some(after) = rest.strip_prefix('\'') {
        let mut chars = after.chars();
        let first = chars.next();
        // A lifetime has no quote behind its first letter.
        if first == Some('\\') || chars.next() == Some('\'') {
            return quoted_length(rest, '\'');
        }
    }
    0
}

fn quoted_length(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

fn tests_start(code: &str) -> usize {
    let lines: Vec<&str> = code.lines().collect();
    let is_start = |pair: &[&str]| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ");
    lines.windows(2).position(is_start).unwrap_or(lines.len())
}

// ---- The rules. Each takes one file and names what it finds. ----

fn opening(source: &Source) -> Vec<String> {
    let is_opened = source.text.strip_prefix("//! ").is_some_and(|rest| rest.len() > 1);
    if is_opened {
        vec![]
    } else {
        vec![source.finding(0, "does not open with `//!`: what it owns, what it never does")]
    }
}

fn floors(source: &Source) -> Vec<String> {
    let floor_of = |room: &str| FLOORS.iter().find(|(name, _)| *name == room).map(|(_, floor)| *floor);
    let room = source.room();
    let Some(floor) = floor_of(room) else {
        return vec![source.finding(0, "this room has no floor in tests/tidy.rs")];
    };
    let mut found = Vec::new();
    for (line, path) in source.paths() {
        let Some(target) = path.strip_prefix("crate::").and_then(|p| p.split("::").next()) else { continue };
        let is_allowed = target == room || floor_of(target).is_some_and(|f| f < floor);
        if !is_allowed {
            found.push(
                source.finding(line, &format!("`{room}` imports from `{target}`, which is no lower floor")),
            );
        }
        if room == "spool" && target == "store" && !is_below(&path, "crate::store::record") {
            found.push(source.finding(line, "`spool` takes nothing but `record` from `store`"));
        }
    }
    found
}

/// `super::` may not climb out of a room: floors are checked on `crate::` paths alone.
fn escapes(source: &Source) -> Vec<String> {
    let inner = source.path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    let depth = inner.split('/').count();
    let climbs = |line: usize, path: &str| {
        let supers = path.split("::").take_while(|part| *part == "super").count();
        supers >= depth + usize::from(line >= source.tests_start)
    };
    let found =
        source.paths().into_iter().filter(|(line, path)| path.starts_with("super") && climbs(*line, path));
    found.map(|(line, _)| source.finding(line, "`super::` climbs out of the room; say `crate::`")).collect()
}

fn forbidden(source: &Source) -> Vec<String> {
    let room = source.room();
    let words = FORBIDDEN.iter().find(|(name, _)| *name == room).map_or(&[][..], |(_, words)| words);
    let mut found = Vec::new();
    for (line, path) in source.paths() {
        if room != "store" && is_below(&path, "rusqlite") {
            found.push(source.finding(line, "only `store` speaks to rusqlite"));
        }
        let in_code = line < source.tests_start;
        for word in words.iter().filter(|word| in_code && is_below(&path, word)) {
            found.push(source.finding(line, &format!("`{room}` never touches `{word}`")));
        }
    }
    found
}

fn file_length(source: &Source) -> Vec<String> {
    let lines = source.tests_start;
    if lines <= FILE_LINES_MAX {
        return vec![];
    }
    vec![source.finding(FILE_LINES_MAX, &format!("{lines} lines without tests, {FILE_LINES_MAX} at most"))]
}

/// Counts from `fn` to its closing brace, without blank lines and comments.
fn function_length(source: &Source) -> Vec<String> {
    let lines: Vec<&str> = source.code.lines().take(source.tests_start).collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let is_function = line.trim_start().starts_with("fn ") || line.contains(" fn ");
        if !is_function {
            continue;
        }
        let length = body_length(&lines[start..]);
        if length > FUNCTION_LINES_MAX {
            let what = format!("a function of {length} lines, {FUNCTION_LINES_MAX} at most");
            found.push(source.finding(start, &what));
        }
    }
    found
}

fn body_length(lines: &[&str]) -> usize {
    let (mut depth, mut is_open, mut length) = (0_usize, false, 0);
    for line in lines {
        length += usize::from(!line.trim().is_empty());
        for c in line.chars() {
            match c {
                '{' => {
                    depth += 1;
                    is_open = true;
                }
                '}' => depth = depth.saturating_sub(1),
                ';' if !is_open => return length,
                _ => {}
            }
        }
        if is_open && depth == 0 {
            return length;
        }
    }
    length
}

fn globs(source: &Source) -> Vec<String> {
    let found = source.paths().into_iter().filter(|(_, path)| path.ends_with('*'));
    found.map(|(line, path)| source.finding(line, &format!("`use {path}`: name what is used"))).collect()
}

/// Names of the standard library may be passed on; ours are imported from the file that defines them.
fn reexports(source: &Source) -> Vec<String> {
    let lines = source.code.lines().enumerate();
    let is_hub =
        |line: &str| line.starts_with("pub") && line.contains(" use ") && !line.contains(" use std::");
    let found = lines.filter(|(_, line)| is_hub(line.trim_start()));
    found.map(|(line, _)| source.finding(line, "re-export: import from the file that defines")).collect()
}

fn leftovers(source: &Source) -> Vec<String> {
    let words = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];
    let macros = [concat!("to", "do!"), concat!("unimple", "mented!"), concat!("db", "g!")];
    let is_word =
        |line: &str, word: &str| line.split(|c: char| !c.is_alphanumeric()).any(|part| part == word);
    let is_rust = is_rust(&source.path);
    let mut found = Vec::new();
    for (number, (line, code)) in source.text.lines().zip(source.code.lines()).enumerate() {
        for word in words.iter().filter(|word| is_word(line, word)) {
            found.push(source.finding(number, &format!("{word} is left over")));
        }
        for word in macros.iter().filter(|word| is_rust && code.contains(**word)) {
            found.push(source.finding(number, &format!("{word} is left over")));
        }
    }
    found
}

fn ignored_tests(source: &Source) -> Vec<String> {
    let lines = source.code.lines().enumerate().filter(|(_, line)| line.contains("#[ignore"));
    lines.map(|(line, _)| source.finding(line, "a test that never runs")).collect()
}

/// Integration tests wait for conditions, never for a number of seconds.
fn sleeps(source: &Source) -> Vec<String> {
    let lines = source.code.lines().enumerate();
    let found = lines.filter(|(_, line)| line.contains("sleep(Duration::from_secs"));
    found.map(|(line, _)| source.finding(line, "sleeps for seconds; wait for the condition")).collect()
}

/// `[MQTT-3.3.4-7]`, or `[MQTT-4.2-1]` in 3.1.1: two or three numbers, then the statement's. Several of one
/// section are listed by theirs, `[MQTT-3.3.2-4, -15]`, or in full. Those of 3.1.1 say so: `[MQTT-1.5.3-1 of 3.1.1]`.
fn citations(source: &Source) -> Vec<String> {
    let opening = concat!("[MQ", "TT-");
    let mut found = Vec::new();
    for (number, line) in source.text.lines().enumerate() {
        for part in line.split(opening).skip(1) {
            let id = part.split(']').next().unwrap_or(part);
            let mut ids = id.strip_suffix(" of 3.1.1").unwrap_or(id).split(", ");
            let is_valid = ids.next().is_some_and(is_statement) && ids.all(is_further_statement);
            if !part.contains(']') || !is_valid {
                found.push(source.finding(number, &format!("`MQTT-{id}` is no statement of the standard")));
            }
        }
    }
    found
}

fn is_number(text: &str) -> bool {
    (1..=3).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
}

fn is_further_statement(id: &str) -> bool {
    id.strip_prefix('-').is_some_and(is_number) || id.strip_prefix("MQTT-").is_some_and(is_statement)
}

fn is_statement(id: &str) -> bool {
    let Some((section, statement)) = id.split_once('-') else { return false };
    is_number(statement) && (2..=3).contains(&section.split('.').count()) && section.split('.').all(is_number)
}

/// Paths of build machines and hosts of package registries: the project is the same wherever it is built.
fn machine_traces(source: &Source) -> Vec<String> {
    let paths = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];
    let hosts = [
        concat!("index.crates", ".io"),
        concat!("static.crates", ".io"),
        concat!("pypi", ".org"),
        concat!("registry.npmjs", ".org"),
        concat!("deb.debian", ".org"),
    ];
    let is_path = |line: &str, path: &str| {
        let starts = line.match_indices(path).map(|(at, _)| line[..at].chars().next_back());
        starts.into_iter().any(|before| !before.is_some_and(|c| c.is_alphanumeric() || "._-}/".contains(c)))
    };
    let mut found = Vec::new();
    for (number, line) in source.text.lines().enumerate() {
        let traces =
            paths.iter().filter(|p| is_path(line, p)).chain(hosts.iter().filter(|h| line.contains(**h)));
        found.extend(traces.map(|trace| source.finding(number, &format!("names `{trace}`"))));
    }
    found
}

fn dependency_reasons(source: &Source) -> Vec<String> {
    let mut in_dependencies = false;
    let mut found = Vec::new();
    for (number, line) in source.text.lines().enumerate() {
        if let Some(section) = line.strip_prefix('[') {
            in_dependencies = section.trim_end().ends_with("dependencies]");
        } else if in_dependencies && line.contains(" = ") && !line.contains(" # ") && !line.starts_with('#') {
            found.push(source.finding(number, "a dependency without its reason behind a `#`"));
        }
    }
    found
}

fn ascii_path(source: &Source) -> Vec<String> {
    if source.path.is_ascii() { vec![] } else { vec![source.finding(0, "the path is not ASCII")] }
}

// ---- Walking the tree. ----

fn is_rust(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension == "rs")
}

/// All text files of the project, in order of their paths.
fn project() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = BTreeSet::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the project").flatten() {
            let path = entry.path();
            let is_skipped = SKIPPED.iter().any(|name| entry.file_name() == *name);
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && !is_skipped => folders.push(path),
                Ok(kind) if kind.is_file() && !is_skipped => drop(paths.insert(path)),
                _ => {}
            }
        }
    }
    let relative = |path: &Path| path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
    let read = |path: &Path| fs::read_to_string(path).ok().map(|text| Source::new(&relative(path), &text));
    paths.iter().filter_map(|path| read(path)).collect()
}

fn assert_tidy(rule: Rule, applies: fn(&str) -> bool) {
    let sources: Vec<Source> = project().into_iter().filter(|source| applies(&source.path)).collect();
    assert!(!sources.is_empty(), "the rule applies to no file at all");
    let found: Vec<String> = sources.iter().flat_map(rule).collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

fn in_src(path: &str) -> bool {
    path.starts_with("src/") && is_rust(path)
}

/// Lock files name where their packages came from.
fn by_hand(path: &str) -> bool {
    !matches!(path.rsplit('/').next(), Some("Cargo.lock" | "package-lock.json"))
}

macro_rules! house_rules {
    ($($name:ident: $rule:expr, $applies:expr;)*) => {$(
        #[test]
        fn $name() {
            assert_tidy($rule, $applies);
        }
    )*};
}

house_rules! {
    sources_open_with_what_they_own: opening, is_rust;
    imports_only_go_down: floors, in_src;
    nothing_climbs_out_of_its_room: escapes, in_src;
    rooms_never_touch_what_is_not_theirs: forbidden, in_src;
    files_are_short: file_length, in_src;
    functions_are_short: function_length, in_src;
    nothing_is_imported_with_a_glob: globs, is_rust;
    nothing_is_re_exported: reexports, in_src;
    nothing_is_left_over: leftovers, by_hand;
    every_test_runs: ignored_tests, is_rust;
    integration_tests_wait_for_conditions: sleeps, |path| path.starts_with("tests/") && is_rust(path);
    citations_are_statements: citations, is_rust;
    no_machine_is_named: machine_traces, by_hand;
    paths_are_ascii: ascii_path, |_| true;
    dependencies_have_reasons: dependency_reasons, |path| path.ends_with("Cargo.toml");
}

type Rule = fn(&Source) -> Vec<String>;

/// Runs a rule on a snippet as if it stood at `path`; the lines found, counted from 1.
fn lines_found(rule: Rule, path: &str, text: &str) -> Vec<usize> {
    let found = rule(&Source::new(path, text));
    let line =
        |finding: &String| finding.strip_prefix(path)?.strip_prefix(':')?.split(':').next()?.parse().ok();
    found.iter().map(|finding| line(finding).expect("a finding names FILE:LINE")).collect()
}

#[test]
fn each_rule_can_fail() {
    let long_function = format!("fn f() {{\n{}}}\n", "    g();\n".repeat(FUNCTION_LINES_MAX));
    let long_file = "//! x\n".repeat(FILE_LINES_MAX + 1);
    let left = concat!("// TO", "DO later\nlet a = to", "do!();\n");
    let traces = concat!("see /wo", "rk/x\nhttps://pypi", ".org/x\n/home/wo", "rk/x\n");
    let cases: [(Rule, &str, &str, &[usize]); 31] = [
        (opening, "src/hub.rs", "use std::fmt;\n", &[1]),
        (opening, "src/hub.rs", "//! The door.\n", &[]),
        (floors, "src/mqtt/topic.rs", "use std::fmt;\nuse crate::broker::session;\n", &[2]),
        (floors, "src/broker/mod.rs", "fn f() {\n    crate::bridge::window::g();\n}\n", &[2]),
        (floors, "src/lan/mod.rs", "use crate::{base::time, web::api};\n", &[1]),
        (floors, "src/lan/mod.rs", "use crate::{\n    base::time,\n    hub::{Door, Bell},\n};\n", &[]),
        (floors, "src/spool/mod.rs", "use crate::store::record::Record;\nuse crate::store::writer;\n", &[2]),
        (floors, "src/attic/mod.rs", "//! x\n", &[1]),
        (floors, "src/mqtt/topic.rs", "// crate::broker\nconst A: &str = \"crate::broker\";\n", &[]),
        (escapes, "src/lan/mod.rs", "use super::web;\n", &[1]),
        (escapes, "src/lan/conn.rs", "use super::listener;\nuse super::super::web;\n", &[2]),
        (escapes, "src/lan/mod.rs", "#[cfg(test)]\nmod tests {\n    use super::A;\n}\n", &[]),
        (forbidden, "src/broker/mod.rs", "use std::{fmt, time::{Duration, Instant}};\n", &[1]),
        (forbidden, "src/device/mod.rs", "fn f() {\n    tokio::spawn(g());\n}\n", &[2]),
        (forbidden, "src/web/mod.rs", "use rusqlite::Connection;\n", &[1]),
        (forbidden, "src/store/writer.rs", "use rusqlite::Connection;\nuse tokio::sync;\n", &[2]),
        (forbidden, "src/transport/mod.rs", "use crate::mqtt::packet::Packet;\n", &[1]),
        (forbidden, "src/bridge/mod.rs", "#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n", &[]),
        (file_length, "src/hub.rs", &long_file, &[FILE_LINES_MAX + 1]),
        (function_length, "src/hub.rs", &long_function, &[1]),
        (globs, "src/hub.rs", "use std::{fmt, collections::*};\n", &[1]),
        (reexports, "src/hub.rs", "pub use std::fmt;\npub use crate::base::time::Now;\n", &[2]),
        (reexports, "src/hub.rs", "pub(crate) use crate::base::time::Now;\n", &[1]),
        (leftovers, "src/hub.rs", left, &[1, 2]),
        (ignored_tests, "tests/it/main.rs", "#[test]\n#[ignore = \"slow\"]\nfn f() {}\n", &[2]),
        (sleeps, "tests/it/main.rs", "fn f() {\n    sleep(Duration::from_secs(1));\n}\n", &[2]),
        (citations, "src/hub.rs", concat!("// [MQ", "TT-3.3.4-7] [MQ", "TT-4.2-1, -2, MQTT-4.3.1-1]\n"), &[]),
        (
            citations,
            "src/hub.rs",
            concat!("// [MQ", "TT-3.3.4]\n// [MQ", "TT-3.x-1]\n// [MQ", "TT-3.1.2-1\n"),
            &[1, 2, 3],
        ),
        (machine_traces, "README.md", traces, &[1, 2]),
        (
            dependency_reasons,
            "Cargo.toml",
            "[dependencies]\na = \"1\"\nb = \"1\" # why\n[lib]\nname = \"x\"\n",
            &[2],
        ),
        (ascii_path, "src/\u{e9}.rs", "//! x\n", &[1]),
    ];
    for (number, (rule, path, text, lines)) in cases.into_iter().enumerate() {
        assert_eq!(lines_found(rule, path, text), lines, "case {number}: {path}\n{text}");
    }
}

#[test]
fn literals_and_comments_are_not_code() {
    let text = "let a = \"x // \\\" y\"; // z\nlet b: &'a str = r#\"w \"v\"#; let c = '\"'; /* u\n t */ s";
    let code = blank_out(text);
    let words: Vec<&str> = code.split_whitespace().collect();
    assert_eq!(words, ["let", "a", "=", ";", "let", "b:", "&'a", "str", "=", ";", "let", "c", "=", ";", "s"]);
    assert_eq!(code.lines().count(), text.lines().count());
}

/// Each statement of the standards has a line that obeys it and a case that shows it, or a reason why neither.
#[test]
fn statements_have_code_and_a_case() {
    let list = statements::list(statements::LIST);
    assert_eq!(list.len(), 365, "133 of 3.1.1 and 232 of 5.0");
    let coverage = statements::read_project();
    let demanded = list.iter().filter(|(_, id)| !OPEN_CHAPTERS.iter().any(|chapter| id.starts_with(chapter)));
    let missing: Vec<String> = demanded.filter_map(|statement| coverage.lacks(statement)).collect();
    assert!(missing.is_empty(), "\n{}\n", missing.join("\n"));
}

#[test]
fn a_statement_without_code_or_case_is_named() {
    let list =
        statements::list("# version, number\n5.0 3.1.0-1\n5.0 3.1.0-2\n3.1.1 3.1.0-1\n3.1.1 3.1.0-2\n");
    let lacks = |source: &str, cases: &str| -> Vec<String> {
        let mut coverage = statements::Coverage::default();
        coverage.read_source(source);
        coverage.read_cases(cases);
        list.iter().filter_map(|statement| coverage.lacks(statement)).collect()
    };
    let cited = concat!("f(); // [MQ", "TT-3.1.0-1, -2]\n/// [MQ", "TT-3.1.0-1 of 3.1.1]\n");
    let exempt = concat!("// Does not apply: [MQ", "TT-3.1.0-2 of 3.1.1], a reason\n// in two lines.\n");
    let shown = "covers 5.0: 3.1.0-1 3.1.0-2  3.1.1: 3.1.0-1\n";
    assert_eq!(lacks(&[cited, exempt].concat(), shown), [""; 0]);
    assert_eq!(lacks(cited, shown), ["3.1.0-2 of 3.1.1 has neither a line that cites it nor a case"]);
    assert_eq!(lacks(exempt, shown).len(), 3);
    assert_eq!(lacks(&[cited, exempt].concat(), "").len(), 3, "no cases");
    let twice = [shown, "covers 3.1.1: 3.1.0-2\n"].concat();
    let both = ["3.1.0-2 of 3.1.1 does not apply, and yet is cited or has a case"];
    assert_eq!(lacks(&[cited, exempt].concat(), &twice), both);
}
