//! Clouds that verify what the gateway proves itself with, over real sockets: each with an implementation of its own
//! (`verifier.py`), so that both cannot be wrong in the same way. The credential is renewed while messages flow.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tidegate::auth::signer::{PrivateKey, SharedKey};
use tidegate::base::time::{Clock, Now};
use tidegate::bridge::status::LinkState;
use tidegate::config::model;
use tidegate::config::provider::Account;
use tidegate::mqtt::packet::Version;
use tidegate::mqtt::qos::QoS;

use super::traffic::{Link, config, forward};

const WAIT: Duration = Duration::from_secs(60);
const KEY: &str = "KuF3NT/jUBJ62LNBB/A8XZA9CqS3Cu79B/ABmfA1UCw=";
const BEFORE: u64 = 50;
const AFTER: u64 = 50;

/// A cloud in a process of its own.
struct Verifier {
    process: Child,
    stdin: ChildStdin,
    events: Arc<Mutex<Vec<Value>>>,
    port: u16,
}

impl Verifier {
    async fn start(arguments: &[&str]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/cloud/verifier.py");
        let mut command = Command::new("python3");
        command.arg(script).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("python3 runs");
        let lines = BufReader::new(process.stdout.take().expect("piped")).lines();
        let stdin = process.stdin.take().expect("piped");
        let events = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&events);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                told.lock().expect("no panic inside").push(serde_json::from_str(&line).expect("JSON"));
            }
        });
        let mut verifier = Self { process, stdin, events, port: 0 };
        let listening = verifier.until("listening", 1).await;
        verifier.port = listening[0]["port"].as_u64().and_then(|port| port.try_into().ok()).expect("a port");
        verifier
    }

    fn all(&self, kind: &str) -> Vec<Value> {
        let events = self.events.lock().expect("no panic inside");
        events.iter().filter(|event| event["event"] == kind).cloned().collect()
    }

    /// At least so many of a kind.
    async fn until(&self, kind: &str, count: usize) -> Vec<Value> {
        let found = async {
            loop {
                let found = self.all(kind);
                if found.len() >= count {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let found = tokio::time::timeout(WAIT, found).await;
        found.unwrap_or_else(|_| panic!("{count} {kind}: {:?}", self.events.lock().expect("no panic inside")))
    }

    /// Tells it the time.
    async fn set_time(&mut self, now: Now) {
        let told = self.all("now").len();
        let secs = now.wall.as_millis() / 1000;
        writeln!(self.stdin, "now {secs}").expect("it listens");
        self.until("now", told + 1).await;
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn bridge(port: u16, client_id: &str, username: Option<&str>, account: Account, to: &str) -> model::Bridge {
    model::Bridge {
        client_id: client_id.into(),
        username: username.map(Into::into),
        status_topic: None,
        forward: vec![forward(to)],
        receive: Vec::new(),
        account,
        ..config(Version::V3_1_1, port, None)
    }
}

/// Messages before, while and after the credential is renewed: each arrives once.
async fn exchange(verifier: &mut Verifier, config: model::Bridge, lifetime: Option<Duration>) {
    // Before the first try to connect.
    verifier.set_time(Clock::start().now()).await;
    let link = Link::start(config);
    link.until_up().await;
    for number in 1..=BEFORE {
        link.door.offer("up/a", &number.to_string(), QoS::ExactlyOnce, number);
    }
    // Time that jumps while something is under way would make it late, and it would be sent again.
    link.until("forwarded", |door| door.status().forwarded == BEFORE).await;
    if let Some(lifetime) = lifetime {
        link.door.skip(lifetime * 9 / 10 + Duration::from_secs(1));
        verifier.set_time(link.door.now()).await;
        verifier.until("connected", 2).await;
    }
    for number in BEFORE + 1..=BEFORE + AFTER {
        link.door.offer("up/a", &number.to_string(), QoS::ExactlyOnce, number);
    }
    let count = BEFORE + AFTER;
    link.until("forwarded", |door| door.status().forwarded == count).await;
    let published = verifier.until("published", usize::try_from(count).expect("in range")).await;
    let payloads: Vec<_> =
        published.iter().map(|event| event["payload"].as_str().expect("text").to_owned()).collect();
    assert_eq!(payloads, (1..=count).map(|number| number.to_string()).collect::<Vec<_>>());
    assert!(
        published.iter().all(|event| event["qos"] == 1 && event["dup"] == false && event["retain"] == false)
    );
    assert_eq!(verifier.all("refused"), [] as [Value; 0]);
    let connected = verifier.all("connected");
    assert_eq!(connected.len(), if lifetime.is_some() { 2 } else { 1 });
    if lifetime.is_some() {
        assert!(connected[1]["present"] == true && connected[0]["password"] != connected[1]["password"]);
        assert_eq!(verifier.all("disconnected").len(), 1, "in good order");
    }
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn azure_takes_the_token_and_the_next() {
    let mut verifier = Verifier::start(&["azure", "hub.net", "plant-7", KEY]).await;
    let key = SharedKey::from_base64(KEY).ok();
    let account = Account::AzureIotHub { hub: "hub.net".into(), device: "plant-7".into(), module: None, key };
    let username = Some("hub.net/plant-7/?api-version=2021-04-12");
    let config =
        bridge(verifier.port, "plant-7", username, account, "devices/plant-7/messages/events/{rest}");
    exchange(&mut verifier, config, Some(Duration::from_secs(3600))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn google_takes_the_token_and_the_next() {
    let folder = tempfile::tempdir().expect("a folder");
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).current_dir(folder.path()).output();
        assert!(output.expect("openssl runs").status.success(), "{arguments:?}");
    };
    openssl(&["genrsa", "-out", "key.pem", "2048"]);
    openssl(&["rsa", "-in", "key.pem", "-pubout", "-out", "public.pem"]);
    let public = folder.path().join("public.pem").display().to_string();
    let mut verifier = Verifier::start(&["google", "my-project", &public]).await;
    let pem = std::fs::read_to_string(folder.path().join("key.pem")).expect("a file");
    let key = PrivateKey::from_pem(&pem).expect("a key");
    let account = Account::Google { project: "my-project".into(), key };
    let client_id = "projects/my-project/locations/l/registries/r/devices/plant-7";
    let config = bridge(verifier.port, client_id, Some("unused"), account, "/devices/plant-7/events/{rest}");
    exchange(&mut verifier, config, Some(Duration::from_secs(12 * 3600))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn onenet_and_tencent_take_the_token_and_the_next() {
    let day = Some(Duration::from_secs(24 * 3600));
    let key = SharedKey::from_base64(KEY).expect("a key");
    let mut verifier = Verifier::start(&["onenet", "p1", "plant-7", KEY]).await;
    let account = Account::OneNet { product: "p1".into(), device: "plant-7".into(), key: key.clone() };
    let config = bridge(verifier.port, "plant-7", Some("p1"), account, "$sys/p1/plant-7/{rest}");
    exchange(&mut verifier, config, day).await;
    let mut verifier = Verifier::start(&["tencent", "1A17RZR3XXplant-7", KEY]).await;
    let account = Account::Tencent { product: "1A17RZR3XX".into(), device: "plant-7".into(), key };
    let config = bridge(verifier.port, "1A17RZR3XXplant-7", None, account, "1A17RZR3XX/plant-7/event");
    exchange(&mut verifier, config, day).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aliyun_takes_the_sign() {
    let mut verifier = Verifier::start(&["aliyun", "pk", "plant-7", "secret"]).await;
    let secret = SharedKey::from_text("secret");
    let account = Account::Aliyun { product: "pk".into(), device: "plant-7".into(), secret, tls: false };
    let config = bridge(verifier.port, "gw", Some("plant-7&pk"), account, "/pk/plant-7/user/update");
    exchange(&mut verifier, config, None).await;
}

/// So that the verifier is known to refuse.
#[tokio::test(flavor = "multi_thread")]
async fn another_key_is_refused_and_said() {
    let mut verifier = Verifier::start(&["azure", "hub.net", "plant-7", KEY]).await;
    let account = Account::AzureIotHub {
        hub: "hub.net".into(),
        device: "plant-7".into(),
        module: None,
        key: Some(SharedKey::from_text("another")),
    };
    let username = Some("hub.net/plant-7/?api-version=2021-04-12");
    let config =
        bridge(verifier.port, "plant-7", username, account, "devices/plant-7/messages/events/{rest}");
    verifier.set_time(Clock::start().now()).await;
    let link = Link::start(config);
    let refused = verifier.until("refused", 2).await;
    assert_eq!(refused[1]["why"], "signature");
    link.until("said", |door| {
        let status = door.status();
        let said = status.last_error.map(|fault| fault.to_string());
        status.state != LinkState::Up && said.is_some_and(|said| said.contains("user name"))
    })
    .await;
    link.stop().await;
}
