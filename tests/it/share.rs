//! A shared line: other masters over real TCP, units behind RTU over TCP or a pty. The units count what they are asked,
//! so that what did not reach them is known; each register holds its own address. Never judges by the time that
//! anything took.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use tidegate::base::time::{Clock, Duration};
use tidegate::bus::Endpoint;
use tidegate::bus::share::SharedLine;
use tidegate::config::model::{Device, Link};
use tidegate::config::port::Share;
use tidegate::device::LineSettings;
use tidegate::device::share::outcome::Outcome;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::bus::{Gateway, PATIENCE, crc, port, pty};
use crate::device::{device, point};

/// A unit that does not answer.
const DEAD: u8 = 9;
const READS: [u8; 4] = [1, 2, 3, 4];

/// What the units saw.
#[derive(Default)]
pub(crate) struct Seen {
    /// Unit and PDU, in order.
    requests: Mutex<Vec<(u8, Vec<u8>)>>,
    /// Answers wait until it is lifted.
    is_held: AtomicBool,
    /// How long each byte of an answer takes.
    byte_micros: AtomicU32,
}

impl Seen {
    fn all(&self) -> Vec<(u8, Vec<u8>)> {
        self.requests.lock().expect("no test panicked").clone()
    }

    fn count(&self, unit: u8, pdu: &[u8]) -> usize {
        self.all().iter().filter(|(of, seen)| *of == unit && seen == pdu).count()
    }

    fn of_unit(&self, unit: u8) -> usize {
        self.all().iter().filter(|(of, _)| *of == unit).count()
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !holds(self) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(timeout(PATIENCE, waiting).await.is_ok(), "never: {what}; seen: {:?}", self.all());
    }
}

/// How many bytes of a PDU there are, by its first ones.
fn pdu_bytes(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [1..=6 | 8, ..] => Some(5),
        [7 | 11 | 12 | 17, ..] => Some(1),
        [15 | 16, _, _, _, _, count, ..] => Some(6 + usize::from(*count)),
        [22, ..] => Some(7),
        [23, _, _, _, _, _, _, _, _, count, ..] => Some(10 + usize::from(*count)),
        [24, ..] => Some(3),
        [43, ..] => Some(4),
        _ => None,
    }
}

/// What a unit answers: its registers hold their addresses, or what was written.
fn answer(held: &mut BTreeMap<u16, u16>, pdu: &[u8]) -> Vec<u8> {
    let word = |at: usize| u16::from_be_bytes([pdu[at], pdu[at + 1]]);
    let read = |held: &BTreeMap<u16, u16>, address: u16, count: u16| {
        let words = (address..address + count).map(|at| held.get(&at).copied().unwrap_or(at));
        words.flat_map(u16::to_be_bytes).collect::<Vec<u8>>()
    };
    let counted =
        |bytes: Vec<u8>| [&[pdu[0], u8::try_from(bytes.len()).expect("short")], &bytes[..]].concat();
    match pdu[0] {
        1 | 2 => counted(vec![0xAA; usize::from(word(3)).div_ceil(8)]),
        3 | 4 if word(1) >= 5_000 => vec![pdu[0] | 0x80, 2],
        3 | 4 => counted(read(held, word(1), word(3))),
        6 => {
            held.insert(word(1), word(3));
            pdu.to_vec()
        }
        16 => {
            for (at, bytes) in (word(1)..).zip(pdu[6..].chunks(2)) {
                held.insert(at, u16::from_be_bytes([bytes[0], bytes[1]]));
            }
            pdu[..5].to_vec()
        }
        15 => pdu[..5].to_vec(),
        23 => {
            held.insert(word(5), word(10));
            counted(read(held, word(1), word(3)))
        }
        7 => vec![7, 0x5A],
        11 => vec![11, 0xFF, 0xFF, 1, 8],
        12 => vec![12, 8, 0, 0, 1, 8, 1, 33, 32, 0],
        17 => vec![17, 5, b't', b'i', b'd', b'e', 0xFF],
        24 => vec![24, 0, 6, 0, 2, 1, 0xB8, 0x12, 0x84],
        43 => [&[43, 14, 4, 1, 0, 0, 1, 0, 4][..], b"Tide"].concat(),
        _ => pdu.to_vec(),
    }
}

