//! The configuration as users meet it: every faulty file with its exact faults, every supported key in a file
//! that loads, and the files that ship.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use tidegate::auth::key::Algorithm;
use tidegate::base::time::Duration;
use tidegate::config::error::Faults;
use tidegate::config::expand::Environment;
use tidegate::config::instrument::{
    Checksum, ChecksumKind, Encoding, FieldPath, FieldType, FrameEnd, Framing, Talk,
};
use tidegate::config::listener::{ClientCertificates, ServerTls, UsernameFrom};
use tidegate::config::load::{load, parse};
use tidegate::config::log::{LogFormat, LogLevel};
use tidegate::config::model::{
    Anonymous, Config, Durability, Format, ForwardOrder, Link, Order, Point, Priority, Retain, Source, Table,
    ValueType, When, WhenFull,
};
use tidegate::config::point::{AggregateOf, Deadband, Input, Meaning, WordOrder};
use tidegate::config::port::{DataBits, Parity, StopBits};
use tidegate::config::provider::{Account, PROVIDERS};
use tidegate::config::secret::Secret;
use tidegate::config::uplink::ProxyKind;
use tidegate::mqtt::packet::Version;
use tidegate::mqtt::qos::QoS;
use tidegate::mqtt::topic::TopicName;

/// So many ways of going wrong have been met at least.
const FAULTY_FILES_MIN: usize = 40;

struct Fixed;

impl Environment for Fixed {
    fn variable(&self, name: &str) -> Option<String> {
        match name {
            "UNIT" => Some("3".to_owned()),
            "SECRET_URL" => Some("mqtt://user:s3cret@cloud".to_owned()),
            "SECRET_WORD" => Some("s3cret".to_owned()),
            _ => None,
        }
    }

    fn host_name(&self) -> Option<String> {
        Some("test-host".to_owned())
    }
}

fn check_text(text: &str) -> Result<Config, Faults> {
    parse("test.yaml", text, Path::new("tests/faulty"), &Fixed)
}

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn names_with(extension: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(project("tests/faulty")).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    names.filter_map(|name| name.strip_suffix(extension).map(str::to_owned)).collect()
}

#[test]
fn every_faulty_file_has_exactly_its_faults() {
    let names = names_with(".yaml");
    assert!(names.len() >= FAULTY_FILES_MIN, "{}", names.len());
    assert_eq!(names, names_with(".expected"), "every file has what is expected of it");
    let mut wrong = Vec::new();
    for name in names {
        let file = format!("{name}.yaml");
        let text = read(&project("tests/faulty").join(&file));
        let printed = match parse(&file, &text, Path::new("tests/faulty"), &Fixed) {
            Ok(config) => format!("ok: {}\n", config.summary()),
            Err(faults) => format!("{faults}\n"),
        };
        let expected = read(&project("tests/faulty").join(format!("{name}.expected")));
        if printed != expected {
            wrong.push(format!("--- {name}, expected:\n{expected}--- printed:\n{printed}"));
        }
        assert!(!printed.contains("s3cret"), "{printed}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn points_mean_what_they_say() {
    let text = "devices: { m: { modbus: { tcp: 10.0.0.1, unit: 1 }, points: {
        current: { input: 6, type: f32, invalid: [0x7FC00000, -9999.0], aggregate: { every: 60s, of: mean } },
        share: { compute: 'twice / 3' },
        twice: { compute: '2 * state.gear', publish: false },
        state: { holding: 40, bits: { alarm: 0, gear: 6-4 } },
        mode: { holding: 41, labels: { 0: off, 0x10: 'on', 2: true }, writable: true, max: 9 },
        power: { holding: 83, type: i16, scale_from: power_sf, invalid: [-1], deadband: 1% },
        power_sf: { holding: 84, type: i16, publish: false },
        total: { holding: 90, type: bcd64, word_order: little-swapped } } } }";
    let config = check_text(text).expect("loads");
    assert_eq!(config.summary(), "1 device, 8 points, 0 bridges");
    let [current, state, mode, power, power_sf, total] = &config.devices[0].points[..] else {
        panic!("six points")
    };
    assert_eq!(current.invalid, [0x7FC0_0000, u64::from((-9999.0_f32).to_bits())]);
    assert_eq!(current.aggregate.map(|window| window.of), Some(AggregateOf::Mean));
    assert_eq!((state.bits[1].first, state.bits[1].width, state.bits[1].max()), (4, 3, 7));
    let labels: Vec<_> = mode.labels.iter().map(|label| (label.number, label.meaning.clone())).collect();
    let text = |text: &str| Meaning::Text(text.into());
    assert_eq!(labels, [(0, text("off")), (16, text("on")), (2, Meaning::Flag(true))]);
    assert_eq!((power.scale_from, &power.invalid[..]), (Some(4), &[0xFFFF][..]));
    assert_eq!((power.deadband, power_sf.publish), (Some(Deadband::Relative(0.01)), false));
    assert_eq!((total.value_type, total.word_order), (ValueType::Bcd64, WordOrder::LittleSwapped));
    let [twice, share] = &config.devices[0].computed[..] else { panic!("two computed points") };
    assert_eq!((&*twice.name, twice.publish, &*share.name), ("twice", false, "share"));
    assert_eq!(twice.inputs, [Input { point: 1, bit: Some("gear".into()) }]);
    assert_eq!(share.inputs, [Input { point: 6, bit: None }]);
}

