//! What a case asks of the gateway's configuration. Written as the configuration file that an operator would write, so
//! that a case cannot ask for what the product does not offer.

use std::fmt::Write;
use std::num::NonZeroU32;

use base64ct::{Base64, Encoding};
use ring::{digest, pbkdf2};

/// Cheap: no case is about how long a hash takes.
const ITERATIONS: NonZeroU32 = NonZeroU32::MIN;

#[derive(Debug, Clone, Default)]
pub struct Settings {
    limits: Vec<(String, String)>,
    anonymous: Option<String>,
    access: Vec<String>,
    buffers: Vec<(String, String)>,
    sys_interval: Option<String>,
    pub users: Vec<(String, String)>,
}

impl Settings {
    /// False: the line is no setting.
    pub fn take(&mut self, line: &str) -> bool {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            // Of a client that is called as a setting is.
            [_, ">" | "<", ..] => return false,
            ["limits", key, value] => self.limits.push(((*key).into(), (*value).into())),
            ["anonymous", who] => self.anonymous = Some((*who).into()),
            ["user", name, password] => self.users.push(((*name).into(), (*password).into())),
            ["access", ..] => self.access.push(line["access".len()..].trim().into()),
            ["buffer", filter, when_full] => {
                self.buffers.push(((*filter).into(), format!("when_full: {when_full}")));
            }
            ["buffer", filter, when_full, size] => {
                self.buffers.push(((*filter).into(), format!("when_full: {when_full}, size: {size}")));
            }
            ["sys", interval] => self.sys_interval = Some((*interval).into()),
            _ => return false,
        }
        true
    }

    pub fn yaml(&self) -> String {
        let mut yaml = String::from("gateway: { id: plant-7, data_dir: /nowhere }\nbroker:\n");
        let anonymous = self.anonymous.as_deref().unwrap_or("always");
        let sys_interval = self.sys_interval.as_deref().unwrap_or("0s");
        // Writing to a string cannot fail.
        let _ =
            writeln!(yaml, "  authentication: {{ anonymous: {anonymous} }}\n  sys_interval: {sys_interval}");
        if !self.limits.is_empty() {
            let limits: Vec<String> =
                self.limits.iter().map(|(key, value)| format!("{key}: {value}")).collect();
            let _ = writeln!(yaml, "  limits: {{ {} }}", limits.join(", "));
        }
        if !self.access.is_empty() {
            let _ = writeln!(yaml, "  access:\n    - {}", self.access.join("\n    - "));
        }
        if !self.buffers.is_empty() {
            yaml.push_str("bridges:\n");
        }
        for (number, (filter, bounds)) in self.buffers.iter().enumerate() {
            let _ = writeln!(
                yaml,
                "  cloud-{number}:\n    url: mqtt://cloud-{number}.example:1883\n    client_id: plant-7-{number}\n    \
                 forward: [{{ topic: '{filter}' }}]\n    buffer: {{ {bounds}, keep_free: 0B }}"
            );
        }
        yaml
    }

    /// As `mosquitto_passwd` writes it.
    pub fn password_file(&self) -> String {
        let line = |(user, password): &(String, String)| {
            let mut hash = [0; digest::SHA512_OUTPUT_LEN];
            let salt = b"salt of a case";
            pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA512, ITERATIONS, salt, password.as_bytes(), &mut hash);
            let (salt, hash) = (Base64::encode_string(salt), Base64::encode_string(&hash));
            format!("{user}:$7${ITERATIONS}${salt}${hash}\n")
        };
        self.users.iter().map(line).collect()
    }
}
