//! The `devices` section: where a device answers, its rhythm, and what it publishes.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::base::time::Duration;
use crate::config::check::point::{self, Defaults};
use crate::config::check::value::{POLL_RANGE, heartbeat, order, qos, reconnect, unless_zero, word_order};
use crate::config::check::{Context, address, instrument, topic};
use crate::config::error::Problem;
use crate::config::instrument::Instrument;
use crate::config::model::{DataBits, Device, Format, Link, Order, Port, Publish, When};
use crate::config::point::WordOrder;
use crate::config::raw::{Field, Section, nearest};
use crate::config::serial_problem::SerialProblem;
use crate::config::template::{Part, TopicTemplate};
use crate::config::yaml::Kind;
use crate::mqtt::qos::QoS;

const KEYS: &[&str] = &[
    "modbus",
    "serial",
    "profile",
    "poll",
    "timeout",
    "retries",
    "offline_after",
    "reconnect",
    "read",
    "word_order",
    "byte_order",
    "address_base",
    "homeassistant",
    "publish",
    "points",
];
const MODBUS_KEYS: &[&str] = &["port", "tcp", "rtu_over_tcp", "unit", "framing"];
const LINK_KEYS: &[&str] = &["port", "tcp", "rtu_over_tcp"];
const READ_KEYS: &[&str] = &["max_gap", "max_registers"];
const PUBLISH_KEYS: &[&str] = &["topic", "format", "qos", "retain", "when", "heartbeat"];

const TOPIC_DEFAULT: &str = "devices/{device}/{point}";
const TOPIC_VARIABLES: &str = "{gateway}, {device}, {point}";
/// The registered port of Modbus TCP.
const MODBUS_PORT: u16 = 502;
const SECOND: Duration = Duration::from_secs(1);
const TIMEOUT_RANGE: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);

/// How frames are told apart on a serial line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Rtu,
    Ascii,
}

const FRAMINGS: [(&str, Framing); 2] = [("rtu", Framing::Rtu), ("ascii", Framing::Ascii)];

/// Sorted by name.
pub(super) fn check(
    field: &Field<'_>,
    context: &Context<'_>,
    ports: &[Port],
) -> (Vec<Arc<Device>>, Vec<Instrument>) {
    let mut checker =
        Checker { context, ports, units: BTreeMap::new(), owners: BTreeMap::new(), topics: BTreeMap::new() };
    let fields = field.named_fields().unwrap_or_default();
    for (name, _) in &fields {
        checker.topics.insert(format!("devices/{name}/status"), format!("the status of device `{name}`"));
    }
    let (mut devices, mut instruments) = (Vec::new(), Vec::new());
    for (name, field) in &fields {
        let Some(section) = field.section(KEYS) else { continue };
        if section.has("serial") {
            instruments.extend(checker.check_instrument(name, &section));
        } else {
            devices.extend(checker.check_device(name, &section).map(Arc::new));
        }
    }
    devices.sort_by(|a, b| a.name.cmp(&b.name));
    instruments.sort_by(|a, b| a.name.cmp(&b.name));
    (devices, instruments)
}

/// How a port is spoken on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Modbus(Framing),
    /// An instrument has its port to itself.
    Serial,
}

struct Checker<'a> {
    context: &'a Context<'a>,
    ports: &'a [Port],
    /// Which device has a link.
    units: BTreeMap<Link, String>,
    /// Which device a port was named by first, and how it speaks there.
    owners: BTreeMap<usize, (Speaks, String)>,
    /// Who publishes to a topic.
    topics: BTreeMap<String, String>,
}

