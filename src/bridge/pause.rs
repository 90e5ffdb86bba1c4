//! The link in a person's hands: closed until told otherwise, or tried at once. Carries no messages.

use crate::base::time::Now;
use crate::bridge::Bridge;
use crate::bridge::effect::Effects;
use crate::bridge::link::Phase;
use crate::bridge::status::LinkState;

/// What a person wants of the link. Forgotten at the end of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Link,
    Pause,
    /// A link, and without a back-off once the transport is closed.
    LinkAtOnce,
}

impl Bridge {
    /// Parts from the server and stays away, so that a metered uplink carries not even pings. Messages wait as in
    /// an outage.
    pub fn handle_pause(&mut self, now: Now, out: &mut Effects) {
        self.wanted = Wanted::Pause;
        match self.phase.state() {
            // A transport that is being closed says so.
            LinkState::Paused | LinkState::Closing | LinkState::Closed => {}
            LinkState::Down => self.set_paused(out),
            LinkState::Connecting
            | LinkState::Greeting
            | LinkState::Subscribing
            | LinkState::Waiting
            | LinkState::Up => {
                self.say_goodbye(now, out);
                self.go_away(out);
                self.set_phase(Phase::Closing { was_stable: true }, out);
            }
        }
    }

    /// Ends a pause, and tries at once where a try waits for its time.
    pub fn handle_retry(&mut self, out: &mut Effects) {
        self.wanted = Wanted::Link;
        self.backoff.reset();
        // What was wrong with a message or a filter may have been put right.
        self.suspicion.forget();
        self.asked.doubt.forget();
        self.aside.forget();
        self.learned.has_news = true;
        match self.phase.state() {
            LinkState::Paused | LinkState::Down => {
                out.connect = true;
                self.set_phase(Phase::Connecting, out);
            }
            LinkState::Closing => self.wanted = Wanted::LinkAtOnce,
            LinkState::Connecting
            | LinkState::Greeting
            | LinkState::Subscribing
            | LinkState::Waiting
            | LinkState::Up
            | LinkState::Closed => {}
        }
    }

    /// The transport is closed, and is to stay so.
    pub(super) fn set_paused(&mut self, out: &mut Effects) {
        tracing::info!(bridge = %self.settings.bridge.name, queued = self.lanes.messages(), "link is paused");
        self.last_error = None;
        self.servers.forget_faults();
        self.set_phase(Phase::Paused, out);
    }
}
