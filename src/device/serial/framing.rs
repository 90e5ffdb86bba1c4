//! Bytes in, frames out: where a frame begins and ends, and how to find the next one behind noise. A frame that may have
//! lost its beginning is never handed out. Holds at most one frame; never knows what a frame says.

use std::ops::Range;

use crate::config::instrument::{FrameEnd, Framing, LengthField};
use crate::config::model::Order;
use crate::device::serial::checksum;

/// A frame that is whole, and right by its checksum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// All of it, but for its delimiter.
    pub bytes: Vec<u8>,
    /// What lies between start and checksum.
    body: Range<usize>,
}

impl Frame {
    pub fn body(&self) -> &[u8] {
        self.bytes.get(self.body.clone()).unwrap_or(&[])
    }
}

#[derive(Debug)]
pub struct Framer {
    settings: Framing,
    /// What no frame was made of: shorter than a frame and its delimiter.
    buffer: Vec<u8>,
    /// The buffer's first byte is a frame's first one, as far as can be told.
    synced: bool,
    dropped: u64,
}

/// Frames without start that come between two silences at most.
const FRAMES_IN_A_ROW_MAX: usize = 64;

impl Framer {
    /// What comes first may be the end of a frame.
    pub fn new(settings: Framing) -> Self {
        Self { settings, buffer: Vec::new(), synced: false, dropped: 0 }
    }

    /// Whether a silence of [`Framing::gap`] would be news.
    pub fn waits(&self) -> bool {
        !self.buffer.is_empty() || !self.synced
    }

    /// How often something was thrown away that was no frame, since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// What has come is void, and what comes next may be the end of a frame.
    pub fn handle_lost(&mut self) {
        self.buffer.clear();
        self.synced = false;
    }

    /// What has come is void, and what comes next is the beginning of a frame: the device was asked.
    pub fn handle_asked(&mut self) {
        self.buffer.clear();
        self.synced = true;
    }

    pub fn handle_bytes(&mut self, bytes: &[u8], frames: &mut Vec<Frame>) {
        // In pieces, so that the buffer stays within its bound.
        for piece in bytes.chunks(self.settings.max_length) {
            self.buffer.extend_from_slice(piece);
            match &self.settings.end {
                FrameEnd::Delimiter(_) => self.cut_delimited(frames),
                FrameEnd::Length(_) if self.settings.start.is_empty() => self.hold(FRAMES_IN_A_ROW_MAX),
                FrameEnd::Silence => self.hold(1),
                FrameEnd::Length(_) | FrameEnd::LengthField(_) => self.cut_started(frames),
            }
        }
    }

    /// Nothing came for [`Framing::gap`]: no frame goes on, and the next byte begins one.
    pub fn handle_silence(&mut self, frames: &mut Vec<Frame>) {
        match self.settings.end {
            FrameEnd::Silence => self.cut_all(frames, self.buffer.len()),
            FrameEnd::Length(length) if self.settings.start.is_empty() => self.cut_all(frames, length),
            FrameEnd::Length(_) | FrameEnd::LengthField(_) if self.settings.checksum.is_some() => {
                // What looked like a frame's start was none: it may hide one.
                while !self.buffer.is_empty() {
                    self.drop_first(1);
                    self.cut_started(frames);
                }
            }
            FrameEnd::Delimiter(_) | FrameEnd::Length(_) | FrameEnd::LengthField(_) => {
                if !self.buffer.is_empty() && self.synced {
                    self.dropped += 1;
                }
            }
        }
        self.buffer.clear();
        self.synced = true;
    }

    fn cut_delimited(&mut self, frames: &mut Vec<Frame>) {
        let FrameEnd::Delimiter(delimiter) = self.settings.end.clone() else { return };
        while let Some(at) = find(&self.buffer, &delimiter) {
            let rest = self.buffer.split_off(at + delimiter.len());
            let mut line = std::mem::replace(&mut self.buffer, rest);
            line.truncate(at);
            if std::mem::replace(&mut self.synced, true) {
                self.take_line(&line, frames);
            }
        }
        // A delimiter may have begun.
        let kept = delimiter.len() - 1;
        if self.buffer.len() > self.settings.max_length + kept {
            self.lose();
            self.buffer.drain(..self.buffer.len() - kept);
        }
    }

    /// The last start in a line begins its frame; where there is a checksum, the first whose frame is right.
    fn take_line(&mut self, line: &[u8], frames: &mut Vec<Frame>) {
        if line.is_empty() {
            return;
        }
        if line.len() > self.settings.max_length {
            self.dropped += 1;
            return;
        }
        let mut starts = (0..line.len()).filter(|at| line[*at..].starts_with(&self.settings.start));
        let found = match self.settings.checksum {
            _ if self.settings.start.is_empty() => self.frame_of(line),
            None => starts.next_back().and_then(|at| self.frame_of(&line[at..])),
            Some(_) => starts.map(|at| self.frame_of(&line[at..])).find_map(|frame| frame),
        };
        match found {
            Some(frame) => frames.push(frame),
            None => self.dropped += 1,
        }
    }