pub(crate) async fn units(mut line: impl AsyncRead + AsyncWrite + Unpin, seen: Arc<Seen>) {
    let mut held = BTreeMap::new();
    let (mut incoming, mut bytes) = (Vec::new(), [0; 256]);
    loop {
        while let Some(length) =
            incoming.get(1..).and_then(pdu_bytes).filter(|length| incoming.len() >= length + 3)
        {
            let frame: Vec<u8> = incoming.drain(..length + 3).collect();
            let (body, check) = frame.split_at(length + 1);
            assert_eq!(check, crc(body), "frames are whole: {frame:?}");
            let (unit, pdu) = (body[0], body[1..].to_vec());
            seen.requests.lock().expect("no test panicked").push((unit, pdu.clone()));
            while seen.is_held.load(Ordering::Relaxed) {
                sleep(Duration::from_millis(5)).await;
            }
            if unit == DEAD {
                continue;
            }
            let body = [&[unit], &answer(&mut held, &pdu)[..]].concat();
            let byte = Duration::from_micros(seen.byte_micros.load(Ordering::Relaxed).into());
            sleep(byte * u32::try_from(body.len()).expect("short")).await;
            if unit != 0 && line.write_all(&[&body[..], &crc(&body)].concat()).await.is_err() {
                return;
            }
        }
        match line.read(&mut bytes).await {
            Ok(0) | Err(_) => return,
            Ok(count) => incoming.extend(&bytes[..count]),
        }
    }
}

/// A gateway whose line is shared.
struct Plant {
    gateway: Gateway,
    line: Arc<SharedLine>,
    address: std::net::SocketAddr,
    seen: Arc<Seen>,
    cancel: CancellationToken,
}

fn polled(unit: u8, link: Link, poll: Duration) -> Device {
    let mut settings = device(&format!("u{unit}"), unit, vec![point("r10", 10), point("r11", 11)]);
    settings.points.iter_mut().for_each(|point| point.poll = poll);
    settings.link = link;
    settings.timeout = Duration::from_millis(200);
    settings.retries = 0;
    settings.offline_after = 1;
    settings
}

impl Plant {
    async fn start(cache: Duration, writes: bool, devices: &[(u8, Duration)]) -> Self {
        let seen = Arc::new(Seen::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address: Arc<str> = listener.local_addr().expect("bound").to_string().into();
        let served = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                units(stream, Arc::clone(&served)).await;
            }
        });
        let link = |unit| Link::RtuOverTcp { address: Arc::clone(&address), unit };
        let devices = devices.iter().map(|(unit, poll)| polled(*unit, link(*unit), *poll)).collect();
        Self::over(Endpoint::RtuOverTcp { address: Arc::clone(&address) }, devices, (cache, writes), seen)
            .await
    }

    async fn over(
        endpoint: Endpoint,
        devices: Vec<Device>,
        (cache, writes): (Duration, bool),
        seen: Arc<Seen>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let shared = devices.iter().cloned().map(Arc::new);
        let settings = LineSettings { gateway: "g".into(), devices: (0..).zip(shared).collect() };
        let share = Share { address, cache, writes };
        let line = Arc::new(SharedLine::new(("p".into(), share), &endpoint, &settings, Clock::start()));
        let cancel = CancellationToken::new();
        tokio::spawn(Arc::clone(&line).serve(Arc::new(listener), cancel.clone()));
        let gateway = Gateway::start_shared(endpoint, devices, Some(Arc::clone(&line)));
        Self { gateway, line, address, seen, cancel }
    }

    async fn master(&self) -> Master {
        Master::connect(self.address).await
    }

    fn count(&self, outcome: Outcome) -> u64 {
        self.line.status().counts.of(outcome)
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.gateway.stop().await;
    }
}

/// Another master.
pub(crate) struct Master {
    stream: TcpStream,
    transaction: u16,
}

