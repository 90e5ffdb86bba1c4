//! Which statements of the standards the code cites, which the cases show, and which do not apply. Reads text alone;
//! `tests/tidy.rs` judges with it, the conformance table reports with it.

use std::collections::BTreeSet;
use std::path::Path;

/// Rooms that are clients: what they cite is not the server's.
const CLIENTS: [&str; 3] = ["src/bridge", "src/cloud", "src/cli"];

/// Every normative statement for a server.
pub const LIST: &str = include_str!("statements.txt");

/// `5.0` and `3.1.4-6`.
pub type Statement = (String, String);

#[derive(Debug, Default)]
pub struct Coverage {
    pub cited: BTreeSet<Statement>,
    pub exempt: BTreeSet<Statement>,
    pub shown: BTreeSet<Statement>,
}

/// `5.0 3.1.4-6` a line.
pub fn list(text: &str) -> Vec<Statement> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(' ')).map(|(version, id)| (version.into(), id.into())).collect()
}

impl Coverage {
    /// Of a file of the product: `[MQTT-3.1.4-6]` is 5.0's, `[MQTT-3.1.2-22 of 3.1.1]` the older one's; several are
    /// listed, `[MQTT-3.3.2-4, -15]`. In a comment that begins with `Does not apply:` they are exempt.
    pub fn read_source(&mut self, text: &str) {
        let mut exempt = false;
        for line in text.lines() {
            let Some(comment) = line.trim_start().strip_prefix("//").or_else(|| comment_behind(line)) else {
                exempt = false;
                continue;
            };
            let comment = comment.trim_start_matches(['/', '!']).trim_start();
            exempt =
                comment.starts_with("Does not apply:") || (exempt && line.trim_start().starts_with("//"));
            let into = if exempt { &mut self.exempt } else { &mut self.cited };
            for part in comment.split(concat!("[MQ", "TT-")).skip(1) {
                into.extend(cited(part.split(']').next().unwrap_or(part)));
            }
            // The reason ends with its sentence.
            exempt = exempt && !comment.trim_end().ends_with('.');
        }
    }

    /// Of a file of cases.
    pub fn read_cases(&mut self, text: &str) {
        for line in text.lines().filter_map(|line| line.strip_prefix("covers ")) {
            self.shown.extend(covers(line).unwrap_or_default());
        }
    }

    /// What is wrong with a statement; None: it is cited and shown, or does not apply.
    pub fn lacks(&self, statement: &Statement) -> Option<String> {
        let (version, id) = statement;
        let (cited, shown) = (self.cited.contains(statement), self.shown.contains(statement));
        let lacks = match (self.exempt.contains(statement), cited, shown) {
            (false, true, true) | (true, false, false) => return None,
            (true, _, _) => "does not apply, and yet is cited or has a case",
            (false, false, false) => "has neither a line that cites it nor a case",
            (false, false, true) => "is cited by no line",
            (false, true, false) => "has no case",
        };
        Some(format!("{id} of {version} {lacks}"))
    }
}

/// A comment behind code. A string that holds slashes is none of the sources' habits where statements are cited.
fn comment_behind(line: &str) -> Option<&str> {
    line.split_once(" // ").map(|(_, comment)| comment)
}

/// The statements in `3.3.2-4, -15 of 3.1.1`.
fn cited(inner: &str) -> Vec<Statement> {
    let (ids, version) = inner.split_once(" of ").unwrap_or((inner, "5.0"));
    let mut section = "";
    let mut found = Vec::new();
    for id in ids.split(", ") {
        let id = id.strip_prefix(concat!("MQ", "TT-")).unwrap_or(id);
        match id.split_once('-') {
            Some(("", number)) => found.push((version.to_owned(), format!("{section}-{number}"))),
            Some((named, _)) => {
                section = named;
                found.push((version.to_owned(), id.to_owned()));
            }
            None => found.push((version.to_owned(), id.to_owned())),
        }
    }
    found
}

/// `3.1.1: 3.1.0-2 3.1.0-3  5.0: 3.1.0-2`.
pub fn covers(text: &str) -> Result<Vec<Statement>, String> {
    let mut version = None;
    let mut found = Vec::new();
    for word in text.split_whitespace() {
        match (word.strip_suffix(':'), version) {
            (Some(named @ ("3.1.1" | "5.0")), _) => version = Some(named),
            (None, Some(version)) => found.push((version.to_owned(), word.to_owned())),
            _ => return Err(format!("covers: `{word}` is no `3.1.1:`, `5.0:` or statement behind one")),
        }
    }
    Ok(found)
}

/// All of the project.
pub fn read_project() -> Coverage {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut coverage = Coverage::default();
    let mut folders = vec![root.join("src"), root.join("tests/conformance")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder of the project").flatten() {
            let path = entry.path();
            if path.is_dir() {
                let is_client = CLIENTS.iter().any(|room| path == root.join(room));
                folders.extend((!is_client).then_some(path));
                continue;
            }
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("rs") if path.starts_with(root.join("src")) => coverage.read_source(&text),
                Some("txt") => coverage.read_cases(&text),
                _ => {}
            }
        }
    }
    coverage
}
