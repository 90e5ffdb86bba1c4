//! Finds out where the models of a unit lie: the mark at one of three addresses, then from header to header to the end.
//! Says what to read next and takes what was read; never reads itself, and never waits.

use crate::config::sunspec::{END, HEADER_REGISTERS, MARK, Map, Placed};

/// Where a map may begin.
pub const BASES: [u16; 3] = [40_000, 50_000, 0];
/// Models of one unit that are looked at: far more than any has, so that a chain which never ends does.
pub const MODELS_MAX: usize = 64;

/// What comes of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The next read.
    Read(Ask),
    Found(Map),
    /// No map begins where one may.
    NotFound,
}

/// Holding registers to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    pub address: u16,
    pub count: u16,
}

/// A search under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    /// Where it began, among [`BASES`].
    first: usize,
    /// Bases that were looked at.
    tried: usize,
    /// The next header. None: the mark is still looked for.
    header: Option<u16>,
    models: Vec<Placed>,
}

impl Search {
    /// Begins where a map was found before, if one was.
    pub fn new(base: Option<u16>) -> Self {
        let first = BASES.iter().position(|known| Some(*known) == base).unwrap_or(0);
        Self { first, tried: 0, header: None, models: Vec::new() }
    }

    fn base(&self) -> u16 {
        BASES.iter().cycle().nth(self.first + self.tried).copied().unwrap_or_default()
    }

    /// What to read now.
    pub fn ask(&self) -> Ask {
        Ask { address: self.header.unwrap_or_else(|| self.base()), count: HEADER_REGISTERS }
    }

    /// The words that were asked for.
    pub fn handle_words(&mut self, words: &[u16]) -> Step {
        let [first, second] = words else { return self.next_base() };
        let Some(header) = self.header else {
            if [*first, *second] != MARK {
                return self.next_base();
            }
            self.header = self.base().checked_add(HEADER_REGISTERS);
            return Step::Read(self.ask());
        };
        // Some units end with zeros.
        if *first == END || *first == 0 {
            return self.found();
        }
        let Some(address) = header.checked_add(HEADER_REGISTERS) else { return self.found() };
        self.models.push(Placed { number: *first, address, length: *second });
        let next = address.checked_add(*second).filter(|_| self.models.len() < MODELS_MAX);
        match next {
            Some(next) => {
                self.header = Some(next);
                Step::Read(self.ask())
            }
            None => self.found(),
        }
    }

    /// The unit does not give what was asked for: no map begins there, or the last model has no end behind it.
    pub fn handle_refused(&mut self) -> Step {
        if self.header.is_none() || self.models.is_empty() { self.next_base() } else { self.found() }
    }

    /// No answer. The next search begins elsewhere where this one has not found the mark: there are units that say
    /// nothing of what they do not have.
    #[must_use]
    pub fn restarted(&self) -> Self {
        let next = if self.header.is_none() { self.tried + 1 } else { self.tried };
        Self { first: (self.first + next) % BASES.len(), tried: 0, header: None, models: Vec::new() }
    }

    fn next_base(&mut self) -> Step {
        self.tried += 1;
        (self.header, self.models) = (None, Vec::new());
        if self.tried < BASES.len() { Step::Read(self.ask()) } else { Step::NotFound }
    }

    fn found(&self) -> Step {
        Step::Found(Map { base: self.base(), models: self.models.clone() })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{MODELS_MAX, Search, Step};
    use crate::config::sunspec::{END, MARK, Map, Placed};

    /// What a unit holds; what it does not hold it refuses.
    fn unit(base: u16, models: &[(u16, u16)], end: &[u16]) -> BTreeMap<u16, u16> {
        let mut words = MARK.to_vec();
        for (number, length) in models {
            words.extend([*number, *length]);
            words.extend(std::iter::repeat_n(0x1234, usize::from(*length)));
        }
        words.extend(end);
        (base..).zip(words).collect()
    }

    /// What is found, and after how many reads.
    fn search(holds: &BTreeMap<u16, u16>, mut search: Search) -> (Option<Map>, usize) {
        let mut reads = 0;
        let mut ask = search.ask();
        loop {
            reads += 1;
            let addresses = ask.address..ask.address + ask.count;
            let words: Option<Vec<u16>> = addresses.map(|address| holds.get(&address).copied()).collect();
            let step = match words {
                Some(words) => search.handle_words(&words),
                None => search.handle_refused(),
            };
            match step {
                Step::Read(next) => ask = next,
                Step::Found(map) => return (Some(map), reads),
                Step::NotFound => return (None, reads),
            }
        }
    }

    fn map(base: u16, models: &[(u16, u16, u16)]) -> Map {
        let placed = |(number, address, length): &(u16, u16, u16)| Placed {
            number: *number,
            address: *address,
            length: *length,
        };
        Map { base, models: models.iter().map(placed).collect() }
    }

    #[test]
    fn a_map_is_found_wherever_it_may_begin() {
        let models = [(1, 66), (103, 50), (160, 48)];
        let placed =
            |base| Some(map(base, &[(1, base + 4, 66), (103, base + 72, 50), (160, base + 124, 48)]));
        for (base, reads) in [(40_000, 5), (50_000, 6), (0, 7)] {
            let holds = unit(base, &models, &[END, 0]);
            assert_eq!(search(&holds, Search::new(None)), (placed(base), reads), "{base}");
            assert_eq!(search(&holds, Search::new(Some(base))), (placed(base), 5), "{base}");
        }
        // Ends that are none: refused, zeros.
        for end in [&[][..], &[0, 0]] {
            assert_eq!(search(&unit(40_000, &models, end), Search::new(None)).0, placed(40_000));
        }
        assert_eq!(search(&unit(1_000, &models, &[END, 0]), Search::new(None)), (None, 3));
        assert_eq!(search(&unit(40_000, &[], &[]), Search::new(None)), (None, 4));
        // Another mark at the first base.
        let mut holds = unit(50_000, &models, &[END, 0]);
        holds.extend([(40_000, 1), (40_001, 2)]);
        assert_eq!(search(&holds, Search::new(None)).0, placed(50_000));
    }

    #[test]
    fn a_chain_that_never_ends_is_bounded() {
        let endless = unit(40_000, &vec![(64_001, 0); 500], &[]);
        let (found, reads) = search(&endless, Search::new(None));
        assert_eq!(found.map(|map| map.models.len()), Some(MODELS_MAX));
        assert_eq!(reads, MODELS_MAX + 1);
        let beyond = unit(50_000, &[(1, 66), (2, 100)], &[]);
        let mut beyond = beyond;
        beyond.insert(50_071, 60_000);
        let (found, _) = search(&beyond, Search::new(None));
        assert_eq!(found.map(|map| map.models.len()), Some(2));
    }

    #[test]
    fn silence_is_followed_by_another_base() {
        let search = Search::new(None);
        let asks = [search.clone(), search.restarted(), search.restarted().restarted()];
        assert_eq!(asks.map(|search| search.ask().address), [40_000, 50_000, 0]);
        let mut search = Search::new(Some(50_000));
        search.handle_words(&MARK);
        assert_eq!(search.restarted().ask().address, 50_000);
    }
}