impl Master {
    pub(crate) async fn connect(address: std::net::SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.expect("served"), transaction: 0 }
    }

    /// Nobody serves it any more.
    pub(crate) async fn is_closed(&mut self) -> bool {
        let read = timeout(PATIENCE, self.stream.read(&mut [0; 1])).await.expect("an end");
        read.is_ok_and(|count| count == 0)
    }

    /// Returns its transaction.
    async fn send(&mut self, unit: u8, pdu: &[u8]) -> u16 {
        self.transaction += 1;
        let length = u8::try_from(pdu.len() + 1).expect("short");
        let [high, low] = self.transaction.to_be_bytes();
        let frame = [&[high, low, 0, 0, 0, length, unit], pdu].concat();
        self.stream.write_all(&frame).await.expect("connected");
        self.transaction
    }

    /// Transaction, unit, PDU.
    async fn receive(&mut self) -> (u16, u8, Vec<u8>) {
        let read = async {
            let mut header = [0; 7];
            self.stream.read_exact(&mut header).await.expect("connected");
            let mut pdu = vec![0; usize::from(header[5]) - 1];
            self.stream.read_exact(&mut pdu).await.expect("connected");
            assert_eq!(header[2..5], [0, 0, 0]);
            (u16::from_be_bytes([header[0], header[1]]), header[6], pdu)
        };
        timeout(PATIENCE, read).await.expect("an answer")
    }

    pub(crate) async fn ask(&mut self, unit: u8, pdu: &[u8]) -> Vec<u8> {
        let sent = self.send(unit, pdu).await;
        let (transaction, of, answer) = self.receive().await;
        assert_eq!((transaction, of), (sent, unit));
        answer
    }
}

pub(crate) fn read(address: u16, count: u16) -> Vec<u8> {
    [&[3][..], &address.to_be_bytes(), &count.to_be_bytes()].concat()
}

pub(crate) fn words(address: u16, count: u8) -> Vec<u8> {
    let words = (address..address + u16::from(count)).flat_map(u16::to_be_bytes);
    [3, count * 2].into_iter().chain(words).collect()
}

const ALWAYS_ASK: Duration = Duration::ZERO;
/// Nothing in a test is so old.
const FOR_EVER: Duration = Duration::from_secs(3_600);
const RARELY: Duration = Duration::from_secs(3_600);

#[tokio::test]
async fn every_function_goes_through_as_it_is_and_pipelined_answers_find_their_requests() {
    let plant = Plant::start(ALWAYS_ASK, true, &[(1, RARELY)]).await;
    let mut master = plant.master().await;
    let cases: [(Vec<u8>, Vec<u8>); 17] = [
        (read(30, 2), words(30, 2)),
        (vec![4, 0, 30, 0, 1], vec![4, 2, 0, 30]),
        // What is behind the count is not the unit's to say.
        (vec![1, 0, 0, 0, 3], vec![1, 1, 0b010]),
        (vec![2, 0, 0, 0, 9], vec![2, 2, 0xAA, 0]),
        (vec![3, 0x13, 0x88, 0, 1], vec![0x83, 2]),
        (vec![5, 0, 1, 0xFF, 0], vec![5, 0, 1, 0xFF, 0]),
        (vec![6, 0, 40, 0, 7], vec![6, 0, 40, 0, 7]),
        (vec![15, 0, 1, 0, 3, 1, 5], vec![15, 0, 1, 0, 3]),
        (vec![16, 0, 41, 0, 2, 4, 0, 8, 0, 9], vec![16, 0, 41, 0, 2]),
        (vec![22, 0, 40, 0, 0xF2, 0, 0x25], vec![22, 0, 40, 0, 0xF2, 0, 0x25]),
        (vec![23, 0, 40, 0, 3, 0, 40, 0, 1, 2, 0, 6], vec![23, 6, 0, 6, 0, 8, 0, 9]),
        (vec![7], vec![7, 0x5A]),
        (vec![8, 0, 0, 0xA5, 0x37], vec![8, 0, 0, 0xA5, 0x37]),
        (vec![11], vec![11, 0xFF, 0xFF, 1, 8]),
        (vec![12], vec![12, 8, 0, 0, 1, 8, 1, 33, 32, 0]),
        (vec![17], vec![17, 5, b't', b'i', b'd', b'e', 0xFF]),
        (vec![43, 14, 4, 0], [&[43, 14, 4, 1, 0, 0, 1, 0, 4][..], b"Tide"].concat()),
    ];
    for (pdu, expected) in &cases {
        // Any unit, not only those that are devices of ours.
        for unit in [1, 200] {
            assert_eq!(master.ask(unit, pdu).await, *expected, "{pdu:?}");
        }
    }
    // No length is known of what answers this, so that its end cannot be told on such a line.
    assert_eq!(master.ask(1, &[65, 1, 2]).await, [0xC1, 1]);
    assert_eq!(master.ask(1, &[3, 0, 0, 0, 126]).await, [0x83, 3]);
    assert_eq!(
        plant
            .seen
            .all()
            .iter()
            .filter(|(_, pdu)| pdu[0] == 65 || pdu.len() != pdu_bytes(pdu).unwrap())
            .count(),
        0
    );

    let mut expected = BTreeMap::new();
    for address in 100..112 {
        let transaction = master.send(2, &read(address, 3)).await;
        expected.insert(transaction, words(address, 3));
        // Answered at once, past those that wait.
        expected.insert(master.send(2, &[65]).await, vec![0xC1, 1]);
    }
    let mut found = BTreeMap::new();
    for _ in 0..expected.len() {
        let (transaction, _, pdu) = master.receive().await;
        found.insert(transaction, pdu);
    }
    assert_eq!(found, expected);
    plant.stop().await;
}

