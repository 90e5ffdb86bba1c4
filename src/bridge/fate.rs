//! What a refusal, or the end of a connection, means for a message: that it can never be delivered, that it is tried again,
//! or nothing. And how a dead letter tells its fate. Decides nothing about links and buffers.

use std::io::ErrorKind;
use std::sync::Arc;

use crate::base::time::Now;
use crate::bridge::fault::LinkFault;
use crate::bridge::status::Loss;
use crate::mqtt::message::{Message, MessageProperties};
use crate::mqtt::reason::ReasonCode;

/// The user property that a dead letter has behind its own. It never leaves.
const FATE: &str = "tidegate-dead";
/// What is kept of the words of a server.
const WORDS_BYTES_MAX: usize = 256;
/// In the place of a time that nobody knew.
const NO_TIME: &str = "-";

/// Why a message can never be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    NotAuthorized,
    TopicNameInvalid,
    PayloadFormatInvalid,
    /// For what the server said that it takes, or it said so afterwards.
    TooLarge,
    /// No rule carries it, or the server has no such topic.
    Unroutable,
    /// Refused again and again, and not told why.
    Refused,
    /// The server closed the connection behind it, again and again.
    Closed,
}

pub const CAUSES: [Cause; 7] = [
    Cause::NotAuthorized,
    Cause::TopicNameInvalid,
    Cause::PayloadFormatInvalid,
    Cause::TooLarge,
    Cause::Unroutable,
    Cause::Refused,
    Cause::Closed,
];

impl Cause {
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotAuthorized => "not_authorized",
            Self::TopicNameInvalid => "topic_name_invalid",
            Self::PayloadFormatInvalid => "payload_format_invalid",
            Self::TooLarge => "too_large",
            Self::Unroutable => "unroutable",
            Self::Refused => "refused",
            Self::Closed => "closed",
        }
    }

    /// What the bridge itself finds before it sends.
    pub(super) fn of_loss(loss: Loss) -> Self {
        match loss {
            Loss::TooLarge => Self::TooLarge,
            Loss::Unroutable
            | Loss::Rejected
            | Loss::AtMostOnce
            | Loss::ReceivedUnroutable
            | Loss::ReceivedRefused
            | Loss::ReceivedExpired => Self::Unroutable,
        }
    }
}

/// What a PUBACK or PUBREC of 0x80 and above means for its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The same message would be refused again.
    Never(Cause),
    /// The server has no room now: it is sent again on another connection, after a back-off, for as long as it takes.
    Later,
    /// The server does not say whether it would take it another time: it is tried some times, each under another
    /// identifier, then it counts as `Refused`.
    Doubtful,
}

/// MQTT 5 3.4.2.1 and 3.5.2.1 name seven codes; no other comes through the decoder. What they say of each, and what it means:
///
/// | code | the standard | verdict |
/// |---|---|---|
/// | 0x80 unspecified error | the receiver does not want to say why, or no other code fits | doubtful |
/// | 0x83 implementation specific error | the PUBLISH is valid, and the receiver does not take it | doubtful |
/// | 0x87 not authorized | the PUBLISH is not authorized | never: rights change by a person's hand, who may retry it then |
/// | 0x90 topic name invalid | well formed, and not accepted by this server | never |
/// | 0x91 packet identifier in use | perhaps the two have not the same session state | doubtful |
/// | 0x97 quota exceeded | a limit of the server, or of its administrator, was exceeded | later |
/// | 0x99 payload format invalid | the payload is not what its indicator says | never |
pub(super) const fn of_answer(reason: ReasonCode) -> Verdict {
    match reason {
        ReasonCode::NotAuthorized => Verdict::Never(Cause::NotAuthorized),
        ReasonCode::TopicNameInvalid => Verdict::Never(Cause::TopicNameInvalid),
        ReasonCode::PayloadFormatInvalid => Verdict::Never(Cause::PayloadFormatInvalid),
        ReasonCode::QuotaExceeded => Verdict::Later,
        _ => Verdict::Doubtful,
    }
}

