//! The configuration as users meet it: every faulty file with its exact faults, every supported key in a file
//! that loads, every key that is still to come refused by name, and the files that ship.

use std::path::{Path, PathBuf};

use tidegate::config::error::Faults;
use tidegate::config::expand::Environment;
use tidegate::config::load::{load, parse};
use tidegate::config::model::Config;

struct Fixed;

impl Environment for Fixed {
    fn variable(&self, name: &str) -> Option<String> {
        match name {
            "UNIT" => Some("3".to_owned()),
            "SECRET_URL" => Some("mqtt://user:s3cret@cloud".to_owned()),
            "SECRET_WORD" => Some("s3cret".to_owned()),
            _ => None,
        }
    }

    fn host_name(&self) -> Option<String> {
        Some("test-host".to_owned())
    }
}

fn check_text(text: &str) -> Result<Config, Faults> {
    parse("test.yaml", text, Path::new("tests/faulty"), &Fixed)
}

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn bless() {
    for entry in std::fs::read_dir(project("tests/faulty")).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).expect("a file");
        let printed = match parse(&name, &text, Path::new("tests/faulty"), &Fixed) {
            Ok(config) => format!("ok: {}\n", config.summary()),
            Err(faults) => format!("{faults}\n"),
        };
        std::fs::write(path.with_extension("expected"), printed).expect("written");
    }
}
