//! What was read of units not long ago, by its age: registers and bits that need not be asked for again. Whoever read
//! them, and in whatever pieces: a range is answered by the newest that is known of each of its registers. Never
//! answers what is older than it may be, and keeps no refusal.

use std::collections::BTreeMap;

use crate::base::time::{Duration, Instant};
use crate::config::model::Table;
use crate::device::plan::Span;
use crate::device::share::ask::Touches;

/// Registers and bits of one line. Beyond, the oldest goes.
const VALUES_MAX: usize = 65_536;
/// Reads of one line that they came from.
const BLOCKS_MAX: usize = 4_096;

/// Unit, table and first address.
type Place = (u8, Table, u32);

#[derive(Debug, Clone)]
struct Block {
    values: Vec<u16>,
    read_at: Instant,
}

impl Block {
    fn end(&self, start: u32) -> u32 {
        start + u32::try_from(self.values.len()).unwrap_or(0)
    }
}

/// One line's.
#[derive(Debug)]
pub struct Cache {
    age_max: Duration,
    /// None covers a part of another.
    blocks: BTreeMap<Place, Block>,
    values: usize,
}

impl Cache {
    /// Keeps nothing where `age_max` is zero.
    pub fn new(age_max: Duration) -> Self {
        Self { age_max, blocks: BTreeMap::new(), values: 0 }
    }

    pub fn is_off(&self) -> bool {
        self.age_max.is_zero()
    }

    /// `values` were read of a unit; bits are 0 and 1.
    pub fn insert(&mut self, unit: u8, span: Span, values: Vec<u16>, read_at: Instant) {
        if self.is_off() || values.len() != (span.end - span.start) as usize || values.len() > VALUES_MAX {
            return;
        }
        self.cut(unit, span);
        self.make_room(values.len(), read_at);
        self.put((unit, span.table, span.start), Block { values, read_at });
    }

    /// All of the span, none of it older than it may be.
    pub fn read(&self, unit: u8, span: Span, now: Instant) -> Option<Vec<u16>> {
        let mut values = Vec::new();
        let mut at = span.start;
        while at < span.end {
            let (start, block) = self.block_at(unit, span.table, at)?;
            if now.since(block.read_at) > self.age_max {
                return None;
            }
            let end = block.end(start).min(span.end);
            values.extend_from_slice(block.values.get((at - start) as usize..(end - start) as usize)?);
            at = end;
        }
        (!values.is_empty()).then_some(values)
    }

    /// What a write to the unit, or to all where it is 0, may have changed.
    pub(crate) fn forget(&mut self, unit: u8, touches: Touches) {
        let is_of = |of: u8| unit == 0 || of == unit;
        match touches {
            Touches::All => {
                self.blocks.retain(|(of, _, _), _| !is_of(*of));
                self.values = self.blocks.values().map(|block| block.values.len()).sum();
            }
            Touches::Span(span) if unit == 0 => {
                let mut units: Vec<u8> = self.blocks.keys().map(|(unit, _, _)| *unit).collect();
                units.dedup();
                for unit in units {
                    self.cut(unit, span);
                }
            }
            Touches::Span(span) => self.cut(unit, span),
        }
    }

    fn block_at(&self, unit: u8, table: Table, at: u32) -> Option<(u32, &Block)> {
        let below = self.blocks.range((unit, table, 0)..=(unit, table, at));
        let ((_, _, start), block) = below.last()?;
        (block.end(*start) > at).then_some((*start, block))
    }

    /// Leaves of each block what lies beside the span.
    fn cut(&mut self, unit: u8, span: Span) {
        let below = self.blocks.range((unit, span.table, 0)..(unit, span.table, span.end)).rev();
        let touched: Vec<u32> = below
            .take_while(|((_, _, start), block)| block.end(*start) > span.start)
            .map(|((_, _, start), _)| *start)
            .collect();
        for start in touched {
            let Some(block) = self.take((unit, span.table, start)) else { continue };
            let Block { values, read_at } = block;
            let before = span.start.saturating_sub(start) as usize;
            let behind = (span.end - start) as usize;
            if let Some(kept) = values.get(..before).filter(|kept| !kept.is_empty()) {
                self.put((unit, span.table, start), Block { values: kept.to_vec(), read_at });
            }
            if let Some(kept) = values.get(behind..).filter(|kept| !kept.is_empty()) {
                self.put((unit, span.table, span.end), Block { values: kept.to_vec(), read_at });
            }
        }
    }