#[test]
fn a_bridge_that_carries_sparkplug_has_its_death_as_its_will() {
    let text = "gateway: { id: gw }
devices: { m: { modbus: { tcp: 10.0.0.1, unit: 1 }, publish: { format: sparkplug }, points: { a: { coil: 0 } } } }
bridges:
  scada: { url: mqtt://a, primary_host: scada-1, forward: [{ topic: 'spBv1.0/+/DDATA/#' }] }
  other: { url: mqtt://b, forward: [{ topic: 'devices/#' }] }";
    let config = check_text(text).expect("loads");
    let publish = &config.devices[0].publish;
    assert_eq!((publish.format, publish.qos, publish.retain), (Format::Sparkplug, QoS::AtLeastOnce, false));
    assert_eq!(publish.topic.as_str(), "spBv1.0/tidegate/DDATA/{gateway}/{device}");
    let [other, scada] = &config.bridges[..] else { panic!("two bridges") };
    assert_eq!((scada.status_topic.as_ref(), scada.primary_host.as_deref()), (None, Some("scada-1")));
    assert!(other.status_topic.is_some() && other.primary_host.is_none());
}

#[test]
fn the_files_that_ship_load() {
    let cases = [
        ("config/tidegate.yaml", "0 devices, 0 points, 0 bridges"),
        ("config/examples/modbus-to-cloud.yaml", "1 device, 7 points, 1 bridge"),
        ("config/examples/profiles.yaml", "4 devices, 67 points, 0 bridges"),
        ("config/examples/serial-instruments.yaml", "6 devices, 15 points, 0 bridges"),
        ("config/examples/sparkplug.yaml", "2 devices, 5 points, 1 bridge"),
        ("config/examples/two-lines.yaml", "5 devices, 17 points, 1 bridge"),
    ];
    for (path, summary) in cases {
        let config = load(&project(path), &Fixed).unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!(config.summary(), summary, "{path}");
    }
}

/// The example names files of its own: they are made beside a copy of it.
#[test]
fn the_example_with_certificates_loads() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("tls")).expect("a folder");
    write_server(folder.path());
    std::fs::copy(folder.path().join("tls/server.crt"), folder.path().join("tls/devices-ca.crt"))
        .expect("copied");
    let path = folder.path().join("tls-listeners.yaml");
    std::fs::copy(project("config/examples/tls-listeners.yaml"), &path).expect("copied");
    let config = load(&path, &Fixed).unwrap_or_else(|faults| panic!("{faults}"));
    let shapes: Vec<_> = config
        .broker
        .listeners
        .iter()
        .map(|listener| (listener.tls.is_some(), listener.websocket_path.as_deref()))
        .collect();
    assert_eq!(shapes, [(false, None), (true, None), (true, Some("/mqtt"))]);
}

/// Each with the files that it names beside it.
#[test]
fn every_example_loads() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["tls", "secrets"] {
        std::fs::create_dir(folder.path().join(name)).expect("a folder");
    }
    write_server(folder.path());
    let (certificate, key) =
        ["server.crt", "server.key"].map(|name| folder.path().join("tls").join(name)).into();
    let examples = std::fs::read_dir(project("config/examples")).expect("a folder");
    let mut providers = BTreeSet::new();
    for example in examples.map(|entry| entry.expect("an entry").path()) {
        let text = read(&example);
        let files = text.replace("${CREDENTIALS_DIRECTORY:-tls}", "tls");
        for named in files.split([' ', ':', '}', '\n']).filter(|word| !word.contains('$')) {
            let is_file = named.starts_with("tls/") || named.starts_with("secrets/");
            if is_file && !folder.path().join(named).exists() {
                let is_key = named.contains("key") || named.contains("private");
                std::fs::copy(if is_key { &key } else { &certificate }, folder.path().join(named))
                    .expect("copied");
            }
        }
        let file = example.display().to_string();
        let config = parse(&file, &text, folder.path(), &Fixed).unwrap_or_else(|faults| panic!("{faults}"));
        providers.extend(config.bridges.iter().map(|bridge| bridge.account.provider().name()));
    }
    let known: BTreeSet<_> = PROVIDERS.iter().map(|(name, _)| *name).collect();
    assert_eq!(providers, known, "each provider has its example");
}

