//! `tidegate buffer list`, `peek` and `stats`: what waits, for people or as JSON. Changes nothing.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};

use crate::cli::buffer::{BufferError, PeekArgs, StatsArgs};
use crate::cli::gateway::request;
use crate::cli::reach::Reach;
use crate::cli::table::{Align, Table, duration, printable, size};
use crate::web::control::{BufferSnapshot, DeadSnapshot, Dropped, Page};
use crate::web::line::MessageLine;

/// What one question asks for.
const PAGE_MESSAGES: u64 = 100;
/// What a table shows of a payload.
const PAYLOAD_CHARS_MAX: usize = 40;
const UP: &str = "up";

pub async fn list(reach: &Reach, json: bool) -> Result<(), BufferError> {
    let buffers = snapshots(reach).await?;
    if json {
        return print(&json_line(&json!(buffers)));
    }
    let mut table = Table::new([
        ("BRIDGE", Align::Left),
        ("LINK", Align::Left),
        ("WAITING", Align::Right),
        ("SIZE", Align::Right),
        ("IN FLIGHT", Align::Right),
        ("OLDEST", Align::Right),
        ("DEAD", Align::Right),
        ("SIZE", Align::Right),
        ("OLDEST", Align::Right),
    ]);
    for buffer in buffers {
        table.push([
            buffer.bridge,
            buffer.state,
            buffer.messages.to_string(),
            size(buffer.bytes),
            buffer.in_flight.to_string(),
            age(buffer.oldest_age_seconds),
            buffer.dead.messages.to_string(),
            size(buffer.dead.bytes),
            age(buffer.dead.oldest_age_seconds),
        ]);
    }
    print(&table.render())
}

pub async fn peek(reach: &Reach, args: &PeekArgs, json: bool) -> Result<(), BufferError> {
    let mut left = args.count;
    let mut after = args.after;
    let mut found = Vec::new();
    while left > 0 {
        let page = page(reach, (&args.bridge, args.dead), after, left.min(PAGE_MESSAGES)).await?;
        let Some(next) = page.next else { break };
        after = next;
        left = left.saturating_sub(page.messages.len() as u64);
        found.extend(page.messages);
    }
    if json {
        let lines: String = found.iter().map(|message| json_line(&json!(message))).collect();
        return print(&lines);
    }
    print(&if args.dead { dead_letters(found) } else { messages(found) })
}

pub async fn stats(reach: &Reach, args: &StatsArgs, json: bool) -> Result<(), BufferError> {
    let before = snapshots(reach).await?;
    let wanted = |buffer: &BufferSnapshot| args.bridge.as_ref().is_none_or(|name| *name == buffer.bridge);
    if let Some(name) = &args.bridge
        && !before.iter().any(wanted)
    {
        return Err(BufferError::NoBridge { name: name.clone() });
    }
    let begun = Instant::now();
    let after = if reach.is_running() {
        tokio::time::sleep(args.over).await;
        snapshots(reach).await?
    } else {
        before.clone()
    };
    let elapsed = begun.elapsed();
    let mut text = String::new();
    let mut shown = Vec::new();
    for (before, after) in before.iter().zip(after).filter(|(_, after)| wanted(after)) {
        let rates = reach.is_running().then(|| Rates::of(before, &after, elapsed));
        if json {
            shown.push(with_rates(&after, rates));
        } else {
            describe(&mut text, &after, rates);
        }
    }
    print(&if json { json_line(&json!(shown)) } else { text })
}

/// A page of what waits for a bridge, or of its dead letters.
pub async fn page(
    reach: &Reach,
    (bridge, dead): (&str, bool),
    after: u64,
    max: u64,
) -> Result<Page, BufferError> {
    let bridge = path_segment(bridge);
    let path = format!("/api/v1/buffers/{bridge}/messages?after={after}&max={max}&dead={dead}");
    Ok(reach.json(request(Method::GET, &path, Body::empty())).await?)
}

pub async fn snapshots(reach: &Reach) -> Result<Vec<BufferSnapshot>, BufferError> {
    Ok(reach.json(request(Method::GET, "/api/v1/buffers", Body::empty())).await?)
}

