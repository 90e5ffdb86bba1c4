//! The rules of a bridge: which topics cross it, and under which names.

use std::ops::RangeInclusive;

use crate::base::time::Duration;
use crate::config::check::bridge::{SIZE_BYTES_MIN, WHEN_FULL};
use crate::config::check::value::qos;
use crate::config::check::{Context, provider, topic};
use crate::config::error::Problem;
use crate::config::format_problem::FormatProblem;
use crate::config::model::{Buffer, ForwardOrder, ForwardRule, Priority, ReceiveRule, Retain};
use crate::config::provider::Account;
use crate::config::raw::{Field, Section, is_zero};
use crate::config::template::{Part, TopicTemplate};
use crate::mqtt::qos::QoS;
use crate::mqtt::topic::{TopicFilter, TopicName};

const FORWARD_KEYS: &[&str] =
    &["topic", "to", "qos", "retain", "expiry", "priority", "order", "when_full", "size"];
const RECEIVE_KEYS: &[&str] = &["topic", "to", "qos", "expiry"];
const EXPIRY_RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3650 * 86_400);
const TO_DEFAULT: &str = "{topic}";
const TO_VARIABLES: &str = "{topic}, {gateway}, {1}, {2}, …, {rest}";

pub(super) fn check_forward(
    bridge: &Section<'_>,
    context: &Context<'_>,
    buffer: &Buffer,
    account: Option<&Account>,
) -> Vec<ForwardRule> {
    let rules = bridge.read("forward", |field| {
        let rules = field.items()?;
        Some(rules.iter().filter_map(|rule| check_forward_rule(rule, (context, buffer), account)).collect())
    });
    rules.unwrap_or_default()
}

fn check_forward_rule(
    field: &Field<'_>,
    (context, buffer): (&Context<'_>, &Buffer),
    account: Option<&Account>,
) -> Option<ForwardRule> {
    let section = field.section(FORWARD_KEYS)?;
    let priorities = [("high", Priority::High), ("normal", Priority::Normal), ("low", Priority::Low)];
    let orders = [("topic", ForwardOrder::Topic), ("live-first", ForwardOrder::LiveFirst)];
    let expiry = check_expiry(&section);
    let priority = section.read_or("priority", Priority::Normal, |field| field.choice(&priorities));
    let order = section.read_or("order", ForwardOrder::Topic, |field| field.choice(&orders));
    let when_full = section.read_or("when_full", buffer.when_full, |field| field.choice(&WHEN_FULL));
    let size_bytes = section.read("size", |field| check_share(field, buffer));
    let rule_qos = section.read("qos", qos);
    let retains = [("keep", Retain::Keep), ("clear", Retain::Clear)];
    let retain = section.read_or("retain", Retain::Keep, |field| field.choice(&retains));
    let taken =
        |target: &TopicName| account.map_or(Ok(()), |account| provider::check_target(account, target));
    let (filter, to) = check_topics(&section, context, taken)?;
    let is_renamed = |topic: &&TopicName| {
        filter.matches(topic) && to.render(&context.gateway_id, &filter, topic).ok().as_ref() != Some(*topic)
    };
    if context.sparkplug_topics.iter().any(|topic| is_renamed(&topic)) {
        section.find("to")?.fault(Problem::Format(FormatProblem::SparkplugRenamed));
    }
    Some(ForwardRule { filter, to, qos: rule_qos, retain, when_full, size_bytes, expiry, priority, order })
}

/// 0: never.
fn check_expiry(section: &Section<'_>) -> Option<Duration> {
    let read = |field: &Field<'_>| if is_zero(field.kind()) { None } else { field.duration(EXPIRY_RANGE) };
    section.read("expiry", read)
}

fn check_share(field: &Field<'_>, buffer: &Buffer) -> Option<u64> {
    let bytes = field.size(SIZE_BYTES_MIN..=1 << 40)?;
    if bytes > buffer.size_bytes {
        field.fault(Problem::ShareTooLarge(buffer.size_bytes));
        return None;
    }
    Some(bytes)
}

pub(super) fn check_receive(
    bridge: &Section<'_>,
    context: &Context<'_>,
    account: Option<&Account>,
) -> Vec<ReceiveRule> {
    let rules = bridge.read("receive", |field| {
        let rules = field.items()?;
        Some(rules.iter().filter_map(|rule| check_receive_rule(rule, context, account)).collect())
    });
    rules.unwrap_or_default()
}

fn check_receive_rule(
    field: &Field<'_>,
    context: &Context<'_>,
    account: Option<&Account>,
) -> Option<ReceiveRule> {
    let section = field.section(RECEIVE_KEYS)?;
    let expiry = check_expiry(&section);
    let rule_qos = section.read_or("qos", QoS::ExactlyOnce, qos);
    // What the cloud sends is never the gateway's own word.
    let own = |target: &TopicName| if target.is_system() { Err(Problem::SystemTopic) } else { Ok(()) };
    let (filter, to) = check_topics(&section, context, own)?;
    if let Err(problem) = account.map_or(Ok(()), |account| provider::check_filter(account, &filter)) {
        section.find("topic")?.fault(problem);
        return None;
    }
    Some(ReceiveRule { filter, to, qos: rule_qos, expiry })
}

/// `topic` and `to`, which has to yield a topic that `allow` lets pass.
fn check_topics(
    section: &Section<'_>,
    context: &Context<'_>,
    allow: impl Fn(&TopicName) -> Result<(), Problem>,
) -> Option<(TopicFilter, TopicTemplate)> {
    let filter_field = section.require("topic", "topic: \"devices/#\"");
    let filter = filter_field.as_ref().and_then(|field| topic::filter(field, &context.gateway_id));
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
    if let Err(problem) = allow(&target) {
        field.fault(problem);
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
