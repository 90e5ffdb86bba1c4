//! What happens to bytes on the network: when they arrive, what a cut takes, and who learns of an end.

use tidegate::base::time::{Duration, Instant};
use tidegate::bridge::fault::LinkFault;

use super::client::Phase;
use super::net::{Chunk, Direction, Who};
use super::reference::Place;
use super::site::{LinkHand, Rung};
use super::world::{Event, World};

impl World {
    fn latency(&mut self, conn: u64, direction: Direction) -> Instant {
        let base = self.millis(self.plan.latency_ms);
        let now = self.now.instant;
        let slow = Duration::from_millis(self.rng.u64(1000..8000));
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
        let kept = if whole { pipe.bytes } else { self.rng.usize(0..=pipe.bytes) };
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
                    Who::Bridge => self.link_receives(id, packets),
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
                self.rung.push_back((Place::Gateway, Rung::Link));
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
        self.site(place).conns.remove(&id);
        self.visit(place, |core, now| core.handle_closed(key, now));
        self.write(id, Direction::Down, Chunk::End);
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
                self.clients[client].phase = Phase::Away;
                let wait = self.millis(2000);
                self.after(wait, Event::Client(client));
            }
            Who::Client(_) => {}
            Who::Bridge => {
                self.trace(format_args!("the link is down: {why}"));
                self.site(Place::Gateway).link = LinkHand::Idle;
                self.visit(Place::Gateway, |core, now| core.handle_link_disconnected(0, why, now));
                self.rung.push_back((Place::Gateway, Rung::Link));
            }
        }
    }
}
