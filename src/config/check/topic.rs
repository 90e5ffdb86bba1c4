//! Topics, filters and templates of the configuration, with the variables that each place has.

use crate::config::error::Problem;
use crate::config::raw::Field;
use crate::config::template::{Part, TemplateError, TopicTemplate};
use crate::mqtt::topic::{TopicError, TopicFilter, TopicName};

/// A template whose parts `allow` lets pass; `known` names the variables of the place.
pub(super) fn template(
    field: &Field<'_>,
    known: &'static str,
    allow: impl Fn(&Part) -> Result<(), Problem>,
) -> Option<TopicTemplate> {
    let template = match TopicTemplate::new(field.text()?) {
        Ok(template) => template,
        Err(TemplateError::UnknownVariable(name)) => {
            let variable = format!("{{{name}}}").into();
            field.fault(Problem::VariableNotHere { variable, known });
            return None;
        }
        Err(error) => {
            field.fault(Problem::BadTemplate(error));
            return None;
        }
    };
    if let Some(problem) = template.parts().iter().find_map(|part| allow(part).err()) {
        field.fault(problem);
        return None;
    }
    Some(template)
}

/// What `template` yields for an example has to be a topic.
pub(super) fn require_topic(field: &Field<'_>, example: Result<TopicName, TopicError>) -> Option<TopicName> {
    match example {
        Ok(topic) => Some(topic),
        Err(error) => {
            field.fault(Problem::BadTopic(error));
            None
        }
    }
}

pub(super) fn unknown_variable(part: &Part, known: &'static str) -> Problem {
    Problem::VariableNotHere { variable: part.to_string().into(), known }
}

/// A filter of a bridge's rule; `{gateway}` stands for the gateway's name, so that many can share a configuration.
pub(super) fn filter(field: &Field<'_>, gateway: &str) -> Option<TopicFilter> {
    match TopicFilter::new(&field.text()?.replace("{gateway}", gateway)) {
        Ok(filter) if filter.share_name().is_none() => return Some(filter),
        Ok(_) => field.fault(Problem::SharedFilter),
        Err(error) => field.fault(Problem::BadFilter(error)),
    }
    None
}

/// A topic that the filter matches.
pub(super) fn example_of(filter: &TopicFilter) -> Result<TopicName, TopicError> {
    TopicName::new(&filter.pattern().replace(['+', '#'], "x"))
}
