//! An archive as POSIX describes it (ustar), of small files in one folder. Reads none: it is told what they hold.

use std::io::{self, Write};

const BLOCK_BYTES: usize = 512;
/// What a header has room for.
pub const NAME_BYTES_MAX: usize = 100;
const MODE: &[u8] = b"0000600\0";

/// Files one behind the other; to be ended with `finish`.
pub struct Archive<W: Write> {
    out: W,
    /// Of every file, in seconds since 1970.
    time: u64,
}

impl<W: Write> Archive<W> {
    pub fn new(out: W, time: u64) -> Self {
        Self { out, time }
    }

    /// A longer name is cut.
    pub fn add(&mut self, name: &str, contents: &[u8]) -> io::Result<()> {
        self.out.write_all(&header(name, contents.len(), self.time))?;
        self.out.write_all(contents)?;
        let rest = contents.len().next_multiple_of(BLOCK_BYTES) - contents.len();
        self.out.write_all(&[0; BLOCK_BYTES][..rest])
    }

    /// Two empty blocks are the end.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK_BYTES])?;
        self.out.flush()?;
        Ok(self.out)
    }
}

fn header(name: &str, length: usize, time: u64) -> [u8; BLOCK_BYTES] {
    let mut header = [0; BLOCK_BYTES];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &name.as_bytes()[..name.len().min(NAME_BYTES_MAX)]);
    put(100, MODE);
    // Nobody's: owners are of the machine where it is unpacked.
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{length:011o}\0").as_bytes());
    put(136, format!("{:011o}\0", time & 0o77_777_777_777).as_bytes());
    // The sum is taken with blanks in its place.
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().copied().map(u32::from).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::{Archive, BLOCK_BYTES};

    #[test]
    fn files_fill_blocks() {
        let mut archive = Archive::new(Vec::new(), 1_795_255_200);
        archive.add("d/empty", b"").unwrap();
        archive.add("d/full", &[b'x'; BLOCK_BYTES]).unwrap();
        archive.add("d/more", &[b'y'; BLOCK_BYTES + 1]).unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len(), BLOCK_BYTES * (1 + 2 + 3 + 2));
        assert_eq!(&bytes[..8], b"d/empty\0");
        assert_eq!(&bytes[BLOCK_BYTES + 124..BLOCK_BYTES + 136], b"00000001000\0");
    }
}
