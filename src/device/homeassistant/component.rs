//! The components of a discovery message: for each entity its platform, where its state stands and where it is
//! commanded, in Home Assistant's documented keys. Never decides what an entity is.

use std::sync::Arc;

use serde_json::{Map, Value as Json, json};

use crate::base::time::Duration;
use crate::config::model::Format;
use crate::config::point::BitField;
use crate::device::homeassistant::entity::{Bounds, Entity, Shape};
use crate::device::homeassistant::units::{StateClass, quantity};
use crate::mqtt::topic::TopicName;

/// Where a point's value stands in what is published.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) state: &'a TopicName,
    pub(super) command: Option<&'a TopicName>,
    pub(super) format: Format,
    /// One message tells of all points.
    pub(super) is_shared: bool,
    /// Before the name of a component: unique among all gateways and devices.
    pub(super) id: &'a str,
}

impl Place<'_> {
    /// The template's expression for the point's value; None: the payload as it is.
    fn value(&self, point: &str) -> Option<String> {
        match self.format {
            // By `get`: a point that was never read is not there.
            Format::Json if self.is_shared => Some(format!("value_json['values'].get({})", literal(point))),
            Format::Json => Some("value_json.value".to_owned()),
            // The check refuses Sparkplug here.
            Format::Plain | Format::Sparkplug => None,
        }
    }

    /// The same for what is an object.
    fn object(&self, point: &str) -> String {
        self.value(point).unwrap_or_else(|| "value_json".to_owned())
    }
}

/// One point may be several: each of its named bits is one. With their keys, in their order.
pub(super) fn components(entity: &Entity<'_>, place: &Place<'_>) -> Vec<(String, Json)> {
    let Shape::Bits(fields) = entity.shape else {
        let key = entity.name.to_owned();
        return vec![(key, component(entity, place))];
    };
    fields.iter().map(|field| of_bits(entity, field, place)).collect()
}

/// What is the same for every platform.
fn base(name: &str, key: &str, platform: &str, place: &Place<'_>) -> Map<String, Json> {
    let mut keys = Map::new();
    keys.insert("p".into(), platform.into());
    keys.insert("name".into(), name.into());
    keys.insert("unique_id".into(), format!("{}/{key}", place.id).into());
    keys.insert("state_topic".into(), place.state.as_str().into());
    keys
}

/// Where it is commanded, if it is.
fn command_of<'a>(entity: &Entity<'_>, place: &Place<'a>) -> Option<&'a str> {
    place.command.filter(|_| entity.is_writable).map(TopicName::as_str)
}

fn component(entity: &Entity<'_>, place: &Place<'_>) -> Json {
    let name = entity.name;
    let value = place.value(name);
    let command = command_of(entity, place);
    let as_it_is = value.as_ref().map(|value| format!("{{{{ {value} }}}}"));
    let (platform, template) = match (&entity.shape, command) {
        (Shape::Flag, None) => ("binary_sensor", value.as_deref().map(lower)),
        (Shape::Flag, Some(_)) => ("switch", value.as_deref().map(lower)),
        (Shape::Number(bounds), Some(_)) if bounds.min < bounds.max => ("number", as_it_is),
        (Shape::Options(options), command) => {
            // What is none of them is nothing that Home Assistant would take.
            let value = value.as_deref().unwrap_or("value");
            let template = format!("{{{{ {value} if {value} in {} else None }}}}", literals(options));
            (if command.is_some() { "select" } else { "sensor" }, Some(template))
        }
        (Shape::Text { .. } | Shape::Any, Some(_)) => ("text", as_it_is),
        (Shape::Number(_) | Shape::Text { .. } | Shape::Any | Shape::Bits(_), _) => ("sensor", as_it_is),
    };
    let mut keys = base(name, name, platform, place);
    if let Some(template) = template {
        keys.insert("value_template".into(), template.into());
    }
    match (&entity.shape, platform) {
        (Shape::Flag, _) => add_flag(&mut keys, platform, ("true", "false")),
        (Shape::Number(bounds), "number") => {
            add_quantity(&mut keys, entity, platform);
            add_bounds(&mut keys, *bounds);
        }
        (Shape::Number(_), _) => add_quantity(&mut keys, entity, platform),
        (Shape::Options(options), _) => {
            keys.insert("options".into(), json!(options));
            if platform == "sensor" {
                keys.insert("device_class".into(), "enum".into());
            }
        }
        (Shape::Text { length_max }, "text") => {
            keys.insert("max".into(), (*length_max).into());
        }
        (Shape::Text { .. } | Shape::Any | Shape::Bits(_), _) => {}
    }
    finish(keys, entity.expires_after, command)
}

