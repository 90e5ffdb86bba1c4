//! What follows from a suspicion: messages that go one at a time behind pings, a lower QoS, a message that is set aside.
//! Who is suspected is `suspicion`'s.

use crate::base::time::{Instant, Now};
use crate::bridge::Bridge;
use crate::bridge::effect::Effects;
use crate::bridge::fault::LinkFault;
use crate::bridge::learned::Shown;
use crate::bridge::suspicion::{Suspect, Verdict};
use crate::mqtt::packet::Packet;
use crate::mqtt::qos::{PacketId, QoS};
use crate::mqtt::reason::ReasonCode;
use crate::store::record::Entry;

impl Bridge {
    /// The link is up.
    pub(super) fn begin_trial(&mut self, now: Now, out: &mut Effects) {
        if self.suspicion.begin() {
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
    fn ping(&mut self, now: Now, out: &mut Effects) {
        self.send(Packet::Pingreq, now, out);
        self.liveness.handle_pinged(now.instant);
    }

    /// Unless the connection is to be left.
    fn set_window(&mut self, messages: usize) {
        if self.leaving.is_none() {
            self.lanes.set_window(messages);
        }
    }

    /// Whether the server would end the connection for it, as it did before.
    pub(super) fn is_condemned(&self, entry: &Entry, now: Instant) -> bool {
        self.suspicion.condemns(&entry.message.topic, entry.message.payload.len(), now)
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

    /// PUBACK or PUBREC.
    pub(super) fn note_acknowledged(&mut self, qos: QoS) {
        let shown = self.shown();
        if qos == QoS::ExactlyOnce && !shown.took_qos_2 {
            self.show(Shown { took_qos_2: true, ..shown });
        }
        if self.suspicion.handle_acknowledged() {
            self.set_window(self.server.window);
        }
        if std::mem::take(&mut self.qos_is_doubted) {
            tracing::warn!(
                bridge = %self.settings.bridge.name,
                "the server ends each connection that brings QoS 2, and takes QoS 1: it gets that until a restart; \
                 qos: 1 in the forward rules spares the tries"
            );
        }
    }

    /// The connection is over. To be called while what is in flight is still known.
    pub(super) fn note_end(&mut self, fault: &LinkFault, now: Now, out: &mut Effects) {
        if let LinkFault::ServerLeft(reason) = fault {
            self.note_refusal(*reason, self.server.maximum_qos);
        }
        if matches!(fault, LinkFault::QuotaExceeded) {
            return self.suspicion.handle_quota();
        }
        let unanswered = self.lanes.unanswered() > 0;
        match self.suspicion.handle_end(fault, unanswered, now.instant) {
            Verdict::Nothing => {}
            Verdict::LowerQos => {
                self.qos_is_doubted = true;
                self.show(Shown { maximum_qos: QoS::AtLeastOnce, ..self.shown() });
            }
            Verdict::SetAside(suspect) => self.set_aside(&suspect, out),
        }
    }

    fn set_aside(&mut self, suspect: &Suspect, out: &mut Effects) {
        tracing::warn!(
            bridge = %self.settings.bridge.name, topic = %suspect.topic, bytes = suspect.payload_bytes,
            "the server ends each connection that brings this message: it is set aside"
        );
        self.lanes.handle_refused(suspect.packet_id, &mut out.ledger);
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
            tracing::info!(bridge = %self.settings.bridge.name, %reason, "the server takes less than it was met with");
        }
    }

    /// What the server of this connection was found to take.
    pub(super) fn shown(&self) -> Shown {
        self.learned.of(&self.servers.target().to_string())
    }

    fn show(&mut self, shown: Shown) {
        self.learned.set(&self.servers.target().to_string(), shown);
    }
}
