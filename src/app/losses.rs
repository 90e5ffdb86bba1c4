//! Says in the log what the broker's bounds cost its clients. Only reports; bridges report their own.

use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::base::time::Duration;
use crate::hub::Hub;
use crate::hub::status::HubStatus;

const LOOK_INTERVAL: Duration = Duration::from_secs(5);
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// In all since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Lost {
    deliveries: u64,
    to_slow_readers: u64,
    retained: u64,
    commands: u64,
}

impl From<&HubStatus> for Lost {
    fn from(status: &HubStatus) -> Self {
        Self {
            deliveries: status.broker.dropped,
            to_slow_readers: status.outbox_dropped,
            retained: status.broker.retained_refused,
            commands: status.commands_refused,
        }
    }
}

/// Reports until it is cancelled: soon after a loss, and once a minute at most.
pub async fn run(hub: Arc<Hub>, cancel: CancellationToken) {
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    let (mut told, mut next_at) = (Lost::default(), Instant::now());
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let lost = Lost::from(&hub.status());
        if lost == told || Instant::now() < next_at {
            continue;
        }
        let Lost { deliveries, to_slow_readers, retained, commands } = lost;
        tracing::warn!(
            deliveries,
            to_slow_readers,
            retained,
            commands,
            "limits cost messages for clients, in all since the start"
        );
        (told, next_at) = (lost, Instant::now() + REPORT_INTERVAL);
    }
}
