//! The line that `systemctl status` shows of a gateway that runs: kept true. Tells nobody itself.

use std::fmt::Write;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::app::overview::Overview;
use crate::app::systemd;
use crate::app::watchdog::Vitals;
use crate::base::time::Duration;
use crate::bridge::status::LinkState;
use crate::device::status::State;
use crate::hub::status::LinkStatus;

const INTERVAL: Duration = Duration::from_secs(3);
/// Bridges that are named; of more there is a sum.
const BRIDGES_MAX: usize = 4;

/// Until it is cancelled; at once where nobody listens.
pub async fn run(overview: Arc<Overview>, vitals: Arc<Vitals>, cancel: CancellationToken) {
    if !systemd::is_listening() {
        return;
    }
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = ticks.tick() => vitals.set_status(line_of(&overview)),
        }
    }
}

pub fn line_of(overview: &Overview) -> String {
    let links = overview.hub_status().links.into_iter();
    let links: Vec<_> = links
        .map(|LinkStatus { name, status, .. }| Link {
            name,
            state: status.state,
            waiting: status.queued_messages,
        })
        .collect();
    let running = overview.running().now();
    let config = &running.config;
    let count = config.devices.len() + config.instruments.len();
    line((count, &overview.device_states()), &links, overview.trouble().as_deref())
}

/// A bridge for the line.
struct Link {
    name: Arc<str>,
    state: LinkState,
    waiting: u64,
}

/// Of so many devices, of which some have said how they are: `4 devices, 1 offline; cloud: connected, 0 waiting`
fn line((count, devices): (usize, &[State]), links: &[Link], trouble: Option<&str>) -> String {
    let mut line = match count {
        1 => "1 device".to_owned(),
        count => format!("{count} devices"),
    };
    let offline = devices.iter().filter(|state| **state == State::Offline).count();
    if offline > 0 {
        // Writing to a String does not fail, here and below.
        let _ = write!(line, ", {offline} offline");
    }
    for Link { name, state, waiting } in links.iter().take(BRIDGES_MAX) {
        let _ = write!(line, "; {name}: {}, {waiting} waiting", words(*state));
    }
    let others = links.get(BRIDGES_MAX..).unwrap_or_default();
    if !others.is_empty() {
        let connected = others.iter().filter(|link| link.state == LinkState::Up).count();
        let waiting: u64 = others.iter().map(|link| link.waiting).sum();
        let _ = write!(line, "; {} more: {connected} connected, {waiting} waiting", others.len());
    }
    if let Some(trouble) = trouble {
        let _ = write!(line, "; {trouble}");
    }
    line
}

const fn words(state: LinkState) -> &'static str {
    match state {
        LinkState::Up => "connected",
        LinkState::Connecting | LinkState::Greeting | LinkState::Subscribing => "connecting",
        LinkState::Waiting => "waits for its host",
        LinkState::Paused => "paused",
        LinkState::Down | LinkState::Closing | LinkState::Closed => "down",
    }
}

#[cfg(test)]
mod tests {
    use super::{BRIDGES_MAX, Link, LinkState, State, line};

    fn link(name: &str, state: LinkState, waiting: u64) -> Link {
        Link { name: name.into(), state, waiting }
    }

    #[test]
    fn a_line_says_what_is_there_and_what_is_not_as_it_should_be() {
        let cloud = || link("cloud", LinkState::Up, 0);
        assert_eq!(line((0, &[]), &[], None), "0 devices");
        assert_eq!(line((1, &[]), &[cloud()], None), "1 device; cloud: connected, 0 waiting");
        let devices = [State::Online, State::Offline, State::Unknown, State::Online];
        let links = [cloud(), link("b", LinkState::Paused, 7)];
        assert_eq!(
            line((4, &devices), &links, Some("the disk is full")),
            "4 devices, 1 offline; cloud: connected, 0 waiting; b: paused, 7 waiting; the disk is full"
        );
        let many: Vec<_> = (0..BRIDGES_MAX + 3).map(|_| link("b", LinkState::Down, 5)).collect();
        assert!(
            line((0, &[]), &many, None).ends_with("; b: down, 5 waiting; 3 more: 0 connected, 15 waiting")
        );
    }
}
