//! The phases of a link: from the transport through CONNECT and SUBSCRIBE to up, and down again. Carries no
//! messages.

use std::sync::Arc;

use crate::base::time::{Duration, Instant, Now};
use crate::bridge::effect::Effects;
use crate::bridge::fault::LinkFault;
use crate::bridge::liveness::{Due, Liveness};
use crate::bridge::pause::Wanted;
use crate::bridge::provider::Credential;
use crate::bridge::renewal;
use crate::bridge::server::Server;
use crate::bridge::status::LinkState;
use crate::bridge::{Bridge, Settings};
use crate::config::provider::Provider;
use crate::mqtt::message::{GATEWAY, MessageProperties};
use crate::mqtt::packet::connect::{Connack, Connect, ConnectProperties, Role, Will};
use crate::mqtt::packet::control::Disconnect;
use crate::mqtt::packet::publish::Publish;
use crate::mqtt::packet::{Packet, Version};
use crate::mqtt::qos::QoS;
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::topic::TopicName;
use crate::store::record::Lsn;

/// How long CONNACK, and each SUBACK, may take.
pub(super) const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// A link that was up for so long counts as good: the next loss is tried again at once.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// For so long after another client took the session, a good connection does not shorten the back-off.
const CONTESTED_FOR: Duration = Duration::from_secs(3600);
/// QoS 1 and 2 messages that the cloud may have unacknowledged towards us.
const RECEIVE_MAXIMUM: u16 = 100;
/// The largest packet that is taken from the cloud.
pub const RECEIVE_PACKET_BYTES_MAX: u32 = 16 * 1024 * 1024;
const ONLINE: &[u8] = b"online";
const OFFLINE: &[u8] = b"offline";

#[derive(Debug)]
pub(super) enum Phase {
    Down {
        retry_at: Instant,
    },
    /// There is no transport until a person wants one.
    Paused,
    /// The hand opens the transport and bounds that by itself.
    Connecting,
    Greeting {
        until: Instant,
    },
    /// The cloud lost the session: the identifiers of the old one are being forgotten.
    Settling {
        after: Lsn,
    },
    Subscribing {
        until: Instant,
    },
    /// The Sparkplug host is not there without which nothing is sent.
    Waiting,
    Up {
        since: Now,
    },
    /// The hand closes the transport.
    Closing {
        was_stable: bool,
    },
    Closed,
}

impl Phase {
    pub(super) fn state(&self) -> LinkState {
        match self {
            Self::Down { .. } => LinkState::Down,
            Self::Paused => LinkState::Paused,
            Self::Connecting => LinkState::Connecting,
            Self::Greeting { .. } => LinkState::Greeting,
            Self::Settling { .. } | Self::Subscribing { .. } => LinkState::Subscribing,
            Self::Waiting => LinkState::Waiting,
            Self::Up { .. } => LinkState::Up,
            Self::Closing { .. } => LinkState::Closing,
            Self::Closed => LinkState::Closed,
        }
    }

    pub(super) fn deadline(&self) -> Option<(Instant, &'static str)> {
        match self {
            Self::Down { retry_at } => Some((*retry_at, "retry")),
            Self::Greeting { until } => Some((*until, "connack")),
            Self::Subscribing { until } => Some((*until, "suback")),
            Self::Paused
            | Self::Connecting
            | Self::Settling { .. }
            | Self::Waiting
            | Self::Up { .. }
            | Self::Closing { .. }
            | Self::Closed => None,
        }
    }

    pub(super) fn awaited(&self) -> Option<Lsn> {
        if let Self::Settling { after } = self { Some(*after) } else { None }
    }

    fn was_stable(&self, now: Now) -> bool {
        match self {
            Self::Up { since } => now.instant.since(since.instant) >= STABLE_AFTER,
            Self::Closing { was_stable } => *was_stable,
            _ => false,
        }
    }
}

impl Bridge {
    /// The transport is up.
    pub fn handle_connected(&mut self, now: Now, out: &mut Effects) {
        if self.phase.state() != LinkState::Connecting {
            return;
        }
        self.learned.forget_old(now.instant);
        let death = self.begin_node(now, out);
        let bridge = &self.settings.bridge;
        let credential = match Credential::new(bridge, now.wall) {
            Ok(credential) => credential,
            Err(why) => return self.fail(LinkFault::NoCredential(why), now, out),
        };
        self.renewal_at = renewal::due_at(&credential, now.instant);
        self.liveness = Liveness::new(bridge.keep_alive, now.instant);
        self.server = Server::before_connack(bridge);
        let role = self.choose_role();
        let mut connect = Connect { role, ..connect_of(&self.settings, credential, death) };
        if let Some(will) = &mut connect.will {
            let shown = self.shown();
            will.qos = will.qos.min(shown.maximum_qos);
            will.retain &= shown.retain;
        }
        let connect = Packet::Connect(Box::new(connect));
        self.send(connect, now, out);
        self.set_phase(Phase::Greeting { until: now.instant + ANSWER_WAIT }, out);
    }

