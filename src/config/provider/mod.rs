//! The clouds that have rules of their own: who the gateway is to them, and what they take. Facts of the vendors'
//! manuals; makes no credential and sends nothing.

pub mod topics;

use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::auth::signer::{PrivateKey, SharedKey};
use crate::base::time::Duration;
use crate::mqtt::packet::Version;
use crate::mqtt::qos::QoS;
use crate::mqtt::topic::TopicName;

/// Who the gateway is to its cloud, and what it proves that with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Account {
    /// Any MQTT server: user name and password are sent as they are.
    Generic,
    /// The client certificate says who it is.
    AwsIot,
    AzureIotHub {
        hub: Arc<str>,
        device: Arc<str>,
        /// Of an identity `device/module`.
        module: Option<Arc<str>>,
        /// None: the client certificate says who it is.
        key: Option<SharedKey>,
    },
    /// The client certificate says who it is, and the user name which client that is.
    AzureEventGrid,
    Google {
        project: Arc<str>,
        key: PrivateKey,
    },
    Aliyun {
        product: Arc<str>,
        device: Arc<str>,
        secret: SharedKey,
        /// Whether TLS carries it: the server is told.
        tls: bool,
    },
    OneNet {
        product: Arc<str>,
        device: Arc<str>,
        key: SharedKey,
    },
    Tencent {
        product: Arc<str>,
        device: Arc<str>,
        key: SharedKey,
    },
}

/// Which cloud it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    Generic,
    AwsIot,
    AzureIotHub,
    AzureEventGrid,
    Google,
    Aliyun,
    OneNet,
    Tencent,
}

pub const PROVIDERS: [(&str, Provider); 8] = [
    ("generic", Provider::Generic),
    ("aws-iot", Provider::AwsIot),
    ("azure-iot-hub", Provider::AzureIotHub),
    ("azure-event-grid", Provider::AzureEventGrid),
    ("google", Provider::Google),
    ("aliyun", Provider::Aliyun),
    ("onenet", Provider::OneNet),
    ("tencent", Provider::Tencent),
];

/// What a cloud takes. What it refuses, most of them answer by closing the connection, so that it must never be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    pub maximum_qos: QoS,
    pub retain: bool,
    pub will: bool,
    /// The first is the default.
    pub versions: &'static [Version],
    pub keep_alive_secs: RangeInclusive<u64>,
    pub payload_bytes_max: usize,
    pub topic_bytes_max: usize,
    pub topic_slashes_max: usize,
    pub client_id_bytes_max: usize,
    /// Messages that it may have unacknowledged.
    pub window_max: u16,
    /// How long a credential is asked to be good for. None: it does not run out.
    pub lifetime: Option<Duration>,
}

const HOUR: Duration = Duration::from_secs(3600);
const BOTH: &[Version] = &[Version::V5, Version::V3_1_1];
const OLD: &[Version] = &[Version::V3_1_1];
/// MQTT 1.5.4: two bytes of length.
const TEXT_BYTES_MAX: usize = 65_535;

/// A server without limits of its own but what MQTT says.
const OPEN: Terms = Terms {
    maximum_qos: QoS::ExactlyOnce,
    retain: true,
    will: true,
    versions: BOTH,
    keep_alive_secs: 0..=65_535,
    payload_bytes_max: usize::MAX,
    topic_bytes_max: TEXT_BYTES_MAX,
    topic_slashes_max: usize::MAX,
    client_id_bytes_max: TEXT_BYTES_MAX,
    window_max: u16::MAX,
    lifetime: None,
};

