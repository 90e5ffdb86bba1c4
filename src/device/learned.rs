//! What a unit has shown of itself: ranges that it refuses to read as a whole, and how much it gives at once. Never
//! asks it; what is known of a unit may be kept and given back at the next start.

use crate::config::model::Table;
use crate::device::plan::Span;

/// Refused ranges that are remembered of one unit; beyond, the oldest is forgotten and found again.
pub const REFUSED_MAX: usize = 256;

/// Polls in which a length may be refused while it is looked for: then what the unit has answered is enough.
const SEARCH_POLLS_MAX: u8 = 2;

/// How many registers, or bits, a unit reads at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ceiling {
    /// The most that it has answered.
    pub answered: u16,
    /// The least that it refused for its length.
    pub refused: Option<u16>,
    /// What it refused then. None: it is not known any more.
    blamed: Option<Span>,
    /// Polls in which a length was refused.
    searched: u8,
}

impl Ceiling {
    pub fn new(answered: u16, refused: Option<u16>) -> Self {
        let refused = refused.filter(|refused| *refused > answered);
        // What is not known is still to be looked for.
        let searched = if refused.is_some() { SEARCH_POLLS_MAX } else { 0 };
        Self { answered, refused, blamed: None, searched }
    }

    /// What to ask for at most: half-way between what it gives and what it does not, until both meet.
    fn apply(self, count_max: u16) -> u16 {
        let Some(refused) = self.refused else { return count_max };
        let most =
            if self.searched < SEARCH_POLLS_MAX { self.answered.midpoint(refused) } else { self.answered };
        count_max.min(most.max(1))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Learned {
    /// None holds another one. Oldest first.
    refused: Vec<Span>,
    pub registers: Ceiling,
    pub bits: Ceiling,
}

impl Learned {
    pub fn new(refused: Vec<Span>, registers: Ceiling, bits: Ceiling) -> Self {
        let mut learned = Self { refused: Vec::new(), registers, bits };
        for span in refused {
            learned.refuse(span);
        }
        learned
    }

    pub fn refused(&self) -> &[Span] {
        &self.refused
    }

    pub fn registers_max(&self, configured: u16) -> u16 {
        self.registers.apply(configured)
    }

    pub fn bits_max(&self, standard: u16) -> u16 {
        self.bits.apply(standard)
    }

    fn ceiling(&mut self, table: Table) -> &mut Ceiling {
        match table {
            Table::Coil | Table::Discrete => &mut self.bits,
            Table::Holding | Table::Input => &mut self.registers,
        }
    }

    /// The unit does not read this as a whole. True: that was not known.
    pub fn refuse(&mut self, span: Span) -> bool {
        let ceiling = self.ceiling(span.table);
        if ceiling.blamed.is_some_and(|blamed| blamed.contains(span)) {
            // It was not the length.
            (ceiling.refused, ceiling.blamed) = (None, None);
        }
        if self.refused.iter().any(|known| span.contains(*known)) {
            return false;
        }
        self.refused.retain(|known| !known.contains(span));
        if self.refused.len() >= REFUSED_MAX {
            self.refused.remove(0);
        }
        self.refused.push(span);
        true
    }

    /// A poll ends in which a length was refused.
    pub fn end_search(&mut self) {
        for ceiling in [&mut self.registers, &mut self.bits] {
            ceiling.searched = ceiling.searched.saturating_add(u8::from(ceiling.refused.is_some()));
        }
    }

    /// The unit says that this is too long. False: it has answered as much before, so that it must mean something
    /// else.
    pub fn refuse_length(&mut self, span: Span) -> bool {
        let count = count_of(span);
        let ceiling = self.ceiling(span.table);
        let is_news = count > ceiling.answered && ceiling.refused.is_none_or(|refused| count < refused);
        if is_news {
            (ceiling.refused, ceiling.blamed) = (Some(count), Some(span));
        }
        is_news
    }

    /// The unit read this. True: it was known otherwise.
    pub fn accept(&mut self, span: Span) -> bool {
        let known = self.refused.len();
        self.refused.retain(|refused| !span.contains(*refused));
        let ceiling = self.ceiling(span.table);
        let count = count_of(span);
        let narrows = ceiling.refused.is_some() && count > ceiling.answered;
        ceiling.answered = ceiling.answered.max(count);
        if ceiling.refused.is_some_and(|refused| count >= refused) {
            (ceiling.refused, ceiling.blamed) = (None, None);
        }
        narrows || self.refused.len() < known
    }
}

fn count_of(span: Span) -> u16 {
    u16::try_from(span.end.saturating_sub(span.start)).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Ceiling, Learned, REFUSED_MAX};
    use crate::config::model::Table;
    use crate::device::plan::Span;

    fn span(start: u32, end: u32) -> Span {
        Span { table: Table::Holding, start, end }
    }

    #[test]
    fn the_narrowest_range_is_what_counts() {
        let mut learned = Learned::default();
        assert!(learned.refuse(span(0, 10)) && learned.refuse(span(4, 6)));
        assert!(!learned.refuse(span(3, 6)), "it holds one that is known");
        assert_eq!(learned.refused(), [span(4, 6)]);
        assert!(!learned.accept(span(0, 5)) && learned.accept(span(4, 6)), "it is there now");
        assert!(learned.refused().is_empty());
        for start in 0..1_000 {
            learned.refuse(span(start * 2, start * 2 + 1));
        }
        assert_eq!(learned.refused().len(), REFUSED_MAX);
    }

    #[test]
    fn a_length_is_found_by_halves() {
        let mut learned = Learned::default();
        let mut refusals = 0;
        // A unit that reads 32 registers at once.
        for _ in 0..20 {
            let count = u32::from(learned.registers_max(125));
            if count > 32 {
                refusals += 1;
                assert!(learned.refuse_length(span(0, count)));
            } else {
                learned.accept(span(0, count));
            }
        }
        assert_eq!(learned.registers_max(125), 32);
        assert!(refusals <= 7, "{refusals}");
        assert_eq!(learned.bits_max(2000), 2000);
        assert!(!learned.refuse_length(span(0, 32)), "it has answered as much");
        assert!(learned.accept(span(0, 100)) && learned.registers_max(125) == 125, "it was not the length");
    }

    #[test]
    fn a_hole_is_not_taken_for_a_length() {
        let mut learned = Learned::default();
        assert!(learned.refuse_length(span(0, 10)));
        assert!(learned.refuse(span(5, 6)));
        assert_eq!(learned.registers_max(125), 125);
        assert_eq!(Ceiling::new(5, Some(5)).refused, None);
    }
}
