//! On what terms a client is served: what its CONNECT asked, what its CONNACK announces, and the packets that are held
//! against either later. Knows no session.

use std::sync::Arc;

use crate::base::time::Duration;
use crate::broker::Broker;
use crate::broker::connection::{RECEIVE_MAXIMUM, TOPIC_ALIAS_MAXIMUM};
use crate::broker::effect::ConnKey;
use crate::broker::violation::Fault;
use crate::mqtt::frame::encoded_size;
use crate::mqtt::message::GATEWAY;
use crate::mqtt::packet::connect::{Connack, ConnackProperties, Connect, Role};
use crate::mqtt::packet::publish::Publish;
use crate::mqtt::packet::subscribe::Suback;
use crate::mqtt::packet::{Packet, Version};
use crate::mqtt::qos::PacketId;
use crate::mqtt::reason::ReasonCode;

/// What holds for one connection.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// None: its silence is never too long.
    pub keep_alive_secs: Option<u16>,
    /// What is announced where it is not what the client asked for.
    server_keep_alive: Option<u16>,
    pub expiry_secs: u32,
    /// Unacknowledged messages to the client.
    pub window: usize,
}

impl Terms {
    /// [MQTT-3.1.2-21] [MQTT-3.1.2-22] [MQTT-3.2.2-22] [MQTT-3.1.2-24 of 3.1.1]: one and a half keep alives.
    pub fn silence_max(&self) -> Option<Duration> {
        self.keep_alive_secs.map(|secs| Duration::from_secs(u64::from(secs)) * 3 / 2)
    }
}

/// The largest packet that the client takes.
pub fn packet_bytes_max(connect: &Connect) -> usize {
    let asked = connect.properties.maximum_packet_size;
    asked.map_or(usize::MAX, |max| usize::try_from(max).unwrap_or(usize::MAX))
}

/// Whether a CONNACK with these properties is one that the client takes [MQTT-3.1.2-24].
pub fn fits(connect: &Connect, properties: &ConnackProperties) -> bool {
    let connack =
        Connack { session_present: false, reason: ReasonCode::Success, properties: properties.clone() };
    encoded_size(&Packet::Connack(Box::new(connack)), connect.version) <= packet_bytes_max(connect)
}

/// The bridge of another gateway.
fn is_gateway(connect: &Connect) -> bool {
    connect.role == Role::Gateway
        || connect.properties.user_properties.iter().any(|(name, _)| &**name == GATEWAY)
}

/// Where the marks of messages stand that pass between a client and us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marking {
    /// Nowhere: it is no gateway.
    None,
    /// In a user property.
    Property,
    /// In the topic.
    Topic,
}

impl Marking {
    pub fn of(connect: &Connect) -> Self {
        match connect.version {
            _ if !is_gateway(connect) => Self::None,
            Version::V5 => Self::Property,
            Version::V3_1 | Version::V3_1_1 => Self::Topic,
        }
    }
}

impl Broker {
    pub(super) fn terms(&self, connect: &Connect) -> Terms {
        let limits = &self.settings.limits;
        let limit = u16::try_from(limits.keep_alive.as_secs()).unwrap_or(u16::MAX);
        let asked = connect.keep_alive;
        let properties = &connect.properties;
        let inflight = usize::from(limits.inflight);
        match connect.version {
            // They cannot be told another keep alive, so theirs counts; 0 turns it off (3.1.2.10).
            Version::V3_1 | Version::V3_1_1 => Terms {
                keep_alive_secs: (asked > 0).then_some(asked),
                server_keep_alive: None,
                expiry_secs: if connect.clean_start { 0 } else { self.expiry_limit_secs() },
                window: inflight,
            },
            Version::V5 => {
                let granted = if asked == 0 { limit } else { asked.min(limit) };
                Terms {
                    keep_alive_secs: Some(granted),
                    server_keep_alive: (granted != asked).then_some(granted),
                    expiry_secs: properties
                        .session_expiry_interval
                        .map_or(0, |secs| secs.min(self.expiry_limit_secs())),
                    // [MQTT-4.9.0-1]
                    window: properties.receive_maximum.map_or(inflight, |max| inflight.min(usize::from(max))),
                }
            }
        }
    }

