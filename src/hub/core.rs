//! What stands behind the door: the broker, the bridges, and the way between them. Carries effects from one
//! brain to the other until none is left; every decision is a brain's.

use std::collections::HashMap;
use std::sync::Arc;

use crate::auth::{Identity, Refusal};
use crate::base::address::Address;
use crate::base::time::{Instant, Now};
use crate::bridge::Bridge;
use crate::bridge::effect::Effects as LinkEffects;
use crate::bridge::forward::Forwarded;
use crate::bridge::status::LinkState;
use crate::broker::disk::Refusing;
use crate::broker::effect::{Authentication, ConnKey, Effects, Forward, Outgoing, Token};
use crate::broker::login::Change;
use crate::broker::refusal::NotAdmitted;
use crate::broker::{Broker, Peer};
use crate::config::access::AccessRule;
use crate::hub::Bell;
use crate::hub::asked::Asked;
use crate::hub::client::Flow;
use crate::hub::line::Commands;
use crate::hub::link::LinkBox;
use crate::hub::outbox::Outbox;
use crate::hub::refusals::RefusedBy;
use crate::hub::status::{HubStatus, LinkStatus};
use crate::hub::told::Told;
use crate::mqtt::error::Malformed;
use crate::mqtt::message::Message;
use crate::mqtt::packet::Packet;
use crate::mqtt::qos::QoS;
use crate::mqtt::reason::ReasonCode;
use crate::sparkplug::session::Session;
use crate::spool::Ledger;
use crate::store::record::{Entry, Load, Lsn};

/// The bits of a token that are the bridge's own; those above are its index.
const TOKEN_BITS: u32 = 48;

/// Rounds that effects may take from brain to brain in one visit; see `settle` for why they end.
const SETTLE_ROUNDS_MAX: u32 = 64;

pub struct Core {
    pub(super) broker: Broker,
    pub(super) out: Effects,
    bridges: Vec<Bridge>,
    link_out: LinkEffects,
    links: Vec<LinkBox>,
    /// How many forward rules each bridge has.
    rules: Vec<u16>,
    /// Only ever looked up by key, so that its order is never seen.
    outboxes: HashMap<ConnKey, Outbox>,
    /// What the devices were told to do, and the lines that take it from there.
    pub(super) commands: Commands,
    /// Its clients know the gateway as a Sparkplug node, where it is one.
    pub(super) node: Option<Session>,
    /// Who within the gateway waits for the end of one.
    pub(super) asked: Asked,
    pub(super) bells: Vec<Bell>,
    /// Rung when Home Assistant has come up.
    pub(super) homeassistant: Bell,
    /// The connection whose packets are being handled: it takes its outbox itself, without a bell.
    current: Option<ConnKey>,
    /// What the timer sleeps for.
    wake_at: Option<Instant>,
    /// Nobody comes in any more.
    ended: bool,
    /// QoS 0 messages that a slow reader cost.
    outbox_dropped: u64,
    denied_told: Told,
    throttled_told: Told,
}

impl Core {
    /// Each bridge comes with the number of its forward rules. `out` holds what recovery has already asked for.
    pub fn new(broker: Broker, bridges: Vec<(Bridge, u16)>, commands: Commands, out: Effects) -> Self {
        let (bridges, rules): (Vec<_>, Vec<_>) = bridges.into_iter().unzip();
        Self {
            broker,
            out,
            links: bridges.iter().map(|_| LinkBox::asking()).collect(),
            bridges,
            link_out: LinkEffects::default(),
            rules,
            outboxes: HashMap::new(),
            commands,
            node: None,
            asked: Asked::default(),
            bells: Vec::new(),
            homeassistant: Bell::default(),
            current: None,
            wake_at: None,
            ended: false,
            outbox_dropped: 0,
            denied_told: Told::default(),
            throttled_told: Told::default(),
        }
    }

    pub fn status(&self) -> HubStatus {
        let links = self.bridges.iter().zip(&self.links);
        HubStatus {
            broker: self.broker.stats(),
            links: links.map(|(b, link)| LinkStatus { status: b.status(), since: link.changed_at }).collect(),
            outbox_dropped: self.outbox_dropped,
            commands_refused: self.commands.refused(),
            refused: RefusedBy::default(),
            unkept: 0,
        }
    }

    pub fn bridges(&self) -> &[Bridge] {
        &self.bridges
    }

    pub fn ledger(&mut self) -> &mut Ledger {
        &mut self.out.ledger
    }

    pub fn link(&mut self, index: usize) -> &mut LinkBox {
        &mut self.links[index]
    }

    /// None after `handle_shutdown`.
    pub fn handle_open(&mut self, peer: Peer, bell: Bell, now: Now) -> Option<ConnKey> {
        if self.ended {
            return None;
        }
        let key = self.broker.handle_open(peer, now);
        self.outboxes.insert(key, Outbox::new(bell));
        Some(key)
    }

