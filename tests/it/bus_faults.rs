//! Bad lines, one fault at a time, on every transport: what comes in is right or is not believed, and the line goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidegate::base::time::Duration;
use tidegate::bus::Endpoint;
use tidegate::config::model::{Device, Link};
use tidegate::device::status::State;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::sleep;

use crate::bus::{Fault, Gateway, crc, faulty, pdu, port, pty, rtu_frame, shuffled};

const TIMEOUT: Duration = Duration::from_millis(60);

/// What stands on the line beside the answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    /// The request itself, in front of its answer.
    Echo,
    /// Bytes that are no frame, before the answer and behind it.
    Noise,
    /// A whole answer of another unit, before the right one.
    Foreign,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Framing {
    Rtu,
    Ascii,
}

impl Framing {
    /// An RTU frame as it stands on the line.
    fn on_wire(self, rtu: &[u8]) -> Vec<u8> {
        if self == Self::Rtu {
            return rtu.to_vec();
        }
        let (body, check) = rtu.split_at(rtu.len() - 2);
        let sum = body.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg();
        // A frame whose checksum was broken has a broken one here too.
        let lrc = if check == crc(body) { sum } else { sum ^ 1 };
        let mut frame = b":".to_vec();
        for byte in body.iter().chain([&lrc]) {
            frame.extend(format!("{byte:02X}").into_bytes());
        }
        frame.extend(b"\r\n");
        frame
    }

    /// The next request, as RTU. None: the line is gone.
    async fn read_request(self, line: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
        let body = match self {
            Self::Rtu => {
                let mut frame = [0; 8];
                line.read_exact(&mut frame).await.ok()?;
                assert_eq!(frame[6..], crc(&frame[..6]), "the gateway's own frames are whole");
                return Some(frame.to_vec());
            }
            Self::Ascii => {
                let mut frame = [0; 17];
                line.read_exact(&mut frame).await.ok()?;
                let text = std::str::from_utf8(&frame).expect("ASCII");
                assert!(text.starts_with(':') && text.ends_with("\r\n"), "{text:?}");
                let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("digits");
                let bytes: Vec<u8> = (1..15).step_by(2).map(byte).collect();
                assert_eq!(bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0, "the checksum");
                bytes[..6].to_vec()
            }
        };
        let check = crc(&body);
        Some([body, check.to_vec()].concat())
    }
}

/// Units on a line; `fault` is asked for each request by its number.
async fn units(
    mut line: impl AsyncRead + AsyncWrite + Unpin,
    framing: Framing,
    beside: Beside,
    fault: impl Fn(usize) -> Fault,
) {
    let mut held = std::collections::BTreeMap::new();
    for number in 0.. {
        let Some(request) = framing.read_request(&mut line).await else { return };
        let [unit, function, a, b, c, d, ..] = request[..] else { panic!("a request") };
        let fault = fault(number);
        let read = if function == 6 { [3, a, b, 0, 1] } else { [function, a, b, c, d] };
        let mut frame = rtu_frame(unit, read, fault);
        if function == 6 {
            held.insert((a, b), (c, d));
            frame.clone_from(&request);
        } else if let (Some((high, low)), 1) = (held.get(&(a, b)), d) {
            let body = [unit, function, 2, *high, *low];
            frame = [&body[..], &crc(&body)].concat();
        }
        let wire = framing.on_wire(&frame);
        let before = match beside {
            Beside::Nothing => Vec::new(),
            Beside::Echo => framing.on_wire(&request),
            Beside::Noise => vec![0xFF, unit, function, 0x3A, 0x30, 0],
            Beside::Foreign => framing.on_wire(&rtu_frame(unit + 1, read, Fault::None)),
        };
        let after: &[u8] = if beside == Beside::Noise { &[0, 0xFE, unit] } else { &[] };
        let parts = [&before[..], &wire, after].concat();
        let written = match fault {
            Fault::Silent | Fault::Close => Ok(()),
            Fault::Late(millis) => {
                sleep(Duration::from_millis(millis)).await;
                line.write_all(&parts).await
            }
            Fault::Garbage => line.write_all(&[0xFF; 40]).await,
            Fault::Half => {
                let _ = line.write_all(&wire[..4]).await;
                sleep(Duration::from_millis(90)).await;
                line.write_all(&wire[4..]).await
            }
            Fault::Twice => line.write_all(&[&wire[..], &wire].concat()).await,
            Fault::StrayByte => line.write_all(&[&[0], &wire[..]].concat()).await,
            _ => line.write_all(&parts).await,
        };
        if written.is_err() {
            return;
        }
    }
}

