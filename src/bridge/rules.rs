//! Which rule carries a message, and under which name. Never sends, counts or remembers anything.

use std::sync::Arc;

use crate::config::model::{ForwardRule, ReceiveRule, Retain};
use crate::mqtt::message::Message;
use crate::mqtt::qos::QoS;
use crate::mqtt::topic::TopicName;

/// The rule that a stored message goes by: the one that stored it, or, where the configuration changed since,
/// the first that matches.
pub(super) fn rule_of<'a>(
    rules: &'a [ForwardRule],
    index: u16,
    topic: &TopicName,
) -> Option<&'a ForwardRule> {
    rules.get(usize::from(place_of(rules, index, topic)?))
}

/// Its place among the rules.
pub(super) fn place_of(rules: &[ForwardRule], index: u16, topic: &TopicName) -> Option<u16> {
    let matches = |rule: &ForwardRule| rule.filter.matches(topic);
    let stored = rules.get(usize::from(index)).filter(|rule| matches(rule)).map(|_| index);
    stored.or_else(|| (0..).zip(rules).find(|(_, rule)| matches(rule)).map(|(place, _)| place))
}

/// The QoS that a message is sent with.
pub(super) fn forward_qos(rule: &ForwardRule, message: &Message) -> QoS {
    rule.qos.map_or(message.qos, |most| most.min(message.qos))
}

/// The RETAIN flag that a message is sent with.
pub(super) fn forward_retain(rule: &ForwardRule, message: &Message) -> bool {
    match rule.retain {
        Retain::Keep => message.retain,
        Retain::Clear => false,
    }
}

/// The cloud's name of a local topic. None: the rule makes no topic of it.
pub(super) fn forward_topic(gateway: &str, rule: &ForwardRule, topic: &TopicName) -> Option<TopicName> {
    rule.to.render(gateway, &rule.filter, topic).ok()
}

/// The local name of the cloud's topic. None: the rule makes no topic of it, or one of the gateway's own
/// (`$…`) that only the cloud's words ask for.
pub(super) fn receive_topic(gateway: &Arc<str>, rule: &ReceiveRule, topic: &TopicName) -> Option<TopicName> {
    let target = rule.to.render(gateway, &rule.filter, topic).ok()?;
    (!target.is_system() || rule.to.as_str().starts_with('$')).then_some(target)
}

/// The local topic that a rule carries to this one of the cloud's. None: no rule does.
pub(super) fn local_topic(gateway: &str, rules: &[ForwardRule], topic: &TopicName) -> Option<TopicName> {
    let mut found = rules.iter().filter_map(|rule| {
        let local = TopicName::new(&rule.to.origin_of(gateway, &rule.filter, topic)?).ok()?;
        (forward_topic(gateway, rule, &local).as_ref() == Some(topic)).then_some(local)
    });
    found.next()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{forward_topic, local_topic, receive_topic, rule_of};
    use crate::config::model::{ForwardOrder, ForwardRule, Priority, ReceiveRule, Retain, WhenFull};
    use crate::config::template::TopicTemplate;
    use crate::mqtt::qos::QoS;
    use crate::mqtt::topic::{TopicFilter, TopicName};

    fn forward(filter: &str, to: &str) -> ForwardRule {
        ForwardRule {
            filter: TopicFilter::new(filter).expect("a valid filter"),
            to: TopicTemplate::new(to).expect("a valid template"),
            qos: None,
            retain: Retain::Keep,
            when_full: WhenFull::DropOldest,
            size_bytes: None,
            expiry: None,
            priority: Priority::Normal,
            order: ForwardOrder::Topic,
        }
    }

    fn topic(text: &str) -> TopicName {
        TopicName::new(text).expect("a valid topic")
    }

    #[test]
    fn a_stored_message_keeps_its_rule_or_finds_another() {
        let rules =
            [forward("a/#", "one/{topic}"), forward("b/#", "two/{topic}"), forward("#", "three/{topic}")];
        let cases = [
            (1, "b/x", Some("two/b/x")),
            (2, "b/x", Some("three/b/x")),
            (0, "b/x", Some("two/b/x")),
            (9, "c", Some("three/c")),
            (9, "$SYS/x", None),
        ];
        for (index, name, target) in cases {
            let name = topic(name);
            let found = rule_of(&rules, index, &name).and_then(|rule| forward_topic("g", rule, &name));
            assert_eq!(found.as_ref().map(TopicName::as_str), target, "{index} {name}");
        }
    }

    #[test]
    fn a_topic_of_the_clouds_has_the_local_name_that_is_carried_there() {
        let rules = [
            forward("devices/+/result", "all/results"),
            forward("devices/#", "sites/{gateway}/{topic}"),
            forward("alarms/+/+", "sites/{gateway}/alarms/{2}/{1}"),
            forward("replies/#", "{topic}"),
        ];
        let cases = [
            ("sites/g/devices/m/answer", Some("devices/m/answer")),
            ("sites/g/alarms/high/boiler", Some("alarms/boiler/high")),
            ("replies/operator", Some("replies/operator")),
            // Which device would it be?
            ("all/results", None),
            ("sites/other/devices/m/answer", None),
            ("elsewhere", None),
        ];
        for (name, local) in cases {
            let found = local_topic("g", &rules, &topic(name));
            assert_eq!(found.as_ref().map(TopicName::as_str), local, "{name}");
        }
    }

    #[test]
    fn the_cloud_cannot_reach_system_topics_by_its_own_words() {
        let gateway: Arc<str> = "g".into();
        let rule = |filter: &str, to: &str| ReceiveRule {
            filter: TopicFilter::new(filter).expect("a valid filter"),
            to: TopicTemplate::new(to).expect("a valid template"),
            qos: QoS::ExactlyOnce,
            expiry: None,
        };
        let cases = [
            ("in/#", "{rest}", "in/a/b", Some("a/b")),
            ("in/#", "{rest}", "in/$SYS/a", None),
            ("in/#", "{rest}", "in", None),
            ("in/#", "$cloud/{rest}", "in/a", Some("$cloud/a")),
        ];
        for (filter, to, name, target) in cases {
            let found = receive_topic(&gateway, &rule(filter, to), &topic(name));
            assert_eq!(found.as_ref().map(TopicName::as_str), target, "{filter} {to} {name}");
        }
    }
}
