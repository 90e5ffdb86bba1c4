//! The `bridges` section: the cloud's address, who the gateway is there, the buffer. Rules are `rule`'s.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::base::time::Duration;
use crate::config::check::file::{self, Pem};
use crate::config::check::provider::Written;
use crate::config::check::value::reconnect;
use crate::config::check::{Context, address, provider, rule, topic};
use crate::config::error::Problem;
use crate::config::model::{Bridge, BridgeUrl, Buffer, Secret, TlsFiles, WhenFull};
use crate::config::provider::topics::Way;
use crate::config::provider::{Account, PROVIDERS, Provider};
use crate::config::provider_problem::ProviderProblem;
use crate::config::raw::{Field, Section, is_empty, is_text};
use crate::config::template::Part;
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
    "forward",
    "receive",
    "buffer",
];
const TLS_KEYS: &[&str] = &["ca", "certificate", "private_key", "server_name", "alpn"];
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
/// RFC 7301, 3.1: a protocol name's length is one byte.
const ALPN_BYTES_MAX: usize = 255;
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
    section.refuse_later_unless("proxy", is_empty);
    let provider = section.read_or("provider", Provider::Generic, |field| field.choice(&PROVIDERS, &[]));
    let url_field = section.require("url", "url: mqtts://broker.example.com:8883");
    let url = url_field.as_ref().and_then(check_url);
    let client_id: Arc<str> =
        section.read_or("client_id", context.gateway_id.clone(), |field| field.filled_text().map(Into::into));
    if let Some(url) = &url {
        check_client(name, &section, (url.clone(), client_id.clone()), clients);
    }
    let protocol = check_protocol(&section, provider);
    let (username, password) = check_credentials(&section, protocol, provider);
    let mut tls = check_tls(&section, url.as_ref(), context);
    if tls.alpn.is_empty() {
        tls.alpn = provider::alpn_of(provider, url.as_ref());
    }
    let written = Written {
        url: url.as_ref(),
        client_id: client_id.clone(),
        username,
        password: password.clone(),
        has_certificate: section.read("tls", |field| Some(names_certificate(field))).unwrap_or_default(),
    };
    let account = provider::check(&section, provider, &written);
    let known = account.as_ref().map(|(account, _)| account);
    let buffer = section.read_section("buffer", BUFFER_KEYS, check_buffer);
    let forward = rule::check_forward(&section, context, &buffer, known);
    let receive = rule::check_receive(&section, context, known);
    let status_topic = check_status_topic(&section, context, provider, known);
    let (account, username) = account.unwrap_or((Account::Generic, None));
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
        session_expiry: section
            .read_or("session_expiry", 7 * DAY, |field| field.seconds(Duration::ZERO..=YEARS)),
        reconnect: reconnect(&section, Duration::from_secs(120)),
        status_topic,
        forward,
        receive,
        buffer,
        url: url?,
    })
}

fn check_url(field: &Field<'_>) -> Option<BridgeUrl> {
    if matches!(field.kind(), Kind::List(_)) {
        field.fault(Problem::ValueNotSupportedYet { instead: "one URL" });
        return None;
    }
    address::parse_url(field.text()?).map_err(|problem| field.fault(problem)).ok()
}

