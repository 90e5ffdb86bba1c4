//! The gateway as a Sparkplug node towards this bridge's server: NDEATH as the will, births before anything else, what
//! waits in the session's own numbers and aliases, and the host that has to be there. Never sends by itself what the
//! buffer keeps.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use crate::base::time::{Doubt, Duration, Instant, Now};
use crate::bridge::Bridge;
use crate::bridge::effect::Effects;
use crate::bridge::fault::LinkFault;
use crate::bridge::forward::{Forwarded, Manner};
use crate::bridge::lane;
use crate::bridge::lanes::Lanes;
use crate::bridge::link::Phase;
use crate::bridge::status::{LinkState, Loss};
use crate::config::model;
use crate::mqtt::message::{Message, MessageProperties, Origin};
use crate::mqtt::packet::Packet;
use crate::mqtt::packet::connect::Will;
use crate::mqtt::packet::publish::Publish;
use crate::mqtt::packet::subscribe::{RetainHandling, SubscriptionOptions};
use crate::mqtt::qos::{PacketId, QoS};
use crate::mqtt::topic::{TopicFilter, TopicName};
use crate::sparkplug::payload::Payload;
use crate::sparkplug::session::{Definition, Publication, Session, asks_rebirth};
use crate::sparkplug::topic::{Kind, state_topic};
use crate::store::record::{Record, Seq};

/// Of NDEATH before DISCONNECT: no message of the buffer and no SUBSCRIBE has it.
const DEATH_ID: u16 = 65_535;

/// What a bridge is told of the node at its start.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    pub definition: Arc<Definition>,
    /// Of the last session with this server.
    pub bd_seq: Option<u8>,
}

/// What a device of the gateway says of itself.
#[derive(Debug, Clone, Copy)]
pub struct Said<'a> {
    pub kind: Kind,
    pub device: &'a str,
    pub payload: &'a Payload,
    pub message: &'a Arc<Message>,
}

#[derive(Debug)]
pub(super) struct Node {
    session: Session,
    host: Option<Host>,
    /// What hosts are to hear of a device once all has left that it said before. The last word of each counts.
    turns: BTreeMap<Arc<str>, (Seq, Turn)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Birth,
    Death,
}

/// The host without which nothing is sent.
#[derive(Debug)]
struct Host {
    topic: TopicName,
    /// None: it has said nothing on this connection.
    state: Option<HostState>,
}

/// What a host publishes, retained.
#[derive(Debug, Clone, Copy, Deserialize)]
struct HostState {
    online: bool,
    timestamp: u64,
}

impl Node {
    /// None: no rule of the bridge takes readings of a Sparkplug device.
    pub(super) fn new(settings: &NodeSettings, bridge: &model::Bridge) -> Option<Self> {
        let definition = &settings.definition;
        let carries = |device: &str| carries_device(definition, device, bridge);
        if !definition.devices.iter().any(|device| carries(&device.name)) {
            return None;
        }
        let host = bridge.primary_host.as_deref().and_then(state_topic);
        Some(Self {
            session: Session::new(definition, settings.bd_seq, carries),
            host: host.map(|topic| Host { topic, state: None }),
            turns: BTreeMap::new(),
        })
    }
}

impl Node {
    /// What was known of the devices before.
    pub(super) fn recall(&mut self, known: &Self) {
        self.session.recall(&known.session);
    }
}

/// Whether a bridge takes readings of the node's devices.
pub fn carries(definition: &Definition, bridge: &model::Bridge) -> bool {
    definition.devices.iter().any(|device| carries_device(definition, &device.name, bridge))
}

fn carries_device(definition: &Definition, device: &str, bridge: &model::Bridge) -> bool {
    let topic = definition.node.device_topic(Kind::DeviceData, device);
    topic.is_some_and(|topic| rule_for(bridge, &topic).is_some())
}

fn rule_for(bridge: &model::Bridge, topic: &TopicName) -> Option<u16> {
    let at = bridge.forward.iter().position(|rule| rule.filter.matches(topic))?;
    u16::try_from(at).ok()
}

