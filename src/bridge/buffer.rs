//! The buffer of a bridge in a person's hands: seen, filled from an export, emptied. Never sends by itself.

use crate::base::time::Now;
use crate::bridge::Bridge;
use crate::bridge::effect::Effects;
use crate::bridge::lane;
use crate::bridge::rules;
use crate::mqtt::message::Message;
use crate::mqtt::qos::QoS;
use crate::spool::queue::Offer;
use crate::spool::settings::Offered;
use crate::spool::survey::{Part, Purged, Survey};
use crate::store::record::{Seq, SpoolId};
use std::sync::Arc;

/// Why a message is not taken into the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportRefusal {
    NoRule,
    AtMostOnce,
    Full,
}

impl std::fmt::Display for ImportRefusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NoRule => "no forward rule of the bridge matches the topic",
            Self::AtMostOnce => {
                "it would be sent with QoS 0, and that is never buffered (1 or 2 would be right)"
            }
            Self::Full => "the buffer is full: import the rest once it has drained",
        })
    }
}

impl Bridge {
    pub fn survey(&self, part: Part, after: Seq, messages_max: usize, bytes_max: usize) -> Survey {
        match part {
            Part::Waiting => self.lanes.survey(after, messages_max, bytes_max),
            Part::Dead => self.dead.spool.survey(after, messages_max, bytes_max),
        }
    }

    /// Where on disk stands what a survey behind `after` did not have: the spool, and the number within it.
    pub fn on_disk(&self, part: Part, after: Seq, up_to: Seq) -> (SpoolId, Seq) {
        match part {
            Part::Waiting => self.lanes.on_disk(after, up_to),
            Part::Dead => (self.dead.spool.id(), after),
        }
    }

    /// The last number that a message got.
    pub fn last_seq(&self, part: Part) -> Seq {
        match part {
            Part::Waiting => self.lanes.last_seq(),
            Part::Dead => self.dead.spool.last_seq(),
        }
    }

    /// Takes a message as if a client had published it, for the first rule that matches. Nothing makes way for it.
    pub fn handle_import(
        &mut self,
        message: Message,
        now: Now,
        out: &mut Effects,
    ) -> Result<(), ImportRefusal> {
        let rules = &self.settings.bridge.forward;
        let found = (0u16..).zip(rules).find(|(_, rule)| rule.filter.matches(&message.topic));
        let (index, rule) = found.ok_or(ImportRefusal::NoRule)?;
        let qos = rules::forward_qos(rule, &message);
        if qos == QoS::AtMostOnce {
            return Err(ImportRefusal::AtMostOnce);
        }
        let lane = lane::waiting(rule);
        if !self.lanes.has_ease_for(lane, index, message.size_bytes()) {
            return Err(ImportRefusal::Full);
        }
        let offer = Offer {
            qos,
            retain: rules::forward_retain(rule, &message),
            rule: index,
            subscription_identifiers: Box::default(),
            hold: None,
            message: Arc::new(message),
        };
        let offered = self.lanes.offer(lane, offer, (true, false), (now, &mut out.ledger));
        self.pump(now, out);
        if offered == Offered::Accepted { Ok(()) } else { Err(ImportRefusal::Full) }
    }

    /// One step of dropping what is not in flight up to and with `up_to`.
    pub fn handle_purge(
        &mut self,
        part: Part,
        (up_to, messages_max): (Seq, u64),
        now: Now,
        out: &mut Effects,
    ) -> Purged {
        let purged = match part {
            Part::Waiting => self.lanes.purge(up_to, messages_max, &mut out.ledger),
            Part::Dead => self.dead.spool.purge(up_to, messages_max, &mut out.ledger),
        };
        self.share_with_dead();
        self.report_losses(now);
        purged
    }
}
