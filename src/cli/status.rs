//! `tidegate status`: what the running gateway says of itself, as tables or as its JSON. Changes nothing.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use axum::body::Body;
use axum::http::Method;
use clap::Args;
use serde_json::Value;

use crate::cli::gateway::{AskError, ask, request};
use crate::cli::table::{Align, Table, duration, printable, size};
use crate::cli::{ConfigArgs, block_on, fail, find_socket};

/// Of a reload that was refused; the log has them all.
const FAULTS_SHOWN_MAX: usize = 5;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate status
  tidegate status --json | jq '.bridges[].state'
  tidegate status -c test.yaml                          of the gateway with this configuration")]
pub struct StatusArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print what the gateway says as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &StatusArgs) -> ExitCode {
    let socket = match find_socket(&args.config.config) {
        Ok(socket) => socket,
        Err(code) => return code,
    };
    let question = request(Method::GET, "/api/v1/status", Body::empty());
    let answered = match block_on(ask(&socket, question)) {
        Ok(answered) => answered,
        Err(error) => return fail(error),
    };
    let parsed =
        answered.and_then(|body| serde_json::from_slice::<Value>(&body).map_err(AskError::Unexpected));
    let status = match parsed {
        Ok(status) => status,
        Err(error) => return fail(error),
    };
    let text = if args.json { format!("{status}\n") } else { render(&status) };
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        // A reader that hung up has seen enough.
        Err(_) => ExitCode::FAILURE,
    }
}

fn render(status: &Value) -> String {
    let up = duration(Duration::from_secs(number(status, "uptime_seconds")));
    let ready = match status["reason"].as_str() {
        None => "ready".to_owned(),
        Some(reason) => format!("not ready: {}", printable(reason)),
    };
    let clock = if status["clock_synchronised"] == false { ", the clock is not set" } else { "" };
    let broker = &status["broker"];
    let mut text = format!(
        "gateway {}, tidegate {}, up {up}, {ready}{clock}\n\
         clients: {} connected, {} sessions, {} subscriptions, {} retained messages\n",
        word(status, "gateway"),
        word(status, "version"),
        number(broker, "connections"),
        number(broker, "sessions"),
        number(broker, "subscriptions"),
        number(broker, "retained"),
    );
    text.push_str(&reload(&status["reload"]));
    text.push_str(&flash(&status["store"]["flash"]));
    for table in
        [devices(status), shares(status), bridges(status)].into_iter().filter(|table| !table.is_empty())
    {
        text.push('\n');
        text.push_str(&table);
    }
    text.extend(items(status, "bridges").flat_map(degraded));
    text
}

/// What the server of a bridge grants less of than was asked for, a line each.
fn degraded(bridge: &Value) -> impl Iterator<Item = String> {
    let less = items(bridge, "degraded").filter_map(Value::as_str);
    less.map(|less| format!("{}: {less}\n", word(bridge, "name")))
}

/// Nothing where there was none.
fn reload(reload: &Value) -> String {
    if reload.is_null() {
        return String::new();
    }
    if reload["ok"] != true {
        return refused(reload);
    }
    let restart: Vec<String> = items(reload, "restart").filter_map(Value::as_str).map(printable).collect();
    let restart = if restart.is_empty() {
        String::new()
    } else {
        format!("; only after a restart: {}", restart.join(", "))
    };
    format!("last reload: {}: {}{restart}\n", word(reload, "time"), word(reload, "changed"))
}

/// Why nothing of it was applied: a port that another has is no fault that `tidegate check` could see.
fn refused(reload: &Value) -> String {
    let faults: Vec<&str> = items(reload, "faults").filter_map(Value::as_str).collect();
    let mut text =
        format!("last reload: {}: not applied, everything stayed as it was\n", word(reload, "time"));
    text.extend(faults.iter().take(FAULTS_SHOWN_MAX).map(|fault| format!("  {}\n", printable(fault))));
    let more = faults.len().saturating_sub(FAULTS_SHOWN_MAX);
    text.extend((more > 0).then(|| format!("  and {more} more, in the log\n")));
    text
}

