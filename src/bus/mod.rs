//! The hand of the devices: one task a line that drives a Poller through tokio-modbus, or an Instrument. Decides
//! nothing.

mod answer;
pub mod desk;
pub mod door;
mod exchange;
mod framing;
pub mod instrument;
pub mod load;
pub mod memory;
mod overrun;
mod owed;
pub mod played;
mod port;
pub mod roster;
mod seat;
pub mod share;
mod sieve;
pub mod simulator;
mod teller;
mod timing;
pub(crate) mod wire;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::base::time::{Clock, Now};
use crate::bus::desk::Desk;
use crate::bus::door::Door;
use crate::bus::framing::Framing;
use crate::bus::memory::Memory;
use crate::bus::overrun::Overrun;
use crate::bus::roster::Roster;
use crate::bus::share::SharedLine;
use crate::bus::teller::Teller;
use crate::bus::wire::Wire;
use crate::config::model::{Config, Link};
use crate::config::port::{DataBits, Port};
use crate::device::command::Order;
use crate::device::effect::{Effects, Next};
use crate::device::plan::Price;
use crate::device::request::{Reply, Request};
use crate::device::status::DeviceStatus;
use crate::device::{LineSettings, Poller};
use crate::observe::frames::Frames;

/// Where a line leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// `host:port`
    Tcp {
        address: Arc<str>,
    },
    /// RTU frames: `host:port`
    RtuOverTcp {
        address: Arc<str>,
    },
    Rtu(Port),
    Ascii(Port),
}

impl Endpoint {
    pub fn port(&self) -> Option<&Port> {
        match self {
            Self::Rtu(port) | Self::Ascii(port) => Some(port),
            Self::Tcp { .. } | Self::RtuOverTcp { .. } => None,
        }
    }

    pub(crate) fn framing(&self) -> Framing {
        match self {
            Self::Tcp { .. } => Framing::Tcp,
            Self::Rtu(_) | Self::RtuOverTcp { .. } => Framing::Rtu,
            Self::Ascii(_) => Framing::Ascii,
        }
    }
}

/// The port's name, or the address.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp { address } | Self::RtuOverTcp { address } => address,
            Self::Rtu(port) | Self::Ascii(port) => &port.name,
        })
    }
}

/// What a line is connected to within the gateway.
pub struct Ends {
    pub door: Arc<dyn Door>,
    pub status: watch::Sender<Vec<DeviceStatus>>,
    pub clock: Clock,
    pub cancel: CancellationToken,
}

impl Ends {
    /// What is to be said and what is done leaves in one visit.
    fn report(&self, out: &mut Effects) {
        let Effects { publishes, done, .. } = out;
        if !publishes.is_empty() || !done.is_empty() {
            self.door.report(std::mem::take(publishes), std::mem::take(done));
        }
    }
}

/// What a line of Modbus has beside its polls.
#[derive(Clone)]
pub struct Office {
    /// Who asks by hand.
    pub desk: Arc<Desk>,
    /// What passes.
    pub frames: Arc<Frames>,
    /// What was learned of units.
    pub memory: Arc<Memory>,
    /// Which devices the line has; the poller has those that counted at its beginning.
    pub roster: Arc<Roster>,
    /// Other masters; None: the line is ours alone.
    pub share: Option<Arc<SharedLine>>,
}