const FAULTS: [Fault; 11] = [
    Fault::Late(80),
    Fault::Late(110),
    Fault::Silent,
    Fault::Garbage,
    Fault::Half,
    Fault::WrongUnit,
    Fault::WrongFunction,
    Fault::TooLong,
    Fault::WrongCheck,
    Fault::StrayByte,
    Fault::Exception,
];

/// A line of one kind with units on it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rtu,
    Ascii,
    RtuOverTcp,
}

const KINDS: [Kind; 3] = [Kind::Rtu, Kind::Ascii, Kind::RtuOverTcp];

/// What must live as long as a line does.
type Held = Vec<tokio_serial::SerialStream>;

async fn start(
    kind: Kind,
    beside: Beside,
    fault: impl Fn(usize) -> Fault + Clone + Send + 'static,
    tune: impl Fn(&mut Device),
) -> (Gateway, Held) {
    let settings = |link: &dyn Fn(u8) -> Link| {
        let tuned = |unit| {
            let mut settings = faulty(unit, link(unit), TIMEOUT);
            tune(&mut settings);
            settings
        };
        vec![tuned(1), tuned(3)]
    };
    if kind == Kind::RtuOverTcp {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address: Arc<str> = listener.local_addr().expect("bound").to_string().into();
        tokio::spawn(async move {
            // One connection, and the next when it ends: as converters have it.
            while let Ok((stream, _)) = listener.accept().await {
                units(stream, Framing::Rtu, beside, fault.clone()).await;
            }
        });
        let devices = settings(&|unit| Link::RtuOverTcp { address: Arc::clone(&address), unit });
        return (Gateway::start(Endpoint::RtuOverTcp { address: Arc::clone(&address) }, devices), Vec::new());
    }
    let (far, near, path) = pty();
    let (framing, endpoint) = match kind {
        Kind::Ascii => (Framing::Ascii, Endpoint::Ascii(port(&path))),
        Kind::Rtu | Kind::RtuOverTcp => (Framing::Rtu, Endpoint::Rtu(port(&path))),
    };
    tokio::spawn(units(far, framing, beside, fault));
    let devices = settings(&|unit| match kind {
        Kind::Ascii => Link::Ascii { port: 0, unit },
        Kind::Rtu | Kind::RtuOverTcp => Link::Rtu { port: 0, unit },
    });
    (Gateway::start(endpoint, devices), vec![near])
}

fn errors(gateway: &Gateway) -> u64 {
    gateway.status.borrow().iter().map(|device| device.errors).sum()
}

#[tokio::test]
async fn no_fault_shows_a_wrong_value_on_any_transport() {
    for kind in KINDS {
        let (gateway, _held) = start(kind, Beside::Nothing, shuffled(&FAULTS, 9), |_| {}).await;
        gateway.wait_until("enough good readings", |gateway| gateway.good_and_right() >= 60).await;
        gateway.stop().await;
    }
}

