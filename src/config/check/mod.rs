//! From the tree to the model, section by section. Every check goes on past a fault with the default in its
//! place, so that one fault hides no other; what that yields is thrown away. Reads the files that are named
//! and nothing else.

mod access;
mod address;
mod authentication;
mod batch;
mod binary;
mod bridge;
mod broker;
mod computed;
mod device;
mod field;
mod file;
mod http;
mod instrument;
mod listener;
mod meaning;
mod point;
mod port;
mod profile;
mod provider;
mod rule;
mod sunspec;
mod topic;
mod uplink;
mod value;

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::error::Problem;
use crate::config::expand::Environment;
use crate::config::instrument::Instrument;
use crate::config::log::{Log, LogFilter, LogFormat, LogLevel};
use crate::config::model::{Config, DATA_DIR_DEFAULT, Device, Durability, Format, Gateway};
use crate::config::raw::{Field, Report, Section, is_name, is_zero};
use crate::config::yaml::Node;
use crate::mqtt::topic::TopicName;
use crate::sparkplug::topic::EdgeNode;

const ROOT_KEYS: &[&str] = &["gateway", "log", "http", "broker", "ports", "devices", "bridges"];
const GATEWAY_KEYS: &[&str] = &["id", "data_dir", "durability", "flash_budget"];
const LOG_KEYS: &[&str] = &["level", "format"];

/// A day. Less would not hold a commit a minute.
const FLASH_BUDGET_RANGE: RangeInclusive<u64> = 16 << 20..=1 << 40;
const LEVELS: [(&str, LogLevel); 6] = [
    ("off", LogLevel::Off),
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
];

/// What every section's check may need.
struct Context<'a> {
    base_dir: &'a Path,
    gateway_id: Arc<str>,
    /// What the broker takes.
    packet_bytes_max: u32,
    /// Where Sparkplug devices are published: known once the devices are checked.
    sparkplug_topics: Vec<TopicName>,
    environment: &'a dyn Environment,
    report: &'a Report,
}

/// The model, which is only good where nothing was reported. None where the root is no map.
pub fn check(root: &Node, base_dir: &Path, environment: &dyn Environment, report: &Report) -> Option<Config> {
    let root = Field::root(root, report);
    let root = root.section(ROOT_KEYS)?;
    let gateway =
        root.read_section("gateway", GATEWAY_KEYS, |section| check_gateway(section, base_dir, environment));
    let log = root.read_section("log", LOG_KEYS, check_log);
    let mut addresses = address::Addresses::default();
    let http = root.find("http").map(|field| http::check(&field, base_dir, &mut addresses));
    let broker =
        root.read_section("broker", broker::KEYS, |section| broker::check(section, base_dir, &mut addresses));
    let mut context = Context {
        base_dir,
        gateway_id: gateway.id.clone(),
        packet_bytes_max: broker.limits.packet_bytes,
        sparkplug_topics: Vec::new(),
        environment,
        report,
    };
    let ports =
        root.read("ports", |field| Some(port::check(field, base_dir, &mut addresses))).unwrap_or_default();
    let devices = root.read("devices", |field| Some(device::check(field, &context, &ports)));
    let (devices, instruments) = devices.unwrap_or_default();
    context.sparkplug_topics = sparkplug_topics(&gateway.id, &devices, &instruments);
    let bridges = root.read("bridges", |field| Some(bridge::check(field, &context)));
    Some(Config {
        gateway,
        log,
        http,
        broker,
        ports,
        devices,
        instruments,
        bridges: bridges.unwrap_or_default(),
        written: Arc::default(),
        guarded: Arc::default(),
    })
}

fn sparkplug_topics(gateway: &str, devices: &[Arc<Device>], instruments: &[Instrument]) -> Vec<TopicName> {
    let devices = devices.iter().map(|device| (&device.name, &device.publish));
    let instruments = instruments.iter().map(|instrument| (&instrument.name, &instrument.publish));
    let spoken = devices.chain(instruments).filter(|(_, publish)| publish.format == Format::Sparkplug);
    let topics = spoken.filter_map(|(name, publish)| publish.topic.render_reading(gateway, name, "").ok());
    topics.filter(|topic| EdgeNode::of_device_data(topic.as_str()).is_some()).collect()
}

fn check_gateway(section: &Section<'_>, base_dir: &Path, environment: &dyn Environment) -> Gateway {
    let id = match section.find("id") {
        Some(field) => field.name().map(Arc::from),
        None => host_name(section, environment),
    };
    let durability =
        [("power-loss", Durability::PowerLoss), ("process", Durability::Process), ("none", Durability::None)];
    Gateway {
        id: id.unwrap_or_else(|| "gateway".into()),
        data_dir: section.read_or("data_dir", PathBuf::from(DATA_DIR_DEFAULT), |field| {
            field.filled_text().map(|path| base_dir.join(path))
        }),
        durability: section.read_or("durability", Durability::PowerLoss, |field| field.choice(&durability)),
        flash_budget_bytes: section.read("flash_budget", |field| {
            // 0 is no limit, with or without a unit.
            if is_zero(field.kind()) { None } else { field.size(FLASH_BUDGET_RANGE) }
        }),
    }
}

fn host_name(section: &Section<'_>, environment: &dyn Environment) -> Option<Arc<str>> {
    match environment.host_name() {
        Some(name) if is_name(&name) => return Some(name.into()),
        Some(name) => section.fault_at("id", Problem::BadHostName(name.into())),
        None => section.fault_at("id", Problem::NoHostName),
    }
    None
}

fn check_log(section: &Section<'_>) -> Log {
    let formats = [
        ("auto", LogFormat::Auto),
        ("text", LogFormat::Text),
        ("json", LogFormat::Json),
        ("journal", LogFormat::Journal),
    ];
    let filter = LogFilter { default: LogLevel::Info, targets: Vec::new() };
    Log {
        filter: section.read_or("level", filter, |field| {
            let filter = parse_filter(field.text()?);
            if filter.is_none() {
                field.fault(Problem::BadLogLevel);
            }
            filter
        }),
        format: section.read_or("format", LogFormat::Auto, |field| field.choice(&formats)),
    }
}

fn parse_filter(text: &str) -> Option<LogFilter> {
    let level_of = |word: &str| LEVELS.iter().find(|(name, _)| *name == word).map(|(_, level)| *level);
    let mut default = None;
    let mut targets = Vec::new();
    for part in text.split(',').map(str::trim) {
        match part.split_once('=') {
            Some((target, level)) if !target.is_empty() => targets.push((target.into(), level_of(level)?)),
            None if default.is_none() => default = Some(level_of(part)?),
            _ => return None,
        }
    }
    Some(LogFilter { default: default.unwrap_or(LogLevel::Info), targets })
}

#[cfg(test)]
mod tests {
    use super::parse_filter;
    use crate::config::log::LogLevel;

    #[test]
    fn log_filters_are_levels_and_targets() {
        let filter = parse_filter("info, tidegate::bridge=debug,rustls=off").expect("a filter");
        assert_eq!(filter.default, LogLevel::Info);
        assert_eq!(
            filter.targets,
            [("tidegate::bridge".into(), LogLevel::Debug), ("rustls".into(), LogLevel::Off)]
        );
        for text in ["", "loud", "info,debug", "=debug", "a=", "a=loud", "info,"] {
            assert_eq!(parse_filter(text), None, "{text:?}");
        }
    }
}
