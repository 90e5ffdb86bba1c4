//! One connection to a strict server: what its client may do, and how what it may not is punished.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tidegate::mqtt::frame::{Decoder, encode, encoded_size};
use tidegate::mqtt::packet::ack::{Ack, AckProperties};
use tidegate::mqtt::packet::connect::{Connack, ConnackProperties, Connect, Role};
use tidegate::mqtt::packet::control::Disconnect;
use tidegate::mqtt::packet::publish::Publish;
use tidegate::mqtt::packet::subscribe::{Suback, Subscribe};
use tidegate::mqtt::packet::{Packet, Peer, Version};
use tidegate::mqtt::qos::{PacketId, QoS};
use tidegate::mqtt::reason::ReasonCode;
use tidegate::mqtt::topic::{TopicFilter, TopicName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::session::Session;
use super::{Answer, Levels, Limits, Order, Seen, Shared, State, lock, tells};

/// What a server without a bound of its own takes.
const PACKET_BYTES_MAX: usize = 1 << 24;
/// Answers wait for so long for more to come, so that a client that sends more than it may is seen to.
const GATHERING: Duration = Duration::from_millis(3);

/// The connection ends: with this word, where the version has one.
struct End(Option<ReasonCode>);

pub(super) async fn accept(listener: TcpListener, state: Shared) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (orders, inbox) = unbounded_channel();
        let state = Shared::clone(&state);
        connections.spawn(async move {
            let decoder = Decoder::new(Peer::Client, PACKET_BYTES_MAX);
            let number = {
                let mut state = lock(&state);
                state.connections += 1;
                state.connections
            };
            let connection = Connection {
                state,
                decoder,
                number,
                orders,
                client: None,
                answers: Vec::new(),
                open: 0,
                aliases: BTreeMap::new(),
                keep_alive: None,
                turned_away: false,
            };
            connection.serve(stream, inbox).await;
        });
    }
}

struct Connection {
    state: Shared,
    decoder: Decoder,
    number: u64,
    orders: UnboundedSender<Order>,
    /// Some once CONNECT was taken.
    client: Option<(std::sync::Arc<str>, Version)>,
    answers: Vec<Packet>,
    /// QoS 1 messages of the client that are not answered.
    open: usize,
    aliases: BTreeMap<u16, TopicName>,
    keep_alive: Option<Duration>,
    turned_away: bool,
}

impl Connection {
    async fn serve(mut self, mut stream: TcpStream, mut inbox: UnboundedReceiver<Order>) {
        let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
        loop {
            let end = self.step(&mut stream, &mut inbox, &mut input).await;
            self.write(&mut output, end.as_ref().err());
            let written = stream.write_all(&output).await;
            output.clear();
            if end.is_err() || written.is_err() {
                break;
            }
        }
        let _gone = stream.shutdown().await;
        // What the client still sends is read, so that it gets the end as one, and not as a reset.
        let rest = async {
            while matches!(stream.read_buf(&mut input).await, Ok(1..)) {
                input.clear();
            }
        };
        let _gone = timeout(Duration::from_secs(1), rest).await;
        self.forget();
    }

    fn forget(&self) {
        let mut state = lock(&self.state);
        if !self.turned_away {
            state.last_end = Some(Instant::now());
        }
        if let Some((client, _)) = &self.client
            && state.connected.get(client).is_some_and(|(number, _)| *number == self.number)
        {
            state.connected.remove(client);
            if state.limits.session_expiry == Some(0) {
                state.sessions.remove(client);
            }
        }
    }

    /// What comes next, and all that came with it.
    async fn step(
        &mut self,
        stream: &mut TcpStream,
        inbox: &mut UnboundedReceiver<Order>,
        input: &mut BytesMut,
    ) -> Result<(), End> {
        let patience = self.keep_alive.map_or(Duration::from_secs(3600), |keep_alive| keep_alive * 3 / 2);
        tokio::select! {
            order = inbox.recv() => match order {
                Some(Order::Send(packet)) => self.answers.push(packet),
                Some(Order::Close) | None => return Err(End(None)),
            },
            read = timeout(patience, stream.read_buf(input)) => match read {
                Ok(Ok(1..)) => {}
                Ok(_) => return Err(End(None)),
                Err(_) => return self.punish(ReasonCode::KeepAliveTimeout, "silent for longer than its keep alive"),
            }
        }
        while let Ok(Ok(1..)) = timeout(GATHERING, stream.read_buf(input)).await {}
        loop {
            match self.decoder.decode(input) {
                Ok(None) => return Ok(()),
                Ok(Some(packet)) => self.handle(packet)?,
                Err(why) => return self.punish(ReasonCode::MalformedPacket, &why.to_string()),
            }
        }
    }

