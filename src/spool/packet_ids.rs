//! Packet identifiers of our own publications: handed out in turn, so that each rests as long as possible
//! before it comes again [MQTT-2.2.1-4] [MQTT-2.3.1-4 of 3.1.1].

use crate::mqtt::qos::PacketId;

#[derive(Debug, Clone)]
pub struct PacketIds {
    first: u16,
    next: u16,
    max: u16,
}

impl PacketIds {
    /// Identifiers from 1 to `max`.
    pub fn up_to(max: u16) -> Self {
        Self::between(1, max)
    }

    /// Identifiers from `first`, which is not 0, to `last`: at least one.
    pub fn between(first: u16, last: u16) -> Self {
        let first = first.max(1);
        Self { first, next: first, max: last.max(first) }
    }

    /// None above this one, which lies among them.
    pub fn limit(&mut self, max: u16) {
        self.max = self.max.min(max).max(self.first);
        self.next = self.next.clamp(self.first, self.max);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        usize::from(self.max - self.first) + 1
    }

    pub fn all(&self) -> impl Iterator<Item = PacketId> {
        (self.first..=self.max).filter_map(PacketId::new)
    }

    /// The next identifier that `in_use` does not know; None where all are in use.
    pub fn take(&mut self, in_use: impl Fn(PacketId) -> bool) -> Option<PacketId> {
        for _ in 0..self.count() {
            let candidate = PacketId::new(self.next);
            self.next = self.behind(self.next);
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
        self.next = self.behind(id.as_u16());
    }

    fn behind(&self, id: u16) -> u16 {
        if (self.first..self.max).contains(&id) { id + 1 } else { self.first }
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
        let mut ids = PacketIds::between(7, 9);
        ids.skip_past(PacketId::new(8).expect("not zero"));
        let taken: Vec<_> = (0..4).filter_map(|_| ids.take(|_| false)).map(PacketId::as_u16).collect();
        assert_eq!((ids.count(), &taken[..]), (3, &[9, 7, 8, 9][..]));
        assert_eq!(ids.all().map(PacketId::as_u16).collect::<Vec<_>>(), [7, 8, 9]);
        ids.skip_past(PacketId::new(99).expect("not zero"));
        assert_eq!(ids.take(|_| false).map(PacketId::as_u16), Some(7));
    }
}
