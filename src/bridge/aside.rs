//! Topics that a server has no room for now, and what waits of them: in a lane of its own, behind which nothing else waits,
//! in its order, until the server takes it. Decides nothing about links, and drops nothing.
//!
//! A quota that is used up as a whole looks the same at first: then one topic after the other goes here, and all leave in
//! their order once it is there again.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::base::backoff::{Backoff, BackoffBounds};
use crate::base::time::{Duration, Instant, Now};
use crate::bridge::Bridge;
use crate::bridge::effect::Effects;
use crate::bridge::fault::LinkFault;
use crate::bridge::lane::{ASIDE, Lane};
use crate::bridge::lanes::Lanes;
use crate::bridge::suspicion::Suspect;
use crate::mqtt::qos::{PacketId, QoS};
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::topic::TopicName;
use crate::spool::queue::{Orphan, Spool};
use crate::spool::survey::Survey;
use crate::store::record::{Entry, Record, Seq, SpoolId};

/// Connections that end for the quota behind one message alone before its topic makes way for the others.
const TRIES: u8 = 3;
/// Topics that may wait so. Of any more, the rest waits behind them.
const TOPICS_MAX: usize = 64;
/// The longest that they wait between two tries.
const REST_MAX: Duration = Duration::from_secs(3600);
/// Topics that are named at once to people.
const NAMED_MAX: usize = 4;

#[derive(Debug)]
pub(super) struct Aside {
    /// Of what waits there.
    topics: BTreeSet<TopicName>,
    /// Which message was refused last for the quota while it was alone, and how often.
    refused: (Seq, u8),
    /// None: it may be tried.
    retry_at: Option<Instant>,
    rest: Backoff,
    /// The server took one of them on this connection.
    flows: bool,
    /// A QoS 2 message of such a topic that left before and is to be answered where it stands; nothing overtakes it.
    settling: Option<PacketId>,
    /// Of the row that names the lane. None: it is there. Most bridges never need one.
    unnamed: Option<(SpoolId, Arc<str>)>,
}

impl Aside {
    pub(super) fn new(reconnect: BackoffBounds) -> Self {
        let rest = BackoffBounds { min: reconnect.max, max: REST_MAX.max(reconnect.max) };
        Self {
            topics: BTreeSet::new(),
            refused: (Seq(0), 0),
            retry_at: None,
            rest: Backoff::new(rest),
            flows: false,
            settling: None,
            unnamed: None,
        }
    }

    /// Its lane has no row yet.
    pub(super) fn set_unnamed(&mut self, spool: SpoolId, name: Arc<str>) {
        self.unnamed = Some((spool, name));
    }

    pub(super) fn is_named(&self) -> bool {
        self.unnamed.is_none()
    }

    /// Nothing leaves before this answer.
    pub(super) fn is_settling(&self) -> bool {
        self.settling.is_some()
    }

    pub(super) fn handle_answered(&mut self, packet_id: PacketId) {
        self.settling = self.settling.filter(|other| *other != packet_id);
    }

    /// As a start found them.
    pub(super) fn recover(&mut self, topics: impl Iterator<Item = TopicName>) {
        for topic in topics {
            if self.topics.len() >= TOPICS_MAX {
                return;
            }
            self.topics.insert(topic);
        }
    }

    /// Whether the messages of a topic wait here, or there is room for them to.
    fn takes(&self, topic: &TopicName) -> bool {
        self.topics.len() < TOPICS_MAX || self.topics.contains(topic)
    }

    pub(super) fn holds(&self, topic: &TopicName) -> bool {
        self.topics.contains(topic)
    }

    /// How many of what waits may be unanswered now.
    pub(super) fn window(&self) -> usize {
        match self.retry_at {
            Some(_) => 0,
            None if self.flows => usize::MAX,
            None => 1,
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.retry_at
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.retry_at = self.retry_at.filter(|at| now < *at);
    }

    /// The server took one.
    pub(super) fn handle_taken(&mut self) {
        self.flows = true;
        self.rest.reset();
    }

    pub(super) fn handle_away(&mut self) {
        (self.flows, self.settling) = (false, None);
    }

    /// Nothing waits here any more.
    pub(super) fn clear(&mut self) {
        self.topics.clear();
        self.retry_at = None;
        self.rest.reset();
    }

    /// What was wrong may have been put right.
    pub(super) fn forget(&mut self) {
        self.retry_at = self.retry_at.map(|_| Instant::ORIGIN);
        self.rest.reset();
    }

    fn begin_rest(&mut self, now: Instant) {
        self.retry_at = Some(now + self.rest.next_ceiling());
    }

    /// Alone on its connection, a message was refused for the quota. Whether that was once too often.
    fn note_refused(&mut self, seq: Seq) -> bool {
        let before = if self.refused.0 == seq { self.refused.1 } else { 0 };
        self.refused = (seq, before + 1);
        self.refused.1 >= TRIES
    }

    /// For people. None: nothing waits.
    pub(super) fn degraded(&self) -> Option<String> {
        let mut names: Vec<_> = self.topics.iter().take(NAMED_MAX).map(TopicName::as_str).collect();
        if self.topics.len() > NAMED_MAX {
            names.push("…");
        }
        let count = self.topics.len();
        let wait = if count == 1 { "topic waits" } else { "topics wait" };
        let names = names.join(", ");
        (count > 0).then(|| format!("{count} {wait} for the server's quota, and the rest goes on: {names}"))
    }
}

impl Bridge {
    /// The server has no room now. To be called while what is in flight is still known.
    pub(super) fn note_quota(&mut self, fault: &LinkFault, now: Now, out: &mut Effects) {
        let suspect = self.suspicion.take_suspect();
        if self.lanes.aside().is_some_and(|lane| lane.unanswered() > 0) {
            // The others are there all the same.
            self.aside.begin_rest(now.instant);
            self.backoff.reset();
            return;
        }
        if self.lanes.unanswered() > 0 {
            self.suspicion.handle_quota();
        }
        let Some(suspect) = suspect else { return };
        let often = self.aside.note_refused(suspect.seq);
        // What a Sparkplug node says stays in the order of its births, and no message overtakes one of its topic that has to
        // be sent again where it stands.
        let may_move = !may_have_left(&self.lanes, &suspect)
            && self.lanes.aside().is_some()
            && !self.speaks_for(&suspect.topic);
        if (often || self.aside.holds(&suspect.topic)) && may_move && self.aside.takes(&suspect.topic) {
            self.put_aside(&suspect, fault, now, out);
        }
    }

