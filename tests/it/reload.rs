//! SIGHUP at the real process: who may come in and do what changes at once, and with a fault nothing does.

#![allow(clippy::unwrap_used)] // helpers outside of test functions too: a panic here is a failed test

use std::process::Command;

use tidegate::mqtt::packet::{Packet, Version};
use tidegate::mqtt::qos::QoS;
use tidegate::mqtt::reason::ReasonCode;

use crate::auth::{SECRET, named, reason, token};
use crate::gateway::client::{Client, connect, publish, subscribe, until};
use crate::process::Process;

/// Of `secret`.
const ONE: &str =
    "$argon2id$v=19$m=64,t=2,p=1$c29tZXNhbHQxMjM0NTY3OA$b+AoQQgrexWdHzM/euu5auTJURsxAqB0wpAUlq+h2Ew";
/// Of `pass word`.
const OTHER: &str = "$6$AOAiZ42r7mtIJWMw$ReDysK1xZsVXylX0EtE7UOumhmK2cIs7gzjV+OfIbFAtDVhF1RcUqcMqjj36Zsb+Z9h+N5R4K+yxAmrYQpSvuw==";

async fn shut_out(client: &mut Client) {
    let Some(Packet::Disconnect(word)) = client.next().await else { panic!("no DISCONNECT") };
    assert_eq!(word.reason, ReasonCode::AdministrativeAction);
    assert_eq!(client.next().await, None);
}

fn v5(id: &str, user: &str, password: &str) -> tidegate::mqtt::packet::connect::Connect {
    named(connect(id, Version::V5), user, password)
}

#[tokio::test]
async fn passwords_tokens_and_rules_count_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (passwords, key) = (folder.path().join("passwords"), folder.path().join("key"));
    std::fs::write(&passwords, format!("ann:{ONE}\nbob:{ONE}\ncarl:{ONE}\n")).unwrap();
    std::fs::write(&key, SECRET).unwrap();
    let broker = |subscribe: &str| {
        format!(
            "  authentication: {{ anonymous: never, password_file: passwords, jwt: {{ algorithm: HS256, key: key }} }}\n  \
             access: [{{ user: \"*\", publish: [\"#\"], subscribe: [{subscribe}] }}]"
        )
    };
    let process = Process::start(folder.path(), &broker("\"#\""));
    let address = process.address;
    let mut ann = Client::connect(address, v5("ann", "ann", "secret")).await;
    let mut bob = Client::connect(address, v5("bob", "bob", "secret")).await;
    let mut carl = Client::connect(address, v5("carl", "carl", "secret")).await;
    let good = token(r#"{"sub":"dora","exp":9999999999}"#);
    let mut dora = Client::connect(address, v5("dora", "", &good)).await;
    bob.subscribe("#", QoS::AtLeastOnce).await;
    dora.publish("x", "before").await;
    assert_eq!(bob.message().await.0, "x");

    // Ann has another password, Carl is gone, and nobody may hear of x.
    std::fs::write(&passwords, format!("ann:{OTHER}\nbob:{ONE}\n")).unwrap();
    process.write(&broker("\"y\""));
    process.hang_up();
    shut_out(&mut ann).await;
    shut_out(&mut carl).await;
    let line = process.until_logged("reloaded: ");
    assert!(line.contains("shut_out=2"), "{line}");
    dora.ping().await;
    dora.publish("x", "after").await;
    dora.publish("y", "after").await;
    assert_eq!(bob.message().await, ("y".to_owned(), "after".into()));
    bob.send(&[subscribe(7, &["x", "y"], QoS::AtMostOnce)]).await;
    let Some(Packet::Suback(suback)) = bob.next().await else { panic!("no SUBACK") };
    assert_eq!(suback.reasons, [ReasonCode::NotAuthorized, ReasonCode::Success]);
    assert_eq!(reason(address, v5("ann", "ann", "secret")).await, ReasonCode::BadUserNameOrPassword);
    assert_eq!(reason(address, v5("ann", "ann", "pass word")).await, ReasonCode::Success);

    // Another key: tokens of the old one are worth nothing, passwords what they were.
    std::fs::write(&key, [b'x'; 32]).unwrap();
    process.hang_up();
    shut_out(&mut dora).await;
    assert_eq!(reason(address, v5("dora", "", &good)).await, ReasonCode::BadUserNameOrPassword);
    bob.ping().await;
    let line = process.until_logged("a client was refused: its user name, password or token is wrong");
    assert!(line.contains("address=127.0.0.1"), "{line}");
    let log = process.log();
    assert!(!log.contains("only after a restart") && !log.contains("secret"), "{log}");
    bob.part().await;
    process.stop();
}

