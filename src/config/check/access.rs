//! The `broker.access` section: who may publish and subscribe to what.

use std::sync::Arc;

use crate::config::access::{AccessFilter, AccessFilterError, AccessRule, Glob};
use crate::config::error::Problem;
use crate::config::raw::Field;

const RULE_KEYS: &[&str] = &["user", "client_id", "anonymous", "publish", "subscribe"];
const WHO_KEYS: &[&str] = &["user", "anonymous"];
const VARIABLES: &str = "{client_id}, {user}";

/// None only where there is no list. An empty list allows nobody anything.
pub(super) fn check(field: &Field<'_>) -> Option<Arc<[AccessRule]>> {
    Some(field.items()?.iter().filter_map(check_rule).collect())
}

fn check_rule(field: &Field<'_>) -> Option<AccessRule> {
    let section = field.section(RULE_KEYS)?;
    let anonymous = section.read("anonymous", Field::flag);
    // A client without a user has no name that could match.
    if section.has("user") && anonymous == Some(true) {
        section.fault(Problem::Conflict(WHO_KEYS));
    }
    let filters = |key| section.read(key, check_filters).unwrap_or_default();
    Some(AccessRule {
        user: section.read("user", check_glob),
        client_id: section.read("client_id", check_glob),
        anonymous,
        publish: filters("publish"),
        subscribe: filters("subscribe"),
    })
}

fn check_glob(field: &Field<'_>) -> Option<Glob> {
    let glob = Glob::new(field.text()?);
    if glob.is_err() {
        field.fault(Problem::BadGlob);
    }
    glob.ok()
}

fn check_filters(field: &Field<'_>) -> Option<Vec<AccessFilter>> {
    Some(field.items()?.iter().filter_map(check_filter).collect())
}

fn check_filter(field: &Field<'_>) -> Option<AccessFilter> {
    let problem = match AccessFilter::new(field.text()?) {
        Ok(filter) => return Some(filter),
        Err(AccessFilterError::Filter(error)) => Problem::BadFilter(error),
        Err(AccessFilterError::Shared) => Problem::SharedFilter,
        Err(AccessFilterError::UnknownVariable(variable)) => {
            Problem::FilterVariable { variable, known: VARIABLES }
        }
    };
    field.fault(problem);
    None
}