    fn version(&self) -> Version {
        self.client.as_ref().map_or(self.decoder.version(), |(_, version)| *version)
    }

    fn write(&mut self, output: &mut BytesMut, end: Option<&End>) {
        let version = self.version();
        if let Some(End(Some(reason))) = end
            && tells(version)
            && self.client.is_some()
        {
            self.answers.push(Packet::Disconnect(Disconnect::with_reason(*reason)));
        }
        for packet in self.answers.drain(..) {
            if !matches!(packet, Packet::Disconnect(_)) || tells(version) {
                encode(&packet, version, output).expect("a packet of ours");
            }
        }
        self.open = 0;
    }

    fn punish<T>(&self, reason: ReasonCode, what: &str) -> Result<T, End> {
        lock(&self.state).seen.violations.push(format!("{reason}: {what}"));
        Err(End(Some(reason)))
    }

    fn handle(&mut self, packet: Packet) -> Result<(), End> {
        let limits = lock(&self.state).limits.clone();
        let bytes = encoded_size(&packet, self.version());
        if limits.packet_bytes_max.is_some_and(|max| bytes > max as usize) {
            return self.punish(ReasonCode::PacketTooLarge, &format!("a packet of {bytes} bytes"));
        }
        match (packet, self.client.clone()) {
            (Packet::Connect(connect), None) => self.handle_connect(&connect, &limits),
            (_, None) | (Packet::Disconnect(_), Some(_)) => Err(End(None)),
            (Packet::Publish(publish), Some(_)) => self.handle_publish(publish, &limits),
            (Packet::Subscribe(subscribe), Some(_)) => self.handle_subscribe(&subscribe, &limits),
            (Packet::Pubrel(ack), Some(_)) => {
                let known = self.session(|session, _| session.held.remove(&ack.packet_id));
                let reason = if known { ReasonCode::Success } else { ReasonCode::PacketIdentifierNotFound };
                self.answers.push(Packet::Pubcomp(Ack::with_reason(ack.packet_id, reason)));
                Ok(())
            }
            (Packet::Puback(_), Some(_)) if limits.deaf => Ok(()),
            (Packet::Puback(ack) | Packet::Pubcomp(ack), Some(_)) => {
                self.session(|session, _| session.complete(ack.packet_id));
                Ok(())
            }
            (Packet::Pubrec(ack), Some(_)) => {
                self.session(|session, _| session.release(ack.packet_id));
                self.answers.push(Packet::Pubrel(Ack::success(ack.packet_id)));
                Ok(())
            }
            (Packet::Pingreq, Some(_)) => {
                lock(&self.state).seen.pings += 1;
                self.answers.push(Packet::Pingresp);
                Ok(())
            }
            (other, Some(_)) => self.punish(ReasonCode::ProtocolError, other.packet_type().name()),
        }
    }

    fn session<T>(&self, work: impl FnOnce(&mut Session, &mut Seen) -> T) -> T {
        let mut state = lock(&self.state);
        let state = &mut *state;
        let (client, _) = self.client.as_ref().expect("greeted");
        work(state.sessions.entry(client.clone()).or_default(), &mut state.seen)
    }

    fn turn_away(&mut self, role: Role, levels: Levels) -> Result<(), End> {
        self.turned_away = true;
        lock(&self.state).seen.turned_away.push(role);
        if levels != Levels::Closes {
            let reason = ReasonCode::UnsupportedProtocolVersion;
            let connack =
                Connack { session_present: false, reason, properties: ConnackProperties::default() };
            self.answers.push(Packet::Connack(Box::new(connack)));
        }
        Err(End(None))
    }

