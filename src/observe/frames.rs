//! The last raw frames of lines and links with their times: always kept, in one bounded ring each. Knows no
//! protocol and touches no line; whoever owns one tells it what left and what came.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Frames that are kept of one line or link.
pub const FRAMES_MAX: usize = 1000;
/// Frames that are kept of all together: many lines have less each.
pub const FRAMES_ALL_MAX: usize = 10_000;
/// Bytes that are kept of one frame; how long it was is told all the same.
pub const FRAME_BYTES_MAX: usize = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    Sent,
    Received,
}

/// What a line speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    ModbusTcp,
    ModbusRtu,
    ModbusAscii,
    Mqtt,
    /// Whatever an instrument says.
    Text,
}

/// What went one way until the line was turned or the exchange was over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Counts up over all lines, from 1.
    pub seq: u64,
    /// When its first byte was seen, in microseconds since 1970.
    pub micros: i64,
    pub direction: Direction,
    /// At most [`FRAME_BYTES_MAX`].
    pub bytes: Vec<u8>,
    /// In all.
    pub length: usize,
}

/// A frame and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub line: Arc<str>,
    pub protocol: Protocol,
    pub frame: Frame,
}

/// The rings of all lines. One lock: it is held for a copy of a few bytes.
#[derive(Debug, Default)]
pub struct Frames(Mutex<Rings>);

#[derive(Debug, Default)]
struct Rings {
    last_seq: u64,
    by_line: BTreeMap<Arc<str>, Ring>,
}

#[derive(Debug)]
struct Ring {
    protocol: Protocol,
    frames: VecDeque<Frame>,
    /// It may still grow, and has no number yet.
    open: Option<Frame>,
}

impl Frames {
    /// For the line of this name. A line that begins anew goes on in its ring.
    pub fn recorder(self: &Arc<Self>, line: &str, protocol: Protocol) -> Recorder {
        let line: Arc<str> = line.into();
        let ring = Ring { protocol, frames: VecDeque::new(), open: None };
        self.lock().by_line.entry(Arc::clone(&line)).or_insert(ring);
        Recorder { frames: Arc::clone(self), line }
    }

    /// In the order of their names.
    pub fn lines(&self) -> Vec<Arc<str>> {
        self.lock().by_line.keys().cloned().collect()
    }

    /// The last `count` frames behind number `after`, oldest first; of one line, or of all.
    pub fn behind(&self, after: u64, line: Option<&str>, count: usize) -> Vec<Kept> {
        let rings = self.lock();
        let wanted = rings.by_line.iter().filter(|(name, _)| line.is_none_or(|line| *line == ***name));
        let mut found: Vec<Kept> = wanted
            .flat_map(|(name, ring)| {
                let frames = ring.frames.iter().rev().take_while(|frame| frame.seq > after).take(count);
                frames.map(|frame| Kept {
                    line: Arc::clone(name),
                    protocol: ring.protocol,
                    frame: frame.clone(),
                })
            })
            .collect();
        drop(rings);
        found.sort_by_key(|kept| kept.frame.seq);
        found.drain(..found.len().saturating_sub(count));
        found
    }

    fn lock(&self) -> MutexGuard<'_, Rings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one line tells of itself. A frame ends when the direction turns, and with `end`.
#[derive(Debug, Clone)]
pub struct Recorder {
    frames: Arc<Frames>,
    line: Arc<str>,
}

impl Recorder {
    pub fn sent(&self, bytes: &[u8]) {
        self.add(Direction::Sent, bytes);
    }

    pub fn received(&self, bytes: &[u8]) {
        self.add(Direction::Received, bytes);
    }

    /// The exchange is over: what comes now belongs to no frame before.
    pub fn end(&self) {
        let mut rings = self.frames.lock();
        rings.close(&self.line);
    }

