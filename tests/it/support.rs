//! `tidegate support`: what is in the archive, beside a running gateway and for a stopped one, and that no secret of a
//! configuration that has them everywhere is. Python's tarfile unpacks it.

#![allow(clippy::unwrap_used)] // helpers outside of test functions too: a panic here is a failed test

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use serde_json::Value;
use tidegate::mqtt::packet::Version;
use tidegate::mqtt::qos::QoS;

use crate::buffer::plant::{Plant, tidegate};
use crate::gateway::client::{Client, connect, publish};

/// Each is a part of a word that the archive must not hold, in whatever form.
const SECRETS: [&str; 9] = [
    "s3cret-password",
    "s3cret-proxy",
    "s3cret-query",
    "s3cret-file",
    "s3cret-default",
    "s3cret-comment",
    "s3cret-token",
    "c2VjcmV0LWhhc2g",
    "s3cret-payload",
];

const CONFIGURATION: &str = r#"
# s3cret-comment
http:
  address: 127.0.0.1:0
  username: admin
  password_hash: $argon2id$v=19$m=64,t=2,p=1$c2VjcmV0LWhhc2g$eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4   # s3cret-comment
devices:
  main-meter: { modbus: { tcp: "127.0.0.1:9", unit: 1 }, points: { voltage: { input: 0 } } }
bridges:
  cloud:
    url: mqtt://127.0.0.1:9
    username: plant-7
    password: s3cret-password
    proxy: http://me:s3cret-proxy@127.0.0.1:9
    forward: [{ topic: "t/#" }]
  web:
    url: ws://127.0.0.1:9/mqtt?token=s3cret-query
    username: s3cret-token
    client_id: web
    forward: [{ topic: "t/#" }]
  filed:
    url: mqtt://127.0.0.1:9
    client_id: filed
    username: x
    password: ${file:secret}
    forward: [{ topic: "t/#" }]
  defaulted:
    url: mqtt://127.0.0.1:9
    client_id: defaulted
    username: x
    password: ${NO_SUCH_VARIABLE:-s3cret-default}
    forward: [{ topic: "t/#" }]
"#;