#[tokio::test]
async fn what_was_read_is_not_asked_for_again_whoever_read_it() {
    let plant = Plant::start(FOR_EVER, true, &[(1, RARELY)]).await;
    plant.gateway.wait_until("the poll", |gateway| !gateway.heard("devices/u1/r11").is_empty()).await;
    let (mut one, mut other) = (plant.master().await, plant.master().await);
    let polled = plant.seen.all();
    // Of our poll's block: a part of it, and all of it.
    assert_eq!(one.ask(1, &read(11, 1)).await, words(11, 1));
    assert_eq!(other.ask(1, &read(10, 2)).await, words(10, 2));
    assert_eq!(plant.seen.all(), polled);
    // Next to it: asked once, and then known together with the block.
    assert_eq!(one.ask(1, &read(12, 4)).await, words(12, 4));
    assert_eq!(other.ask(1, &read(10, 6)).await, words(10, 6));
    assert_eq!(plant.seen.all().len(), polled.len() + 1);
    // Another unit, another table and an exception are not what was read.
    for _ in 0..2 {
        assert_eq!(one.ask(1, &[3, 0x13, 0x88, 0, 1]).await, [0x83, 2]);
    }
    assert_eq!(plant.seen.count(1, &[3, 0x13, 0x88, 0, 1]), 2);
    assert_eq!(one.ask(2, &read(10, 2)).await, words(10, 2));
    assert_eq!(one.ask(1, &[4, 0, 10, 0, 1]).await, [4, 2, 0, 10]);
    assert_eq!((plant.seen.of_unit(2), plant.count(Outcome::Cached)), (1, 3));
    // A write drops what it touches, and no more.
    assert_eq!(other.ask(1, &[6, 0, 13, 0, 99]).await, [6, 0, 13, 0, 99]);
    assert_eq!(one.ask(1, &read(10, 3)).await, words(10, 3));
    assert_eq!(plant.seen.count(1, &read(10, 3)), 0);
    assert_eq!(one.ask(1, &read(12, 2)).await, [3, 4, 0, 12, 0, 99]);
    assert_eq!(plant.seen.count(1, &read(12, 2)), 1);
    plant.stop().await;
}

