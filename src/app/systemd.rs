//! What systemd is told: readiness, status, the end, and the watchdog while the door still opens.

use std::sync::Arc;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

use crate::hub::Hub;

/// Outside systemd all of these do nothing.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd could not be told");
    }
}

pub fn notify_ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

pub fn notify_stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Feeds the watchdog at half its time, and only after a visit to the door: a gateway whose brains hang is
/// restarted.
pub async fn feed_watchdog(hub: Arc<Hub>, cancel: CancellationToken) {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        cancel.cancelled().await;
        return;
    };
    let mut ticks = tokio::time::interval(limit / 2);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = ticks.tick() => {}
        }
        hub.check_alive();
        notify(&[NotifyState::Watchdog]);
    }
}
