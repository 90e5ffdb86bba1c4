//! Whether a server ends its connections for a message that it was sent: MQTT 3.1.1 has no word for what a server does not
//! take, and many of 5.0 say none. Counts ends of connections; never sends, drops or waits.
//!
//! A link that breaks by itself must never look like that. So once connections have ended in a row without a single
//! acknowledgement, the message that goes first is tried alone, behind two pings that were answered: a
//! link that loses a part p of all round trips shows this with the probability (1 - p)³ p, which is at most 0.11 whatever
//! p is. What it takes in a row to condemn a message has one of 2 in 100 million; each try that ends before takes one back.

use std::collections::VecDeque;
use std::io::ErrorKind;

use crate::base::time::{Duration, Instant};
use crate::bridge::fault::LinkFault;
use crate::mqtt::qos::PacketId;
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::topic::TopicName;
use crate::store::record::Seq;

/// Connections that end so in a row before a message is tried alone.
const FRUITLESS_MAX: u8 = 2;
/// Pings that are answered before a suspect leaves.
const PINGS: u8 = 2;
/// What it takes to believe that a server takes no QoS 2. It costs no message, and is taken back where QoS 1 fares no better.
const ENDS_FOR_QOS: u8 = 4;
/// What it takes to set a message aside.
const ENDS_FOR_MESSAGE: u8 = 8;
/// The same where the server says what it does not like, or ended connections for this topic before.
const ENDS_WITH_CAUSE: u8 = 2;
/// Topics that are known so.
const TOPICS_MAX: usize = 64;
/// How long messages of such a topic are set aside without a try, where they are no smaller: permissions change.
const TOPIC_REST: Duration = Duration::from_secs(3600);

/// A message that is tried alone.
#[derive(Debug, Clone)]
pub(super) struct Suspect {
    pub(super) seq: Seq,
    pub(super) packet_id: PacketId,
    pub(super) topic: TopicName,
    pub(super) payload_bytes: usize,
    /// It may be its QoS alone that is not taken.
    pub(super) may_be_qos: bool,
}

/// A topic that the server ended connections for.
#[derive(Debug)]
struct Condemned {
    topic: TopicName,
    /// Of the smallest payload that was set aside: it may be the size alone.
    payload_bytes: usize,
    until: Instant,
}

/// What the end of a connection says.
#[derive(Debug)]
pub(super) enum Verdict {
    Nothing,
    /// Not QoS 2, as it seems.
    LowerQos,
    /// The message, whatever its QoS.
    SetAside(Suspect),
}

/// The connection that stands.
#[derive(Debug, Clone, Default)]
enum Trial {
    #[default]
    None,
    /// So many pings are still to be answered.
    Pinging(u8),
    /// The next message that leaves is the one.
    Ready,
    Sent(Suspect),
}

#[derive(Debug, Default)]
pub(super) struct Suspicion {
    fruitless: u8,
    trial: Trial,
    /// Which message was tried last, and how many connections ended on it.
    ends: (Seq, u8),
    topics: VecDeque<Condemned>,
}

impl Suspicion {
    /// The link is up. Whether messages go one at a time, behind pings.
    pub(super) fn begin(&mut self) -> bool {
        let tries = self.fruitless >= FRUITLESS_MAX;
        self.trial = if tries { Trial::Pinging(PINGS) } else { Trial::None };
        tries
    }

    /// Some: a ping of a trial was answered; whether it takes another one.
    pub(super) fn handle_pingresp(&mut self) -> Option<bool> {
        let Trial::Pinging(left) = &mut self.trial else { return None };
        *left -= 1;
        let another = *left > 0;
        if !another {
            self.trial = Trial::Ready;
        }
        Some(another)
    }

    pub(super) fn handle_sent(&mut self, suspect: impl FnOnce() -> Suspect) {
        if matches!(self.trial, Trial::Ready) {
            self.trial = Trial::Sent(suspect());
        }
    }

    /// The server acknowledged a message. Whether a trial is over by that.
    pub(super) fn handle_acknowledged(&mut self) -> bool {
        self.fruitless = 0;
        self.ends = (Seq(0), 0);
        !matches!(std::mem::take(&mut self.trial), Trial::None)
    }