    /// 3.2.2.3: only what is not the default. No Response Information, ever [MQTT-3.1.2-28]; no authentication method,
    /// for none was agreed on [MQTT-4.12.0-6]. One User Property, to the bridge of another gateway: its messages may come
    /// back from here. No Reason String here, and neither of them in any other packet of ours, so that none grows too
    /// large by them [MQTT-3.1.2-29] [MQTT-3.2.2-19] [MQTT-3.14.2-3] [MQTT-3.14.2-4].
    // Does not apply: [MQTT-3.2.2-9] [MQTT-3.2.2-10] [MQTT-3.2.2-12], there is QoS 2.
    pub(super) fn announce(
        &self,
        connect: &Connect,
        terms: Terms,
        assigned: Option<Arc<str>>,
    ) -> ConnackProperties {
        if connect.version != Version::V5 {
            let mut announced = ConnackProperties::default();
            if is_gateway(connect) {
                announced.set_gateway("");
            }
            return announced;
        }
        let asked_expiry = connect.properties.session_expiry_interval.unwrap_or(0);
        let mark = Arc::clone(&self.settings.mark);
        let mut announced = ConnackProperties {
            session_expiry_interval: (terms.expiry_secs != asked_expiry).then_some(terms.expiry_secs),
            receive_maximum: Some(RECEIVE_MAXIMUM),
            retain_available: (!self.retains()).then_some(false),
            maximum_packet_size: Some(self.settings.limits.packet_bytes),
            // [MQTT-3.1.3-7] [MQTT-3.2.2-16]
            assigned_client_id: assigned,
            topic_alias_maximum: Some(TOPIC_ALIAS_MAXIMUM),
            server_keep_alive: terms.server_keep_alive,
            user_properties: if is_gateway(connect) { vec![(GATEWAY.into(), mark)] } else { Vec::new() },
            ..ConnackProperties::default()
        };
        // [MQTT-3.2.2-20]
        if !fits(connect, &announced) {
            announced.user_properties.clear();
        }
        announced
    }

    pub(super) fn expiry_limit_secs(&self) -> u32 {
        u32::try_from(self.settings.limits.session_expiry.as_secs()).unwrap_or(u32::MAX)
    }

    /// Whether retained messages are kept at all.
    pub(super) fn retains(&self) -> bool {
        self.settings.limits.retained_messages > 0
    }

    /// 3.2.2.3.5: a 5.0 client that was told that nothing is retained asks for nothing else.
    pub(super) fn check_retain(&self, key: ConnKey, publish: &Publish) -> Result<(), Fault> {
        let link = self.conns.link(key);
        let was_told = !self.retains() && link.is_some_and(|link| link.version == Version::V5);
        if publish.retain && was_told { Err(Fault::RetainNotSupported) } else { Ok(()) }
    }

    /// SUBACK and UNSUBACK have a reason code for each filter; all other packets of ours are smaller than a CONNACK,
    /// or messages [MQTT-3.1.2-24].
    pub(super) fn check_answer(&self, key: ConnKey, id: PacketId, filters: usize) -> Result<(), Fault> {
        let most = self.conns.get(key).map_or(usize::MAX, |conn| conn.packet_bytes_max);
        if most == usize::MAX {
            return Ok(());
        }
        let suback = Suback { packet_id: id, reasons: vec![ReasonCode::Success; filters], properties: None };
        let answer_bytes = encoded_size(&Packet::Suback(suback), Version::V5);
        if answer_bytes > most { Err(Fault::AnswerTooLarge) } else { Ok(()) }
    }
}