/// Nothing where there is no budget.
fn flash(flash: &Value) -> String {
    let Some(budget) = flash["budget_bytes"].as_u64() else { return String::new() };
    let written = flash["written_day_bytes"].as_u64().map_or_else(|| "unknown".to_owned(), size);
    let short = if flash["short"].as_bool() == Some(true) {
        let wait = Duration::from_millis(number(flash, "commit_wait_ms"));
        format!(", runs short: commits gather {} ms longer", wait.as_millis())
    } else {
        String::new()
    };
    format!("flash: {written} of {} written in 24 hours{short}\n", size(budget))
}

fn devices(status: &Value) -> String {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("DEVICE", Left),
        ("STATE", Left),
        ("POLLS", Right),
        ("ERRORS", Right),
        ("LAST SEEN", Left),
        ("LAST ERROR", Left),
    ]);
    for device in items(status, "devices") {
        table.push([
            word(device, "name"),
            word(device, "state"),
            number(device, "polls").to_string(),
            number(device, "errors").to_string(),
            word(device, "last_seen"),
            word(device, "last_error"),
        ]);
    }
    table.render()
}

/// Lines that other masters share.
fn shares(status: &Value) -> String {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("SHARED PORT", Left),
        ("ADDRESS", Left),
        ("MASTERS", Right),
        ("WAITING", Right),
        ("ANSWERED", Right),
        ("CACHED", Right),
        ("UNANSWERED", Right),
        ("REFUSED", Right),
    ]);
    for share in items(status, "shares") {
        let of = |outcomes: &[&str]| {
            outcomes.iter().map(|outcome| number(&share["requests"], outcome)).sum::<u64>().to_string()
        };
        table.push([
            word(share, "port"),
            word(share, "address"),
            number(share, "connections").to_string(),
            number(share, "waiting").to_string(),
            of(&["answered", "exception"]),
            of(&["cached", "joined"]),
            of(&["no_answer", "dead", "no_line"]),
            of(&["refused", "busy"]),
        ]);
    }
    table.render()
}

fn bridges(status: &Value) -> String {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("BRIDGE", Left),
        ("STATE", Left),
        ("WAITING", Right),
        ("SIZE", Right),
        ("IN FLIGHT", Right),
        ("FORWARDED", Right),
        ("RECEIVED", Right),
        ("BYTES UP", Right),
        ("BYTES DOWN", Right),
        ("UP/MESSAGE", Right),
        ("DROPPED", Right),
        ("LAST ERROR", Left),
    ]);
    for bridge in items(status, "bridges") {
        table.push([
            word(bridge, "name"),
            word(bridge, "state"),
            number(bridge, "queued_messages").to_string(),
            size(number(bridge, "queued_bytes")),
            number(bridge, "inflight").to_string(),
            number(bridge, "forwarded").to_string(),
            number(bridge, "received").to_string(),
            size(number(bridge, "sent_bytes")),
            size(number(bridge, "received_bytes")),
            bridge["sent_bytes_per_message"].as_f64().map_or_else(String::new, |bytes| format!("{bytes} B")),
            dropped(bridge).to_string(),
            word(bridge, "last_error"),
        ]);
    }
    table.render()
}

/// Messages, for whatever reason.
fn dropped(bridge: &Value) -> u64 {
    let reasons = bridge["dropped"].as_object().into_iter().flatten();
    reasons.map(|(_, lost)| number(lost, "messages")).sum()
}

fn items<'a>(from: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    from[key].as_array().into_iter().flatten()
}

/// `-` where there is none.
fn word(from: &Value, key: &str) -> String {
    from[key].as_str().unwrap_or("-").to_owned()
}

fn number(from: &Value, key: &str) -> u64 {
    from[key].as_u64().unwrap_or(0)
}
