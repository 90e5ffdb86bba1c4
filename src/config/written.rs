//! The configuration as a person wrote it, to be shown: references unexpanded, secrets left out. Never looks at what a
//! reference stands for.

use serde_json::{Map, Number, Value};

use crate::config::yaml::{Kind, Node};

/// What stands for a secret.
const HIDDEN: &str = "***";
/// Whatever stands there is hidden.
const SECRET_KEYS: [&str; 2] = ["password", "password_hash"];

/// To be called before references are expanded and repeated keys are dropped; of these the first one counts.
pub fn written(node: &Node) -> Value {
    match &node.kind {
        Kind::Null | Kind::Faulty => Value::Null,
        Kind::Bool(value) => Value::Bool(*value),
        Kind::Integer(value) => {
            Number::from_i128(*value).map_or_else(|| value.to_string().into(), Value::Number)
        }
        Kind::Float(value) => {
            Number::from_f64(*value).map_or_else(|| value.to_string().into(), Value::Number)
        }
        Kind::Text(text) | Kind::Expanded(text) => Value::String(without_credentials(text)),
        Kind::List(items) => items.iter().map(written).collect(),
        Kind::Map(entries) => {
            let mut map = Map::new();
            for entry in entries {
                let is_secret = SECRET_KEYS.contains(&entry.key.as_str());
                let value = if is_secret { Value::from(HIDDEN) } else { written(&entry.value) };
                map.entry(entry.key.clone()).or_insert(value);
            }
            Value::Object(map)
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
    use serde_json::json;

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
        assert_eq!(written(&parse(yaml).expect("good YAML")), expected);
    }
}
