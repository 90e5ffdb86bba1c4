//! The `bridges` section: the cloud's address, who the gateway is there, the buffer. Rules are `rule`'s.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::base::time::Duration;
use crate::config::check::value::reconnect;
use crate::config::check::{Context, rule, topic, uplink};
use crate::config::error::Problem;
use crate::config::format_problem::FormatProblem;
use crate::config::model::{Bridge, Buffer, Compression, Secret, WhenFull};
use crate::config::raw::{Field, Section, is_zero};
use crate::config::template::Part;
use crate::config::uplink::BridgeUrl;
use crate::config::yaml::Kind;
use crate::mqtt::packet::Version;
use crate::mqtt::topic::TopicName;

const KEYS: &[&str] = &[
    "url",
    "protocol",
    "client_id",
    "username",
    "password",
    "provider",
    "tls",
    "proxy",
    "keep_alive",
    "inflight",
    "session_expiry",
    "reconnect",
    "status_topic",
    "primary_host",
    "forward",
    "receive",
    "buffer",
];
const BUFFER_KEYS: &[&str] = &["size", "age", "when_full", "keep_free", "commit", "replay_rate", "compress"];
const PROVIDERS_LATER: &[&str] =
    &["aws-iot", "azure-iot-hub", "azure-event-grid", "google", "aliyun", "onenet", "tencent"];
const STATUS_TOPIC_DEFAULT: &str = "gateways/{gateway}/status";

const DAY: Duration = Duration::from_secs(86_400);
/// MQTT 3.1.2.10: two bytes of seconds.
const KEEP_ALIVE_MAX: Duration = Duration::from_secs(65_535);
const YEARS: Duration = Duration::from_secs(3650 * 86_400);
const AGE_RANGE: RangeInclusive<Duration> = Duration::from_secs(60)..=YEARS;
/// Of a buffer, and of a rule's share of it.
pub(super) const SIZE_BYTES_MIN: u64 = 1 << 20;
const COMMIT_MAX: Duration = Duration::from_secs(10);
pub(super) const WHEN_FULL: [(&str, WhenFull); 5] = [
    ("drop-oldest", WhenFull::DropOldest),
    ("drop-newest", WhenFull::DropNewest),
    ("reject", WhenFull::Reject),
    ("keep-last", WhenFull::KeepLast),
    ("thin", WhenFull::Thin),
];

/// Sorted by name.
pub(super) fn check(field: &Field<'_>, context: &Context<'_>) -> Vec<Bridge> {
    let mut clients = BTreeMap::new();
    let mut bridges = Vec::new();
    for (name, field) in field.named_fields().unwrap_or_default() {
        bridges.extend(check_bridge(name, &field, context, &mut clients));
    }
    bridges.sort_by(|a: &Bridge, b| a.name.cmp(&b.name));
    bridges
}

type Clients = BTreeMap<(BridgeUrl, Arc<str>), String>;

fn check_bridge(
    name: &str,
    field: &Field<'_>,
    context: &Context<'_>,
    clients: &mut Clients,
) -> Option<Bridge> {
    let section = field.section(KEYS)?;
    section.read("provider", |field| field.choice(&[("generic", ())], PROVIDERS_LATER));
    let url_field = section.require("url", "url: mqtts://broker.example.com:8883");
    let urls = url_field.as_ref().and_then(uplink::check_urls).unwrap_or_default();
    let proxy = uplink::check_proxy(&section);
    let client_id: Arc<str> =
        section.read_or("client_id", context.gateway_id.clone(), |field| field.filled_text().map(Into::into));
    for (url, url_field) in &urls {
        check_client(name, &section, url_field, (url.clone(), client_id.clone()), clients);
    }
    let mut urls = urls.into_iter().map(|(url, _)| url);
    let url = urls.next();
    let protocol = section.read_or("protocol", Version::V5, check_protocol);
    let (username, password) = check_credentials(&section, protocol);
    let buffer = section.read_section("buffer", BUFFER_KEYS, |section| check_buffer(section, protocol));
    let forward = rule::check_forward(&section, context, &buffer);
    let receive = rule::check_receive(&section, context);
    let carries_sparkplug =
        context.sparkplug_topics.iter().any(|topic| forward.iter().any(|rule| rule.filter.matches(topic)));
    Some(Bridge {
        name: name.into(),
        protocol,
        client_id,
        username,
        password,
        tls: uplink::check_tls(&section, url.as_ref(), context),
        keep_alive: section.read_or("keep_alive", Duration::from_secs(30), |field| {
            field.seconds(Duration::ZERO..=KEEP_ALIVE_MAX)
        }),
        inflight: section.read_or("inflight", 128, |field| field.integer(1..=u16::MAX)),
        session_expiry: section
            .read_or("session_expiry", 7 * DAY, |field| field.seconds(Duration::ZERO..=YEARS)),
        reconnect: reconnect(&section, Duration::from_secs(120)),
        status_topic: check_status_topic(&section, context, carries_sparkplug),
        primary_host: section.read("primary_host", |field| check_primary_host(field, carries_sparkplug)),
        forward,
        receive,
        buffer,
        url: url?,
        fallbacks: urls.collect(),
        proxy,
    })
}

