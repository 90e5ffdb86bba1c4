//! A gateway as a process of its own, and commands beside it. Decides no verdict but that a wait was too long.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// After so long, what a test waits for does not come.
pub const PATIENCE: Duration = Duration::from_secs(60);
const TURN: Duration = Duration::from_millis(20);

/// A data directory and a configuration; the gateway itself runs or does not.
pub struct Plant {
    pub folder: TempDir,
    pub address: SocketAddr,
    gateway: Option<Child>,
}

impl Plant {
    /// `rest`: of the configuration, besides gateway and broker.
    pub fn new(rest: &str) -> Plant {
        let folder = tempfile::tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let data_dir = folder.path().join("data");
        let text = format!(
            "gateway: {{ id: plant-7, data_dir: {} }}\nbroker: {{ listeners: [{{ address: '{address}' }}] }}\n{rest}\n",
            data_dir.display()
        );
        std::fs::write(folder.path().join("tidegate.yaml"), text).unwrap();
        Plant { folder, address, gateway: None }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("data/tidegate.sock")
    }

    /// Returns once it answers.
    pub fn start(&mut self) {
        let log = self.folder.path().join("gateway.log");
        let stderr = Stdio::from(std::fs::File::create(&log).unwrap());
        let child = tidegate().args(["run", "-c"]).arg(self.config()).stderr(stderr).spawn().unwrap();
        self.gateway = Some(child);
        let begun = Instant::now();
        while !self.run(&["status"]).status.success() {
            let ended = self.gateway.as_mut().unwrap().try_wait().unwrap();
            let late = begun.elapsed() >= PATIENCE;
            assert!(ended.is_none() && !late, "{}", std::fs::read_to_string(&log).unwrap());
            std::thread::sleep(TURN);
        }
    }

    /// SIGTERM, as systemd does.
    pub fn stop(&mut self) {
        let mut child = self.gateway.take().unwrap();
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert!(child.wait().unwrap().success());
    }

    pub fn kill(&mut self) {
        let mut child = self.gateway.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// `tidegate ARGS -c CONFIG`
    pub fn run(&self, args: &[&str]) -> Output {
        tidegate().args(args).arg("-c").arg(self.config()).output().unwrap()
    }

    /// What a command that must succeed writes.
    pub fn say(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.say(args)).unwrap()
    }

    /// Exit code and what it says of a command that must fail.
    pub fn refusal(&self, args: &[&str]) -> (Option<i32>, String) {
        let output = self.run(args);
        assert!(!output.status.success(), "{args:?}: {output:?}");
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }

    pub fn until(&self, what: &str, condition: impl Fn(&Plant) -> bool) {
        let begun = Instant::now();
        while !condition(self) {
            assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
            std::thread::sleep(TURN);
        }
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("tidegate.yaml")
    }
}

impl Drop for Plant {
    fn drop(&mut self) {
        if let Some(child) = &mut self.gateway {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub fn tidegate() -> Command {
    Command::new(Path::new(env!("CARGO_BIN_EXE_tidegate")))
}
