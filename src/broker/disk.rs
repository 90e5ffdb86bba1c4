//! What becomes of publishers while the disk takes nothing: what would have to be recorded is refused before it is
//! routed, and who waits for something that is in doubt is let go, so that it keeps its messages. Never touches
//! what needs no disk.

use crate::base::ids::SlotKey;
use crate::base::time::{Duration, Instant, Now};
use crate::broker::effect::{ConnKey, Effects};
use crate::broker::router::Target;
use crate::broker::{Broker, Visit};
use crate::mqtt::message::{Message, Origin};
use crate::mqtt::qos::QoS;
use crate::mqtt::reason::ReasonCode;
use crate::spool::Hold;

/// The longest that an acknowledgement waits for a disk that refuses before its connection is closed, twice over:
/// once for what was asked before, once for what came with it.
pub const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// Why the disk takes nothing, and who cannot do without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusing {
    /// What publishers of MQTT 5 are told.
    pub reason: ReasonCode,
    /// Bridges, by index, whose server is not there to take a message in the disk's place.
    pub bridges_away: Vec<bool>,
}

/// As long as the disk refuses.
#[derive(Debug)]
pub(super) struct Outage {
    refusing: Refusing,
    /// Everything up to this ticket was asked for before `marked_at`.
    mark: Hold,
    marked_at: Instant,
}

impl Broker {
    /// To be called again and again while the disk refuses, and with None once it takes what it is given.
    pub fn handle_disk(&mut self, refusing: Option<Refusing>, now: Now, out: &mut Effects) {
        let Some(refusing) = refusing else {
            self.outage = None;
            return;
        };
        let newest = self.barrier.last();
        let Some(outage) = &mut self.outage else {
            self.outage = Some(Outage { refusing, mark: newest, marked_at: now.instant });
            return;
        };
        outage.refusing = refusing;
        if now.instant.since(outage.marked_at) < ANSWER_WAIT {
            return;
        }
        outage.marked_at = now.instant;
        let overdue = std::mem::replace(&mut outage.mark, newest);
        let reason = outage.refusing.reason;
        let waiting: Vec<ConnKey> = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.link.as_ref().is_some_and(|link| link.waits_since(overdue)))
            .map(|(key, _)| key)
            .collect();
        // What they wait for may be on the disk or not: it can be neither acknowledged nor refused. They send it
        // again under its identifier, and a QoS 2 message that was recorded is known by it.
        for key in waiting {
            self.close_with(key, reason, &mut Visit { now, out });
        }
    }

    /// The reason to refuse a message which the disk would have to take. `from`: the client that waits for it.
    pub(super) fn refused_by_disk(&mut self, from: ConnKey, message: &Message) -> Option<ReasonCode> {
        let reason = self.outage.as_ref()?.refusing.reason;
        let publisher = self.session_of(from).and_then(|key| self.sessions.get(key));
        // Its identifier has to be recorded.
        let is_noted = message.qos == QoS::ExactlyOnce && publisher.is_some_and(|session| session.durable);
        if is_noted || message.retain {
            return Some(reason);
        }
        let found = self.router.targets(&message.topic);
        let is_kept = found.iter().any(|(target, granted)| match *target {
            Target::Session(key) => self.is_kept_for(key, message.qos.min(granted.options.qos)),
            Target::Shared(group) => self.router.members(group).any(|key| self.is_kept_for(key, message.qos)),
            Target::Forward { bridge, .. } => self.is_kept_for_bridge(bridge, message),
            // Recorded before its device hears of it.
            Target::Device(_) => message.qos == QoS::ExactlyOnce,
        });
        self.router.reuse(found);
        is_kept.then_some(reason)
    }

    /// QoS 1 to whoever is there is acknowledged by him; QoS 2 is recorded before it leaves.
    fn is_kept_for(&self, key: SlotKey, qos: QoS) -> bool {
        self.sessions.get(key).is_some_and(|session| match qos {
            QoS::AtMostOnce => false,
            QoS::AtLeastOnce => session.durable && !session.is_online(),
            QoS::ExactlyOnce => session.durable,
        })
    }

    fn is_kept_for_bridge(&self, bridge: u16, message: &Message) -> bool {
        let is_away = self.outage.as_ref().is_some_and(|outage| {
            outage.refusing.bridges_away.get(usize::from(bridge)).copied().unwrap_or(true)
        });
        message.origin != Origin::Bridge(bridge) && (is_away || message.qos == QoS::ExactlyOnce)
    }
}