/// A server keeps one session a client id: two bridges would throw each other out for ever.
fn check_client(
    name: &str,
    section: &Section<'_>,
    url: &Field<'_>,
    client: (BridgeUrl, Arc<str>),
    clients: &mut Clients,
) {
    let Some(by) = clients.get(&client) else {
        clients.insert(client, name.to_owned());
        return;
    };
    let problem = Problem::ClientTaken { by: by.as_str().into() };
    section.find("client_id").unwrap_or_else(|| url.clone()).fault(problem);
}

fn check_protocol(field: &Field<'_>) -> Option<Version> {
    match field.kind() {
        Kind::Integer(5) => Some(Version::V5),
        Kind::Integer(_) | Kind::Float(_) => {
            let known = ["5", "3.1.1"].into();
            field.fault(Problem::UnknownChoice { given: None, nearest: None, known });
            None
        }
        _ => field.choice(&[("5", Version::V5), ("3.1.1", Version::V3_1_1)], &[]),
    }
}

/// Empty text, as from an unset variable, stands for none.
fn check_credentials(section: &Section<'_>, protocol: Version) -> (Option<Arc<str>>, Option<Secret>) {
    let read = |key| section.read(key, Field::text).filter(|text| !text.is_empty());
    let username = read("username").map(Arc::from);
    let password = read("password").map(Secret::new);
    // [MQTT-3.1.2-22 of 3.1.1].
    if password.is_some() && !section.has("username") && protocol != Version::V5 {
        section.refuse_keys(&["password"], &Problem::PasswordAlone);
    }
    (username, password)
}

/// Empty text switches it off. A bridge that carries Sparkplug has none: its last will is NDEATH.
fn check_status_topic(
    section: &Section<'_>,
    context: &Context<'_>,
    carries_sparkplug: bool,
) -> Option<TopicName> {
    let Some(field) = section.find("status_topic") else {
        if carries_sparkplug {
            return None;
        }
        return TopicName::new(&STATUS_TOPIC_DEFAULT.replace("{gateway}", &context.gateway_id)).ok();
    };
    if field.text()?.is_empty() {
        return None;
    }
    if carries_sparkplug {
        field.fault(Problem::Format(FormatProblem::WillTaken));
        return None;
    }
    let known = "{gateway}";
    let template = topic::template(&field, known, |part| match part {
        Part::Literal(_) | Part::Gateway => Ok(()),
        _ => Err(topic::unknown_variable(part, known)),
    })?;
    topic::require_topic(&field, template.render_reading(&context.gateway_id, "", ""))
}

fn check_primary_host(field: &Field<'_>, carries_sparkplug: bool) -> Option<Arc<str>> {
    if !carries_sparkplug {
        field.fault(Problem::Format(FormatProblem::NothingForHost));
    }
    field.name().map(Into::into)
}

fn check_buffer(section: &Section<'_>, protocol: Version) -> Buffer {
    section.refuse_later_unless("replay_rate", is_zero);
    Buffer {
        size_bytes: section.read_or("size", 256 << 20, |field| field.size(SIZE_BYTES_MIN..=1 << 40)),
        age: section.read_or("age", 7 * DAY, |field| field.duration(AGE_RANGE)),
        when_full: section.read_or("when_full", WhenFull::DropOldest, |field| field.choice(&WHEN_FULL, &[])),
        keep_free_bytes: section.read_or("keep_free", 128 << 20, |field| field.size(0..=1 << 40)),
        commit: section.read_or("commit", Duration::from_millis(100), |field| {
            field.duration(Duration::ZERO..=COMMIT_MAX)
        }),
        compress: section.read_or("compress", Compression::None, |field| check_compression(field, protocol)),
    }
}

/// What is compressed is told by its content type, which 3.1.1 has no place for.
fn check_compression(field: &Field<'_>, protocol: Version) -> Option<Compression> {
    let chosen = field.choice(&[("none", Compression::None), ("zstd", Compression::Zstd)], &[])?;
    if chosen == Compression::Zstd && protocol != Version::V5 {
        field.fault_at_key(Problem::OnlyWith("protocol: 5"));
        return None;
    }
    Some(chosen)
}