/// A thousand gateways have one file: each finds out by itself who it is, and which files are its own.
#[test]
fn each_gateway_of_a_fleet_finds_its_own_name_and_files() {
    struct Host(PathBuf);
    impl Environment for Host {
        fn variable(&self, name: &str) -> Option<String> {
            match name {
                "GATEWAY_ID" => Some("from-environment".to_owned()),
                "CREDENTIALS_DIRECTORY" => Some(self.0.display().to_string()),
                _ => None,
            }
        }

        fn host_name(&self) -> Option<String> {
            Some("from-host-name".to_owned())
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("tls")).expect("a folder");
    write_server(folder.path());
    for name in ["server.crt", "server.key"] {
        std::fs::copy(folder.path().join("tls").join(name), folder.path().join(name)).expect("copied");
    }
    std::fs::write(folder.path().join("gateway-id"), "from-credential\n").expect("written");
    let cases = [
        ("", "from-host-name"),
        ("id: '${GATEWAY_ID:-nobody}'", "from-environment"),
        ("id: '${NOT_SET:-default}'", "default"),
        ("id: '${credential:gateway-id}'", "from-credential"),
        ("id: '${file:gateway-id}'", "from-credential"),
    ];
    for (id, expected) in cases {
        let text = format!(
            "gateway: {{ {id} }}
bridges:
  cloud:
    url: mqtts://cloud
    tls: {{ certificate: '${{CREDENTIALS_DIRECTORY}}/server.crt', private_key: '${{CREDENTIALS_DIRECTORY}}/server.key' }}
    forward: [{{ topic: 'devices/#', to: 'sites/{{gateway}}/{{topic}}' }}]
    receive: [{{ topic: 'commands/{{gateway}}/#', to: '{{rest}}' }}]"
        );
        let host = Host(folder.path().to_owned());
        let config =
            parse("fleet.yaml", &text, folder.path(), &host).unwrap_or_else(|faults| panic!("{faults}"));
        let bridge = &config.bridges[0];
        assert_eq!((&*config.gateway.id, &*bridge.client_id), (expected, expected), "{id}");
        assert_eq!(bridge.receive[0].filter.pattern(), format!("commands/{expected}/#"));
        let status = format!("gateways/{expected}/status");
        assert_eq!(bridge.status_topic.as_ref().map(TopicName::as_str), Some(&*status));
        assert_eq!(bridge.tls.certificate.as_deref(), Some(&*folder.path().join("server.crt")));
    }
}

#[test]
fn a_provider_brings_its_names_and_defaults() {
    let bridge = |text: &str| {
        let config = check_text(&format!("bridges: {{ cloud: {{ {text} }} }}"));
        config.unwrap_or_else(|faults| panic!("{faults}")).bridges.remove(0)
    };
    let azure = bridge("provider: azure-iot-hub, url: 'mqtts://h.net', client_id: d/m, password: a2V5");
    assert_eq!(azure.username.as_deref(), Some("h.net/d/m/?api-version=2021-04-12"));
    assert_eq!((azure.protocol, azure.status_topic), (Version::V3_1_1, None));
    let aws = bridge("provider: aws-iot, url: 'mqtts://h.net:443', username: authorizer");
    assert_eq!(aws.tls.alpn, ["x-amzn-mqtt-ca".into()]);
    assert_eq!(aws.protocol, Version::V5);
    assert_eq!(aws.status_topic, TopicName::new("gateways/test-host/status").ok());
    let aws = bridge("provider: aws-iot, url: 'mqtts://h.net:443', username: a, tls: { alpn: [mqtt] }");
    assert_eq!(aws.tls.alpn, ["mqtt".into()]);
    let plain = bridge("provider: aws-iot, url: 'mqtts://h.net:8883', username: authorizer");
    assert!(plain.tls.alpn.is_empty());
    let listed = |urls: &str| bridge(&format!("provider: aws-iot, username: a, url: [{urls}]")).tls.alpn;
    assert_eq!(listed("'mqtts://h.net:8883', 'mqtts://h.net:443'"), ["x-amzn-mqtt-ca".into()]);
    assert!(listed("'wss://h.net/mqtt', 'mqtts://h.net:8883'").is_empty(), "HTTP is spoken first");
    let tencent = bridge("provider: tencent, url: 'mqtt://h.net', client_id: 1A17RZR3XXd, password: a2V5");
    assert!(
        matches!(tencent.account, Account::Tencent { product, device, .. } if &*product == "1A17RZR3XX" && &*device == "d")
    );
}

#[test]
fn rules_say_when_and_in_which_order() {
    let text = "bridges: { cloud: { url: 'mqtt://c', forward: [
        { topic: 'a/#', expiry: 1h, priority: high, order: live-first }, { topic: 'b/#', expiry: 0s } ],
        receive: [ { topic: 'c/#', expiry: 60s } ], buffer: { replay_rate: 100 } } }";
    let bridge = check_text(text).expect("loads").bridges.remove(0);
    let rules: Vec<_> = bridge.forward.iter().map(|rule| (rule.expiry, rule.priority, rule.order)).collect();
    let first = (Some(Duration::from_secs(3600)), Priority::High, ForwardOrder::LiveFirst);
    assert_eq!(rules, [first, (None, Priority::Normal, ForwardOrder::Topic)]);
    assert_eq!(bridge.receive[0].expiry, Some(Duration::from_secs(60)));
    assert_eq!(bridge.buffer.replay_rate, NonZeroU32::new(100));
}