impl Checker<'_> {
    fn check_instrument(&mut self, name: &str, section: &Section<'_>) -> Option<Instrument> {
        section.refuse_later_unless("homeassistant", |kind| *kind == Kind::Bool(false));
        if section.has("modbus") {
            section.fault(Problem::Conflict(&["modbus", "serial"]));
        }
        // Two frames that are the same are two events.
        let when = if instrument::is_raw(section) { When::Poll } else { When::Change };
        let publish =
            section.read_section("publish", PUBLISH_KEYS, |publish| self.check_publish(publish, when));
        self.check_topics(name, section, &publish.topic);
        instrument::check(name, section, publish, |field| self.find_port(name, field, Speaks::Serial))
    }

    fn check_device(&mut self, name: &str, section: &Section<'_>) -> Option<Device> {
        section.refuse_later_unless("homeassistant", |kind| *kind == Kind::Bool(false));
        section.refuse_later(&["profile"]);
        let link = self.check_link(name, section);
        let (max_gap, max_registers) = section.read_section("read", READ_KEYS, |read| {
            let max_gap = read.read_or("max_gap", 8, |field| field.integer(0..=125));
            (max_gap, read.read_or("max_registers", 125, |field| field.integer(1..=125)))
        });
        let poll = section.read_or("poll", SECOND, |field| field.duration(POLL_RANGE));
        let publish = section
            .read_section("publish", PUBLISH_KEYS, |publish| self.check_publish(publish, When::Change));
        let defaults = Defaults {
            poll,
            heartbeat: publish.heartbeat,
            word_order: section.read_or("word_order", WordOrder::Big, word_order),
            byte_order: section.read_or("byte_order", Order::Big, order),
            address_base: section.read_or("address_base", 0, |field| field.integer(0..=1)),
            max_registers,
        };
        let (points, computed) = point::check(section, &defaults);
        self.check_topics(name, section, &publish.topic);
        Some(Device {
            name: name.into(),
            poll,
            timeout: section
                .read_or("timeout", Duration::from_millis(500), |field| field.duration(TIMEOUT_RANGE)),
            retries: section.read_or("retries", 2, |field| field.integer(0..=10)),
            offline_after: section.read_or("offline_after", 3, |field| field.integer(1..=1000)),
            reconnect: reconnect(section, Duration::from_secs(60)),
            max_gap,
            max_registers,
            publish,
            points,
            computed,
            link: link?,
        })
    }

    fn check_link(&mut self, name: &str, section: &Section<'_>) -> Option<Link> {
        let field = section.require("modbus", "modbus: { tcp: 192.168.1.50:502, unit: 1 }")?;
        let modbus = field.section(MODBUS_KEYS)?;
        let unit = modbus.require("unit", "unit: 1");
        let (key, field) = modbus.require_one(LINK_KEYS)?;
        if key != "port" {
            modbus.refuse_keys(&["framing"], &Problem::OnlyWith("port"));
        }
        let on_line = || unit.as_ref().and_then(|unit| unit.integer(1..=247));
        let link = match key {
            "port" => {
                let framing = modbus.read_or("framing", Framing::Rtu, |field| field.choice(&FRAMINGS, &[]));
                let port = self.find_port(name, &field, Speaks::Modbus(framing));
                let unit = on_line()?;
                match framing {
                    Framing::Rtu => Link::Rtu { port: port?, unit },
                    Framing::Ascii => Link::Ascii { port: port?, unit },
                }
            }
            "rtu_over_tcp" => Link::RtuOverTcp { address: endpoint(&field)?.into(), unit: on_line()? },
            _ => {
                let unit = unit.as_ref().and_then(|unit| unit.integer(0..=255));
                Link::Tcp { address: endpoint(&field)?.into(), unit: unit? }
            }
        };
        if let Some(by) = self.units.get(&link) {
            unit?.fault(Problem::UnitTaken { by: by.as_str().into() });
            return None;
        }
        self.units.insert(link.clone(), name.to_owned());
        Some(link)
    }

    fn find_port(&mut self, device: &str, field: &Field<'_>, speaks: Speaks) -> Option<usize> {
        let name = field.text()?;
        let Ok(index) = self.ports.binary_search_by(|port| (*port.name).cmp(name)) else {
            let nearest = nearest(name, self.ports.iter().map(|port| &*port.name)).map(Into::into);
            field.fault(Problem::UnknownPort { name: field.shown(), nearest });
            return None;
        };
        // Modbus over serial line V1.02, 2.5.1: RTU has 8 data bits.
        if speaks == Speaks::Modbus(Framing::Rtu) && self.ports.get(index)?.data_bits == DataBits::Seven {
            field.fault(Problem::SevenDataBits { port: name.into() });
            return None;
        }
        let (first, by) = self.owners.entry(index).or_insert_with(|| (speaks, device.to_owned()));
        if by == device {
            return Some(index);
        }
        let by = by.as_str().into();
        let problem = match (speaks, *first) {
            (Speaks::Modbus(framing), Speaks::Modbus(other)) if framing == other => return Some(index),
            (Speaks::Modbus(_), Speaks::Modbus(_)) => Problem::OtherFraming { by },
            (Speaks::Serial, _) | (_, Speaks::Serial) => Problem::Serial(SerialProblem::PortTaken { by }),
        };
        field.fault(problem);
        None
    }

    fn check_publish(&self, section: &Section<'_>, when: When) -> Publish {
        let formats = [("json", Format::Json), ("plain", Format::Plain)];
        let format = section.read_or("format", Format::Json, |field| field.choice(&formats, &["sparkplug"]));
        let topic = section.read("topic", |field| {
            let topic = self.check_template(field)?;
            if format == Format::Plain && !topic.holds(&Part::Point) {
                section.find("format")?.fault(Problem::PlainNeedsPoint);
            }
            Some(topic)
        });
        let whens = [("change", When::Change), ("poll", When::Poll)];
        let heartbeat = section.read_or("heartbeat", Duration::from_secs(60), heartbeat);
        Publish {
            topic: topic.unwrap_or_else(default_topic),
            format,
            qos: section.read_or("qos", QoS::AtLeastOnce, qos),
            retain: section.read_or("retain", true, Field::flag),
            when: section.read_or("when", when, |field| field.choice(&whens, &[])),
            heartbeat: unless_zero(heartbeat),
        }
    }

    fn check_template(&self, field: &Field<'_>) -> Option<TopicTemplate> {
        let template = topic::template(field, TOPIC_VARIABLES, |part| match part {
            Part::Literal(_) | Part::Gateway | Part::Device | Part::Point => Ok(()),
            Part::Topic | Part::Plus(_) | Part::Rest => Err(topic::unknown_variable(part, TOPIC_VARIABLES)),
        })?;
        let example = template.render_reading(&self.context.gateway_id, "device", "point");
        let example = topic::require_topic(field, example)?;
        if example.is_system() {
            field.fault(Problem::SystemTopic);
            return None;
        }
        Some(template)
    }

    /// Two readings on one topic could not be told apart; nor could a reading and a device's status.
    fn check_topics(&mut self, device: &str, section: &Section<'_>, template: &TopicTemplate) {
        if !template.holds(&Part::Point) {
            let who = format!("device `{device}`");
            let Some(topic) = self.claim_topic(template, device, "", who) else { return };
            section.fault(topic);
            return;
        }
        let points = section.read("points", |field| match field.kind() {
            Kind::Map(_) => Some(field.named_keys()),
            _ => None,
        });
        for (point, field) in points.unwrap_or_default() {
            let who = format!("point `{point}` of device `{device}`");
            if let Some(problem) = self.claim_topic(template, device, &point, who) {
                field.fault_at_key(problem);
            }
        }
    }

    fn claim_topic(
        &mut self,
        template: &TopicTemplate,
        device: &str,
        point: &str,
        who: String,
    ) -> Option<Problem> {
        let topic = template.render_reading(&self.context.gateway_id, device, point).ok()?;
        if let Some(by) = self.topics.get(topic.as_str()) {
            let (topic, by) = (topic.as_str().into(), by.as_str().into());
            return Some(Problem::TopicTaken { topic, by });
        }
        self.topics.insert(topic.as_str().to_owned(), who);
        None
    }
}

fn default_topic() -> TopicTemplate {
    TopicTemplate::new(TOPIC_DEFAULT).expect("invariant: the default is a valid template, as tests prove")
}

fn endpoint(field: &Field<'_>) -> Option<String> {
    let Some((host, port)) = address::split_endpoint(field.text()?) else {
        field.fault(Problem::BadEndpoint);
        return None;
    };
    Some(address::endpoint_text(host, port.unwrap_or(MODBUS_PORT)))
}
