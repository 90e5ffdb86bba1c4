//! `tidegate run` as a process of its own: its log, its signals, its memory.

#![allow(clippy::unwrap_used)] // helpers outside of test functions too: a panic here is a failed test

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::gateway::client::PATIENCE;

pub struct Process {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    /// Where the broker listens.
    pub address: SocketAddr,
    file: PathBuf,
    /// What systemd is told.
    told: Receiver<String>,
}

impl Process {
    /// In a folder of the test's; `broker` is the inside of that section.
    pub fn start(folder: &Path, broker: &str) -> Process {
        Process::start_with(folder, broker, &[])
    }

    /// The same with more in its environment.
    pub fn start_with(folder: &Path, broker: &str, environment: &[(&str, &str)]) -> Process {
        write(&folder.join("tidegate.yaml"), broker);
        Process::run(folder, environment)
    }

    /// The same, and logs all that there is.
    pub fn start_talkative(folder: &Path, broker: &str, environment: &[(&str, &str)]) -> Process {
        let file = folder.join("tidegate.yaml");
        write(&file, broker);
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("log: { format: text }", "log: { level: trace, format: text }"))
            .unwrap();
        Process::run(folder, environment)
    }

    fn run(folder: &Path, environment: &[(&str, &str)]) -> Process {
        let (file, socket) = (folder.join("tidegate.yaml"), folder.join("notify"));
        let notified = UnixDatagram::bind(&socket).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["run", "--config"])
            .arg(&file)
            .env("NOTIFY_SOCKET", &socket)
            .env_remove("JOURNAL_STREAM")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (teller, told) = channel();
        // As systemd does: nobody waits for who listens. Ends with the last word that nobody wants to hear.
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length) = notified.recv(&mut bytes)
                && teller.send(String::from_utf8_lossy(&bytes[..length]).into_owned()).is_ok()
            {}
        });
        let log = Arc::new(Mutex::new(Vec::new()));
        let (lines, into) = (BufReader::new(child.stderr.take().unwrap()), log.clone());
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                into.lock().unwrap().push(line);
            }
        });
        let address = "127.0.0.1:0".parse().unwrap();
        let mut process = Process { child, log, address, file, told };
        let line = process.until_logged("listening");
        let said = line.split("address=").nth(1).unwrap().split_whitespace().next().unwrap();
        process.address = said.parse().unwrap();
        assert!(process.notification().contains("READY=1"));
        process
    }

    /// Another configuration in the place of the one that runs.
    pub fn write(&self, broker: &str) {
        write(&self.file, broker);
    }

    /// Puts other words in the place of some.
    pub fn edit(&self, words: &[(&str, &str)]) {
        let mut text = std::fs::read_to_string(&self.file).unwrap();
        for (from, to) in words {
            assert!(text.contains(from), "{from}: {text}");
            text = text.replace(from, to);
        }
        std::fs::write(&self.file, text).unwrap();
    }

    pub fn hang_up(&self) {
        self.signal("HUP");
    }

    fn signal(&self, name: &str) {
        let killed = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(killed.unwrap().success());
    }

    /// What systemd is told next of where the gateway is: its status and its signs of life aside.
    pub fn notification(&self) -> String {
        loop {
            let told = self.word();
            if !["STATUS=", "WATCHDOG=", "EXTEND_TIMEOUT_USEC="].iter().any(|aside| told.starts_with(aside)) {
                return told;
            }
        }
    }

    /// The next word to systemd with these words in it.
    pub fn until_notified(&self, words: &str) -> String {
        let start = Instant::now();
        loop {
            let told = self.word();
            if told.contains(words) {
                return told;
            }
            assert!(start.elapsed() < PATIENCE, "no {words:?}, but {told:?}, in\n{}", self.log());
        }
    }

    /// What systemd was told and nobody has looked at yet.
    pub fn words(&self) -> Vec<String> {
        self.told.try_iter().collect()
    }

    fn word(&self) -> String {
        self.told.recv_timeout(PATIENCE).expect("a notification")
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// The first line with these words.
    pub fn until_logged(&self, words: &str) -> String {
        let start = Instant::now();
        loop {
            if let Some(line) = self.log.lock().unwrap().iter().find(|line| line.contains(words)) {
                return line.clone();
            }
            assert!(start.elapsed() < PATIENCE, "no {words:?} in\n{}", self.log());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// In RAM now.
    pub fn resident_bytes(&self) -> usize {
        let text = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id())).unwrap();
        let pages: usize = text.split(' ').nth(1).unwrap().parse().unwrap();
        pages * rustix::param::page_size()
    }

    pub fn stop(mut self) {
        self.signal("TERM");
        assert_eq!(self.child.wait().unwrap().code(), Some(0), "{}", self.log());
    }
}

/// A test that fails leaves nothing running.
impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write(file: &Path, broker: &str) {
    let text = format!(
        "gateway: {{ id: test, data_dir: data }}\nlog: {{ format: text }}\nbroker:\n  \
         listeners: [{{ address: \"127.0.0.1:0\" }}]\n  sys_interval: 0s\n{broker}\n"
    );
    std::fs::write(file, text).unwrap();
}
