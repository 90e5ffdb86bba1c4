//! What a reload says that it changed, left and cannot change: for each part of a configuration, that part and no other.

#![allow(clippy::unwrap_used)] // helpers outside of test functions too: a panic here is a failed test

use std::collections::BTreeSet;
use std::path::Path;

use tidegate::config::diff::Changes;
use tidegate::config::load::parse;
use tidegate::config::model::Config;

use crate::instrument::Nothing;

/// Of `secret`, and of `pass word`.
const HASHES: [&str; 2] = [
    "$argon2id$v=19$m=64,t=2,p=1$c29tZXNhbHQxMjM0NTY3OA$b+AoQQgrexWdHzM/euu5auTJURsxAqB0wpAUlq+h2Ew",
    "$6$AOAiZ42r7mtIJWMw$ReDysK1xZsVXylX0EtE7UOumhmK2cIs7gzjV+OfIbFAtDVhF1RcUqcMqjj36Zsb+Z9h+N5R4K+yxAmrYQpSvuw==",
];

const BASE: &str = r##"
gateway: { id: g, data_dir: /d, durability: power-loss, flash_budget: 500MiB }
log: { level: info, format: text }
http: { address: "127.0.0.1:8080", username: ann, password_hash: HASH }
broker:
  listeners: [{ address: "127.0.0.1:1883" }]
  authentication: { anonymous: never, password_file: passwords }
  access: [{ user: "*", publish: ["#"], subscribe: ["#"] }]
  sys_interval: 10s
  limits: { LIMIT }
ports:
  one: { path: /dev/one }
  two: { path: /dev/two, share: { address: "127.0.0.1:1502" } }
  usb: { path: /dev/usb }
devices:
  boiler: { modbus: { port: one, unit: 1 }, points: { value: { input: 0 } } }
  meter: { modbus: { port: two, unit: 1 }, profile: meters, points: { value: { input: 0 } } }
  inverter: { modbus: { tcp: "127.0.0.1:502", unit: 1 }, points: { value: { input: 0 } } }
  scale: { serial: { port: usb, format: json }, points: { weight: { field: w } } }
bridges:
  cloud: { url: "mqtt://127.0.0.1:1", username: x, password: "${file:secret}", forward: [{ topic: "a/#" }] }
  other: { url: "mqtt://127.0.0.1:2", client_id: other, forward: [{ topic: "b/#" }] }
"##;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        folder.write("passwords", &format!("ann:{}\n", HASHES[0]));
        folder.write("secret", "s3cret");
        std::fs::create_dir(folder.0.path().join("profiles")).unwrap();
        folder.write("profiles/meters.yaml", "name: M\npoints: { volts: { input: 4 } }\n");
        folder
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.path().join(name), text).unwrap();
    }

    fn load(&self, text: &str) -> Config {
        let text = text.replace("HASH", &format!("'{}'", HASHES[0])).replace("LIMIT", "connections: 100");
        load(self.0.path(), &text)
    }
}

fn load(folder: &Path, text: &str) -> Config {
    parse("t.yaml", text, folder, &Nothing).unwrap_or_else(|faults| panic!("{text}\n{faults}"))
}

/// All that is told of a change: what counts, what waits for a restart, what is another gateway.
fn told(changes: &Changes) -> String {
    let waits: Vec<String> = changes.restart.iter().map(|key| format!(" [restart {key}]")).collect();
    let refused: Vec<String> = changes.identity.iter().map(|key| format!(" [refused {key}]")).collect();
    format!("{changes}{}{}", waits.concat(), refused.concat())
}

const ALL_STAY: &str = "; unchanged: 4 devices, 2 bridges";

