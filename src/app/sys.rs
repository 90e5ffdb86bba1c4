//! `$SYS/tidegate/…`: bridges, devices and what bounds cost clients, in the gateway's own topics, beside the broker's.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::app::overview::Overview;
use crate::app::running::Standing;
use crate::base::time::Now;
use crate::broker::refusal::NotAdmitted;
use crate::config::model::Config;
use crate::hub::Hub;
use crate::hub::status::HubStatus;
use crate::mqtt::message::{Message, Origin};
use crate::mqtt::qos::QoS;
use crate::mqtt::topic::TopicName;

/// Publishes what has changed, every so often, until it is cancelled.
pub async fn run(overview: Arc<Overview>, mut running: Standing, hub: Arc<Hub>, cancel: CancellationToken) {
    let mut told = BTreeMap::<String, String>::new();
    loop {
        let config = running.config();
        let Some(interval) = config.broker.sys_interval else {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = running.until_changed() => continue,
            }
        };
        let now = hub.clock().now();
        let mut messages = Vec::new();
        let facts: BTreeMap<String, String> = facts(&overview, &config).into_iter().collect();
        // An empty message takes back what was told of a device or a bridge that is gone.
        let gone = told.keys().filter(|topic| !facts.contains_key(*topic));
        messages.extend(gone.filter_map(|topic| message(topic, "", now)));
        let news = facts.iter().filter(|(topic, payload)| told.get(*topic) != Some(*payload));
        messages.extend(news.filter_map(|(topic, payload)| message(topic, payload, now)));
        told = facts;
        if !messages.is_empty() {
            hub.publish_system(messages);
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = running.until_changed() => {}
            () = tokio::time::sleep(interval) => {}
        }
    }
}

fn message(topic: &str, payload: &str, now: Now) -> Option<Message> {
    let topic = TopicName::new(topic).ok()?;
    let mut message = Message::new(topic, payload.to_owned(), QoS::AtMostOnce, Origin::Gateway, now);
    message.retain = true;
    Some(message)
}

fn facts(overview: &Overview, config: &Config) -> Vec<(String, String)> {
    let hub = overview.hub_status();
    let mut facts = broker_facts(&hub);
    let clock = if overview.is_clock_set() { "synchronised" } else { "unsynchronised" };
    facts.push(("$SYS/tidegate/clock".to_owned(), clock.to_owned()));
    for bridge in &config.bridges {
        let Some(link) = hub.link(&bridge.name) else { continue };
        let (name, status) = (&bridge.name, &link.status);
        let mut say =
            |what: &str, value: String| facts.push((format!("$SYS/tidegate/bridges/{name}/{what}"), value));
        say("state", status.state.name().to_owned());
        say("queued", status.queued_messages.to_string());
        say("queued_bytes", status.queued_bytes.to_string());
        say("inflight", status.inflight.to_string());
        say("forwarded", status.forwarded.to_string());
        say("received", status.received.to_string());
        say("sent_messages", link.traffic.sent_messages.to_string());
        say("sent_bytes", link.traffic.sent_bytes.to_string());
        say("received_bytes", link.traffic.received_bytes.to_string());
        if let Some(bytes) = link.traffic.sent_bytes_per_message() {
            say("sent_bytes_per_message", bytes.to_string());
        }
        say("dead", status.dead.messages.to_string());
        say("dropped", status.losses.total().to_string());
        say("dropped_bytes", status.losses_bytes.total().to_string());
        for (reason, messages) in status.losses.counts() {
            say(&format!("dropped/{reason}"), messages.to_string());
        }
        for (number, rule) in status.rules.iter().enumerate() {
            let mut say = |what: &str, value: u64| say(&format!("rules/{number}/{what}"), value.to_string());
            say("queued", rule.queued_messages);
            say("queued_bytes", rule.queued_bytes);
            say("dropped", rule.lost.messages.total());
            say("dropped_bytes", rule.lost.bytes.total());
        }
    }
    let flash = overview.flash();
    if let Some(written) = flash.written_bytes {
        facts.push(("$SYS/tidegate/flash/written_day_bytes".to_owned(), written.to_string()));
    }
    let short = u8::from(!flash.waits.owed.is_zero()).to_string();
    facts.push(("$SYS/tidegate/flash/budget_short".to_owned(), short));
    for device in overview.devices() {
        let name = &device.name;
        let mut say =
            |what: &str, value: String| facts.push((format!("$SYS/tidegate/devices/{name}/{what}"), value));
        say("state", device.state.as_str().to_owned());
        say("polls", device.polls.to_string());
        say("skipped", device.skipped.to_string());
        say("errors", device.errors.to_string());
    }
    facts
}

/// What its bounds cost clients, beside what Mosquitto has names for.
fn broker_facts(hub: &HubStatus) -> Vec<(String, String)> {
    let stats = &hub.broker;
    let counts = [
        ("connections_refused", hub.refused.total()),
        ("connections_revoked", stats.revoked),
        ("logins_failed", hub.refused.of(NotAdmitted::WrongLogin.label())),
        ("keep_alive_timeouts", stats.keep_alive_timeouts),
        ("messages_dropped", stats.dropped + hub.outbox_dropped),
        ("messages_denied", stats.denied),
        ("messages_throttled", stats.throttled),
        ("packets_too_large", stats.packets_too_large),
        ("protocol_errors", stats.violations),
        ("retained_refused", stats.retained_refused),
    ];
    counts.map(|(name, count)| (format!("$SYS/tidegate/broker/{name}"), count.to_string())).to_vec()
}
