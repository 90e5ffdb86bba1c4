//! What a bridge found out about its servers, as it is kept over a restart: limits that no CONNACK said, filters and topics
//! that connections were ended for. A cache: lost, it costs the same connections once more. Knows no file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::base::time::{Duration, Instant, Now};
use crate::bridge::Bridge;
use crate::bridge::doubt::LEFT_OUT_FOR;
use crate::bridge::fate::{CAUSES, Cause};
use crate::bridge::learned::{SHOWN_FOR, Shown};
use crate::bridge::suspicion::TOPIC_REST;
use crate::config::model;
use crate::mqtt::qos::QoS;
use crate::mqtt::topic::{TopicFilter, TopicName};

/// What is taken of one list: no more is ever written.
const SERVERS_MAX: usize = 16;
const FILTERS_MAX: usize = 1024;
const TOPICS_MAX: usize = 64;

/// Times are milliseconds since 1970, until which it holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Note {
    /// What of the configuration it was found out with: of another one nothing is known.
    pub place: String,
    pub servers: BTreeMap<String, ServerNote>,
    pub topics: Vec<TopicNote>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(clippy::struct_excessive_bools)] // each is a thing of its own
pub struct ServerNote {
    pub until: i64,
    pub maximum_qos: u8,
    pub subscribe_qos: u8,
    pub took_qos_2: bool,
    pub retain: bool,
    pub wildcards: bool,
    pub shared: bool,
    /// Filters, and until when each is not asked for.
    pub left_out: BTreeMap<String, i64>,
}

/// A topic that connections were ended for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicNote {
    pub topic: String,
    pub payload_bytes: usize,
    pub cause: String,
    pub until: i64,
}

/// Whom it is told to, and as whom: what a server takes depends on that.
pub(super) fn place_of(bridge: &model::Bridge) -> String {
    let urls = [&bridge.url].into_iter().chain(&bridge.fallbacks).map(ToString::to_string);
    let urls = urls.collect::<Vec<_>>().join(" ");
    let (provider, user) = (bridge.account.provider().name(), bridge.username.as_deref().unwrap_or_default());
    format!("{urls} {provider} {:?} {} {user}", bridge.protocol, bridge.client_id)
}

fn told(until: Instant, now: Now) -> i64 {
    let left = i64::try_from(until.since(now.instant).as_millis()).unwrap_or(i64::MAX);
    now.wall.as_millis().saturating_add(left)
}

/// When it ends. A clock that is not set cannot say: then it holds for as long as it may. None: it is over.
fn heard(until: i64, most: Duration, now: Now) -> Option<Instant> {
    if now.wall.is_doubtful() {
        return Some(now.instant + most);
    }
    let left = u64::try_from(until.saturating_sub(now.wall.as_millis())).ok().filter(|left| *left > 0)?;
    Some(now.instant + Duration::from_millis(left).min(most))
}

fn qos_of(level: u8) -> QoS {
    match level {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}

impl Bridge {
    /// What is to be kept. None: nothing is new since it was asked last.
    pub fn take_note(&mut self, now: Now) -> Option<Note> {
        if !std::mem::take(&mut self.learned.has_news) {
            return None;
        }
        let mut note = Note { place: place_of(&self.settings.bridge), ..Note::default() };
        for (server, shown, until) in self.learned.all() {
            let until = told(until.unwrap_or(now.instant + SHOWN_FOR), now);
            note.servers.insert(server.to_owned(), ServerNote { until, ..noted(shown) });
        }
        for (server, filter, until) in self.asked.doubt.all_left_out() {
            let fresh =
                || ServerNote { until: told(now.instant + SHOWN_FOR, now), ..noted(Shown::default()) };
            let of_server = note.servers.entry(server.to_owned()).or_insert_with(fresh);
            of_server.left_out.insert(filter.as_str().to_owned(), told(until, now));
        }
        let topics = self.suspicion.topics().map(|(topic, payload_bytes, cause, until)| TopicNote {
            topic: topic.as_str().to_owned(),
            payload_bytes,
            cause: cause.name().to_owned(),
            until: told(until, now),
        });
        note.topics = topics.collect();
        Some(note)
    }

    /// What an earlier process found out, before anything is done.
    pub fn recall(&mut self, note: &Note, now: Now) {
        if note.place != place_of(&self.settings.bridge) {
            return;
        }
        for (server, found) in note.servers.iter().take(SERVERS_MAX) {
            if let Some(until) = heard(found.until, SHOWN_FOR, now) {
                self.learned.recall(server, shown(found), until);
            }
            for (filter, until) in found.left_out.iter().take(FILTERS_MAX) {
                let filter = TopicFilter::new(filter).ok();
                if let (Some(filter), Some(until)) = (filter, heard(*until, LEFT_OUT_FOR, now)) {
                    self.asked.recall_left_out(server, filter, until);
                }
            }
        }
        for found in note.topics.iter().take(TOPICS_MAX) {
            let cause = CAUSES.into_iter().find(|cause: &Cause| cause.name() == found.cause);
            let (topic, until) = (TopicName::new(&found.topic).ok(), heard(found.until, TOPIC_REST, now));
            if let (Some(cause), Some(topic), Some(until)) = (cause, topic, until) {
                self.suspicion.recall(topic, found.payload_bytes, cause, until);
            }
        }
    }
}

fn noted(shown: Shown) -> ServerNote {
    ServerNote {
        until: 0,
        maximum_qos: shown.maximum_qos as u8,
        subscribe_qos: shown.subscribe_qos as u8,
        took_qos_2: shown.took_qos_2,
        retain: shown.retain,
        wildcards: shown.wildcards,
        shared: shown.shared,
        left_out: BTreeMap::new(),
    }
}

fn shown(found: &ServerNote) -> Shown {
    Shown {
        maximum_qos: qos_of(found.maximum_qos),
        retain: found.retain,
        took_qos_2: found.took_qos_2,
        subscribe_qos: qos_of(found.subscribe_qos),
        wildcards: found.wildcards,
        shared: found.shared,
        ..Shown::default()
    }
}
