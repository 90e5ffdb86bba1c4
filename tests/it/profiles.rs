//! The profiles that ship: each is loaded as a user names it, polled over real TCP from a unit that holds the registers
//! of tests/profiles, and every point compared. Units whose `SunSpec` map changes are in `sunspec`.

use std::collections::{BTreeMap, BTreeSet};
use std::future::{Ready, ready};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value as Json;
use tidegate::bus::Endpoint;
use tidegate::config::expand::ProcessEnvironment;
use tidegate::config::load::parse;
use tidegate::config::model::{Config, Table};
use tidegate::config::point::{Deadband, WordOrder};
use tidegate::config::profile::{find, list};
use tokio::net::{TcpListener, TcpStream};
use tokio_modbus::server::{Service, tcp};
use tokio_modbus::{ExceptionCode, Request, Response};

use crate::bus::Gateway;

const UNIT: u8 = 7;
const PROFILES_MIN: usize = 12;

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn stems(folder: &str, extension: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(project(folder)).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    names.filter_map(|name| name.strip_suffix(extension).map(str::to_owned)).collect()
}

/// What a unit holds, and refuses beyond.
#[derive(Debug, Default)]
pub(crate) struct Held(BTreeMap<(Table, u16), u16>);

impl Held {
    pub(crate) fn hold(&mut self, table: Table, address: u16, words: &[u16]) {
        self.0.extend((address..).zip(words).map(|(at, word)| ((table, at), *word)));
    }

    fn read(&self, table: Table, address: u16, count: u16) -> Result<Vec<u16>, ExceptionCode> {
        let words = (address..).take(usize::from(count)).map(|at| self.0.get(&(table, at)).copied());
        words.collect::<Option<_>>().ok_or(ExceptionCode::IllegalDataAddress)
    }

    fn answer(&self, request: &Request<'_>) -> Result<Response, ExceptionCode> {
        let bits = |words: Vec<u16>| words.into_iter().map(|word| word != 0).collect();
        Ok(match request {
            Request::ReadCoils(at, count) => {
                Response::ReadCoils(bits(self.read(Table::Coil, *at, *count)?))
            }
            Request::ReadDiscreteInputs(at, count) => {
                Response::ReadDiscreteInputs(bits(self.read(Table::Discrete, *at, *count)?))
            }
            Request::ReadHoldingRegisters(at, count) => {
                Response::ReadHoldingRegisters(self.read(Table::Holding, *at, *count)?)
            }
            Request::ReadInputRegisters(at, count) => {
                Response::ReadInputRegisters(self.read(Table::Input, *at, *count)?)
            }
            _ => return Err(ExceptionCode::IllegalFunction),
        })
    }
}

struct Unit(Arc<Held>);

impl Service for Unit {
    type Request = Request<'static>;
    type Response = Response;
    type Exception = ExceptionCode;
    type Future = Ready<Result<Response, ExceptionCode>>;

    fn call(&self, request: Self::Request) -> Self::Future {
        ready(self.0.answer(&request))
    }
}

/// A server of Modbus TCP that ends with its task.
async fn serve(held: Held) -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let held = Arc::new(held);
    let task = tokio::spawn(async move {
        let on_connected = |stream: TcpStream, _| {
            let held = Arc::clone(&held);
            async move { Ok(Some((Unit(held), stream))) }
        };
        let _ = tcp::Server::new(listener).serve(&on_connected, |_| {}).await;
    });
    (address, task)
}

/// A dump: registers, and what each point says: a value, why it is none, or that the unit does not have it.
struct Dump {
    held: Held,
    points: BTreeMap<String, (String, String)>,
}

