//! The door as whoever watches the clock uses it. Decides nothing.

use crate::base::time::Now;
use crate::hub::Hub;
use crate::hub::core::Core;

impl Hub {
    /// The wall clock was stepped.
    pub fn handle_clock_step(&self) {
        self.visit(Core::handle_clock_step);
    }

    /// The clock is set, and was not before.
    pub fn handle_clock_set(&self) {
        if let Some(writer) = self.writer.get() {
            // First, so that what is read from the disk from now on is as old as it says.
            writer.handle_clock(self.clock.now());
        }
        self.visit(Core::handle_clock_set);
    }
}

impl Core {
    pub fn handle_clock_step(&mut self, now: Now) {
        self.broker.handle_clock_step(now);
    }

    pub fn handle_clock_set(&mut self, now: Now) {
        self.broker.handle_clock_set(now, &mut self.out);
        for index in 0..self.bridges().len() {
            self.visit_bridge(index, |bridge, out| bridge.handle_clock_set(now, out));
            self.update_gates(index);
        }
        self.commands.handle_clock_set(now);
    }
}
