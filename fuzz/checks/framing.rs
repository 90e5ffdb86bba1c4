//! Bytes with silences between them to the framer of serial instruments: however the bytes are cut, the same frames come
//! out, and they are those that an oracle finds which sees all at once and tries every place.
//!
//! Input: the framing; how the bytes are cut; then the bytes, of which one means a silence, one that the device was
//! asked, and one that the port was lost.

use tidegate::base::time::Duration;
use tidegate::config::instrument::{Checksum, ChecksumKind, Encoding, FrameEnd, Framing, LengthField};
use tidegate::config::model::Order;
use tidegate::device::serial::framing::{Frame, Framer};

const HEAD_BYTES: usize = 12;
const SILENCE: u8 = 0xF0;
const ASKED: u8 = 0xF1;
const LOST: u8 = 0xF2;

/// What happens to a framer.
#[derive(Debug, PartialEq)]
enum Event {
    Bytes(Vec<u8>),
    Silence,
    Asked,
    Lost,
}

pub fn check(input: &[u8]) {
    frames_in(input);
}

/// How many frames the input has, each of them as it should be.
pub fn frames_in(input: &[u8]) -> usize {
    let Some((head, stream)) = input.split_at_checked(HEAD_BYTES) else { return 0 };
    let framing = framing_of(head);
    let events = events_of(stream);
    let expected = Oracle { framing: &framing, frames: Vec::new() }.find(&events);
    let whole = frames_of(&framing, &events, std::iter::repeat(usize::MAX));
    assert_eq!(bytes_of(&whole.0), expected, "{framing:?}");
    let cuts = head[8..].iter().cycle().map(|size| usize::from(*size) + 1);
    assert_eq!(frames_of(&framing, &events, cuts), whole, "in pieces of {:?}", &head[8..]);
    assert_eq!(frames_of(&framing, &events, std::iter::repeat(1)), whole, "byte by byte");
    for frame in &whole.0 {
        assert!(frame.bytes.len() <= framing.max_length && frame.body().len() <= frame.bytes.len());
    }
    expected.len()
}

fn bytes_of(frames: &[Frame]) -> Vec<Vec<u8>> {
    frames.iter().map(|frame| frame.bytes.clone()).collect()
}

fn framing_of(head: &[u8]) -> Framing {
    let checksum = (head[1] & 1 == 1).then_some(Checksum {
        kind: if head[1] & 2 == 0 { ChecksumKind::Xor8 } else { ChecksumKind::Sum8 },
        from: usize::from(head[1] >> 2 & 3),
        encoding: if head[1] & 16 == 0 { Encoding::Binary } else { Encoding::Hex },
        order: Order::Big,
    });
    let max_length = usize::from(head[2] % 24) + 1;
    let mark = |count: u8| [b'<', b'<', b'-'][..usize::from(count % 4)].to_vec();
    let start = mark(head[3]);
    let end = match head[0] % 4 {
        0 => FrameEnd::Delimiter([b'>', b'>', b'-'][..=usize::from(head[4] % 3)].to_vec()),
        1 => FrameEnd::Length(max_length),
        2 if !start.is_empty() => FrameEnd::LengthField(LengthField {
            at: usize::from(head[4] % 4),
            bytes: usize::from(head[5] % 2) + 1,
            order: if head[5] & 2 == 0 { Order::Big } else { Order::Little },
            adds: usize::from(head[6] % 8),
        }),
        _ => FrameEnd::Silence,
    };
    Framing { start, end, checksum, max_length, gap: Duration::from_millis(20) }
}

fn events_of(stream: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    for byte in stream {
        let event = match *byte {
            SILENCE => Event::Silence,
            ASKED => Event::Asked,
            LOST => Event::Lost,
            byte => {
                if let Some(Event::Bytes(bytes)) = events.last_mut() {
                    bytes.push(byte);
                } else {
                    events.push(Event::Bytes(vec![byte]));
                }
                continue;
            }
        };
        events.push(event);
    }
    events
}

/// The frames, and how often something was dropped.
fn frames_of(
    framing: &Framing,
    events: &[Event],
    mut sizes: impl Iterator<Item = usize>,
) -> (Vec<Frame>, u64) {
    let mut framer = Framer::new(framing.clone());
    let mut found = Vec::new();
    for event in events {
        match event {
            Event::Bytes(bytes) => {
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let size = sizes.next().unwrap_or(usize::MAX).min(rest.len());
                    let (piece, behind) = rest.split_at(size);
                    framer.handle_bytes(piece, &mut found);
                    rest = behind;
                }
            }
            // As a brain does, only where it is news.
            Event::Silence if framer.waits() => framer.handle_silence(&mut found),
            Event::Silence => {}
            Event::Asked => framer.handle_asked(),
            Event::Lost => framer.handle_lost(),
        }
    }
    (found, framer.dropped())
}

/// What a frame's start begins.
enum Begun {
    /// Of so many bytes.
    Frame(usize),
    /// More bytes will tell.
    Perhaps,
    Nothing,
}

struct Oracle<'a> {
    framing: &'a Framing,
    frames: Vec<Vec<u8>>,
}

