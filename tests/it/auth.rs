//! Logins from the socket to the hash and back: the real gateway, password files as the command writes them, tokens.

#![allow(clippy::unwrap_used)] // helpers outside of test functions too: a panic here is a failed test

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64ct::{Base64UrlUnpadded, Encoding};
use ring::hmac;
use tidegate::app::Gateway;
use tidegate::auth::slowdown::DELAY_MIN;
use tidegate::mqtt::packet::connect::Connect;
use tidegate::mqtt::packet::{Packet, Version};
use tidegate::mqtt::qos::QoS;
use tidegate::mqtt::reason::ReasonCode;

use crate::gateway::client::{Client, config, connect, publish, start, subscribe};

pub const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

fn passwd(args: &[&str], password: &str) -> Output {
    use std::io::Write as _;
    let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .arg("passwd")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that fails before it reads has closed its end.
    let _ = child.stdin.take().unwrap().write_all(password.as_bytes());
    child.wait_with_output().unwrap()
}

fn gateway(folder: &Path, authentication: &str, access: &str) -> (Gateway, SocketAddr) {
    let text = format!(
        "broker: {{ listeners: [{{ address: 127.0.0.1:0 }}], sys_interval: 0s, \
         authentication: {{ {authentication} }}{access} }}"
    );
    let gateway = start(config(folder, &text));
    let address = gateway.addresses()[0];
    (gateway, address)
}

pub fn named(connect: Connect, user: &str, password: &str) -> Connect {
    Connect { username: Some(user.into()), password: Some(password.to_owned().into()), ..connect }
}

/// The reason in CONNACK.
pub async fn reason(address: SocketAddr, connect: Connect) -> ReasonCode {
    let mut client = Client::open(address, connect.version).await;
    client.send(&[Packet::Connect(Box::new(connect))]).await;
    let Some(Packet::Connack(connack)) = client.next().await else { panic!("no CONNACK") };
    connack.reason
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn who_the_command_added_comes_in_and_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("passwords");
    let file = file.to_str().unwrap();
    assert_eq!(passwd(&[file, "ann", "--stdin"], "secret\n").status.code(), Some(0));
    assert_eq!(passwd(&[file, "bob", "--stdin"], "other").status.code(), Some(0));
    assert_eq!(passwd(&[file, "bob", "--delete"], "").status.code(), Some(0));
    let authentication = format!("anonymous: never, password_file: {file}");
    let (gateway, address) = gateway(folder.path(), &authentication, "");
    let v5 = || connect("a", Version::V5);
    assert_eq!(reason(address, named(v5(), "ann", "secret")).await, ReasonCode::Success);
    // Again: by memory this time.
    assert_eq!(
        reason(address, named(connect("a", Version::V3_1_1), "ann", "secret")).await,
        ReasonCode::Success
    );
    let before = Instant::now();
    assert_eq!(reason(address, named(v5(), "ann", "Secret")).await, ReasonCode::BadUserNameOrPassword);
    assert!(before.elapsed() >= DELAY_MIN, "a failure is answered late");
    assert_eq!(reason(address, named(v5(), "bob", "other")).await, ReasonCode::BadUserNameOrPassword);
    assert_eq!(reason(address, v5()).await, ReasonCode::NotAuthorized);
    gateway.stop().await.unwrap();
}

/// As in `/etc/tidegate`, which root writes and the gateway's group reads.
#[test]
fn a_new_file_is_for_the_group_of_a_folder_that_is_closed_to_others() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let folder = tempfile::tempdir().unwrap();
    for (folder_mode, mode) in [(0o750, 0o640), (0o755, 0o600), (0o700, 0o600)] {
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(folder_mode)).unwrap();
        let path = folder.path().join(format!("{folder_mode:o}"));
        assert_eq!(passwd(&[path.to_str().unwrap(), "ann", "--stdin"], "secret").status.code(), Some(0));
        let file = std::fs::metadata(&path).unwrap();
        assert_eq!(file.mode() & 0o777, mode, "in a folder of {folder_mode:o}");
        assert_eq!(file.gid(), std::fs::metadata(folder.path()).unwrap().gid());
    }
}

