//! Other bounds for a broker that is at work: for whoever comes, and for what waits for whoever is here. Drops nothing.

use crate::base::time::{Duration, Now};
use crate::broker::Broker;
use crate::broker::deadlines::Due;
use crate::config::limits::Limits;

impl Broker {
    /// What a client was told at its CONNACK holds for as long as its connection.
    pub fn handle_limits(&mut self, limits: Limits) {
        self.settings.limits = limits;
        let bounds = self.session_bounds();
        for (_, session) in self.sessions.iter_mut() {
            session.spool.set_bounds(bounds.messages_max, bounds.bytes_max);
        }
    }

    /// How often `$SYS` topics are published; None: no more.
    pub fn handle_sys_interval(&mut self, interval: Option<Duration>, now: Now) {
        self.settings.sys_interval = interval;
        if let Some(at) = self.sys_due.take() {
            self.deadlines.remove(at, Due::Sys);
        }
        if interval.is_some() && self.started.is_some() {
            self.sys_due = Some(now.instant);
            self.deadlines.add(now.instant, Due::Sys);
        }
    }
}
