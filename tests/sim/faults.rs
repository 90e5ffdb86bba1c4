//! What goes wrong, by chance. Each fault is one that the gateway has to survive.

use std::sync::Arc;

use tidegate::auth::Credentials;
use tidegate::base::time::{Duration, Timestamp};
use tidegate::bridge::fault::LinkFault;
use tidegate::broker::login::Change;
use tidegate::config::access::AccessRule;
use tidegate::config::model::Anonymous;
use tidegate::hub::core::Core;
use tidegate::mqtt::reason::ReasonCode;
use tidegate::spool::survey::Part;
use tidegate::store::record::Seq;

use super::chance::Of;
use super::client::Phase;
use super::net::Direction;
use super::plan::{Fault, Feature, KEEP_FREE_BYTES, cloud, strict_cloud};
use super::reference::{LINKS, Place};
use super::site::{FREE_BYTES, LinkHand};
use super::world::{Event, World};

const LOOK_INTERVAL: Duration = Duration::from_secs(1);

impl World {
    pub fn fault(&mut self) {
        if !self.faulty || self.plan.faults.is_empty() {
            return;
        }
        let wait = self.millis(Of::Faults, self.plan.fault_gap_ms * 2);
        self.after(wait, Event::Fault);
        let fault = self.plan.faults[self.chance.of(Of::Faults).usize(..self.plan.faults.len())];
        self.trace(format_args!("fault: {fault:?}"));
        self.reference.faults += 1;
        let until = self.now.instant + self.millis(Of::Faults, 5000);
        let places = self.plan.places();
        let place = places[self.chance.of(Of::Faults).usize(..places.len())];
        // Of the clouds.
        let far = if place == Place::Second { Place::Second } else { Place::Cloud };
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
                let index = self.chance.of(Of::Faults).usize(..self.clients.len());
                let away_until = self.now.instant + self.millis(Of::Faults, 8000);
                if !self.clients[index].is_auditor() {
                    self.clients[index].away_until = away_until;
                    match self.clients[index].phase {
                        Phase::Up(conn) if self.chance.of(Of::Faults).bool() => {
                            let part = self.clients[index].part();
                            self.send_up(conn, &[part]);
                            self.client_lost(conn, LinkFault::Closed);
                        }
                        Phase::Up(conn) | Phase::Greeting(conn) => self.cut(conn),
                        Phase::Away => {}
                    }
                }
            }
            Fault::UplinkDown => {
                self.site(far).unreachable_until = until + Duration::from_secs(5);
                let links = LINKS.iter().zip(self.sites[&Place::Gateway].links.clone());
                let open = links.filter(|(link, _)| link.place == far).map(|(_, hand)| hand).next();
                if let Some(LinkHand::Open(id)) = open {
                    self.cut(id);
                }
            }
            Fault::KillGateway => self.kill(Place::Gateway),
            Fault::KillCloud => self.kill(far),
            Fault::CloudForgets => self.lose_session(),
            Fault::Reload => self.reload(),
            Fault::CloudRefuses => self.refuse_or_allow(),
            Fault::DiskTight => {
                let spare = self.chance.of(Of::Faults).u64(0..4 << 10);
                let site = self.site(Place::Gateway);
                site.free_bytes = KEEP_FREE_BYTES + spare;
            }
            Fault::StopGateway => self.stop(),
            Fault::DiskFull => self.site(place).disk.full_until = until,
            Fault::ClockStep => {
                let millis = self.chance.of(Of::Faults).i64(-7_200_000..7_200_000);
                self.now.wall = Timestamp::from_millis(self.now.wall.as_millis() + millis);
                self.reference.forget_deadlines();
            }
            Fault::DeviceSilent => self.unit.silent_until = until,
            Fault::DiskSlow => self.site(place).slow_disk_until = until,
        }
    }

    /// Everything is well from now on.
    pub fn heal(&mut self) {
        self.faulty = false;
        self.left = 0;
        if self.plan.faults.contains(&Fault::CloudRefuses) {
            self.set_rules(Place::Cloud, None);
        }
        let now = self.now.instant;
        for site in self.sites.values_mut() {
            site.unreachable_until = now;
            site.slow_disk_until = now;
            site.disk.full_until = now;
            site.free_bytes = FREE_BYTES;
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

    /// SIGHUP: the same rules in other words, and perhaps other settings of a bridge.
    fn reload(&mut self) {
        let rules = self.sites[&Place::Gateway].config.broker.access.clone();
        let access = rules.filter(|_| self.chance.of(Of::Faults).bool());
        self.set_rules(Place::Gateway, access);
    }

    fn lose_session(&mut self) {
        self.kill(Place::Cloud);
        self.site(Place::Cloud).disk.durable.forget_session(LINKS[0].client_id);
        self.remembered_from = self.next_conn;
        self.reference.lose_downlink();
        self.kill_when_forgotten = self.chance.of(Of::Faults).bool();
    }

    fn refuse_or_allow(&mut self) {
        let strict = self.chance.of(Of::Faults).bool();
        let rules = if strict { strict_cloud() } else { cloud() };
        self.set_rules(Place::Cloud, rules.broker.access.clone());
    }

    /// Somebody has put right what the cloud refused, and sends it again.
    pub fn retry_dead_letters(&mut self) {
        self.visit(Place::Gateway, |core, now| {
            core.visit_bridge(0, |bridge, out| {
                let last = bridge.last_seq(Part::Dead);
                bridge.handle_revive(None, (Seq(0), last), 100, (now, out))
            })
        });
    }

    fn set_rules(&mut self, place: Place, access: Option<Arc<[AccessRule]>>) {
        let revoked = Credentials::default().revoked_by(&Credentials::default());
        self.visit(place, |core, now| {
            let change = Change { anonymous: Anonymous::Always, logins: false, revoked: &revoked };
            core.handle_clients(&change, access, now)
        });
        let links = self.sites[&Place::Gateway].links.len();
        let link = self.chance.of(Of::Faults).usize(..links.max(1));
        if link < links && self.chance.of(Of::Faults).bool() {
            self.reload_bridge(link);
        }
    }

    /// As `app::disk` does: what publishers are told, and what the buffers may take.
    pub fn watch(&mut self) {
        self.after(LOOK_INTERVAL, Event::Watch);
        if self.sites[&Place::Gateway].core.is_none() {
            return;
        }
        let now = self.now.instant;
        let site = self.site(Place::Gateway);
        let (is_full, free) = (now < site.disk.full_until, site.free_bytes);
        let reason = is_full.then_some(ReasonCode::QuotaExceeded);
        let free = if is_full { 0 } else { free };
        self.visit(Place::Gateway, |core, now| {
            core.handle_disk(reason, now);
            core.handle_disk_free(free);
        });
        self.note_bounds(free);
    }

    /// The gateway may know that its disk takes nothing.
    pub fn refuses(&self, place: Place) -> bool {
        let refused = self.sites[&place].disk.full_until + LOOK_INTERVAL + LOOK_INTERVAL;
        place == Place::Gateway && self.plan.has(Feature::Reserve) && self.now.instant < refused
    }

    fn with_conn(&mut self, act: impl FnOnce(&mut Self, u64)) {
        let ids: Vec<u64> = self.conns.keys().copied().collect();
        if !ids.is_empty() {
            let id = ids[self.chance.of(Of::Faults).usize(..ids.len())];
            act(self, id);
        }
    }

    fn direction(&mut self) -> Direction {
        if self.chance.of(Of::Faults).bool() { Direction::Up } else { Direction::Down }
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
        let which = self.chance.of(Of::Faults).u32(1..4);
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
        for link in 0..self.sites[&Place::Gateway].links.len() {
            self.pump_link(link);
        }
        let ids: Vec<u64> = self.sites[&Place::Gateway].conns.keys().copied().collect();
        for id in ids {
            self.flush(id);
        }
        // A disk that takes nothing ends like a crash.
        let well = self.sites[&Place::Gateway].disk.full_until <= now.instant;
        self.die(Place::Gateway, well);
    }
}