#[test]
fn the_command_leaves_a_file_as_it_was_when_it_fails() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("passwords");
    let file = path.to_str().unwrap();
    let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(passwd(&[file, "ann", "--stdin"], "secret").status.code(), Some(0));
    assert_eq!(mode(), 0o600);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(passwd(&[file, "bob", "--stdin"], "x").status.code(), Some(0));
    assert_eq!(mode(), 0o640, "others lose what they had");
    let before = std::fs::read_to_string(&path).unwrap();
    assert!(!before.contains("secret") && before.lines().count() == 2);
    let cases = [
        (&[file, "carl", "--stdin"][..], "", 1, "error: the password is empty\n"),
        (&[file, "carl", "--delete"], "", 1, "has no such user\n"),
        (&[file, "a:b", "--stdin"], "x", 2, "no `#` in front\n"),
        (&["/nowhere/passwords", "ann", "--stdin"], "x", 1, "No such file or directory (os error 2)\n"),
        (&["Cargo.toml", "ann", "--stdin"], "x", 1, "Cargo.toml: line 1: no `:` (name:hash)\n"),
    ];
    for (args, password, code, words) in cases {
        let output = passwd(args, password);
        let errors = text(&output.stderr);
        assert!(errors.ends_with(words) && errors.lines().count() == 1, "{args:?}: {errors}");
        assert_eq!(output.status.code(), Some(code), "{args:?}");
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), before);
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "nothing half written");
}

/// While a hash is made, which takes much longer than a few answers, others go on. A machine that is busy enough may
/// make one of the hashes first, but not each of them.
#[tokio::test]
async fn a_hash_keeps_nobody_waiting() {
    const TRIES: usize = 20;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("passwords");
    let hash = costly_hash("secret");
    // A user each: one who was right a moment ago is not hashed again.
    let lines: Vec<_> = (0..TRIES).map(|number| format!("ann-{number}:{hash}")).collect();
    std::fs::write(&file, lines.join("\n")).unwrap();
    let authentication = format!("anonymous: always, password_file: {}", file.display());
    let (gateway, address) = gateway(folder.path(), &authentication, "");
    let mut quick = Client::connect(address, connect("quick", Version::V5)).await;
    let mut others_went_on = false;
    for number in 0..TRIES {
        let (id, user) = (format!("slow-{number}"), format!("ann-{number}"));
        let mut slow = Client::open(address, Version::V5).await;
        slow.send(&[Packet::Connect(Box::new(named(connect(&id, Version::V5), &user, "secret")))]).await;
        for _ in 0..10 {
            quick.send(&[Packet::Pingreq]).await;
            assert_eq!(quick.next().await, Some(Packet::Pingresp));
        }
        let came_in = gateway.hub().status().broker.connections_accepted;
        let Some(Packet::Connack(connack)) = slow.next().await else { panic!("no CONNACK") };
        assert_eq!(connack.reason, ReasonCode::Success);
        if came_in == number as u64 + 1 {
            others_went_on = true;
            break;
        }
    }
    assert!(others_went_on, "each hash was made before the others had their answers");
    gateway.stop().await.unwrap();
}

/// A quarter of what a password file may ask for.
fn costly_hash(password: &str) -> String {
    let (salt, mut hash) = (b"somesalt12345678", [0; 32]);
    let params = argon2::Params::new(65_536, 4, 1, None).unwrap();
    let argon2 = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    argon2.hash_password_into(password.as_bytes(), salt, &mut hash).unwrap();
    let encode = base64ct::Base64Unpadded::encode_string;
    format!("$argon2id$v=19$m=65536,t=4,p=1${}${}", encode(salt), encode(&hash))
}