#[tokio::test]
async fn whoever_came_without_a_name_goes_when_that_is_over() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("passwords"), format!("ann:{ONE}\n")).unwrap();
    let broker =
        |anonymous: &str| format!("  authentication: {{ anonymous: {anonymous}, password_file: passwords }}");
    let process = Process::start(folder.path(), &broker("always"));
    let mut nameless = Client::connect(process.address, connect("a", Version::V5)).await;
    let mut ann = Client::connect(process.address, v5("ann", "ann", "secret")).await;
    process.write(&broker("never"));
    process.hang_up();
    shut_out(&mut nameless).await;
    assert_eq!(reason(process.address, connect("a", Version::V5)).await, ReasonCode::NotAuthorized);
    ann.ping().await;
    ann.part().await;
    process.stop();
}

#[tokio::test]
async fn with_a_fault_everything_stays_and_what_needs_a_restart_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let passwords = folder.path().join("passwords");
    std::fs::write(&passwords, format!("ann:{ONE}\n")).unwrap();
    let authentication = "  authentication: { anonymous: never, password_file: passwords }";
    let process = Process::start(folder.path(), authentication);
    let mut ann = Client::connect(process.address, v5("ann", "ann", "secret")).await;
    // Two faults, and a new password that would be good.
    std::fs::write(&passwords, format!("ann:{OTHER}\nbob:nonsense\n")).unwrap();
    process.write(&format!("{authentication}\n  limits: {{ connections: none }}"));
    process.hang_up();
    let line = process.until_logged("everything stays as it was");
    assert!(line.contains("ERROR") && line.contains("faults=2"), "{line}");
    let log = process.log();
    assert!(log.contains("passwords: line 2: ") && log.contains("broker.limits.connections: "), "{log}");
    let told = [process.notification(), process.notification()];
    assert!(told[0].contains("RELOADING=1") && told[0].contains("MONOTONIC_USEC="), "{told:?}");
    assert!(told[1].contains("READY=1"), "{told:?}");
    let asked = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["status", "--config"])
        .arg(folder.path().join("tidegate.yaml"))
        .output()
        .unwrap();
    let said = String::from_utf8(asked.stdout).unwrap();
    let last = said.split_once("last reload: ").expect(&said).1.lines().take(3).collect::<Vec<_>>();
    assert!(last[0].ends_with(": not applied, everything stayed as it was"), "{said}");
    assert!(last[1].starts_with("  ") && last[1].contains("passwords: line 2: "), "{said}");
    assert!(last[2].contains("broker.limits.connections: found text (want a whole number)"), "{said}");
    ann.send(&[publish("a", QoS::AtMostOnce, 0, "")]).await;
    ann.ping().await;
    assert_eq!(reason(process.address, v5("b", "ann", "secret")).await, ReasonCode::Success);
    // Good again, with more than counts at once.
    std::fs::write(&passwords, format!("ann:{ONE}\nbob:{OTHER}\n")).unwrap();
    process.write(&format!("{authentication}\n  limits: {{ connections: 7, publish_rate: 5 }}"));
    process
        .edit(&[("data_dir: data", "data_dir: data, durability: process"), ("format: text", "format: json")]);
    process.hang_up();
    let line = process.until_logged("only after a restart");
    let keys = "keys=\"gateway.durability, log.format\"";
    assert!(line.contains("WARN") && line.contains(keys), "{line}");
    let line = process.until_logged("reload: reloaded: ");
    assert!(line.contains("broker.limits.connections, broker.limits.publish_rate"), "{line}");
    assert_eq!(reason(process.address, v5("b", "bob", "pass word")).await, ReasonCode::Success);
    ann.ping().await;
    ann.part().await;
    process.stop();
}

