//! What a configuration asks of a line: the requests, how long each is on the wire, and whether the line has the time.
//! Pure; opens nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::base::time::Duration;
use crate::bus::Endpoint;
use crate::bus::answer::Asked;
use crate::bus::exchange::request_bytes;
use crate::bus::framing::Framing;
use crate::bus::timing::{self, Timing};
use crate::config::model::Device;
use crate::config::port::Port;
use crate::device::LineSettings;
use crate::device::plan::{self, Block, Limits, Price};

/// What a person may set instead.
const BAUD_RATES: [u32; 9] = [1_200, 2_400, 4_800, 9_600, 19_200, 38_400, 57_600, 115_200, 230_400];

/// One line's.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    /// Device by device, the quickest rhythm first.
    pub requests: Vec<Planned>,
    /// The share of its time that polls take of a serial line, without what the units take to answer: above 1 the line
    /// cannot carry them. None: the speed is not known.
    pub share: Option<f64>,
    /// Units say at run time where some of the points lie.
    pub is_assumed: bool,
    /// Where they do not fit: the lowest of the usual speeds at which they would.
    pub baud_rate_fitting: Option<u32>,
}

/// A request that is made again and again.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    pub device: Arc<str>,
    pub unit: u8,
    pub every: Duration,
    pub block: Block,
    pub points: Vec<Arc<str>>,
    /// Of the request and of its answer, in the line's framing.
    pub bytes: (usize, usize),
    /// With the silence before it. None: the speed is not known.
    pub takes: Option<Duration>,
}

impl Load {
    pub fn of(endpoint: &Endpoint, settings: &LineSettings) -> Self {
        let line = Line::of(endpoint);
        let devices = || settings.devices.iter().map(|(_, device)| &**device);
        let requests = devices().flat_map(|device| {
            let rhythms = rhythms(device).into_iter();
            rhythms.flat_map(move |every| {
                let of_rhythm =
                    |index: &usize| device.points.get(*index).is_some_and(|point| point.poll == every);
                let due: Vec<usize> = (0..device.points.len()).filter(of_rhythm).collect();
                line.blocks(device, &due).into_iter().map(move |block| line.planned(device, every, block))
            })
        });
        let requests = requests.collect();
        let share = share_of(endpoint, settings);
        let baud_rate_fitting = share.filter(|share| *share > 1.0).and_then(|_| fitting(endpoint, settings));
        Self { requests, share, is_assumed: devices().any(Device::has_sunspec), baud_rate_fitting }
    }

    pub fn fits(&self) -> bool {
        self.share.is_none_or(|share| share <= 1.0)
    }
}

/// None: the speed is not known.
fn share_of(endpoint: &Endpoint, settings: &LineSettings) -> Option<f64> {
    let line = Line::of(endpoint);
    line.timing.map(|_| settings.devices.iter().fold(0.0, |sum, (_, device)| sum + line.share(device)))
}

/// The silence between frames has its least length from 19,200 baud on: there may be no speed that helps.
fn fitting(endpoint: &Endpoint, settings: &LineSettings) -> Option<u32> {
    let own = endpoint.port()?.baud_rate;
    BAUD_RATES.into_iter().filter(|baud_rate| *baud_rate > own).find(|baud_rate| {
        let quicker = |port: &Port| Port { baud_rate: *baud_rate, ..port.clone() };
        let endpoint = match endpoint {
            Endpoint::Rtu(port) => Endpoint::Rtu(quicker(port)),
            Endpoint::Ascii(port) => Endpoint::Ascii(quicker(port)),
            Endpoint::Tcp { .. } | Endpoint::RtuOverTcp { .. } => return false,
        };
        share_of(&endpoint, settings).is_some_and(|share| share <= 1.0)
    })
}

fn rhythms(device: &Device) -> BTreeSet<Duration> {
    device.points.iter().map(|point| point.poll).collect()
}

/// How a line speaks.
#[derive(Clone, Copy)]
struct Line {
    framing: Framing,
    /// None: the speed is not known.
    timing: Option<Timing>,
    price: Price,
}

impl Line {
    fn of(endpoint: &Endpoint) -> Self {
        let framing = endpoint.framing();
        let timing = endpoint.port().map(|port| Timing::of_port(port, framing));
        Self { framing, timing, price: timing::price(endpoint) }
    }

    /// As a poller plans them that knows nothing of the unit yet.
    fn blocks(self, device: &Device, due: &[usize]) -> Vec<Block> {
        plan::blocks(&device.points, due, &Limits { price: self.price, ..Limits::of(device) })
    }