#[tokio::test]
async fn what_comes_behind_a_login_is_served_after_it_by_its_rules() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("passwords");
    std::fs::write(
        &file,
        "ann:$7$101$4DRL9r/pqd7aI5c+$x4iYuTA6k6xIDkKzTcC+x5oWNML+KoIKe94+LxARs8xf33UJ8JQJU+e+/yJVEdFJq0Q7abmm0vKfpj3H1yelug==\n",
    )
    .unwrap();
    let authentication = format!("anonymous: never, password_file: {}", file.display());
    let access = ", access: [{ user: ann, publish: [\"a/{client_id}\"], subscribe: [\"a/#\"] }]";
    let (gateway, address) = gateway(folder.path(), &authentication, access);
    let mut client = Client::open(address, Version::V5).await;
    // More than one batch, so that some of it waits undecoded.
    let mut packets = vec![Packet::Connect(Box::new(named(connect("c1", Version::V5), "ann", "secret")))];
    packets.push(subscribe(1, &["#"], QoS::AtMostOnce));
    packets.extend((0..600).map(|_| Packet::Pingreq));
    packets.push(publish("b", QoS::AtLeastOnce, 7, "no"));
    packets.push(publish("a/c1", QoS::AtLeastOnce, 8, "yes"));
    client.send(&packets).await;
    assert!(
        matches!(client.next().await, Some(Packet::Connack(connack)) if connack.reason == ReasonCode::Success)
    );
    assert!(matches!(client.next().await, Some(Packet::Suback(_))));
    for _ in 0..600 {
        assert_eq!(client.next().await, Some(Packet::Pingresp));
    }
    assert!(
        matches!(client.next().await, Some(Packet::Puback(ack)) if ack.reason == ReasonCode::NotAuthorized)
    );
    assert!(matches!(client.next().await, Some(Packet::Publish(publish)) if publish.payload == "yes"));
    assert!(matches!(client.next().await, Some(Packet::Puback(ack)) if ack.reason == ReasonCode::Success));
    assert_eq!(gateway.hub().status().broker.denied, 1);
    gateway.stop().await.unwrap();
}

pub fn token(claims: &str) -> String {
    let encode = |text: &[u8]| Base64UrlUnpadded::encode_string(text);
    let signed = format!("{}.{}", encode(br#"{"alg":"HS256"}"#), encode(claims.as_bytes()));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), signed.as_bytes());
    format!("{signed}.{}", encode(tag.as_ref()))
}

#[tokio::test]
async fn a_token_lets_in_until_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("secret");
    std::fs::write(&key, SECRET).unwrap();
    let authentication = format!("anonymous: never, jwt: {{ algorithm: HS256, key: {} }}", key.display());
    let (gateway, address) = gateway(folder.path(), &authentication, "");
    let ends = SystemTime::now() + Duration::from_secs(2);
    let ends = ends.duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let good = token(&format!(r#"{{"sub":"ann","exp":{ends}}}"#));
    let mut client = Client::connect(address, named(connect("a", Version::V5), "ignored", &good)).await;
    let old = named(connect("b", Version::V5), "ann", &token(r#"{"sub":"ann","exp":1000}"#));
    assert_eq!(reason(address, old).await, ReasonCode::BadUserNameOrPassword);
    let plain = named(connect("b", Version::V5), "ann", "secret");
    assert_eq!(reason(address, plain).await, ReasonCode::BadUserNameOrPassword);
    let Some(Packet::Disconnect(disconnect)) = client.next().await else { panic!("no DISCONNECT") };
    assert_eq!(disconnect.reason, ReasonCode::MaximumConnectTime);
    let over = named(connect("a", Version::V5), "", &good);
    assert_eq!(reason(address, over).await, ReasonCode::BadUserNameOrPassword, "it is over for good");
    gateway.stop().await.unwrap();
}
