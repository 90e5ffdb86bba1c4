//! What a line tells of its devices: to who watches, and of their states to the log. Never changes what it tells.

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::info;

use crate::base::time::Duration;
use crate::device::polled::survey::MapNews;
use crate::device::status::{DeviceStatus, State};

/// A busy line tells of itself no more often.
const STATUS_INTERVAL: Duration = Duration::from_millis(200);

pub(crate) struct Teller {
    status: watch::Sender<Vec<DeviceStatus>>,
    /// As the log was told.
    states: Vec<State>,
    /// When the status was told last.
    told: Instant,
}

impl Teller {
    pub(crate) fn new(status: watch::Sender<Vec<DeviceStatus>>, devices: usize) -> Self {
        Self { status, states: vec![State::Unknown; devices], told: Instant::now() }
    }

    /// From when on a busy line may tell again.
    pub(crate) fn due(&self) -> Instant {
        self.told + STATUS_INTERVAL
    }

    pub(crate) fn tell(&mut self, status: Vec<DeviceStatus>) {
        self.told = Instant::now();
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
        self.status.send_replace(status);
    }

    /// Where the models of a unit lie, and what it does not have.
    pub(crate) fn tell_map(device: &str, news: &MapNews) {
        info!(device, map = %news, "SunSpec map");
    }
}
