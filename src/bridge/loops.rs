//! Messages that come back to where they came from: which of a bridge's messages could, so that they leave with the
//! gateway's mark on them. Who drops them is the broker. Never looks at a message.
//!
//! MQTT has No Local for one connection alone. Gateways that are bridged to each other would send a message round and
//! round; each therefore marks what it sends another one (`mqtt::via`), and a gateway that finds its own mark takes the
//! message for done. Towards a server that is no gateway that costs the uplink nothing, unless some `receive` rule makes
//! topics that this bridge forwards, and the server speaks 5.0.
//!
//! Over 3.1.1 a server that knows bridges (`greeting`) has No Local, and another gateway has marks in topics. One that knows
//! neither sends back what it gets. To tell that by what it holds would take the same reading sent twice for one, so
//! nothing is guessed: who configures such an echo is told.

use crate::config::model;
use crate::config::provider::Provider;
use crate::config::template::{Part, TopicTemplate};
use crate::mqtt::packet::Version;
use crate::mqtt::topic::TopicFilter;

/// Whether what a bridge forwards to any server may come back by what some bridge receives.
pub fn may_return(forwarding: &model::Bridge, all: &[model::Bridge], gateway: &str) -> bool {
    let rules = all.iter().flat_map(|bridge| &bridge.receive);
    let local = rules.map(|rule| levels_of(&rule.to, gateway, None));
    let mut local = local.collect::<Vec<_>>().into_iter();
    local.any(|target| {
        let target: Vec<&str> = target.iter().map(String::as_str).collect();
        forwarding.forward.iter().any(|rule| overlap(rule.filter.levels(), &target))
    })
}

/// Where a server may send a bridge its own messages back: what is to be said of it.
pub fn echo(bridge: &model::Bridge, gateway: &str) -> Option<String> {
    if bridge.protocol == Version::V5 {
        return None;
    }
    let pairs = bridge
        .forward
        .iter()
        .flat_map(|forward| bridge.receive.iter().map(move |receive| (forward, receive)));
    let (forward, receive) = pairs.into_iter().find(|(forward, receive)| {
        let sent = levels_of(&forward.to, gateway, Some(&forward.filter));
        let sent: Vec<&str> = sent.iter().map(String::as_str).collect();
        overlap(receive.filter.levels(), &sent)
    })?;
    let (name, to, filter) = (&bridge.name, forward.to.as_str(), &receive.filter);
    let which = match bridge.account.provider() {
        Provider::Generic => "a 3.1.1 server that knows no bridges",
        _ => "a 3.1.1 server",
    };
    Some(format!(
        "bridges.{name}: {which} sends what is forwarded to `{to}` back by receive `{filter}`, so that it is here twice \
         (protocol: 5, or topics that do not overlap)"
    ))
}

/// The topics that a template can make, as the levels of a filter. `whole`: what `{topic}` stands for, else anything.
fn levels_of(template: &TopicTemplate, gateway: &str, whole: Option<&TopicFilter>) -> Vec<String> {
    let text: String = template
        .parts()
        .iter()
        .map(|part| match part {
            Part::Literal(text) => text,
            Part::Gateway => gateway,
            Part::Plus(_) | Part::Device | Part::Point => "+",
            Part::Topic => whole.map_or("#", TopicFilter::as_str),
            Part::Rest => "#",
        })
        .collect();
    let mut levels = Vec::new();
    for level in text.split('/') {
        if level.contains('#') {
            levels.push("#".to_owned());
            break;
        }
        levels.push(if level.contains('+') { "+".to_owned() } else { level.to_owned() });
    }
    levels
}

/// Whether some topic matches both.
fn overlap<'a>(mut filter: impl Iterator<Item = &'a str>, target: &[&str]) -> bool {
    let mut target = target.iter().copied();
    loop {
        match (filter.next(), target.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some(one), Some(other)) if one == other || one == "+" || other == "+" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{levels_of, overlap};
    use crate::config::template::TopicTemplate;
    use crate::mqtt::topic::TopicFilter;

    #[test]
    fn what_is_forwarded_comes_back_where_it_is_received() {
        let cases = [
            ("devices/#", "{topic}", "commands/#", false),
            ("devices/#", "{topic}", "devices/+/set", true),
            ("devices/#", "sites/{gateway}/{topic}", "sites/plant-7/#", true),
            ("devices/#", "sites/{gateway}/{topic}", "sites/plant-8/#", false),
            ("devices/+/state", "{topic}", "devices/+/set", false),
            ("x/#", "{topic}", "#", true),
        ];
        for (filter, to, received, expected) in cases {
            let template = TopicTemplate::new(to).expect("a valid template");
            let filter = TopicFilter::new(filter).expect("a valid filter");
            let levels = levels_of(&template, "plant-7", Some(&filter));
            let levels: Vec<&str> = levels.iter().map(String::as_str).collect();
            assert_eq!(overlap(received.split('/'), &levels), expected, "{filter} {to} {received}");
        }
    }

    #[test]
    fn a_loop_needs_a_topic_that_is_received_and_forwarded() {
        let cases = [
            ("devices/#", "{rest}", true),
            ("devices/#", "commands/{rest}", false),
            ("devices/#", "devices/{1}/set", true),
            ("devices/+/set", "devices/{1}/set", true),
            ("devices/+", "devices/{1}/set", false),
            ("devices/#", "devices", true),
            ("+/+/x", "{gateway}/{1}-{2}/x", true),
            ("other/+/x", "{gateway}/{1}/x", false),
            ("a/b", "{topic}", true),
            ("a/b", "a/x{rest}", true),
        ];
        for (filter, to, expected) in cases {
            let template = TopicTemplate::new(to).expect("a valid template");
            let levels = levels_of(&template, "plant-7", None);
            let levels: Vec<&str> = levels.iter().map(String::as_str).collect();
            assert_eq!(overlap(filter.split('/'), &levels), expected, "{filter} {to}");
        }
    }
}
