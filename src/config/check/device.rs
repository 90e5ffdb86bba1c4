//! The `devices` section: where a device answers, its rhythm, and what it publishes.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::base::time::Duration;
use crate::config::check::point::{self, Defaults};
use crate::config::check::profile::{Profiles, points_of};
use crate::config::check::value::{POLL_RANGE, heartbeat, order, qos, reconnect, unless_zero, word_order};
use crate::config::check::{Context, address, batch, instrument, topic};
use crate::config::error::Problem;
use crate::config::format_problem::FormatProblem;
use crate::config::instrument::Instrument;
use crate::config::model::{Device, Format, Link, Order, Publish, When};
use crate::config::point::WordOrder;
use crate::config::port::{DataBits, Port};
use crate::config::raw::{Field, Section, nearest};
use crate::config::serial_problem::SerialProblem;
use crate::config::template::{Part, TopicTemplate};
use crate::config::uplink::authority;
use crate::config::yaml::Kind;
use crate::mqtt::qos::QoS;
use crate::sparkplug::topic::EdgeNode;

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
const PUBLISH_KEYS: &[&str] = &["topic", "format", "qos", "retain", "when", "heartbeat", "batch"];

const TOPIC_DEFAULT: &str = "devices/{device}/{point}";
const SPARKPLUG_TOPIC_DEFAULT: &str = "spBv1.0/tidegate/DDATA/{gateway}/{device}";
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
    let mut checker = Checker {
        context,
        ports,
        units: BTreeMap::new(),
        owners: BTreeMap::new(),
        topics: BTreeMap::new(),
        group: None,
    };
    let fields = field.named_fields().unwrap_or_default();
    for (name, _) in &fields {
        checker.topics.insert(format!("devices/{name}/status"), format!("the status of device `{name}`"));
    }
    let (mut devices, mut instruments) = (Vec::new(), Vec::new());
    let profiles = Profiles::read(&fields, context.base_dir, context.environment, context.report);
    for (name, field) in &fields {
        let Some(section) = field.section(KEYS) else { continue };
        if section.has("serial") {
            instruments.extend(checker.check_instrument(name, &section));
        } else {
            devices.extend(checker.check_device(name, &profiles.beneath(section)).map(Arc::new));
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
    /// The Sparkplug group, and the device that named it.
    group: Option<(Arc<str>, String)>,
}

impl Checker<'_> {
    fn check_instrument(&mut self, name: &str, section: &Section<'_>) -> Option<Instrument> {
        if section.has("modbus") {
            section.fault(Problem::Conflict(&["modbus", "serial"]));
        }
        // Two frames that are the same are two events.
        let when = if instrument::is_raw(section) { When::Poll } else { When::Change };
        let publish =
            section.read_section("publish", PUBLISH_KEYS, |publish| self.check_publish(name, publish, when));
        self.check_topics(name, section, &publish.topic);
        instrument::check(name, section, publish, |field| self.find_port(name, field, Speaks::Serial))
    }

    fn check_device(&mut self, name: &str, section: &Section<'_>) -> Option<Device> {
        let link = self.check_link(name, section);
        let (max_gap, max_registers) = section.read_section("read", READ_KEYS, |read| {
            let max_gap = read.read_or("max_gap", 8, |field| field.integer(0..=125));
            (max_gap, read.read_or("max_registers", 125, |field| field.integer(1..=125)))
        });
        let poll = section.read_or("poll", SECOND, |field| field.duration(POLL_RANGE));
        let publish = section
            .read_section("publish", PUBLISH_KEYS, |publish| self.check_publish(name, publish, When::Change));
        let defaults = Defaults {
            poll,
            heartbeat: publish.heartbeat,
            word_order: section.read_or("word_order", WordOrder::Big, word_order),
            byte_order: section.read_or("byte_order", Order::Big, order),
            address_base: address_base(section.find_own("address_base")),
            profile_base: address_base(section.beneath().and_then(|profile| profile.find("address_base"))),
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
            homeassistant: check_homeassistant(section, &publish),
            publish,
            points,
            computed: computed.into(),
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
                let framing = modbus.read_or("framing", Framing::Rtu, |field| field.choice(&FRAMINGS));
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
        if speaks == Speaks::Serial && self.ports.get(index)?.share.is_some() {
            field.fault(Problem::Serial(SerialProblem::PortShared { port: name.into() }));
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

    fn check_publish(&mut self, device: &str, section: &Section<'_>, when: When) -> Publish {
        let formats = [("json", Format::Json), ("plain", Format::Plain), ("sparkplug", Format::Sparkplug)];
        let format = section.read_or("format", Format::Json, |field| field.choice(&formats));
        let topic = section.read("topic", |field| {
            let topic = self.check_template(field)?;
            if format == Format::Plain && !topic.holds(&Part::Point) {
                section.find("format")?.fault(Problem::Format(FormatProblem::PlainNeedsPoint));
            }
            Some(topic)
        });
        let topic = topic.unwrap_or_else(|| default_topic(format));
        if format == Format::Sparkplug {
            self.check_sparkplug(device, section, &topic);
        }
        let whens = [("change", When::Change), ("poll", When::Poll)];
        let heartbeat = section.read_or("heartbeat", Duration::from_secs(60), heartbeat);
        // Who holds the last batch holds no last reading.
        let is_retained = format != Format::Sparkplug && !section.has("batch");
        Publish {
            topic,
            format,
            qos: section.read_or("qos", QoS::AtLeastOnce, qos),
            retain: section.read_or("retain", is_retained, Field::flag),
            when: section.read_or("when", when, |field| field.choice(&whens)),
            heartbeat: unless_zero(heartbeat),
            batch: batch::check(section, format, self.context.packet_bytes_max),
        }
    }

    /// The gateway is one edge node of one group.
    fn check_sparkplug(&mut self, device: &str, section: &Section<'_>, topic: &TopicTemplate) {
        let fault = |key, problem| {
            if let Some(field) = section.find(key).or_else(|| section.find("format")) {
                field.fault(Problem::Format(problem));
            }
        };
        if section.find("qos").and_then(|field| qos(&field)) == Some(QoS::ExactlyOnce) {
            fault("qos", FormatProblem::SparkplugExactly);
        }
        if section.find("retain").is_some_and(|field| *field.kind() == Kind::Bool(true)) {
            fault("retain", FormatProblem::SparkplugRetained);
        }
        let rendered = topic.render_reading(&self.context.gateway_id, device, "").ok();
        let node = rendered.as_ref().and_then(|topic| EdgeNode::of_device_data(topic.as_str()));
        let node =
            node.filter(|_| matches!(topic.parts(), [Part::Literal(_), Part::Gateway, _, Part::Device]));
        let Some((node, _)) = node else { return fault("topic", FormatProblem::SparkplugTopic) };
        let (first, by) = self.group.get_or_insert_with(|| (node.group.clone(), device.to_owned()));
        if *first != node.group {
            let by = by.as_str().into();
            fault("topic", FormatProblem::OtherGroup { by });
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
        for point in points_of(section, Field::named_keys) {
            let who = format!("point `{}` of device `{device}`", point.name);
            if let Some(problem) = self.claim_topic(template, device, point.name, who) {
                // A profile is not to blame for the topics of a device.
                let field = section.find("profile").filter(|_| point.is_of_profile);
                field.unwrap_or(point.field).fault_at_key(problem);
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

fn default_topic(format: Format) -> TopicTemplate {
    let text = match format {
        Format::Json | Format::Plain => TOPIC_DEFAULT,
        Format::Sparkplug => SPARKPLUG_TOPIC_DEFAULT,
    };
    TopicTemplate::new(text).expect("invariant: the defaults are valid templates, as tests prove")
}

fn address_base(field: Option<Field<'_>>) -> u16 {
    field.and_then(|field| field.integer(0..=1)).unwrap_or(0)
}

/// Home Assistant reads no Sparkplug, and one reading a message.
pub(super) fn check_homeassistant(section: &Section<'_>, publish: &Publish) -> bool {
    let is_announced = section.read_or("homeassistant", false, Field::flag);
    if is_announced && publish.format == Format::Sparkplug {
        section.refuse_keys(&["homeassistant"], &Problem::NotWith("`format: sparkplug`"));
    } else if is_announced && publish.batch.is_some() {
        section.refuse_keys(&["homeassistant"], &Problem::Format(FormatProblem::BatchAnnounced));
    }
    is_announced
}

fn endpoint(field: &Field<'_>) -> Option<String> {
    let Some((host, port)) = address::split_endpoint(field.text()?) else {
        field.fault(Problem::BadEndpoint);
        return None;
    };
    Some(authority(host, port.unwrap_or(MODBUS_PORT)))
}