/// The names in the archive, without its folder, and what they hold.
fn unpack(archive: &Path) -> BTreeMap<String, String> {
    let script = "import json, sys, tarfile\n\
        archive = tarfile.open(sys.argv[1])\n\
        members = archive.getmembers()\n\
        assert all(member.isreg() and member.mode == 0o600 for member in members)\n\
        folders = {member.name.split('/')[0] for member in members}\n\
        assert len(folders) == 1 and folders.pop().startswith('tidegate-support-'), folders\n\
        print(json.dumps({m.name.split('/')[1]: archive.extractfile(m).read().decode() for m in members}))";
    let output = Command::new("python3").args(["-c", script]).arg(archive).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn plant() -> Plant {
    let plant = Plant::new(CONFIGURATION);
    std::fs::write(plant.folder.path().join("secret"), "s3cret-file\n").unwrap();
    plant
}

/// The archive, and what the command said.
fn gather(plant: &Plant, name: &str) -> (BTreeMap<String, String>, String) {
    let archive = plant.folder.path().join(name);
    let said = plant.say(&["support", "-o", archive.to_str().unwrap()]);
    assert!(said.starts_with(archive.to_str().unwrap()), "{said}");
    assert_eq!(std::fs::metadata(&archive).unwrap().permissions().mode() & 0o777, 0o600);
    let files = unpack(&archive);
    for (name, text) in &files {
        for secret in SECRETS {
            assert!(!text.contains(secret), "{name} has {secret}: {text}");
            assert!(!said.contains(secret), "{said}");
        }
        // README tells of each file, and nothing else.
        assert!(name == "README.txt" || files["README.txt"].contains(&format!("\n{name} ")), "{name}");
    }
    (files, said)
}

fn names(files: &BTreeMap<String, String>) -> Vec<&str> {
    files.keys().map(String::as_str).collect()
}

fn json(files: &BTreeMap<String, String>, name: &str) -> Value {
    serde_json::from_str(&files[name]).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[tokio::test]
async fn beside_a_running_gateway_and_for_a_stopped_one() {
    let mut plant = plant();
    plant.start();
    let mut client = Client::connect(plant.address, connect("pump-7", Version::V5)).await;
    client.send(&[publish("t/a", QoS::AtLeastOnce, 1, Bytes::from("s3cret-payload"))]).await;
    client.next().await.expect("a PUBACK");
    let (files, said) = gather(&plant, "running.tar");
    let expected = [
        "README.txt",
        "bridges.json",
        "buffers.json",
        "check.txt",
        "clients.json",
        "configuration.json",
        "database.json",
        "devices.json",
        "errors.txt",
        "files.txt",
        "log.txt",
        "machine.json",
        "metrics.txt",
        "running-configuration.json",
        "status.json",
    ];
    assert_eq!(names(&files), expected);
    assert!(said.contains(": 15 files, "), "{said}");
    assert_eq!(json(&files, "status.json")["gateway"], "plant-7");
    assert_eq!(json(&files, "clients.json")[0]["client_id"], "pump-7");
    assert_eq!(json(&files, "configuration.json")["bridges"]["cloud"]["password"], "***");
    assert_eq!(json(&files, "configuration.json")["bridges"]["filed"]["url"], "mqtt://127.0.0.1:9");
    assert_eq!(json(&files, "buffers.json").as_array().unwrap().len(), 4);
    let device = &json(&files, "devices.json")[0];
    assert_eq!((&device["name"], &device["points"][0]["value"]), (&"main-meter".into(), &Value::Null));
    assert!(device["points"][0].get("value").is_none());
    assert_eq!(json(&files, "database.json")["schema_version"], 2);
    assert!(json(&files, "machine.json")["disk"]["bytes_free"].as_u64().unwrap() > 0);
    assert!(files["log.txt"].contains("ready: 1 device"), "{}", files["log.txt"]);
    assert!(files["metrics.txt"].ends_with("# EOF\n"));
    assert!(files["errors.txt"].contains("bridge cloud: "), "{}", files["errors.txt"]);
    assert!(files["check.txt"].contains("ok: 1 device, 1 point, 4 bridges"), "{}", files["check.txt"]);
    plant.until("it is on disk", |plant| {
        plant.json(&["buffer", "list", "--json"])[0]["messages"].as_u64() == Some(1)
    });
    plant.stop();

    let (files, said) = gather(&plant, "stopped.tar");
    let expected =
        ["README.txt", "check.txt", "configuration.json", "database.json", "files.txt", "machine.json"];
    assert_eq!(names(&files), expected);
    for text in [&said, &files["README.txt"]] {
        assert!(text.contains("no gateway runs") && text.contains("journalctl -u tidegate"), "{text}");
    }
    assert_eq!(json(&files, "database.json")["waiting"]["cloud"]["messages"], 1);
    assert!(files["files.txt"].contains("tidegate.db"));
    // It goes on afterwards as if nobody had looked.
    plant.start();
    assert_eq!(plant.json(&["buffer", "list", "--json"])[0]["messages"], 1);
}

#[test]
fn a_crashed_gateway_is_looked_at_without_being_touched() {
    let mut plant = plant();
    plant.start();
    plant.kill();
    let (files, _) = gather(&plant, "crashed.tar");
    assert_eq!(json(&files, "database.json")["schema_version"], 2);
    plant.start();
}

#[test]
fn a_configuration_that_does_not_load_is_told_without_its_secrets() {
    let plant = plant();
    let text = std::fs::read_to_string(plant.config()).unwrap();
    let faulty =
        text.replace("password: s3cret-password", "pasword: s3cret-password").replace("gateway:", "gatway:");
    std::fs::write(plant.config(), faulty).unwrap();
    let (files, _) = gather(&plant, "faulty.tar");
    assert!(files["check.txt"].contains("pasword"), "{}", files["check.txt"]);
    assert_eq!(json(&files, "configuration.json")["bridges"]["cloud"]["pasword"], "***");
}

#[test]
fn an_archive_that_is_there_is_not_written_over() {
    let plant = plant();
    let taken = plant.folder.path().join("taken.tar");
    std::fs::write(&taken, "mine").unwrap();
    let (code, said) = plant.refusal(&["support", "-o", taken.to_str().unwrap()]);
    assert_eq!((code, std::fs::read(&taken).unwrap()), (Some(1), b"mine".to_vec()));
    assert!(said.starts_with("error: ") && said.contains("-o"), "{said}");
}

/// In the folder where it is run, or the one that is named.
#[test]
fn its_name_says_whose_it_is_and_when() {
    let plant = plant();
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = tidegate();
        command.arg("support").args(arguments).arg("-c").arg(plant.config()).current_dir(folder.path());
        assert!(command.output().unwrap().status.success());
        let entries = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let archives: Vec<PathBuf> =
            entries.filter(|path| path.extension().is_some_and(|end| end == "tar")).collect();
        let [archive] = &archives[..] else { panic!("{archives:?}") };
        let name = archive.file_name().unwrap().to_string_lossy().into_owned();
        assert!(
            name.starts_with("tidegate-support-") && name.len() > "tidegate-support-.tar".len() + 15,
            "{name}"
        );
        std::fs::remove_file(archive).unwrap();
    };
    run(&[]);
    run(&["-o", "."]);
}

#[test]
fn files_that_are_too_open_are_named() {
    let plant = plant();
    let set = |path: &Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let (file, secret) = (plant.config(), plant.folder.path().join("secret"));
    let data = plant.folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let warned = || String::from_utf8(plant.run(&["check"]).stderr).unwrap();
    set(&file, 0o640);
    set(&secret, 0o600);
    set(&data, 0o700);
    assert_eq!(warned(), "");
    set(&file, 0o644);
    set(&secret, 0o604);
    set(&data, 0o755);
    let [file, secret, data] = [&file, &secret, &data].map(|path| path.display().to_string());
    let expected = format!(
        "warning: {file}: mode 0644, others can read it (chmod 640 {file})\n\
         warning: {secret}: mode 0604, others can read it (chmod 640 {secret})\n\
         warning: {data}: mode 0755, others can read it (chmod 700 {data})\n"
    );
    assert_eq!(warned(), expected);
    assert!(plant.run(&["check"]).status.success(), "a warning is no fault");
    let mut plant = plant;
    plant.start();
    let log = std::fs::read_to_string(plant.folder.path().join("gateway.log")).unwrap();
    for path in [&file, &secret, &data] {
        assert!(log.contains(&format!("{path}: mode 0")), "{log}");
    }
}

/// The service has its credentials; a shell beside it has not.
#[test]
fn a_gateway_is_asked_also_where_its_configuration_does_not_load() {
    let mut plant =
        Plant::new("bridges: { cloud: { url: 'mqtt://127.0.0.1:9', forward: [{ topic: '#' }] } }");
    plant.start();
    let text = std::fs::read_to_string(plant.config()).unwrap();
    std::fs::write(plant.config(), text.replace("url:", "password: '${credential:cloud}', url:")).unwrap();
    assert_eq!(plant.refusal(&["check"]).0, Some(2));
    assert!(plant.say(&["status"]).starts_with("gateway plant-7"));
    assert!(plant.say(&["buffer", "list"]).contains("cloud"));
    let (files, _) = gather(&plant, "credential.tar");
    assert!(files["check.txt"].contains("bridges.cloud.password"), "{}", files["check.txt"]);
    assert_eq!(json(&files, "status.json")["gateway"], "plant-7");
    plant.stop();
    for command in [&["buffer", "list"][..], &["status"]] {
        let (code, said) = plant.refusal(command);
        assert!(code == Some(2) && said.contains("bridges.cloud.password"), "{said}");
    }
}
