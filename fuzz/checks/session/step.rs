//! Steps, as the fuzzer's bytes spell them. Any bytes are a step, so that no mutation is lost.

pub const RECORD_BYTES: usize = 8;
pub const SEATS: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Connect,
    Publish,
    Subscribe,
    Unsubscribe,
    /// The client answers one packet as it should.
    Answer,
    /// It answers all that it has.
    AnswerAll,
    /// An acknowledgement of anything.
    Acknowledge,
    /// A PUBLISH that was not answered goes again.
    Resend,
    Ping,
    Disconnect,
    /// The network is gone.
    Cut,
    /// The next packet of the client is changed in one place.
    Mutate,
    /// Bytes as they are.
    Raw,
    Time,
    /// One visit, or all, becomes durable.
    Commit,
    CommitAll,
    Crash,
    Restart,
    /// A bridge or a device has what was passed on to it safe.
    Safe,
    Gate,
    /// A message of a bridge, a device or the gateway.
    Own,
    Access,
    Reading,
    Login,
}

/// By their letters in seeds. A byte that is no letter of these counts along the list.
pub const OPS: &[(u8, Op)] = &[
    (b'C', Op::Connect),
    (b'P', Op::Publish),
    (b'S', Op::Subscribe),
    (b'a', Op::Answer),
    (b'A', Op::AnswerAll),
    (b'U', Op::Unsubscribe),
    (b'K', Op::Acknowledge),
    (b'R', Op::Resend),
    (b'G', Op::Ping),
    (b'D', Op::Disconnect),
    (b'X', Op::Cut),
    (b'M', Op::Mutate),
    (b'B', Op::Raw),
    (b'T', Op::Time),
    (b'w', Op::Commit),
    (b'W', Op::CommitAll),
    (b'Z', Op::Crash),
    (b'H', Op::Restart),
    (b'F', Op::Safe),
    (b'g', Op::Gate),
    (b'O', Op::Own),
    (b'Y', Op::Access),
    (b'E', Op::Reading),
    (b'L', Op::Login),
];

/// Whatever makes steps finds their letters here, those of frequent ones more often.
pub const LETTERS: &[u8] = b"CCCCPPPPPPPPSSSSUaaaaaAAAKRRGDXMMBTTTTwwwWWZZHFFgOOYELL";

#[derive(Debug, Clone, Copy)]
pub struct Step {
    pub op: Op,
    pub who: usize,
    pub args: [u8; 6],
}

/// The last record of an input may be short.
pub fn record(bytes: &[u8]) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    record[..bytes.len()].copy_from_slice(bytes);
    record
}

impl Step {
    pub fn of(record: [u8; RECORD_BYTES]) -> Self {
        let [letter, who, args @ ..] = record;
        let op =
            OPS.iter().find(|(known, _)| *known == letter).unwrap_or(&OPS[usize::from(letter) % OPS.len()]);
        Self { op: op.1, who: usize::from(who) % SEATS, args }
    }
}
