//! What follows from a refusal or a suspicion: messages that go one at a time behind pings, a lower QoS, another
//! connection, a dead letter. Who is suspected is `suspicion`'s, and what a reason means is `fate`'s.

use crate::base::time::Now;
use crate::bridge::Bridge;
use crate::bridge::aside;
use crate::bridge::effect::Effects;
use crate::bridge::fate::{self, Cause};
use crate::bridge::fault::LinkFault;
use crate::bridge::learned::Shown;
use crate::bridge::status::LinkState;
use crate::bridge::suspicion::{Suspect, Verdict};
use crate::mqtt::packet::Packet;
use crate::mqtt::packet::ack::Ack;
use crate::mqtt::qos::{PacketId, QoS};
use crate::mqtt::reason::ReasonCode;
use crate::spool::queue::Acknowledged;
use crate::store::record::Entry;

impl Bridge {
    /// The link is up.
    pub(super) fn begin_trial(&mut self, now: Now, out: &mut Effects) {
        if self.suspicion.begin(self.messages_due() > 0) {
            self.lanes.set_window(0);
            self.ping(now, out);
        }
    }

    pub(super) fn handle_trial_pingresp(&mut self, now: Now, out: &mut Effects) {
        match self.suspicion.handle_pingresp() {
            Some(true) => self.ping(now, out),
            Some(false) => self.set_window(1),
            None => {}
        }
    }

    /// One whose answer has to come, or the link is given up.
    pub(super) fn ping(&mut self, now: Now, out: &mut Effects) {
        self.send(Packet::Pingreq, now, out);
        self.liveness.handle_pinged(now.instant);
    }

    /// Unless the connection is to be left.
    pub(super) fn set_window(&mut self, messages: usize) {
        if self.leaving.is_none() {
            self.lanes.set_window(messages);
        }
    }

    pub(super) fn note_sent(&mut self, packet_id: PacketId, entry: &Entry, qos: QoS) {
        let took_qos_2 = self.shown().took_qos_2;
        self.suspicion.handle_sent(|| Suspect {
            seq: entry.seq,
            packet_id,
            topic: entry.message.topic.clone(),
            payload_bytes: entry.message.payload.len(),
            may_be_qos: qos == QoS::ExactlyOnce && !took_qos_2,
        });
    }

    /// PUBACK or PUBREC with a reason of 0x80 or above. Err: the link is to be left, and the message sent again.
    pub(super) fn handle_refused(
        &mut self,
        ack: &Ack,
        qos: QoS,
        now: Now,
        out: &mut Effects,
    ) -> Result<(), LinkFault> {
        let answer = fate::of_answer(ack.reason);
        let is_settled = answer == fate::Verdict::Later && self.refuse_aside(ack.packet_id, now, out);
        if answer == fate::Verdict::Later && !is_settled {
            return Err(LinkFault::QuotaExceeded);
        }
        self.note_acknowledged(qos);
        self.aside.handle_answered(ack.packet_id);
        self.liveness.handle_acknowledged(ack.packet_id, now.instant);
        if is_settled {
            return Ok(());
        }
        let cause = match answer {
            fate::Verdict::Never(cause) => cause,
            _ if self.suspicion.may_doubt() => {
                if self.lanes.handle_put_back(ack.packet_id, &mut out.ledger) == Acknowledged::Unknown {
                    return Ok(());
                }
                self.suspicion.handle_doubted();
                return Err(LinkFault::NotTaken(ack.reason));
            }
            _ => Cause::Refused,
        };
        let said = ack.properties.as_ref().and_then(|properties| properties.reason_string.as_deref());
        let orphan = self.lanes.take_refused(ack.packet_id, &mut out.ledger);
        self.bury(orphan, (cause, &fate::words(ack.reason, said)), now, out);
        Ok(())
    }