/// What stands there, what stands there instead, and what is told of that; where all devices and bridges stay, without
/// saying so.
const CASES: &[(&str, &str, &str)] = &[
    ("", "", "nothing changed"),
    // A comment, a default that is written down: another file, and the same configuration.
    ("gateway:", "# nothing\ngateway:", "nothing changed"),
    ("path: /dev/one", "path: /dev/one, parity: none", "nothing changed"),
    ("durability: power-loss", "durability: process", "nothing changed that counts without a restart"),
    ("format: text", "format: json", "nothing changed that counts without a restart"),
    ("flash_budget: 500MiB", "flash_budget: 600MiB", "gateway.flash_budget"),
    (", flash_budget: 500MiB", "", "gateway.flash_budget"),
    ("level: info", "level: debug", "log.level"),
    ("127.0.0.1:8080", "127.0.0.1:8081", "http.address"),
    ("username: ann,", "username: bob,", "http.username"),
    ("HASH", "OTHER", "http.password_hash"),
    (", username: ann, password_hash: HASH", "", "http.username, http.password_hash"),
    ("http: { address: \"127.0.0.1:8080\", username: ann, password_hash: HASH }\n", "", "-http"),
    ("127.0.0.1:1883", "127.0.0.1:1884", "broker.listeners"),
    ("anonymous: never", "anonymous: always", "broker.authentication"),
    (", password_file: passwords", "", "broker.authentication"),
    ("publish: [\"#\"]", "publish: [\"a/#\"]", "broker.access"),
    ("sys_interval: 10s", "sys_interval: 0s", "broker.sys_interval"),
    (
        "path: /dev/one",
        "path: /dev/one, baud_rate: 19200",
        "ports ~one; begun anew with their ports: boiler; unchanged: 3 devices, 2 bridges",
    ),
    (
        "path: /dev/usb",
        "path: /dev/acm",
        "ports ~usb; begun anew with their ports: scale; unchanged: 3 devices, 2 bridges",
    ),
    (
        ", share: { address: \"127.0.0.1:1502\" }",
        "",
        "ports ~two; begun anew with their ports: meter; unchanged: 3 devices, 2 bridges",
    ),
    // Others' places move, and they do not.
    ("ports:\n", "ports:\n  aaa: { path: /dev/a }\n", "ports +aaa"),
    ("port: one, unit: 1", "port: two, unit: 2", "devices ~boiler; unchanged: 3 devices, 2 bridges"),
    ("port: one, unit: 1", "port: one, unit: 2", "devices ~boiler; unchanged: 3 devices, 2 bridges"),
    ("  inverter: {", "  inverter: { poll: 7s,", "devices ~inverter; unchanged: 3 devices, 2 bridges"),
    ("  inverter:", "  invert:", "devices +invert -inverter; unchanged: 3 devices, 2 bridges"),
    (
        "{ weight: { field: w } }",
        "{ weight: { field: x } }",
        "devices ~scale; unchanged: 3 devices, 2 bridges",
    ),
    (
        "{ serial: { port: usb, format: json }, points: { weight: { field: w } } }",
        "{ modbus: { port: usb, unit: 1 }, points: { weight: { input: 1 } } }",
        "devices ~scale; unchanged: 3 devices, 2 bridges",
    ),
    ("  other: {", "  other: { keep_alive: 7s,", "bridges ~other; unchanged: 4 devices, 1 bridge"),
    ("topic: \"b/#\"", "topic: \"c/#\"", "bridges ~other; unchanged: 4 devices, 1 bridge"),
    ("  other:", "  another:", "bridges +another -other; unchanged: 4 devices, 1 bridge"),
];

#[test]
fn each_part_that_changed_is_named_and_nothing_else() {
    let folder = Folder::new();
    let base = folder.load(BASE);
    for (from, to, expected) in CASES {
        assert!(BASE.contains(from), "{from}");
        let text = BASE.replacen(from, to, 1).replace("OTHER", &format!("'{}'", HASHES[1]));
        let changes = Changes::between(&base, &folder.load(&text));
        let expected = if expected.contains("unchanged") {
            (*expected).to_owned()
        } else {
            format!("{expected}{ALL_STAY}")
        };
        assert_eq!(changes.to_string(), expected, "{from} -> {to}");
        // There and back.
        let back = Changes::between(&folder.load(&text), &base);
        assert_eq!(back.is_empty(), changes.is_empty(), "{from} <- {to}: {back}");
        assert_eq!(back.restart, changes.restart, "{from} <- {to}");
    }
}