    fn planned(self, device: &Device, every: Duration, block: Block) -> Planned {
        let name = |index: &usize| device.points.get(*index).map(|point| Arc::clone(&point.name));
        Planned {
            device: Arc::clone(&device.name),
            unit: device.link.unit(),
            every,
            points: block.points.iter().filter_map(name).collect(),
            bytes: self.bytes(&block),
            takes: self.takes(&block),
            block,
        }
    }

    fn bytes(self, block: &Block) -> (usize, usize) {
        let kind = block.request_kind();
        let bytes = [request_bytes(&kind), Asked::new(0, &kind).answer_bytes()];
        let [request, answer] = bytes.map(|bytes| self.framing.wire_bytes(bytes));
        (request, answer)
    }

    fn takes(self, block: &Block) -> Option<Duration> {
        let (request, answer) = self.bytes(block);
        self.timing.map(|timing| timing.silence + timing.of_bytes(request + answer))
    }

    /// Slower points are read along with quicker ones where both are due: each rhythm costs only what it adds to those
    /// that are quicker. That is the least it can be.
    fn share(self, device: &Device) -> f64 {
        let mut before = Duration::ZERO;
        let mut share = 0.0;
        for every in rhythms(device) {
            let up_to = |index: &usize| device.points.get(*index).is_some_and(|point| point.poll <= every);
            let due: Vec<usize> = (0..device.points.len()).filter(up_to).collect();
            let all: Duration = self.blocks(device, &due).iter().filter_map(|block| self.takes(block)).sum();
            share += all.saturating_sub(before).as_secs_f64() / every.as_secs_f64().max(f64::MIN_POSITIVE);
            before = all.max(before);
        }
        share
    }
}

#[cfg(test)]
mod tests {
    use super::Load;
    use crate::bus::{Endpoint, lines};
    use crate::config::expand::ProcessEnvironment;
    use crate::config::load::parse;

    fn load(points: &str, baud_rate: u32) -> (Endpoint, Load) {
        let text = format!(
            "gateway: {{ id: g }}\nports: {{ p: {{ path: /dev/p, baud_rate: {baud_rate} }} }}\ndevices:\n  \
             m: {{ modbus: {{ port: p, unit: 1 }}, poll: 1s, points: {{ {points} }} }}\n"
        );
        let config =
            parse("f", &text, std::path::Path::new(""), &ProcessEnvironment).expect("a configuration");
        let (endpoint, settings) = lines(&config).remove(0);
        let load = Load::of(&endpoint, &settings);
        (endpoint, load)
    }

    /// 10 bits a character: 8 bytes out, 5 and 2 a register back, and 3.5 characters of silence.
    #[test]
    fn a_request_takes_its_characters_and_its_silence() {
        let (_, load) = load("a: { input: 0, type: f32 }, b: { input: 4, type: f32, poll: 10s }", 9600);
        let told: Vec<_> = load
            .requests
            .iter()
            .map(|planned| (planned.every.as_secs(), planned.block.count, planned.bytes))
            .collect();
        assert_eq!(told, [(1, 2, (8, 9)), (10, 2, (8, 9))]);
        let micros = load.requests[0].takes.expect("a speed").as_micros();
        assert_eq!(micros, 17_708 + 3_646);
        // Together they are one read of six registers: the slower one adds four registers.
        let expected = 0.021_354_153 + 8.0 / 960.0 / 10.0;
        assert!((load.share.expect("a speed") - expected).abs() < 1e-6, "{:?}", load.share);
        assert!(load.fits());
    }

    #[test]
    fn what_a_line_cannot_carry_does_not_fit() {
        let points: Vec<String> =
            (0..40).map(|index| format!("p{index}: {{ holding: {}, poll: 100ms }}", index * 20)).collect();
        let all = |baud_rate| load(&points.join(", "), baud_rate).1;
        let rate = all(9_600).baud_rate_fitting.expect("a speed");
        assert!(all(rate).fits() && !all(9_600).fits() && !all(rate / 2).fits(), "{rate}");
        assert_eq!(all(rate).baud_rate_fitting, None, "nothing is to be set");
        // 1.75 ms of silence a read at any speed, and reads that cannot be one.
        let apart: Vec<String> =
            (0..10).map(|index| format!("p{index}: {{ holding: {}, poll: 10ms }}", index * 1_000)).collect();
        let never = load(&apart.join(", "), 9_600).1;
        assert!(!never.fits() && never.baud_rate_fitting.is_none());
        assert!(load(&points.join(", "), 1_000_000).1.share.is_some_and(|share| share > 0.1));
    }
}
