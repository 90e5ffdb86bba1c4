//! `tidegate support`: one archive for whoever is to help from afar, beside a running gateway or for a stopped one.
//! Changes nothing; leaves out secrets and payloads.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use axum::body::Body;
use axum::http::Method;
use clap::Args;
use serde_json::{Value, json};

use crate::base::time::Clock;
use crate::bus::memory::MEMORY_FILE;
use crate::cli::gateway::{AskError, ask, request};
use crate::cli::table::size;
use crate::cli::tar::Archive;
use crate::cli::{ConfigArgs, block_on, fail, machine};
use crate::config::error::Faults;
use crate::config::expand::{Environment as _, ProcessEnvironment, read_bounded};
use crate::config::guarded::exposures;
use crate::config::load::{data_dir_of, load, written_of};
use crate::config::model::{Config, DATA_DIR_DEFAULT};
use crate::store::reader;
use crate::web::local::SOCKET_FILE;

/// Clients that are listed.
const CLIENTS_MAX: usize = 1000;
const LEARNED_BYTES_MAX: u64 = 16 << 20;
/// A shorter secret stands for too much else.
const SECRET_BYTES_MIN: usize = 4;
const HIDDEN: &str = "***";
const README_FILE: &str = "README.txt";
const HEAD: &str = "What `tidegate support` gathered, to find out from afar what is wrong with this gateway.

Left out: passwords, hashes, keys, tokens, certificates and comments of the configuration; the payload of every
message, and the value of every reading.
In it, so look whether they may leave your hands: the names of devices, points, topics, bridges, users and clients,
host names, network addresses, and what the log says of them.
";

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sudo tidegate support                                 tidegate-support-HOST-TIME.tar in this folder
  sudo tidegate support -o /tmp                         in that folder
  tidegate support -c test.yaml -o plant-7.tar          of another gateway, under this name

Without secrets and payloads; only you can read it. Look through it before you send it.")]
pub struct SupportArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Where the archive goes: a file that does not exist, or a folder
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
}

/// What goes into the archive, and what could not.
struct Gathered {
    files: Vec<(&'static str, &'static str, String)>,
    missing: Vec<String>,
    secrets: Vec<String>,
}

pub fn run(args: &SupportArgs) -> ExitCode {
    let file = &args.config.config;
    let mut gathered = Gathered { files: Vec::new(), missing: Vec::new(), secrets: Vec::new() };
    let data_dir = gathered.take_configuration(file);
    let asked = block_on(gathered.take_gateway(&data_dir.join(SOCKET_FILE)));
    gathered.take_database(&data_dir);
    gathered.take("machine.json", "versions, memory, disk, clock", Ok(pretty(&machine::describe(&data_dir))));
    let done = asked.and_then(|()| {
        let now = Clock::start().now().wall;
        let host = ProcessEnvironment.host_name().unwrap_or_else(|| "unknown".to_owned());
        let name = format!("tidegate-support-{}-{}", plain(&host), plain(&now.to_string()[..19]));
        let path = place(args.output.as_deref(), &name);
        let time = u64::try_from(now.as_millis() / 1000).unwrap_or(0);
        let bytes = create(&path).and_then(|out| gathered.write(out, &name, time));
        bytes.map(|bytes| (path.clone(), bytes)).map_err(|error| told(&error, &path))
    });
    match done {
        Ok((path, bytes)) => gathered.tell(&path, bytes),
        Err(error) => fail(error),
    }
}

impl Gathered {
    fn take(&mut self, name: &'static str, what: &'static str, contents: Result<String, String>) {
        match contents {
            Ok(contents) => self.files.push((name, what, contents)),
            Err(reason) => self.missing.push(format!("{name}: {reason}")),
        }
    }