impl Provider {
    pub fn name(self) -> &'static str {
        PROVIDERS.iter().find(|(_, provider)| *provider == self).map_or("", |(name, _)| name)
    }

    /// Where a figure is missing, the vendor's manual says none.
    pub fn terms(self) -> Terms {
        let at_most_once_more = Terms { maximum_qos: QoS::AtLeastOnce, ..OPEN };
        let plain = Terms { retain: false, will: false, versions: OLD, ..at_most_once_more.clone() };
        match self {
            Self::Generic => OPEN,
            // docs.aws.amazon.com/general/latest/gr/iot-core.html, "message broker and protocol limits".
            Self::AwsIot => Terms {
                keep_alive_secs: 30..=1200,
                payload_bytes_max: 128 << 10,
                topic_bytes_max: 256,
                topic_slashes_max: 7,
                client_id_bytes_max: 128,
                window_max: 100,
                ..at_most_once_more
            },
            // learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-hub; a retained message is one like any other.
            Self::AzureIotHub => Terms {
                will: true,
                keep_alive_secs: 1..=1767,
                payload_bytes_max: 256 << 10,
                lifetime: Some(HOUR),
                ..plain
            },
            // learn.microsoft.com/azure/event-grid/mqtt-support, quotas-limits.
            Self::AzureEventGrid => Terms {
                retain: false,
                keep_alive_secs: 1..=1160,
                payload_bytes_max: 512 << 10,
                topic_bytes_max: 256,
                topic_slashes_max: 7,
                client_id_bytes_max: 128,
                ..at_most_once_more
            },
            // Cloud IoT Core's way, which ClearBlade goes on with: tokens of at most 24 hours.
            Self::Google => Terms {
                keep_alive_secs: 1..=1200,
                payload_bytes_max: 256 << 10,
                lifetime: Some(Duration::from_secs(12 * 3600)),
                ..plain
            },
            // alibabacloud.com/help/doc-detail/73742.htm, and the limits beside it.
            Self::Aliyun => Terms {
                versions: BOTH,
                keep_alive_secs: 30..=1200,
                payload_bytes_max: 256 << 10,
                topic_bytes_max: 128,
                topic_slashes_max: 7,
                client_id_bytes_max: 64,
                ..plain
            },
            // open.iot.10086.cn: the token, the table of what of MQTT is there.
            Self::OneNet => {
                Terms { keep_alive_secs: 10..=1800, lifetime: Some(Duration::from_secs(24 * 3600)), ..plain }
            }
            // cloud.tencent.com/document/product/634/32546.
            Self::Tencent => {
                Terms { keep_alive_secs: 1..=900, lifetime: Some(Duration::from_secs(24 * 3600)), ..plain }
            }
        }
    }
}

impl Terms {
    /// Whether a topic has no more levels than are taken. What names a rule of AWS is not counted.
    pub fn takes_depth(&self, topic: &TopicName) -> bool {
        let text = topic.as_str();
        let own = text.strip_prefix("$aws/rules/").and_then(|rest| rest.split_once('/'));
        own.map_or(text, |(_, own)| own).matches('/').count() <= self.topic_slashes_max
    }
}

impl Account {
    pub fn provider(&self) -> Provider {
        match self {
            Self::Generic => Provider::Generic,
            Self::AwsIot => Provider::AwsIot,
            Self::AzureIotHub { .. } => Provider::AzureIotHub,
            Self::AzureEventGrid => Provider::AzureEventGrid,
            Self::Google { .. } => Provider::Google,
            Self::Aliyun { .. } => Provider::Aliyun,
            Self::OneNet { .. } => Provider::OneNet,
            Self::Tencent { .. } => Provider::Tencent,
        }
    }

    /// How long what it proves itself with is good for. None: it does not run out, and no clock is needed.
    pub fn lifetime(&self) -> Option<Duration> {
        if matches!(self, Self::AzureIotHub { key: None, .. }) {
            return None;
        }
        self.provider().terms().lifetime
    }
}

#[cfg(test)]
mod tests {
    use super::{PROVIDERS, Provider};

    #[test]
    fn each_provider_has_its_name_and_a_default_that_it_takes() {
        for (name, provider) in PROVIDERS {
            assert_eq!(provider.name(), name);
            let terms = provider.terms();
            assert!(!terms.versions.is_empty() && terms.keep_alive_secs.contains(&30), "{name}");
        }
        assert_eq!(Provider::Generic.terms().topic_slashes_max, usize::MAX);
    }
}