/// What stands behind `# ` in the installed file is configuration too, once the hash is gone.
#[test]
fn the_installed_file_loads_with_its_examples_uncommented() {
    let text = read(&project("config/tidegate.yaml"));
    let (header, body) = text.split_once("\n\n").expect("a header");
    assert!(header.starts_with('#'));
    let uncommented: Vec<_> = body
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) => rest.to_owned(),
            None => line.replacen("  # id", "  id", 1),
        })
        .map(|line| line.replace("${credential:cloud-password}", "secret"))
        .collect();
    let config = check_text(&uncommented.join("\n")).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(config.summary(), "1 device, 7 points, 1 bridge");
    assert_eq!(&*config.gateway.id, "plant-7");
}

#[test]
fn nothing_said_means_the_defaults() {
    for text in ["", "# nothing\n", "devices:\nbridges:\nbroker:\n", "{}"] {
        let config = check_text(text).unwrap_or_else(|faults| panic!("{text:?}: {faults}"));
        assert_eq!(&*config.gateway.id, "test-host");
        assert_eq!(config.gateway.data_dir, Path::new("/var/lib/tidegate"));
        assert_eq!(config.gateway.durability, Durability::PowerLoss);
        assert_eq!(config.http, None);
        let addresses: Vec<_> = config.broker.listeners.iter().map(|l| l.address.to_string()).collect();
        assert_eq!(addresses, ["127.0.0.1:1883"]);
        assert_eq!(config.broker.anonymous, Anonymous::Loopback);
        assert_eq!(config.broker.limits.packet_bytes, 1 << 20);
        assert_eq!(config.broker.limits.keep_alive, Duration::from_secs(64_800));
        assert_eq!(config.broker.limits.connections_per_address, None);
        assert_eq!(config.broker.limits.publish_rate, None);
        assert_eq!(config.broker.sys_interval, Some(Duration::from_secs(10)));
        assert_eq!(config.summary(), "0 devices, 0 points, 0 bridges");
    }
    let config = check_text("http:\n").expect("a configuration");
    assert_eq!(config.http.map(|http| http.address.to_string()).as_deref(), Some("127.0.0.1:8080"));
    let text = "devices: { m: { modbus: { tcp: h, unit: 1 }, points: { a: { input: 0 }, b: { coil: 0 } } } }\n\
                bridges: { c: { url: \"mqtt://h\", forward: [{ topic: \"a/#\" }], receive: [{ topic: b }] } }";
    let config = check_text(text).unwrap_or_else(|faults| panic!("{faults}"));
    let device = &config.devices[0];
    assert_eq!(device.publish.topic.as_str(), "devices/{device}/{point}");
    assert_eq!((device.retries, device.offline_after, device.max_gap, device.max_registers), (2, 3, 8, 125));
    assert_eq!(device.points[0].heartbeat, Some(Duration::from_secs(60)));
    assert_eq!(device.points[0].value_type, ValueType::U16);
    assert_eq!(device.points[1].value_type, ValueType::Bool);
    let bridge = &config.bridges[0];
    assert_eq!((&*bridge.client_id, bridge.protocol), ("test-host", Version::V5));
    assert_eq!(bridge.status_topic.as_ref().map(TopicName::as_str), Some("gateways/test-host/status"));
    assert_eq!((bridge.forward[0].to.as_str(), bridge.forward[0].qos), ("{topic}", None));
    assert_eq!(bridge.receive[0].qos, QoS::ExactlyOnce);
    assert_eq!(bridge.buffer.size_bytes, 256 << 20);
}

