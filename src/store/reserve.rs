//! Space that is kept for the moment when the disk is full: given back then, so that what makes room, drops and
//! trims, can be committed. Knows nothing of what is in the database.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

pub const RESERVE_FILE: &str = "tidegate.reserve";
pub const RESERVE_BYTES: u64 = 8 << 20;
/// What must be free beside the reserve before it is taken: else it would be taken and given back in turns.
const BESIDE_BYTES_MIN: u64 = 2 * RESERVE_BYTES;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Never taken: there was no room for it, or the file system cannot promise space.
    Absent,
    Held,
    /// Given back to a full disk, by this run or an earlier one.
    Spent,
}

#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    state: State,
}

impl Reserve {
    /// As an earlier run left it.
    pub(super) fn find(data_dir: &Path) -> Self {
        let path = data_dir.join(RESERVE_FILE);
        let state = match path.metadata() {
            Ok(found) if found.len() >= RESERVE_BYTES => State::Held,
            Ok(_) => State::Spent,
            Err(_) => State::Absent,
        };
        Self { path, state }
    }

    pub(super) const fn is_spent(&self) -> bool {
        matches!(self.state, State::Spent)
    }

    pub(super) const fn bytes(&self) -> u64 {
        if matches!(self.state, State::Held) { RESERVE_BYTES } else { 0 }
    }

    /// Takes the space where there is plenty. True: it is held.
    pub(super) fn take(&mut self) -> bool {
        if self.state != State::Held && free_bytes(&self.path) >= RESERVE_BYTES + BESIDE_BYTES_MIN {
            let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&self.path);
            let Ok(file) = opened else { return false };
            match fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES) {
                Ok(()) => self.state = State::Held,
                // Not every file system can promise space: then there is no file either.
                Err(_) if self.state == State::Absent => drop(std::fs::remove_file(&self.path)),
                Err(_) => drop(file.set_len(0)),
            }
        }
        self.state == State::Held
    }

    /// True: the disk has more room than before. The empty file tells the next run.
    pub(super) fn give_back(&mut self) -> bool {
        let given = self.state == State::Held
            && OpenOptions::new().write(true).open(&self.path).and_then(|file: File| file.set_len(0)).is_ok();
        if given {
            self.state = State::Spent;
        }
        given
    }
}

/// What the file system of `path`'s folder has left for us; 0 where it does not say.
pub(super) fn free_bytes(path: &Path) -> u64 {
    let folder = path.parent().unwrap_or(path);
    statvfs(folder).map_or(0, |status| status.f_bavail.saturating_mul(status.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::{RESERVE_BYTES, RESERVE_FILE, Reserve};

    #[test]
    fn the_reserve_is_taken_given_back_and_known_to_the_next_run() {
        let dir = tempfile::tempdir().unwrap();
        let mut reserve = Reserve::find(dir.path());
        assert!(!reserve.is_spent() && !reserve.give_back());
        assert!(reserve.take() && reserve.take());
        let file = dir.path().join(RESERVE_FILE);
        assert_eq!(file.metadata().unwrap().len(), RESERVE_BYTES);
        assert_eq!(Reserve::find(dir.path()).bytes(), RESERVE_BYTES);
        assert!(reserve.give_back() && !reserve.give_back());
        assert_eq!(file.metadata().unwrap().len(), 0);
        let mut next = Reserve::find(dir.path());
        assert!(next.is_spent() && next.take() && !next.is_spent());
    }
}
