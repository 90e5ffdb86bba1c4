//! TLS listeners: versions, client certificates and their names, reload.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tidegate::transport::accept::{AcceptError, Acceptor};
use tidegate::transport::server::{Age, ServerSettings, TlsServer};
use tidegate::transport::websocket::WebSocketSettings;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ProtocolVersion, SupportedProtocolVersion};

use super::client::{
    CONNECT, PATIENCE, PINGREQ, PINGRESP, Wire, connect, converse, receive, tcp, tls, tls_config,
};
use super::gateway::start;
use crate::cloud::authority::{Authority, Identity};

const BOTH: &[&SupportedProtocolVersion] = &[&TLS12, &TLS13];

fn listener(more: &str) -> String {
    format!(
        "{{ address: \"127.0.0.1:0\", tls: {{ certificate: server.crt, private_key: server.key{more} }} }}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_carry_mqtt_over_both_families() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "ca");
    authority.issue("server", "localhost");
    let v6 = listener("").replace("127.0.0.1", "[::1]");
    let listeners = format!("{}, {v6}, {{ address: \"[::]:0\" }}", listener(""));
    let gateway = start(folder.path(), &listeners, "always");
    let [v4, v6, dual] = gateway.addresses()[..] else { panic!("three listeners") };
    for (address, version, number) in [
        (v4, &TLS12, ProtocolVersion::TLSv1_2),
        (v4, &TLS13, ProtocolVersion::TLSv1_3),
        (v6, &TLS13, ProtocolVersion::TLSv1_3),
    ] {
        let mut stream = tls(address, tls_config(&authority.ca, &[version], None)).await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(number));
        converse(&mut stream).await;
        stream.shutdown().await.unwrap();
    }
    for host in ["127.0.0.1", "[::1]"] {
        converse(&mut tcp(format!("{host}:{}", dual.port()).parse().unwrap()).await).await;
    }
    gateway.stop().await.unwrap();
}

/// Whoever is slow, or speaks no TLS at all, keeps nobody waiting.
#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_does_not_end_holds_up_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "ca");
    authority.issue("server", "localhost");
    let gateway = start(folder.path(), &listener(""), "always");
    let address = gateway.addresses()[0];
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(tcp(address).await);
    }
    let mut plain = tcp(address).await;
    plain.send(CONNECT).await;
    // A TLS alert, then the end.
    let answer = receive(&mut plain, usize::MAX).await;
    assert_eq!(answer.first(), Some(&0x15), "{answer:?}");
    converse(&mut tls(address, tls_config(&authority.ca, BOTH, None)).await.unwrap()).await;
    // The gateway does not wait for them either.
    gateway.stop().await.unwrap();
}

/// What the client gets: the return code of CONNACK, or None where TLS ends it. TLS 1.3 lets a client finish
/// its handshake before the server has seen its certificate.
async fn attempt(
    address: std::net::SocketAddr,
    ca: &Path,
    version: &'static SupportedProtocolVersion,
    identity: Option<&Identity>,
) -> Option<u8> {
    let mut stream = tls(address, tls_config(ca, &[version], identity)).await.ok()?;
    let connack = async {
        stream.send(CONNECT).await;
        receive(&mut stream, 4).await
    };
    connack.await.get(3).copied()
}

