//! Whether the far end still lives: pings, their answers, and acknowledgements that do not come. Counts time
//! and packets; never closes anything itself.

use std::collections::{BTreeMap, VecDeque};

use crate::base::time::{Duration, Instant};
use crate::bridge::fault::LinkFault;
use crate::mqtt::qos::PacketId;

/// How long the far end may acknowledge nothing at all while something is in flight.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// How long one packet may stay unacknowledged while others are: a server that forgot it.
const ACK_WAIT_MAX: Duration = Duration::from_secs(300);
/// The least time that an answer to a ping gets.
const PING_WAIT_MIN: Duration = Duration::from_secs(5);
/// Packets that may wait for the hand to write them.
const UNFLUSHED_PACKETS_MAX: usize = 1000;

/// What is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Ping,
}

#[derive(Debug)]
pub(super) struct Liveness {
    /// Zero: no pings.
    keep_alive: Duration,
    last_sent: Instant,
    last_received: Instant,
    ping_sent: Option<Instant>,
    /// Packets that the hand has not written yet. Meanwhile no answer is missed: a slow link is the hand's care.
    unflushed: usize,
    flushed_at: Instant,
    last_acknowledged: Instant,
    /// In the order of sending; those that `in_flight` does not know by this serial are answered.
    sent: VecDeque<(u64, PacketId, Instant)>,
    in_flight: BTreeMap<PacketId, u64>,
    next_serial: u64,
}

impl Liveness {
    pub(super) fn new(keep_alive: Duration, now: Instant) -> Self {
        Self {
            keep_alive,
            last_sent: now,
            last_received: now,
            ping_sent: None,
            unflushed: 0,
            flushed_at: now,
            last_acknowledged: now,
            sent: VecDeque::new(),
            in_flight: BTreeMap::new(),
            next_serial: 0,
        }
    }

    pub(super) fn set_keep_alive(&mut self, keep_alive: Duration) {
        self.keep_alive = keep_alive;
    }

    /// Whether the hand keeps up.
    pub(super) fn has_room(&self) -> bool {
        self.unflushed < UNFLUSHED_PACKETS_MAX
    }

    pub(super) fn handle_sent(&mut self, now: Instant) {
        self.unflushed += 1;
        self.last_sent = now;
    }

    /// A ping left whose answer is waited for, whatever the keep alive.
    pub(super) fn handle_pinged(&mut self, now: Instant) {
        self.ping_sent = Some(now);
    }

    /// A packet that the far end has to answer left.
    pub(super) fn handle_in_flight(&mut self, packet_id: PacketId, now: Instant) {
        self.next_serial += 1;
        self.in_flight.insert(packet_id, self.next_serial);
        self.sent.push_back((self.next_serial, packet_id, now));
    }

    pub(super) fn handle_received(&mut self, now: Instant) {
        self.last_received = now;
        self.ping_sent = None;
    }

    pub(super) fn handle_acknowledged(&mut self, packet_id: PacketId, now: Instant) {
        self.in_flight.remove(&packet_id);
        self.last_acknowledged = now;
        while self.sent.front().is_some_and(|(serial, id, _)| self.in_flight.get(id) != Some(serial)) {
            self.sent.pop_front();
        }
    }

