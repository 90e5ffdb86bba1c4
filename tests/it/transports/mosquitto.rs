//! Mosquitto's clients over TLS. Installs nothing.

use std::process::Command;

use super::gateway::start;
use crate::cloud::authority::Authority;

#[tokio::test(flavor = "multi_thread")]
async fn mosquittos_clients_come_in_with_certificates() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "ca");
    authority.issue("server", "localhost");
    let pump = authority.issue_to("pump", "pump-7", "pump-7.local");
    let listener = "{ address: \"127.0.0.1:0\", tls: { certificate: server.crt, private_key: server.key, \
                    client_ca: ca.crt } }";
    let gateway = start(folder.path(), listener, "never");
    let port = gateway.addresses()[0].port().to_string();
    let (ca, certificate, key) = (authority.ca.clone(), pump.certificate.clone(), pump.private_key.clone());
    let ran = tokio::task::spawn_blocking(move || {
        let run = |program: &str, arguments: &[&str], known: bool| {
            let mut command = Command::new(program);
            command.args(["-h", "localhost", "-p", &port, "-t", "t", "-q", "1", "--cafile"]).arg(&ca);
            if known {
                command.arg("--cert").arg(&certificate).arg("--key").arg(&key);
            }
            let output = command.args(arguments).output();
            let output = output.expect("mosquitto-clients is missing: install it, tests/run does so");
            (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
        };
        for (version, mqtt) in [("tlsv1.2", "mqttv311"), ("tlsv1.3", "mqttv5")] {
            let same = ["--tls-version", version, "-V", mqtt];
            let publish = [&same[..], &["-m", version, "-r"]].concat();
            assert!(!run("mosquitto_pub", &publish, false).0, "without a certificate nobody comes in");
            assert!(run("mosquitto_pub", &publish, true).0, "{version}");
            let subscribe = [&same[..], &["-C", "1", "-W", "20"]].concat();
            assert_eq!(run("mosquitto_sub", &subscribe, true), (true, format!("{version}\n")));
        }
    });
    ran.await.unwrap();
    gateway.stop().await.unwrap();
}
