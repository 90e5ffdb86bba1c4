//! Payloads on the uplink as Zstandard frames (RFC 8878), told by their content type: `application/zstd`, or what it was
//! before with `+zstd` behind it. Bounded both ways; never changes anything else of a message.

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use ruzstd::decoding::StreamingDecoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use crate::bridge::link::RECEIVE_PACKET_BYTES_MAX;
use crate::mqtt::message::MessageProperties;

/// A frame's head costs more than a shorter payload saves.
const PAYLOAD_BYTES_MIN: usize = 128;
const CONTENT_TYPE: &str = "application/zstd";
/// RFC 8878, 7.2: the structured syntax suffix.
const SUFFIX: &str = "+zstd";

/// The payload and its content type as they are to leave; None where that would save nothing.
pub(super) fn compress(payload: &Bytes, properties: Option<&MessageProperties>) -> Option<(Bytes, Arc<str>)> {
    let before = properties.and_then(|properties| properties.content_type.as_deref());
    if payload.len() < PAYLOAD_BYTES_MIN || before.is_some_and(is_compressed) {
        return None;
    }
    let content_type: Arc<str> = match before {
        Some(before) => format!("{before}{SUFFIX}").into(),
        None => CONTENT_TYPE.into(),
    };
    let frame = compress_to_vec(&payload[..], CompressionLevel::Fastest);
    let grown = content_type.len() - before.map_or(0, str::len);
    (frame.len() + grown < payload.len()).then(|| (frame.into(), content_type))
}

/// What `compress` made of a message; None where it is something else, or larger than a packet may be.
pub(super) fn decompress(
    payload: &Bytes,
    properties: Option<&MessageProperties>,
) -> Option<(Bytes, Option<Arc<str>>)> {
    let content_type = properties?.content_type.as_deref().filter(|kind| is_compressed(kind))?;
    let mut source = &payload[..];
    let decoder = StreamingDecoder::new(&mut source).ok()?;
    let bytes_max = u64::from(RECEIVE_PACKET_BYTES_MAX);
    let mut plain = Vec::new();
    let count = decoder.take(bytes_max + 1).read_to_end(&mut plain).ok()?;
    let before = content_type.strip_suffix(SUFFIX).map(Arc::from);
    (count as u64 <= bytes_max).then(|| (plain.into(), before))
}

fn is_compressed(content_type: &str) -> bool {
    content_type == CONTENT_TYPE || content_type.ends_with(SUFFIX)
}

#[cfg(test)]
mod tests {
    use super::{PAYLOAD_BYTES_MIN, compress, decompress};
    use crate::mqtt::message::MessageProperties;
    use bytes::Bytes;

    fn of_type(content_type: &str) -> MessageProperties {
        MessageProperties { content_type: Some(content_type.into()), ..MessageProperties::default() }
    }

    #[test]
    fn comes_back_as_it_was_with_its_content_type() {
        let payload = Bytes::from("{\"value\":230.1,\"unit\":\"V\"}".repeat(40));
        for before in [None, Some("application/json")] {
            let properties = before.map(of_type);
            let (frame, kind) = compress(&payload, properties.as_ref()).expect("saves something");
            assert!(frame.len() < payload.len() / 2, "{} of {}", frame.len(), payload.len());
            let (plain, after) = decompress(&frame, Some(&of_type(&kind))).expect("was compressed");
            assert_eq!((plain, after.as_deref()), (payload.clone(), before));
        }
    }

    #[test]
    fn leaves_alone_what_it_would_not_make_smaller() {
        let short = Bytes::from("x".repeat(PAYLOAD_BYTES_MIN - 1));
        let mut rng = fastrand::Rng::with_seed(1);
        let noise: Bytes = std::iter::repeat_with(|| rng.u8(..)).take(4096).collect();
        assert_eq!(compress(&short, None), None);
        assert_eq!(compress(&noise, None), None);
        let long = Bytes::from("x".repeat(4096));
        assert_eq!(compress(&long, Some(&of_type("application/zstd"))), None, "it is compressed already");
    }

    #[test]
    fn leaves_alone_what_is_no_frame() {
        let payload = Bytes::from_static(b"no frame");
        assert_eq!(decompress(&payload, Some(&of_type("application/zstd"))), None);
        let frame = compress(&Bytes::from("x".repeat(4096)), None).expect("saves something").0;
        assert_eq!(decompress(&frame, Some(&of_type("text/plain"))), None);
        assert_eq!(decompress(&frame.slice(..frame.len() / 2), Some(&of_type("application/zstd"))), None);
        assert_eq!(decompress(&frame, None), None);
    }

    #[test]
    fn a_frame_that_blows_up_is_not_taken() {
        let bomb = compress(&Bytes::from(vec![0; 17 << 20]), None).expect("saves something").0;
        assert!(bomb.len() < 1 << 16, "{}", bomb.len());
        assert_eq!(decompress(&bomb, Some(&of_type("application/zstd"))), None);
    }
}
