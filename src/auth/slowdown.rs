//! What failed logins cost the address that they come from: each a longer wait, and few waits at a time. Counts in
//! a bounded table; never waits itself.

use std::collections::BTreeMap;

use crate::base::time::{Duration, Instant};

/// What the first failure costs; each further one twice as much.
pub const DELAY_MIN: Duration = Duration::from_millis(250);
pub const DELAY_MAX: Duration = Duration::from_secs(8);
/// Without a failure for so long an address is as good as new.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);
/// Failures of one address that wait at a time; with more, it is refused unheard.
pub const WAITING_MAX: u32 = 16;
/// Logins of one address that are checked at a time: half of what is checked at all.
pub const CHECKING_MAX: u32 = 128;
/// Addresses that are remembered.
pub const ADDRESSES_MAX: usize = 4096;

/// Where somebody comes from: an address, or the network that counts as one.
pub type Source = u128;

/// The network that counts as one source: an IPv4 address itself, of IPv6 the /64 that one household has.
/// `address` is IPv6, or IPv4 mapped into it.
pub fn source_of(address: u128) -> Source {
    const MAPPED: u128 = 0xffff;
    if address >> 32 == MAPPED { address } else { address >> 64 << 64 }
}

#[derive(Debug, Clone, Copy)]
struct Record {
    failures: u32,
    waiting: u32,
    checking: u32,
    last: Instant,
}

#[derive(Debug, Default)]
pub struct Slowdown {
    records: BTreeMap<Source, Record>,
}

impl Slowdown {
    /// A login is to be checked; [`Slowdown::end`] follows. False: it is to be refused unheard.
    pub fn begin(&mut self, source: Source, now: Instant) -> bool {
        let record = self.record(source, now);
        if record.waiting >= WAITING_MAX || record.checking >= CHECKING_MAX {
            return false;
        }
        record.checking += 1;
        true
    }

    /// It was checked.
    pub fn end(&mut self, source: Source) {
        let Some(record) = self.records.get_mut(&source) else { return };
        record.checking = record.checking.saturating_sub(1);
        if record.checking == 0 && record.waiting == 0 && record.failures == 0 {
            self.records.remove(&source);
        }
    }

    /// A login failed: how long its answer has to wait. [`Slowdown::release`] follows when it has.
    pub fn handle_failure(&mut self, source: Source, now: Instant) -> Duration {
        let record = self.record(source, now);
        if now.since(record.last) >= FORGOTTEN_AFTER {
            record.failures = 0;
        }
        record.failures = record.failures.saturating_add(1);
        record.waiting = record.waiting.saturating_add(1);
        record.last = now;
        let doublings = (record.failures - 1).min(16);
        DELAY_MIN.saturating_mul(1 << doublings).min(DELAY_MAX)
    }

    /// One failure has been answered.
    pub fn release(&mut self, source: Source) {
        if let Some(record) = self.records.get_mut(&source) {
            record.waiting = record.waiting.saturating_sub(1);
        }
    }

    fn record(&mut self, source: Source, now: Instant) -> &mut Record {
        if self.records.len() >= ADDRESSES_MAX && !self.records.contains_key(&source) {
            self.forget_oldest();
        }
        self.records.entry(source).or_insert(Record { failures: 0, waiting: 0, checking: 0, last: now })
    }

    fn forget_oldest(&mut self) {
        let oldest = self.records.iter().min_by_key(|(_, record)| record.last).map(|(source, _)| *source);
        if let Some(source) = oldest {
            self.records.remove(&source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ADDRESSES_MAX, CHECKING_MAX, DELAY_MAX, FORGOTTEN_AFTER, Slowdown, WAITING_MAX, source_of};
    use crate::base::time::{Duration, Instant};

    const NOW: Instant = Instant::from_nanos(1_000_000_000);

    #[test]
    fn each_failure_costs_more_until_it_is_forgotten() {
        let mut slowdown = Slowdown::default();
        let waits: Vec<u128> = (0..8).map(|_| slowdown.handle_failure(1, NOW).as_millis()).collect();
        assert_eq!(waits, [250, 500, 1000, 2000, 4000, 8000, 8000, 8000]);
        assert_eq!(slowdown.handle_failure(2, NOW).as_millis(), 250, "an address of its own");
        let later = NOW + FORGOTTEN_AFTER - Duration::from_nanos(1);
        assert_eq!(slowdown.handle_failure(1, later), DELAY_MAX);
        assert_eq!(slowdown.handle_failure(1, later + FORGOTTEN_AFTER).as_millis(), 250);
    }

    #[test]
    fn few_wait_at_a_time() {
        let mut slowdown = Slowdown::default();
        for _ in 0..WAITING_MAX {
            assert!(slowdown.begin(1, NOW));
            slowdown.end(1);
            slowdown.handle_failure(1, NOW);
        }
        assert!(!slowdown.begin(1, NOW) && slowdown.begin(2, NOW));
        slowdown.release(1);
        assert!(slowdown.begin(1, NOW));
    }

    #[test]
    fn one_address_takes_half_of_the_threads_and_leaves_no_trace_of_what_went_well() {
        let mut slowdown = Slowdown::default();
        for _ in 0..CHECKING_MAX {
            assert!(slowdown.begin(1, NOW));
        }
        assert!(!slowdown.begin(1, NOW) && slowdown.begin(2, NOW));
        slowdown.end(2);
        for _ in 0..CHECKING_MAX {
            slowdown.end(1);
        }
        assert!(slowdown.records.is_empty());
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_oldest() {
        let mut slowdown = Slowdown::default();
        for source in 0..=ADDRESSES_MAX as u128 {
            slowdown
                .handle_failure(source, NOW + Duration::from_nanos(u64::try_from(source).expect("small")));
        }
        assert_eq!(slowdown.records.len(), ADDRESSES_MAX);
        assert!(!slowdown.records.contains_key(&0) && slowdown.records.contains_key(&1));
    }

    #[test]
    fn a_network_counts_as_one() {
        let v4 = |host: u128| 0xffff_0a00_0000_u128 | host;
        assert_ne!(source_of(v4(1)), source_of(v4(2)));
        let net = 0x2001_0db8_0000_0001_u128 << 64;
        assert_eq!(source_of(net | 1), source_of(net | 0xdead_beef));
        assert_ne!(source_of(net), source_of(net + (1 << 64)));
    }
}