    pub fn handle_packets(&mut self, key: ConnKey, packets: &mut Vec<Packet>, now: Now) {
        self.current = Some(key);
        for packet in packets.drain(..) {
            if let Err(violation) = self.broker.handle_packet(key, packet, now, &mut self.out) {
                tracing::debug!(conn = %key, %violation, "a client broke the protocol");
                break;
            }
            self.settle(now);
        }
        self.settle(now);
        self.current = None;
        self.log_denied(now);
        self.log_throttled(now);
    }

    pub fn handle_authenticated(&mut self, key: ConnKey, result: Result<Identity, Refusal>, now: Now) {
        if let Err(violation) = self.broker.handle_authenticated(key, result, now, &mut self.out) {
            tracing::debug!(conn = %key, %violation, "a client broke the protocol");
        }
    }

    /// Logins that are to be checked.
    pub fn take_authentications(&mut self) -> Vec<Authentication> {
        std::mem::take(&mut self.out.authentications)
    }

    /// Clients that were not let in, and where they came from.
    pub fn take_refused(&mut self) -> Vec<(Address, NotAdmitted)> {
        std::mem::take(&mut self.out.refused)
    }

    /// Others may come in, and do other things, from now on. How many were shut out.
    pub fn handle_clients(
        &mut self,
        change: &Change<'_>,
        access: Option<Arc<[AccessRule]>>,
        now: Now,
    ) -> u64 {
        // First, so that the wills of those who are shut out go by the new rules.
        self.broker.handle_access(access);
        self.broker.handle_authentication(change, now, &mut self.out)
    }

    fn log_denied(&mut self, now: Now) {
        let Some(denied) = self.broker.denied() else { return };
        if let Some(messages) = self.denied_told.news(denied.count, now) {
            tracing::warn!(
                messages,
                client = %denied.client_id.escape_debug(),
                topic = %denied.topic.as_str().escape_debug(),
                "messages were dropped: no access rule allows them; client and topic are the last one's"
            );
        }
    }

    fn log_throttled(&mut self, now: Now) {
        let Some(throttled) = self.broker.throttled() else { return };
        if let Some(messages) = self.throttled_told.news(throttled.count, now) {
            tracing::warn!(
                messages,
                client = %throttled.client_id.escape_debug(),
                "messages had to wait: their client publishes above limits.publish_rate; the client is the last one"
            );
        }
    }

    pub fn handle_malformed(&mut self, key: ConnKey, malformed: Malformed, now: Now) {
        tracing::debug!(conn = %key, %malformed, "a client sent what is no MQTT packet");
        self.broker.handle_malformed(key, malformed.reason(), now, &mut self.out);
    }

    pub fn handle_closed(&mut self, key: ConnKey, now: Now) {
        self.outboxes.remove(&key);
        self.broker.handle_closed(key, now, &mut self.out);
    }

    pub fn take_outgoing(&mut self, key: ConnKey, outgoing: &mut Vec<Outgoing>) -> Flow {
        let Some(outbox) = self.outboxes.get_mut(&key) else { return Flow::Close };
        outbox.take(outgoing);
        self.flow_of(key)
    }

    pub fn flow_of(&self, key: ConnKey) -> Flow {
        match self.outboxes.get(&key).map_or(Flow::Close, Outbox::flow) {
            Flow::Continue if self.broker.is_authenticating(key) || self.broker.is_holding(key) => Flow::Wait,
            flow => flow,
        }
    }

    pub fn handle_progress(&mut self, key: ConnKey, now: Now) {
        self.broker.handle_progress(key, now);
    }

    /// Whether hands read clients at all.
    pub fn handle_reading(&mut self, paused: bool, now: Now) {
        self.broker.handle_reading(paused, now);
    }

    /// A message of the gateway's own: nobody waits for its acknowledgement.
    pub fn publish_own(&mut self, message: Message, now: Now) {
        let Some(message) = self.asked.take_answer(message) else { return };
        if let Some(message) = self.publish_said(message, now) {
            // Refused only by a full buffer that is to reject: its bridge counts that.
            let _ = self.broker.handle_publish(Arc::new(message), None, false, now, &mut self.out);
        }
        self.settle(now);
    }

    pub fn handle_durable(&mut self, lsn: Lsn, now: Now) {
        self.broker.handle_durable(lsn, now, &mut self.out);
        for index in 0..self.bridges.len() {
            self.visit_bridge(index, |bridge, out| bridge.handle_durable(lsn, now, out));
        }
        self.commands.handle_durable(lsn, &mut self.out.ledger);
    }

