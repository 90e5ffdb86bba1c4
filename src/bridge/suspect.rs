//! The message behind which a server closes the connection again and again: which one it is, and that it does not hold up
//! the rest for ever. Never closes anything itself.
//!
//! Where the connection ended twice with the same message first among those that have no answer, what was unanswered is sent
//! one at a time. A ping goes before, so that a server which closes the connection for anything else does so before
//! any message can be blamed for it.

use std::collections::VecDeque;

use crate::base::time::Now;
use crate::bridge::Bridge;
use crate::bridge::effect::Effects;
use crate::bridge::fate::{self, Blame, Cause, Verdict};
use crate::bridge::fault::LinkFault;
use crate::bridge::status::LinkState;
use crate::mqtt::packet::Packet;
use crate::mqtt::packet::ack::Ack;
use crate::mqtt::qos::QoS;
use crate::mqtt::topic::TopicName;
use crate::spool::queue::Acknowledged;
use crate::store::record::Seq;

/// Connections that end with the same message first, before messages leave one at a time.
const CLOSED_TOGETHER_MAX: u8 = 2;
/// Connections that end with this message alone unanswered, before it is given up.
const CLOSED_ALONE_MAX: u8 = 5;
/// Topics of messages that were given up so: of the next one on them, one such end is enough.
const CONVICTED_MAX: usize = 16;
/// Connections in a row that are left for a refusal which does not say whether it is for ever.
const DOUBTED_MAX: u8 = 2;

#[derive(Debug, Default)]
pub(super) struct Suspicion {
    /// The first that had no answer when the connection last ended, and how often in a row.
    first: Option<Seq>,
    times: u8,
    /// So many more are to be answered before messages leave together again.
    alone: usize,
    /// The server has answered the ping of this connection.
    is_proven: bool,
    convicted: VecDeque<TopicName>,
    /// Connections in a row that were left for a doubtful refusal.
    doubted: u8,
}

impl Suspicion {
    /// Messages leave one at a time.
    pub(super) fn is_at_work(&self) -> bool {
        self.alone > 0
    }

    fn again(&mut self, seq: Seq) {
        self.times = if self.first == Some(seq) { self.times.saturating_add(1) } else { 1 };
        self.first = Some(seq);
    }

    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

impl Bridge {
    /// PUBACK or PUBREC with a reason of 0x80 or above. Err: the link is to be left, and the message sent again.
    pub(super) fn handle_refused(&mut self, ack: &Ack, now: Now, out: &mut Effects) -> Result<(), LinkFault> {
        self.liveness.handle_acknowledged(ack.packet_id, now.instant);
        let cause = match fate::of_answer(ack.reason) {
            Verdict::Later => return Err(LinkFault::QuotaExceeded),
            Verdict::Never(cause) => cause,
            Verdict::Doubtful if self.suspicion.doubted < DOUBTED_MAX => {
                if self.lanes.handle_put_back(ack.packet_id, &mut out.ledger) == Acknowledged::Unknown {
                    return Ok(());
                }
                self.suspicion.doubted += 1;
                return Err(LinkFault::NotTaken(ack.reason));
            }
            // Left once more, it would be refused once more, and the others would wait.
            Verdict::Doubtful => Cause::Refused,
        };
        let said = ack.properties.as_ref().and_then(|properties| properties.reason_string.as_deref());
        let orphan = self.lanes.take_refused(ack.packet_id, &mut out.ledger);
        self.bury(orphan, (cause, &fate::words(ack.reason, said)), now, out);
        self.handle_acquitted();
        Ok(())
    }

    /// A connection that was up ends; nothing is forgotten of it yet.
    pub(super) fn suspect(&mut self, fault: &LinkFault, now: Now, out: &mut Effects) {
        if self.phase.state() != LinkState::Up {
            return;
        }
        if !matches!(fault, LinkFault::NotTaken(_)) {
            self.suspicion.doubted = 0;
        }
        let blame = fate::of_end(fault);
        let Some((packet_id, seq)) = self.lanes.first_unanswered().filter(|_| blame != Blame::Nobody) else {
            return;
        };
        let unanswered = self.lanes.unanswered();
        if !self.suspicion.is_at_work() {
            self.suspicion.again(seq);
            if matches!(blame, Blame::Certain(_)) || self.suspicion.times >= CLOSED_TOGETHER_MAX {
                (self.suspicion.alone, self.suspicion.times) = (unanswered, 0);
            }
            return;
        }
        if !self.suspicion.is_proven || unanswered != 1 {
            return;
        }
        self.suspicion.again(seq);
        let times = self.suspicion.times;
        let topic = self.lanes.topic_of(seq);
        let is_known = topic.as_ref().is_some_and(|topic| self.suspicion.convicted.contains(topic));
        let verdict = match blame {
            Blame::Certain(cause) => (cause, fault.to_string()),
            _ if is_known || times >= CLOSED_ALONE_MAX => {
                let often = if times == 1 { String::new() } else { format!(" {times} times") };
                (Cause::Closed, format!("{fault}{often} behind it"))
            }
            _ => return,
        };
        if let Some(topic) = topic.filter(|_| !is_known) {
            self.suspicion.convicted.truncate(CONVICTED_MAX - 1);
            self.suspicion.convicted.push_front(topic);
        }
        let orphan = if self.server.maximum_qos == QoS::ExactlyOnce {
            self.lanes.take_unanswered(packet_id, &mut out.ledger)
        } else {
            self.lanes.take_refused(packet_id, &mut out.ledger)
        };
        self.bury(orphan, (verdict.0, &verdict.1), now, out);
        self.suspicion.alone -= 1;
        (self.suspicion.first, self.suspicion.times) = (None, 0);
        // The others need not wait for what it has cost.
        self.backoff.reset();
    }

    /// The link is up: what waits goes behind a ping where one of it is suspected.
    pub(super) fn begin_trial(&mut self, now: Now, out: &mut Effects) {
        self.suspicion.is_proven = false;
        if self.lanes.messages() == 0 {
            self.suspicion.alone = 0;
        }
        if self.suspicion.is_at_work() {
            self.lanes.set_window(0);
            self.send(Packet::Pingreq, now, out);
        }
    }

    /// The server takes this connection as such.
    pub(super) fn handle_proven(&mut self) {
        if self.suspicion.is_at_work() && !std::mem::replace(&mut self.suspicion.is_proven, true) {
            self.widen();
        }
    }

    /// A message was answered, whatever the answer.
    pub(super) fn handle_acquitted(&mut self) {
        if self.suspicion.is_at_work() {
            self.suspicion.times = 0;
            self.suspicion.alone -= 1;
            if self.lanes.messages() == 0 {
                self.suspicion.alone = 0;
            }
            self.widen();
        }
    }

    fn widen(&mut self) {
        if self.leaving.is_none() {
            self.lanes.set_window(if self.suspicion.is_at_work() { 1 } else { self.server.window });
        }
    }
}