impl Dump {
    fn read(name: &str) -> Self {
        let path = project("tests/profiles").join(format!("{name}.txt"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut dump = Self { held: Held::default(), points: BTreeMap::new() };
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let (kind, rest) = line.split_once(' ').expect("a word");
            if kind == "point" {
                let mut parts = rest.split('|').map(str::trim);
                let mut part = || parts.next().unwrap_or_default().to_owned();
                let (name, value, unit) = (part(), part(), part());
                assert!(dump.points.insert(name, (value, unit)).is_none(), "{line}");
                continue;
            }
            let table = match kind {
                "coil" => Table::Coil,
                "discrete" => Table::Discrete,
                "holding" => Table::Holding,
                "input" => Table::Input,
                other => panic!("{other} is no table"),
            };
            let (address, words) = rest.split_once(' ').expect("an address");
            let words = words.split(' ').map(|word| u16::from_str_radix(word, 16).expect("hexadecimal"));
            dump.held.hold(table, address.parse().expect("an address"), &words.collect::<Vec<u16>>());
        }
        dump
    }
}

pub(crate) fn configured(address: &str, device: &str) -> Config {
    let text = format!(
        "gateway: {{ id: g }}\ndevices: {{ m: {{ modbus: {{ tcp: '{address}', unit: {UNIT} }}, {device} }} }}\n"
    );
    let config = parse("test.yaml", &text, &project("tests"), &ProcessEnvironment);
    config.unwrap_or_else(|faults| panic!("{faults}"))
}

#[test]
fn every_profile_is_in_the_program_and_has_a_dump_and_nothing_else_does() {
    let files = stems("config/profiles", ".yaml");
    assert!(files.len() >= PROFILES_MIN, "{}", files.len());
    let built_in: BTreeSet<String> = list(Path::new("/nowhere")).into_keys().collect();
    assert_eq!(built_in, files, "src/config/builtin.rs");
    let dumped = stems("tests/profiles", ".txt");
    let of_profiles: BTreeSet<String> =
        dumped.iter().filter_map(|stem| stem.split('.').next().map(str::to_owned)).collect();
    assert_eq!(of_profiles, files, "tests/profiles.py");
    for name in files {
        let profile = find(&name, Path::new("/nowhere")).expect("built in");
        let text = std::fs::read_to_string(project("config/profiles").join(format!("{name}.yaml")));
        assert_eq!(Some(&profile.text), text.as_ref().ok(), "{name}");
        let head = profile.head();
        // Unknown is an answer, too; silence is none.
        assert!(!head.device.is_empty() && !head.manual.is_empty() && !head.revision.is_empty(), "{name}");
        assert!(profile.text.starts_with("# "), "{name}: how its addresses are counted");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_point_of_every_profile_is_what_its_manual_says() {
    for stem in stems("tests/profiles", ".txt") {
        let Dump { held, points } = Dump::read(&stem);
        let (address, server) = serve(held).await;
        let profile = stem.split('.').next().expect("a name");
        let config = configured(&address, &format!("profile: {profile}"));
        let device = config.devices[0].clone();
        let named: BTreeSet<String> =
            device.points.iter().filter(|point| point.publish).map(|point| point.name.to_string()).collect();
        assert_eq!(named, points.keys().cloned().collect(), "{stem}: points and dump");
        let gateway =
            Gateway::start(Endpoint::Tcp { address: address.as_str().into() }, vec![(*device).clone()]);
        let is_there =
            |(name, (value, _)): (&String, &(String, String))| (value != "absent").then(|| name.clone());
        let there: Vec<String> = points.iter().filter_map(is_there).collect();
        gateway
            .wait_until(&format!("all points of {stem}"), |gateway| {
                there.iter().all(|name| !gateway.heard(&format!("devices/m/{name}")).is_empty())
            })
            .await;
        for (name, (value, unit)) in &points {
            let heard = gateway.heard(&format!("devices/m/{name}"));
            if value == "absent" {
                assert_eq!(heard, Vec::<String>::new(), "{stem}: {name}");
                continue;
            }
            let json: Json = serde_json::from_str(heard.last().expect("heard")).expect("valid JSON");
            let is_said = match value.strip_prefix("bad: ") {
                Some(reason) => json["value"].is_null() && json["error"] == reason,
                None => is_same(&json["value"], &serde_json::from_str(value).expect("valid JSON")),
            };
            assert!(is_said, "{stem}: {name}: {json}, and not {value}");
            let shown = json["unit"].as_str().unwrap_or_default();
            assert_eq!(shown, unit, "{stem}: {name}");
        }
        gateway.stop().await;
        server.abort();
    }
}

/// 50 and 50.0 are one number.
fn is_same(a: &Json, b: &Json) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a.total_cmp(&b).is_eq(),
        _ => a == b,
    }
}

/// Everything that a profile and its device can both say.
#[test]
fn the_device_wins_over_its_profile() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("profiles")).expect("a folder");
    let profile = "name: test\npoll: 5s\ntimeout: 1s\nretries: 7\nword_order: little\naddress_base: 1\n\
        read: { max_gap: 3, max_registers: 60 }\npoints:\n  \
        first: { input: 10, type: f32, unit: V, poll: 2s }\n  \
        second: { input: 20, type: f32, deadband: 1 }\n  \
        third: { input: 30, type: u32 }\n  \
        factor: { holding: 1, type: i16, publish: false }\n  \
        product: { compute: 'first * second' }\n";
    std::fs::write(folder.path().join("profiles/test.yaml"), profile).expect("a file");
    let text = "gateway: { id: g }\ndevices:\n  m:\n    modbus: { tcp: 127.0.0.1, unit: 1 }\n    profile: test\n    \
        timeout: 2s\n    word_order: big\n    read: { max_gap: 0 }\n    points:\n      \
        second: { deadband: 5, unit: A, scale_from: factor }\n      \
        third: { holding: 30, type: i16 }\n      \
        fourth: { holding: 40 }\n";
    let config = parse("test.yaml", text, folder.path(), &ProcessEnvironment);
    let config = config.unwrap_or_else(|faults| panic!("{faults}"));
    let device = &config.devices[0];
    assert_eq!((device.timeout.as_secs(), device.retries, device.poll.as_secs()), (2, 7, 5));
    assert_eq!((device.max_gap, device.max_registers), (0, 60), "key by key");
    let said: Vec<_> = device
        .points
        .iter()
        .map(|point| (&*point.name, point.source.table, point.source.address, point.poll.as_secs()))
        .collect();
    let expected = [
        ("first", Table::Input, 9, 2),
        ("second", Table::Input, 19, 5),
        // Addresses are read as the file counts that they stand in.
        ("third", Table::Holding, 30, 5),
        ("factor", Table::Holding, 0, 5),
        ("fourth", Table::Holding, 40, 5),
    ];
    assert_eq!(said, expected);
    let second = &device.points[1];
    assert_eq!((second.unit.as_deref(), second.scale_from), (Some("A"), Some(3)));
    assert_eq!(second.deadband, Some(Deadband::Absolute(5.0)));
    assert!(device.points.iter().all(|point| point.word_order == WordOrder::Big));
    assert_eq!(&*device.computed[0].name, "product");
    let without = text.replace("third: { holding: 30, type: i16 }", "third: ~");
    let config = parse("test.yaml", &without, folder.path(), &ProcessEnvironment).expect("a configuration");
    assert_eq!(config.summary(), "1 device, 5 points, 0 bridges");
}
