//! What systemd is told: readiness, status, reloads, the end, and signs of life. Outside systemd all of it does nothing.
//! Decides nothing.

use rustix::time::{ClockId, Timespec, clock_gettime};
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
    let since = NotifyState::MonotonicUsec(monotonic_micros(clock_gettime(ClockId::Monotonic)));
    notify(&[NotifyState::Reloading, since, NotifyState::Status("reading the configuration again")]);
}

/// In place of `NotifyState::monotonic_usec_now`, which multiplies in 32 bits where `time_t` has them: 36 minutes after the
/// machine's start systemd would wait for a reload in vain.
fn monotonic_micros(at: Timespec) -> i128 {
    i128::from(at.tv_sec) * 1_000_000 + i128::from(at.tv_nsec) / 1_000
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

#[cfg(test)]
mod tests {
    use super::{Timespec, monotonic_micros, notify_reloading};

    /// Run for 32-bit ARM too (`tests/cross/run armv7`), on a machine that is up for longer than 32 bits of microseconds.
    #[test]
    fn a_reload_is_dated_also_after_36_minutes() {
        assert_eq!(monotonic_micros(Timespec { tv_sec: 2_148, tv_nsec: 999_999_999 }), 2_148_999_999);
        let year = Timespec { tv_sec: 366 * 86_400, tv_nsec: 0 };
        assert_eq!(monotonic_micros(year), 31_622_400_000_000);
        notify_reloading();
    }
}