/// A server keeps one session a client id: two bridges would throw each other out for ever.
fn check_client(name: &str, section: &Section<'_>, client: (BridgeUrl, Arc<str>), clients: &mut Clients) {
    let Some(by) = clients.get(&client) else {
        clients.insert(client, name.to_owned());
        return;
    };
    let problem = Problem::ClientTaken { by: by.as_str().into() };
    let field = section.find("client_id").or_else(|| section.find("url"));
    if let Some(field) = field {
        field.fault(problem);
    }
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
        _ => field.choice(&[("5", Version::V5), ("3.1.1", Version::V3_1_1)], &[]),
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

fn check_tls(section: &Section<'_>, url: Option<&BridgeUrl>, context: &Context<'_>) -> TlsFiles {
    let Some(field) = section.find("tls") else { return TlsFiles::default() };
    if url.is_some_and(|url| !url.tls) && !is_empty(field.kind()) {
        field.fault_at_key(Problem::OnlyWith("an mqtts:// url"));
    }
    let Some(tls) = field.section(TLS_KEYS) else { return TlsFiles::default() };
    let pem = |key, wants| tls.read(key, |field| file::pem(field, context.base_dir, wants));
    for (key, other, example) in [
        ("certificate", "private_key", "private_key: tls/gateway.key"),
        ("private_key", "certificate", "certificate: tls/gateway.crt"),
    ] {
        if tls.has(key) {
            tls.require(other, example);
        }
    }
    TlsFiles {
        ca: pem("ca", Pem::Certificate),
        certificate: pem("certificate", Pem::Certificate),
        private_key: pem("private_key", Pem::PrivateKey),
        server_name: tls.read("server_name", check_server_name),
        alpn: tls.read("alpn", check_alpn).unwrap_or_default(),
    }
}

/// Whatever is wrong with it is reported elsewhere.
fn names_certificate(field: &Field<'_>) -> bool {
    field.named_keys().iter().any(|(key, _)| key == "certificate")
}

fn check_server_name(field: &Field<'_>) -> Option<Arc<str>> {
    if let Some((host, None)) = address::split_endpoint(field.filled_text()?) {
        return Some(host.into());
    }
    field.fault(Problem::BadServerName);
    None
}

fn check_alpn(field: &Field<'_>) -> Option<Vec<Arc<str>>> {
    let names = field.items()?.into_iter().filter_map(|item| {
        let name = item.filled_text()?;
        if name.len() > ALPN_BYTES_MAX {
            item.fault(Problem::TextTooLong { bytes_max: ALPN_BYTES_MAX });
            return None;
        }
        Some(name.into())
    });
    Some(names.collect())
}

/// Empty text switches it off. A cloud that has no place for it is told nothing.
fn check_status_topic(
    section: &Section<'_>,
    context: &Context<'_>,
    provider: Provider,
    account: Option<&Account>,
) -> Option<TopicName> {
    let wills = provider.terms().will;
    let Some(field) = section.find("status_topic") else {
        let fixed = account.is_none_or(|account| !account.topics(Way::ToCloud).is_empty());
        if fixed || !wills {
            return None;
        }
        return TopicName::new(&STATUS_TOPIC_DEFAULT.replace("{gateway}", &context.gateway_id)).ok();
    };
    if field.text()?.is_empty() {
        return None;
    }
    let known = "{gateway}";
    let template = topic::template(&field, known, |part| match part {
        Part::Literal(_) | Part::Gateway => Ok(()),
        _ => Err(topic::unknown_variable(part, known)),
    })?;
    let found = topic::require_topic(&field, template.render_reading(&context.gateway_id, "", ""))?;
    if !wills {
        field.fault(Problem::Provider(ProviderProblem::NoWill { provider: provider.name() }));
        return None;
    }
    match account.map_or(Ok(()), |account| provider::check_target(account, &found)) {
        Ok(()) => Some(found),
        Err(problem) => {
            field.fault(problem);
            None
        }
    }
}

fn check_buffer(section: &Section<'_>) -> Buffer {
    section.refuse_later_unless("compress", |kind| is_text(kind, "none"));
    Buffer {
        size_bytes: section.read_or("size", 256 << 20, |field| field.size(SIZE_BYTES_MIN..=1 << 40)),
        age: section.read_or("age", 7 * DAY, |field| field.duration(AGE_RANGE)),
        when_full: section.read_or("when_full", WhenFull::DropOldest, |field| field.choice(&WHEN_FULL, &[])),
        keep_free_bytes: section.read_or("keep_free", 128 << 20, |field| field.size(0..=1 << 40)),
        commit: section.read_or("commit", Duration::from_millis(100), |field| {
            field.duration(Duration::ZERO..=COMMIT_MAX)
        }),
        replay_rate: NonZeroU32::new(
            section.read_or("replay_rate", 0, |field| field.integer(0..=REPLAY_RATE_MAX)),
        ),
    }
}
