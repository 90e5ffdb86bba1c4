//! `tidegate explain TOPIC`, as a person reads it, without a gateway and beside what one has left.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

const CONFIG: &str = "
gateway: { id: plant-7, data_dir: DATA }
broker:
  access:
    - { user: 'sensor-*', publish: ['devices/{client_id}/#'] }
    - { anonymous: true, publish: ['#'], subscribe: ['devices/#'] }
devices:
  meter:
    modbus: { tcp: '127.0.0.1:1502', unit: 1 }
    points: { voltage: { input: 0, type: f32, unit: V }, relay: { coil: 3, writable: true } }
bridges:
  cloud:
    url: mqtt://cloud
    forward:
      - { topic: 'devices/#', to: 'sites/{gateway}/{topic}', qos: 1, size: 64MiB, expiry: 1h, priority: high, order: live-first }
    receive: [ { topic: 'commands/#', to: '{rest}' } ]
";

fn explain(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let file = folder.join("tidegate.yaml");
    let text = CONFIG.replace("DATA", &folder.join("data").display().to_string());
    std::fs::write(&file, text).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let output = command.arg("explain").args(arguments).arg("-c").arg(&file).output().expect("it runs");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn a_topic_is_explained_by_the_configuration_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let (code, text) = explain(folder.path(), &["devices/meter/voltage"]);
    let (known, last) = text.trim_end().rsplit_once('\n').expect("lines");
    assert_eq!(code, Some(0));
    assert_eq!(
        known,
        "devices/meter/voltage
  reading of device meter, point voltage, f32 V, json qos 1 retained
  from bridge cloud, rule 1 (commands/#): commands/devices/meter/voltage
  to bridge cloud, rule 1 (devices/#): sites/plant-7/devices/meter/voltage
    QoS 1 at most, retain kept, priority high, new ones first, dropped when older than 1h
    buffer 64MiB of its own, 7d, when full drop-oldest
  publish: user sensor-* (meter); anonymous
  subscribe: anonymous"
    );
    assert!(last.starts_with("  last: unknown: no gateway has run here"), "{last}");
}

#[test]
fn a_topic_is_explained_as_json_and_a_filter_is_wrong_usage() {
    let folder = tempfile::tempdir().expect("a folder");
    let (code, text) = explain(folder.path(), &["other", "--json"]);
    let said: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((code, said["forward"].as_array().map(Vec::len)), (Some(0), Some(0)));
    assert_eq!(said["received"][0]["topic"], "commands/other");
    assert_eq!(said["publish"][0]["allowed"], false);
    assert_eq!(explain(folder.path(), &["devices/#"]).0, Some(2));
}