/// Whether a connection ended for the message that was sent last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blame {
    /// What ended it has nothing to do with any message.
    Nobody,
    /// The server said nothing, or nothing of use: it shows by doing it again.
    Perhaps,
    /// The server said that a packet of ours was the reason, and why the next time would be no better.
    Certain(Cause),
}

/// MQTT 5 3.14.2.1 for what a server says with DISCONNECT; a 3.1.1 server can only close the transport. Of the codes, three
/// name a fault of a message that it will always have (0x90, 0x95, 0x99), and most are about the connection, the
/// session or the moment (0x88-0x8F, 0x93, 0x96-0x98, 0x9C-0xA2). The rest may be the answer to a PUBLISH or not: 0x87 also
/// ends what a token no longer allows; 0x9A and 0x9B come where CONNACK did not say what is not supported, since what it says
/// is obeyed.
pub(super) fn of_end(fault: &LinkFault) -> Blame {
    match fault {
        LinkFault::ServerLeft(reason) => match reason {
            ReasonCode::PacketTooLarge => Blame::Certain(Cause::TooLarge),
            ReasonCode::TopicNameInvalid => Blame::Certain(Cause::TopicNameInvalid),
            ReasonCode::PayloadFormatInvalid => Blame::Certain(Cause::PayloadFormatInvalid),
            ReasonCode::UnspecifiedError
            | ReasonCode::MalformedPacket
            | ReasonCode::ProtocolError
            | ReasonCode::ImplementationSpecificError
            | ReasonCode::NotAuthorized
            | ReasonCode::TopicAliasInvalid
            | ReasonCode::RetainNotSupported
            | ReasonCode::QosNotSupported => Blame::Perhaps,
            _ => Blame::Nobody,
        },
        // What the peer's machine does; a network that is gone is silent, or unreachable.
        LinkFault::Closed
        | LinkFault::Transport(
            ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe,
        ) => Blame::Perhaps,
        _ => Blame::Nobody,
    }
}

/// When and why a message died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fate {
    /// None: the clock was not set.
    pub time: Option<String>,
    /// The name of a [`Cause`].
    pub reason: String,
    /// In words: the reason code, and what the server said to it.
    pub detail: String,
}

/// The message as it was, with its fate behind its properties: so it stands in a spool like any other.
pub(super) fn stamped(message: &Message, cause: Cause, detail: &str, now: Now) -> Message {
    let mut message = message.clone();
    let time = if now.wall.is_doubtful() { NO_TIME.to_owned() } else { now.wall.to_string() };
    let ends = detail.char_indices().map(|(at, c)| at + c.len_utf8());
    let end = ends.take_while(|end| *end <= WORDS_BYTES_MAX).last().unwrap_or(0);
    let fate = format!("{time} {} {}", cause.name(), &detail[..end]);
    message.properties.get_or_insert_default().user_properties.push((FATE.into(), fate.into()));
    message
}

/// The message as it was, and its fate. None: it has none.
pub fn unstamped(message: &Arc<Message>) -> (Arc<Message>, Option<Fate>) {
    let mut plain = Message::clone(message);
    let last = plain.properties.as_deref_mut().and_then(|properties| properties.user_properties.pop());
    let Some((_, fate)) = last.filter(|(name, _)| &**name == FATE) else { return (message.clone(), None) };
    if plain.properties.as_deref().is_some_and(MessageProperties::is_empty) {
        plain.properties = None;
    }
    let mut parts = fate.splitn(3, ' ').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    let (time, reason, detail) = (next(), next(), next());
    (plain.into(), Some(Fate { time: Some(time).filter(|time| time != NO_TIME), reason, detail }))
}

