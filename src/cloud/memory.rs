//! What bridges found out about their servers, in one small file of the data directory. A file that is lost or unreadable
//! costs some connections, so nothing waits for it and no error stops a link. Knows nothing of what it keeps.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::base::note_file;
use crate::bridge::note::Note;

/// The file's name in the data directory.
pub const MEMORY_FILE: &str = "uplinks.json";
const VERSION: u32 = 1;
/// A file that is larger was not written here.
const FILE_BYTES_MAX: u64 = 4 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct Contents {
    version: u32,
    bridges: BTreeMap<String, Note>,
}

#[derive(Debug)]
pub struct Memory {
    path: PathBuf,
    /// Held while the file is written.
    bridges: Mutex<BTreeMap<String, Note>>,
}

impl Memory {
    /// What the file holds. Blocks.
    pub fn open(data_dir: &Path) -> Self {
        let path = data_dir.join(MEMORY_FILE);
        let bridges = read(&path).unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(path = %path.display(), %error, "what was learned of servers is lost");
            }
            BTreeMap::new()
        });
        Self { path, bridges: Mutex::new(bridges) }
    }

    pub fn recall(&self, bridge: &str) -> Option<Note> {
        self.bridges.lock().unwrap_or_else(PoisonError::into_inner).get(bridge).cloned()
    }

    /// Writes what is new, whole or not at all; of bridges that are gone nothing stays. Blocks.
    pub fn keep(&self, news: Vec<(String, Note)>, configured: &[String]) {
        if news.is_empty() {
            return;
        }
        let mut bridges = self.bridges.lock().unwrap_or_else(PoisonError::into_inner);
        bridges.extend(news);
        bridges.retain(|bridge, _| configured.contains(bridge));
        let contents = Contents { version: VERSION, bridges: bridges.clone() };
        if let Err(error) = note_file::replace(&self.path, &contents) {
            tracing::warn!(path = %self.path.display(), %error, "what was learned of servers is not kept");
        }
    }
}

fn read(path: &Path) -> io::Result<BTreeMap<String, Note>> {
    let contents: Contents = note_file::read(path, FILE_BYTES_MAX)?;
    if contents.version != VERSION {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(contents.bridges)
}

#[cfg(test)]
mod tests {
    use super::{MEMORY_FILE, Memory};
    use crate::bridge::note::Note;

    #[test]
    fn what_was_learned_is_there_after_a_restart_as_long_as_its_bridge_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let note = Note { place: "mqtt://a:1883".into(), ..Note::default() };
        let (cloud, gone) = (("cloud".to_owned(), note.clone()), ("gone".to_owned(), note.clone()));
        Memory::open(folder.path()).keep(vec![cloud, gone], &["cloud".to_owned()]);
        let again = Memory::open(folder.path());
        assert_eq!((again.recall("cloud"), again.recall("gone")), (Some(note), None));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_as_good_as_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let later = r#"{"version":2,"bridges":{}}"#;
        let odd = r#"{"version":1,"bridges":{"cloud":{"servers":{"a":{"until":"soon"}}}}}"#;
        for text in ["", "{}", "[1]", later, odd] {
            std::fs::write(folder.path().join(MEMORY_FILE), text).expect("written");
            assert_eq!(Memory::open(folder.path()).recall("cloud"), None, "{text}");
        }
    }
}
