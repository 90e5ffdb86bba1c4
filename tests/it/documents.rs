//! The documents as users follow them: each configuration loads, each command line is taken, each link leads somewhere.
//! Runs none of the commands.
//!
//! A `yaml` block is a file that loads as it stands; where it names a serial port that another block of its page shows, that
//! one is put beneath it. A line of a `sh` block that begins with `tidegate`, and `tidegate …` between back-ticks, is a
//! command line.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use tidegate::cli::command_line;
use tidegate::config::expand::Environment;
use tidegate::config::load::parse;

const PAGES: [&str; 8] = [
    "README.md",
    "README.zh-CN.md",
    "SECURITY.md",
    "docs/devices.md",
    "docs/bridges.md",
    "docs/security.md",
    "docs/operations.md",
    "docs/fleet.md",
];
/// A port that pages speak of, for blocks that only name it.
const PORTS: &str = "\nports:\n  rs485-a: { path: /dev/ttyUSB0 }\n";
/// So much is shown at least: a pattern that finds nothing proves nothing.
const YAML_BLOCKS_MIN: usize = 15;
const COMMAND_LINES_MIN: usize = 60;

struct Block {
    language: String,
    text: String,
    /// Where it stands, to say so.
    place: String,
}

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(project(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Blocks, and what stands around them.
fn parts(page: &str) -> (Vec<Block>, String) {
    let (mut blocks, mut prose) = (Vec::new(), String::new());
    let mut open: Option<Block> = None;
    for (number, line) in read(page).lines().enumerate() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(_), Some(block)) => blocks.push(block),
            (Some(language), None) => {
                let place = format!("{page}:{}", number + 1);
                open = Some(Block { language: language.to_owned(), text: String::new(), place });
            }
            (None, Some(block)) => open = Some(Block { text: block.text + line + "\n", ..block }),
            (None, None) => prose.extend([line, "\n"]),
        }
    }
    assert!(open.is_none(), "{page}: a block has no end");
    (blocks, prose)
}

struct Filled(PathBuf);

impl Environment for Filled {
    fn variable(&self, name: &str) -> Option<String> {
        match name {
            "CREDENTIALS_DIRECTORY" => Some(self.0.display().to_string()),
            "HTTPS_PROXY" => None,
            _ => Some("from-the-environment".to_owned()),
        }
    }

    fn host_name(&self) -> Option<String> {
        Some("plant-7".to_owned())
    }
}

/// The files that the pages name.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
    std::fs::create_dir(folder.path().join("tls")).expect("a folder");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    for name in ["tls/server", "tls/plant-7", "tls/devices-ca", "tls/cloud-ca", "gateway"] {
        write(&format!("{name}.crt"), &made.cert.pem());
        write(&format!("{name}.key"), &made.signing_key.serialize_pem());
    }
    let signer = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    write("tls/jwt.pub", &signer.public_key_pem());
    write("cloud-password", "s3cret");
    write("mqtt-password", "s3cret");
    write("passwords", "");
    folder
}

#[test]
fn every_configuration_loads() {
    let folder = folder();
    let environment = Filled(folder.path().to_owned());
    let (mut count, mut faulty) = (0, Vec::new());
    for page in PAGES {
        let (blocks, _) = parts(page);
        for block in blocks.iter().filter(|block| block.language == "yaml") {
            let has_ports = block.text.lines().any(|line| line.starts_with("ports:"));
            let beneath = if has_ports { "" } else { PORTS };
            let text = format!("{}{beneath}", block.text);
            let loaded = parse(&block.place, &text, folder.path(), &environment);
            faulty.extend(loaded.err().map(|faults| faults.to_string()));
            count += 1;
        }
    }
    assert!(faulty.is_empty(), "{}", faulty.join("\n"));
    assert!(count >= YAML_BLOCKS_MIN, "{count}");
}

/// The words of a command line as a shell cuts them; what follows a pipe or goes to a file is the shell's.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '|' | '>' | '<' | ';' | '&') => break,
            (None, '#') if word.is_none() => break,
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// Why it is none; a command that is only named may lack what it needs.
fn fault_of(words: &[String], is_named: bool) -> Option<String> {
    let error = command_line().try_get_matches_from(words).err()?;
    let is_short = matches!(
        error.kind(),
        ErrorKind::MissingRequiredArgument
            | ErrorKind::MissingSubcommand
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    );
    let is_fine = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    let is_wrong = !(is_fine || is_named && is_short);
    is_wrong.then(|| error.to_string())
}

fn spans(prose: &str) -> impl Iterator<Item = &str> {
    prose.split('`').skip(1).step_by(2)
}

