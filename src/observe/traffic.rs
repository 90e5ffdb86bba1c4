//! What one link has cost since the start, in bytes of its protocol. Counts alone: never knows what they are bytes of.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counted by the hand of a link, read by whoever shows it.
#[derive(Debug, Default)]
pub struct Traffic {
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    sent_messages: AtomicU64,
}

/// The same at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub sent_bytes: u64,
    pub received_bytes: u64,
    /// Each time that one was sent.
    pub sent_messages: u64,
}

impl Traffic {
    pub fn count_sent(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn count_received(&self, bytes: usize) {
        self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn count_message(&self) {
        self.sent_messages.fetch_add(1, Ordering::Relaxed);
    }

    pub fn counts(&self) -> Counts {
        Counts {
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
            received_bytes: self.received_bytes.load(Ordering::Relaxed),
            sent_messages: self.sent_messages.load(Ordering::Relaxed),
        }
    }
}

impl Counts {
    /// What a message cost on its way up, with all that is sent besides; to a tenth of a byte. None: none was sent.
    #[allow(clippy::cast_precision_loss)] // exact to 2^53 bytes
    pub fn sent_bytes_per_message(self) -> Option<f64> {
        let each = self.sent_bytes as f64 / self.sent_messages as f64;
        (self.sent_messages > 0).then(|| (each * 10.0).round() / 10.0)
    }
}

#[cfg(test)]
mod tests {
    use super::{Counts, Traffic};

    #[test]
    fn what_is_sent_is_divided_among_messages() {
        let traffic = Traffic::default();
        traffic.count_sent(20);
        assert_eq!(traffic.counts().sent_bytes_per_message(), None);
        (0..3).for_each(|_| traffic.count_message());
        traffic.count_sent(180);
        traffic.count_received(7);
        assert_eq!(traffic.counts(), Counts { sent_bytes: 200, received_bytes: 7, sent_messages: 3 });
        assert_eq!(traffic.counts().sent_bytes_per_message(), Some(66.7));
    }
}