/// The lines of a configuration: devices on one port, or at one TCP address, share one. A port that only other masters
/// use is one too.
pub fn lines(config: &Config) -> Vec<(Endpoint, LineSettings)> {
    let mut by_place: BTreeMap<Link, Vec<_>> = BTreeMap::new();
    for (index, device) in (0..).zip(&config.devices) {
        by_place.entry(device.link.place()).or_default().push((index, device.clone()));
    }
    let lines = by_place.into_iter().filter_map(|(place, devices)| {
        let endpoint = match place {
            Link::Tcp { address, .. } => Endpoint::Tcp { address },
            Link::RtuOverTcp { address, .. } => Endpoint::RtuOverTcp { address },
            Link::Rtu { port, .. } => Endpoint::Rtu(config.ports.get(port)?.clone()),
            Link::Ascii { port, .. } => Endpoint::Ascii(config.ports.get(port)?.clone()),
        };
        Some((endpoint, LineSettings { gateway: Arc::clone(&config.gateway.id), devices }))
    });
    let mut lines: Vec<_> = lines.collect();
    let is_driven = |port: &Port| {
        lines.iter().any(|(endpoint, _)| endpoint.port().is_some_and(|driven| driven.name == port.name))
    };
    let shared = config.ports.iter().filter(|port| port.share.is_some() && !is_driven(port)).cloned();
    let shared: Vec<_> = shared
        .map(|port| {
            let endpoint =
                if port.data_bits == DataBits::Seven { Endpoint::Ascii(port) } else { Endpoint::Rtu(port) };
            (endpoint, LineSettings { gateway: Arc::clone(&config.gateway.id), devices: Vec::new() })
        })
        .collect();
    lines.extend(shared);
    lines
}

/// Drives the line until it is cancelled. A port or host that is not there is tried again as the poller says.
pub async fn run(endpoint: Endpoint, mut poller: Poller, office: Office, ends: Ends) {
    let wire = Wire::new(&endpoint, &office.frames);
    let price = timing::price(&endpoint);
    poller.set_price(price);
    let name = endpoint.to_string();
    let teller = Teller::new(ends.status.clone());
    let mut line = Line {
        name,
        price,
        overrun: Overrun::new(),
        poller,
        wire,
        office,
        ends,
        orders: Vec::new(),
        out: Effects::default(),
        teller,
    };
    let all = line.poller.indices();
    line.recall(&all);
    line.run().await;
}

/// Where a unit answers.
fn place(line: &str, unit: u8) -> String {
    format!("{line}, unit {unit}")
}

async fn write(memory: Arc<Memory>) {
    // Fails only where the runtime ends.
    let _ = tokio::task::spawn_blocking(move || memory.write()).await;
}

struct Line {
    name: String,
    /// Of a request.
    price: Price,
    overrun: Overrun,
    poller: Poller,
    wire: Wire,
    office: Office,
    ends: Ends,
    /// Reused.
    orders: Vec<Order>,
    out: Effects,
    teller: Teller,
}

impl Line {
    async fn run(mut self) {
        let cancel = self.ends.cancel.clone();
        // Dropping the step on its way is safe: nothing is asked afterwards.
        let _ = cancel.run_until_cancelled(self.run_steps()).await;
        self.poller.handle_shutdown(self.ends.clock.now(), &mut self.out);
        self.flush();
        self.tell_status();
        write(Arc::clone(&self.office.memory)).await;
    }

    async fn run_steps(&mut self) {
        let (bell, desk_bell) = (self.ends.door.bell(), self.office.desk.bell());
        let roster_bell = self.office.roster.bell();
        let share_bell = self.office.share.as_ref().map(|share| share.bell()).unwrap_or_default();
        if let Some(share) = &self.office.share {
            share.handle_started();
        }
        let all = self.poller.indices();
        self.ends.door.drives(&all, &all);
        loop {
            self.take_roster();
            self.take_orders();
            // One between two polls.
            if let Some(asked) = self.office.desk.take() {
                let reply = self.call(&asked.request).await;
                asked.answer(reply);
            }
            self.serve_other_masters().await;
            let next = self.poller.next_request(self.ends.clock.now(), &mut self.out);
            self.flush();
            match next {
                Next::Request(request) => {
                    let reply = self.call(&request).await;
                    let answered = self.answered_at();
                    if let Err(error) = &reply {
                        debug!(line = self.name, unit = request.unit, request = ?request.kind, %error, "no answer");
                    }
                    self.poller.handle_reply(request.id, reply, answered, &mut self.out);
                    self.flush();
                    self.remember().await;
                    if self.out.changed && self.teller.due() <= Instant::now() {
                        self.tell_status();
                    }
                }
                Next::Wait(until) => {
                    if self.out.changed {
                        self.tell_status();
                    }
                    let until = self.office.share.as_ref().map_or(until, |share| share.idle_until(until));
                    let until = Instant::from_std(self.ends.clock.to_std(until));
                    tokio::select! {
                        () = bell.notified() => {}
                        () = desk_bell.notified() => {}
                        () = roster_bell.notified() => {}
                        () = share_bell.notified() => {}
                        () = sleep_until(until) => {}
                    }
                }
            }
        }
    }

