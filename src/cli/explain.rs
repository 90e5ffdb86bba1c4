//! What a configuration results in: every topic, with the type and rhythm of what is on it. Opens nothing.

use serde_json::{Value as Json, json};

use crate::cli::table::{Align, Table};
use crate::config::duration::DurationText;
use crate::config::instrument::{FieldPath, Instrument, Talk};
use crate::config::model::{Config, Device, Format, Point, Publish};
use crate::config::point::Computed;
use crate::config::provider::Account;
use crate::config::size::SizeText;
use crate::device::map::type_name;
use crate::device::receiver::Receiver;
use crate::device::topics::{PointTopics, Topics};
use crate::mqtt::qos::QoS;
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
    let mut text = table.render();
    for (bridge, provider, notes) in notes(config) {
        text.extend(["\nbridge ", bridge, " (", provider, "): ", &notes.join("; "), "\n"]);
    }
    text
}

/// What of a topic the configuration knows.
pub(super) fn about(config: &Config, topic: &str) -> Vec<Json> {
    let rows = rows(config).into_iter().filter(|row| row.topic == topic);
    rows.map(row_json).collect()
}

/// What a cloud with rules of its own makes of messages: by bridges.
fn notes(config: &Config) -> Vec<(&str, &'static str, Vec<String>)> {
    let with_rules = config.bridges.iter().filter(|bridge| bridge.account != Account::Generic);
    with_rules
        .map(|bridge| {
            let terms = bridge.account.provider().terms();
            let mut notes = Vec::new();
            if terms.maximum_qos < QoS::ExactlyOnce {
                notes.push(format!("QoS 2 goes as {}", terms.maximum_qos.bits()));
            }
            if !terms.retain {
                notes.push("nothing is sent as retained".to_owned());
            }
            if !terms.will {
                notes.push("no last will".to_owned());
            }
            if terms.payload_bytes_max < usize::MAX {
                let most = SizeText(terms.payload_bytes_max as u64);
                notes.push(format!("larger than {most} is dropped and counted"));
            }
            if let Some(lifetime) = bridge.account.lifetime() {
                notes.push(format!(
                    "the credential is good for {}, and renewed before",
                    DurationText(lifetime)
                ));
            }
            (&*bridge.name, bridge.account.provider().name(), notes)
        })
        .collect()
}

pub fn json(config: &Config) -> Json {
    let topics = rows(config).into_iter().map(row_json);
    let notes = notes(config).into_iter();
    let bridges = notes
        .map(|(bridge, provider, notes)| json!({ "bridge": bridge, "provider": provider, "notes": notes }));
    json!({
        "summary": config.summary(),
        "topics": topics.collect::<Vec<Json>>(),
        "bridges": bridges.collect::<Vec<Json>>(),
    })
}

fn row_json(row: Row) -> Json {
    let filled = |text: String| if text.is_empty() { Json::Null } else { Json::from(text) };
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
}

fn rows(config: &Config) -> Vec<Row> {
    let devices = config.devices.iter().flat_map(|device| of_device(&config.gateway.id, device));
    let instruments =
        config.instruments.iter().flat_map(|instrument| of_instrument(&config.gateway.id, instrument));
    devices.chain(instruments).collect()
}

fn of_device(gateway: &str, device: &Device) -> Vec<Row> {
    let poll = DurationText(device.poll).to_string();
    let about = About { name: &device.name, publish: &device.publish, poll };
    let topics = Topics::new(gateway, device);
    let (of_points, of_computed) =
        topics.points.split_at_checked(device.points.len()).unwrap_or((&topics.points, &[]));
    let mut rows = about.of_device(&topics);
    for (point, topics) in device.points.iter().zip(of_points) {
        let row = Row {
            source: point.sunspec.as_ref().map_or_else(
                || format!("{} {}", point.source.table.name(), point.source.address),
                |sunspec| format!("sunspec {sunspec}"),
            ),
            value_type: with_unit(&type_of(point), point.unit.as_deref()),
            poll: DurationText(point.poll).to_string(),
            ..about.row("", &point.name)
        };
        rows.extend(about.of_point(topics, point.writable, row));
    }
    rows.extend(about.of_computed(&device.computed, of_computed));
    rows.extend(
        topics.status.iter().map(|topic| Row { topic: topic.to_string(), ..about.row("status", "") }),
    );
    rows
}

