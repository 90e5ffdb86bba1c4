//! Packet identifiers of our own publications: handed out in turn, so that each rests as long as possible
//! before it comes again [MQTT-2.2.1-4] [MQTT-2.3.1-4 of 3.1.1].

use crate::mqtt::qos::PacketId;

#[derive(Debug, Clone)]
pub struct PacketIds {
    next: u16,
    max: u16,
}

impl PacketIds {
    /// Identifiers from 1 to `max`.
    pub fn up_to(max: u16) -> Self {
        Self { next: 1, max: max.max(1) }
    }

    /// The largest, so also how many there are.
    pub fn max(&self) -> usize {
        usize::from(self.max)
    }

    /// The next identifier that `in_use` does not know; None where all are in use.
    pub fn take(&mut self, in_use: impl Fn(PacketId) -> bool) -> Option<PacketId> {
        for _ in 0..self.max {
            let candidate = PacketId::new(self.next);
            self.next = if self.next >= self.max { 1 } else { self.next + 1 };
            if let Some(id) = candidate
                && !in_use(id)
            {
                return Some(id);
            }
        }
        None
    }

    /// Goes on behind an identifier that was in use before a restart.
    pub fn skip_past(&mut self, id: PacketId) {
        self.next = if id.as_u16() >= self.max { 1 } else { id.as_u16() + 1 };
    }
}

#[cfg(test)]
mod tests {
    use super::PacketIds;
    use crate::mqtt::qos::PacketId;

    #[test]
    fn identifiers_go_round_and_skip_what_is_in_use() {
        let mut ids = PacketIds::up_to(3);
        let taken: Vec<_> =
            (0..4).filter_map(|_| ids.take(|id| id.as_u16() == 2)).map(PacketId::as_u16).collect();
        assert_eq!(taken, [1, 3, 1, 3]);
        assert_eq!(ids.take(|_| true), None);
    }
}