#[tokio::test]
async fn a_command_of_ours_drops_what_it_touches() {
    let seen = Arc::new(Seen::default());
    let (far, near, path) = pty();
    tokio::spawn(units(far, Arc::clone(&seen)));
    let mut settings = polled(1, Link::Rtu { port: 0, unit: 1 }, RARELY);
    settings.points[1].writable = true;
    settings.points[1].max = Some(9_999.0);
    let endpoint = Endpoint::Rtu(port(&path));
    let plant = Plant::over(endpoint, vec![settings], (FOR_EVER, false), seen).await;
    let mut master = plant.master().await;
    assert_eq!(master.ask(1, &read(11, 2)).await, words(11, 2));
    plant.gateway.set("devices/u1/r11/set", "77");
    plant.gateway.wait_until("written", |gateway| !gateway.heard("devices/u1/r11/result").is_empty()).await;
    assert_eq!(master.ask(1, &read(11, 1)).await, [3, 2, 0, 77]);
    assert_eq!(master.ask(1, &read(11, 2)).await, [3, 4, 0, 77, 0, 12]);
    plant.stop().await;
    drop(near);
}

#[tokio::test]
async fn who_asks_the_same_at_once_is_answered_together() {
    let plant = Plant::start(FOR_EVER, false, &[]).await;
    plant.seen.is_held.store(true, Ordering::Relaxed);
    let mut masters = Vec::new();
    for number in 0..5 {
        let mut master = plant.master().await;
        master.send(3, &read(50, 4)).await;
        masters.push(master);
        if number == 0 {
            plant.seen.until("under way", |seen| seen.of_unit(3) == 1).await;
        }
    }
    plant.seen.until("all wait", |_| plant.line.status().waiting == 5).await;
    plant.seen.is_held.store(false, Ordering::Relaxed);
    for master in &mut masters {
        assert_eq!(master.receive().await, (1, 3, words(50, 4)));
    }
    assert_eq!((plant.seen.of_unit(3), plant.count(Outcome::Joined)), (1, 4));
    plant.stop().await;
}

#[tokio::test]
async fn nobody_writes_where_writes_are_not_allowed() {
    let plant = Plant::start(ALWAYS_ASK, false, &[(1, RARELY)]).await;
    let mut master = plant.master().await;
    let writes: [&[u8]; 8] = [
        &[5, 0, 1, 0xFF, 0],
        &[6, 0, 40, 0, 7],
        &[15, 0, 1, 0, 3, 1, 5],
        &[16, 0, 41, 0, 1, 2, 0, 8],
        &[22, 0, 40, 0, 0xF2, 0, 0x25],
        &[23, 0, 40, 0, 3, 0, 40, 0, 1, 2, 0, 6],
        // To listen only.
        &[8, 0, 4, 0, 0],
        &[21, 9, 6, 0, 4, 0, 7, 0, 1, 6, 0xAF],
    ];
    for pdu in writes {
        for unit in [1, 0] {
            assert_eq!(master.ask(unit, pdu).await, [pdu[0] | 0x80, 1], "{pdu:?}");
        }
    }
    assert_eq!(master.ask(1, &read(40, 1)).await, words(40, 1));
    assert!(plant.seen.all().iter().all(|(_, pdu)| READS.contains(&pdu[0])));
    assert_eq!(plant.count(Outcome::Refused), 16);
    plant.stop().await;
}

#[tokio::test]
async fn a_broadcast_is_not_waited_for_and_drops_what_it_touches_of_all() {
    let plant = Plant::start(FOR_EVER, true, &[]).await;
    let mut master = plant.master().await;
    for unit in [1, 2] {
        assert_eq!(master.ask(unit, &read(40, 1)).await, words(40, 1));
    }
    assert_eq!(master.ask(0, &[16, 0, 40, 0, 1, 2, 0, 8]).await, [16, 0, 40, 0, 1]);
    assert_eq!(plant.seen.count(0, &[16, 0, 40, 0, 1, 2, 0, 8]), 1);
    for unit in [1, 2] {
        // The line's units share their registers here.
        assert_eq!(master.ask(unit, &read(40, 1)).await, [3, 2, 0, 8]);
    }
    assert_eq!(plant.seen.of_unit(1) + plant.seen.of_unit(2), 4);
    // Nobody can answer all at once.
    assert_eq!(master.ask(0, &read(40, 1)).await, [0x83, 11]);
    assert_eq!(plant.seen.of_unit(0), 1);
    plant.stop().await;
}