    /// The server has no room now: what waits is tried one at a time, so that it stays in order.
    pub(super) fn handle_quota(&mut self) {
        self.fruitless = FRUITLESS_MAX;
    }

    /// Whether a message is set aside without a try.
    pub(super) fn condemns(&self, topic: &TopicName, payload_bytes: usize, now: Instant) -> bool {
        let known = self.topics.iter().find(|known| known.topic == *topic);
        known.is_some_and(|known| payload_bytes >= known.payload_bytes && now < known.until)
    }

    /// The connection is over. `unanswered`: some message had no answer yet.
    pub(super) fn handle_end(&mut self, fault: &LinkFault, unanswered: bool, now: Instant) -> Verdict {
        let Some(cause) = cause_of(fault) else {
            self.trial = Trial::None;
            return Verdict::Nothing;
        };
        match std::mem::take(&mut self.trial) {
            Trial::None => {
                self.fruitless = self.fruitless.saturating_add(u8::from(unanswered)).min(FRUITLESS_MAX);
                Verdict::Nothing
            }
            Trial::Pinging(_) | Trial::Ready => {
                self.ends.1 = self.ends.1.saturating_sub(1);
                Verdict::Nothing
            }
            Trial::Sent(suspect) => self.judge(suspect, cause, now),
        }
    }

