//! What systemd is told: readiness, status, the end, and the watchdog while the door opens and the disk answers.

use std::sync::Arc;

use sd_notify::NotifyState;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::base::time::Duration;
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

/// Until the next [`notify_ready`].
pub fn notify_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "systemd could not be told"),
    }
}

pub fn notify_stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Feeds the watchdog at half its time, and only after a visit to the door and while the writer gets on: a
/// gateway whose brains or whose disk hang is started again.
pub async fn feed_watchdog(hub: Arc<Hub>, cancel: CancellationToken) {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        cancel.cancelled().await;
        return;
    };
    let mut ticks = tokio::time::interval(limit / 2);
    let mut pulse = Pulse::new(Instant::now());
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = ticks.tick() => {}
        }
        hub.check_alive();
        if pulse.stood_still(hub.writer_turns(), Instant::now()) < limit {
            notify(&[NotifyState::Watchdog]);
        } else {
            tracing::error!("the disk does not answer: the watchdog is not fed");
        }
    }
}

/// For how long the writer has not turned though it has work. A full disk is no standstill: the writer tries
/// again and again.
struct Pulse {
    turns: Option<u64>,
    moved_at: Instant,
}

impl Pulse {
    const fn new(now: Instant) -> Self {
        Self { turns: None, moved_at: now }
    }

    /// `turns`: None while the writer has nothing to do.
    fn stood_still(&mut self, turns: Option<u64>, now: Instant) -> Duration {
        if turns.is_none() || turns != self.turns {
            self.turns = turns;
            self.moved_at = now;
        }
        now - self.moved_at
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::{Duration, Pulse};

    #[test]
    fn only_work_without_a_turn_is_a_standstill() {
        let start = Instant::now();
        let mut pulse = Pulse::new(start);
        // Seconds, what the writer says, and how long it has stood still then.
        let told = [
            (10, None, 0),
            (20, None, 0),
            (30, Some(7), 0),
            (40, Some(8), 0),
            (50, Some(8), 10),
            (60, Some(8), 20),
            (70, Some(9), 0),
            (80, Some(9), 10),
            (90, None, 0),
            (100, Some(9), 0),
            (110, Some(9), 10),
        ];
        for (at, turns, still) in told {
            let stood = pulse.stood_still(turns, start + Duration::from_secs(at));
            assert_eq!(stood, Duration::from_secs(still), "at {at} s");
        }
    }
}