    /// Where the gateway's data is.
    fn take_configuration(&mut self, file: &Path) -> PathBuf {
        let loaded = load(file, &ProcessEnvironment);
        let written = match &loaded {
            Ok(config) => Some(config.written.to_string()),
            Err(_) => written_of(file),
        };
        let parsed = written.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok());
        let shown = parsed.as_ref().map(pretty).ok_or_else(|| "the file cannot be read".to_owned());
        self.take(
            "configuration.json",
            "the configuration as it is written, without secrets and comments",
            shown,
        );
        self.take("check.txt", "what `tidegate check` says of it", Ok(verdict(file, &loaded)));
        match loaded {
            Ok(config) => {
                self.secrets = secrets_of(&config);
                config.gateway.data_dir
            }
            Err(_) => data_dir_of(file).unwrap_or_else(|| DATA_DIR_DEFAULT.into()),
        }
    }

    async fn take_gateway(&mut self, socket: &Path) {
        let mut status = match question(socket, "/api/v1/status").await {
            Ok(status) => status,
            Err(error) => {
                let log = "its last lines: `journalctl -u tidegate -n 1000`, if it ran as a service";
                self.missing.push(format!(
                    "log.txt, status.json, metrics.txt and all else of the gateway: {error}; {log}"
                ));
                return;
            }
        };
        without_values(&mut status["devices"]);
        let (devices, bridges) = (status["devices"].take(), status["bridges"].take());
        let lines = question(socket, "/api/v1/log").await;
        let lines = lines.map(|lines| log_lines(&lines)).map_err(|error| error.to_string());
        let errors = last_errors(&status, &devices, &bridges, lines.as_deref().unwrap_or_default());
        self.take(
            "status.json",
            "the running gateway: version, readiness, clock, broker, store, process",
            Ok(pretty(&status)),
        );
        self.take("devices.json", "its devices: states, polls, errors; no values", Ok(pretty(&devices)));
        self.take("bridges.json", "its bridges: states, counts, what bounds cost", Ok(pretty(&bridges)));
        self.take("errors.txt", "the last error of each device and bridge, and of the log", Ok(errors));
        self.take("log.txt", "its last log lines, INFO and worse", lines);
        for (name, what, path) in [
            (
                "clients.json",
                "who is connected: names, users, addresses",
                format!("/api/v1/clients?max={CLIENTS_MAX}"),
            ),
            ("buffers.json", "what waits for each bridge: counts", "/api/v1/buffers".to_owned()),
            (
                "running-configuration.json",
                "the configuration that it runs with",
                "/api/v1/config".to_owned(),
            ),
        ] {
            let answered = question(socket, &path).await;
            self.take(name, what, answered.map(|answer| pretty(&answer)).map_err(|error| error.to_string()));
        }
        let metrics = ask(socket, request(Method::GET, "/metrics", Body::empty())).await;
        let metrics = metrics.map(|text| String::from_utf8_lossy(&text).into_owned());
        self.take("metrics.txt", "its metrics", metrics.map_err(|error| error.to_string()));
    }

    fn take_database(&mut self, data_dir: &Path) {
        let found = data_dir.join(crate::store::schema::DATABASE_FILE);
        let described = match found.metadata() {
            Ok(_) => reader::describe(data_dir).map_err(|error| error.to_string()),
            Err(error) => Err(format!("{}: {error}", found.display())),
        };
        let described = described.map(|found| pretty(&json!(found)));
        self.take(
            "database.json",
            "version, size, rows, and what waits by buffer; SQLite's version",
            described,
        );
        let listed = machine::listing(data_dir).map_err(|error| format!("{}: {error}", data_dir.display()));
        self.take("files.txt", "the files of the data directory: modes, sizes, times", listed);
        let learned = data_dir.join(MEMORY_FILE);
        let read = match read_bounded(&learned, LEARNED_BYTES_MAX) {
            Ok(Some(bytes)) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Ok(None) => Err("too large".to_owned()),
            // Nothing was learned of units yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => Err(format!("{}: {error}", learned.display())),
        };
        self.take("learned.json", "what Modbus units refused to be read", read);
    }

    /// Its length.
    fn write(&self, out: File, folder: &str, time: u64) -> io::Result<u64> {
        let mut archive = Archive::new(BufWriter::new(out), time);
        archive.add(&format!("{folder}/{README_FILE}"), self.readme().as_bytes())?;
        for (name, _, contents) in &self.files {
            archive.add(&format!("{folder}/{name}"), self.without_secrets(contents).as_bytes())?;
        }
        let out = archive.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        out.sync_all()?;
        out.metadata().map(|found| found.len())
    }

    fn readme(&self) -> String {
        let mut text = format!("{HEAD}\n");
        for (name, what, _) in &self.files {
            // To a String this never fails.
            let _ = writeln!(text, "{name:<28}{what}");
        }
        if !self.missing.is_empty() {
            text.push_str("\nNot there:\n");
            text.extend(self.missing.iter().map(|missing| format!("{missing}\n")));
        }
        self.without_secrets(&text)
    }

    /// None should be left; what a cloud or a device says is not ours to promise.
    fn without_secrets(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, HIDDEN))
    }

    fn tell(&self, path: &Path, bytes: u64) -> ExitCode {
        let missing = lines(self.missing.iter().map(|missing| format!("not there: {missing}")));
        let path = path.display();
        let text = format!(
            "{path}: {} files, {}, readable by you alone\n{}Look through it before you send it (`tar -tvf {path}`): it has no passwords, keys or \
             payloads,\nbut the names of devices, topics, users and clients, host names and network addresses.\n",
            self.files.len() + 1,
            size(bytes),
            self.without_secrets(&missing),
        );
        let written = io::stdout().write_all(text.as_bytes());
        if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

async fn question(socket: &Path, path: &str) -> Result<Value, AskError> {
    let answer = ask(socket, request(Method::GET, path, Body::empty())).await?;
    serde_json::from_slice(&answer).map_err(AskError::Unexpected)
}

fn verdict(file: &Path, loaded: &Result<Config, Faults>) -> String {
    match loaded {
        Err(faults) => format!("{faults}\n"),
        Ok(config) => {
            let warnings = exposures(config).into_iter().map(|exposure| format!("warning: {exposure}\n"));
            format!("{}: ok: {}\n{}", file.display(), config.summary(), warnings.collect::<String>())
        }
    }
}

/// A reading's value is what a payload says.
fn without_values(devices: &mut Value) {
    for device in devices.as_array_mut().into_iter().flatten() {
        for point in device["points"].as_array_mut().into_iter().flatten() {
            if let Some(point) = point.as_object_mut() {
                point.remove("value");
            }
        }
    }
}

fn log_lines(kept: &Value) -> String {
    let word = |line: &Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
    let kept = kept.as_array().into_iter().flatten();
    lines(
        kept.map(|line| {
            format!("{} {:<5} {}", word(line, "time"), word(line, "level"), word(line, "message"))
        }),
    )
}

/// With an end behind each.
fn lines(items: impl Iterator<Item = String>) -> String {
    items.fold(String::new(), |text, line| text + &line + "\n")
}

fn last_errors(status: &Value, devices: &Value, bridges: &Value, log: &str) -> String {
    let mut text = String::new();
    if let Some(reason) = status["reason"].as_str() {
        // To a String this never fails.
        let _ = writeln!(text, "not ready: {reason}");
    }
    for (kind, items) in [("device", devices), ("bridge", bridges)] {
        for item in items.as_array().into_iter().flatten() {
            if let (Some(name), Some(error)) = (item["name"].as_str(), item["last_error"].as_str()) {
                let _ = writeln!(text, "{kind} {name}: {error}");
            }
        }
    }
    let is_bad =
        |line: &&str| line.split_whitespace().nth(1).is_some_and(|level| ["ERROR", "WARN"].contains(&level));
    text.extend(log.lines().filter(is_bad).map(|line| format!("{line}\n")));
    if text.is_empty() { "none\n".to_owned() } else { text }
}

/// What nothing in the archive may hold, wherever it came from.
fn secrets_of(config: &Config) -> Vec<String> {
    let mut secrets = Vec::new();
    for bridge in &config.bridges {
        secrets.extend(bridge.password.as_ref().map(|password| password.reveal().to_owned()));
        let login = bridge.proxy.as_ref().and_then(|proxy| proxy.login.as_ref());
        secrets.extend(login.map(|(_, password)| password.reveal().to_owned()));
        let urls = std::iter::once(&bridge.url).chain(&bridge.fallbacks);
        let queries = urls.filter_map(|url| Some(url.path.as_deref()?.split_once('?')?.1.to_owned()));
        secrets.extend(queries);
    }
    secrets.retain(|secret| secret.len() >= SECRET_BYTES_MIN);
    secrets
}

/// Nobody but its owner reads it; what stands there already is left alone.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn place(output: Option<&Path>, name: &str) -> PathBuf {
    let file = format!("{name}.tar");
    match output {
        None => PathBuf::from(file),
        Some(folder) if folder.is_dir() => folder.join(file),
        Some(path) => path.to_owned(),
    }
}

fn told(error: &io::Error, path: &Path) -> io::Error {
    let hint = match error.kind() {
        io::ErrorKind::AlreadyExists => " (`-o` gives it another name)",
        _ => " (`-o` gives it another place)",
    };
    io::Error::new(error.kind(), format!("{}: {error}{hint}", path.display()))
}

/// What a file's name may have anywhere, and no shell minds.
fn plain(text: &str) -> String {
    let kept = text.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    kept.take(40).collect()
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
