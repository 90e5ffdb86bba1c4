//! From a file to the model, or to everything that is wrong with it. Reads the file, what it names, and
//! nothing else.

use std::path::{Path, PathBuf};

use crate::config::check;
use crate::config::error::{Fault, Faults, Position, Problem};
use crate::config::expand::{Environment, holds_variable, read_bounded};
use crate::config::guarded::Guarded;
use crate::config::model::{Config, DATA_DIR_DEFAULT};
use crate::config::raw::Report;
use crate::config::settle::Settler;
use crate::config::written::written;
use crate::config::yaml::{self, Kind};

/// A thousand devices fit in; bounds the time that hostile YAML can take.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Relative paths in the file start at its folder.
pub fn load(path: &Path, environment: &dyn Environment) -> Result<Config, Faults> {
    let file = path.display().to_string();
    let base_dir = path.parent().unwrap_or(Path::new(""));
    let problem = match read_bounded(path, FILE_BYTES_MAX) {
        Ok(Some(bytes)) => match String::from_utf8(bytes) {
            Ok(text) => return parse(&file, &text, base_dir, environment),
            Err(_) => Problem::FileNotUtf8,
        },
        Ok(None) => Problem::FileTooLarge { bytes_max: FILE_BYTES_MAX },
        Err(error) => Problem::FileUnreadable(error.kind()),
    };
    Err(one_fault(&file, Position::START, problem))
}

/// `file` is how faults name the text; relative paths start at `base_dir`.
pub fn parse(
    file: &str,
    text: &str,
    base_dir: &Path,
    environment: &dyn Environment,
) -> Result<Config, Faults> {
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(one_fault(file, Position::START, Problem::FileTooLarge { bytes_max: FILE_BYTES_MAX }));
    }
    let mut root = yaml::parse(text).map_err(|error| one_fault(file, error.position, error.problem))?;
    let written = written(&root).into();
    let mut guarded = Guarded::default();
    guarded.see_written(&root, "", base_dir);
    let report = Report::new(file);
    Settler { base_dir, environment, report: &report }.settle(&mut root, "");
    guarded.see_settled(&root, base_dir);
    let config = check::check(&root, base_dir, environment, &report);
    match report.into_faults() {
        Some(faults) => Err(faults),
        // Without a model there was a fault, so this never fails.
        None => config
            .map(|config| Config { written, guarded: guarded.into_files(file).into(), ..config })
            .ok_or_else(|| one_fault(file, root.position, Problem::KeyNotText)),
    }
}

/// What `Config::written` is of a file that does not load; None where it is no YAML.
pub fn written_of(file: &Path) -> Option<String> {
    let bytes = read_bounded(file, FILE_BYTES_MAX).ok().flatten()?;
    yaml::parse(&String::from_utf8_lossy(&bytes)).ok().map(|root| written(&root))
}

/// Where the data of a gateway is, also where the rest does not load: what references stand for, the gateway's service
/// alone may have. None: the file does not say it in plain text.
pub fn data_dir_of(file: &Path) -> Option<PathBuf> {
    let bytes = read_bounded(file, FILE_BYTES_MAX).ok().flatten()?;
    let root = yaml::parse(&String::from_utf8_lossy(&bytes)).ok()?;
    let named = match root.child("gateway").and_then(|gateway| gateway.child("data_dir")).map(|dir| &dir.kind)
    {
        None => DATA_DIR_DEFAULT,
        Some(Kind::Text(text)) if !holds_variable(text) => text,
        Some(_) => return None,
    };
    Some(file.parent().unwrap_or(Path::new("")).join(named))
}

/// Where a key stands, one name a level, in a file that has loaded; the start where it is no longer there.
pub fn position_of(file: &Path, keys: &[&str]) -> Position {
    let bytes = read_bounded(file, FILE_BYTES_MAX).ok().flatten().unwrap_or_default();
    let Ok(mut node) = yaml::parse(&String::from_utf8_lossy(&bytes)) else { return Position::START };
    let mut position = Position::START;
    for key in keys {
        let Kind::Map(entries) = node.kind else { break };
        let Some(entry) = entries.into_iter().find(|entry| entry.key == *key) else { break };
        position = entry.position;
        node = entry.value;
    }
    position
}

fn one_fault(file: &str, position: Position, problem: Problem) -> Faults {
    Faults(vec![Fault { file: file.into(), position, path: String::new(), problem }])
}