#[tokio::test(flavor = "multi_thread")]
async fn client_certificates_are_users() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "ca");
    let stranger = Authority::new(folder.path(), "stranger");
    authority.issue("server", "localhost");
    let pump = authority.issue_to("pump", "pump-7", "pump-7.local");
    let nameless = authority.issue_to("nameless", "", "n.local");
    let late = authority.issue_until("late", "late.local", 2001);
    let foreign = stranger.issue_to("foreign", "pump-7", "pump-7.local");
    // What is asked; then who comes: nobody, the pump, one without a common name, one of another authority, one too late.
    let cases = [
        ("", [Some(5), Some(5), Some(5), Some(5), Some(5)]),
        (", client_ca: ca.crt", [None, Some(0), None, None, None]),
        (", client_ca: ca.crt, client_certificate: optional", [Some(5), Some(0), None, None, None]),
        (", client_ca: ca.crt, username_from: san_dns", [None, Some(0), Some(0), None, None]),
        (", client_ca: ca.crt, username_from: subject", [None, Some(0), None, None, None]),
        (", client_ca: ca.crt, username_from: none", [None, Some(5), Some(5), None, None]),
    ];
    let listeners: Vec<_> = cases.iter().map(|(asked, _)| listener(asked)).collect();
    let gateway = start(folder.path(), &listeners.join(", "), "never");
    let clients = [None, Some(&pump), Some(&nameless), Some(&foreign), Some(&late)];
    for (address, (asked, wanted)) in gateway.addresses().iter().zip(cases) {
        for version in BOTH {
            for (index, (identity, wanted)) in clients.into_iter().zip(wanted).enumerate() {
                let code = attempt(*address, &authority.ca, version, identity).await;
                assert_eq!(code, wanted, "client {index} on {asked:?} with {version:?}");
            }
        }
    }
    gateway.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_serves_new_connections_and_the_old_ones_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (Authority::new(folder.path(), "first"), Authority::new(folder.path(), "second"));
    first.issue("server", "localhost");
    let gateway = start(folder.path(), &listener(""), "always");
    let address = gateway.addresses()[0];
    let mut old = tls(address, tls_config(&first.ca, BOTH, None)).await.unwrap();
    assert_eq!(connect(&mut old).await, Some(0));
    second.issue("server", "localhost");
    let renewed = async {
        loop {
            if let Ok(stream) = tls(address, tls_config(&second.ca, BOTH, None)).await {
                break stream;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let mut new = tokio::time::timeout(PATIENCE, renewed).await.expect("the new certificate");
    assert!(tls(address, tls_config(&first.ca, BOTH, None)).await.is_err());
    old.send(PINGREQ).await;
    assert_eq!(receive(&mut old, 2).await, PINGRESP);
    converse(&mut new).await;
    gateway.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_authority_decides_who_comes_in_from_then_on() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (Authority::new(folder.path(), "first"), Authority::new(folder.path(), "second"));
    first.issue("server", "localhost");
    let (old, new) = (first.issue_to("old", "pump-7", "a"), second.issue_to("new", "pump-8", "b"));
    let clients = folder.path().join("clients.crt");
    std::fs::copy(&first.ca, &clients).unwrap();
    let gateway = start(folder.path(), &listener(", client_ca: clients.crt"), "never");
    let address = gateway.addresses()[0];
    assert_eq!(attempt(address, &first.ca, &TLS13, Some(&old)).await, Some(0));
    assert_eq!(attempt(address, &first.ca, &TLS13, Some(&new)).await, None);
    std::fs::copy(&second.ca, &clients).unwrap();
    let renewed = async {
        while attempt(address, &first.ca, &TLS13, Some(&new)).await.is_none() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, renewed).await.expect("the new authority");
    assert_eq!(attempt(address, &first.ca, &TLS13, Some(&old)).await, None);
    gateway.stop().await.unwrap();
}

/// In virtual time: a client that begins and never goes on.
#[tokio::test(start_paused = true)]
async fn handshakes_end_within_a_bound() {
    let folder = tempfile::tempdir().unwrap();
    let Identity { certificate, private_key } =
        Authority::new(folder.path(), "ca").issue("server", "localhost");
    let tls = TlsServer::new(ServerSettings { certificate, private_key, clients: None }).unwrap();
    let websocket = WebSocketSettings { path: "/mqtt".into(), packet_bytes_max: 1 << 20 };
    let acceptors = [
        (Acceptor { tls: Some(Arc::new(tls)), websocket: None }, &b"\x16\x03"[..]),
        (Acceptor { tls: None, websocket: Some(websocket) }, b"GET /mqtt HT"),
    ];
    for (acceptor, beginning) in acceptors {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(beginning).await.unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        let begun = tokio::time::Instant::now();
        let error = acceptor.accept(socket).await.expect_err("no stream");
        assert!(matches!(error, AcceptError::TimedOut), "{error}");
        assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    }
}

#[test]
fn faulty_files_leave_the_certificate_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "ca");
    let Identity { certificate, private_key } = authority.issue("server", "localhost");
    let settings =
        ServerSettings { certificate: certificate.clone(), private_key: private_key.clone(), clients: None };
    let server = TlsServer::new(settings).unwrap();
    let refreshed = || server.refresh().map(|result| result.map_err(|error| error.to_string()));
    assert_eq!(refreshed(), None);
    let good = std::fs::read(&private_key).unwrap();
    std::fs::write(&private_key, "garbage").unwrap();
    let words = format!("{}: holds no private key", private_key.display());
    // Said once.
    assert_eq!(refreshed(), Some(Err(words)));
    assert_eq!(refreshed(), None);
    std::fs::remove_file(&private_key).unwrap();
    assert!(matches!(refreshed(), Some(Err(_))));
    assert_eq!(refreshed(), None);
    // One half of a pair is new.
    let other = authority.issue("other", "localhost");
    std::fs::rename(&other.private_key, &private_key).unwrap();
    let words = refreshed().unwrap().unwrap_err();
    assert!(words.contains("does not fit the certificate"), "{words}");
    std::fs::write(&private_key, good).unwrap();
    assert_eq!(refreshed(), Some(Ok(())));
    assert_eq!(server.age(SystemTime::now()), Age::Valid);
    assert_eq!(server.age(SystemTime::UNIX_EPOCH), Age::NotYetValid);
    authority.issue_until("server", "localhost", 2001);
    assert_eq!(refreshed(), Some(Ok(())));
    assert_eq!(server.age(SystemTime::now()), Age::Expired);
}
