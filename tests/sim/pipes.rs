//! What happens to bytes on the network: when they arrive, what a cut takes, and who learns of an end.

use tidegate::base::time::{Duration, Instant};
use tidegate::bridge::fault::LinkFault;

use super::chance::Of;
use super::net::{Chunk, Direction, Who};
use super::reference::Place;
use super::site::{LinkHand, Rung};
use super::world::{Event, World};

impl World {
    fn latency(&mut self, conn: u64, direction: Direction) -> Instant {
        let base = self.millis(Of::Net, self.plan.latency_ms);
        let now = self.now.instant;
        let slow = Duration::from_millis(self.chance.of(Of::Net).u64(1000..8000));
        let Some(conn) = self.conns.get_mut(&conn) else { return now };
        let pipe = conn.pipe(direction);
        let at = now + base + if now < pipe.slow_until { slow } else { Duration::ZERO };
        pipe.last_at = pipe.last_at.max(at);
        pipe.last_at
    }

    pub fn write(&mut self, id: u64, direction: Direction, chunk: Chunk) {
        let dead = self.conns.get_mut(&id).is_none_or(|conn| conn.pipe(direction).dead);
        if dead {
            return;
        }
        let at = self.latency(id, direction);
        if let Some(conn) = self.conns.get_mut(&id) {
            let pipe = conn.pipe(direction);
            pipe.dead = matches!(chunk, Chunk::End);
            pipe.push(chunk);
            self.at(at, Event::Arrive(id, direction));
        }
    }

    /// Some of what is under way still arrives, and then the end.
    pub fn break_pipe(&mut self, id: u64, direction: Direction, whole: bool) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let pipe = conn.pipe(direction);
        let under_way = pipe.bytes;
        let kept = if whole { under_way } else { self.chance.of(Of::Net).usize(0..=under_way) };
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let pipe = conn.pipe(direction);
        pipe.truncate(kept);
        pipe.dead = false;
        self.write(id, direction, Chunk::End);
    }

    pub fn arrive(&mut self, id: u64, direction: Direction) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let Some(chunk) = conn.pipe(direction).pop() else { return };
        match (direction, chunk) {
            (Direction::Up, Chunk::Bytes(bytes)) if !conn.server_gone => {
                conn.server_in.extend_from_slice(&bytes);
                self.serve(id);
            }
            (Direction::Down, Chunk::Bytes(bytes)) if !conn.client_gone => {
                let packets = conn.client_packets(&bytes);
                let who = conn.who;
                match who {
                    Who::Client(client) => self.client_receives(client, id, packets),
                    Who::Bridge(link) => self.link_receives(link, id, packets),
                }
            }
            (Direction::Up, Chunk::End) => self.server_lost(id),
            (Direction::Down, Chunk::End) => self.client_lost(id, LinkFault::Closed),
            (_, Chunk::Bytes(_)) => {}
        }
        self.unblock(id, direction);
        let over = self.conns.get(&id).is_some_and(|conn| conn.server_gone && conn.client_gone);
        if over {
            self.conns.remove(&id);
        }
    }

    /// Whoever waited for room goes on.
    fn unblock(&mut self, id: u64, direction: Direction) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if conn.pipe(direction).is_full() {
            return;
        }
        match direction {
            Direction::Down if std::mem::take(&mut conn.blocked) => {
                self.serve(id);
                self.flush(id);
            }
            Direction::Up if conn.blocked_since.take().is_some() => {
                let Who::Bridge(link) = conn.who else { return };
                self.rung.push_back((Place::Gateway, Rung::Link(link)));
            }
            _ => {}
        }
    }

    fn server_lost(&mut self, id: u64) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if std::mem::replace(&mut conn.server_gone, true) {
            return;
        }
        let (place, key) = (conn.place, conn.key);
        self.let_go(id);
        self.visit(place, |core, now| core.handle_closed(key, now));
        self.write(id, Direction::Down, Chunk::End);
    }

    /// The broker has done with a connection.
    pub fn let_go(&mut self, id: u64) {
        let now = self.now.instant;
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.server_gone = true;
        let (place, will) = (conn.place, conn.will.take());
        let lived = now.since(conn.opened_at);
        let who = conn.who;
        let came_back = self.conns.range(id + 1..).any(|(_, later)| later.who == who);
        let site = self.site(place);
        site.lived += lived;
        site.conns.remove(&id);
        let epoch = site.epoch;
        if let (Who::Client(client), Some((number, delay_secs @ 1..)), false) = (who, will, came_back) {
            let due_at = now + Duration::from_secs(delay_secs.into());
            self.delayed.insert(client, (number, due_at, epoch));
            self.at(due_at + Duration::from_millis(1), Event::WillDue(client, number, epoch));
        }
    }

    /// The client's side learns of the end, or makes it.
    pub fn client_lost(&mut self, id: u64, why: LinkFault) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if std::mem::replace(&mut conn.client_gone, true) {
            return;
        }
        conn.down.dead = true;
        let who = conn.who;
        self.write(id, Direction::Up, Chunk::End);
        self.reference.faults += 1;
        match who {
            Who::Client(client) if self.clients[client].conn() == Some(id) => {
                self.trace(format_args!("{} lost its connection", self.clients[client].name));
                self.clients[client].lose(&mut self.reference);
                let wait = self.millis(Of::Net, 2000);
                self.after(wait, Event::Client(client));
            }
            Who::Client(_) => {}
            Who::Bridge(link) => {
                self.trace(format_args!("link {link} is down: {why}"));
                self.site(Place::Gateway).links[link] = LinkHand::Idle;
                self.visit(Place::Gateway, |core, now| core.handle_link_disconnected(link, why, now));
                self.rung.push_back((Place::Gateway, Rung::Link(link)));
            }
        }
    }
}
