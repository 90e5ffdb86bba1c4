//! What a line's own task does for other masters: one of their requests where it is their turn, and it tells them what
//! its own requests found. Never waits for anything but the unit that it asks.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::base::time::Instant;
use crate::bus::share::{SharedLine, timeouts_of};
use crate::device::request::{Reply, Request};
use crate::device::share::turns::Own;
use crate::device::share::{Heard, Turn};
use crate::device::{LineSettings, Poller};

impl SharedLine {
    pub(crate) fn bell(&self) -> Arc<Notify> {
        Arc::clone(&self.bell)
    }

    pub(crate) fn handle_started(&self) {
        let (mut inner, mut answers) = (self.lock(), Vec::new());
        inner.brain.handle_started(&mut answers);
        inner.deliver(answers);
    }

    /// The line has other devices: how patient it is with which unit.
    pub(crate) fn handle_devices(&self, settings: &LineSettings) {
        let (timeouts, default) = timeouts_of(settings);
        self.lock().brain.set_timeouts(timeouts, default);
    }

    /// The request whose turn it is, with what the line has to do for itself meanwhile.
    pub(crate) fn next_request(&self, poller: &Poller) -> Option<(Request, Own)> {
        let now = self.clock.now();
        let (mut inner, mut answers) = (self.lock(), Vec::new());
        inner.brain.handle_known(poller.known());
        let own = poller.own(now);
        let turn = inner.brain.next_request(own, now.instant, &mut answers);
        inner.deliver(answers);
        match turn {
            Turn::Request(request) => Some((request, own)),
            Turn::Wait(_) => None,
        }
    }

    /// What came of it.
    pub(crate) fn handle_reply(
        &self,
        reply: &Reply,
        times: (Instant, Instant, Instant),
        answered_at: Instant,
    ) -> Option<Heard> {
        let (mut inner, mut answers) = (self.lock(), Vec::new());
        let heard = inner.brain.handle_reply(reply, times, answered_at, &mut answers);
        inner.deliver(answers);
        heard
    }

    /// A request of the gateway's own was made, by a poll, a command or a hand.
    pub(crate) fn handle_own(
        &self,
        request: &Request,
        reply: &Reply,
        times: (Instant, Instant),
        answered_at: Instant,
    ) {
        self.lock().brain.handle_own(request, reply, times, answered_at);
    }

    /// Until when the line may rest that has nothing to do for itself before `due`.
    pub(crate) fn idle_until(&self, due: Instant) -> Instant {
        let now = self.clock.now().instant;
        self.lock().brain.idle_until(due, now).min(due)
    }
}
