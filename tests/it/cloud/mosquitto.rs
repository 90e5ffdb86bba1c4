//! A Mosquitto of the test's own, and its clients as independent peers. Installs nothing.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use super::authority::{Authority, Identity};

const START_WAIT: Duration = Duration::from_secs(60);
/// The ports of a run: so many, in one of a hundred places from here on.
const FIRST_PORT: u16 = 12_000;
const PORTS: u16 = 200;

pub struct Mosquitto {
    process: Child,
    config: PathBuf,
    pub port: u16,
}

/// What its TLS listener is made of; the second authority is that of clients.
pub struct Tls<'a> {
    pub server: &'a Identity,
    pub clients: Option<&'a Authority>,
}

impl Mosquitto {
    pub fn start(folder: &Path) -> Mosquitto {
        Self::start_with(folder, "")
    }

    /// TLS on the returned port, TCP without it on `port`.
    pub fn start_tls(folder: &Path, tls: &Tls<'_>) -> (Mosquitto, u16) {
        let port = free_port();
        let clients = tls.clients.map_or(String::new(), |authority| {
            format!("cafile {}\nrequire_certificate true\n", authority.ca.display())
        });
        let listener = format!(
            "listener {port} 127.0.0.1\ncertfile {}\nkeyfile {}\n{clients}",
            tls.server.certificate.display(),
            tls.server.private_key.display()
        );
        (Self::start_with(folder, &listener), port)
    }

    /// The same with an authority for clients that is a file.
    pub fn start_tls_by(folder: &Path, server: &Identity, clients: &Path) -> (Mosquitto, u16) {
        let port = free_port();
        let listener = format!(
            "listener {port} 127.0.0.1\ncertfile {}\nkeyfile {}\ncafile {}\nrequire_certificate true\n",
            server.certificate.display(),
            server.private_key.display(),
            clients.display()
        );
        (Self::start_with(folder, &listener), port)
    }

    /// A WebSocket on the returned port, TCP on `port`.
    pub fn start_websocket(folder: &Path, tls: Option<&Tls<'_>>) -> (Mosquitto, u16) {
        let port = free_port();
        let files = tls.map_or(String::new(), |tls| {
            let Identity { certificate, private_key } = tls.server;
            format!("certfile {}\nkeyfile {}\n", certificate.display(), private_key.display())
        });
        let listener = format!("listener {port} 127.0.0.1\nprotocol websockets\n{files}");
        (Self::start_with(folder, &listener), port)
    }

    /// With access rules as its `acl_file` has them.
    pub fn start_with_access(folder: &Path, rules: &str) -> Mosquitto {
        let path = folder.join("access");
        fs::write(&path, rules).expect("writes");
        Self::start_with(folder, &format!("acl_file {}\n", path.display()))
    }

    /// Bridged to another broker over 3.1.1, as it is by default: it says that it is a bridge. `topics` as its manual
    /// has them.
    pub fn start_bridged(folder: &Path, to: u16, topics: &str) -> Mosquitto {
        Self::start_with(
            folder,
            &format!(
                "connection up\naddress 127.0.0.1:{to}\nremote_clientid mosquitto-bridge\nnotifications false\n\
                 bridge_protocol_version mqttv311\nrestart_timeout 1\n{topics}\n"
            ),
        )
    }

    /// Starts anew with no rule in the way.
    pub fn allow_all(&mut self) {
        let path = self.config.with_file_name("access");
        fs::write(path, "topic readwrite #\n").expect("writes");
        self.restart();
    }

    fn start_with(folder: &Path, listeners: &str) -> Mosquitto {
        let port = free_port();
        let config = folder.join(format!("mosquitto-{port}.conf"));
        // Started by root it becomes another user, who cannot read the folder. With a bounded window, Mosquitto
        // 2.0.11 lets new messages overtake those that it has queued for a subscriber.
        // And without bounds, it closes the connection for what its access rules deny.
        let (queued, inflight) = if listeners.contains("acl_file") { (1000, 20) } else { (0, 0) };
        let text = format!(
            "user root\nallow_anonymous true\nmax_queued_messages {queued}\nmax_inflight_messages {inflight}\nlistener {port} 127.0.0.1\n{listeners}"
        );
        fs::write(&config, text).expect("writes");
        let process = spawn(&config);
        let broker = Mosquitto { process, config, port };
        broker.wait();
        broker
    }

    /// Ends without a word and starts anew; it remembers nothing.
    pub fn restart(&mut self) {
        self.stop();
        self.process = spawn(&self.config);
        self.wait();
    }

    pub fn stop(&mut self) {
        self.process.kill().expect("kills");
        self.process.wait().expect("ends");
    }

    fn wait(&self) {
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(begun.elapsed() < START_WAIT, "mosquitto does not listen: {}", self.config.display());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What is retained on a topic, as `mosquitto_sub` shows it: QoS, retained, payload.
    pub fn retained(&self, topic: &str) -> String {
        let port = self.port.to_string();
        let output = Command::new("mosquitto_sub")
            .args(["-V", "5", "-h", "127.0.0.1", "-p", &port, "-t", topic])
            .args(["-F", "%q %r %p", "-C", "1", "-W", "20"])
            .output()
            .expect("mosquitto_sub is missing: install mosquitto-clients");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// One message for each line.
    pub fn publish(&self, topic: &str, qos: &str, lines: &str) {
        let port = self.port.to_string();
        let mut process = Command::new("mosquitto_pub")
            .args(["-V", "5", "-h", "127.0.0.1", "-p", &port, "-t", topic, "-q", qos, "-l"])
            .args(["-D", "publish", "user-property", "k", "v"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("mosquitto_pub is missing: install mosquitto-clients");
        process.stdin.take().expect("its input").write_all(lines.as_bytes()).expect("writes");
        assert!(process.wait().expect("ends").success());
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _gone = self.process.wait();
    }
}

fn spawn(config: &Path) -> Child {
    let installed = Path::new("/usr/sbin/mosquitto");
    let program = if installed.exists() { installed } else { Path::new("mosquitto") };
    Command::new(program)
        .arg("-c")
        .arg(config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|why| panic!("mosquitto is missing: install it, tests/run does so ({why})"))
}

/// A port for a program that is started a moment later. Below those that the kernel gives to connections, of which
/// other tests make many meanwhile; each test of a run gets others.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = FIRST_PORT + u16::try_from(std::process::id() % 100).expect("small") * PORTS;
    for _ in 0..PORTS {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed) % PORTS;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free from {first} on");
}