struct Nameless(Option<&'static str>);

impl Environment for Nameless {
    fn variable(&self, _: &str) -> Option<String> {
        None
    }

    fn host_name(&self) -> Option<String> {
        self.0.map(str::to_owned)
    }
}

#[test]
fn a_gateway_without_an_id_needs_a_host_name_that_does() {
    let cases = [
        (None, "t:1:1: gateway.id: missing key, and the machine has no host name (id: plant-7)"),
        (
            Some("plant 7"),
            "t:1:1: gateway.id: missing key, and the host name `plant 7` does not do (letters, digits, `.`, `_`, `-`)",
        ),
    ];
    for (name, words) in cases {
        let faults = parse("t", "log: { level: info }", Path::new(""), &Nameless(name)).expect_err("refused");
        assert_eq!(faults.to_string(), words);
        parse("t", "gateway: { id: a }", Path::new(""), &Nameless(name)).expect("a configuration");
    }
}

/// A server's certificate with its key, and a key that is not its.
fn write_server(folder: &Path) {
    let server = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let other = rcgen::KeyPair::generate().expect("a key");
    for (name, text) in [
        ("server.crt", server.cert.pem()),
        ("server.key", server.signing_key.serialize_pem()),
        ("other.key", other.serialize_pem()),
    ] {
        std::fs::write(folder.join("tls").join(name), text).expect("written");
    }
}

#[test]
fn a_key_that_is_not_the_certificates_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("tls")).expect("a folder");
    write_server(folder.path());
    let check = |key: &str| {
        let text = format!(
            "broker: {{ listeners: [{{ address: \"127.0.0.1:1\", tls: {{ certificate: tls/server.crt, private_key: {key} }} }}] }}"
        );
        parse("t", &text, folder.path(), &Fixed).err().map(|faults| faults.to_string())
    };
    assert_eq!(check("tls/server.key"), None);
    let faults = check("tls/other.key").expect("refused");
    let words = "tls/other.key is not the key of the certificate (the one that it was issued for)";
    assert!(faults.starts_with("t:1:98: broker.listeners[0].tls.private_key: "), "{faults}");
    assert!(faults.ends_with(words), "{faults}");
}

/// The file that uses every supported key, in a folder with the files that it names.
fn supported() -> (tempfile::TempDir, Config) {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("tls")).expect("a folder");
    for (name, label) in
        [("ca.crt", "CERTIFICATE"), ("gateway.crt", "CERTIFICATE"), ("gateway.key", "PRIVATE KEY")]
    {
        let pem = format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
        std::fs::write(folder.path().join("tls").join(name), pem).expect("written");
    }
    std::fs::write(folder.path().join("tls/jwt.secret"), [b'k'; 32]).expect("written");
    let passwords = "ann:$argon2id$v=19$m=64,t=2,p=1$c29tZXNhbHQxMjM0NTY3OA$b+AoQQgrexWdHzM/euu5auTJURsxAqB0wpAUlq+h2Ew\n";
    std::fs::write(folder.path().join("passwords"), passwords).expect("written");
    write_server(folder.path());
    let path = folder.path().join("tidegate.yaml");
    std::fs::copy(project("tests/configs/supported.yaml"), &path).expect("copied");
    let config = load(&path, &Fixed).unwrap_or_else(|faults| panic!("{faults}"));
    (folder, config)
}