    fn add(&self, direction: Direction, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut rings = self.frames.lock();
        let is_turned = |ring: &Ring| ring.open.as_ref().is_some_and(|open| open.direction != direction);
        if rings.by_line.get(&self.line).is_some_and(is_turned) {
            rings.close(&self.line);
        }
        let Some(ring) = rings.by_line.get_mut(&self.line) else { return };
        let new = || Frame { seq: 0, micros: micros_now(), direction, bytes: Vec::new(), length: 0 };
        let open = ring.open.get_or_insert_with(new);
        let room = FRAME_BYTES_MAX.saturating_sub(open.bytes.len());
        open.bytes.extend(bytes.iter().take(room));
        open.length = open.length.saturating_add(bytes.len());
    }
}

impl Rings {
    fn close(&mut self, line: &Arc<str>) {
        let frames_max = FRAMES_MAX.min(FRAMES_ALL_MAX / self.by_line.len().max(1)).max(1);
        let Some(ring) = self.by_line.get_mut(line) else { return };
        let Some(mut frame) = ring.open.take() else { return };
        self.last_seq += 1;
        frame.seq = self.last_seq;
        frame.bytes.shrink_to_fit();
        ring.frames.drain(..(ring.frames.len() + 1).saturating_sub(frames_max));
        ring.frames.push_back(frame);
    }
}

/// Two digits a byte: `01 03 00`.
pub fn hex(bytes: &[u8], between: &str) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(between)
}

fn micros_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::{Direction, FRAME_BYTES_MAX, FRAMES_ALL_MAX, FRAMES_MAX, Frames, Protocol};
    use std::sync::Arc;

    #[test]
    fn a_frame_is_what_goes_one_way_at_once() {
        let frames = Arc::new(Frames::default());
        let line = frames.recorder("a", Protocol::ModbusRtu);
        line.sent(&[1, 2]);
        line.received(&[3]);
        line.received(&[4, 5]);
        assert_eq!(frames.behind(0, None, 10).len(), 1, "the answer may still grow");
        line.end();
        line.received(&[6]);
        line.end();
        line.end();
        let told: Vec<_> =
            frames.behind(0, None, 10).into_iter().map(|kept| (kept.frame.seq, kept.frame.bytes)).collect();
        assert_eq!(told, [(1, vec![1, 2]), (2, vec![3, 4, 5]), (3, vec![6])]);
        assert_eq!(frames.behind(2, None, 10)[0].frame.direction, Direction::Received);
    }

    #[test]
    fn lines_share_their_numbers_and_not_their_rings() {
        let frames = Arc::new(Frames::default());
        let (a, b) = (frames.recorder("a", Protocol::ModbusRtu), frames.recorder("b", Protocol::ModbusTcp));
        for turn in 0..4 {
            let line = if turn % 2 == 0 { &a } else { &b };
            line.sent(&[turn]);
            line.end();
        }
        let bytes = |after, line, count| {
            let kept = frames.behind(after, line, count).into_iter();
            kept.map(|kept| kept.frame.bytes[0]).collect::<Vec<u8>>()
        };
        assert_eq!(bytes(0, None, 10), [0, 1, 2, 3]);
        assert_eq!(bytes(2, None, 10), [2, 3]);
        assert_eq!(bytes(0, None, 1), [3]);
        assert_eq!(bytes(0, Some("b"), 10), [1, 3]);
        assert_eq!(bytes(0, Some("c"), 10), [0_u8; 0]);
        assert_eq!(frames.lines(), ["a".into(), "b".into()] as [Arc<str>; 2]);
    }

    #[test]
    fn a_ring_is_bounded_in_frames_and_bytes() {
        let frames = Arc::new(Frames::default());
        let line = frames.recorder("a", Protocol::Text);
        for _ in 0..FRAMES_MAX + 5 {
            line.received(&[7; FRAME_BYTES_MAX]);
            line.received(&[8; 2]);
            line.end();
        }
        let kept = frames.behind(0, None, usize::MAX);
        assert_eq!((kept.len(), kept[0].frame.seq), (FRAMES_MAX, 6));
        assert_eq!((kept[0].frame.bytes.len(), kept[0].frame.length), (FRAME_BYTES_MAX, FRAME_BYTES_MAX + 2));
        let lines: Vec<_> =
            (0..100).map(|at| frames.recorder(&format!("line {at}"), Protocol::Text)).collect();
        for other in lines.iter().chain([&line]) {
            for _ in 0..FRAMES_MAX {
                other.received(&[7]);
                other.end();
            }
        }
        let kept = frames.behind(0, None, usize::MAX).len();
        assert_eq!(kept, 101 * (FRAMES_ALL_MAX / 101));
    }
}
