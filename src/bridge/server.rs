//! What the server of a connection takes: what its CONNACK says, and what its vendor does. Plain facts; sends nothing.

use crate::bridge::aliases::{ALIAS_BYTES, Aliases};
use crate::bridge::learned::Shown;
use crate::bridge::status::Loss;
use crate::bridge::wire::{PACKET_BYTES_MAX, publish_bytes};
use crate::config::model;
use crate::config::provider::Terms;
use crate::config::provider::topics::Way;
use crate::mqtt::packet::Version;
use crate::mqtt::packet::connect::ConnackProperties;
use crate::mqtt::packet::publish::Publish;
use crate::mqtt::qos::QoS;
use crate::mqtt::topic::{TopicFilter, TopicName};

/// The window towards a 3.x server, which cannot say how much it takes. Mosquitto's default is 20 QoS 2 messages,
/// and it acknowledges what it throws away beyond that.
const WINDOW_MAX_UNSAID: u16 = 20;

/// A server that takes less than this is said to.
const SMALL_PACKET_BYTES: u64 = 128 * 1024;

/// Which kinds of subscriptions a server has, besides plain ones.
#[derive(Debug)]
struct Filters {
    wildcards: bool,
    shared: bool,
}

/// What the server of this connection takes.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) maximum_qos: QoS,
    pub(super) retain_available: bool,
    filters: Filters,
    /// Less than was asked for.
    session_secs: Option<u64>,
    packet_bytes_max: u64,
    pub(super) window: usize,
    /// Another gateway, which may send on to us what we send to it.
    pub(super) is_gateway: bool,
    aliases: Aliases,
    /// What the cloud takes, whatever its CONNACK says.
    pub(super) terms: Terms,
    /// Empty: any topic.
    topics: Vec<TopicFilter>,
}

impl Server {
    pub(super) fn before_connack(bridge: &model::Bridge) -> Self {
        Self::of(&ConnackProperties::default(), bridge, Shown::default())
    }

    /// 3.2.2.3, and what was found out.
    pub(super) fn of(properties: &ConnackProperties, bridge: &model::Bridge, shown: Shown) -> Self {
        let receive_maximum = match bridge.protocol {
            Version::V5 => properties.receive_maximum.unwrap_or(u16::MAX),
            // Who writes a window knows the server.
            Version::V3_1 | Version::V3_1_1 if bridge.inflight_is_written => u16::MAX,
            Version::V3_1 | Version::V3_1_1 => WINDOW_MAX_UNSAID,
        };
        let expiry_asked = bridge.session_expiry.as_secs();
        let terms = bridge.account.provider().terms();
        Self {
            maximum_qos: properties
                .maximum_qos
                .unwrap_or(QoS::ExactlyOnce)
                .min(terms.maximum_qos)
                .min(shown.maximum_qos),
            retain_available: properties.retain_available.unwrap_or(true) && terms.retain && shown.retain,
            filters: Filters {
                wildcards: properties.wildcard_subscription_available.unwrap_or(true) && shown.wildcards,
                shared: properties.shared_subscription_available.unwrap_or(true) && shown.shared,
            },
            // 3.2.2.3.2: what the server says counts.
            session_secs: properties
                .session_expiry_interval
                .map(u64::from)
                .filter(|kept| *kept < expiry_asked),
            packet_bytes_max: properties.maximum_packet_size.map_or(PACKET_BYTES_MAX, u64::from),
            // [MQTT-3.3.4-9]
            window: usize::from(receive_maximum.min(bridge.inflight).min(terms.window_max).max(1)),
            is_gateway: properties.is_gateway(),
            // [MQTT-3.2.2-18]: none where it says nothing.
            aliases: Aliases::new(properties.topic_alias_maximum.unwrap_or(0)),
            terms,
            topics: bridge.account.topics(Way::ToCloud),
        }
    }

    /// Whether it has subscriptions of this kind: to ask for another one ends the connection.
    pub(super) fn offers(&self, filter: &TopicFilter) -> bool {
        let shared = filter.share_name().is_some();
        (self.filters.wildcards || !filter.has_wildcard()) && (self.filters.shared || !shared)
    }

    /// Less than was asked for, in words.
    pub(super) fn degraded(&self) -> Vec<String> {
        let qos = match self.maximum_qos {
            QoS::AtMostOnce => Some("all goes at QoS 0: the server acknowledges nothing".to_owned()),
            QoS::AtLeastOnce => Some("QoS 2 goes as QoS 1: it may arrive twice".to_owned()),
            QoS::ExactlyOnce => None,
        };
        let retain = (!self.retain_available).then(|| "the server retains nothing".to_owned());
        let session = self.session_secs.map(|secs| format!("the session is kept for {secs} s alone"));
        let packet = (self.packet_bytes_max < SMALL_PACKET_BYTES)
            .then(|| format!("packets above {} bytes are not taken", self.packet_bytes_max));
        [qos, retain, session, packet].into_iter().flatten().collect()
    }

    /// With an alias for its topic where one is taken and the packet stays small enough.
    pub(super) fn shorten(&mut self, publish: &mut Publish) {
        if publish_bytes(publish, Version::V5) + ALIAS_BYTES <= self.packet_bytes_max {
            self.aliases.shorten(publish);
        }
    }

    /// Whether a message as it is to leave, but for an alias, is taken.
    pub(super) fn check(&self, publish: &Publish, version: Version) -> Result<(), Loss> {
        if !publish.topic.as_ref().is_some_and(|topic| self.takes(topic)) {
            return Err(Loss::Unroutable);
        }
        let fits = publish.payload.len() <= self.terms.payload_bytes_max;
        // [MQTT-3.2.2-15]
        if !fits || publish_bytes(publish, version) > self.packet_bytes_max {
            return Err(Loss::TooLarge);
        }
        Ok(())
    }

    /// What `check` asks of a message's size, for people.
    pub(super) fn limits(&self) -> String {
        let payload = self.terms.payload_bytes_max;
        match self.packet_bytes_max {
            PACKET_BYTES_MAX => format!("payloads of {payload} bytes"),
            packet => format!("packets of {packet} bytes"),
        }
    }

    /// A message on any other topic ends the connection, again and again.
    fn takes(&self, topic: &TopicName) -> bool {
        let known = self.topics.is_empty() || self.topics.iter().any(|filter| filter.matches(topic));
        known && topic.as_str().len() <= self.terms.topic_bytes_max && self.terms.takes_depth(topic)
    }
}
