//! The topics that a cloud has, where it has no others. Matches names; knows no rule.

use crate::config::provider::Account;
use crate::mqtt::topic::{TopicFilter, TopicName};

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    ToCloud,
    FromCloud,
}

impl Account {
    /// What may be published to it, or asked of it. Empty: any topic.
    pub fn topics(&self, way: Way) -> Vec<TopicFilter> {
        let texts = match self {
            Self::Generic | Self::AwsIot | Self::AzureEventGrid => Vec::new(),
            Self::AzureIotHub { device, module, .. } => of_iot_hub(device, module.as_deref(), way),
            // A gateway speaks for the devices that are bound to it, too.
            Self::Google { .. } => owned(match way {
                Way::ToCloud => {
                    &["/devices/+/events/#", "/devices/+/state", "/devices/+/attach", "/devices/+/detach"]
                }
                Way::FromCloud => &["/devices/+/config", "/devices/+/commands/#", "/devices/+/errors"],
            }),
            Self::Aliyun { product, device, .. } => of_aliyun(product, device, way),
            Self::OneNet { product, device, .. } => {
                vec![format!("$sys/{product}/{device}/#"), format!("/ext/ntp/{product}/{device}/+")]
            }
            Self::Tencent { product, device, .. } => of_tencent(product, device),
        };
        texts.iter().filter_map(|text| TopicFilter::new(text).ok()).collect()
    }

    pub fn takes(&self, topic: &TopicName) -> bool {
        let topics = self.topics(Way::ToCloud);
        topics.is_empty() || topics.iter().any(|filter| filter.matches(topic))
    }

    /// Whether all that the filter asks for is the account's.
    pub fn gives(&self, filter: &TopicFilter) -> bool {
        let topics = self.topics(Way::FromCloud);
        topics.is_empty() || topics.iter().any(|outer| covers(outer, filter))
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-hub.
fn of_iot_hub(device: &str, module: Option<&str>, way: Way) -> Vec<String> {
    let own = module
        .map_or_else(|| format!("devices/{device}"), |module| format!("devices/{device}/modules/{module}"));
    match (way, module) {
        (Way::ToCloud, _) => vec![
            format!("{own}/messages/events/#"),
            "$iothub/methods/res/#".to_owned(),
            "$iothub/twin/GET/#".to_owned(),
            "$iothub/twin/PATCH/properties/reported/#".to_owned(),
        ],
        (Way::FromCloud, module) => {
            let messages = if module.is_some() { "inputs" } else { "messages/devicebound" };
            vec![
                format!("{own}/{messages}/#"),
                "$iothub/methods/POST/#".to_owned(),
                "$iothub/twin/res/#".to_owned(),
                "$iothub/twin/PATCH/properties/desired/#".to_owned(),
            ]
        }
    }
}

/// A gateway's sub-devices have their topics beside its own.
fn of_aliyun(product: &str, device: &str, way: Way) -> Vec<String> {
    let mut topics = owned(&["/sys/#", "/ext/#", "/ota/#", "/shadow/#", "/+/+/user/#"]);
    topics.push(format!("/{product}/{device}/#"));
    if way == Way::FromCloud {
        topics.push(format!("/broadcast/{product}/#"));
    }
    topics
}

fn of_tencent(product: &str, device: &str) -> Vec<String> {
    let own = format!("{product}/{device}");
    let mut topics = vec![format!("{own}/#"), format!("$rrpc/+/{own}/+")];
    for service in ["$shadow", "$ota", "$thing", "$sys", "$gateway", "$log", "$broadcast"] {
        topics.push(format!("{service}/+/{own}"));
        topics.push(format!("{service}/+/+/{own}"));
    }
    topics
}

/// Whether every topic that `inner` matches is matched by `outer`.
fn covers(outer: &TopicFilter, inner: &TopicFilter) -> bool {
    let mut inner = inner.levels();
    for level in outer.levels() {
        match (level, inner.next()) {
            ("#", _) => return true,
            ("+", Some(level)) if level != "#" => {}
            (level, Some(other)) if level == other => {}
            _ => return false,
        }
    }
    inner.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::covers;
    use crate::auth::signer::SharedKey;
    use crate::config::provider::Account;
    use crate::mqtt::topic::{TopicFilter, TopicName};

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::new(text).expect("a valid filter")
    }

    #[test]
    fn a_filter_covers_what_is_narrower() {
        let cases = [
            ("a/#", "a/b/+", true),
            ("a/#", "a", true),
            ("a/#", "a/#", true),
            ("a/+", "a/b", true),
            ("a/+", "a/+", true),
            ("a/+", "a/#", false),
            ("a/b", "a/+", false),
            ("a/#", "+/b", false),
            ("a", "a/b", false),
            ("a/b", "a", false),
        ];
        for (outer, inner, expected) in cases {
            assert_eq!(covers(&filter(outer), &filter(inner)), expected, "{outer} {inner}");
        }
    }

    #[test]
    fn clouds_with_topics_of_their_own_take_no_others() {
        let key = SharedKey::from_text("k");
        let hub = |module: Option<&str>| Account::AzureIotHub {
            hub: "h".into(),
            device: "d".into(),
            module: module.map(Into::into),
            key: None,
        };
        let tencent = Account::Tencent { product: "P".into(), device: "d".into(), key: key.clone() };
        let aliyun =
            Account::Aliyun { product: "P".into(), device: "d".into(), secret: key.clone(), tls: true };
        let onenet = Account::OneNet { product: "P".into(), device: "d".into(), key };
        let takes = [
            (&Account::AwsIot, "any/thing", true),
            (&hub(None), "devices/d/messages/events/", true),
            (&hub(None), "devices/d/messages/events/%24.ct=application%2Fjson", true),
            (&hub(None), "devices/e/messages/events/", false),
            (&hub(None), "$iothub/methods/res/200/?$rid=1", true),
            (&hub(None), "sites/d", false),
            (&hub(Some("m")), "devices/d/modules/m/messages/events/", true),
            (&hub(Some("m")), "devices/d/messages/events/", false),
            (&tencent, "P/d/event", true),
            (&tencent, "$thing/up/property/P/d", true),
            (&tencent, "Q/d/event", false),
            (&aliyun, "/sys/P/d/thing/event/property/post", true),
            (&aliyun, "P/d/user/x", false),
            (&onenet, "$sys/P/d/thing/property/post", true),
            (&onenet, "$sys/P/e/thing/property/post", false),
        ];
        for (account, name, expected) in takes {
            let topic = TopicName::new(name).expect("a valid topic");
            assert_eq!(account.takes(&topic), expected, "{account:?} {name}");
        }
        let gives = [
            (&Account::AzureEventGrid, "#", true),
            (&hub(None), "devices/d/messages/devicebound/#", true),
            (&hub(None), "$iothub/methods/POST/#", true),
            (&hub(None), "devices/+/messages/devicebound/#", false),
            (&hub(Some("m")), "devices/d/modules/m/inputs/#", true),
            (&tencent, "P/d/control", true),
            (&tencent, "#", false),
        ];
        for (account, text, expected) in gives {
            assert_eq!(account.gives(&filter(text)), expected, "{account:?} {text}");
        }
    }
}