/// Of what a device said, nothing before this one has still to leave. None: all has left.
fn unsent_from(device: &str, session: &Session, (bridge, lanes): (&model::Bridge, &Lanes)) -> Option<Seq> {
    let topic = session.node().device_topic(Kind::DeviceData, device)?;
    let rule = bridge.forward.get(usize::from(rule_for(bridge, &topic)?))?;
    lanes.unsent_from(lane::waiting(rule), lane::live(rule))
}

impl Bridge {
    /// A device of the gateway says something. Its readings wait in the buffer like any message; that it came or went
    /// is said when what it said before has left.
    pub fn handle_said(&mut self, said: Said<'_>, now: Now, out: &mut Effects) {
        let Some(node) = &mut self.node else { return };
        node.session.learn(said.kind, said.device, said.payload);
        if !node.session.carries(said.device) {
            return;
        }
        match said.kind {
            Kind::DeviceData => {
                let Some(rule) = rule_for(&self.settings.bridge, &said.message.topic) else { return };
                let message = Arc::clone(said.message);
                self.take_forward(Forwarded { rule, message, hold: None, urgent: false }, now, out);
            }
            Kind::DeviceBirth => self.note_turn(said.device, Turn::Birth, now, out),
            Kind::DeviceDeath => self.note_turn(said.device, Turn::Death, now, out),
            _ => {}
        }
    }

    /// The node is the same and has other devices, or others' metrics: its session goes on.
    pub fn redefine_node(&mut self, (before, after): (&Definition, &Definition)) {
        let Some(node) = &mut self.node else { return };
        let bridge = &self.settings.bridge;
        node.session.redefine((before, after), |device| carries_device(after, device, bridge));
    }

    fn note_turn(&mut self, device: &str, turn: Turn, now: Now, out: &mut Effects) {
        let last = self.lanes.last_seq();
        let Some(node) = self.node.as_mut().filter(|node| node.session.is_born()) else { return };
        node.turns.insert(device.into(), (last, turn));
        self.say_turns(None, now, out);
    }

    /// Whether a topic is one of the node that this link speaks for.
    pub(super) fn speaks_for(&self, topic: &TopicName) -> bool {
        self.node.as_ref().is_some_and(|node| node.session.node().parse(topic).is_some())
    }

    pub(super) fn node_subscriptions(&self) -> Vec<(TopicFilter, SubscriptionOptions)> {
        let Some(node) = &self.node else { return Vec::new() };
        let options = |retain_handling| SubscriptionOptions {
            qos: QoS::AtLeastOnce,
            no_local: true,
            retain_as_published: true,
            retain_handling,
        };
        // A command that is retained would be carried out at each reconnect.
        let commands = node.session.node().command_filters();
        let commands = commands.map(|filter| (filter, options(RetainHandling::DoNotSend)));
        let host = node.host.as_ref().and_then(|host| TopicFilter::new(host.topic.as_str()).ok());
        commands.chain(host.map(|filter| (filter, options(RetainHandling::Send)))).collect()
    }

    /// A connection begins, with a number of its own. What the server is to say when it breaks.
    pub(super) fn begin_node(&mut self, now: Now, out: &mut Effects) -> Option<Box<Will>> {
        let spool = self.lanes.main().id();
        let node = self.node.as_mut()?;
        let bd_seq = node.session.begin();
        if let Some(host) = &mut node.host {
            host.state = None;
        }
        out.ledger.log.push(Record::BirthPut { spool, bd_seq });
        let Publication { topic, payload, .. } = node.session.node_death(now)?;
        Some(Box::new(Will {
            topic,
            payload,
            qos: QoS::AtLeastOnce,
            retain: false,
            delay_interval: 0,
            expiry_interval: None,
            properties: MessageProperties::default(),
        }))
    }

    /// The server took neither the connection nor the will, so that no host has heard of its number.
    pub(super) fn unbegin_node(&mut self) {
        if let Some(node) = &mut self.node {
            node.session.unbegin();
        }
    }