#[test]
fn the_gateways_own_keys_reach_the_model() {
    let (folder, config) = supported();
    assert_eq!(config.summary(), "3 devices, 7 points, 1 bridge");
    assert_eq!(config.gateway.data_dir, folder.path().join("data"));
    assert_eq!(config.gateway.durability, Durability::Process);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.log.filter.default, LogLevel::Warn);
    assert_eq!(config.log.filter.targets, [("tidegate::bridge".into(), LogLevel::Debug)]);
    let broker = &config.broker;
    let [plain, _, tls, websocket] = &broker.listeners[..] else { panic!("four listeners") };
    assert_eq!((&plain.tls, &plain.websocket_path), (&None, &None));
    let expected = ServerTls {
        certificate: folder.path().join("tls/server.crt"),
        private_key: folder.path().join("tls/server.key"),
        clients: Some(ClientCertificates {
            ca: folder.path().join("tls/ca.crt"),
            required: false,
            username_from: UsernameFrom::SanDns,
        }),
    };
    assert_eq!((&tls.tls, &tls.websocket_path), (&Some(expected), &None));
    assert_eq!(websocket.websocket_path.as_deref(), Some("/things/mqtt"));
    let clients = websocket.tls.as_ref().and_then(|tls| tls.clients.as_ref()).expect("client_ca");
    assert_eq!((clients.required, clients.username_from), (true, UsernameFrom::CommonName));
    assert_eq!((broker.anonymous, broker.sys_interval), (Anonymous::Always, None));
    let limits = &broker.limits;
    assert_eq!((limits.connections, limits.packet_bytes, limits.inflight), (500, 65_536, 20));
    assert_eq!(
        (limits.connections_per_address, limits.publish_rate),
        (NonZeroU32::new(20), NonZeroU32::new(100))
    );
    assert_eq!((limits.queued_messages, limits.queued_bytes, limits.retained_messages), (1000, 1 << 20, 50));
    assert_eq!(limits.keep_alive, Duration::from_secs(3600));
    assert_eq!(limits.session_expiry, Duration::from_secs(86_400));
}

#[test]
fn who_may_do_what_reaches_the_model() {
    let (_folder, config) = supported();
    let credentials = &config.broker.credentials;
    assert!(credentials.passwords.as_ref().is_some_and(|passwords| passwords.check("ann", b"secret")));
    let tokens = credentials.tokens.as_ref().expect("tokens");
    assert_eq!((tokens.key.algorithm, tokens.username_claim.as_str()), (Algorithm::Hs256, "name"));
    assert!(!format!("{config:?}").contains("kkkk"));
    let rules = config.broker.access.as_deref().expect("rules");
    let [sensors, anybody] = rules else { panic!("two rules") };
    assert!(sensors.matches("s1", Some("sensor-1")) && !sensors.matches("s1", None));
    let publish: Vec<_> = sensors.publish.iter().map(ToString::to_string).collect();
    assert_eq!(publish, ["sensors/{client_id}/#"]);
    assert_eq!(sensors.subscribe[0].to_string(), "commands/{user}");
    assert_eq!((anybody.anonymous, anybody.publish.len(), anybody.subscribe.len()), (Some(true), 0, 0));
    let config = check_text("broker: { access: [] }").expect("a configuration");
    assert_eq!(config.broker.access.as_deref(), Some(&[][..]), "a list without rules allows nothing");
    let config = check_text("").expect("a configuration");
    assert!(config.broker.access.is_none() && config.broker.credentials.is_empty());
}

#[test]
fn ports_and_devices_reach_the_model() {
    let (folder, config) = supported();
    let [other, line] = &config.ports[..] else { panic!("two ports") };
    assert_eq!((&*other.name, other.data_bits), ("other", DataBits::Seven));
    assert_eq!(other.path, folder.path().join("by-id/scale"));
    assert_eq!((line.baud_rate, line.data_bits, line.parity), (19_200, DataBits::Eight, Parity::Even));
    assert_eq!((line.stop_bits, line.turnaround), (StopBits::Two, Duration::from_millis(5)));
    let [inverter, meter] = &config.devices[..] else { panic!("two devices") };
    assert_eq!(inverter.link, Link::Tcp { address: "192.168.1.50:502".into(), unit: 3 });
    assert_eq!(meter.link, Link::Rtu { port: 1, unit: 1 });
    assert_eq!((meter.poll, meter.timeout), (Duration::from_secs(2), Duration::from_millis(400)));
    assert_eq!((meter.retries, meter.offline_after, meter.max_gap, meter.max_registers), (1, 5, 4, 100));
    assert_eq!(meter.reconnect.max, Duration::from_secs(30));
    let publish = &meter.publish;
    assert_eq!((publish.format, publish.qos, publish.retain), (Format::Plain, QoS::ExactlyOnce, false));
    assert_eq!((publish.when, publish.heartbeat), (When::Poll, Some(Duration::from_secs(30))));
    let [setpoint, relay, door, energy, serial_no] = &meter.points[..] else { panic!("five points") };
    let expected = Point {
        name: "setpoint".into(),
        source: Source { table: Table::Holding, address: 101 },
        value_type: ValueType::I16,
        word_order: WordOrder::Big,
        byte_order: Order::Big,
        scale: 0.1,
        scale_from: None,
        offset: -5.0,
        invalid: Vec::new(),
        labels: Vec::new(),
        bits: Vec::new(),
        unit: Some("°C".into()),
        round: Some(1),
        deadband: Some(Deadband::Absolute(0.5)),
        invert: false,
        poll: Duration::from_secs(3),
        aggregate: None,
        publish: true,
        heartbeat: Some(Duration::from_secs(10)),
        writable: true,
        min: Some(5.0),
        max: Some(30.5),
        sunspec: None,
    };
    assert_eq!(*setpoint, expected);
    assert_eq!(relay.source, Source { table: Table::Coil, address: 3 });
    assert!(relay.invert && relay.writable);
    assert_eq!((door.source.table, door.source.address), (Table::Discrete, 5));
    assert_eq!((energy.word_order, energy.byte_order), (WordOrder::Little, Order::Little));
    assert_eq!((energy.source.address, energy.value_type.registers()), (72, 4));
    assert_eq!((serial_no.value_type, serial_no.heartbeat), (ValueType::String { registers: 8 }, None));
}