    fn make_room(&mut self, values: usize, now: Instant) {
        let is_full = |cache: &Self| cache.values + values > VALUES_MAX || cache.blocks.len() >= BLOCKS_MAX;
        if is_full(self) {
            let age_max = self.age_max;
            self.blocks.retain(|_, block| now.since(block.read_at) <= age_max);
            self.values = self.blocks.values().map(|block| block.values.len()).sum();
        }
        while is_full(self) {
            let oldest = self.blocks.iter().min_by_key(|(_, block)| block.read_at).map(|(place, _)| *place);
            let Some(place) = oldest else { return };
            self.take(place);
        }
    }

    fn take(&mut self, place: Place) -> Option<Block> {
        let block = self.blocks.remove(&place)?;
        self.values -= block.values.len();
        Some(block)
    }

    /// What finds no room is asked for again.
    fn put(&mut self, place: Place, block: Block) {
        if self.blocks.len() >= BLOCKS_MAX {
            return;
        }
        self.values += block.values.len();
        self.blocks.insert(place, block);
    }
}

#[cfg(test)]
mod tests {
    use super::{BLOCKS_MAX, Cache, VALUES_MAX};
    use crate::base::time::{Duration, Instant};
    use crate::config::model::Table;
    use crate::device::plan::Span;
    use crate::device::share::ask::Touches;

    fn at(millis: i64) -> Instant {
        Instant::from_millis(millis)
    }

    fn span(start: u32, end: u32) -> Span {
        Span { table: Table::Holding, start, end }
    }

    fn own_addresses(span: Span) -> Vec<u16> {
        (span.start..span.end).map(|at| u16::try_from(at).expect("an address")).collect()
    }

    fn filled(spans: &[(u32, u32, i64)]) -> Cache {
        let mut cache = Cache::new(Duration::from_secs(1));
        for (start, end, millis) in spans {
            cache.insert(7, span(*start, *end), own_addresses(span(*start, *end)), at(*millis));
        }
        cache
    }

    #[test]
    fn a_part_of_what_was_read_is_known_as_long_as_it_is_young() {
        let cache = filled(&[(10, 20, 1_000)]);
        let cases = [
            (7, span(10, 20), 1_000, true),
            (7, span(12, 15), 2_000, true),
            (7, span(12, 15), 2_001, false),
            (7, span(9, 12), 1_000, false),
            (7, span(19, 21), 1_000, false),
            (8, span(12, 15), 1_000, false),
            (7, Span { table: Table::Input, ..span(12, 15) }, 1_000, false),
        ];
        for (unit, span, now, is_known) in cases {
            let expected = is_known.then(|| own_addresses(span));
            assert_eq!(cache.read(unit, span, at(now)), expected, "{unit} {span:?} {now}");
        }
    }

    #[test]
    fn neighbours_answer_together_as_long_as_the_oldest_is_young() {
        let cache = filled(&[(10, 20, 1_000), (20, 30, 1_500), (31, 40, 1_500)]);
        assert_eq!(cache.read(7, span(15, 25), at(2_000)), Some(own_addresses(span(15, 25))));
        assert_eq!(cache.read(7, span(15, 25), at(2_100)), None);
        assert_eq!(cache.read(7, span(25, 35), at(1_500)), None, "30 was never read");
    }

    #[test]
    fn the_newest_counts_and_the_rest_stays() {
        let mut cache = filled(&[(10, 20, 1_000)]);
        cache.insert(7, span(12, 14), vec![1, 2], at(1_800));
        assert_eq!(cache.read(7, span(11, 15), at(2_000)), Some(vec![11, 1, 2, 14]));
        assert_eq!(cache.read(7, span(12, 14), at(2_800)), Some(vec![1, 2]));
        assert_eq!(cache.read(7, span(11, 12), at(2_800)), None);
    }

