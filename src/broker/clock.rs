//! What the broker does when the wall clock is set: deadlines that it measured by that clock are measured anew. Reads
//! no clock.

use crate::base::ids::SlotKey;
use crate::base::time::Now;
use crate::broker::deadlines::Due;
use crate::broker::effect::Effects;
use crate::broker::{Broker, Visit};

impl Broker {
    /// The wall clock was stepped: tokens end by it.
    pub fn handle_clock_step(&mut self, now: Now) {
        let planned = self.conns.iter().filter_map(|(key, conn)| Some((key, *conn.until.as_deref()?)));
        for (key, (until, at)) in planned.collect::<Vec<_>>() {
            self.deadlines.remove(at, Due::Token(key));
            self.plan_end(key, until, now);
        }
    }

    /// The clock is set: how long sessions have been away, and how old messages are that an earlier boot left, can be
    /// told now. Retained readings get their right times.
    pub fn handle_clock_set(&mut self, now: Now, out: &mut Effects) {
        let mut visit = Visit { now, out };
        let keys: Vec<SlotKey> = self.sessions.iter().map(|(key, _)| key).collect();
        for key in keys {
            let Some(session) = self.sessions.get_mut(key) else { continue };
            session.spool.handle_clock_set(now);
            if let Some(gone) = session.disconnected_at.told_by(now)
                && session.attached.is_none()
            {
                session.disconnected_at = gone;
                self.forget_absence(key);
                if let Some(session) = self.sessions.get_mut(key) {
                    session.start_clocks(now.instant, now.instant.since(gone.instant));
                }
                self.schedule_absence(key);
            }
            self.settle(key, &mut visit);
        }
        self.date_retained(now);
    }

    fn forget_absence(&mut self, key: SlotKey) {
        let Some(session) = self.sessions.get(key) else { return };
        if let Some(at) = session.expires_at {
            self.deadlines.remove(at, Due::Expiry(key));
        }
        if let Some(at) = session.will_at {
            self.deadlines.remove(at, Due::Will(key));
        }
    }
}
