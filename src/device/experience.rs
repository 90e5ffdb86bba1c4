//! What a device's reads have taught so far: plans the reads of a poll by it, and tries in parts what was refused.
//! Never sends one.

use std::collections::VecDeque;

use crate::config::model::Device;
use crate::device::learned::Learned;
use crate::device::plan::{self, BITS_MAX, Block, Limits, Price, Span};
use crate::device::request::Exception;

/// What is found out in the course of one poll.
#[derive(Debug, Default)]
pub(crate) struct Trial {
    suspects: Vec<Suspect>,
    /// A read was refused for its length.
    has_length: bool,
}

/// A read that was refused and is tried in two halves.
#[derive(Debug)]
struct Suspect {
    read: Span,
    /// What must be refused if both halves are answered.
    cause: Span,
}

#[derive(Debug)]
pub(crate) struct Experience {
    price: Price,
    learned: Learned,
    /// An earlier poll tried refused reads in parts.
    has_split: bool,
    /// Something was learned that nobody was told.
    is_news: bool,
}

impl Experience {
    pub(crate) fn new() -> Self {
        Self { price: Price::NETWORK, learned: Learned::default(), has_split: false, is_news: false }
    }

    /// What a request costs on the line.
    pub(crate) fn set_price(&mut self, price: Price) {
        self.price = price;
    }

    /// What an earlier run learned of the unit.
    pub(crate) fn recall(&mut self, learned: Learned) {
        self.has_split = !learned.refused().is_empty();
        self.learned = learned;
    }

    pub(crate) fn blocks(&self, settings: &Device, due: &[usize]) -> VecDeque<Block> {
        let limits = Limits {
            gap_max: settings.max_gap,
            registers_max: self.learned.registers_max(settings.max_registers),
            bits_max: self.learned.bits_max(BITS_MAX),
            price: self.price,
            refused: self.learned.refused(),
        };
        let mut blocks = plan::blocks(&settings.points, due, &limits).into();
        scales_first(settings, &mut blocks);
        blocks
    }

    pub(crate) fn handle_answered(&mut self, block: &Block) {
        self.is_news |= self.learned.accept(block.span());
    }

    /// The unit does not read this as a whole. True: `rest`, what is still to be read in the poll, holds it in parts.
    pub(crate) fn handle_refused(
        &mut self,
        settings: &Device,
        (block, exception): (&Block, Exception),
        trial: &mut Trial,
        rest: &mut VecDeque<Block>,
    ) -> bool {
        let read = block.span();
        if !self.has_split {
            // A part that is refused may explain the whole: the next poll shows. What that one splits stays so.
            trial.suspects.retain(|suspect| !suspect.read.contains(read));
        }
        if block.points.len() > 1 && exception.is_illegal_value() && self.learned.refuse_length(read) {
            self.is_news = true;
            trial.has_length = true;
            let points = rest.iter().chain([block]).flat_map(|block| block.points.iter().copied());
            *rest = self.blocks(settings, &points.collect::<Vec<_>>());
            return true;
        }
        let Some((first, second, cause)) = plan::halves(block, &settings.points) else {
            self.is_news |= self.learned.refuse(read);
            return false;
        };
        trial.suspects.push(Suspect { read, cause });
        rest.push_front(second);
        rest.push_front(first);
        scales_first(settings, rest);
        true
    }

    /// Everything was answered or refused.
    pub(crate) fn end_poll(&mut self, trial: Trial) {
        if trial.has_length {
            self.learned.end_search();
        }
        self.has_split |= !trial.suspects.is_empty() || !self.learned.refused().is_empty();
        for suspect in trial.suspects {
            self.is_news |= self.learned.refuse(suspect.cause);
        }
    }

    /// All that is known, where it was not told.
    pub(crate) fn take_news(&mut self) -> Option<Learned> {
        std::mem::take(&mut self.is_news).then(|| self.learned.clone())
    }
}

/// What others are scaled with is read before them.
fn scales_first(settings: &Device, blocks: &mut VecDeque<Block>) {
    let is_scale = |index: &usize| settings.points.iter().any(|point| point.scale_from == Some(*index));
    blocks.make_contiguous().sort_by_key(|block| !block.points.iter().any(is_scale));
}
