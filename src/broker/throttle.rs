//! How fast one client may publish: what is above `publish_rate` waits here, and all that came behind it, so that the
//! order stays. Nobody is disconnected and nothing is lost: the hand reads no further until there is room.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;

use crate::base::time::{Duration, Instant};
use crate::broker::deadlines::Due;
use crate::broker::effect::ConnKey;
use crate::broker::violation::Fault;
use crate::broker::{Broker, Visit};
use crate::mqtt::packet::Packet;

/// Packets of one client that may wait: as many as a hand hands in at once. It reads no further then.
pub const HELD_PACKETS_MAX: usize = 256;
/// What a client that was silent may publish at once: the messages of so much time.
const BURST: Duration = Duration::from_secs(1);
/// A client that is too fast is looked at so often, and not for each of its messages.
const LOOKS_PER_SECOND: u32 = 10;

/// One client's allowance: each message takes its share of a second, and no more than [`BURST`] may be taken ahead.
#[derive(Debug)]
pub struct Throttle {
    rate: NonZeroU32,
    /// When all that was taken is worked off.
    taken_until: Instant,
    held: VecDeque<Packet>,
    /// When the first of those that wait may pass. None: nothing waits.
    due: Option<Instant>,
}

/// The last client that was too fast.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Throttled {
    /// Messages that had to wait since the start.
    pub count: u64,
    pub client_id: Arc<str>,
}

impl Throttle {
    pub fn new(rate: NonZeroU32) -> Self {
        Self { rate, taken_until: Instant::ORIGIN, held: VecDeque::new(), due: None }
    }

    pub fn is_holding(&self) -> bool {
        self.due.is_some()
    }

    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Takes a message's share. False: there is no room for it yet.
    fn take(&mut self, now: Instant) -> bool {
        let until = self.taken_until.max(now) + self.share(1);
        let fits = until <= now + BURST;
        if fits {
            self.taken_until = until;
        }
        fits
    }

    /// When it is worth to look again: for all that waits, or for as much as comes free between two looks.
    fn next_look(&self) -> Instant {
        let waiting = self.held.iter().filter(|packet| is_message(packet)).count();
        let a_look = (self.rate.get() / LOOKS_PER_SECOND).max(1);
        let messages = u32::try_from(waiting).unwrap_or(u32::MAX).clamp(1, a_look);
        self.taken_until + self.share(messages) - BURST
    }

    fn share(&self, messages: u32) -> Duration {
        BURST / self.rate.get() * messages
    }

    /// The next of those that wait, if it may pass.
    fn release(&mut self, now: Instant) -> Option<Packet> {
        let waits = self.held.front().is_some_and(is_message) && !self.take(now);
        if waits { None } else { self.held.pop_front() }
    }
}

fn is_message(packet: &Packet) -> bool {
    matches!(packet, Packet::Publish(_))
}

impl Broker {
    /// Whether the client is too fast: until its next look nothing more is to be read from it.
    pub fn is_holding(&self, key: ConnKey) -> bool {
        let link = self.conns.link(key);
        link.and_then(|link| link.throttle.as_ref()).is_some_and(|throttle| throttle.is_holding())
    }

    /// The last client that was too fast. None: there was none.
    pub fn throttled(&self) -> Option<&Throttled> {
        self.throttled.as_ref()
    }

    /// The packet, if it may pass. None: it waits.
    pub(super) fn hold_back(
        &mut self,
        key: ConnKey,
        packet: Packet,
        now: Instant,
    ) -> Result<Option<Packet>, Fault> {
        let link = self.conns.link_mut(key);
        let Some((session, throttle)) = link.and_then(|link| Some((link.session, link.throttle.as_mut()?)))
        else {
            return Ok(Some(packet));
        };
        if !throttle.is_holding() && (!is_message(&packet) || throttle.take(now)) {
            return Ok(Some(packet));
        }
        if throttle.held.len() >= HELD_PACKETS_MAX {
            return Err(Fault::TooManyUnanswered);
        }
        let counts = is_message(&packet);
        throttle.held.push_back(packet);
        if !throttle.is_holding() {
            let at = throttle.next_look();
            throttle.due = Some(at);
            self.deadlines.add(at, Due::Throttle(key));
        }
        if counts && let Some(session) = self.sessions.get(session) {
            self.stats.throttled += 1;
            let client_id = session.client_id.clone();
            self.throttled = Some(Throttled { count: self.stats.throttled, client_id });
        }
        Ok(None)
    }

    /// What waited passes, as far as there is room; then the client is read again.
    pub(super) fn handle_throttle_due(&mut self, key: ConnKey, visit: &mut Visit<'_>) {
        // A packet may end its connection: then there is nothing left to do.
        while let Some(throttle) = self.throttle_of(key) {
            if let Some(packet) = throttle.release(visit.now.instant) {
                let applied = self.apply(key, packet, visit);
                // Answered already; what the door logs of violations comes with a client's own visit.
                let _answered = self.conclude(key, applied, visit);
                continue;
            }
            if throttle.held.is_empty() {
                throttle.due = None;
                self.go_on_reading(key, visit);
            } else {
                let at = throttle.next_look();
                throttle.due = Some(at);
                self.deadlines.add(at, Due::Throttle(key));
            }
            return;
        }
    }

    /// That it was not heard meanwhile is no silence of the client.
    fn go_on_reading(&mut self, key: ConnKey, visit: &mut Visit<'_>) {
        if let Some(conn) = self.conns.get_mut(key) {
            conn.last_seen = visit.now.instant;
            visit.out.resumed.push(key);
        }
    }

    fn throttle_of(&mut self, key: ConnKey) -> Option<&mut Throttle> {
        self.conns.link_mut(key)?.throttle.as_deref_mut()
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::Throttle;
    use crate::base::time::{Duration, Instant};

    /// How many pass at once, and how many in the ten seconds that follow.
    fn passes(rate: u32) -> (u32, u32) {
        let mut throttle = Throttle::new(NonZeroU32::new(rate).expect("a rate"));
        let start = Instant::from_nanos(5_000_000_000);
        let mut at_once = 0;
        while throttle.take(start) {
            at_once += 1;
        }
        let mut later = 0;
        for millis in 1..=10_000 {
            while throttle.take(start + Duration::from_millis(millis)) {
                later += 1;
            }
        }
        (at_once, later)
    }

    #[test]
    fn a_second_passes_at_once_and_then_the_rate() {
        for rate in [1, 2, 3, 7, 10, 100, 999, 5000] {
            assert_eq!(passes(rate), (rate, 10 * rate), "{rate}");
        }
    }
}