#[test]
fn instruments_reach_the_model() {
    let (_folder, config) = supported();
    let [scale] = &config.instruments[..] else { panic!("one instrument") };
    assert_eq!((&*scale.name, scale.port), ("scale", 0));
    let checksum = Checksum { kind: ChecksumKind::Xor8, from: 1, encoding: Encoding::Hex, order: Order::Big };
    let framing = Framing {
        start: vec![2],
        end: FrameEnd::Delimiter(vec![3]),
        checksum: Some(checksum),
        max_length: 64,
        gap: Duration::from_secs(1),
    };
    assert_eq!(scale.framing, framing);
    let every = Duration::from_secs(2);
    assert_eq!(scale.talk, Talk::Asked { send: b"\xFFP".to_vec(), every, offline_after: 2 });
    assert_eq!((scale.timeout, scale.retries), (Duration::from_millis(300), 0));
    let [weight] = &scale.points[..] else { panic!("one point") };
    assert_eq!(weight.field, Some(FieldPath::Group("weight".into())));
    assert_eq!(weight.value_type, FieldType::Integer { min: i16::MIN.into(), max: i16::MAX.into() });
    let command = weight.command.as_ref().expect("a command");
    assert_eq!((&command.before[..], &command.after[..]), (&b"T"[..], &b"\r"[..]));
    assert!(command.expect.as_ref().is_some_and(|expect| expect.regex().is_match("OK")));
    assert_eq!((weight.min, weight.max, weight.scale, weight.offset), (Some(1.0), Some(9.0), 0.1, 1.0));
    let free = check_text(
        "{ ports: { a: { path: /dev/a } }, devices: { x: { serial: { port: a, format: raw, framing: { length: 9 } }, points: { f: { field: hex } } } } }",
    );
    let free = free.expect("a configuration").instruments.remove(0);
    assert_eq!(free.talk, Talk::Free { offline_after: Some(Duration::from_secs(60)) });
    assert_eq!((free.framing.max_length, free.framing.gap), (9, Duration::from_millis(20)));
    assert_eq!(free.publish.when, When::Poll, "each frame is news");
}

#[test]
fn bridges_reach_the_model() {
    let (folder, config) = supported();
    let bridge = &config.bridges[0];
    assert_eq!(bridge.url.to_string(), "mqtts://broker.example.com:8883");
    let fallbacks: Vec<_> =
        bridge.fallbacks.iter().map(|url| (url.to_string(), url.path.as_deref())).collect();
    assert_eq!(fallbacks, [("wss://backup.example.com:443/mqtt".to_owned(), Some("/mqtt?token=t"))]);
    let proxy = bridge.proxy.as_ref().expect("a proxy");
    assert_eq!((proxy.kind, &*proxy.host, proxy.port), (ProxyKind::Socks5, "proxy.example.com", 1080));
    let login = proxy.login.as_ref().map(|(user, password)| (&**user, password.reveal()));
    assert_eq!(login, Some(("plant", "s3cret@")));
    assert_eq!((bridge.protocol, &*bridge.client_id), (Version::V3_1_1, "plant-8-up"));
    assert_eq!(bridge.username.as_deref(), Some("plant-8"));
    assert_eq!(bridge.password.as_ref().map(Secret::reveal), Some("s3cret"));
    assert!(!format!("{config:?}").contains("s3cret"));
    let tls = &bridge.tls;
    assert_eq!(tls.ca, Some(folder.path().join("tls/ca.crt")));
    assert_eq!(tls.private_key, Some(folder.path().join("tls/gateway.key")));
    assert_eq!(
        (tls.server_name.as_deref(), &tls.alpn[..]),
        (Some("cloud.example.com"), &["mqtt".into()][..])
    );
    assert_eq!((bridge.keep_alive, bridge.inflight), (Duration::from_secs(45), 64));
    assert_eq!(bridge.session_expiry, Duration::from_secs(3 * 86_400));
    assert_eq!(bridge.reconnect.min, Duration::from_millis(500));
    assert_eq!(bridge.status_topic.as_ref().map(TopicName::as_str), Some("state/plant-8"));
    let rule = &bridge.forward[0];
    assert_eq!((rule.filter.as_str(), rule.to.as_str()), ("devices/#", "sites/{gateway}/{topic}"));
    assert_eq!((rule.qos, rule.retain), (Some(QoS::AtLeastOnce), Retain::Clear));
    assert_eq!((bridge.forward[1].qos, bridge.forward[1].retain), (None, Retain::Keep));
    assert_eq!(bridge.receive[0].qos, QoS::AtLeastOnce);
    let buffer = &bridge.buffer;
    assert_eq!((buffer.size_bytes, buffer.keep_free_bytes), (64 << 20, 32 << 20));
    assert_eq!((buffer.age, buffer.commit), (Duration::from_secs(2 * 86_400), Duration::from_millis(50)));
    assert_eq!(buffer.when_full, WhenFull::Reject);
    let shares: Vec<_> = bridge.forward.iter().map(|rule| (rule.when_full, rule.size_bytes)).collect();
    assert_eq!(shares, [(WhenFull::Thin, Some(16 << 20)), (WhenFull::Reject, None)]);
    assert_eq!(config.gateway.flash_budget_bytes, Some(500 << 20));
}