    /// A packet from the cloud. Err: the transport is to be closed; this brain has let go of it already.
    pub fn handle_packet(&mut self, packet: Packet, now: Now, out: &mut Effects) -> Result<(), LinkFault> {
        self.liveness.handle_received(now.instant);
        let handled = match self.phase.state() {
            LinkState::Greeting => self.handle_greeting(packet, now, out),
            LinkState::Subscribing | LinkState::Waiting | LinkState::Up => {
                self.handle_session_packet(packet, now, out)
            }
            // What still comes from a transport that is being closed.
            LinkState::Down
            | LinkState::Paused
            | LinkState::Connecting
            | LinkState::Closing
            | LinkState::Closed => Ok(()),
        };
        match handled {
            Ok(()) => self.pump(now, out),
            Err(fault) => {
                self.fail(fault.clone(), now, out);
                return Err(fault);
            }
        }
        self.report_losses(now);
        Ok(())
    }

    /// The transport is gone, or could not be made.
    pub fn handle_disconnected(&mut self, why: LinkFault, now: Now, out: &mut Effects) {
        if matches!(self.phase, Phase::Closed | Phase::Down { .. } | Phase::Paused) {
            return;
        }
        if self.wanted == Wanted::Pause {
            self.fault = None;
            self.go_away(out);
            return self.set_paused(out);
        }
        let was_stable = self.phase.was_stable(now);
        if !matches!(self.phase, Phase::Closing { .. }) {
            self.note_end(&why, now, out);
        }
        let fault = self.fault.take().unwrap_or(why);
        if was_stable && !self.is_contested(&fault, now) {
            self.backoff.reset();
        }
        let is_news = !self.was_step() && self.servers.is_news(&fault);
        let at_once = std::mem::replace(&mut self.wanted, Wanted::Link) == Wanted::LinkAtOnce;
        let waits = !at_once && self.servers.handle_ended(was_stable);
        let wait = if waits { self.next_wait(&fault) } else { Duration::ZERO };
        self.log_down(&fault, wait, is_news);
        self.last_error = Some(fault);
        self.go_away(out);
        self.set_phase(Phase::Down { retry_at: now.instant + wait }, out);
    }

    /// Whoever has the session now is not fought for it: who takes turns with us gets longer ones.
    fn is_contested(&mut self, fault: &LinkFault, now: Now) -> bool {
        if matches!(fault, LinkFault::ServerLeft(ReasonCode::SessionTakenOver)) {
            self.contested_until = Some(now.instant + CONTESTED_FOR);
            let bridge = &self.settings.bridge;
            tracing::warn!(bridge = %bridge.name, client_id = %bridge.client_id, "another client has this client id");
        }
        self.contested_until.is_some_and(|until| now.instant < until)
    }

    /// Full jitter; of who is asked to stay away, the later half of it.
    fn next_wait(&mut self, fault: &LinkFault) -> Duration {
        let (LinkFault::ServerLeft(reason) | LinkFault::Refused(reason)) = fault else {
            return self.backoff.next_wait(&mut self.rng);
        };
        let is_asked_to = matches!(
            reason,
            ReasonCode::SessionTakenOver
                | ReasonCode::ServerBusy
                | ReasonCode::QuotaExceeded
                | ReasonCode::MessageRateTooHigh
                | ReasonCode::ConnectionRateExceeded
        );
        let least = if is_asked_to { 0.5 } else { 0.0 };
        self.backoff.next_ceiling().mul_f64(least + (1.0 - least) * self.rng.f64())
    }

    /// Once for each server and reason: attempts that fail alike, for days perhaps, are no news and would wear the flash.
    fn log_down(&self, fault: &LinkFault, wait: Duration, is_news: bool) {
        let bridge = &self.settings.bridge.name;
        let retry_in_ms = wait.as_millis();
        if is_news {
            tracing::info!(%bridge, reason = %fault, retry_in_ms, "link is down");
        } else {
            tracing::debug!(%bridge, reason = %fault, retry_in_ms, "link is still down");
        }
    }

