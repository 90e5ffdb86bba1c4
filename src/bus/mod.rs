//! The hand of the devices: one task a line that drives a Poller through tokio-modbus. Decides nothing.

pub mod desk;
pub mod door;
mod exchange;
pub mod load;
mod rtu;
mod seat;
pub mod simulator;
mod tap;
mod tcp;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::base::time::{Clock, Duration, Now, Timestamp};
use crate::bus::desk::Desk;
use crate::bus::door::Door;
use crate::bus::rtu::RtuLine;
use crate::bus::tcp::TcpLine;
use crate::config::model::{Config, Link, Port};
use crate::device::command::Order;
use crate::device::effect::{Effects, Next};
use crate::device::request::{Reply, Request};
use crate::device::status::{DeviceStatus, State};
use crate::device::{LineSettings, Poller};
use crate::observe::frames::{Frames, Protocol};

/// A busy line tells of itself no more often.
const STATUS_INTERVAL: Duration = Duration::from_millis(200);

/// Where a line leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// `host:port`
    Tcp {
        address: Arc<str>,
    },
    Rtu(Port),
}

/// The port's name, or the address.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp { address } => address,
            Self::Rtu(port) => &port.name,
        })
    }
}

/// What a line is connected to within the gateway.
pub struct Ends {
    pub door: Arc<dyn Door>,
    pub desk: Arc<Desk>,
    pub frames: Arc<Frames>,
    pub status: watch::Sender<Vec<DeviceStatus>>,
    pub clock: Clock,
    pub cancel: CancellationToken,
}

/// The lines of a configuration: devices on one port, or at one TCP address, share one.
pub fn lines(config: &Config) -> Vec<(Endpoint, LineSettings)> {
    let mut by_address = BTreeMap::new();
    let mut by_port = BTreeMap::new();
    for (index, device) in (0..).zip(&config.devices) {
        let devices: &mut Vec<_> = match &device.link {
            Link::Tcp { address, .. } => by_address.entry(Arc::clone(address)).or_default(),
            Link::Rtu { port, .. } => by_port.entry(*port).or_default(),
        };
        devices.push((index, device.clone()));
    }
    let settings = |devices| LineSettings { gateway: Arc::clone(&config.gateway.id), devices };
    let ports = by_port.into_iter().filter_map(|(port, devices)| {
        Some((Endpoint::Rtu(config.ports.get(port)?.clone()), settings(devices)))
    });
    let addresses =
        by_address.into_iter().map(|(address, devices)| (Endpoint::Tcp { address }, settings(devices)));
    ports.chain(addresses).collect()
}

/// Drives the line until it is cancelled. A port or host that is not there is tried again as the poller says.
pub async fn run(endpoint: Endpoint, poller: Poller, ends: Ends) {
    let wire = Wire::new(&endpoint, &ends.frames);
    let states = vec![State::Unknown; poller.status().len()];
    let line = Line {
        poller,
        wire,
        ends,
        orders: Vec::new(),
        out: Effects::default(),
        states,
        told: Instant::now(),
    };
    line.run().await;
}

/// One end of a line, opened by the first request.
pub(crate) enum Wire {
    Tcp(TcpLine),
    Rtu(Box<RtuLine>),
}

impl Wire {
    pub(crate) fn new(endpoint: &Endpoint, frames: &Arc<Frames>) -> Self {
        let recorder = |protocol| frames.recorder(&endpoint.to_string(), protocol);
        match endpoint {
            Endpoint::Tcp { address } => {
                Self::Tcp(TcpLine::new(Arc::clone(address), recorder(Protocol::ModbusTcp)))
            }
            Endpoint::Rtu(port) => Self::Rtu(Box::new(RtuLine::new(port, recorder(Protocol::ModbusRtu)))),
        }
    }

    pub(crate) async fn call(&mut self, request: &Request) -> Reply {
        match self {
            Self::Tcp(line) => line.call(request).await,
            Self::Rtu(line) => line.call(request).await,
        }
    }

    /// When the last answer came.
    fn answered_at(&self, now: Now) -> Now {
        let held_back = match self {
            Self::Tcp(_) => Duration::ZERO,
            Self::Rtu(line) => line.held_back(),
        };
        let millis = i64::try_from(held_back.as_millis()).unwrap_or(0);
        let wall = Timestamp::from_millis(now.wall.as_millis().saturating_sub(millis));
        Now { instant: now.instant - held_back, wall }
    }
}

struct Line {
    poller: Poller,
    wire: Wire,
    ends: Ends,
    /// Reused.
    orders: Vec<Order>,
    out: Effects,
    /// As the log was told.
    states: Vec<State>,
    /// When the status was told last.
    told: Instant,
}

impl Line {
    async fn run(mut self) {
        let cancel = self.ends.cancel.clone();
        // Dropping the step on its way is safe: nothing is asked afterwards.
        let _ = cancel.run_until_cancelled(self.run_steps()).await;
        self.poller.handle_shutdown(self.ends.clock.now(), &mut self.out);
        self.flush();
        self.tell_status();
    }

    async fn run_steps(&mut self) {
        let (bell, desk_bell) = (self.ends.door.bell(), self.ends.desk.bell());
        self.ends.door.started();
        loop {
            self.take_orders();
            // One between two polls.
            if let Some(asked) = self.ends.desk.take() {
                let reply = self.wire.call(&asked.request).await;
                asked.answer(reply);
            }
            let next = self.poller.next_request(self.ends.clock.now(), &mut self.out);
            self.flush();
            match next {
                Next::Request(request) => {
                    let reply = self.wire.call(&request).await;
                    let answered = self.wire.answered_at(self.ends.clock.now());
                    if let Err(error) = &reply {
                        debug!(unit = request.unit, request = ?request.kind, %error, "no answer");
                    }
                    self.poller.handle_reply(request.id, reply, answered, &mut self.out);
                    self.flush();
                    if self.out.changed && self.told.elapsed() >= STATUS_INTERVAL {
                        self.tell_status();
                    }
                }
                Next::Wait(until) => {
                    if self.out.changed {
                        self.tell_status();
                    }
                    let until = Instant::from_std(self.ends.clock.to_std(until));
                    tokio::select! {
                        () = bell.notified() => {}
                        () = desk_bell.notified() => {}
                        () = sleep_until(until) => {}
                    }
                }
            }
        }
    }

    fn take_orders(&mut self) {
        self.ends.door.take_orders(&mut self.orders);
        for order in self.orders.drain(..) {
            self.poller.handle_order(&order, self.ends.clock.now(), &mut self.out);
        }
        self.flush();
    }

    fn flush(&mut self) {
        let Effects { publishes, done, .. } = &mut self.out;
        if !publishes.is_empty() || !done.is_empty() {
            self.ends.door.report(std::mem::take(publishes), std::mem::take(done));
        }
    }

    fn tell_status(&mut self) {
        self.out.changed = false;
        self.told = Instant::now();
        let status = self.poller.status();
        for (device, known) in status.iter().zip(&mut self.states) {
            if device.state != *known {
                *known = device.state;
                // What a line that stops knows of its devices is no news.
                if device.state == State::Unknown {
                    continue;
                }
                let failure = device.last_failure.as_ref().filter(|_| device.state == State::Offline);
                let failure = failure.map(ToString::to_string);
                info!(device = &*device.name, state = device.state.as_str(), failure, "device state");
            }
        }
        self.ends.status.send_replace(status);
    }
}