    /// Other devices, where there are: between two requests.
    fn take_roster(&mut self) {
        let Some((number, settings)) = self.office.roster.news() else { return };
        if let Some(share) = &self.office.share {
            share.handle_devices(&settings);
        }
        let fresh = self.poller.replace_devices(settings, self.ends.clock.now(), &mut self.out);
        self.poller.set_price(self.price);
        self.recall(&fresh);
        // First, so that what parts has said so when somebody else takes over.
        self.flush();
        self.tell_status();
        self.ends.door.drives(&self.poller.indices(), &fresh);
        self.office.roster.handle_taken(number);
    }

    /// What an earlier run learned of some units.
    fn recall(&mut self, devices: &[u16]) {
        for (index, (device, unit)) in self.poller.indices().into_iter().zip(self.poller.units()) {
            let learned = devices
                .contains(&index)
                .then(|| self.office.memory.recall(&device, &place(&self.name, unit)));
            if let Some(learned) = learned.flatten() {
                self.poller.recall(&device, learned);
            }
        }
    }

    /// A request of ours; other masters may have of it what it found.
    async fn call(&mut self, request: &Request) -> Reply {
        let from = self.ends.clock.now().instant;
        let reply = self.wire.call(request).await;
        if let Some(share) = &self.office.share {
            let to = self.ends.clock.now().instant;
            share.handle_own(request, &reply, (from, to), self.answered_at().instant);
        }
        reply
    }

    /// One request of theirs at most, where it is their turn.
    async fn serve_other_masters(&mut self) {
        let Some(share) = &self.office.share else { return };
        let Some((request, own)) = share.next_request(&self.poller) else { return };
        let from = self.ends.clock.now().instant;
        let reply = self.wire.call(&request).await;
        let to = self.ends.clock.now();
        let heard = share.handle_reply(&reply, (own.due, from, to.instant), self.answered_at().instant);
        if let Some(heard) = heard {
            self.poller.handle_shared(heard, to.instant.since(from), to);
        }
        // A command that came meanwhile waits for no poll besides.
        self.take_orders();
    }

    /// When the last answer came.
    fn answered_at(&self) -> Now {
        let (now, held_back) = (self.ends.clock.now(), self.wire.held_back());
        Now { instant: now.instant - held_back, wall: now.wall - held_back }
    }

    fn take_orders(&mut self) {
        self.ends.door.take_orders(&mut self.orders);
        for order in self.orders.drain(..) {
            self.poller.handle_order(&order, self.ends.clock.now(), &mut self.out);
        }
        self.flush();
    }

    fn flush(&mut self) {
        for (device, news) in self.out.maps.drain(..) {
            Teller::tell_map(&device, &news);
        }
        self.ends.report(&mut self.out);
    }

    /// What was learned of units is kept. It is little and rare, so that the line may wait for the disk.
    async fn remember(&mut self) {
        let mut is_due = false;
        let units = if self.out.learned.is_empty() { Vec::new() } else { self.poller.units() };
        for (device, learned) in self.out.learned.drain(..) {
            let Some((_, unit)) = units.iter().find(|(name, _)| *name == device) else { continue };
            is_due |= self.office.memory.remember(&device, &place(&self.name, *unit), &learned);
        }
        if is_due {
            write(Arc::clone(&self.office.memory)).await;
        }
    }

    fn tell_status(&mut self) {
        self.out.changed = false;
        let status = self.poller.status();
        self.overrun.tell(&self.name, &status);
        self.teller.tell(status);
    }
}
