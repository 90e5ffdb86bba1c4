//! What a configuration results in: every topic, with the type and rhythm of what is on it. Opens nothing.

use serde_json::{Value as Json, json};

use crate::cli::table::{Align, Table};
use crate::config::duration::DurationText;
use crate::config::model::{Config, Device, Format, Point};
use crate::device::map::type_name;
use crate::device::topics::{PointTopics, Topics};
use crate::mqtt::topic::TopicName;

/// One topic.
struct Row {
    topic: String,
    /// `reading`, `command`, `result` or `status`.
    kind: &'static str,
    device: String,
    /// Empty: of the whole device.
    point: String,
    /// Empty: none of its own.
    source: String,
    value_type: String,
    poll: String,
    delivery: String,
}

pub fn text(config: &Config) -> String {
    let titles = ["TOPIC", "KIND", "DEVICE", "POINT", "FROM", "TYPE", "POLL", "DELIVERY"];
    let mut table = Table::new(titles.map(|title| (title, Align::Left)));
    for row in rows(config) {
        let Row { topic, kind, device, point, source, value_type, poll, delivery } = row;
        let cells = [topic, kind.to_owned(), device, point, source, value_type, poll, delivery];
        table.push(cells.map(|cell| if cell.is_empty() { "-".to_owned() } else { cell }));
    }
    table.render()
}

pub fn json(config: &Config) -> Json {
    let filled = |text: String| if text.is_empty() { Json::Null } else { Json::from(text) };
    let topics = rows(config).into_iter().map(|row| {
        json!({
            "topic": row.topic,
            "kind": row.kind,
            "device": row.device,
            "point": filled(row.point),
            "from": filled(row.source),
            "type": filled(row.value_type),
            "poll": filled(row.poll),
            "delivery": filled(row.delivery),
        })
    });
    json!({ "summary": config.summary(), "topics": topics.collect::<Vec<Json>>() })
}

fn rows(config: &Config) -> Vec<Row> {
    config.devices.iter().flat_map(|device| of_device(&config.gateway.id, device)).collect()
}

fn of_device(gateway: &str, device: &Device) -> Vec<Row> {
    let topics = Topics::new(gateway, device);
    let named = |topic: &TopicName, kind, point: &str| Row {
        topic: topic.to_string(),
        kind,
        device: device.name.to_string(),
        point: point.to_owned(),
        source: String::new(),
        value_type: String::new(),
        poll: String::new(),
        delivery: String::new(),
    };
    let mut rows = Vec::new();
    if let Some(topic) = &topics.device {
        let poll = DurationText(device.poll).to_string();
        rows.push(Row { poll, delivery: delivery(device), ..named(topic, "reading", "") });
    }
    for (point, PointTopics { reading, command, result }) in device.points.iter().zip(&topics.points) {
        if let Some(topic) = reading {
            let row = Row { delivery: delivery(device), ..named(topic, "reading", &point.name) };
            rows.push(told(point, row));
        }
        if point.writable {
            let row = command.as_ref().map(|topic| named(topic, "command", &point.name));
            rows.extend(row.map(|row| Row { poll: String::new(), ..told(point, row) }));
            rows.extend(result.as_ref().map(|topic| named(topic, "result", &point.name)));
        }
    }
    rows.extend(topics.status.iter().map(|topic| named(topic, "status", "")));
    rows
}

fn told(point: &Point, row: Row) -> Row {
    let unit = point.unit.as_deref().map(|unit| format!(" {unit}")).unwrap_or_default();
    Row {
        source: format!("{} {}", point.source.table.name(), point.source.address),
        value_type: format!("{}{unit}", type_name(point.value_type)),
        poll: DurationText(point.poll).to_string(),
        ..row
    }
}

/// `json qos 1 retained`
fn delivery(device: &Device) -> String {
    let format = match device.publish.format {
        Format::Json => "json",
        Format::Plain => "plain",
    };
    let retained = if device.publish.retain { " retained" } else { "" };
    format!("{format} qos {}{retained}", device.publish.qos.bits())
}
