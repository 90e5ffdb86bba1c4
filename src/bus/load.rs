//! What a configuration asks of a line: the requests, how long each is on the wire, and whether the line has the time.
//! Pure; opens nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::base::time::Duration;
use crate::bus::Endpoint;
use crate::bus::exchange::{request_frame_bytes, response_frame_bytes};
use crate::bus::rtu::Timing;
use crate::config::model::Device;
use crate::device::LineSettings;
use crate::device::plan::{self, Block, Limits};

/// One line's.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    /// Device by device, the quickest rhythm first.
    pub requests: Vec<Planned>,
    /// The share of its time that polls take of a serial line, without what the units take to answer: above 1 the line
    /// cannot carry them. None: the speed is not known.
    pub share: Option<f64>,
}

/// A request that is made again and again.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    pub device: Arc<str>,
    pub unit: u8,
    pub every: Duration,
    pub block: Block,
    pub points: Vec<Arc<str>>,
    /// Of the request and of its answer, on a serial line.
    pub bytes: (usize, usize),
    /// With the silence before it. None: the speed is not known.
    pub takes: Option<Duration>,
}

impl Load {
    pub fn of(endpoint: &Endpoint, settings: &LineSettings) -> Self {
        let timing = match endpoint {
            Endpoint::Rtu(port) => Some(Timing::new(port)),
            Endpoint::Tcp { .. } => None,
        };
        let devices = || settings.devices.iter().map(|(_, device)| device);
        let requests = devices().flat_map(|device| {
            let rhythms = rhythms(device).into_iter();
            rhythms.flat_map(move |every| {
                let of_rhythm =
                    |index: &usize| device.points.get(*index).is_some_and(|point| point.poll == every);
                let due: Vec<usize> = (0..device.points.len()).filter(of_rhythm).collect();
                blocks(device, &due).into_iter().map(move |block| planned(device, every, block, timing))
            })
        });
        let requests = requests.collect();
        let share = timing.map(|timing| devices().map(|device| share(device, timing)).sum());
        Self { requests, share }
    }

    pub fn fits(&self) -> bool {
        self.share.is_none_or(|share| share <= 1.0)
    }
}

fn rhythms(device: &Device) -> BTreeSet<Duration> {
    device.points.iter().map(|point| point.poll).collect()
}

fn blocks(device: &Device, due: &[usize]) -> Vec<Block> {
    let limits = Limits { gap_max: device.max_gap, registers_max: device.max_registers };
    plan::blocks(&device.points, due, limits, |_| false)
}

fn planned(device: &Device, every: Duration, block: Block, timing: Option<Timing>) -> Planned {
    let kind = block.request_kind();
    let name = |index: &usize| device.points.get(*index).map(|point| Arc::clone(&point.name));
    Planned {
        device: Arc::clone(&device.name),
        unit: device.link.unit(),
        every,
        points: block.points.iter().filter_map(name).collect(),
        bytes: (request_frame_bytes(&kind), response_frame_bytes(&kind)),
        takes: timing.map(|timing| takes(&block, timing)),
        block,
    }
}

fn takes(block: &Block, timing: Timing) -> Duration {
    let kind = block.request_kind();
    timing.silence + timing.of_bytes(request_frame_bytes(&kind) + response_frame_bytes(&kind))
}

/// Slower points are read along with quicker ones where both are due: each rhythm costs only what it adds to those
/// that are quicker. That is the least it can be.
fn share(device: &Device, timing: Timing) -> f64 {
    let mut before = Duration::ZERO;
    let mut share = 0.0;
    for every in rhythms(device) {
        let up_to = |index: &usize| device.points.get(*index).is_some_and(|point| point.poll <= every);
        let due: Vec<usize> = (0..device.points.len()).filter(up_to).collect();
        let all: Duration = blocks(device, &due).iter().map(|block| takes(block, timing)).sum();
        share += all.saturating_sub(before).as_secs_f64() / every.as_secs_f64().max(f64::MIN_POSITIVE);
        before = all.max(before);
    }
    share
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

    /// 10 bits a character: 8 bytes out, 5 and 2 a register back, and 3.5 characters of silence, at least 4 ms.
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
        assert_eq!(micros, 17 * 1_000_000 / 960 + 4_000);
        // Together they are one read of six registers: the slower one adds four registers.
        let expected = 0.021_708_333 + 8.0 / 960.0 / 10.0;
        assert!((load.share.expect("a speed") - expected).abs() < 1e-6, "{:?}", load.share);
        assert!(load.fits());
    }

    #[test]
    fn what_a_line_cannot_carry_does_not_fit() {
        let points: Vec<String> =
            (0..40).map(|index| format!("p{index}: {{ holding: {}, poll: 100ms }}", index * 20)).collect();
        assert!(!load(&points.join(", "), 9600).1.fits());
        assert!(load(&points.join(", "), 1_000_000).1.share.is_some_and(|share| share > 0.1));
    }
}
