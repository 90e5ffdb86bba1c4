//! What a bridge does once the clock is set. Reads no clock.

use crate::base::time::Now;
use crate::bridge::Bridge;
use crate::bridge::effect::Effects;
use crate::bridge::status::LinkState;

impl Bridge {
    /// What waits is as old as it says from now on. A server whose certificate seemed to be good only later is tried
    /// at once.
    pub fn handle_clock_set(&mut self, now: Now, out: &mut Effects) {
        self.lanes.handle_clock_set(now);
        self.dead.spool.handle_clock_set(now);
        if self.phase.state() == LinkState::Down {
            self.handle_retry(out);
        }
        self.handle_timeout(now, out);
    }
}
