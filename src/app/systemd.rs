//! What systemd is told: readiness, status, reloads, the end, and signs of life. Outside systemd all of it does nothing.
//! Decides nothing.

use sd_notify::NotifyState;

use crate::base::time::Duration;

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd could not be told");
    }
}

/// Whether anybody hears it.
pub fn is_listening() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// None: this process is not watched.
pub fn watchdog_limit() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

pub fn notify_ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// What `systemctl status` shows.
pub fn notify_status(status: &str) {
    notify(&[NotifyState::Status(status)]);
}

/// Until the next [`notify_ready`].
pub fn notify_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => {
            let status = NotifyState::Status("reading the configuration again");
            notify(&[NotifyState::Reloading, now, status]);
        }
        Err(error) => tracing::debug!(%error, "systemd could not be told"),
    }
}

pub fn notify_stopping(status: &str) {
    notify(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

pub fn notify_alive() {
    notify(&[NotifyState::Watchdog]);
}

/// A start or an end goes on, and takes so long yet at the most before the next word of it.
pub fn notify_busy(wait: Duration) {
    let micros = u32::try_from(wait.as_micros()).unwrap_or(u32::MAX);
    notify(&[NotifyState::ExtendTimeoutUsec(micros)]);
}