    pub(super) fn handle_link_timeout(&mut self, now: Now, out: &mut Effects) {
        if self.phase.deadline().is_some_and(|(at, _)| at <= now.instant) {
            match self.phase.state() {
                LinkState::Down => {
                    out.connect = true;
                    self.set_phase(Phase::Connecting, out);
                }
                LinkState::Greeting => self.fail(LinkFault::NoConnack, now, out),
                _ => self.fail(LinkFault::NoSuback, now, out),
            }
            return;
        }
        if self.is_greeted() {
            match self.liveness.handle_timeout(now.instant) {
                Ok(Due::Nothing) => {}
                Ok(Due::Ping) => self.send(Packet::Pingreq, now, out),
                Err(fault) => return self.fail(fault, now, out),
            }
            self.asked.doubt.handle_timeout(now.instant);
            if self.asked.doubt.is_overdue(now.instant) {
                return self.fail(LinkFault::NoSuback, now, out);
            }
            self.retry_subscriptions(now, out);
            self.retry_left_out(now);
            self.handle_renewal(now, out);
        }
    }

    /// Whether CONNACK came and the session is there.
    pub(super) fn is_greeted(&self) -> bool {
        matches!(
            self.phase,
            Phase::Settling { .. } | Phase::Subscribing { .. } | Phase::Waiting | Phase::Up { .. }
        )
    }

    pub(super) fn set_phase(&mut self, phase: Phase, out: &mut Effects) {
        out.changed |= phase.state() != self.phase.state();
        self.phase = phase;
    }

    /// The spool and the inlet forget the connection.
    pub(super) fn go_away(&mut self, out: &mut Effects) {
        self.lanes.handle_away(&mut out.ledger);
        self.inlet.handle_away();
        self.arrivals.handle_away();
        self.asked.handle_away();
        self.aside.handle_away();
        self.end_node();
        self.leaving = None;
    }

    /// [MQTT-3.14.4-3]: the will is not published after DISCONNECT, so `offline` goes before it.
    pub(super) fn say_goodbye(&mut self, now: Now, out: &mut Effects) {
        if self.is_greeted() {
            self.say_status(OFFLINE, now, out);
        }
        self.part(now, out);
    }

    /// Without a word on the status.
    pub(super) fn part(&mut self, now: Now, out: &mut Effects) {
        if self.is_greeted() {
            self.say_node_death(now, out);
            self.send(Packet::Disconnect(Disconnect::with_reason(ReasonCode::Success)), now, out);
        }
        out.disconnect = true;
    }

    fn fail(&mut self, fault: LinkFault, now: Now, out: &mut Effects) {
        self.note_end(&fault, now, out);
        self.fault = Some(fault);
        out.disconnect = true;
        let was_stable = self.phase.was_stable(now);
        self.go_away(out);
        self.set_phase(Phase::Closing { was_stable }, out);
    }

    fn handle_greeting(&mut self, packet: Packet, now: Now, out: &mut Effects) -> Result<(), LinkFault> {
        match packet {
            Packet::Connack(connack) => self.handle_connack(&connack, now, out),
            Packet::Disconnect(disconnect) => Err(LinkFault::ServerLeft(disconnect.reason)),
            other => Err(LinkFault::Unexpected(other.packet_type().name())),
        }
    }

    fn handle_connack(&mut self, connack: &Connack, now: Now, out: &mut Effects) -> Result<(), LinkFault> {
        if connack.reason != ReasonCode::Success {
            self.refer(connack.reason, connack.properties.server_reference.as_deref());
            // [MQTT-3.2.2-12]: the last will has the only QoS that was met there.
            self.note_refusal(connack.reason, QoS::AtLeastOnce);
            return Err(LinkFault::Refused(connack.reason));
        }
        if self.is_taken_as_less(connack, now, out) {
            return Ok(());
        }
        self.server = Server::of(&connack.properties, &self.settings.bridge, self.shown());
        // [MQTT-3.1.2-21]
        if let Some(secs) = connack.properties.server_keep_alive {
            self.liveness.set_keep_alive(Duration::from_secs(secs.into()));
        }
        let recorded = out.ledger.log.last();
        let resumes = self.take_session(connack.session_present, now, out);
        self.say_status(ONLINE, now, out);
        let stands = resumes && self.subscribed && !self.awaits_host();
        if stands || self.subscriptions().is_empty() {
            self.go_up(now, out);
        } else if out.ledger.log.last() > recorded {
            // A new session sends nothing before SUBSCRIBE. Did it sooner, a crash could bring back an identifier of
            // the old session and take a new message for a repeat.
            self.set_phase(Phase::Settling { after: out.ledger.log.last() }, out);
        } else {
            self.subscribe(now, out);
        }
        Ok(())
    }

    /// Records up to `lsn` are on disk.
    pub(super) fn handle_settled(&mut self, lsn: Lsn, now: Now, out: &mut Effects) {
        if self.phase.awaited().is_some_and(|after| after <= lsn) {
            self.subscribe(now, out);
        }
    }

