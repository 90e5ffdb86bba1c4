//! QoS 2 messages whose PUBREC came: only PUBREL is left to send [MQTT-4.3.3-6]. Knows their order, never
//! the messages.

use std::collections::{BTreeMap, VecDeque};

use crate::mqtt::qos::PacketId;
use crate::store::record::{Lsn, Seq};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    pub seq: Seq,
    /// PUBREL may leave once this is durable.
    pub after: Lsn,
    /// Whether PUBREL left on this connection.
    pub sent: bool,
}

/// As many as the window allows at most.
#[derive(Debug, Default)]
pub struct Releases {
    open: BTreeMap<PacketId, Release>,
    /// Those whose PUBREL has to leave, in the order of their PUBRECs [MQTT-4.6.0-4 of 3.1.1].
    unsent: VecDeque<PacketId>,
}

impl Releases {
    pub fn len(&self) -> usize {
        self.open.len()
    }

    pub fn identifiers(&self) -> impl Iterator<Item = PacketId> {
        self.open.keys().copied()
    }

    pub fn contains(&self, id: PacketId) -> bool {
        self.open.contains_key(&id)
    }

    pub fn insert(&mut self, id: PacketId, seq: Seq, after: Lsn) {
        self.open.insert(id, Release { seq, after, sent: false });
        self.unsent.push_back(id);
    }

    /// PUBREC came again: PUBREL is to be sent again. False where the identifier is unknown.
    pub fn repeat(&mut self, id: PacketId) -> bool {
        let Some(release) = self.open.get_mut(&id) else { return false };
        if std::mem::take(&mut release.sent) {
            self.unsent.push_back(id);
        }
        true
    }

    /// The PUBREL that is next in order, sent or not allowed yet.
    pub fn first_unsent(&self) -> Option<(PacketId, Release)> {
        let id = *self.unsent.front()?;
        self.open.get(&id).map(|release| (id, *release))
    }

    /// The one that `first_unsent` named leaves now.
    pub fn apply_sent(&mut self) {
        if let Some(id) = self.unsent.pop_front()
            && let Some(release) = self.open.get_mut(&id)
        {
            release.sent = true;
        }
    }

    /// PUBCOMP came.
    pub fn complete(&mut self, id: PacketId) -> bool {
        let Some(release) = self.open.remove(&id) else { return false };
        if !release.sent {
            self.unsent.retain(|waiting| *waiting != id);
        }
        true
    }

    /// The connection is gone: each is to be sent again, in its order.
    pub fn rewind(&mut self) {
        let mut order: Vec<(Lsn, Seq, PacketId)> = Vec::with_capacity(self.open.len());
        for (id, release) in &mut self.open {
            release.sent = false;
            order.push((release.after, release.seq, *id));
        }
        // Positions in the log grow with the PUBRECs; those of before a restart have none, but lie first.
        order.sort_unstable();
        self.unsent = order.into_iter().map(|(_, _, id)| id).collect();
    }

    /// The far end lost its session: all identifiers are free.
    pub fn clear(&mut self) -> impl Iterator<Item = PacketId> + use<> {
        self.unsent.clear();
        std::mem::take(&mut self.open).into_keys()
    }
}

#[cfg(test)]
mod tests {
    use super::Releases;
    use crate::mqtt::qos::PacketId;
    use crate::store::record::{Lsn, Seq};

    fn id(number: u16) -> PacketId {
        PacketId::new(number).unwrap()
    }

    fn drain(releases: &mut Releases) -> Vec<u16> {
        let mut order = Vec::new();
        while let Some((id, _)) = releases.first_unsent() {
            releases.apply_sent();
            order.push(id.as_u16());
        }
        order
    }

    #[test]
    fn releases_leave_in_the_order_of_their_pubrecs_again_and_again() {
        let mut releases = Releases::default();
        for (number, seq, after) in [(9, 4, 0), (2, 5, 0), (7, 1, 10), (1, 2, 11)] {
            releases.insert(id(number), Seq(seq), Lsn(after));
        }
        assert_eq!(drain(&mut releases), [9, 2, 7, 1]);
        assert!(releases.repeat(id(7)) && releases.repeat(id(7)) && !releases.repeat(id(8)));
        assert_eq!(drain(&mut releases), [7]);
        releases.rewind();
        assert!(releases.complete(id(2)) && !releases.complete(id(2)));
        assert_eq!(drain(&mut releases), [9, 7, 1]);
        assert_eq!(releases.clear().map(PacketId::as_u16).collect::<Vec<_>>(), [1, 7, 9]);
        assert_eq!(releases.len(), 0);
    }
}
