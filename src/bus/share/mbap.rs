//! Frames of Modbus TCP as a server has them: requests cut out of what came in, answers put together. Pure.

use crate::bus::framing::mbap_frame;
use crate::device::request::LineError;

/// Transaction, protocol, length, unit.
const HEADER_BYTES: usize = 7;
/// Modbus Messaging on TCP/IP 4.1: with its header.
pub(crate) const FRAME_BYTES_MAX: usize = 260;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) transaction: u16,
    pub(crate) unit: u8,
    pub(crate) pdu: Vec<u8>,
}

impl Frame {
    /// The first whole one, taken from the front. The error: this is no Modbus TCP, and nothing behind it can be found.
    pub(crate) fn cut(bytes: &mut Vec<u8>) -> Result<Option<Self>, LineError> {
        let Some(length) = mbap_frame(bytes)? else { return Ok(None) };
        let frame: Vec<u8> = bytes.drain(..length).collect();
        let [a, b, _, _, _, _, unit, ref pdu @ ..] = frame[..] else { return Err(LineError::Garbled) };
        Ok(Some(Self { transaction: u16::from_be_bytes([a, b]), unit, pdu: pdu.to_vec() }))
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.pdu.len());
        bytes.extend(self.transaction.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(u16::try_from(self.pdu.len() + 1).unwrap_or(u16::MAX).to_be_bytes());
        bytes.push(self.unit);
        bytes.extend(&self.pdu);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::Frame;
    use crate::device::request::LineError;

    #[test]
    fn frames_are_cut_wherever_they_are_split() {
        let frames = [
            Frame { transaction: 0x1501, unit: 9, pdu: vec![3, 0, 4, 0, 1] },
            Frame { transaction: 2, unit: 0, pdu: vec![17] },
        ];
        let all: Vec<u8> = frames.iter().flat_map(Frame::bytes).collect();
        assert_eq!(all[..12], [0x15, 1, 0, 0, 0, 6, 9, 3, 0, 4, 0, 1]);
        for split in 0..=all.len() {
            let (mut bytes, mut found) = (all[..split].to_vec(), Vec::new());
            while let Some(frame) = Frame::cut(&mut bytes).expect("Modbus TCP") {
                found.push(frame);
            }
            bytes.extend(&all[split..]);
            while let Some(frame) = Frame::cut(&mut bytes).expect("Modbus TCP") {
                found.push(frame);
            }
            assert!(found == frames && bytes.is_empty(), "{split}");
        }
    }

    #[test]
    fn what_is_no_modbus_tcp_ends_it() {
        for mut bytes in [vec![0, 1, 0, 7, 0, 6], vec![0, 1, 0, 0, 0, 1, 9], b"GET / HTTP/1.1".to_vec()] {
            assert_eq!(Frame::cut(&mut bytes), Err(LineError::Garbled));
        }
    }
}