/// One of several bits, or neighbouring ones.
fn of_bits(entity: &Entity<'_>, field: &BitField, place: &Place<'_>) -> (String, Json) {
    let key = format!("{}.{}", entity.name, field.name);
    let name = format!("{} {}", entity.name, field.name);
    let command = command_of(entity, place);
    let is_flag = field.width == 1;
    let platform = match (is_flag, command) {
        (true, None) => "binary_sensor",
        (true, Some(_)) => "switch",
        (false, None) => "sensor",
        (false, Some(_)) => "number",
    };
    let mut keys = base(&name, &key, platform, place);
    let member = literal(&field.name);
    // A bad reading is null.
    let value = format!("({} or {{}}).get({member})", place.object(entity.name));
    let template = if is_flag { lower(&value) } else { format!("{{{{ {value} }}}}") };
    keys.insert("value_template".into(), template.into());
    if is_flag {
        let set = |flag: bool| json!({ &*field.name: flag }).to_string();
        add_flag(&mut keys, platform, ("true", "false"));
        if command.is_some() {
            keys.insert("payload_on".into(), set(true).into());
            keys.insert("payload_off".into(), set(false).into());
        }
    } else if command.is_some() {
        #[allow(clippy::cast_precision_loss)] // a bound for a person's eyes
        add_bounds(&mut keys, Bounds { min: 0.0, max: field.max() as f64, step: 1.0 });
        keys.insert("command_template".into(), format!("{{{member}:{{{{ value }}}}}}").into());
    } else {
        keys.insert("state_class".into(), "measurement".into());
    }
    (key, finish(keys, entity.expires_after, command))
}

fn add_flag(keys: &mut Map<String, Json>, platform: &str, (on, off): (&str, &str)) {
    keys.insert("payload_on".into(), on.into());
    keys.insert("payload_off".into(), off.into());
    if platform == "switch" {
        keys.insert("state_on".into(), on.into());
        keys.insert("state_off".into(), off.into());
    }
}

fn add_quantity(keys: &mut Map<String, Json>, entity: &Entity<'_>, platform: &str) {
    let quantity = quantity(entity.name, entity.unit);
    if let Some(unit) = quantity.unit {
        keys.insert("unit_of_measurement".into(), unit.into());
    }
    // A window's sum is neither what was measured nor a meter's count.
    let state_class = if entity.is_sum { StateClass::Measurement } else { quantity.state_class };
    if let Some(device_class) = quantity.device_class.filter(|_| !entity.is_sum) {
        keys.insert("device_class".into(), device_class.into());
    }
    if platform == "sensor" {
        keys.insert("state_class".into(), state_class.as_str().into());
    }
}

fn add_bounds(keys: &mut Map<String, Json>, bounds: Bounds) {
    keys.insert("min".into(), bounds.min.into());
    keys.insert("max".into(), bounds.max.into());
    keys.insert("step".into(), bounds.step.into());
}

/// What commands it, or else after what silence it has expired.
fn finish(mut keys: Map<String, Json>, expires_after: Option<Duration>, command: Option<&str>) -> Json {
    let is_commanded = !["sensor", "binary_sensor"].contains(&keys["p"].as_str().unwrap_or_default());
    match (command, expires_after) {
        (Some(topic), _) if is_commanded => {
            keys.insert("command_topic".into(), topic.into());
        }
        (_, Some(after)) => {
            keys.insert("expire_after".into(), after.as_secs().into());
        }
        (_, None) => {}
    }
    Json::Object(keys)
}

/// `true` and `false` as this gateway writes them; Python's own begin with a capital.
fn lower(value: &str) -> String {
    format!("{{{{ None if {value} is none else {value} | lower }}}}")
}

/// As a string of a template: JSON's quotes and escapes are Jinja's too.
fn literal(text: &str) -> String {
    Json::from(text).to_string()
}

fn literals(texts: &[Arc<str>]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| literal(text)).collect();
    format!("[{}]", texts.join(", "))
}
