//! The application message: the only thing that the brains exchange.

use bytes::Bytes;
use std::sync::Arc;

use crate::base::time::{Doubt, Duration, Now};
use crate::base::undated::correct_time;
use crate::mqtt::qos::QoS;
use crate::mqtt::topic::TopicName;

/// Who published: decides No Local, the loop guard and what may be gathered before it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A LAN client, by its client identifier.
    Client(Arc<str>),
    /// A bridge's `receive` rule, by the bridge's index.
    Bridge(u16),
    /// A polled device, by its index.
    Device(u16),
    /// The gateway itself: `$SYS`, status topics, command results.
    Gateway,
}

/// The user property that each gateway adds to what it forwards and what may come back: its mark.
pub const VIA: &str = "tidegate-via";
/// The user property of CONNECT and CONNACK by which gateways know each other: the mark of the one that says it.
pub const GATEWAY: &str = "tidegate-gateway";

/// MQTT 5 properties that travel with a message unchanged [MQTT-3.3.2-4, -15, -16, -17, -18, -20].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MessageProperties {
    /// 3.3.2.3.2: 0 or 1.
    pub payload_format_utf8: Option<bool>,
    pub content_type: Option<Arc<str>>,
    pub response_topic: Option<TopicName>,
    pub correlation_data: Option<Bytes>,
    pub user_properties: Vec<(Arc<str>, Arc<str>)>,
}

impl MessageProperties {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the gateway of this mark forwarded the message.
    pub fn went_through(&self, mark: &str) -> bool {
        self.user_properties.iter().any(|(name, value)| &**name == VIA && &**value == mark)
    }
}

/// An application message as it was published. Shared by every queue that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub topic: TopicName,
    pub payload: Bytes,
    /// The QoS that it was published with.
    pub qos: QoS,
    /// The RETAIN flag that it was published with.
    pub retain: bool,
    /// Boxed: most messages have none.
    pub properties: Option<Box<MessageProperties>>,
    /// 3.3.2.3.3, counted from `arrived`.
    pub expiry_interval: Option<Duration>,
    pub origin: Origin,
    /// When the gateway took it. After a restart of the machine the instant is rebuilt from the wall clock.
    pub arrived: Now,
}

impl Message {
    /// A message without properties, of the gateway's own making.
    pub fn new(topic: TopicName, payload: impl Into<Bytes>, qos: QoS, origin: Origin, now: Now) -> Self {
        Self {
            topic,
            payload: payload.into(),
            qos,
            retain: false,
            properties: None,
            expiry_interval: None,
            origin,
            arrived: now,
        }
    }

    /// The message as it would be, had the clock been set when it came. None: it was, or still is not.
    pub fn dated(&self, now: Now) -> Option<Message> {
        let wall = self.arrived.dated_by(now);
        if self.arrived.wall.doubt() != Doubt::Unset || wall.is_doubtful() {
            return None;
        }
        let later = wall.as_millis().saturating_sub(self.arrived.wall.as_millis());
        let is_reading = matches!(self.origin, Origin::Device(_));
        let corrected = if is_reading { correct_time(&self.payload, later).map(Bytes::from) } else { None };
        Some(Message {
            payload: corrected.unwrap_or_else(|| self.payload.clone()),
            arrived: Now { wall, ..self.arrived },
            ..self.clone()
        })
    }

    /// What leaves of a message now: a reading that was taken before the clock was set has its right time once that is
    /// known. What `may_have_left` is repeated as it was.
    pub fn leaving(message: &Arc<Message>, may_have_left: bool, now: Now) -> Arc<Message> {
        let is_reading = matches!(message.origin, Origin::Device(_));
        let dated = if is_reading && !may_have_left { message.dated(now) } else { None };
        dated.map_or_else(|| Arc::clone(message), Arc::new)
    }

    /// What the message weighs in a queue: topic, payload and properties in bytes, without overhead.
    pub fn size_bytes(&self) -> usize {
        self.topic.as_str().len()
            + self.payload.len()
            + self.properties.as_deref().map_or(0, properties_bytes)
    }

    /// [MQTT-3.3.2-5]. An interval of 0 is over as soon as the message has to wait.
    pub fn is_expired(&self, now: Now) -> bool {
        let waited = now.instant.since(self.arrived.instant);
        self.expiry_interval.is_some_and(|interval| waited >= interval && !waited.is_zero())
    }

    /// [MQTT-3.3.2-6]: what is left of the expiry interval, in whole seconds, never 0 for what was to live.
    pub fn expiry_left_secs(&self, now: Now) -> Option<u32> {
        let interval = self.expiry_interval?;
        let left = interval.saturating_sub(now.instant.since(self.arrived.instant));
        let whole_secs = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        let least = u32::from(!interval.is_zero());
        Some(u32::try_from(whole_secs).unwrap_or(u32::MAX).max(least))
    }
}

fn properties_bytes(properties: &MessageProperties) -> usize {
    let pairs: usize = properties.user_properties.iter().map(|(name, value)| name.len() + value.len()).sum();
    pairs
        + properties.content_type.as_deref().map_or(0, str::len)
        + properties.response_topic.as_ref().map_or(0, |topic| topic.as_str().len())
        + properties.correlation_data.as_ref().map_or(0, Bytes::len)
}
