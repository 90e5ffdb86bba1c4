//! The lines that run: one task each, started, told of other devices and ended as the configuration says. A line whose
//! end point stays goes on, with all that it knows of the devices that stay. Decides nothing about a device.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::app::LineStatus;
use crate::app::lines::Desks;
use crate::app::shares::Shares;
use crate::app::supervise::Supervisor;
use crate::base::pulse::Pulses;
use crate::base::time::Duration;
use crate::bus::door::Door;
use crate::bus::instrument::InstrumentLine;
use crate::bus::load::Load;
use crate::bus::memory::Memory;
use crate::bus::roster::Roster;
use crate::bus::share::SharedLine;
use crate::bus::{self, Endpoint};
use crate::config::model::Config;
use crate::device::{LineSettings, Poller};
use crate::hub::Hub;
use crate::hub::line::LineSeat;

/// How long a line may take to part from devices: it may be in the middle of a request.
const PARTING_WAIT: Duration = Duration::from_secs(10);
/// How long a line may take to end.
const END_WAIT: Duration = Duration::from_secs(1);

/// One line as it is to run.
#[derive(Clone)]
pub enum Plan {
    Modbus { endpoint: Endpoint, settings: LineSettings },
    Instrument(Box<InstrumentLine>),
}

impl Plan {
    /// Those of a configuration, with the indices that its devices have there.
    pub fn all(config: &Config) -> Vec<Plan> {
        let lines = bus::lines(config).into_iter();
        let lines = lines.map(|(endpoint, settings)| Plan::Modbus { endpoint, settings });
        let instruments = bus::instrument::lines(config).into_iter();
        lines.chain(instruments.map(|line| Plan::Instrument(Box::new(line)))).collect()
    }

    /// The indices of its devices.
    pub fn devices(&self) -> Vec<u16> {
        match self {
            Self::Modbus { settings, .. } => settings.devices.iter().map(|(index, _)| *index).collect(),
            Self::Instrument(line) => vec![line.index],
        }
    }

    /// With the indices that its devices have for as long as the process runs.
    #[must_use]
    fn numbered(mut self, indices: &BTreeMap<Arc<str>, u16>) -> Self {
        let index_of = |name: &Arc<str>, index: &mut u16| {
            if let Some(known) = indices.get(name) {
                *index = *known;
            }
        };
        match &mut self {
            Self::Modbus { settings, .. } => {
                settings.devices.iter_mut().for_each(|(index, device)| index_of(&device.name, index));
            }
            Self::Instrument(line) => index_of(&line.settings.name, &mut line.index),
        }
        self
    }

    /// Whether the task of one can be that of the other.
    fn is_at_the_place_of(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Modbus { endpoint, .. }, Self::Modbus { endpoint: other, .. }) => endpoint == other,
            // It has one device, which is to be the same.
            (Self::Instrument(line), Self::Instrument(other)) => {
                line.port == other.port && line.settings.name == other.settings.name
            }
            (Self::Modbus { .. }, Self::Instrument(_)) | (Self::Instrument(_), Self::Modbus { .. }) => false,
        }
    }

    fn has(&self, name: &str) -> bool {
        match self {
            Self::Modbus { settings, .. } => settings.devices.iter().any(|(_, device)| *device.name == *name),
            Self::Instrument(line) => *line.settings.name == *name,
        }
    }
}

/// A line that runs.
struct Driven {
    plan: Plan,
    /// None: it has one device for ever.
    roster: Option<Arc<Roster>>,
    seat: Arc<LineSeat>,
    status: LineStatus,
    share: Option<Arc<SharedLine>>,
    tasks: Supervisor,
}

/// All lines of one gateway.
pub struct Fleet {
    hub: Arc<Hub>,
    memory: Arc<Memory>,
    desks: Arc<Desks>,
    shares: Shares,
    cancel: CancellationToken,
    pulses: Pulses,
    lines: Vec<Driven>,
}

impl Fleet {
    /// Starts the lines that the hub was built with, in their order.
    pub fn start(
        plans: Vec<Plan>,
        (config, hub): (&Config, &Arc<Hub>),
        (shares, desks): (Shares, Arc<Desks>),
        pulses: &Pulses,
    ) -> Self {
        let memory = Memory::open(&config.gateway.data_dir);
        let cancel = CancellationToken::new();
        let (hub, pulses) = (hub.clone(), pulses.clone());
        let mut fleet = Self { hub, memory, desks, shares, cancel, pulses, lines: Vec::new() };
        for (index, plan) in plans.into_iter().enumerate() {
            let seat = LineSeat::new(fleet.hub.clone(), index);
            fleet.drive(plan, seat);
        }
        fleet
    }

    pub fn statuses(&self) -> Vec<LineStatus> {
        self.lines.iter().map(|line| line.status.clone()).collect()
    }

    pub fn shared(&self) -> Vec<Arc<SharedLine>> {
        self.lines.iter().filter_map(|line| line.share.clone()).collect()
    }

    pub fn shares(&self) -> &Shares {
        &self.shares
    }