    pub fn handle_loaded(&mut self, load: Load, entries: Vec<Entry>, now: Now) {
        let bridge = self.bridges.iter().position(|bridge| bridge.owns(load.spool));
        match bridge {
            Some(index) => {
                self.visit_bridge(index, |bridge, out| bridge.handle_loaded(load.spool, entries, now, out));
                self.update_gates(index);
            }
            None if self.commands.owns(load.spool) => {
                self.commands.handle_loaded(load.spool, entries, &mut self.out.ledger);
            }
            None => {
                // A session that ended while its entries were read has no use for them.
                self.broker.handle_loaded(load, entries, now, &mut self.out);
            }
        }
    }

    pub fn handle_traffic(&mut self, (received_bytes, sent_bytes): (u64, u64)) {
        self.broker.handle_traffic(received_bytes, sent_bytes);
    }

    /// How much of the data directory's file system is free.
    pub fn handle_disk_free(&mut self, bytes: u64) {
        for index in 0..self.bridges.len() {
            self.bridges[index].handle_disk_free(bytes);
            self.update_gates(index);
        }
    }

    /// `reason`: the disk takes nothing, and what publishers are told of it. Buffers keep to what they hold then, so
    /// that the oldest makes room for the newest.
    pub fn handle_disk(&mut self, reason: Option<ReasonCode>, now: Now) {
        let bridges = self.bridges.iter();
        let refusing = reason.map(|reason| Refusing {
            reason,
            bridges_away: bridges.map(|bridge| bridge.state() != LinkState::Up).collect(),
        });
        if reason == Some(ReasonCode::QuotaExceeded) {
            self.handle_disk_free(0);
        }
        self.broker.handle_disk(refusing, now, &mut self.out);
    }

    pub fn handle_timeout(&mut self, now: Now) {
        self.broker.handle_timeout(now, &mut self.out);
        for index in 0..self.bridges.len() {
            let due = self.bridges[index].next_deadline().is_some_and(|(at, _)| at <= now.instant);
            if due {
                self.visit_bridge(index, |bridge, out| bridge.handle_timeout(now, out));
                // What aged has made room, and with its link down nothing else tells the publishers.
                self.update_gates(index);
            }
        }
        self.commands.handle_timeout(now, &mut self.out.ledger);
    }

    pub fn handle_shutdown(&mut self, now: Now) {
        self.ended = true;
        self.stop_commands(now);
        self.stop_node(now);
        self.settle(now);
        for index in 0..self.bridges.len() {
            self.visit_bridge(index, |bridge, out| bridge.handle_shutdown(now, out));
        }
        self.settle(now);
        self.broker.handle_shutdown(now, &mut self.out);
    }

    /// Lets one bridge do something, with the one ledger in its hands.
    pub fn visit_bridge<R>(
        &mut self,
        index: usize,
        act: impl FnOnce(&mut Bridge, &mut LinkEffects) -> R,
    ) -> R {
        std::mem::swap(&mut self.out.ledger, &mut self.link_out.ledger);
        let result = act(&mut self.bridges[index], &mut self.link_out);
        std::mem::swap(&mut self.out.ledger, &mut self.link_out.ledger);
        self.links[index].collect(&mut self.link_out);
        result
    }

    /// Carries effects between the brains until none is left.
    ///
    /// It ends, for each kind of effect only makes kinds further down, and a hold is released and a token
    /// completed but once: a message received from a cloud makes forwards, tokens and holds; a forward never
    /// makes a message, it only releases holds (of what it displaced); a released hold completes a token; a
    /// completed token lets its bridge acknowledge and send, which may release what expired in its buffer.
    /// Nothing but a packet of a cloud, which is handled outside of this, makes a received message. A command makes
    /// an answer, which never is a command.
    pub fn settle(&mut self, now: Now) {
        for round in 0.. {
            debug_assert!(round < SETTLE_ROUNDS_MAX, "effects go in circles");
            self.settle_forwards(now);
            self.settle_completed(now);
            self.settle_received(now);
            self.settle_released(now);
            self.settle_gathered(now);
            self.settle_commands(now);
            if self.out.forwards.is_empty()
                && self.out.commands.is_empty()
                && self.out.completed.is_empty()
                && self.out.ledger.released.is_empty()
                && self.out.ledger.gathered.is_empty()
                && self.links.iter().all(|link| link.received.is_empty())
            {
                break;
            }
        }
        for link in &mut self.links {
            if std::mem::take(&mut link.changed) {
                link.changed_at = Some(now);
            }
        }
        self.settle_sends();
    }

    /// The earliest deadline of all brains. The timer sleeps for it from now on.
    pub fn next_deadline(&mut self) -> Option<Instant> {
        self.wake_at = self.earliest_deadline();
        self.wake_at
    }

