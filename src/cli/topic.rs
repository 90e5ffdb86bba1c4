//! `tidegate explain TOPIC`: where a message on a topic goes, by the configuration, and what the gateway keeps of it.
//! Works beside a running gateway, on a stopped one, and without either. Sends nothing.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use axum::body::Body;
use axum::http::Method;
use clap::Args;
use serde_json::{Value as Json, json};

use crate::cli::explain::about;
use crate::cli::gateway::request;
use crate::cli::reach::{Reach, ReachError};
use crate::cli::table::{printable, size};
use crate::cli::{ConfigArgs, block_on, load_config, wrong_usage};
use crate::config::access::{AccessFilter, AccessRule};
use crate::config::duration::DurationText;
use crate::config::model::{Bridge, Config, ForwardOrder, ForwardRule, Priority, Retain, WhenFull};
use crate::config::size::SizeText;
use crate::mqtt::topic::TopicName;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate explain devices/main-meter/voltage
  tidegate explain commands/plant-7/relay/set -c tidegate.yaml --json")]
pub struct ExplainArgs {
    /// The name of a topic, without wildcards
    topic: String,
    #[command(flatten)]
    config: ConfigArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &ExplainArgs) -> ExitCode {
    let topic = match TopicName::new(&args.topic) {
        Ok(topic) => topic,
        Err(error) => return wrong_usage(format_args!("{}: the topic {error}", args.topic)),
    };
    let config = match load_config(&args.config.config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let mut said = explain(&config, &topic);
    match block_on(kept(config, &topic)) {
        Ok(Ok(kept)) => said["last"] = kept,
        // What the configuration says is worth something without it.
        Ok(Err(error)) => said["last_unknown"] = Json::from(error.to_string()),
        Err(error) => said["last_unknown"] = Json::from(error.to_string()),
    }
    let text = if args.json { format!("{said}\n") } else { render(&said) };
    // A reader that hung up has seen enough.
    if std::io::stdout().write_all(text.as_bytes()).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What is retained on the topic: null where nothing is.
async fn kept(config: Config, topic: &TopicName) -> Result<Json, ReachError> {
    let reach = Reach::open(config).await?;
    let mut path = "/api/v1/retained?topic=".to_owned();
    for byte in topic.as_str().bytes() {
        // Text takes whatever is written to it.
        let _ = write!(path, "%{byte:02X}");
    }
    let answer = reach.json(request(Method::GET, &path, Body::empty())).await;
    reach.close()?;
    Ok(answer?)
}

fn explain(config: &Config, topic: &TopicName) -> Json {
    let sources = about(config, topic.as_str());
    let forward = config.bridges.iter().flat_map(|bridge| forwards(config, bridge, topic));
    let receive = config.bridges.iter().flat_map(|bridge| receives(config, bridge, topic));
    let access = config.broker.access.as_deref();
    json!({
        "topic": topic.as_str(),
        "from": sources,
        "received": receive.collect::<Vec<Json>>(),
        "forward": forward.collect::<Vec<Json>>(),
        "publish": access.map(|rules| allowed(rules, topic, |rule| &rule.publish)),
        "subscribe": access.map(|rules| allowed(rules, topic, |rule| &rule.subscribe)),
        "last": Json::Null,
    })
}

fn forwards(config: &Config, bridge: &Bridge, topic: &TopicName) -> Vec<Json> {
    let matching = bridge.forward.iter().enumerate().filter(|(_, rule)| rule.filter.matches(topic));
    matching.map(|(index, rule)| forward(config, bridge, (index, rule), topic)).collect()
}

fn forward(
    config: &Config,
    bridge: &Bridge,
    (index, rule): (usize, &ForwardRule),
    topic: &TopicName,
) -> Json {
    let terms = bridge.account.provider().terms();
    let target = rule.to.render(&config.gateway.id, &rule.filter, topic);
    let qos = rule.qos.unwrap_or(terms.maximum_qos).min(terms.maximum_qos);
    let text = |name: Option<&TopicName>| name.map_or(Json::Null, |name| Json::from(name.as_str()));
    json!({
        "bridge": &*bridge.name,
        "rule": index + 1,
        "filter": rule.filter.as_str(),
        "to": text(target.as_ref().ok()),
        "refused": target.as_ref().err().map(ToString::to_string),
        "qos_max": qos.bits(),
        "retain": if rule.retain == Retain::Keep && terms.retain { "keep" } else { "clear" },
        "expiry": rule.expiry.map(|expiry| DurationText(expiry).to_string()),
        "priority": match rule.priority {
            Priority::High => "high",
            Priority::Normal => "normal",
            Priority::Low => "low",
        },
        "order": match rule.order {
            ForwardOrder::Topic => "topic",
            ForwardOrder::LiveFirst => "live-first",
        },
        "size": SizeText(rule.size_bytes.unwrap_or(bridge.buffer.size_bytes)).to_string(),
        "own_share": rule.size_bytes.is_some(),
        "age": DurationText(bridge.buffer.age).to_string(),
        "when_full": match rule.when_full {
            WhenFull::DropOldest => "drop-oldest",
            WhenFull::DropNewest => "drop-newest",
            WhenFull::Reject => "reject",
            WhenFull::KeepLast => "keep-last",
            WhenFull::Thin => "thin",
        },
    })
}

/// Rules that may bring a message of a cloud to this topic: told by the fixed part of what they make.
fn receives(config: &Config, bridge: &Bridge, topic: &TopicName) -> Vec<Json> {
    let asked = TopicName::new(topic.as_str());
    let matching = bridge.receive.iter().enumerate().filter_map(|(index, rule)| {
        let known = rule.to.origin_of(&config.gateway.id, &rule.filter, asked.as_ref().ok()?)?;
        Some(json!({ "bridge": &*bridge.name, "rule": index + 1, "filter": rule.filter.as_str(), "topic": known }))
    });
    matching.collect()
}

/// Who may, by the first rule that matches him.
fn allowed<'a>(
    rules: &'a [AccessRule],
    topic: &TopicName,
    filters: impl Fn(&'a AccessRule) -> &'a [AccessFilter],
) -> Vec<Json> {
    let verdicts = rules.iter().map(|rule| {
        let by = filters(rule).iter().find_map(|filter| filter.reach(topic));
        json!({ "who": rule.to_string(), "allowed": by.is_some(), "as": by.flatten() })
    });
    verdicts.collect()
}

fn render(said: &Json) -> String {
    let mut text = format!("{}\n", word(said, "topic"));
    for source in items(said, "from") {
        let mut line = format!("  {} of device {}", word(source, "kind"), word(source, "device"));
        for (key, before) in [("point", ", point "), ("type", ", "), ("delivery", ", ")] {
            if let Some(value) = source[key].as_str() {
                let _ = write!(line, "{before}{value}");
            }
        }
        text.push_str(&line);
        text.push('\n');
    }
    for rule in items(said, "received") {
        let _ = writeln!(
            text,
            "  from bridge {}, rule {} ({}): {}",
            word(rule, "bridge"),
            rule["rule"],
            word(rule, "filter"),
            word(rule, "topic")
        );
    }
    if items(said, "forward").next().is_none() {
        text.push_str("  to no cloud: no forward rule matches\n");
    }
    for rule in items(said, "forward") {
        forward_text(&mut text, rule);
    }
    access_text(&mut text, said, "publish");
    access_text(&mut text, said, "subscribe");
    last_text(&mut text, said);
    text
}

fn forward_text(text: &mut String, rule: &Json) {
    let to = match rule["refused"].as_str() {
        None => word(rule, "to"),
        Some(why) => format!("nowhere: the name {why}"),
    };
    let (bridge, number, filter) = (word(rule, "bridge"), &rule["rule"], word(rule, "filter"));
    let _ = writeln!(text, "  to bridge {bridge}, rule {number} ({filter}): {to}");
    let retain = if rule["retain"] == "keep" { "kept" } else { "cleared" };
    let mut line =
        format!("    QoS {} at most, retain {retain}, priority {}", rule["qos_max"], word(rule, "priority"));
    if rule["order"] == "live-first" {
        line.push_str(", new ones first");
    }
    if let Some(expiry) = rule["expiry"].as_str() {
        let _ = write!(line, ", dropped when older than {expiry}");
    }
    let share = if rule["own_share"] == true { "of its own" } else { "for the bridge" };
    let (bytes, age, full) = (word(rule, "size"), word(rule, "age"), word(rule, "when_full"));
    let _ = writeln!(text, "{line}\n    buffer {bytes} {share}, {age}, when full {full}");
}

fn access_text(text: &mut String, said: &Json, what: &str) {
    let Some(rules) = said[what].as_array() else {
        let _ = writeln!(text, "  {what}: everybody who may connect");
        return;
    };
    let allowed: Vec<String> = rules
        .iter()
        .filter(|rule| rule["allowed"] == true)
        .map(|rule| match rule["as"].as_str() {
            Some(name) => format!("{} ({name})", word(rule, "who")),
            None => word(rule, "who"),
        })
        .collect();
    let who = if allowed.is_empty() { "nobody".to_owned() } else { allowed.join("; ") };
    let _ = writeln!(text, "  {what}: {who}");
}

fn last_text(text: &mut String, said: &Json) {
    let last = &said["last"];
    if let Some(why) = said["last_unknown"].as_str() {
        let _ = writeln!(text, "  last: unknown: {why}");
    } else if last.is_null() {
        text.push_str("  last: nothing is retained\n");
    } else {
        let payload = last["payload"].as_str().map_or_else(
            || format!("{} that is no text", size(last["bytes"].as_u64().unwrap_or(0))),
            printable,
        );
        let _ = writeln!(text, "  last: {payload} (retained, QoS {}, {})", last["qos"], word(last, "time"));
    }
}

fn items<'a>(from: &'a Json, key: &str) -> impl Iterator<Item = &'a Json> {
    from[key].as_array().into_iter().flatten()
}

/// `-` where there is none.
fn word(from: &Json, key: &str) -> String {
    from[key].as_str().unwrap_or("-").to_owned()
}