pub fn print(text: &str) -> Result<(), BufferError> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

pub fn json_line(value: &Value) -> String {
    format!("{value}\n")
}

/// RFC 3986 3.3: what a person typed is one segment, whatever is in it.
pub fn path_segment(name: &str) -> String {
    let mut segment = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_".contains(&byte) {
            segment.push(char::from(byte));
        } else {
            // To a String this never fails.
            let _ = write!(segment, "%{byte:02X}");
        }
    }
    segment
}

/// Messages in thousandths of a second's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rates {
    taken: u64,
    left: u64,
    drained: Option<Duration>,
}

impl Rates {
    fn of(before: &BufferSnapshot, after: &BufferSnapshot, elapsed: Duration) -> Self {
        let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = |messages: u64| messages.saturating_mul(1_000_000) / millis;
        let taken = after.accepted.saturating_sub(before.accepted);
        let left = (before.messages + taken).saturating_sub(after.messages);
        let (taken, left) = (rate(taken), rate(left));
        let net = left.saturating_sub(taken);
        let drained = match after.messages {
            0 => Some(Duration::ZERO),
            _ if after.state != UP || net == 0 => None,
            messages => Some(Duration::from_secs((messages.saturating_mul(1000)).div_ceil(net))),
        };
        Self { taken, left, drained }
    }
}

fn with_rates(buffer: &BufferSnapshot, rates: Option<Rates>) -> Value {
    let mut value = json!(buffer);
    let per_second = |rate: u64| f64::from(u32::try_from(rate).unwrap_or(u32::MAX)) / 1000.0;
    value["in_per_second"] = json!(rates.map(|rates| per_second(rates.taken)));
    value["out_per_second"] = json!(rates.map(|rates| per_second(rates.left)));
    value["drained_in_seconds"] = json!(rates.and_then(|rates| rates.drained).map(|time| time.as_secs()));
    value
}

fn describe(text: &mut String, buffer: &BufferSnapshot, rates: Option<Rates>) {
    let per_second = |rate: u64| format!("{}.{} messages/s", rate / 1000, rate % 1000 / 100);
    // To a String this never fails.
    let _ = writeln!(text, "bridge {}, link {}", printable(&buffer.bridge), buffer.state);
    let mut say = |what: &str, value: String| {
        let _ = writeln!(text, "  {what:<11} {value}");
    };
    say("waiting", format!("{} messages, {} in flight", buffer.messages, buffer.in_flight));
    say("size", format!("{} of {}", size(buffer.bytes), size(buffer.bytes_max)));
    say("oldest", age(buffer.oldest_age_seconds));
    if let Some(rates) = rates {
        say("in", per_second(rates.taken));
        say("out", per_second(rates.left));
        say("drained in", rates.drained.map_or_else(|| "-".to_owned(), duration));
    }
    say("dropped", dropped(&buffer.dropped, &buffer.dropped_bytes));
    say("dead", dead(&buffer.dead));
    for rule in &buffer.rules {
        let held = size(rule.bytes);
        let held = rule.bytes_max.map_or_else(|| held.clone(), |max| format!("{held} of {}", size(max)));
        let lost = dropped(&rule.dropped, &rule.dropped_bytes);
        say(
            "rule",
            format!("{}: {} messages, {held}, dropped {lost}", printable(&rule.topic), rule.messages),
        );
    }
}

/// `2 messages, 300B of 16MiB; since the start: not authorized 2`
fn dead(dead: &DeadSnapshot) -> String {
    let some = dead.died.iter().filter(|(_, count)| **count > 0);
    let parts: Vec<_> =
        some.map(|(name, count)| format!("{} {count}", printable(&name.replace('_', " ")))).collect();
    let held = format!("{} messages, {} of {}", dead.messages, size(dead.bytes), size(dead.bytes_max));
    if parts.is_empty() { held } else { format!("{held}; since the start: {}", parts.join(", ")) }
}

