//! The link leaves one connection for another on purpose: back to a preferred server, to new certificates, before
//! a credential runs out, to where a server sends it. What is in flight is acknowledged first, or sent again. Decides nothing about messages.

use std::sync::Arc;

use crate::base::time::{Duration, Instant, Now};
use crate::bridge::Bridge;
use crate::bridge::effect::Effects;
use crate::bridge::fault::LinkFault;
use crate::bridge::link::Phase;
use crate::bridge::pause::Wanted;
use crate::bridge::servers::Destination;
use crate::bridge::status::LinkState;
use crate::mqtt::packet::Packet;
use crate::mqtt::packet::ack::Ack;
use crate::mqtt::qos::QoS;
use crate::mqtt::reason::ReasonCode;
use crate::store::record::Record;

/// How long what is in flight may take before the connection ends all the same.
const DRAIN_WAIT: Duration = Duration::from_secs(10);

/// A connection that ends once nothing is in flight.
#[derive(Debug)]
pub(super) struct Leaving {
    why: LinkFault,
    until: Instant,
    /// The preferred server that the link goes back to.
    to: Option<usize>,
}

impl Leaving {
    pub(super) fn deadline(&self) -> (Instant, &'static str) {
        (self.until, "leaving")
    }
}

impl Bridge {
    /// Where the hand is to connect to.
    pub fn destination(&self) -> Destination {
        self.servers.destination()
    }

    /// The hand looked for the preferred servers while the link is with another: the first that was there.
    pub fn handle_probed(&mut self, found: Option<usize>, now: Now, out: &mut Effects) {
        if self.phase.state() == LinkState::Up
            && let Some(server) = self.servers.handle_probed(found)
        {
            self.leave(LinkFault::Returning, Some(server), now, out);
        }
    }

    /// The files of the hand's certificates have changed, and are good.
    pub fn handle_renewed(&mut self, now: Now, out: &mut Effects) {
        if self.phase.state() == LinkState::Up {
            self.leave(LinkFault::Renewed, None, now, out);
        }
    }

    /// A greeted connection, once.
    pub(super) fn leave(&mut self, why: LinkFault, to: Option<usize>, now: Now, out: &mut Effects) {
        if self.leaving.is_none() {
            self.lanes.hold_back();
            self.leaving = Some(Leaving { why, until: now.instant + DRAIN_WAIT, to });
            self.pump(now, out);
        }
    }

    /// Ends the connection that is to be left, once nothing is in flight or time is up.
    pub(super) fn pump_leaving(&mut self, now: Now, out: &mut Effects) {
        let quiet = self.lanes.unanswered() == 0 && self.inlet.owes_nothing();
        let due = |leaving: &mut Leaving| quiet || leaving.until <= now.instant;
        let Some(Leaving { why, to, .. }) = self.leaving.take_if(due) else { return };
        match to {
            Some(server) => {
                self.servers.go_back_to(server);
                self.say_goodbye(now, out);
            }
            // It comes back to the same server at once: its status stays.
            None => self.part(now, out),
        }
        self.fault = Some(why);
        self.wanted = Wanted::LinkAtOnce;
        self.go_away(out);
        self.set_phase(Phase::Closing { was_stable: true }, out);
    }

    /// A server that turns us away may say where to go instead (4.11).
    pub(super) fn refer(&mut self, reason: ReasonCode, reference: Option<&str>) {
        if matches!(reason, ReasonCode::UseAnotherServer | ReasonCode::ServerMoved)
            && reference.is_some_and(|reference| self.servers.refer(reference))
        {
            self.wanted = Wanted::LinkAtOnce;
        }
    }

    /// A session that is there is ours only where it is the one that our packets are in flight in: each server has its
    /// own.
    pub(super) fn take_session(&mut self, is_present: bool, now: Now, out: &mut Effects) -> bool {
        let is_ours = self.servers.holds_session();
        if !is_ours {
            self.lose_session("another server: messages that were in flight may arrive twice", out);
        } else if !is_present {
            let words = "the cloud lost the session: messages that were in flight may arrive twice";
            self.lose_session(words, out);
        }
        let releases = is_present && !is_ours && self.release_all(now, out);
        if releases {
            let row = self.servers.enter_session(&self.settings.bridge.name);
            self.record_row(row, out);
        } else {
            self.own_session(out);
        }
        is_present && is_ours
    }

    /// The server has all that was sent before its answer: what it held of before is released.
    pub(super) fn own_session(&mut self, out: &mut Effects) {
        let row = self.servers.take_session(&self.settings.bridge.name);
        self.record_row(row, out);
    }

    fn record_row(&self, row: Option<Arc<str>>, out: &mut Effects) {
        if let Some(bridge) = row {
            out.ledger.log.push(Record::BufferPut { spool: self.lanes.main().id(), bridge });
        }
    }

    fn lose_session(&mut self, words: &'static str, out: &mut Effects) {
        let unanswered = self.lanes.handle_session_lost(&mut out.ledger);
        self.inlet.handle_session_lost(&mut out.ledger.log);
        self.arrivals.handle_session_lost();
        self.subscribed = false;
        self.counters.duplicates_possible += unanswered as u64;
        if unanswered > 0 {
            let bridge = &self.settings.bridge.name;
            tracing::warn!(%bridge, messages = unanswered, "{words}");
        }
    }

    /// A server that we left in mid-flight may hold identifiers of ours for QoS 2, and would take the next message under
    /// one of them for a repeat. It answers in order, so nothing has to wait for its PUBCOMPs; what it does not know it
    /// answers with 0x92, as the standard wants it after a recovery (3.6.2.1). PINGRESP says that all have arrived: until
    /// then the session is not ours, or a cut could leave some behind. Whether there was anything to release.
    fn release_all(&mut self, now: Now, out: &mut Effects) -> bool {
        let rules = &self.settings.bridge.forward;
        let sends_qos_2 = rules.iter().any(|rule| rule.qos.is_none_or(|qos| qos == QoS::ExactlyOnce));
        if !sends_qos_2 || self.server.maximum_qos < QoS::ExactlyOnce {
            return false;
        }
        for packet_id in self.lanes.identifiers() {
            self.send(Packet::Pubrel(Ack::success(packet_id)), now, out);
        }
        self.send(Packet::Pingreq, now, out);
        true
    }
}
