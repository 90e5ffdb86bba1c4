//! Whether a server ends its connections for a message that it was sent: MQTT 3.1.1 has no word for what a server does not
//! take, and many of 5.0 say none. Counts ends of connections, and refusals that say nothing; never sends, drops or waits.
//!
//! A link that breaks by itself must never look like that. So once connections have ended in a row without a single
//! acknowledgement, the message that goes first is tried alone, behind two pings that were answered: a
//! link that loses a part p of all round trips shows this with the probability (1 - p)³ p, which is at most 0.11 whatever
//! p is. What it takes in a row to condemn a message has one of 2 in 100 million; each try that ends before takes one back.
//! A server that names the message as the reason is believed at once: no link that breaks sends a DISCONNECT.

use std::collections::VecDeque;

use crate::base::time::{Duration, Instant};
use crate::bridge::fate::{self, Blame, Cause};
use crate::bridge::fault::LinkFault;
use crate::mqtt::message::Message;
use crate::mqtt::qos::PacketId;
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
/// The same where the server ended connections for this topic before.
const ENDS_OF_TOPIC: u8 = 2;
/// Topics that are known so.
const TOPICS_MAX: usize = 64;
/// How long messages of such a topic are set aside without a try, where they are no smaller: permissions change.
pub(super) const TOPIC_REST: Duration = Duration::from_secs(3600);
/// Connections in a row that are left for a refusal which does not say whether it is for ever.
const DOUBTED_MAX: u8 = 2;

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
    cause: Cause,
    until: Instant,
}

/// What the end of a connection says.
#[derive(Debug)]
pub(super) enum Verdict {
    Nothing,
    /// Not QoS 2, as it seems.
    LowerQos,
    /// The message, whatever its QoS, after so many connections that ended behind it alone.
    SetAside {
        suspect: Suspect,
        cause: Cause,
        ends: u8,
    },
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
    /// So many more go one at a time: what had no answer when it began, since a server that closes may lose answers, too.
    alone: usize,
    /// Which message was tried last, and how many connections ended on it.
    ends: (Seq, u8),
    topics: VecDeque<Condemned>,
    /// Connections in a row that were left for a doubtful refusal.
    doubted: u8,
}

impl Suspicion {
    /// The link is up. Whether messages go one at a time, behind pings.
    pub(super) fn begin(&mut self, some_wait: bool) -> bool {
        if !some_wait {
            (self.fruitless, self.alone) = (0, 0);
        }
        let tries = self.fruitless >= FRUITLESS_MAX;
        self.trial = if tries { Trial::Pinging(PINGS) } else { Trial::None };
        tries
    }