    pub(super) fn end_node(&mut self) {
        if let Some(node) = &mut self.node {
            node.session.end();
            node.turns.clear();
        }
    }

    /// Whether what its host says has to be heard on each connection anew.
    pub(super) fn awaits_host(&self) -> bool {
        self.node.as_ref().is_some_and(|node| node.host.is_some())
    }

    /// Whether the host is there, where there has to be one.
    pub(super) fn has_host(&self) -> bool {
        let host = self.node.as_ref().and_then(|node| node.host.as_ref());
        host.is_none_or(|host| host.state.is_some_and(|state| state.online))
    }

    pub(super) fn say_births(&mut self, now: Now, out: &mut Effects) {
        let Some(node) = &mut self.node else { return };
        for birth in node.session.births(now) {
            self.say(birth, now, out);
        }
    }

    /// To be said before DISCONNECT, after which the server keeps the will to itself.
    pub(super) fn say_node_death(&mut self, now: Now, out: &mut Effects) {
        let death = self.node.as_ref().filter(|node| node.session.is_born());
        let Some(death) = death.and_then(|node| node.session.node_death(now)) else { return };
        let mut publish = publish_of(death);
        publish.qos = QoS::AtLeastOnce.min(self.server.maximum_qos);
        publish.packet_id = PacketId::new(DEATH_ID).filter(|_| publish.qos == QoS::AtLeastOnce);
        self.send(Packet::Publish(publish), now, out);
    }

    /// QoS 0: births are said again in each session.
    fn say(&mut self, publication: Publication, now: Now, out: &mut Effects) {
        let publish = publish_of(publication);
        if let Err(why) = self.server.check(&publish, self.settings.bridge.protocol) {
            tracing::warn!(
                bridge = %self.settings.bridge.name, topic = ?publish.topic, bytes = publish.payload.len(),
                "the cloud does not take this topic, or no message so large: its hosts cannot know the device"
            );
            return self.count_loss(why, None, publish.payload.len());
        }
        self.send(Packet::Publish(publish), now, out);
    }

    /// Which devices came or went, as far as all has left that they said before. `next` is what leaves next; None:
    /// nothing does now.
    pub(super) fn say_turns(&mut self, next: Option<Seq>, now: Now, out: &mut Effects) {
        let Some(node) = self.node.as_mut().filter(|node| node.session.is_born()) else { return };
        let (bridge, lanes) = (&self.settings.bridge, &self.lanes);
        let is_due = |device: &str, mark: Seq| {
            let before = next.is_none_or(|next| mark < next);
            before && unsent_from(device, &node.session, (bridge, lanes)).is_none_or(|first| mark < first)
        };
        let due = node.turns.iter().filter(|(device, (mark, _))| is_due(device, *mark));
        let due: Vec<_> = due.map(|(device, (_, turn))| (Arc::clone(device), *turn)).collect();
        let mut said = Vec::new();
        for (device, turn) in due {
            node.turns.remove(&device);
            said.extend(match turn {
                Turn::Birth => node.session.device_birth(&device, now),
                Turn::Death => node.session.device_death(&device, now),
            });
        }
        for publication in said {
            self.say(publication, now, out);
        }
    }