    /// All that was handed over has left.
    pub(super) fn handle_flushed(&mut self, now: Instant) {
        if self.unflushed > 0 {
            self.unflushed = 0;
            self.flushed_at = now;
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        if self.unflushed > 0 {
            return None;
        }
        let ping = match self.ping_sent {
            None => self.ping_at(),
            Some(at) => Some(self.pingresp_by(at)),
        };
        ping.into_iter().chain(self.acknowledgement_by()).min()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Result<Due, LinkFault> {
        if self.unflushed > 0 {
            return Ok(Due::Nothing);
        }
        if self.acknowledgement_by().is_some_and(|by| by <= now) {
            return Err(LinkFault::NoAcknowledgement);
        }
        match self.ping_sent {
            Some(at) if self.pingresp_by(at) <= now => Err(LinkFault::NoPingresp),
            None if self.ping_at().is_some_and(|at| at <= now) => {
                self.ping_sent = Some(now);
                Ok(Due::Ping)
            }
            _ => Ok(Due::Nothing),
        }
    }

    /// [MQTT-3.1.2-20]: well before the server's patience ends; and where nothing comes back, to learn why.
    fn ping_at(&self) -> Option<Instant> {
        let quiet_since = self.last_sent.min(self.last_received);
        (!self.keep_alive.is_zero()).then(|| quiet_since + self.keep_alive * 3 / 4)
    }

    fn pingresp_by(&self, ping_sent: Instant) -> Instant {
        ping_sent.max(self.flushed_at) + (self.keep_alive / 2).max(PING_WAIT_MIN)
    }

    fn acknowledgement_by(&self) -> Option<Instant> {
        let (_, _, oldest) = self.sent.front()?;
        let progress = (*oldest).max(self.last_acknowledged).max(self.flushed_at);
        Some((progress + ACK_WAIT).min((*oldest).max(self.flushed_at) + ACK_WAIT_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::{Due, Liveness, UNFLUSHED_PACKETS_MAX};
    use crate::base::time::{Duration, Instant};
    use crate::bridge::fault::LinkFault;
    use crate::mqtt::qos::PacketId;

    fn at(secs: u64) -> Instant {
        Instant::ORIGIN + Duration::from_secs(secs)
    }

    fn id(value: u16) -> PacketId {
        PacketId::new(value).expect("not zero")
    }

    #[test]
    fn a_quiet_link_is_pinged_and_a_silent_one_given_up() {
        let mut liveness = Liveness::new(Duration::from_secs(40), at(0));
        assert_eq!(liveness.next_deadline(), Some(at(30)));
        assert!(matches!(liveness.handle_timeout(at(29)), Ok(Due::Nothing)));
        assert!(matches!(liveness.handle_timeout(at(30)), Ok(Due::Ping)));
        liveness.handle_sent(at(30));
        liveness.handle_flushed(at(30));
        assert_eq!(liveness.next_deadline(), Some(at(50)));
        let mut answered = Liveness::new(Duration::from_secs(40), at(0));
        assert!(matches!(answered.handle_timeout(at(30)), Ok(Due::Ping)));
        answered.handle_received(at(31));
        assert!(matches!(answered.handle_timeout(at(50)), Ok(Due::Ping)), "nothing was sent since");
        assert!(matches!(liveness.handle_timeout(at(50)), Err(LinkFault::NoPingresp)));
    }

    #[test]
    fn progress_keeps_a_slow_server_and_a_forgotten_packet_ends_it() {
        let mut liveness = Liveness::new(Duration::ZERO, at(0));
        liveness.handle_in_flight(id(1), at(0));
        assert_eq!(liveness.next_deadline(), Some(at(30)));
        for secs in (20..300).step_by(20) {
            liveness.handle_in_flight(id(2), at(secs));
            liveness.handle_acknowledged(id(2), at(secs));
            assert!(matches!(liveness.handle_timeout(at(secs + 19)), Ok(Due::Nothing)), "{secs}");
        }
        assert!(matches!(liveness.handle_timeout(at(300)), Err(LinkFault::NoAcknowledgement)));
    }

    #[test]
    fn no_answer_is_missed_while_the_hand_still_writes() {
        let mut liveness = Liveness::new(Duration::from_secs(40), at(0));
        liveness.handle_in_flight(id(1), at(0));
        for _ in 0..UNFLUSHED_PACKETS_MAX {
            assert!(liveness.has_room());
            liveness.handle_sent(at(0));
        }
        assert!(!liveness.has_room());
        assert_eq!(liveness.next_deadline(), None);
        assert!(matches!(liveness.handle_timeout(at(1000)), Ok(Due::Nothing)));
        liveness.handle_flushed(at(1000));
        assert_eq!(liveness.next_deadline(), Some(at(30)));
    }
}