#[test]
fn a_file_that_cannot_be_read_is_one_fault() {
    let folder = tempfile::tempdir().expect("a folder");
    let large = folder.path().join("large.yaml");
    std::fs::write(&large, "#".repeat((1 << 20) + 1)).expect("written");
    let binary = folder.path().join("binary.yaml");
    std::fs::write(&binary, [b'a', 0xff]).expect("written");
    let cases = [
        (folder.path().join("none.yaml"), "cannot be read: no such file"),
        (folder.path().to_owned(), "cannot be read: is a folder"),
        (large, "too large (at most 1MiB)"),
        (binary, "not UTF-8 text (save the file as UTF-8)"),
    ];
    for (path, words) in cases {
        let faults = load(&path, &Fixed).expect_err("refused");
        assert_eq!(faults.to_string(), format!("{}:1:1: {words}", path.display()));
    }
}

/// Texts a few bytes away from a good one: whatever they say, there is an answer, and every fault has a place.
#[test]
fn mutilated_files_are_answered() {
    const ROUNDS: u64 = 1500;
    let good = read(&project("tests/configs/supported.yaml"));
    for seed in 0..ROUNDS {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut bytes = good.clone().into_bytes();
        for _ in 0..rng.usize(1..6) {
            let at = rng.usize(0..bytes.len());
            let inserted = *rng.choice(b"{}[]:,-#&*!|>'\"%@`$ \n\t09aZ~.<?").expect("some");
            match rng.u8(0..3) {
                0 => drop(bytes.remove(at)),
                1 => bytes.insert(at, inserted),
                _ => bytes[at] = inserted,
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        if let Err(Faults(faults)) = check_text(&text) {
            assert!(!faults.is_empty(), "seed {seed}");
            let lines = text.lines().count() + 1;
            assert!(faults.iter().all(|f| (1..=lines).contains(&f.position.line)), "seed {seed}: {faults:?}");
        }
    }
}

#[test]
fn the_command_says_ok_or_every_fault_and_ends_with_2() {
    let run = |path: &str| {
        let binary = env!("CARGO_BIN_EXE_tidegate");
        let folder = env!("CARGO_MANIFEST_DIR");
        let output =
            std::process::Command::new(binary).args(["check", "-c", path]).current_dir(folder).output();
        let output = output.expect("the binary runs");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let summary = "ok: 5 devices, 17 points, 1 bridge\n".to_owned();
    assert_eq!(run("config/examples/two-lines.yaml"), (Some(0), summary, String::new()));
    let expected = read(&project("tests/faulty/numbers.expected"));
    let lines: Vec<_> = expected.lines().map(|line| format!("tests/faulty/{line}")).collect();
    let faults = lines.join("\n") + "\n";
    assert_eq!(run("tests/faulty/numbers.yaml"), (Some(2), String::new(), faults));
    let none = "none.yaml:1:1: cannot be read: no such file (name another with -c FILE)\n".to_owned();
    assert_eq!(run("none.yaml"), (Some(2), String::new(), none));
}
