//! The configuration as a person wrote it, to be shown: references unexpanded, secrets left out. Never looks at what a
//! reference stands for.

use std::collections::BTreeSet;

use serde::ser::{Serialize, SerializeMap as _, Serializer};

use crate::config::yaml::{Kind, Node};

/// What stands for a secret.
const HIDDEN: &str = "***";
/// Whatever stands there is hidden.
const SECRET_KEYS: [&str; 2] = ["password", "password_hash"];

/// As JSON text: a tree of ten thousand points would take as much memory as all that is done with them. To be called
/// before references are expanded and repeated keys are dropped; of these the first one counts.
pub fn written(node: &Node) -> String {
    // Fails on keys that are no text alone, of which there are none.
    serde_json::to_string(&Shown(node)).unwrap_or_default()
}

struct Shown<'a>(&'a Node);

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0.kind {
            Kind::Null | Kind::Faulty => serializer.serialize_unit(),
            Kind::Bool(value) => serializer.serialize_bool(*value),
            Kind::Integer(value) => match (u64::try_from(*value), i64::try_from(*value)) {
                (Ok(value), _) => serializer.serialize_u64(value),
                (_, Ok(value)) => serializer.serialize_i64(value),
                _ => serializer.collect_str(value),
            },
            // JSON has no other numbers.
            Kind::Float(value) if value.is_finite() => serializer.serialize_f64(*value),
            Kind::Float(value) => serializer.collect_str(value),
            Kind::Text(text) | Kind::Expanded(text) => serializer.serialize_str(&without_credentials(text)),
            Kind::List(items) => serializer.collect_seq(items.iter().map(Shown)),
            Kind::Map(entries) => {
                let mut map = serializer.serialize_map(None)?;
                let mut seen = BTreeSet::new();
                for entry in entries.iter().filter(|entry| seen.insert(&*entry.key)) {
                    if SECRET_KEYS.contains(&entry.key.as_str()) {
                        map.serialize_entry(&entry.key, HIDDEN)?;
                    } else {
                        map.serialize_entry(&entry.key, &Shown(&entry.value))?;
                    }
                }
                map.end()
            }
        }
    }
}

/// A URL loses its user and password, which a proxy may have, and that of a WebSocket its query; any other text is left
/// as it is.
fn without_credentials(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    if matches!(scheme, "ws" | "wss")
        && let Some((before, _)) = text.split_once('?')
    {
        return format!("{}?{HIDDEN}", without_credentials(before));
    }
    match rest.rsplit_once('@') {
        Some((_, behind)) => format!("{scheme}://{HIDDEN}@{behind}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::written;
    use crate::config::yaml::parse;

    #[test]
    fn what_is_shown_is_what_was_written_but_for_secrets() {
        let yaml = "gateway: { id: plant-7, flash_budget: 0 }\n\
            http: { password_hash: $argon2id$x }\n\
            bridges:\n  cloud:\n    url: ['mqtts://cloud:8883', 'wss://cloud/mqtt?t=a@b?c']\n    username: ${USER:-plant}\n    password: ${PASSWORD:-secret}\n    \
            proxy: http://me:s3/cr@t@proxy:3128\n    tls: { alpn: [] }\n    inflight: 12.5\n\
            devices: { a: { password: { odd: secret } }, b: { points: { x: { labels: { 0: off } } } } }\n";
        let expected = json!({
            "gateway": {"id": "plant-7", "flash_budget": 0},
            "http": {"password_hash": "***"},
            "bridges": {"cloud": {
                "url": ["mqtts://cloud:8883", "wss://cloud/mqtt?***"], "username": "${USER:-plant}", "password": "***",
                "proxy": "http://***@proxy:3128", "tls": {"alpn": []}, "inflight": 12.5}},
            "devices": {"a": {"password": "***"}, "b": {"points": {"x": {"labels": {"0": "off"}}}}},
        });
        let shown: Value = serde_json::from_str(&written(&parse(yaml).expect("good YAML"))).expect("JSON");
        assert_eq!(shown, expected);
    }
}