    /// What leaves of a message now: a reading of a Sparkplug device in the numbers of this session, behind the births
    /// that it needs.
    pub(super) fn told_now(
        &mut self,
        message: &Arc<Message>,
        manner: &Manner,
        now: Now,
        out: &mut Effects,
    ) -> Result<Arc<Message>, Loss> {
        if self.node.is_none() {
            return Ok(Arc::clone(message));
        }
        if manner.seq.is_some() {
            self.say_turns(manner.seq, now, out);
        }
        let last = self.lanes.last_seq();
        let Some(node) = &mut self.node else { return Ok(Arc::clone(message)) };
        let Some((Kind::DeviceData, Some(device))) = node.session.node().parse(&message.topic) else {
            return Ok(Arc::clone(message));
        };
        let payload = Payload::decode(&message.payload).map_err(|_| Loss::Unroutable)?;
        // Where newer ones went before it, it is history whenever it was read.
        let read_at = if manner.replayed { Instant::ORIGIN } else { message.arrived.instant };
        let read = (read_at, dated_later_millis(message, now));
        let mut said = node.session.data(device, &payload, read, now);
        let data = said.pop().ok_or(Loss::Unroutable)?;
        if !node.session.is_alive(device) {
            // It was born for the sake of what waits.
            node.turns.entry(device.into()).or_insert((last, Turn::Death));
        }
        for birth in said {
            self.say(birth, now, out);
        }
        Ok(Arc::new(Message { payload: data.payload, ..Message::clone(message) }))
    }

    /// What was told could not be sent.
    pub(super) fn take_back(&mut self) {
        if let Some(node) = &mut self.node {
            node.session.take_back();
        }
    }

    /// What the server has for the node itself, as what is to be routed in the gateway. None: it is for the rules.
    pub(super) fn node_messages(
        &mut self,
        publish: &Publish,
        now: Now,
        out: &mut Effects,
    ) -> Option<Vec<Message>> {
        let topic = publish.topic.as_ref()?;
        let node = self.node.as_mut()?;
        if let Some(host) = node.host.as_mut().filter(|host| host.topic == *topic) {
            if host.note(&publish.payload) {
                self.handle_host(now, out);
            }
            return Some(Vec::new());
        }
        match node.session.node().parse(topic)?.0 {
            Kind::NodeCommand => {
                if node.session.is_born() && asks_rebirth(&publish.payload) {
                    tracing::info!(bridge = %self.settings.bridge.name, "the cloud asked for a rebirth");
                    self.say_births(now, out);
                }
                Some(Vec::new())
            }
            Kind::DeviceCommand => Some(vec![Message {
                topic: topic.clone(),
                payload: publish.payload.clone(),
                qos: publish.qos,
                retain: publish.retain,
                properties: publish.properties.clone(),
                expiry_interval: publish.expiry_interval.map(|secs| Duration::from_secs(secs.into())),
                origin: Origin::Bridge(self.settings.index),
                arrived: now,
            }]),
            // Its own words, from a server that knows no No Local.
            _ => Some(Vec::new()),
        }
    }

    /// What the host says of itself changed.
    fn handle_host(&mut self, now: Now, out: &mut Effects) {
        match (self.phase.state(), self.has_host()) {
            (LinkState::Waiting, true) => self.go_up(now, out),
            (LinkState::Up, false) => {
                // The specification wants a new connection, and the number that comes with it.
                self.say_goodbye(now, out);
                self.fault = Some(LinkFault::HostOffline);
                self.go_away(out);
                self.set_phase(Phase::Closing { was_stable: true }, out);
            }
            _ => {}
        }
    }
}

impl Host {
    /// Whether it is news: what is older than what is known, or no state, is none.
    fn note(&mut self, payload: &[u8]) -> bool {
        let Ok(state) = serde_json::from_slice::<HostState>(payload) else { return false };
        if self.state.is_some_and(|known| state.timestamp < known.timestamp) {
            return false;
        }
        self.state = Some(state);
        true
    }
}

/// What is to be added to the times of a reading that was taken before the clock was set.
fn dated_later_millis(message: &Message, now: Now) -> i64 {
    let (arrived, dated) = (message.arrived.wall, message.arrived.dated_by(now));
    if arrived.doubt() != Doubt::Unset || dated.is_doubtful() {
        return 0;
    }
    dated.as_millis().saturating_sub(arrived.as_millis())
}

fn publish_of(publication: Publication) -> Publish {
    Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: Some(publication.topic),
        packet_id: None,
        payload: publication.payload,
        topic_alias: None,
        expiry_interval: None,
        subscription_identifiers: Vec::new(),
        properties: None,
    }
}