impl Oracle<'_> {
    fn find(mut self, events: &[Event]) -> Vec<Vec<u8>> {
        let mut is_synced = false;
        for (at, event) in events.iter().enumerate() {
            match event {
                Event::Bytes(bytes) => {
                    let ends = events.get(at + 1) == Some(&Event::Silence);
                    self.segment(bytes, is_synced, ends);
                }
                Event::Silence | Event::Asked => is_synced = true,
                Event::Lost => is_synced = false,
            }
        }
        self.frames
    }

    /// What came between two events; `ends` with a silence.
    fn segment(&mut self, bytes: &[u8], is_synced: bool, ends: bool) {
        let framing = self.framing;
        match &framing.end {
            FrameEnd::Delimiter(delimiter) => self.lines(bytes, delimiter, is_synced),
            FrameEnd::Silence => {
                if is_synced && ends && self.is_frame(bytes) {
                    self.frames.push(bytes.to_vec());
                }
            }
            FrameEnd::Length(length) if framing.start.is_empty() => {
                let fits = bytes.len().is_multiple_of(*length) && bytes.len() <= length * 64;
                for piece in bytes.chunks(*length).filter(|_| is_synced && ends && fits) {
                    if self.is_frame(piece) {
                        self.frames.push(piece.to_vec());
                    }
                }
            }
            FrameEnd::Length(_) | FrameEnd::LengthField(_) => self.started(bytes, is_synced, ends),
        }
    }

    fn lines(&mut self, mut bytes: &[u8], delimiter: &[u8], mut is_synced: bool) {
        while let Some(at) = (0..bytes.len()).find(|at| bytes[*at..].starts_with(delimiter)) {
            let line = &bytes[..at];
            bytes = &bytes[at + delimiter.len()..];
            if !std::mem::replace(&mut is_synced, true) || line.len() > self.framing.max_length {
                continue;
            }
            let mut starts = (0..line.len()).filter(|at| line[*at..].starts_with(&self.framing.start));
            let found = match (&self.framing.start[..], self.framing.checksum) {
                ([], _) => Some(0),
                (_, None) => starts.next_back(),
                (_, Some(_)) => starts.find(|at| self.is_frame(&line[*at..])),
            };
            let frame = found.map(|at| &line[at..]).filter(|frame| self.is_frame(frame));
            self.frames.extend(frame.map(<[u8]>::to_vec));
        }
    }

    fn started(&mut self, bytes: &[u8], is_synced: bool, ends: bool) {
        let is_sure = self.framing.checksum.is_some();
        if !is_sure && !is_synced {
            return;
        }
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match self.length(rest) {
                Begun::Frame(length) if length <= rest.len() && self.is_frame(&rest[..length]) => {
                    self.frames.push(rest[..length].to_vec());
                    at += length;
                }
                // It may still become one, and nobody says that it does not.
                Begun::Perhaps if !ends => return,
                Begun::Frame(length) if length > rest.len() && !ends => return,
                _ if is_sure => at += 1,
                _ => return,
            }
        }
    }

    fn length(&self, bytes: &[u8]) -> Begun {
        let start = &self.framing.start;
        if bytes.len() < start.len() {
            return if start.starts_with(bytes) { Begun::Perhaps } else { Begun::Nothing };
        }
        if !bytes.starts_with(start) {
            return Begun::Nothing;
        }
        let sum = self.framing.checksum.map_or(0, |checksum| checksum.bytes());
        let (length, least) = match self.framing.end {
            FrameEnd::LengthField(field) => {
                let end = field.at + field.bytes;
                let Some(digits) = bytes.get(field.at..end) else { return Begun::Perhaps };
                let digits: Vec<usize> = digits.iter().map(|digit| usize::from(*digit)).collect();
                let number = match (&digits[..], field.order) {
                    ([low], _) => *low,
                    ([high, low], Order::Big) | ([low, high], Order::Little) => high * 256 + low,
                    _ => unreachable!("one or two"),
                };
                (number + field.adds, end.max(start.len()))
            }
            _ => (self.framing.max_length, start.len()),
        };
        let fits = (least + sum..=self.framing.max_length).contains(&length);
        if fits { Begun::Frame(length) } else { Begun::Nothing }
    }

    fn is_frame(&self, bytes: &[u8]) -> bool {
        let Framing { start, checksum, max_length, .. } = self.framing;
        let Some(body) = bytes.strip_prefix(&start[..]).filter(|_| bytes.len() <= *max_length) else {
            return false;
        };
        let Some(checksum) = checksum else { return !bytes.is_empty() };
        let count = checksum.bytes();
        let Some(covered) = bytes.len().checked_sub(count).filter(|end| checksum.from <= *end) else {
            return false;
        };
        let mut sum = 0u8;
        for byte in &bytes[checksum.from..covered] {
            sum = if checksum.kind == ChecksumKind::Xor8 { sum ^ byte } else { sum.wrapping_add(*byte) };
        }
        let text = match checksum.encoding {
            Encoding::Binary => vec![sum],
            Encoding::Hex => format!("{sum:02x}").into_bytes(),
        };
        body.len() >= count
            && bytes[covered..].eq_ignore_ascii_case(&text)
            && (count == 2 || bytes[covered] == sum)
    }
}