    /// PUBACK or PUBREC, whatever its reason.
    pub(super) fn note_acknowledged(&mut self, qos: QoS) {
        let shown = self.shown();
        if qos == QoS::ExactlyOnce && !shown.took_qos_2 {
            self.show(Shown { took_qos_2: true, ..shown });
        }
        // It is still among them.
        if self.suspicion.handle_acknowledged(self.messages_due() > 1) {
            self.set_window(self.server.window);
        }
        if std::mem::take(&mut self.qos_is_doubted) {
            tracing::warn!(
                bridge = %self.settings.bridge.name,
                "the server ends each connection that brings QoS 2, and takes QoS 1: it gets that for a week; \
                 qos: 1 in the forward rules spares the tries"
            );
        }
    }

    /// The connection is over. To be called while what is in flight is still known.
    pub(super) fn note_end(&mut self, fault: &LinkFault, now: Now, out: &mut Effects) {
        let asks = self.is_greeted() && !self.asked.is_answered();
        self.note_end_of_asking(fault, now);
        if let LinkFault::ServerLeft(reason) = fault
            && !(asks && *reason == ReasonCode::QosNotSupported)
        {
            self.note_refusal(*reason, self.server.maximum_qos);
        }
        if self.phase.state() == LinkState::Greeting {
            self.note_ungreeted(fault);
        }
        if self.phase.state() != LinkState::Up {
            return;
        }
        if aside::is_quota(fault) {
            return self.note_quota(fault, now, out);
        }
        let unanswered = self.lanes.unanswered();
        match self.suspicion.handle_end(fault, unanswered, now.instant) {
            Verdict::Nothing => {}
            Verdict::LowerQos => {
                self.qos_is_doubted = true;
                self.show(Shown { maximum_qos: QoS::AtLeastOnce, ..self.shown() });
            }
            Verdict::SetAside { suspect, cause, ends } => {
                let often = if ends == 1 { String::new() } else { format!(" {ends} times behind it") };
                self.set_aside(&suspect, (cause, &format!("{fault}{often}")), now, out);
            }
        }
    }

    fn set_aside(&mut self, suspect: &Suspect, why: (Cause, &str), now: Now, out: &mut Effects) {
        self.learned.has_news = true;
        let id = suspect.packet_id;
        // One that answers QoS 2 may hold the identifier; one that never did would end each connection for its release.
        let orphan = if self.server.maximum_qos == QoS::ExactlyOnce && self.shown().took_qos_2 {
            self.lanes.take_unanswered(id, &mut out.ledger)
        } else {
            self.lanes.take_refused(id, &mut out.ledger)
        };
        self.bury(orphan, why, now, out);
        // Somebody is there, and the next one may fare better.
        self.backoff.reset();
        if std::mem::take(&mut self.qos_is_doubted) {
            // It was not that.
            self.show(Shown { maximum_qos: QoS::ExactlyOnce, ..self.shown() });
        }
    }

    /// The server said no to what it was met with: QoS `used` at most, and retained messages.
    pub(super) fn note_refusal(&mut self, reason: ReasonCode, used: QoS) {
        let server = self.servers.target().to_string();
        if self.learned.handle_refusal(&server, reason, used) {
            self.learned.has_news = true;
            tracing::info!(bridge = %self.settings.bridge.name, %reason, "the server takes less than it was met with");
        }
    }

    /// What the server of this connection was found to take.
    pub(super) fn shown(&self) -> Shown {
        self.learned.of(&self.servers.target().to_string())
    }

    pub(super) fn show(&mut self, shown: Shown) {
        self.learned.has_news |= self.shown() != shown;
        self.learned.set(&self.servers.target().to_string(), shown);
    }

    /// What the server grants less of than was asked for, while there is one.
    pub(super) fn degraded(&self) -> Vec<String> {
        if !self.is_greeted() {
            return Vec::new();
        }
        let mut degraded = self.server.degraded();
        degraded.extend(self.filters_degraded());
        degraded.extend(self.aside.degraded());
        degraded
    }

    pub(super) fn tell_degraded(&mut self) {
        let degraded = self.degraded();
        if degraded != self.degraded_told {
            let (bridge, less) = (&self.settings.bridge.name, degraded.join("; "));
            if degraded.is_empty() {
                tracing::info!(%bridge, "the server grants all that is asked for");
            } else {
                tracing::info!(%bridge, %less, "the server grants less than was asked for");
            }
            self.degraded_told = degraded;
        }
    }
}
