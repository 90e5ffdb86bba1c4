//! The rules of a bridge: which topics cross it, and under which names.

use crate::config::check::bridge::{SIZE_BYTES_MIN, WHEN_FULL};
use crate::config::check::value::qos;
use crate::config::check::{Context, topic};
use crate::config::error::Problem;
use crate::config::format_problem::FormatProblem;
use crate::config::model::{Buffer, ForwardRule, ReceiveRule, Retain};
use crate::config::raw::{Field, Section, is_text, is_zero};
use crate::config::template::{Part, TopicTemplate};
use crate::mqtt::qos::QoS;
use crate::mqtt::topic::{TopicFilter, TopicName};

const FORWARD_KEYS: &[&str] =
    &["topic", "to", "qos", "retain", "expiry", "priority", "order", "when_full", "size"];
const RECEIVE_KEYS: &[&str] = &["topic", "to", "qos", "expiry"];
const TO_DEFAULT: &str = "{topic}";
const TO_VARIABLES: &str = "{topic}, {gateway}, {1}, {2}, …, {rest}";

pub(super) fn check_forward(
    bridge: &Section<'_>,
    context: &Context<'_>,
    buffer: &Buffer,
) -> Vec<ForwardRule> {
    let rules = bridge.read("forward", |field| {
        let rules = field.items()?;
        Some(rules.iter().filter_map(|rule| check_forward_rule(rule, context, buffer)).collect())
    });
    rules.unwrap_or_default()
}

fn check_forward_rule(field: &Field<'_>, context: &Context<'_>, buffer: &Buffer) -> Option<ForwardRule> {
    let section = field.section(FORWARD_KEYS)?;
    section.refuse_later_unless("expiry", is_zero);
    section.refuse_later_unless("priority", |kind| is_text(kind, "normal"));
    section.refuse_later_unless("order", |kind| is_text(kind, "topic"));
    let when_full = section.read_or("when_full", buffer.when_full, |field| field.choice(&WHEN_FULL, &[]));
    let size_bytes = section.read("size", |field| check_share(field, buffer));
    let rule_qos = section.read("qos", qos);
    let retains = [("keep", Retain::Keep), ("clear", Retain::Clear)];
    let retain = section.read_or("retain", Retain::Keep, |field| field.choice(&retains, &[]));
    let (filter, to) = check_topics(&section, context, |_| true)?;
    let is_renamed = |topic: &&TopicName| {
        filter.matches(topic) && to.render(&context.gateway_id, &filter, topic).ok().as_ref() != Some(*topic)
    };
    if context.sparkplug_topics.iter().any(|topic| is_renamed(&topic)) {
        section.find("to")?.fault(Problem::Format(FormatProblem::SparkplugRenamed));
    }
    Some(ForwardRule { filter, to, qos: rule_qos, retain, when_full, size_bytes })
}

fn check_share(field: &Field<'_>, buffer: &Buffer) -> Option<u64> {
    let bytes = field.size(SIZE_BYTES_MIN..=1 << 40)?;
    if bytes > buffer.size_bytes {
        field.fault(Problem::ShareTooLarge(buffer.size_bytes));
        return None;
    }
    Some(bytes)
}

pub(super) fn check_receive(bridge: &Section<'_>, context: &Context<'_>) -> Vec<ReceiveRule> {
    let rules = bridge.read("receive", |field| {
        let rules = field.items()?;
        Some(rules.iter().filter_map(|rule| check_receive_rule(rule, context)).collect())
    });
    rules.unwrap_or_default()
}

fn check_receive_rule(field: &Field<'_>, context: &Context<'_>) -> Option<ReceiveRule> {
    let section = field.section(RECEIVE_KEYS)?;
    section.refuse_later_unless("expiry", is_zero);
    let rule_qos = section.read_or("qos", QoS::ExactlyOnce, qos);
    // What the cloud sends is never the gateway's own word.
    let (filter, to) = check_topics(&section, context, |target| !target.is_system())?;
    Some(ReceiveRule { filter, to, qos: rule_qos })
}

/// `topic` and `to`, which has to yield a topic that `allow` lets pass.
fn check_topics(
    section: &Section<'_>,
    context: &Context<'_>,
    allow: impl Fn(&TopicName) -> bool,
) -> Option<(TopicFilter, TopicTemplate)> {
    let filter_field = section.require("topic", "topic: \"devices/#\"");
    let filter = filter_field.as_ref().and_then(topic::filter);
    let to_field = section.find("to");
    let template = match &to_field {
        Some(field) => check_template(field, filter.as_ref()),
        None => TopicTemplate::new(TO_DEFAULT).ok(),
    };
    let (filter, template) = (filter?, template?);
    let field = to_field.or(filter_field)?;
    let example = topic::require_topic(&field, topic::example_of(&filter))?;
    let target = template.render(&context.gateway_id, &filter, &example);
    let target = topic::require_topic(&field, target)?;
    if !allow(&target) {
        field.fault(Problem::SystemTopic);
        return None;
    }
    Some((filter, template))
}

/// Without a good filter nobody knows what `{1}` and `{rest}` may stand for, so they pass.
fn check_template(field: &Field<'_>, filter: Option<&TopicFilter>) -> Option<TopicTemplate> {
    topic::template(field, TO_VARIABLES, |part| match (part, filter) {
        (Part::Device | Part::Point, _) => Err(topic::unknown_variable(part, TO_VARIABLES)),
        (Part::Plus(index), Some(filter)) => {
            let plus_count = filter.levels().filter(|level| *level == "+").count();
            if usize::from(*index) <= plus_count {
                return Ok(());
            }
            Err(Problem::PlusNotTaken { index: *index, plus_count })
        }
        (Part::Rest, Some(filter)) if filter.levels().next_back() != Some("#") => Err(Problem::RestNotTaken),
        _ => Ok(()),
    })
}