    /// Messages go one at a time on this connection.
    pub(super) fn is_at_work(&self) -> bool {
        !matches!(self.trial, Trial::None)
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

    /// The server acknowledged a message, or refused it. Whether messages may go together again by that.
    pub(super) fn handle_acknowledged(&mut self, others_wait: bool) -> bool {
        self.ends = (Seq(0), 0);
        self.alone = if others_wait { self.alone.saturating_sub(1) } else { 0 };
        let was_at_work = self.is_at_work();
        if was_at_work && self.alone > 0 {
            self.trial = Trial::Ready;
            return false;
        }
        (self.fruitless, self.alone, self.trial) = (0, 0, Trial::None);
        was_at_work
    }

    /// The server has no room now: what waits is tried one at a time, so that it stays in order.
    pub(super) fn handle_quota(&mut self) {
        self.fruitless = FRUITLESS_MAX;
    }

    /// The one that is on trial, which ends with that.
    pub(super) fn take_suspect(&mut self) -> Option<Suspect> {
        match std::mem::take(&mut self.trial) {
            Trial::Sent(suspect) => Some(suspect),
            Trial::None | Trial::Pinging(_) | Trial::Ready => None,
        }
    }

    /// Whether a refusal that says nothing is worth another connection. On later ones the message would be refused once
    /// more, and the others would wait.
    pub(super) fn may_doubt(&self) -> bool {
        self.doubted < DOUBTED_MAX
    }

    pub(super) fn handle_doubted(&mut self) {
        self.doubted += 1;
    }

    /// What was wrong with messages may have been put right. What goes on now goes on.
    pub(super) fn forget(&mut self) {
        *self = Self { trial: std::mem::take(&mut self.trial), ..Self::default() };
    }

    /// Topics that the server ended connections for: from which size on, why, and until when.
    pub(super) fn topics(&self) -> impl Iterator<Item = (&TopicName, usize, Cause, Instant)> {
        self.topics.iter().map(|known| (&known.topic, known.payload_bytes, known.cause, known.until))
    }

    /// What an earlier process knew.
    pub(super) fn recall(&mut self, topic: TopicName, payload_bytes: usize, cause: Cause, until: Instant) {
        self.topics.truncate(TOPICS_MAX - 1);
        self.topics.push_back(Condemned { topic, payload_bytes, cause, until });
    }

    /// Why a message is set aside without a try, if it is.
    pub(super) fn condemns(&self, message: &Message, now: Instant) -> Option<Cause> {
        let known = self.topics.iter().find(|known| known.topic == message.topic)?;
        let is_meant = message.payload.len() >= known.payload_bytes && now < known.until;
        is_meant.then_some(known.cause)
    }

    /// A connection that was up is over. `unanswered`: so many messages had no answer yet.
    pub(super) fn handle_end(&mut self, fault: &LinkFault, unanswered: usize, now: Instant) -> Verdict {
        if !matches!(fault, LinkFault::NotTaken(_)) {
            self.doubted = 0;
        }
        let blame = fate::of_end(fault);
        if blame == Blame::Nobody {
            self.trial = Trial::None;
            return Verdict::Nothing;
        }
        match std::mem::take(&mut self.trial) {
            Trial::None => {
                if unanswered > 0 {
                    let ends = if matches!(blame, Blame::Certain(_)) { FRUITLESS_MAX } else { 1 };
                    self.fruitless = self.fruitless.saturating_add(ends).min(FRUITLESS_MAX);
                    self.alone = unanswered;
                }
                Verdict::Nothing
            }
            Trial::Pinging(_) | Trial::Ready => {
                self.ends.1 = self.ends.1.saturating_sub(1);
                Verdict::Nothing
            }
            Trial::Sent(suspect) => self.judge(suspect, blame, now),
        }
    }

    fn judge(&mut self, suspect: Suspect, blame: Blame, now: Instant) -> Verdict {
        let before = if self.ends.0 == suspect.seq { self.ends.1 } else { 0 };
        let ends = before + 1;
        self.ends = (suspect.seq, ends);
        let place = self.topics.iter().position(|known| known.topic == suspect.topic);
        let (enough, cause) = match blame {
            Blame::Certain(cause) => (1, cause),
            _ if place.is_some() => (ENDS_OF_TOPIC, Cause::Closed),
            _ if suspect.may_be_qos => (ENDS_FOR_QOS, Cause::Closed),
            _ => (ENDS_FOR_MESSAGE, Cause::Closed),
        };
        if ends < enough {
            return Verdict::Nothing;
        }
        self.ends.1 = 0;
        if cause == Cause::Closed && suspect.may_be_qos {
            return Verdict::LowerQos;
        }
        let known = place.and_then(|place| self.topics.remove(place));
        let payload_bytes = known.map_or(usize::MAX, |known| known.payload_bytes).min(suspect.payload_bytes);
        self.topics.truncate(TOPICS_MAX - 1);
        let topic = suspect.topic.clone();
        self.topics.push_front(Condemned { topic, payload_bytes, cause, until: now + TOPIC_REST });
        // The next one shows whether it was the only one.
        self.alone = self.alone.saturating_sub(1).max(1);
        Verdict::SetAside { suspect, cause, ends }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        DOUBTED_MAX, ENDS_FOR_MESSAGE, ENDS_FOR_QOS, ENDS_OF_TOPIC, PINGS, Suspect, Suspicion, TOPIC_REST,
        Verdict,
    };
    use crate::base::time::{Duration, Instant, Now, Timestamp};
    use crate::bridge::fate::Cause;
    use crate::bridge::fault::LinkFault;
    use crate::mqtt::message::{Message, Origin};
    use crate::mqtt::qos::{PacketId, QoS};
    use crate::mqtt::reason::ReasonCode;
    use crate::mqtt::topic::TopicName;
    use crate::store::record::Seq;

    fn topic() -> TopicName {
        TopicName::new("x/no").expect("a valid topic")
    }

    fn message(bytes: usize) -> Message {
        let now = Now { instant: Instant::ORIGIN, wall: Timestamp::from_millis(0) };
        Message::new(topic(), vec![0; bytes], QoS::AtLeastOnce, Origin::Gateway, now)
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
            if suspicion.begin(true) {
                pings(suspicion);
            }
            suspicion.handle_sent(|| suspect(may_be_qos));
            match suspicion.handle_end(fault, 1, Instant::ORIGIN) {
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
        assert!(matches!(verdict, Verdict::SetAside { cause: Cause::Closed, ends: ENDS_FOR_MESSAGE, .. }));
        assert_eq!(ends, ENDS_FOR_MESSAGE);
        let (now, later) = (Instant::ORIGIN, Instant::ORIGIN + TOPIC_REST);
        for bytes in [10, 11] {
            assert_eq!(suspicion.condemns(&message(bytes), now), Some(Cause::Closed));
        }
        assert_eq!(suspicion.condemns(&message(9), now), None, "it may have been its size");
        assert_eq!(suspicion.condemns(&message(10), later), None, "permissions change");
        assert_eq!(ends_until_verdict(&mut suspicion, false, &LinkFault::Closed).0, ENDS_OF_TOPIC);
        suspicion.forget();
        assert_eq!(suspicion.condemns(&message(10), now), None, "somebody put it right");
        let said = LinkFault::ServerLeft(ReasonCode::TopicNameInvalid);
        let (ends, verdict) = ends_until_verdict(&mut Suspicion::default(), true, &said);
        assert!(matches!(verdict, Verdict::SetAside { cause: Cause::TopicNameInvalid, .. }));
        assert_eq!(ends, 2, "among others, and alone");
    }

    #[test]
    fn all_that_had_no_answer_goes_one_at_a_time() {
        let mut suspicion = Suspicion::default();
        let said = LinkFault::ServerLeft(ReasonCode::PacketTooLarge);
        assert!(!suspicion.begin(true));
        suspicion.handle_end(&said, 3, Instant::ORIGIN);
        assert!(suspicion.begin(true));
        pings(&mut suspicion);
        for is_last in [false, false, true] {
            suspicion.handle_sent(|| suspect(false));
            assert_eq!(suspicion.handle_acknowledged(true), is_last);
        }
        suspicion.handle_end(&said, 3, Instant::ORIGIN);
        assert!(!suspicion.begin(false), "nothing waits any more");
    }

    #[test]
    fn refusals_that_say_nothing_are_doubted_on_some_connections_in_a_row() {
        let mut suspicion = Suspicion::default();
        for _ in 0..DOUBTED_MAX {
            assert!(suspicion.may_doubt());
            suspicion.handle_doubted();
            suspicion.handle_end(&LinkFault::NotTaken(ReasonCode::UnspecifiedError), 0, Instant::ORIGIN);
        }
        assert!(!suspicion.may_doubt());
        suspicion.handle_end(&LinkFault::Closed, 0, Instant::ORIGIN);
        assert!(suspicion.may_doubt());
    }

    #[test]
    fn an_acknowledgement_ends_all_doubt_and_a_busy_server_raises_none() {
        let mut suspicion = Suspicion::default();
        for _ in 0..1000 {
            suspicion.begin(true);
            let busy = LinkFault::ServerLeft(ReasonCode::ServerBusy);
            assert!(matches!(suspicion.handle_end(&busy, 1, Instant::ORIGIN), Verdict::Nothing));
        }
        assert!(!suspicion.begin(true));
        for _ in 0..1000 {
            suspicion.begin(true);
            suspicion.handle_acknowledged(true);
            assert!(matches!(suspicion.handle_end(&LinkFault::Closed, 1, Instant::ORIGIN), Verdict::Nothing));
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
                let tried = suspicion.begin(true);
                let lost_early =
                    tried && (0..PINGS).any(|_| breaks() || suspicion.handle_pingresp().is_none());
                if !lost_early {
                    suspicion.handle_sent(|| suspect(false));
                    if !breaks() {
                        suspicion.handle_acknowledged(true);
                    }
                }
                let verdict = suspicion.handle_end(&LinkFault::Closed, 1, now);
                assert!(matches!(verdict, Verdict::Nothing), "at {percent} %: {verdict:?}");
            }
        }
    }
}
