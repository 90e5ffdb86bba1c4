//! What goes wrong, by chance. Each fault is one that the gateway has to survive.

use tidegate::base::time::{Duration, Timestamp};
use tidegate::bridge::fault::LinkFault;
use tidegate::hub::core::Core;

use super::client::{Client, Phase};
use super::net::Direction;
use super::plan::Fault;
use super::reference::Place;
use super::world::{Event, World};

impl World {
    pub fn fault(&mut self) {
        if !self.faulty || self.plan.faults.is_empty() {
            return;
        }
        let wait = self.millis(self.plan.fault_gap_ms * 2);
        self.after(wait, Event::Fault);
        let fault = self.plan.faults[self.rng.usize(..self.plan.faults.len())];
        self.trace(format_args!("fault: {fault:?}"));
        self.reference.faults += 1;
        let until = self.now.instant + self.millis(5000);
        let place = if self.rng.bool() { Place::Gateway } else { Place::Cloud };
        match fault {
            Fault::Cut => self.with_conn(Self::cut),
            Fault::HalfOpen => self.with_conn(Self::half_open),
            Fault::Slow => self.with_conn(|world, id| {
                let direction = world.direction();
                if let Some(conn) = world.conns.get_mut(&id) {
                    conn.pipe(direction).slow_until = until;
                }
            }),
            Fault::ClientAway => {
                let index = self.rng.usize(..self.clients.len());
                let away_until = self.now.instant + self.millis(8000);
                if !self.clients[index].is_auditor() {
                    self.clients[index].away_until = away_until;
                    match self.clients[index].phase {
                        Phase::Up(conn) if self.rng.bool() => {
                            let part = Client::part();
                            self.send_up(conn, &[part]);
                            self.client_lost(conn, LinkFault::Closed);
                        }
                        Phase::Up(conn) | Phase::Greeting(conn) => self.cut(conn),
                        Phase::Away => {}
                    }
                }
            }
            Fault::UplinkDown => {
                self.site(Place::Cloud).unreachable_until = until + Duration::from_secs(5);
                if let super::site::LinkHand::Open(id) = self.sites[&Place::Gateway].link {
                    self.cut(id);
                }
            }
            Fault::KillGateway => self.kill(Place::Gateway),
            Fault::KillCloud => self.kill(Place::Cloud),
            Fault::StopGateway => self.stop(),
            Fault::DiskFull => self.site(place).disk.full_until = until,
            Fault::ClockStep => {
                let millis = self.rng.i64(-7_200_000..7_200_000);
                self.now.wall = Timestamp::from_millis(self.now.wall.as_millis() + millis);
            }
            Fault::DeviceSilent => self.unit.silent_until = until,
            Fault::DiskSlow => self.site(place).slow_disk_until = until,
        }
    }

    /// Everything is well from now on.
    pub fn heal(&mut self) {
        self.faulty = false;
        self.left = 0;
        let now = self.now.instant;
        for site in self.sites.values_mut() {
            site.unreachable_until = now;
            site.slow_disk_until = now;
            site.disk.full_until = now;
        }
        self.unit.silent_until = now;
        for client in self.clients.iter_mut().filter(|client| !client.is_auditor()) {
            client.away_until = now;
        }
        for conn in self.conns.values_mut() {
            conn.up.slow_until = now;
            conn.down.slow_until = now;
        }
    }

    fn with_conn(&mut self, act: impl FnOnce(&mut Self, u64)) {
        let ids: Vec<u64> = self.conns.keys().copied().collect();
        if !ids.is_empty() {
            let id = ids[self.rng.usize(..ids.len())];
            act(self, id);
        }
    }

    fn direction(&mut self) -> Direction {
        if self.rng.bool() { Direction::Up } else { Direction::Down }
    }

    /// Both ends learn of it, each after some of what was under way.
    fn cut(&mut self, id: u64) {
        for direction in [Direction::Up, Direction::Down] {
            let ended = self.conns.get_mut(&id).is_none_or(|conn| conn.pipe(direction).dead);
            if !ended {
                self.break_pipe(id, direction, false);
            }
        }
    }

    /// Nothing arrives any more, and nobody is told.
    fn half_open(&mut self, id: u64) {
        let which = self.rng.u32(1..4);
        let Some(conn) = self.conns.get_mut(&id) else { return };
        for (bit, direction) in [(1, Direction::Up), (2, Direction::Down)] {
            let pipe = conn.pipe(direction);
            if which & bit != 0 && !pipe.dead {
                pipe.truncate(0);
            }
        }
    }

    fn kill(&mut self, place: Place) {
        if self.sites[&place].core.is_some() {
            self.die(place, false);
        }
    }

    /// SIGTERM: lines first, then the brains; what they say at the end is sent and written.
    fn stop(&mut self) {
        let now = self.now;
        let site = self.site(Place::Gateway);
        if site.core.is_none() {
            return;
        }
        site.lines.iter_mut().for_each(|line| line.handle_shutdown(now));
        self.report_line();
        self.visit(Place::Gateway, Core::handle_shutdown);
        self.pump_link();
        let ids: Vec<u64> = self.sites[&Place::Gateway].conns.keys().copied().collect();
        for id in ids {
            self.flush(id);
        }
        // A disk that takes nothing ends like a crash.
        let well = self.sites[&Place::Gateway].disk.full_until <= now.instant;
        self.die(Place::Gateway, well);
    }
}
