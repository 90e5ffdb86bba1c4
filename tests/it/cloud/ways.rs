//! The ways to a cloud: web sockets, lists of servers, certificates that change.

use std::fs;
use std::path::Path;
use std::process::Command;

use tidegate::bridge::status::LinkState;
use tidegate::config::model;
use tidegate::config::uplink::{BridgeUrl, TlsFiles};
use tidegate::mqtt::packet::Version;
use tidegate::mqtt::qos::QoS;

use super::authority::{Authority, Identity};
use super::mosquitto::{Mosquitto, Tls};
use super::peer::Peer;
use super::traffic::{Link, config, exchange_by, fault_of};

const MESSAGES: u64 = 500;

fn websocket(protocol: Version, port: u16, tls: Option<TlsFiles>) -> model::Bridge {
    let mut bridge = config(protocol, port, tls);
    bridge.url.path = Some("/mqtt?token=x".into());
    bridge
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_go_both_ways_over_websockets() {
    for protocol in [Version::V3_1_1, Version::V5] {
        let folder = tempfile::tempdir().expect("a folder");
        let (broker, port) = Mosquitto::start_websocket(folder.path(), None);
        exchange_by(websocket(protocol, port, None), &broker).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_go_both_ways_over_websockets_with_tls() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new(folder.path(), "ca");
    let server = authority.issue("server", "broker.test");
    let tls = Tls { server: &server, clients: None };
    let (broker, port) = Mosquitto::start_websocket(folder.path(), Some(&tls));
    let files = trusting(&authority, None);
    exchange_by(websocket(Version::V5, port, Some(files)), &broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_mqtt_over_websockets_is_named() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listens");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(refuse_all(listener));
    let fault = fault_of(websocket(Version::V5, port, None)).await;
    assert_eq!(fault, "127.0.0.1: WebSocket: the server answered 404 Not Found (another path in the url?)");
}

/// Answers every request with 404.
async fn refuse_all(listener: tokio::net::TcpListener) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    while let Ok((mut socket, _)) = listener.accept().await {
        let mut request = [0; 4096];
        let _read = socket.read(&mut request).await;
        let _written = socket.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
    }
}

fn trusting(authority: &Authority, client: Option<&Identity>) -> TlsFiles {
    TlsFiles {
        ca: Some(authority.ca.clone()),
        certificate: client.map(|client| client.certificate.clone()),
        private_key: client.map(|client| client.private_key.clone()),
        server_name: Some("broker.test".into()),
        alpn: Vec::new(),
    }
}

fn numbers(of: std::ops::RangeInclusive<u64>) -> Vec<String> {
    of.map(|number| number.to_string()).collect()
}

async fn payloads(peer: &mut Peer, count: u64) -> Vec<String> {
    let mut payloads = Vec::new();
    for _ in 0..count {
        payloads.push(String::from_utf8_lossy(&peer.next().await.payload).into_owned());
    }
    payloads
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_is_replaced_and_found_again_and_nothing_is_lost() {
    for protocol in [Version::V3_1_1, Version::V5] {
        let (folder, folder_b) =
            (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let (mut first, second) = (Mosquitto::start(folder.path()), Mosquitto::start(folder_b.path()));
        let mut bridge = config(protocol, first.port, None);
        bridge.fallbacks = vec![BridgeUrl { port: second.port, ..bridge.url.clone() }];
        let (first_url, second_url) = (bridge.url.to_string(), bridge.fallbacks[0].to_string());
        let link = Link::start(bridge);
        let at = |url: &str| {
            let url = url.to_owned();
            move |door: &super::local_door::LocalDoor| {
                let status = door.status();
                status.state == LinkState::Up && status.server == url
            }
        };
        link.until("with the first", at(&first_url)).await;
        let mut of_second = Peer::subscribe(second.port, "sites/#").await;
        first.stop();
        for number in 1..=MESSAGES {
            link.door.offer("up/a", &number.to_string(), QoS::ExactlyOnce, number);
        }
        link.until("with the second", at(&second_url)).await;
        link.until("forwarded", |door| door.status().forwarded == MESSAGES).await;
        assert_eq!(payloads(&mut of_second, MESSAGES).await, numbers(1..=MESSAGES));
        // What was on its way to the first as it died may be there twice.
        let possible = link.door.status().duplicates_possible;
        assert!(possible <= 128, "{possible}");
        first.restart();
        let mut of_first = Peer::subscribe(first.port, "sites/#").await;
        link.until("with the first again", at(&first_url)).await;
        for number in MESSAGES + 1..=2 * MESSAGES {
            link.door.offer("up/a", &number.to_string(), QoS::ExactlyOnce, number);
        }
        link.until("forwarded", |door| door.status().forwarded == 2 * MESSAGES).await;
        assert_eq!(payloads(&mut of_first, MESSAGES).await, numbers(MESSAGES + 1..=2 * MESSAGES));
        assert_eq!(link.door.status().duplicates_possible, possible, "the way back doubles nothing");
        assert_eq!(second.retained("status/plant-7"), "0 1 offline");
        link.stop().await;
    }
}

/// In place, as `cp` does it, and not both at once.
fn replace(old: &Identity, new: &Identity) {
    fs::copy(&new.certificate, &old.certificate).expect("copies");
    fs::copy(&new.private_key, &old.private_key).expect("copies");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_change_under_load_and_cost_nothing() {
    for protocol in [Version::V3_1_1, Version::V5] {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Authority::new(folder.path(), "ca");
        let server = authority.issue("server", "broker.test");
        let (client, renewed) =
            (authority.issue("client", "one.test"), authority.issue("renewed", "two.test"));
        let tls = Tls { server: &server, clients: Some(&authority) };
        let (broker, port) = Mosquitto::start_tls(folder.path(), &tls);
        let mut peer = Peer::subscribe(broker.port, "sites/#").await;
        let link = Link::start(config(protocol, port, Some(trusting(&authority, Some(&client)))));
        link.until_up().await;
        let since = link.door.status().connected_since;
        // A half of a pair changes nothing.
        let certificate = fs::read(&client.certificate).expect("reads");
        fs::write(&client.certificate, "junk").expect("writes");
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        assert_eq!(link.door.status().connected_since, since, "the old ones stay");
        fs::write(&client.certificate, certificate).expect("writes");
        let mut offered = 0;
        replace(&client, &renewed);
        let begun = link.door.status().connected_since;
        let changed = |link: &Link| {
            let status = link.door.status();
            status.state == LinkState::Up && status.connected_since != begun
        };
        while !changed(&link) || offered < MESSAGES {
            offered += 1;
            link.door.offer("up/a", &offered.to_string(), QoS::ExactlyOnce, offered);
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        link.until("forwarded", |door| door.status().forwarded == offered).await;
        assert_eq!(payloads(&mut peer, offered).await, numbers(1..=offered));
        assert_eq!(link.door.status().duplicates_possible, 0);
        link.stop().await;
    }
}

fn openssl(folder: &Path, arguments: &[&str]) {
    let done = Command::new("openssl").current_dir(folder).args(arguments).output().expect("install openssl");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// A certificate that the authority has issued, with its key in a file of this kind.
fn with_key(folder: &Path, name: &str, make: &[&str], convert: &[&str]) -> Identity {
    let file = |end: &str| format!("{name}.{end}");
    openssl(folder, &[make, &["-out", &file("pem")]].concat());
    openssl(folder, &["req", "-new", "-key", &file("pem"), "-subj", "/CN=plant-7", "-out", &file("csr")]);
    let signed =
        ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "100", "-out", &file("crt")];
    openssl(folder, &[&["x509", "-req", "-in", &file("csr")], &signed[..]].concat());
    openssl(folder, &[convert, &["-in", &file("pem"), "-out", &file("key")]].concat());
    Identity { certificate: folder.join(file("crt")), private_key: folder.join(file("key")) }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_every_kind_are_taken_and_encrypted_ones_are_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    openssl(
        path,
        &[
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.crt", "-days",
            "100", "-subj", "/CN=ca",
        ],
    );
    let servers = Authority::new(path, "servers");
    let server = servers.issue("server", "broker.test");
    let (_broker, port) = Mosquitto::start_tls_by(path, &server, &path.join("ca.crt"));
    let rsa: &[&str] = &["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
    let ec: &[&str] = &["ecparam", "-name", "prime256v1", "-genkey", "-noout"];
    let pkcs8: &[&str] = &["pkcs8", "-topk8", "-nocrypt"];
    let cases: [(&str, &[&str], &[&str], &str); 4] = [
        ("rsa-pkcs1", rsa, &["rsa", "-traditional"], "BEGIN RSA PRIVATE KEY"),
        ("rsa-pkcs8", rsa, pkcs8, "BEGIN PRIVATE KEY"),
        ("ec-sec1", ec, &["ec"], "BEGIN EC PRIVATE KEY"),
        ("ec-pkcs8", ec, pkcs8, "BEGIN PRIVATE KEY"),
    ];
    for (name, make, convert, mark) in cases {
        let client = with_key(path, name, make, convert);
        let key = fs::read_to_string(&client.private_key).expect("reads");
        assert!(key.contains(mark), "{name}: {key}");
        let link = Link::start(config(Version::V5, port, Some(trusting(&servers, Some(&client)))));
        link.until_up().await;
        link.stop().await;
    }
    let of_another =
        Identity { certificate: path.join("ec-sec1.crt"), private_key: path.join("ec-pkcs8.key") };
    let fault = fault_of(config(Version::V5, port, Some(trusting(&servers, Some(&of_another))))).await;
    assert!(fault.contains("ec-pkcs8.key: does not fit the certificate"), "{fault}");
    let password: &[&str] = &["-passout", "pass:secret"];
    let encrypted: [(&str, &[&str]); 2] =
        [("encrypted-pkcs8", &["pkcs8", "-topk8"]), ("encrypted-pkcs1", &["rsa", "-traditional", "-aes128"])];
    for (name, convert) in encrypted {
        let client = with_key(path, name, rsa, &[convert, password].concat());
        let fault = fault_of(config(Version::V5, port, Some(trusting(&servers, Some(&client))))).await;
        assert!(fault.ends_with(".key: is encrypted, and nobody types its password"), "{name}: {fault}");
    }
}