    /// Whether a deadline came up that is earlier than what the timer sleeps for.
    pub fn plan_wake(&mut self) -> bool {
        let Some(earliest) = self.earliest_deadline() else { return false };
        let earlier = self.wake_at.is_none_or(|planned| earliest < planned);
        if earlier {
            self.wake_at = Some(earliest);
        }
        earlier
    }

    pub fn take_bells(&mut self) -> Vec<Bell> {
        self.bells.extend(self.links.iter_mut().filter_map(LinkBox::take_ring));
        self.bells.extend(self.commands.take_rings());
        std::mem::take(&mut self.bells)
    }

    fn earliest_deadline(&self) -> Option<Instant> {
        let bridges = self.bridges.iter().filter_map(Bridge::next_deadline);
        let commands = self.commands.next_deadline();
        self.broker.next_deadline().into_iter().chain(bridges).chain(commands).map(|(at, _)| at).min()
    }

    fn settle_forwards(&mut self, now: Now) {
        for forward in std::mem::take(&mut self.out.forwards) {
            let Forward { bridge, rule, message, hold, urgent } = forward;
            let index = usize::from(bridge);
            let forwarded = Forwarded { rule, message, hold, urgent };
            self.visit_bridge(index, |bridge, out| bridge.handle_forward(forwarded, now, out));
            self.update_gate(bridge, rule);
        }
    }

    fn update_gate(&mut self, bridge: u16, rule: u16) {
        let room = self.bridges[usize::from(bridge)].room_bytes(rule);
        self.broker.handle_gate(bridge, rule, room);
    }

    /// Every rule's gate: after anything that may have made room.
    pub fn update_gates(&mut self, index: usize) {
        let Ok(bridge) = u16::try_from(index) else { return };
        for rule in 0..self.rules[index] {
            self.update_gate(bridge, rule);
        }
    }

    fn settle_completed(&mut self, now: Now) {
        for Token(token) in std::mem::take(&mut self.out.completed) {
            self.complete(token, false, now);
        }
    }

    fn complete(&mut self, token: u64, refused: bool, now: Now) {
        let own = token & ((1 << TOKEN_BITS) - 1);
        let Ok(index) = usize::try_from(token >> TOKEN_BITS) else { return };
        self.visit_bridge(index, |bridge, out| bridge.handle_completed(own, refused, now, out));
    }

    /// What came from clouds goes to the broker, with a token where an acknowledgement waits.
    fn settle_received(&mut self, now: Now) {
        for index in 0..self.links.len() {
            for received in std::mem::take(&mut self.links[index].received) {
                let token = received.token.map(|own| ((index as u64) << TOKEN_BITS) | own);
                // The cloud sends a QoS 2 message once: all of its records belong to this visit.
                let urgent = received.message.qos == QoS::ExactlyOnce;
                let published = self.broker.handle_publish(
                    received.message,
                    token.map(Token),
                    urgent,
                    now,
                    &mut self.out,
                );
                if let (Err(_), Some(token)) = (published, token) {
                    self.complete(token, true, now);
                }
            }
        }
    }

    /// In the order of their release, which mostly is that of the acknowledgements that wait for them.
    fn settle_released(&mut self, now: Now) {
        while !self.out.ledger.released.is_empty() {
            for hold in std::mem::take(&mut self.out.ledger.released) {
                self.broker.handle_released(hold, now, &mut self.out);
            }
        }
    }

    /// What gathers for a commit goes on doing so until somebody waits who could publish more.
    fn settle_gathered(&mut self, now: Now) {
        for hold in std::mem::take(&mut self.out.ledger.gathered) {
            self.broker.handle_gathered(hold, &mut self.out);
        }
        if !std::mem::take(&mut self.out.hurry) {
            return;
        }
        for index in 0..self.bridges.len() {
            self.visit_bridge(index, Bridge::handle_hurry);
        }
        self.broker.handle_hurry(now, &mut self.out);
    }

    fn settle_sends(&mut self) {
        for (key, outgoing) in self.out.sends.drain(..) {
            let Some(outbox) = self.outboxes.get_mut(&key) else { continue };
            if matches!(outgoing, Outgoing::Packet(Packet::Connack(_)))
                && let Some(attached) = self.broker.attached(key)
            {
                outbox.set_terms(attached);
            }
            let was_empty = outbox.is_empty();
            if !outbox.push(outgoing) {
                self.outbox_dropped += 1;
            } else if was_empty && self.current != Some(key) {
                self.bells.push(outbox.bell.clone());
            }
        }
        for key in self.out.resumed.drain(..) {
            self.bells.extend(self.outboxes.get(&key).map(|outbox| outbox.bell.clone()));
        }
        for key in self.out.closes.drain(..) {
            let Some(outbox) = self.outboxes.get_mut(&key) else { continue };
            outbox.closing = true;
            self.bells.push(outbox.bell.clone());
        }
    }
}