    fn judge(&mut self, suspect: Suspect, cause: Cause, now: Instant) -> Verdict {
        let before = if self.ends.0 == suspect.seq { self.ends.1 } else { 0 };
        self.ends = (suspect.seq, before + 1);
        let place = self.topics.iter().position(|known| known.topic == suspect.topic);
        let enough = match cause {
            Cause::Message => ENDS_WITH_CAUSE,
            Cause::Anything if place.is_some() => ENDS_WITH_CAUSE,
            Cause::Anything if suspect.may_be_qos => ENDS_FOR_QOS,
            Cause::Anything => ENDS_FOR_MESSAGE,
        };
        if self.ends.1 < enough {
            return Verdict::Nothing;
        }
        self.ends.1 = 0;
        if cause == Cause::Anything && suspect.may_be_qos {
            return Verdict::LowerQos;
        }
        let known = place.and_then(|place| self.topics.remove(place));
        let payload_bytes = known.map_or(usize::MAX, |known| known.payload_bytes).min(suspect.payload_bytes);
        self.topics.truncate(TOPICS_MAX - 1);
        let topic = suspect.topic.clone();
        self.topics.push_front(Condemned { topic, payload_bytes, until: now + TOPIC_REST });
        Verdict::SetAside(suspect)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// The server says that it is the message.
    Message,
    /// It may be.
    Anything,
}

/// None: what ended the connection has nothing to do with messages.
fn cause_of(fault: &LinkFault) -> Option<Cause> {
    match fault {
        LinkFault::Closed
        | LinkFault::Transport(
            ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe,
        ) => Some(Cause::Anything),
        LinkFault::ServerLeft(reason) => match reason {
            ReasonCode::TopicNameInvalid | ReasonCode::PacketTooLarge | ReasonCode::PayloadFormatInvalid => {
                Some(Cause::Message)
            }
            ReasonCode::UnspecifiedError
            | ReasonCode::MalformedPacket
            | ReasonCode::ProtocolError
            | ReasonCode::ImplementationSpecificError
            | ReasonCode::NotAuthorized
            | ReasonCode::QosNotSupported
            | ReasonCode::RetainNotSupported => Some(Cause::Anything),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{ENDS_FOR_MESSAGE, ENDS_FOR_QOS, PINGS, Suspect, Suspicion, TOPIC_REST, Verdict};
    use crate::base::time::{Duration, Instant};
    use crate::bridge::fault::LinkFault;
    use crate::mqtt::qos::PacketId;
    use crate::mqtt::reason::ReasonCode;
    use crate::mqtt::topic::TopicName;
    use crate::store::record::Seq;

    fn topic() -> TopicName {
        TopicName::new("x/no").expect("a valid topic")
    }

    fn suspect(may_be_qos: bool) -> Suspect {
        let packet_id = PacketId::new(1).expect("not zero");
        Suspect { seq: Seq(7), packet_id, topic: topic(), payload_bytes: 10, may_be_qos }
    }

    fn pings(suspicion: &mut Suspicion) {
        for left in (0..PINGS).rev() {
            assert_eq!(suspicion.handle_pingresp(), Some(left > 0));
        }
    }

    /// Connections that end on the message, until something is known.
    fn ends_until_verdict(suspicion: &mut Suspicion, may_be_qos: bool, fault: &LinkFault) -> (u8, Verdict) {
        for ends in 1..=100 {
            if suspicion.begin() {
                pings(suspicion);
            }
            suspicion.handle_sent(|| suspect(may_be_qos));
            match suspicion.handle_end(fault, true, Instant::ORIGIN) {
                Verdict::Nothing => {}
                verdict => return (ends, verdict),
            }
        }
        panic!("no verdict");
    }

    #[test]
    fn a_message_that_ends_every_connection_is_found_and_its_topic_remembered() {
        let mut suspicion = Suspicion::default();
        let (ends, verdict) = ends_until_verdict(&mut suspicion, true, &LinkFault::Closed);
        assert!(matches!(verdict, Verdict::LowerQos));
        assert_eq!(ends, 2 + ENDS_FOR_QOS);
        let (ends, verdict) = ends_until_verdict(&mut suspicion, false, &LinkFault::Closed);
        assert!(matches!(verdict, Verdict::SetAside(_)));
        assert_eq!(ends, ENDS_FOR_MESSAGE);
        let (now, later) = (Instant::ORIGIN, Instant::ORIGIN + TOPIC_REST);
        assert!(suspicion.condemns(&topic(), 10, now) && suspicion.condemns(&topic(), 11, now));
        assert!(!suspicion.condemns(&topic(), 9, now), "it may have been its size");
        assert!(!suspicion.condemns(&topic(), 10, later), "permissions change");
        assert_eq!(ends_until_verdict(&mut suspicion, false, &LinkFault::Closed).0, 2);
        let said = LinkFault::ServerLeft(ReasonCode::TopicNameInvalid);
        assert_eq!(ends_until_verdict(&mut Suspicion::default(), true, &said).0, 4);
    }

    #[test]
    fn an_acknowledgement_ends_all_doubt_and_a_busy_server_raises_none() {
        let mut suspicion = Suspicion::default();
        for _ in 0..1000 {
            suspicion.begin();
            let busy = LinkFault::ServerLeft(ReasonCode::ServerBusy);
            assert!(matches!(suspicion.handle_end(&busy, true, Instant::ORIGIN), Verdict::Nothing));
        }
        assert!(!suspicion.begin());
        for _ in 0..1000 {
            suspicion.begin();
            suspicion.handle_acknowledged();
            assert!(matches!(
                suspicion.handle_end(&LinkFault::Closed, true, Instant::ORIGIN),
                Verdict::Nothing
            ));
        }
    }

    /// Each round trip is lost with a probability of its own, and the connection with it, for years.
    #[test]
    fn no_link_that_breaks_by_itself_condemns_a_message() {
        let mut rng = fastrand::Rng::with_seed(7);
        for percent in [5, 25, 50, 90, 99] {
            let mut suspicion = Suspicion::default();
            let mut now = Instant::ORIGIN;
            for _ in 0..300_000 {
                now = now + Duration::from_secs(60);
                let mut breaks = || rng.u8(0..100) < percent;
                if breaks() {
                    continue;
                }
                let tried = suspicion.begin();
                let lost_early =
                    tried && (0..PINGS).any(|_| breaks() || suspicion.handle_pingresp().is_none());
                if !lost_early {
                    suspicion.handle_sent(|| suspect(false));
                    if !breaks() {
                        suspicion.handle_acknowledged();
                    }
                }
                let verdict = suspicion.handle_end(&LinkFault::Closed, true, now);
                assert!(matches!(verdict, Verdict::Nothing), "at {percent} %: {verdict:?}");
            }
        }
    }
}