fn of_instrument(gateway: &str, instrument: &Instrument) -> Vec<Row> {
    let poll = match instrument.talk {
        Talk::Asked { every, .. } => DurationText(every).to_string(),
        Talk::Free { .. } => String::new(),
    };
    let about = About { name: &instrument.name, publish: &instrument.publish, poll: poll.clone() };
    let topics = Receiver::from(instrument.clone()).topics(gateway);
    let mut rows = about.of_device(&topics);
    let (of_points, of_computed) =
        topics.points.split_at_checked(instrument.points.len()).unwrap_or((&topics.points, &[]));
    for (point, topics) in instrument.points.iter().zip(of_points) {
        let source = match &point.field {
            Some(FieldPath::Bytes(binary)) => format!("byte {}", binary.at),
            _ => "serial".to_owned(),
        };
        let row = Row {
            source,
            value_type: with_unit("", point.unit.as_deref()),
            poll: poll.clone(),
            ..about.row("", &point.name)
        };
        rows.extend(about.of_point(topics, point.command.is_some(), row));
    }
    rows.extend(about.of_computed(&instrument.computed, of_computed));
    rows.extend(
        topics.status.iter().map(|topic| Row { topic: topic.to_string(), ..about.row("status", "") }),
    );
    rows
}

/// What all rows of a device have in common.
struct About<'a> {
    name: &'a str,
    publish: &'a Publish,
    poll: String,
}

impl About<'_> {
    fn row(&self, kind: &'static str, point: &str) -> Row {
        Row {
            topic: String::new(),
            kind,
            device: self.name.to_owned(),
            point: point.to_owned(),
            source: String::new(),
            value_type: String::new(),
            poll: String::new(),
            delivery: String::new(),
        }
    }

    fn of_computed(&self, computed: &[Computed], topics: &[PointTopics]) -> Vec<Row> {
        let rows = computed.iter().zip(topics).flat_map(|(point, topics)| {
            let row = Row {
                source: "compute".to_owned(),
                value_type: with_unit("f64", point.unit.as_deref()),
                ..self.row("", &point.name)
            };
            self.of_point(topics, false, row)
        });
        rows.collect()
    }

    /// One message that tells of all points.
    fn of_device(&self, topics: &Topics) -> Vec<Row> {
        let row = |topic: &TopicName| Row {
            topic: topic.to_string(),
            poll: self.poll.clone(),
            delivery: delivery(self.publish),
            ..self.row("reading", "")
        };
        topics.device.iter().map(row).collect()
    }

    /// `told` is what its reading is.
    fn of_point(&self, topics: &PointTopics, is_writable: bool, told: Row) -> Vec<Row> {
        let mut rows = Vec::new();
        let point = told.point.clone();
        if is_writable {
            let (source, value_type) = (told.source.clone(), told.value_type.clone());
            let row = self.row("command", &point);
            rows.extend(topics.command().map(|topic| Row {
                topic: topic.to_string(),
                source,
                value_type,
                ..row
            }));
            let row = self.row("result", &point);
            rows.extend(topics.result().map(|topic| Row { topic: topic.to_string(), ..row }));
        }
        let delivery = delivery(self.publish);
        let reading =
            topics.reading().map(|topic| Row { topic: topic.to_string(), kind: "reading", delivery, ..told });
        reading.into_iter().chain(rows).collect()
    }
}

/// `f32`; `i16 or f32` where it depends on the models that a unit has.
fn type_of(point: &Point) -> String {
    let Some(sunspec) = &point.sunspec else { return type_name(point.value_type).to_owned() };
    let mut names: Vec<&str> =
        sunspec.fields().map(|(_, field)| type_name(field.kind.value_type())).collect();
    names.dedup();
    names.join(" or ")
}

/// `f32 V`
fn with_unit(value_type: &str, unit: Option<&str>) -> String {
    [value_type, unit.unwrap_or_default()].join(" ").trim().to_owned()
}

/// `json qos 1 retained`; `json qos 1, up to 100 in 10s as one message of 65536 B at most`
fn delivery(publish: &Publish) -> String {
    let format = match publish.format {
        Format::Json => "json",
        Format::Plain => "plain",
        Format::Sparkplug => "sparkplug",
    };
    let retained = if publish.retain { " retained" } else { "" };
    let batch = publish.batch.map_or_else(String::new, |batch| {
        let every = DurationText(batch.every);
        format!(
            ", up to {} in {every} as one message of {} B at most",
            batch.readings, batch.packet_bytes_max
        )
    });
    format!("{format} qos {}{retained}{batch}", publish.qos.bits())
}