/// What a reason code says, and the server to it.
pub(super) fn words(reason: ReasonCode, said: Option<&str>) -> String {
    match said {
        Some(said) if !said.is_empty() => format!("{reason}: {said}"),
        _ => reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{
        Blame, CAUSES, Cause, Verdict, WORDS_BYTES_MAX, of_answer, of_end, stamped, unstamped, words,
    };
    use crate::base::time::{Doubt, Instant, Now, Timestamp};
    use crate::bridge::fault::LinkFault;
    use crate::mqtt::message::{Message, MessageProperties, Origin};
    use crate::mqtt::qos::QoS;
    use crate::mqtt::reason::ReasonCode;
    use crate::mqtt::topic::TopicName;

    const NOW: Now =
        Now { instant: Instant::from_nanos(1 << 60), wall: Timestamp::from_millis(1_795_255_200_123) };

    fn message() -> Message {
        Message::new(TopicName::new("a/b").unwrap(), "x", QoS::ExactlyOnce, Origin::Gateway, NOW)
    }

    #[test]
    fn each_answer_to_a_publish_has_its_verdict() {
        let cases = [
            (ReasonCode::UnspecifiedError, Verdict::Doubtful),
            (ReasonCode::ImplementationSpecificError, Verdict::Doubtful),
            (ReasonCode::NotAuthorized, Verdict::Never(Cause::NotAuthorized)),
            (ReasonCode::TopicNameInvalid, Verdict::Never(Cause::TopicNameInvalid)),
            (ReasonCode::PacketIdentifierInUse, Verdict::Doubtful),
            (ReasonCode::QuotaExceeded, Verdict::Later),
            (ReasonCode::PayloadFormatInvalid, Verdict::Never(Cause::PayloadFormatInvalid)),
        ];
        for (reason, verdict) in cases {
            assert_eq!(of_answer(reason), verdict, "{reason}");
        }
    }

    #[test]
    fn only_ends_that_a_message_can_bring_about_are_blamed_on_one() {
        use std::io::ErrorKind;
        let left = LinkFault::ServerLeft;
        let cases = [
            (left(ReasonCode::PacketTooLarge), Blame::Certain(Cause::TooLarge)),
            (left(ReasonCode::PayloadFormatInvalid), Blame::Certain(Cause::PayloadFormatInvalid)),
            (left(ReasonCode::TopicNameInvalid), Blame::Certain(Cause::TopicNameInvalid)),
            (left(ReasonCode::NotAuthorized), Blame::Perhaps),
            (left(ReasonCode::QuotaExceeded), Blame::Nobody),
            (left(ReasonCode::MessageRateTooHigh), Blame::Nobody),
            (left(ReasonCode::ReceiveMaximumExceeded), Blame::Nobody),
            (left(ReasonCode::ServerShuttingDown), Blame::Nobody),
            (LinkFault::Closed, Blame::Perhaps),
            (LinkFault::Transport(ErrorKind::ConnectionReset), Blame::Perhaps),
            (LinkFault::Transport(ErrorKind::TimedOut), Blame::Nobody),
            (LinkFault::NoPingresp, Blame::Nobody),
            (LinkFault::QuotaExceeded, Blame::Nobody),
        ];
        for (fault, blame) in cases {
            assert_eq!(of_end(&fault), blame, "{fault}");
        }
    }

    #[test]
    fn a_message_comes_back_as_it_was_with_its_fate() {
        let properties = MessageProperties {
            user_properties: vec![("tidegate-dead".into(), "not ours".into())],
            ..MessageProperties::default()
        };
        for properties in [None, Some(Box::new(properties))] {
            for cause in CAUSES {
                let plain = Message { properties: properties.clone(), ..message() };
                let detail = words(ReasonCode::NotAuthorized, Some("no such right"));
                let dead = Arc::new(stamped(&plain, cause, &detail, NOW));
                let (found, fate) = unstamped(&dead);
                let fate = fate.unwrap();
                assert_eq!((*found).clone(), plain);
                assert_eq!(fate.time.as_deref(), Some("2026-11-21T10:00:00.123Z"));
                assert_eq!((&*fate.reason, &*fate.detail), (cause.name(), "not authorized: no such right"));
            }
        }
        let plain = Arc::new(message());
        assert_eq!(unstamped(&plain), (Arc::clone(&plain), None));
    }

    #[test]
    fn words_are_bounded_and_no_time_is_made_up() {
        let now = Now { wall: NOW.wall.with_doubt(Doubt::Unset), ..NOW };
        let dead = stamped(&message(), Cause::Refused, &"ü".repeat(1000), now);
        let fate = unstamped(&Arc::new(dead)).1.unwrap();
        assert_eq!((fate.time, fate.detail.len()), (None, WORDS_BYTES_MAX));
    }
}