    fn handle_connect(&mut self, connect: &Connect, limits: &Limits) -> Result<(), End> {
        let version = connect.version;
        self.decoder.set_version(version);
        let takes = match limits.levels {
            Levels::Refuses | Levels::Closes => Role::Client,
            Levels::KnowsBridges => Role::Bridge,
            Levels::Overlooks => Role::Gateway,
        };
        if connect.role > takes {
            return self.turn_away(connect.role, limits.levels);
        }
        let mut state = lock(&self.state);
        let now = Instant::now();
        let early = state.last_end.is_some_and(|end| now.duration_since(end) < limits.connect_interval);
        state.seen.connects.push((now, connect.clone()));
        let refusal = state.limits.refusals.pop_front();
        let will = connect.will.as_deref();
        let (reason, reference) = if let Some(refusal) = refusal {
            (refusal.reason, refusal.reference)
        } else if early {
            (ReasonCode::ConnectionRateExceeded, None)
        } else if will.is_some_and(|will| will.qos > limits.maximum_qos) {
            // [MQTT-3.2.2-12]
            (ReasonCode::QosNotSupported, None)
        } else if will.is_some_and(|will| will.retain && !limits.retain) {
            // [MQTT-3.2.2-13]
            (ReasonCode::RetainNotSupported, None)
        } else {
            (ReasonCode::Success, None)
        };
        if reason != ReasonCode::Success {
            drop(state);
            let properties = ConnackProperties {
                server_reference: reference.map(Into::into),
                ..ConnackProperties::default()
            };
            let connack = Connack { session_present: false, reason, properties };
            let mut output = BytesMut::new();
            // 3.1.1 has no code for most of them: closed without a word.
            if encode(&Packet::Connack(Box::new(connack.clone())), version, &mut output).is_ok() {
                self.answers.push(Packet::Connack(Box::new(connack)));
            }
            return Err(End(None));
        }
        let client = connect.client_id.clone();
        if connect.clean_start {
            state.sessions.remove(&client);
        }
        let session_present = state.sessions.contains_key(&client);
        state.seen.resumed += usize::from(session_present);
        let owed = state.sessions.entry(client.clone()).or_default().resume();
        if let Some((_, other)) = state.connected.insert(client.clone(), (self.number, self.orders.clone())) {
            let word = Disconnect::with_reason(ReasonCode::SessionTakenOver);
            let _gone = other.send(Order::Send(Packet::Disconnect(word)));
            let _gone = other.send(Order::Close);
        }
        drop(state);
        let keep_alive = limits.server_keep_alive.filter(|_| tells(version)).unwrap_or(connect.keep_alive);
        self.keep_alive = (keep_alive > 0).then(|| Duration::from_secs(keep_alive.into()));
        self.client = Some((client, version));
        let properties =
            if tells(version) { announced(limits, connect) } else { ConnackProperties::default() };
        let reason = ReasonCode::Success;
        self.answers.push(Packet::Connack(Box::new(Connack { session_present, reason, properties })));
        self.answers.extend(owed);
        Ok(())
    }

    fn handle_publish(&mut self, mut publish: Publish, limits: &Limits) -> Result<(), End> {
        if publish.qos > limits.maximum_qos {
            return self.punish(ReasonCode::QosNotSupported, &format!("{:?}", publish.qos));
        }
        if publish.retain && !limits.retain {
            return self.punish(ReasonCode::RetainNotSupported, "a retained message");
        }
        if let Some(alias) = publish.topic_alias {
            if alias.get() > limits.topic_alias_maximum {
                return self.punish(ReasonCode::TopicAliasInvalid, &format!("alias {alias}"));
            }
            match &publish.topic {
                Some(topic) => drop(self.aliases.insert(alias.get(), topic.clone())),
                None => publish.topic = self.aliases.get(&alias.get()).cloned(),
            }
        }
        let Some(topic) = publish.topic.clone() else {
            return self.punish(ReasonCode::ProtocolError, "a message without a topic");
        };
        let open = self.count_open(&publish);
        if open > usize::from(limits.receive_maximum) {
            return self.punish(ReasonCode::ReceiveMaximumExceeded, &format!("{open} at once"));
        }
        let deep = topic.as_str().matches('/').count() > limits.topic_slashes_max;
        let forbidden = limits.forbidden.get(topic.as_str()).copied().or(deep.then_some(limits.too_deep));
        let quota = (publish.qos != QoS::AtMostOnce && self.over_quota())
            .then_some(Answer::Acknowledge(ReasonCode::QuotaExceeded));
        if forbidden.is_some() {
            self.session(|_, seen| seen.tries.push(topic.as_str().to_owned()));
        }
        match forbidden.or(quota) {
            Some(Answer::Acknowledge(reason)) if tells(self.version()) => self.acknowledge(&publish, reason),
            Some(Answer::Acknowledge(reason) | Answer::Leave(reason)) => {
                return self.punish(reason, topic.as_str());
            }
            None => self.take(&publish),
        }
        Ok(())
    }

    /// How many messages of the client are unacknowledged with this one: QoS 2 to its PUBCOMP (4.9).
    fn count_open(&mut self, publish: &Publish) -> usize {
        self.open += usize::from(publish.qos == QoS::AtLeastOnce);
        self.session(|session, seen| {
            let is_new = publish.qos == QoS::ExactlyOnce
                && publish.packet_id.is_some_and(|id| !session.held.contains(&id));
            let open = self.open + session.held.len() + usize::from(is_new);
            seen.unacknowledged_max = seen.unacknowledged_max.max(open);
            open
        })
    }