#[tokio::test]
async fn noise_echoes_and_other_units_cost_nothing() {
    for kind in KINDS {
        for beside in [Beside::Noise, Beside::Echo, Beside::Foreign] {
            let (gateway, _held) = start(
                kind,
                beside,
                |_| Fault::None,
                |settings| {
                    settings.retries = 0;
                    // Nothing here is to be late on a machine that is busy.
                    settings.timeout = Duration::from_secs(5);
                    settings.points[0].writable = true;
                },
            )
            .await;
            gateway.wait_until("good readings", |gateway| gateway.good_and_right() >= 30).await;
            assert_eq!(errors(&gateway), 0);
            // Its own address, so that every reading stays right.
            gateway.set("devices/u1/r30/set", "1030");
            gateway
                .wait_until("a result", |gateway| !gateway.heard("devices/u1/r30/result").is_empty())
                .await;
            assert_eq!(gateway.heard("devices/u1/r30/result"), [r#"{"value":1030,"ok":true}"#]);
            gateway.stop().await;
        }
    }
}

#[tokio::test]
async fn a_unit_that_is_slow_now_and_then_is_read_all_the_same() {
    for kind in KINDS {
        let slow = |number: usize| if number % 25 == 24 { Fault::Late(140) } else { Fault::None };
        let (gateway, _held) = start(kind, Beside::Nothing, slow, |_| {}).await;
        gateway.wait_until("good readings", |gateway| gateway.good_and_right() >= 150).await;
        assert!(gateway.heard("devices/u1/status").iter().all(|status| status == "online"));
        gateway.stop().await;
    }
}

fn mbap(request: [u8; 12]) -> Vec<u8> {
    let [t0, t1, _, _, _, _, unit, function, a, b, c, d] = request;
    let pdu = pdu(unit, [function, a, b, c, d], Fault::None);
    let length = u8::try_from(pdu.len() + 1).expect("short");
    [&[t0, t1, 0, 0, 0, length, unit], &pdu[..]].concat()
}

fn over_tcp(address: &Arc<str>, timeout: Duration) -> (Endpoint, Vec<Device>) {
    let of = |unit| faulty(unit, Link::Tcp { address: Arc::clone(address), unit }, timeout);
    (Endpoint::Tcp { address: Arc::clone(address) }, vec![of(1), of(3)])
}

#[tokio::test]
async fn a_gateway_of_one_connection_that_answers_late_and_out_of_order_keeps_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address: Arc<str> = listener.local_addr().expect("bound").to_string().into();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            let (mut request, mut owed) = ([0; 12], Vec::new());
            for number in 0_usize.. {
                if stream.read_exact(&mut request).await.is_err() {
                    break;
                }
                // Each fifth is left for later, and then comes behind the answer to the one after it.
                if number % 5 == 4 {
                    owed = mbap(request);
                    continue;
                }
                let answer = [mbap(request), std::mem::take(&mut owed)].concat();
                if stream.write_all(&answer).await.is_err() {
                    break;
                }
            }
        }
    });
    let (endpoint, devices) = over_tcp(&address, TIMEOUT);
    let gateway = Gateway::start(endpoint, devices);
    gateway.wait_until("good readings", |gateway| gateway.good_and_right() >= 100).await;
    gateway.stop().await;
    assert_eq!(accepted.load(Ordering::Relaxed), 1, "the one connection is kept");
}

#[tokio::test]
async fn a_connection_that_hangs_half_open_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address: Arc<str> = listener.local_addr().expect("bound").to_string().into();
    tokio::spawn(async move {
        let mut hanging = Vec::new();
        for connection in 0_usize.. {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            tokio::spawn({
                let (mut request, mut answered) = ([0; 12], 0);
                let (held, never) = tokio::sync::oneshot::channel::<()>();
                hanging.push(held);
                async move {
                    while stream.read_exact(&mut request).await.is_ok() {
                        // The first connections die after some answers, and nobody says so.
                        if connection < 3 && answered == 5 {
                            let _ = never.await;
                            return;
                        }
                        answered += 1;
                        let _ = stream.write_all(&mbap(request)).await;
                    }
                }
            });
        }
    });
    let (endpoint, devices) = over_tcp(&address, TIMEOUT);
    let gateway = Gateway::start(endpoint, devices);
    gateway.wait_until("good readings", |gateway| gateway.good_and_right() >= 60).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_dead_unit_behind_a_gateway_does_not_cost_the_connection_of_the_others() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address: Arc<str> = listener.local_addr().expect("bound").to_string().into();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 12];
            while stream.read_exact(&mut request).await.is_ok() {
                // Unit 3 does not answer, and the gateway says nothing of it.
                if request[6] == 1 && stream.write_all(&mbap(request)).await.is_err() {
                    break;
                }
            }
        }
    });
    let (endpoint, mut devices) = over_tcp(&address, TIMEOUT);
    devices[1].offline_after = 1;
    let gateway = Gateway::start(endpoint, devices);
    let is_dead = |gateway: &Gateway| gateway.heard("devices/u3/status") == ["offline"];
    gateway.wait_until("the dead one is known", is_dead).await;
    let before = gateway.good_and_right();
    gateway.wait_until("the other goes on", |gateway| gateway.good_and_right() >= before + 100).await;
    assert_eq!(gateway.state(), Some(State::Online));
    gateway.stop().await;
}