    fn put_aside(&mut self, suspect: &Suspect, fault: &LinkFault, now: Now, out: &mut Effects) {
        let id = suspect.packet_id;
        // Who says so in the answer has not taken it; who leaves may hold the identifier of QoS 2.
        let is_answered = matches!(fault, LinkFault::QuotaExceeded);
        let may_hold = !is_answered && self.server.maximum_qos == QoS::ExactlyOnce && self.shown().took_qos_2;
        let orphan = if may_hold {
            self.lanes.take_unanswered(id, &mut out.ledger)
        } else {
            self.lanes.take_refused(id, &mut out.ledger)
        };
        let Some(orphan) = orphan else { return };
        self.move_aside(orphan, now, out);
        self.aside.begin_rest(now.instant);
        // Somebody is there, and the next one may fare better.
        self.backoff.reset();
        tracing::warn!(
            bridge = %self.settings.bridge.name, topic = %suspect.topic, reason = %fault,
            "the server's quota for a topic is used up: what waits of it is tried again later, and the rest goes on"
        );
    }

    /// Behind all that waits of its topic already.
    pub(super) fn move_aside(&mut self, orphan: Orphan, now: Now, out: &mut Effects) {
        if let Some((spool, bridge)) = self.aside.unnamed.take() {
            out.ledger.log.push(Record::BufferPut { spool, bridge });
            self.lanes.set_aside_used();
        }
        self.aside.topics.insert(orphan.entry.message.topic.clone());
        self.lanes.share_out();
        self.lanes.offer(ASIDE, orphan.into(), (true, false), (now, &mut out.ledger));
    }

    /// How much of what waits may leave now.
    pub(super) fn open_aside(&mut self) {
        if self.messages_aside() == 0 {
            self.aside.clear();
        }
        self.lanes.set_aside_window(self.aside.window());
    }

    /// Messages that may leave as soon as the window has room.
    pub(super) fn messages_due(&self) -> u64 {
        let resting = if self.aside.window() == 0 { self.messages_aside() } else { 0 };
        self.lanes.messages() - resting
    }

    fn messages_aside(&self) -> u64 {
        self.lanes.aside().map_or(0, Spool::messages)
    }

    /// The server took a message. It is still among those in flight.
    pub(super) fn note_taken(&mut self, packet_id: PacketId) {
        self.aside.handle_answered(packet_id);
        if self.lanes.aside().is_some_and(|lane| lane.identifiers().any(|id| id == packet_id)) {
            self.aside.handle_taken();
        }
    }

    /// Whether a message goes there in place of leaving. One of QoS 2 that may have left before has to be answered where
    /// it stands, alone.
    pub(super) fn goes_aside(
        &mut self,
        lane: Lane,
        (packet_id, dup): (PacketId, bool),
        entry: &Entry,
    ) -> bool {
        if lane == ASIDE || !self.aside.holds(&entry.message.topic) {
            return false;
        }
        let stays = dup && entry.qos.min(self.server.maximum_qos) == QoS::ExactlyOnce;
        self.aside.settling = stays.then_some(packet_id);
        !stays
    }

    /// The answer to a message is that there is no room now. Whether it was known of its topic, and the link goes on.
    pub(super) fn refuse_aside(&mut self, packet_id: PacketId, now: Now, out: &mut Effects) -> bool {
        if self.aside.settling != Some(packet_id) {
            return false;
        }
        let orphan = self.lanes.take_refused(packet_id, &mut out.ledger);
        if let Some(orphan) = orphan {
            self.move_aside(orphan, now, out);
        }
        true
    }
}

/// Whether another QoS 2 message of the topic may be with the server: those in flight.
fn may_have_left(lanes: &Lanes, suspect: &Suspect) -> bool {
    let is_meant = |(entry, in_flight): &(Entry, bool)| {
        let is_other = entry.seq != suspect.seq && entry.message.topic == suspect.topic;
        *in_flight && is_other && entry.qos == QoS::ExactlyOnce
    };
    lanes.spools().any(|spool| match spool.survey(Seq(0), usize::MAX, usize::MAX) {
        Survey::Here(found) => found.iter().any(is_meant),
        Survey::OnDisk { .. } => true,
    })
}

/// Whether the server says with the end of the connection, or before it, that its quota is used up.
pub(super) fn is_quota(fault: &LinkFault) -> bool {
    matches!(fault, LinkFault::QuotaExceeded | LinkFault::ServerLeft(ReasonCode::QuotaExceeded))
}
