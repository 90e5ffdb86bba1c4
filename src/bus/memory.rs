//! What was learned of units, in one small file of the data directory, so that a restart need not learn it again.
//! A file that is lost or unreadable costs a few requests that are refused, so nothing waits for it and no error
//! stops a line. Knows nothing of lines.
//!
//! ```json
//! {"version":1,"devices":{"meter":{"place":"rs485-a, unit 1","refused":[["holding",40,42]],
//!   "registers":{"answered":32,"refused":33},"bits":{"answered":0,"refused":null}}}}
//! ```

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::base::note_file;
use crate::base::time::Duration;
use crate::config::model::Table;
use crate::device::learned::{Ceiling, Learned, REFUSED_MAX};
use crate::device::plan::Span;

/// The file's name in the data directory.
pub const MEMORY_FILE: &str = "learned.json";
const VERSION: u32 = 1;
/// A unit that changes its mind all the time must not wear the flash.
const WRITE_INTERVAL: Duration = Duration::from_secs(60);
/// A file that is larger was not written here.
const FILE_BYTES_MAX: u64 = 16 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct Contents {
    version: u32,
    devices: BTreeMap<String, Known>,
}

/// What is known of one unit.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Known {
    /// Where it answers: a device that was moved is another one.
    place: String,
    refused: Vec<(Table, u32, u32)>,
    registers: Limit,
    bits: Limit,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Limit {
    answered: u16,
    refused: Option<u16>,
}

#[derive(Debug, Default)]
struct State {
    devices: BTreeMap<String, Known>,
    is_unwritten: bool,
    written_at: Option<Instant>,
}

/// Shared by all lines.
#[derive(Debug)]
pub struct Memory {
    path: PathBuf,
    state: Mutex<State>,
    /// Held while the file is written.
    writing: Mutex<()>,
}

impl Memory {
    /// What the file holds. Blocks.
    pub fn open(data_dir: &Path) -> Arc<Self> {
        let path = data_dir.join(MEMORY_FILE);
        let devices = read(&path).unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(path = %path.display(), %error, "what was learned of units is lost");
            }
            BTreeMap::new()
        });
        let state = Mutex::new(State { devices, ..State::default() });
        Arc::new(Self { path, state, writing: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of a device that answers at this place.
    pub(crate) fn recall(&self, device: &str, place: &str) -> Option<Learned> {
        let state = self.lock();
        let known = state.devices.get(device).filter(|known| known.place == place)?;
        let refused = known.refused.iter().take(REFUSED_MAX);
        let spans = refused.map(|(table, start, end)| Span { table: *table, start: *start, end: *end });
        let ceiling = |limit: Limit| Ceiling::new(limit.answered, limit.refused);
        Some(Learned::new(spans.collect(), ceiling(known.registers), ceiling(known.bits)))
    }

    /// Keeps it, and says whether it is time to write.
    pub(crate) fn remember(&self, device: &str, place: &str, learned: &Learned) -> bool {
        let limit = |ceiling: Ceiling| Limit { answered: ceiling.answered, refused: ceiling.refused };
        let spans = learned.refused().iter();
        let known = Known {
            place: place.to_owned(),
            refused: spans.map(|span| (span.table, span.start, span.end)).collect(),
            registers: limit(learned.registers),
            bits: limit(learned.bits),
        };
        let mut state = self.lock();
        state.devices.insert(device.to_owned(), known);
        state.is_unwritten = true;
        state.written_at.is_none_or(|at| at.elapsed() >= WRITE_INTERVAL)
    }

    /// Writes what was not written, whole or not at all. Blocks.
    pub(crate) fn write(&self) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let contents = {
            let mut state = self.lock();
            if !std::mem::take(&mut state.is_unwritten) {
                return;
            }
            state.written_at = Some(Instant::now());
            Contents { version: VERSION, devices: state.devices.clone() }
        };
        if let Err(error) = note_file::replace(&self.path, &contents) {
            tracing::warn!(path = %self.path.display(), %error, "what was learned of units is not kept");
        }
    }
}

fn read(path: &Path) -> io::Result<BTreeMap<String, Known>> {
    let contents: Contents = note_file::read(path, FILE_BYTES_MAX)?;
    if contents.version != VERSION {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(contents.devices)
}

#[cfg(test)]
mod tests {
    use super::{MEMORY_FILE, Memory};
    use crate::config::model::Table;
    use crate::device::learned::{Ceiling, Learned};
    use crate::device::plan::Span;

    #[test]
    fn what_was_learned_is_there_after_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let span = Span { table: Table::Holding, start: 40, end: 42 };
        let learned = Learned::new(vec![span], Ceiling::new(32, Some(33)), Ceiling::default());
        let memory = Memory::open(folder.path());
        assert_eq!(memory.recall("meter", "line, unit 1"), None);
        assert!(memory.remember("meter", "line, unit 1", &learned), "the first is written at once");
        memory.write();
        assert!(!memory.remember("meter", "line, unit 1", &learned), "the next one gathers");
        let again = Memory::open(folder.path());
        assert_eq!(again.recall("meter", "line, unit 1"), Some(learned));
        assert_eq!(again.recall("meter", "line, unit 2"), None, "another unit has another map");
        assert_eq!(again.recall("other", "line, unit 1"), None);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_as_good_as_none() {
        let folder = tempfile::tempdir().expect("a folder");
        for text in ["", "{}", "[1]", r#"{"version":2,"devices":{}}"#] {
            std::fs::write(folder.path().join(MEMORY_FILE), text).expect("written");
            assert_eq!(Memory::open(folder.path()).recall("meter", "line, unit 1"), None, "{text}");
        }
    }
}