#[tokio::test]
async fn a_dead_unit_is_known_and_costs_the_others_little() {
    // Dead is a device of ours, or none of ours.
    for devices in [
        vec![(1, Duration::from_millis(20)), (DEAD, Duration::from_millis(50))],
        vec![(1, Duration::from_millis(20))],
    ] {
        let plant = Plant::start(ALWAYS_ASK, false, &devices).await;
        let (mut one, mut other) = (plant.master().await, plant.master().await);
        let began = std::time::Instant::now();
        for _ in 0..3 {
            assert_eq!(one.ask(DEAD, &read(1, 1)).await, [0x83, 11]);
        }
        let polls = plant.seen.of_unit(1);
        let (mut at_once, mut answered) = (0, 0);
        while plant.seen.of_unit(1) < polls + 60 {
            assert_eq!(one.ask(DEAD, &read(1, 1)).await, [0x83, 11]);
            assert_eq!(other.ask(2, &read(7, 1)).await, words(7, 1));
            (at_once, answered) = (plant.count(Outcome::Dead), answered + 1);
        }
        assert!(at_once > 0, "known to be dead");
        assert!(answered > 20, "{answered}: neighbours are answered");
        let asked = plant.seen.of_unit(DEAD);
        // Each costs its time-out, and all together a twentieth of the time, but for those that found out.
        let allowed = 8 + began.elapsed().as_millis() / 200 / 20;
        assert!(asked as u128 <= allowed, "{asked} requests went to the dead one, {allowed} may");
        plant.stop().await;
    }
}

#[tokio::test]
async fn polls_keep_their_half_while_masters_want_all() {
    let often = Duration::from_millis(1);
    let plant = Plant::start(ALWAYS_ASK, false, &[(1, often), (2, often)]).await;
    plant.seen.byte_micros.store(200, Ordering::Relaxed);
    let mut tasks = Vec::new();
    for number in 0..4 {
        let mut master = plant.master().await;
        tasks.push(tokio::spawn(async move {
            for address in 0.. {
                // The longest there are, each another.
                let address = 100 + number * 1_000 + address % 500;
                assert_eq!(master.ask(3, &read(address, 100)).await.len(), 202);
            }
        }));
    }
    plant.seen.until("masters are served", |seen| seen.of_unit(3) >= 5).await;
    let polls = |seen: &Seen| seen.of_unit(1) + seen.of_unit(2);
    let before = (polls(&plant.seen), plant.seen.of_unit(3));
    plant.seen.until("many requests", |seen| seen.of_unit(3) >= before.1 + 40).await;
    let (own, others) = (polls(&plant.seen) - before.0, plant.seen.of_unit(3) - before.1);
    // Each of theirs takes as long as many polls: half of the time is far more than half of the requests.
    assert!(own >= others * 2, "{own} polls, {others} of others");
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    plant.stop().await;
}

#[tokio::test]
async fn bounds_are_kept_and_said() {
    let plant = Plant::start(ALWAYS_ASK, false, &[]).await;
    plant.seen.is_held.store(true, Ordering::Relaxed);
    let mut master = plant.master().await;
    for address in 0..20 {
        master.send(3, &read(address, 1)).await;
    }
    // What finds no room is answered at once.
    for transaction in 17..=20 {
        assert_eq!(master.receive().await, (transaction, 3, vec![0x83, 6]));
    }
    plant.seen.is_held.store(false, Ordering::Relaxed);
    for transaction in 1..=16 {
        assert_eq!(master.receive().await, (transaction, 3, words(transaction - 1, 1)));
    }
    assert_eq!(plant.count(Outcome::Busy), 4);
    let mut masters = Vec::new();
    while plant.line.status().connections_refused == 0 {
        let mut another = TcpStream::connect(plant.address).await.expect("served");
        // Either it has a place, or it is closed without a word.
        another.write_all(&[0, 1, 0, 0, 0, 2, 3, 65]).await.expect("open");
        let is_in = another.read(&mut [0; 16]).await.is_ok_and(|count| count == 9);
        if is_in {
            masters.push(another);
        }
    }
    assert_eq!((masters.len() + 1, plant.line.status().connections), (32, 32));
    drop(masters);
    plant.seen.until("places are free again", |_| plant.line.status().connections == 1).await;
    plant.stop().await;
}