    #[test]
    fn a_write_drops_what_it_touches_and_no_more() {
        let mut cache = filled(&[(10, 20, 1_000), (20, 30, 1_000)]);
        cache.insert(8, span(10, 20), own_addresses(span(10, 20)), at(1_000));
        cache.forget(7, Touches::Span(span(18, 22)));
        let known = |cache: &Cache, unit, start, end| cache.read(unit, span(start, end), at(1_000)).is_some();
        assert!(known(&cache, 7, 10, 18) && known(&cache, 7, 22, 30) && known(&cache, 8, 10, 20));
        assert!(!known(&cache, 7, 17, 19) && !known(&cache, 7, 21, 23));
        cache.forget(0, Touches::Span(span(12, 13)));
        assert!(!known(&cache, 7, 12, 13) && !known(&cache, 8, 12, 13) && known(&cache, 8, 13, 20));
        cache.forget(7, Touches::All);
        assert!(!known(&cache, 7, 10, 11) && known(&cache, 8, 10, 11));
        cache.forget(0, Touches::All);
        assert_eq!((cache.values, cache.blocks.len()), (0, 0));
    }

    #[test]
    fn nothing_is_kept_where_it_is_always_asked() {
        let mut cache = Cache::new(Duration::ZERO);
        cache.insert(7, span(1, 2), vec![1], at(1_000));
        assert_eq!(cache.read(7, span(1, 2), at(1_000)), None);
    }

    #[test]
    fn its_bounds_are_kept_and_the_oldest_goes_first() {
        let mut cache = Cache::new(Duration::from_secs(3_600));
        for unit in 0..=255 {
            for start in (0..40).map(|at| at * 100) {
                cache.insert(unit, span(start, start + 90), vec![1; 90], at(1_000 + i64::from(unit)));
            }
            assert!(cache.values <= VALUES_MAX && cache.blocks.len() <= BLOCKS_MAX);
        }
        assert!(
            cache.read(255, span(0, 90), at(1_300)).is_some()
                && cache.read(0, span(0, 90), at(1_300)).is_none()
        );
        for start in 0..6_000 {
            cache.insert(1, span(start, start + 1), vec![1], at(2_000));
        }
        assert!(cache.blocks.len() <= BLOCKS_MAX);
        // What is too old goes before anything that is not.
        cache.insert(2, span(0, 1), vec![1], at(2_000_000_000));
        assert_eq!((cache.values, cache.blocks.len()), (1, 1));
    }

    /// Against a map of single registers.
    #[test]
    fn whatever_is_read_and_written_nothing_else_is_answered() {
        let mut rng = fastrand::Rng::with_seed(5);
        let mut cache = Cache::new(Duration::from_secs(1));
        let mut model = std::collections::BTreeMap::new();
        for step in 0..20_000_i64 {
            let start = rng.u32(0..60);
            let touched = span(start, start + rng.u32(1..12));
            let now = at(1_000 + step * 40);
            match rng.u8(0..4) {
                0 => {
                    let values: Vec<u16> = (touched.start..touched.end).map(|_| rng.u16(..)).collect();
                    model.extend((touched.start..).zip(values.iter().map(|value| (*value, now))));
                    cache.insert(7, touched, values, now);
                }
                1 => {
                    cache.forget(7, Touches::Span(touched));
                    model.retain(|at, _| !(touched.start..touched.end).contains(at));
                }
                _ => {
                    let known = |at: u32| {
                        let (value, read_at) = model.get(&at)?;
                        (now.since(*read_at) <= Duration::from_secs(1)).then_some(*value)
                    };
                    let expected: Option<Vec<u16>> = (touched.start..touched.end).map(known).collect();
                    assert_eq!(cache.read(7, touched, now), expected);
                }
            }
        }
    }
}