/// `full 3 (1.2KiB), aged 1 (80B)`
fn dropped(messages: &Dropped, bytes: &Dropped) -> String {
    let counts = |dropped: &Dropped| {
        [
            ("full", dropped.full),
            ("rejected", dropped.rejected),
            ("aged", dropped.aged),
            ("expired", dropped.expired),
            ("too large", dropped.too_large),
            ("unroutable", dropped.unroutable),
            ("purged", dropped.purged),
        ]
    };
    let some = counts(messages).into_iter().zip(counts(bytes)).filter(|((_, count), _)| *count > 0);
    let parts: Vec<_> =
        some.map(|((name, count), (_, bytes))| format!("{name} {count} ({})", size(bytes))).collect();
    if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
}

fn messages(found: Vec<MessageLine>) -> String {
    let mut table = Table::new([
        ("SEQ", Align::Right),
        ("TIME", Align::Left),
        ("QOS", Align::Right),
        ("IN FLIGHT", Align::Left),
        ("TOPIC", Align::Left),
        ("PAYLOAD", Align::Left),
    ]);
    for message in found {
        table.push([
            message.seq.unwrap_or_default().to_string(),
            message.time.unwrap_or_default(),
            message.qos.to_string(),
            if message.in_flight { "yes" } else { "no" }.to_owned(),
            message.topic,
            excerpt(message.payload, message.payload_base64),
        ]);
    }
    table.render()
}

fn dead_letters(found: Vec<MessageLine>) -> String {
    let mut table = Table::new([
        ("SEQ", Align::Right),
        ("TIME", Align::Left),
        ("DIED", Align::Left),
        ("QOS", Align::Right),
        ("TOPIC", Align::Left),
        ("PAYLOAD", Align::Left),
        ("WHY", Align::Left),
    ]);
    for message in found {
        let dead = message.dead.unwrap_or_default();
        table.push([
            message.seq.unwrap_or_default().to_string(),
            message.time.unwrap_or_default(),
            dead.time.unwrap_or_default(),
            message.qos.to_string(),
            message.topic,
            excerpt(message.payload, message.payload_base64),
            dead.detail,
        ]);
    }
    table.render()
}

fn excerpt(text: Option<String>, base64: Option<String>) -> String {
    let whole = text.or_else(|| base64.map(|base64| format!("base64:{base64}"))).unwrap_or_default();
    match whole.char_indices().nth(PAYLOAD_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &whole[..end]),
        None => whole,
    }
}

fn age(seconds: Option<u64>) -> String {
    seconds.map_or_else(|| "-".to_owned(), |seconds| duration(Duration::from_secs(seconds)))
}

#[cfg(test)]
mod tests {
    use super::{BufferSnapshot, DeadSnapshot, Dropped, Duration, Rates, path_segment};

    fn buffer(state: &str, messages: u64, accepted: u64) -> BufferSnapshot {
        BufferSnapshot {
            bridge: "cloud".into(),
            state: state.into(),
            messages,
            bytes: 0,
            bytes_max: 0,
            in_flight: 0,
            oldest: None,
            oldest_age_seconds: None,
            accepted,
            forwarded: 0,
            dropped: Dropped::default(),
            dropped_bytes: Dropped::default(),
            rules: Vec::new(),
            dead: DeadSnapshot::default(),
        }
    }

    #[test]
    fn the_time_until_drained_is_that_of_what_leaves_more_than_comes() {
        // Waiting before and after, taken between; the link; rates and seconds.
        let cases = [
            ("up", 100, 70, 10, (5_000, 20_000, Some(5))),
            ("up", 100, 110, 10, (5_000, 0, None)),
            ("down", 100, 70, 10, (5_000, 20_000, None)),
            ("up", 10, 0, 0, (0, 5_000, Some(0))),
            ("down", 0, 0, 0, (0, 0, Some(0))),
        ];
        for (state, before, after, taken, (rate_in, rate_out, seconds)) in cases {
            let found = Rates::of(
                &buffer(state, before, 50),
                &buffer(state, after, 50 + taken),
                Duration::from_secs(2),
            );
            let drained = seconds.map(Duration::from_secs);
            assert_eq!(found, Rates { taken: rate_in, left: rate_out, drained }, "{state} {before} {after}");
        }
    }

    #[test]
    fn a_name_is_one_segment() {
        assert_eq!(path_segment("a-b_1/..?ü"), "a-b_1%2F%2E%2E%3F%C3%BC");
    }
}