#[test]
fn what_needs_a_restart_or_is_another_gateway_is_named() {
    let folder = Folder::new();
    let base = folder.load(BASE);
    let of = |from: &str, to: &str| told(&Changes::between(&base, &folder.load(&BASE.replace(from, to))));
    let nothing = format!("nothing changed that counts without a restart{ALL_STAY}");
    assert_eq!(of("power-loss", "none"), format!("{nothing} [restart gateway.durability]"));
    assert_eq!(of("format: text", "format: auto"), format!("{nothing} [restart log.format]"));
    let both = of("log: { level: info, format: text }", "log: { level: warn, format: json }");
    assert_eq!(both, format!("log.level{ALL_STAY} [restart log.format]"));
    assert!(of("data_dir: /d", "data_dir: /e").ends_with(" [refused gateway.data_dir]"));
    assert!(of("id: g", "id: h").ends_with(" [refused gateway.id]"));
}

#[test]
fn each_limit_is_named() {
    let folder = Folder::new();
    let base = folder.load(&BASE.replace("LIMIT", ""));
    let limits = [
        ("connections", "7"),
        ("connections_per_address", "7"),
        ("packet_size", "7KiB"),
        ("inflight", "7"),
        ("queued_messages", "7"),
        ("queued_bytes", "7MiB"),
        ("retained_messages", "7"),
        ("keep_alive", "7s"),
        ("session_expiry", "7s"),
        ("publish_rate", "7"),
    ];
    for (limit, value) in limits {
        let text = BASE.replace("LIMIT", &format!("{limit}: {value}"));
        let changes = Changes::between(&base, &folder.load(&text));
        assert_eq!(changes.to_string(), format!("broker.limits.{limit}{ALL_STAY}"));
    }
}

/// Files that the configuration names, while it stays as it is to the letter.
#[test]
fn what_changed_in_a_file_is_named_by_who_names_it() {
    let cases: [(&str, String, &str); 3] = [
        (
            "passwords",
            format!("ann:{}\nbob:{}\n", HASHES[0], HASHES[1]),
            "broker.authentication; unchanged: 4 devices, 2 bridges",
        ),
        ("secret", "0ther".to_owned(), "bridges ~cloud; unchanged: 4 devices, 1 bridge"),
        (
            "profiles/meters.yaml",
            "name: M\npoints: { volts: { input: 6 } }\n".to_owned(),
            "devices ~meter; unchanged: 3 devices, 2 bridges",
        ),
    ];
    for (file, text, expected) in cases {
        let folder = Folder::new();
        let base = folder.load(BASE);
        folder.write(file, &text);
        assert_eq!(Changes::between(&base, &folder.load(BASE)).to_string(), expected, "{file}");
    }
}

#[test]
fn what_is_carried_along_is_named_and_does_not_count_as_unchanged() {
    let folder = Folder::new();
    let base = folder.load(BASE);
    let mut changes =
        Changes::between(&base, &folder.load(&BASE.replace("  other: {", "  other: { keep_alive: 7s,")));
    let begun: BTreeSet<_> = ["cloud", "other"].map(Into::into).into();
    changes.note_relinked(&begun);
    changes.note_certificates(["tls/b.crt", "tls/a.crt", "tls/b.crt"].map(str::to_owned).into_iter());
    assert_eq!(
        changes.to_string(),
        "bridges ~other, certificate tls/a.crt, certificate tls/b.crt; begun anew with the Sparkplug node: cloud; \
         unchanged: 4 devices, 0 bridges"
    );
}