    /// What is not to go on parts as at a stop: lines whose end point is none any more, and devices that are not in
    /// `stay`. Returns when they have said so.
    pub async fn part(&mut self, plans: &[Plan], stay: &BTreeSet<Arc<str>>) {
        let (mut ending, mut parting) = (Vec::new(), Vec::new());
        for mut line in std::mem::take(&mut self.lines) {
            let goes_on = |plan: &&Plan| plan.is_at_the_place_of(&line.plan);
            let next = plans.iter().find(goes_on);
            let has_to_end = match (&line.plan, next) {
                (Plan::Instrument(instrument), Some(_)) => !stay.contains(&instrument.settings.name),
                (_, next) => next.is_none(),
            };
            if has_to_end {
                ending.push(end(line, &self.desks));
                continue;
            }
            if let (Plan::Modbus { settings, .. }, Some(next), Some(roster)) =
                (&mut line.plan, next, &line.roster)
            {
                let before = settings.devices.len();
                settings.devices.retain(|(_, device)| stay.contains(&device.name) && next.has(&device.name));
                if settings.devices.len() < before {
                    roster.replace(settings.clone());
                    let roster = Arc::clone(roster);
                    parting.push(async move { roster.until_taken().await });
                }
            }
            self.lines.push(line);
        }
        let parted = timeout(PARTING_WAIT, join_all(parting));
        let (parted, _) = tokio::join!(parted, join_all(ending));
        if parted.is_err() {
            tracing::warn!("a line did not part from a device in {PARTING_WAIT:?}");
        }
    }

    /// Starts what is new, after `part`.
    pub fn resume(&mut self, plans: Vec<Plan>, indices: &BTreeMap<Arc<str>, u16>, shares: Shares) {
        self.shares = shares;
        for plan in plans {
            let plan = plan.numbered(indices);
            match self.lines.iter_mut().find(|line| plan.is_at_the_place_of(&line.plan)) {
                Some(line) => line.take_over(plan),
                None => self.drive(plan, LineSeat::open(self.hub.clone())),
            }
        }
    }

    /// Ends polling.
    pub async fn end(self) {
        self.cancel.cancel();
        let ends = self.lines.into_iter().map(|line| line.tasks.end(END_WAIT));
        join_all(ends).await;
    }

    fn drive(&mut self, plan: Plan, seat: LineSeat) {
        let (status, statuses) = watch::channel(Vec::new());
        let mut line = Driven {
            plan,
            roster: None,
            seat: Arc::new(seat),
            status: statuses,
            share: None,
            tasks: Supervisor::new(self.cancel.child_token(), &self.pulses),
        };
        match line.plan.clone() {
            Plan::Modbus { endpoint, settings } => self.drive_modbus((endpoint, settings), status, &mut line),
            Plan::Instrument(instrument) => self.drive_instrument(*instrument, status, &mut line),
        }
        self.lines.push(line);
    }

    fn drive_modbus(
        &self,
        (endpoint, settings): (Endpoint, LineSettings),
        status: watch::Sender<Vec<crate::device::status::DeviceStatus>>,
        line: &mut Driven,
    ) {
        let name = endpoint.to_string();
        warn_of_load(&name, &endpoint, &settings);
        let clock = self.hub.clock().clone();
        let share = self.shares.serve((&endpoint, &settings), &clock, &mut line.tasks);
        let roster = Roster::new(settings);
        line.share.clone_from(&share);
        line.roster = Some(Arc::clone(&roster));
        let door: Arc<dyn Door> = line.seat.clone();
        let office = bus::Office {
            desk: self.desks.open(&name),
            frames: self.desks.frames.clone(),
            memory: self.memory.clone(),
            roster,
            share,
        };
        line.tasks.spawn(format!("line:{name}"), move |cancel| {
            let mut poller = Poller::new(office.roster.current(), clock.now());
            poller.inquire();
            let (door, status, clock) = (door.clone(), status.clone(), clock.clone());
            bus::run(endpoint.clone(), poller, office.clone(), bus::Ends { door, status, clock, cancel })
        });
    }

    fn drive_instrument(
        &self,
        instrument: InstrumentLine,
        status: watch::Sender<Vec<crate::device::status::DeviceStatus>>,
        line: &mut Driven,
    ) {
        let door: Arc<dyn Door> = line.seat.clone();
        let (clock, frames) = (self.hub.clock().clone(), self.desks.frames.clone());
        line.tasks.spawn(format!("line:{}", instrument.port.name), move |cancel| {
            let (door, status, clock) = (door.clone(), status.clone(), clock.clone());
            let ends = bus::Ends { door, status, clock, cancel };
            bus::instrument::run(instrument.clone(), frames.clone(), ends)
        });
    }
}

impl Driven {
    /// The devices that it parted from come as they are now, and others with them. Those that stayed keep their settings,
    /// which are the same but for the place of their port.
    fn take_over(&mut self, plan: Plan) {
        let (Plan::Modbus { settings: old, .. }, Plan::Modbus { endpoint, mut settings }) =
            (&self.plan, plan)
        else {
            return;
        };
        for (index, device) in &mut settings.devices {
            if let Some((_, known)) = old.devices.iter().find(|(known, _)| known == index) {
                *device = Arc::clone(known);
            }
        }
        let is_same = settings.devices.len() == old.devices.len()
            && settings.devices.iter().zip(&old.devices).all(|((_, new), (_, old))| Arc::ptr_eq(new, old));
        if !is_same {
            warn_of_load(&endpoint.to_string(), &endpoint, &settings);
            if let Some(roster) = &self.roster {
                roster.replace(settings.clone());
            }
        }
        self.plan = Plan::Modbus { endpoint, settings };
    }
}

async fn end(line: Driven, desks: &Desks) {
    let Driven { plan, seat, tasks, .. } = line;
    tasks.end(END_WAIT).await;
    seat.close();
    if let Plan::Modbus { endpoint, .. } = plan {
        desks.close(&endpoint.to_string());
    }
}

/// Whoever is far away has a gateway that polls more slowly, and not one that does not start.
fn warn_of_load(line: &str, endpoint: &Endpoint, settings: &LineSettings) {
    let load = Load::of(endpoint, settings);
    if !load.fits() {
        let percent = load.share.map(|share| (share * 100.0).ceil());
        tracing::warn!(
            line,
            percent,
            "its polls take more time than the line has: all are stretched alike (see `tidegate check`)"
        );
    }
}