#[tokio::test]
async fn nothing_is_written_for_a_master_that_is_gone() {
    let plant = Plant::start(ALWAYS_ASK, true, &[]).await;
    plant.seen.is_held.store(true, Ordering::Relaxed);
    let (mut gone, mut stays) = (plant.master().await, plant.master().await);
    stays.send(3, &read(1, 1)).await;
    plant.seen.until("under way", |seen| seen.of_unit(3) == 1).await;
    gone.send(3, &[6, 0, 40, 0, 7]).await;
    plant.seen.until("it waits", |_| plant.line.status().waiting == 2).await;
    drop(gone);
    plant.seen.until("it is gone", |_| plant.line.status().waiting == 1).await;
    plant.seen.is_held.store(false, Ordering::Relaxed);
    assert_eq!(stays.receive().await, (1, 3, words(1, 1)));
    assert_eq!(stays.ask(3, &read(40, 1)).await, words(40, 1));
    assert_eq!(plant.seen.count(3, &[6, 0, 40, 0, 7]), 0);
    plant.stop().await;
}

#[tokio::test]
async fn a_line_that_is_not_there_is_said_so_until_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("line");
    let seen = Arc::new(Seen::default());
    let plant = Plant::over(Endpoint::Rtu(port(&path)), Vec::new(), (ALWAYS_ASK, false), seen).await;
    let mut master = plant.master().await;
    for _ in 0..50 {
        assert_eq!(master.ask(3, &read(1, 1)).await, [0x83, 10]);
    }
    let (far, near, real) = pty();
    tokio::spawn(units(far, Arc::clone(&plant.seen)));
    std::os::unix::fs::symlink(real, &path).expect("a link");
    let back = async {
        while master.ask(3, &read(1, 1)).await != words(1, 1) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, back).await.expect("the line is found");
    plant.stop().await;
    drop(near);
}

/// A command waits for one request of others at most, however many they have.
#[tokio::test]
async fn a_command_goes_before_what_waits() {
    let seen = Arc::new(Seen::default());
    let (far, near, path) = pty();
    tokio::spawn(units(far, Arc::clone(&seen)));
    let mut settings = polled(1, Link::Rtu { port: 0, unit: 1 }, RARELY);
    settings.points[1].writable = true;
    settings.points[1].max = Some(9_999.0);
    settings.timeout = PATIENCE;
    let plant = Plant::over(Endpoint::Rtu(port(&path)), vec![settings], (ALWAYS_ASK, false), seen).await;
    plant.gateway.wait_until("the poll", |gateway| !gateway.heard("devices/u1/r11").is_empty()).await;
    plant.seen.is_held.store(true, Ordering::Relaxed);
    let mut master = plant.master().await;
    for address in 0..10 {
        master.send(3, &read(address, 1)).await;
    }
    plant.seen.until("all wait", |_| plant.line.status().waiting == 10).await;
    plant.gateway.set("devices/u1/r11/set", "77");
    plant.seen.is_held.store(false, Ordering::Relaxed);
    for _ in 0..10 {
        master.receive().await;
    }
    let all = plant.seen.all();
    let first = all.iter().position(|(unit, _)| *unit == 3).expect("asked");
    let steps: Vec<u8> = all[first + 1..].iter().map(|(unit, _)| *unit).take(2).collect();
    assert_eq!(steps, [1, 1], "the write and its read-back: {all:?}");
    assert_eq!(plant.gateway.heard("devices/u1/r11/result"), [r#"{"value":77,"ok":true}"#]);
    plant.stop().await;
    drop(near);
}
