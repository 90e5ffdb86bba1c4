//! The HTTP of a real gateway: who is connected, what was configured, what is logged; over TLS with a password.

#![allow(clippy::unwrap_used)] // helpers outside of test functions too: a panic here is a failed test

use std::net::{SocketAddr, TcpListener};

use base64ct::{Base64, Encoding as _};
use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate::app::Gateway;
use tidegate::mqtt::packet::Version;
use tidegate::mqtt::qos::QoS;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_rustls::rustls::version::TLS13;

use crate::auth::named;
use crate::cloud::authority::Authority;
use crate::gateway::client::{Client, PATIENCE, config, connect, start, subscribe};
use crate::transports::client::{tcp, tls, tls_config};

const HASH: &str =
    "$argon2id$v=19$m=64,t=2,p=1$c29tZXNhbHQxMjM0NTY3OA$b+AoQQgrexWdHzM/euu5auTJURsxAqB0wpAUlq+h2Ew";

struct Plant {
    _folder: TempDir,
    gateway: Gateway,
    http: SocketAddr,
    authority: Authority,
}

/// `http`: what stands there besides the address.
fn plant(http: &str) -> Plant {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "ca");
    authority.issue("server", "localhost");
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    std::fs::write(folder.path().join("passwords"), format!("ann:{HASH}\n")).unwrap();
    let passwords = folder.path().join("passwords");
    let text = format!(
        "broker: {{ listeners: [{{ address: 127.0.0.1:0 }}], \
         authentication: {{ anonymous: always, password_file: {} }} }}\n\
         http: {{ address: \"{address}\"{http} }}",
        passwords.display()
    );
    let text = text.replace("FOLDER", &folder.path().display().to_string());
    let gateway = start(config(folder.path(), &text));
    Plant { _folder: folder, gateway, http: address, authority }
}

pub(crate) async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    path: &str,
    fields: &str,
) -> (u16, Value) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{fields}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    // Where TLS ends without a word, what came is whole all the same.
    let _ = timeout(PATIENCE, stream.read_to_string(&mut text)).await.expect("an end");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_default())
}

#[tokio::test]
async fn clients_are_listed_with_what_waits_for_them() {
    let plant = plant("");
    let address = plant.gateway.addresses()[0];
    let mut ann = Client::connect(address, named(connect("b-ann", Version::V5), "ann", "secret")).await;
    ann.send(&[subscribe(1, &["a/#", "b"], QoS::AtLeastOnce)]).await;
    ann.next().await.expect("a SUBACK");
    let _other = Client::connect(address, connect("a-other", Version::V3_1_1)).await;
    let (status, clients) = ask(tcp(plant.http).await, "/api/v1/clients", "").await;
    assert_eq!(status, 200);
    let shown = |name: &str| json!([clients[0][name], clients[1][name]]);
    assert_eq!(shown("client_id"), json!(["a-other", "b-ann"]));
    assert_eq!(shown("user"), json!([null, "ann"]));
    assert_eq!(shown("protocol"), json!(["3.1.1", "5"]));
    assert_eq!(shown("address"), json!(["127.0.0.1", "127.0.0.1"]));
    assert_eq!(shown("subscriptions"), json!([0, 2]));
    assert_eq!(shown("queued_messages"), json!([0, 0]));
    let (_, first) = ask(tcp(plant.http).await, "/api/v1/clients?max=1", "").await;
    assert_eq!(first, json!([clients[0]]));
    plant.gateway.stop().await.unwrap();
}

/// More than are looked at in one visit.
#[tokio::test]
async fn many_clients_are_all_listed() {
    const CLIENTS: usize = 600;
    let plant = plant("");
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let connect = connect(&format!("c{number:03}"), Version::V3_1_1);
        clients.push(Client::connect(plant.gateway.addresses()[0], connect).await);
    }
    let (_, listed) = ask(tcp(plant.http).await, "/api/v1/clients", "").await;
    let names: Vec<_> = listed.as_array().unwrap().iter().map(|client| client["client_id"].clone()).collect();
    let expected: Vec<_> = (0..CLIENTS).map(|number| json!(format!("c{number:03}"))).collect();
    assert_eq!(names, expected);
    plant.gateway.stop().await.unwrap();
}

#[tokio::test]
async fn the_dashboard_is_served_over_tls_to_who_has_the_password() {
    let plant = plant(&format!(
        ", username: ann, password_hash: '{HASH}', tls: {{ certificate: FOLDER/server.crt, private_key: FOLDER/server.key }}"
    ));
    let open = async || tls(plant.http, tls_config(&plant.authority.ca, &[&TLS13], None)).await.unwrap();
    let password = format!("Authorization: Basic {}\r\n", Base64::encode_string(b"ann:secret"));
    let (status, config) = ask(open().await, "/api/v1/config", &password).await;
    assert_eq!(status, 200);
    assert_eq!(config["http"]["username"], "ann");
    assert_eq!(config["http"]["password_hash"], "***");
    assert_eq!(ask(open().await, "/api/v1/config", "").await.0, 401);
    assert_eq!(ask(open().await, "/healthz", "").await.0, 200);
    // Whoever speaks no TLS is told nothing, and holds up nobody.
    let mut plain = tcp(plant.http).await;
    plain.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, plain.read_to_end(&mut rest)).await.expect("an end");
    assert!(!rest.starts_with(b"HTTP"), "{rest:?}");
    plant.gateway.stop().await.unwrap();
}