/// The file is as it was to the letter; what stands in one that it names is not.
#[tokio::test]
async fn the_password_file_alone_may_change() {
    let folder = tempfile::tempdir().unwrap();
    let passwords = folder.path().join("passwords");
    std::fs::write(&passwords, format!("ann:{ONE}\n")).unwrap();
    let process =
        Process::start(folder.path(), "  authentication: { anonymous: never, password_file: passwords }");
    let mut ann = Client::connect(process.address, v5("ann", "ann", "secret")).await;
    assert_eq!(
        reason(process.address, v5("bob", "bob", "pass word")).await,
        ReasonCode::BadUserNameOrPassword
    );
    process.hang_up();
    process.until_logged("reloaded: nothing changed; unchanged: 0 devices, 0 bridges shut_out=0");
    std::fs::write(&passwords, format!("ann:{ONE}\nbob:{OTHER}\n")).unwrap();
    process.hang_up();
    process.until_logged("reloaded: broker.authentication; unchanged: 0 devices, 0 bridges shut_out=0");
    let mut bob = Client::connect(process.address, v5("bob", "bob", "pass word")).await;
    // A rule alone: who is here may do what it says from then on.
    bob.subscribe("a", QoS::AtMostOnce).await;
    process.write(
        "  authentication: { anonymous: never, password_file: passwords }\n  \
         access: [{ user: ann, publish: [\"b\"] }, { user: bob, subscribe: [\"#\"] }]",
    );
    process.hang_up();
    process.until_logged("reloaded: broker.access; unchanged: 0 devices, 0 bridges shut_out=0");
    ann.send(&[publish("a", QoS::AtLeastOnce, 1, "x")]).await;
    let Some(Packet::Puback(puback)) = ann.next().await else { panic!("no PUBACK") };
    assert_eq!(puback.reason, ReasonCode::NotAuthorized);
    bob.subscribe("b", QoS::AtMostOnce).await;
    ann.publish("b", "y").await;
    assert_eq!(bob.message().await, ("b".to_owned(), "y".into()));
    ann.part().await;
    bob.part().await;
    process.stop();
}

/// Whoever sends what is no MQTT packet is worth a DEBUG line.
async fn garble(process: &Process) {
    let mut client = Client::open(process.address, Version::V5).await;
    client.send_bytes(b"\x00\x00").await;
    assert_eq!(client.next().await, None);
}

#[tokio::test]
async fn the_level_of_the_log_goes_up_and_down() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), "");
    let count = |words: &str| process.log().matches(words).count();
    garble(&process).await;
    process.edit(&[("format: text", "format: text, level: debug")]);
    process.hang_up();
    process.until_logged("reloaded: log.level; unchanged: 0 devices, 0 bridges");
    assert_eq!(count("DEBUG"), 0, "{}", process.log());
    garble(&process).await;
    process.until_logged("DEBUG tidegate::hub");
    process.edit(&[("level: debug", "level: warn")]);
    for _ in 0..2 {
        process.until_notified("READY=1");
        process.hang_up();
    }
    process.until_notified("READY=1");
    garble(&process).await;
    process.edit(&[("level: warn", "level: info")]);
    process.hang_up();
    until("it is said again", || count("reloaded: log.level") == 2).await;
    assert_eq!(count("DEBUG tidegate::hub"), 1, "{}", process.log());
    assert_eq!(count("nothing changed"), 0, "said below the level: {}", process.log());
    process.stop();
}