    /// What ends by silence alone: kept until then.
    fn hold(&mut self, frames_max: usize) {
        if !self.synced {
            self.buffer.clear();
        } else if self.buffer.len() > self.settings.max_length * frames_max {
            self.lose();
            self.buffer.clear();
        }
    }

    fn cut_all(&mut self, frames: &mut Vec<Frame>, length: usize) {
        if self.buffer.is_empty() {
            return;
        }
        if !self.synced || !self.buffer.len().is_multiple_of(length) {
            self.dropped += u64::from(self.synced);
            return;
        }
        for piece in self.buffer.chunks(length) {
            match self.frame_of(piece) {
                Some(frame) => frames.push(frame),
                None => self.dropped += 1,
            }
        }
    }

    /// Without a checksum a start may be a byte like any other: then only a silence says where a frame begins.
    fn cut_started(&mut self, frames: &mut Vec<Frame>) {
        let is_sure = self.settings.checksum.is_some();
        while is_sure || self.synced {
            let Some(at) = find_begun(&self.buffer, &self.settings.start) else {
                self.drop_first(self.buffer.len());
                return;
            };
            self.drop_first(at);
            if !is_sure && !self.synced {
                break;
            }
            let length = match self.length_of_next() {
                Ok(Some(length)) => length,
                Ok(None) => return,
                Err(()) => {
                    self.drop_first(1);
                    continue;
                }
            };
            if self.buffer.len() < length {
                return;
            }
            match self.frame_of(&self.buffer[..length]) {
                Some(frame) => {
                    frames.push(frame);
                    self.buffer.drain(..length);
                    self.synced = true;
                }
                None => self.drop_first(1),
            }
        }
        self.buffer.clear();
    }

    /// Bytes that the frame at the front has; None: not known yet; an error: it is none.
    fn length_of_next(&self) -> Result<Option<usize>, ()> {
        if self.buffer.len() < self.settings.start.len() {
            return Ok(None);
        }
        let length = match &self.settings.end {
            FrameEnd::LengthField(field) => match number(field, &self.buffer) {
                Some(number) => number + field.adds,
                None => return Ok(None),
            },
            FrameEnd::Length(length) => *length,
            FrameEnd::Delimiter(_) | FrameEnd::Silence => return Err(()),
        };
        let least = self.frame_bytes_min();
        if (least..=self.settings.max_length).contains(&length) { Ok(Some(length)) } else { Err(()) }
    }

    fn frame_bytes_min(&self) -> usize {
        let checksum = self.settings.checksum.map_or(0, |checksum| checksum.bytes());
        let field = match self.settings.end {
            FrameEnd::LengthField(field) => field.at + field.bytes,
            FrameEnd::Delimiter(_) | FrameEnd::Length(_) | FrameEnd::Silence => self.settings.start.len(),
        };
        field.max(self.settings.start.len()).max(1) + checksum
    }

    /// The frame that these bytes are, if they are one.
    fn frame_of(&self, bytes: &[u8]) -> Option<Frame> {
        let Framing { start, checksum, max_length, .. } = &self.settings;
        if bytes.len() > *max_length || !bytes.starts_with(start) {
            return None;
        }
        let end = match checksum {
            Some(checksum) if !checksum::is_right(checksum, bytes) => return None,
            Some(checksum) => bytes.len() - checksum.bytes(),
            None => bytes.len(),
        };
        (start.len() <= end).then(|| Frame { bytes: bytes.to_vec(), body: start.len()..end })
    }

    fn drop_first(&mut self, count: usize) {
        if count > 0 {
            self.lose();
            self.buffer.drain(..count);
        }
    }

    /// Counted once until a frame is found again.
    fn lose(&mut self) {
        self.dropped += u64::from(self.synced);
        self.synced = false;
    }
}

fn number(field: &LengthField, frame: &[u8]) -> Option<usize> {
    let bytes = frame.get(field.at..field.at + field.bytes)?;
    let fold = |number: usize, byte: &u8| (number << 8) | usize::from(*byte);
    Some(match field.order {
        Order::Big => bytes.iter().fold(0, fold),
        Order::Little => bytes.iter().rev().fold(0, fold),
    })
}

fn find(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    bytes.windows(mark.len()).position(|window| window == mark)
}

/// Where a mark begins, be it that its end is still to come.
fn find_begun(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    (0..bytes.len()).find(|at| bytes[*at..].iter().zip(mark).all(|(byte, wanted)| byte == wanted))
}
