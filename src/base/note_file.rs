//! A small file of JSON that is a cache: read whole or not at all, replaced whole or not at all. Knows nothing of what it
//! keeps; both block.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Of at most so many bytes: a file that is larger is none of ours.
pub fn read<T: DeserializeOwned>(path: &Path, bytes_max: u64) -> io::Result<T> {
    if std::fs::metadata(path)?.len() > bytes_max {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

pub fn replace(path: &Path, contents: &impl Serialize) -> io::Result<()> {
    let beside = path.with_extension("json.new");
    let mut file = File::create(&beside)?;
    file.write_all(&serde_json::to_vec(contents)?)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)
}