    /// Messages may leave, unless the host that they are for is not there.
    pub(super) fn go_up(&mut self, now: Now, out: &mut Effects) {
        if !self.has_host() {
            tracing::info!(bridge = %self.settings.bridge.name, "link stands, and waits for its primary host");
            self.last_error = Some(LinkFault::HostOffline);
            return self.set_phase(Phase::Waiting, out);
        }
        self.lanes.handle_here(self.server.window, now.instant, &mut out.ledger);
        if self.leaving.is_some() {
            self.lanes.hold_back();
        }
        self.last_error = None;
        self.servers.handle_up();
        self.set_phase(Phase::Up { since: now }, out);
        tracing::info!(
            bridge = %self.settings.bridge.name, server = %self.servers.target(), queued = self.lanes.messages(),
            inflight_max = self.server.window, "link is up"
        );
        self.tell_degraded();
        self.say_births(now, out);
        self.begin_trial(now, out);
    }

    fn handle_session_packet(
        &mut self,
        packet: Packet,
        now: Now,
        out: &mut Effects,
    ) -> Result<(), LinkFault> {
        match packet {
            Packet::Publish(mut publish) => {
                self.unmark(&mut publish);
                self.handle_publish(&publish, now, out)
            }
            Packet::Puback(ack) => self.handle_puback(&ack, now, out),
            Packet::Pubrec(ack) => self.handle_pubrec(&ack, now, out),
            Packet::Pubcomp(ack) => {
                self.handle_pubcomp(&ack, now, out);
                Ok(())
            }
            Packet::Pubrel(ack) => {
                self.inlet.handle_pubrel(ack.packet_id, &mut out.ledger.log);
                Ok(())
            }
            Packet::Suback(suback) => self.handle_suback(&suback, now, out),
            Packet::Pingresp => {
                self.own_session(out);
                self.handle_trial_pingresp(now, out);
                self.handle_filter_pingresp(now, out);
                Ok(())
            }
            Packet::Disconnect(disconnect) => {
                let reference = disconnect.properties.and_then(|properties| properties.server_reference);
                self.refer(disconnect.reason, reference.as_deref());
                Err(LinkFault::ServerLeft(disconnect.reason))
            }
            other => Err(LinkFault::Unexpected(other.packet_type().name())),
        }
    }

    /// QoS 0: it is said again after every CONNACK.
    fn say_status(&mut self, payload: &'static [u8], now: Now, out: &mut Effects) {
        let Some(topic) = self.settings.bridge.status_topic.clone() else { return };
        let publish = Publish {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: self.server.retain_available,
            topic: Some(topic),
            packet_id: None,
            payload: payload.into(),
            topic_alias: None,
            expiry_interval: None,
            subscription_identifiers: Vec::new(),
            properties: None,
        };
        self.send(Packet::Publish(publish), now, out);
    }
}

/// `death` is what a Sparkplug node leaves: there is one will.
fn connect_of(settings: &Settings, credential: Credential, death: Option<Box<Will>>) -> Connect {
    let bridge = &settings.bridge;
    let secs = |duration: Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
    let properties = match bridge.protocol {
        Version::V5 => ConnectProperties {
            session_expiry_interval: Some(secs(bridge.session_expiry)),
            receive_maximum: Some(RECEIVE_MAXIMUM),
            maximum_packet_size: Some(RECEIVE_PACKET_BYTES_MAX),
            user_properties: greeting_of(settings),
            ..ConnectProperties::default()
        },
        Version::V3_1 | Version::V3_1_1 => ConnectProperties::default(),
    };
    let terms = bridge.account.provider().terms();
    Connect {
        version: bridge.protocol,
        role: Role::Client,
        client_id: credential.client_id,
        clean_start: false,
        keep_alive: u16::try_from(secs(bridge.keep_alive)).unwrap_or(u16::MAX),
        will: death.or_else(|| bridge.status_topic.as_ref().map(|topic| will_of(topic, terms.retain))),
        username: credential.username,
        password: credential.password.map(|secret| secret.reveal().to_owned().into()),
        properties,
    }
}

/// Another gateway is told that this is one. A cloud that has rules of its own is told nothing.
fn greeting_of(settings: &Settings) -> Vec<(Arc<str>, Arc<str>)> {
    let is_told = settings.bridge.account.provider() == Provider::Generic;
    is_told.then(|| (GATEWAY.into(), Arc::clone(&settings.mark))).into_iter().collect()
}

fn will_of(topic: &TopicName, retain: bool) -> Box<Will> {
    Box::new(Will {
        topic: topic.clone(),
        payload: OFFLINE.into(),
        qos: QoS::AtLeastOnce,
        retain,
        delay_interval: 0,
        expiry_interval: None,
        properties: MessageProperties::default(),
    })
}