    /// Counts it as refused, where so many are still to be.
    fn over_quota(&self) -> bool {
        let mut state = lock(&self.state);
        let State { limits, seen, .. } = &mut *state;
        let over = limits.over_quota > 0;
        if over {
            limits.over_quota -= 1;
            seen.quota_refusals.push(Instant::now());
        }
        over
    }

    fn take(&mut self, publish: &Publish) {
        let is_new = self.session(|session, seen| {
            let is_new = publish.qos != QoS::ExactlyOnce
                || publish.packet_id.is_some_and(|id| session.held.insert(id));
            if is_new {
                seen.delivered.push(publish.clone());
            }
            is_new
        });
        let heard = if is_new { ReasonCode::NoMatchingSubscribers } else { ReasonCode::Success };
        self.acknowledge(publish, heard);
    }

    /// With a reason string, as talkative servers do.
    fn acknowledge(&mut self, publish: &Publish, reason: ReasonCode) {
        let ack = |packet_id: PacketId| Ack {
            packet_id,
            reason,
            properties: Some(Box::new(AckProperties {
                reason_string: Some("because".into()),
                ..AckProperties::default()
            })),
        };
        match (publish.qos, publish.packet_id) {
            (QoS::AtLeastOnce, Some(id)) => self.answers.push(Packet::Puback(ack(id))),
            (QoS::ExactlyOnce, Some(id)) => self.answers.push(Packet::Pubrec(ack(id))),
            _ => {}
        }
    }

    fn handle_subscribe(&mut self, subscribe: &Subscribe, limits: &Limits) -> Result<(), End> {
        if subscribe.subscription_identifier.is_some() && !limits.subscription_identifiers {
            return self.punish(ReasonCode::SubscriptionIdentifiersNotSupported, "an identifier");
        }
        let mut reasons = Vec::new();
        for (filter, options) in &subscribe.filters {
            self.session(|_, seen| seen.subscribes.push(filter.as_str().to_owned()));
            let closed = limits.closed_filters.get(filter.as_str()).copied();
            if let Some(word) = closed.or((options.qos > limits.subscribe_qos).then_some(None)) {
                self.session(|_, seen| seen.closed.push(filter.as_str().to_owned()));
                return Err(End(word));
            }
            let unavailable = unavailable(filter, limits);
            if let Some(reason) = unavailable.filter(|_| tells(self.version())) {
                return self.punish(reason, filter.as_str());
            }
            let refused = unavailable.or(limits.forbidden_filters.get(filter.as_str()).copied());
            reasons.push(refused.unwrap_or_else(|| {
                let qos = options.qos.min(limits.maximum_qos);
                self.session(|session, _| session.subscribe(filter, qos));
                match qos {
                    QoS::AtMostOnce => ReasonCode::Success,
                    QoS::AtLeastOnce => ReasonCode::GrantedQos1,
                    QoS::ExactlyOnce => ReasonCode::GrantedQos2,
                }
            }));
        }
        let packet_id = subscribe.packet_id;
        self.answers.push(Packet::Suback(Suback { packet_id, reasons, properties: None }));
        Ok(())
    }
}

/// 3.2.2.3.11 and 3.2.2.3.13.
fn unavailable(filter: &TopicFilter, limits: &Limits) -> Option<ReasonCode> {
    if filter.share_name().is_some() && !limits.shared {
        return Some(ReasonCode::SharedSubscriptionsNotSupported);
    }
    (filter.has_wildcard() && !limits.wildcards).then_some(ReasonCode::WildcardSubscriptionsNotSupported)
}

fn announced(limits: &Limits, connect: &Connect) -> ConnackProperties {
    if !limits.announces {
        return ConnackProperties::default();
    }
    let asked = connect.properties.session_expiry_interval.unwrap_or(0);
    ConnackProperties {
        session_expiry_interval: limits.session_expiry.filter(|most| *most < asked),
        receive_maximum: Some(limits.receive_maximum),
        maximum_qos: (limits.maximum_qos != QoS::ExactlyOnce).then_some(limits.maximum_qos),
        retain_available: Some(limits.retain),
        maximum_packet_size: limits.packet_bytes_max,
        assigned_client_id: limits.assigned_client_id.map(Into::into),
        topic_alias_maximum: Some(limits.topic_alias_maximum),
        reason_string: Some("welcome".into()),
        wildcard_subscription_available: Some(limits.wildcards),
        subscription_identifiers_available: Some(limits.subscription_identifiers),
        shared_subscription_available: Some(limits.shared),
        server_keep_alive: limits.server_keep_alive,
        ..ConnackProperties::default()
    }
}
