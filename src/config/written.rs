//! The configuration as a person wrote it, to be shown: references unexpanded, secrets left out. Never looks at what a
//! reference stands for.

use std::collections::BTreeSet;

use serde::ser::{Serialize, SerializeMap as _, Serializer};

use crate::config::yaml::{Kind, Node};

/// What stands for a secret.
const HIDDEN: &str = "***";
/// Whatever stands there is hidden.
pub(super) const SECRET_KEYS: [&str; 2] = ["password", "password_hash"];
/// A text is hidden whose key, or whose variable, has one of these in its name: a file that does not load may have it
/// anywhere.
const SECRET_WORDS: [&str; 6] = ["passw", "passphrase", "secret", "token", "credential", "api_key"];
/// A path, whatever its name says.
const PASSWORD_FILE: &str = "password_file";
/// Letters that a misspelt key may differ by.
const TYPOS_MAX: usize = 2;
const PRIVATE_KEY_MARK: &str = "PRIVATE KEY-----";

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
            Kind::Text(text) | Kind::Expanded(text) => serializer.serialize_str(&without_secrets(text)),
            Kind::List(items) => serializer.collect_seq(items.iter().map(Shown)),
            Kind::Map(entries) => {
                let mut map = serializer.serialize_map(None)?;
                let mut seen = BTreeSet::new();
                let has = |key: &str| entries.iter().any(|entry| entry.key == key);
                // What opens a cloud by itself is a token, whatever its place is called.
                let is_token = has("url") && !has("password");
                for entry in entries.iter().filter(|entry| seen.insert(&*entry.key)) {
                    if is_secret(&entry.key, &entry.value) || (is_token && entry.key == "username") {
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

/// A map is none but of the keys that have no map, so that points and devices may have any name.
fn is_secret(key: &str, value: &Node) -> bool {
    if SECRET_KEYS.contains(&key) {
        return true;
    }
    let is_scalar = !matches!(value.kind, Kind::Map(_) | Kind::List(_) | Kind::Null);
    let is_misspelt = SECRET_KEYS.iter().any(|known| strsim::levenshtein(known, key) <= TYPOS_MAX);
    is_scalar && key != PASSWORD_FILE && (is_misspelt || is_secret_word(key))
}

fn is_secret_word(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_WORDS.iter().any(|word| name.contains(word))
}

fn without_secrets(text: &str) -> String {
    let named = text.split("${").skip(1).filter_map(|reference| reference.split_once(":-"));
    let has_secret_default =
        named.into_iter().any(|(name, rest)| is_secret_word(name) && !rest.starts_with('}'));
    if has_secret_default || text.contains(PRIVATE_KEY_MARK) {
        return HIDDEN.to_owned();
    }
    without_credentials(text)
}

/// A URL loses its user and password, which a proxy may have, and that of a WebSocket its query; any other text is left
/// as it is.
pub(super) fn without_credentials(text: &str) -> String {
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
    fn secrets_in_the_wrong_place_are_hidden_too() {
        let yaml = "bridges: { a: { url: mqtts://c, username: t0ken }, b: { url: mqtts://c, pasword: geheim } }\n\
            devices: { secret_token: { points: { token: { unit: V } } } }\n\
            x: { username: '${TOKEN:-geheim}', id: '${PASSWORD:-}', api_token: 7, password_file: p, key: '-----BEGIN PRIVATE KEY-----' }\n";
        let expected = json!({
            "bridges": {"a": {"url": "mqtts://c", "username": "***"}, "b": {"url": "mqtts://c", "pasword": "***"}},
            "devices": {"secret_token": {"points": {"token": {"unit": "V"}}}},
            "x": {"username": "***", "id": "${PASSWORD:-}", "api_token": "***", "password_file": "p", "key": "***"},
        });
        let shown: Value = serde_json::from_str(&written(&parse(yaml).expect("good YAML"))).expect("JSON");
        assert_eq!(shown, expected);
    }

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
