//! The `bridges` section: the cloud's address, who the gateway is there, the buffer. Rules are `rule`'s.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::base::time::Duration;
use crate::config::check::provider::Written;
use crate::config::check::value::reconnect;
use crate::config::check::{Context, provider, rule, topic, uplink};
use crate::config::error::Problem;
use crate::config::format_problem::FormatProblem;
use crate::config::model::{Bridge, Buffer, ForwardRule, WhenFull};
use crate::config::provider::topics::Way;
use crate::config::provider::{Account, PROVIDERS, Provider};
use crate::config::provider_problem::ProviderProblem;
use crate::config::raw::{Field, Section};
use crate::config::secret::Secret;
use crate::config::template::Part;
use crate::config::uplink::{BridgeUrl, Compression};
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
const STATUS_TOPIC_DEFAULT: &str = "gateways/{gateway}/status";

const DAY: Duration = Duration::from_secs(86_400);
const YEARS: Duration = Duration::from_secs(3650 * 86_400);
const AGE_RANGE: RangeInclusive<Duration> = Duration::from_secs(60)..=YEARS;
/// Of a buffer, and of a rule's share of it.
pub(super) const SIZE_BYTES_MIN: u64 = 1 << 20;
/// Above any link.
const REPLAY_RATE_MAX: u32 = 1_000_000;
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
    let provider = section.read_or("provider", Provider::Generic, |field| field.choice(&PROVIDERS));
    let url_field = section.require("url", "url: mqtts://broker.example.com:8883");
    let urls = url_field.as_ref().and_then(uplink::check_urls).unwrap_or_default();
    let proxy = uplink::check_proxy(&section);
    let client_id: Arc<str> =
        section.read_or("client_id", context.gateway_id.clone(), |field| field.filled_text().map(Into::into));
    for (url, url_field) in &urls {
        check_client(name, &section, url_field, (url.clone(), client_id.clone()), clients);
    }
    let urls: Vec<BridgeUrl> = urls.into_iter().map(|(url, _)| url).collect();
    let protocol = check_protocol(&section, provider);
    let (username, password) = check_credentials(&section, protocol, provider);
    let tls = uplink::check_tls(&section, urls.first(), context, || provider::alpn_of(provider, &urls));
    let written = Written {
        urls: &urls,
        client_id: client_id.clone(),
        username,
        password: password.clone(),
        has_certificate: section.read("tls", |field| Some(names_certificate(field))).unwrap_or_default(),
    };
    let account = provider::check(&section, provider, &written);
    let known = account.as_ref().map(|(account, _)| account);
    let buffer = section.read_section("buffer", BUFFER_KEYS, |section| check_buffer(section, protocol));
    let forward = rule::check_forward(&section, context, &buffer, known);
    let receive = rule::check_receive(&section, context, known);
    let will = Will { provider, account: known, carries_sparkplug: carries_sparkplug(&forward, context) };
    let status_topic = check_status_topic(&section, context, &will);
    let primary_host = section.read("primary_host", |field| check_primary_host(field, &will));
    let (account, username) = account.unwrap_or((Account::Generic, None));
    let mut urls = urls.into_iter();
    Some(Bridge {
        name: name.into(),
        protocol,
        client_id,
        username,
        password,
        account,
        tls,
        keep_alive: section.read_or("keep_alive", Duration::from_secs(30), |field| {
            let range = provider.terms().keep_alive_secs;
            field.seconds(Duration::from_secs(*range.start())..=Duration::from_secs(*range.end()))
        }),
        inflight: section.read_or("inflight", 128, |field| field.integer(1..=u16::MAX)),
        inflight_is_written: section.has("inflight"),
        session_expiry: section
            .read_or("session_expiry", 7 * DAY, |field| field.seconds(Duration::ZERO..=YEARS)),
        reconnect: reconnect(&section, Duration::from_secs(120)),
        status_topic,
        primary_host,
        forward,
        receive,
        buffer,
        url: urls.next()?,
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

/// Default: what the cloud speaks best.
fn check_protocol(section: &Section<'_>, provider: Provider) -> Version {
    let spoken = provider.terms().versions;
    let default = spoken.first().copied().unwrap_or(Version::V5);
    let version = section.read_or("protocol", default, parse_protocol);
    if !spoken.contains(&version)
        && let Some(field) = section.find("protocol")
    {
        provider::refuse_version(&field, provider);
        return default;
    }
    version
}

fn parse_protocol(field: &Field<'_>) -> Option<Version> {
    match field.kind() {
        Kind::Integer(5) => Some(Version::V5),
        Kind::Integer(_) | Kind::Float(_) => {
            let known = ["5", "3.1.1"].into();
            field.fault(Problem::UnknownChoice { given: None, nearest: None, known });
            None
        }
        _ => field.choice(&[("5", Version::V5), ("3.1.1", Version::V3_1_1)]),
    }
}

/// Empty text, as from an unset variable, stands for none.
fn check_credentials(
    section: &Section<'_>,
    protocol: Version,
    provider: Provider,
) -> (Option<Arc<str>>, Option<Secret>) {
    let read = |key| section.read(key, Field::text).filter(|text| !text.is_empty());
    let username = read("username").map(Arc::from);
    let password = read("password").map(Secret::new);
    // [MQTT-3.1.2-22 of 3.1.1].
    let plain = provider == Provider::Generic;
    if plain && password.is_some() && !section.has("username") && protocol != Version::V5 {
        section.refuse_keys(&["password"], &Problem::PasswordAlone);
    }
    (username, password)
}

/// Whatever is wrong with it is reported elsewhere.
fn names_certificate(field: &Field<'_>) -> bool {
    field.named_keys().iter().any(|(key, _)| *key == "certificate")
}

fn carries_sparkplug(forward: &[ForwardRule], context: &Context<'_>) -> bool {
    context.sparkplug_topics.iter().any(|topic| forward.iter().any(|rule| rule.filter.matches(topic)))
}

/// What there is to be said of a bridge's last will.
struct Will<'a> {
    provider: Provider,
    /// None: a fault was reported.
    account: Option<&'a Account>,
    /// It is NDEATH then.
    carries_sparkplug: bool,
}

/// Empty text switches it off. A bridge that carries Sparkplug has none, and a cloud that has no place for it is told
/// nothing.
fn check_status_topic(section: &Section<'_>, context: &Context<'_>, will: &Will<'_>) -> Option<TopicName> {
    let wills = will.provider.terms().will;
    let Some(field) = section.find("status_topic") else {
        let fixed = will.account.is_none_or(|account| !account.topics(Way::ToCloud).is_empty());
        if fixed || !wills || will.carries_sparkplug {
            return None;
        }
        return TopicName::new(&STATUS_TOPIC_DEFAULT.replace("{gateway}", &context.gateway_id)).ok();
    };
    if field.text()?.is_empty() {
        return None;
    }
    if will.carries_sparkplug {
        field.fault(Problem::Format(FormatProblem::WillTaken));
        return None;
    }
    let known = "{gateway}";
    let template = topic::template(&field, known, |part| match part {
        Part::Literal(_) | Part::Gateway => Ok(()),
        _ => Err(topic::unknown_variable(part, known)),
    })?;
    let found = topic::require_topic(&field, template.render_reading(&context.gateway_id, "", ""))?;
    if !wills {
        field.fault(Problem::Provider(ProviderProblem::NoWill { provider: will.provider.name() }));
        return None;
    }
    match will.account.map_or(Ok(()), |account| provider::check_target(account, &found)) {
        Ok(()) => Some(found),
        Err(problem) => {
            field.fault(problem);
            None
        }
    }
}

fn check_primary_host(field: &Field<'_>, will: &Will<'_>) -> Option<Arc<str>> {
    if !will.carries_sparkplug {
        field.fault(Problem::Format(FormatProblem::NothingForHost));
    }
    field.name().map(Into::into)
}

fn check_buffer(section: &Section<'_>, protocol: Version) -> Buffer {
    Buffer {
        size_bytes: section.read_or("size", 256 << 20, |field| field.size(SIZE_BYTES_MIN..=1 << 40)),
        age: section.read_or("age", 7 * DAY, |field| field.duration(AGE_RANGE)),
        when_full: section.read_or("when_full", WhenFull::DropOldest, |field| field.choice(&WHEN_FULL)),
        keep_free_bytes: section.read_or("keep_free", 128 << 20, |field| field.size(0..=1 << 40)),
        commit: section.read_or("commit", Duration::from_millis(100), |field| {
            field.duration(Duration::ZERO..=COMMIT_MAX)
        }),
        compress: section.read_or("compress", Compression::None, |field| check_compression(field, protocol)),
        replay_rate: NonZeroU32::new(
            section.read_or("replay_rate", 0, |field| field.integer(0..=REPLAY_RATE_MAX)),
        ),
    }
}

/// What is compressed is told by its content type, which 3.1.1 has no place for.
fn check_compression(field: &Field<'_>, protocol: Version) -> Option<Compression> {
    let chosen = field.choice(&[("none", Compression::None), ("zstd", Compression::Zstd)])?;
    if chosen == Compression::Zstd && protocol != Version::V5 {
        field.fault_at_key(Problem::OnlyWith("protocol: 5"));
        return None;
    }
    Some(chosen)
}
