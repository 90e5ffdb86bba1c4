//! What a line tells of its devices: to who watches, and of their states to the log. Never changes what it tells.

use std::collections::BTreeMap;
use std::sync::Arc;

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
    /// As the log was told, by device.
    states: BTreeMap<Arc<str>, State>,
    /// When the status was told last.
    told: Instant,
}

impl Teller {
    pub(crate) fn new(status: watch::Sender<Vec<DeviceStatus>>) -> Self {
        Self { status, states: BTreeMap::new(), told: Instant::now() }
    }

    /// From when on a busy line may tell again.
    pub(crate) fn due(&self) -> Instant {
        self.told + STATUS_INTERVAL
    }

    pub(crate) fn tell(&mut self, status: Vec<DeviceStatus>) {
        self.told = Instant::now();
        self.states.retain(|name, _| status.iter().any(|device| device.name == *name));
        for device in &status {
            let known = self.states.get(&device.name).copied().unwrap_or(State::Unknown);
            if device.state != known {
                self.states.insert(Arc::clone(&device.name), device.state);
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