#[test]
fn every_command_line_is_taken() {
    let mut count = 0;
    let mut faults = Vec::new();
    for page in PAGES {
        let (blocks, prose) = parts(page);
        let of_blocks = blocks.iter().filter(|block| block.language == "sh");
        let lines = of_blocks.flat_map(|block| block.text.lines().map(|line| (line, false)));
        for (line, is_named) in lines.chain(spans(&prose).map(|span| (span, true))) {
            // `cargo run -- demo` is one too.
            let line = line.trim_start_matches("sudo ").trim_start_matches("target/release/");
            let line = line.replacen("cargo run --release --", "tidegate", 1);
            if !line.starts_with("tidegate ") {
                continue;
            }
            count += 1;
            faults.extend(fault_of(&words(&line), is_named).map(|fault| format!("{page}: {line}\n{fault}")));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(count >= COMMAND_LINES_MIN, "{count}");
}

#[test]
fn a_wrong_command_line_is_seen() {
    for line in ["tidegate bufer list", "tidegate buffer list --jsn", "tidegate scan --units x # but"] {
        assert!(fault_of(&words(line), true).is_some(), "{line}");
    }
    let line = "tidegate sub -t 'a b' \"c\" > file # text";
    assert_eq!(words(line), ["tidegate", "sub", "-t", "a b", "c"]);
}

/// Headings as GitHub makes anchors of them.
fn anchors(page: &str) -> BTreeSet<String> {
    let (_, prose) = parts(page);
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| {
        let text = line.trim_start_matches('#').trim().to_lowercase();
        let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_link_leads_somewhere() {
    for page in PAGES {
        let (_, prose) = parts(page);
        for target in prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let folder = Path::new(page).parent().expect("a folder");
            let found = if path.is_empty() { project(page) } else { project("").join(folder).join(path) };
            assert!(found.exists(), "{page}: {target}");
            if anchor.is_empty() {
                continue;
            }
            let found = found.canonicalize().expect("a path");
            let name = found.strip_prefix(project("").canonicalize().expect("a path")).expect("one of ours");
            let known = anchors(&name.display().to_string());
            assert!(known.contains(anchor), "{page}: {target} is none of {known:?}");
        }
    }
}

/// The rows of tables whose first column is headed so.
fn first_cells(prose: &str, heading: &str) -> Vec<String> {
    let mut cells = Vec::new();
    let mut is_wanted = false;
    let mut before = "";
    for line in prose.lines() {
        let first =
            |line: &str| line.trim_matches('|').split(" | ").next().unwrap_or_default().trim().to_owned();
        if line.starts_with("|---") {
            is_wanted = first(before) == heading;
        } else if !line.starts_with('|') {
            is_wanted = false;
        } else if is_wanted {
            cells.push(first(line));
        }
        before = line;
    }
    cells
}

/// Every key that there is stands in the file that shows all of them.
#[test]
fn every_key_of_a_table_exists() {
    let known: BTreeSet<String> = ["tests/configs/supported.yaml", "src/config/check"]
        .iter()
        .flat_map(|path| words_of(&project(path)))
        .collect();
    let mut count = 0;
    for page in PAGES {
        let (_, prose) = parts(page);
        for cell in ["key", "limit"].iter().flat_map(|heading| first_cells(&prose, heading)) {
            for span in spans(&cell) {
                let key = span.split([':', ' ']).next().unwrap_or_default();
                for part in key.split('.') {
                    assert!(known.contains(part), "{page}: {cell}: no key {part}");
                    count += 1;
                }
            }
        }
    }
    assert!(count >= 30, "{count}");
}

/// Words of a file, or of all files in a folder.
fn words_of(path: &Path) -> Vec<String> {
    if path.is_dir() {
        let entries = std::fs::read_dir(path).expect("a folder");
        return entries.flat_map(|entry| words_of(&entry.expect("an entry").path())).collect();
    }
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.map(str::to_owned).collect()
}

/// Metrics that the pages name in full are there.
#[test]
fn every_metric_exists() {
    let source = read("src/web/metrics.rs");
    let mut count = 0;
    for page in PAGES {
        let (_, prose) = parts(page);
        for span in spans(&prose).filter(|span| span.starts_with("tidegate_") && !span.contains('…')) {
            let name = span.split('{').next().unwrap_or_default().trim_start_matches("tidegate_");
            let base = name.trim_end_matches("_total");
            // A beginning stands for all that follow it.
            let is_there = source.contains(&format!("\"{base}\""))
                || (name.ends_with('_') && source.contains(&format!("\"{name}")));
            assert!(is_there, "{page}: {span}");
            count += 1;
        }
    }
    assert!(count >= 10, "{count}");
}

#[test]
fn readme_shows_the_same_in_both_languages() {
    let shown = |page: &str| -> Vec<(String, String)> {
        parts(page).0.into_iter().map(|block| (block.language, block.text)).collect()
    };
    assert_eq!(shown("README.md"), shown("README.zh-CN.md"));
    let headings = |page: &str| parts(page).1.lines().filter(|line| line.starts_with("## ")).count();
    assert_eq!(headings("README.md"), headings("README.zh-CN.md"));
    let links = |page: &str| -> BTreeSet<String> {
        let prose = parts(page).1;
        let targets = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        targets.filter(|target| !target.starts_with("README")).map(str::to_owned).collect()
    };
    assert_eq!(links("README.md"), links("README.zh-CN.md"));
}

/// Files and folders of the project that the pages name.
#[test]
fn every_path_exists() {
    let folders = ["src/", "tests/", "docs/", "config/", "systemd/", "cross/", "fuzz/", ".ci/"];
    let mut count = 0;
    for page in PAGES {
        let (_, prose) = parts(page);
        for span in spans(&prose).filter(|span| folders.iter().any(|folder| span.starts_with(folder))) {
            let path = span.split(' ').next().unwrap_or_default();
            assert!(project(path).exists(), "{page}: {path}");
            count += 1;
        }
    }
    assert!(count >= 40, "{count}");
}
