//! By which function codes a value is written, and which of them a unit does not know. Never sends one.

use std::collections::BTreeSet;

use crate::device::map::encode::{Masked, Raw};
use crate::device::plan::Block;
use crate::device::request::RequestKind;

/// Function codes that a unit has answered with `illegal function`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unknown(BTreeSet<u8>);

/// What is to be done next so that a value is written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Request(RequestKind),
    /// The registers have to be read first: only some of their bits are to change.
    Look,
    /// The unit knows none of the function codes that would do.
    None,
}

impl Unknown {
    pub(crate) fn insert(&mut self, function: u8) {
        self.0.insert(function);
    }

    fn first_known(&self, ways: impl IntoIterator<Item = RequestKind>) -> Way {
        let known = ways.into_iter().find(|kind| !self.0.contains(&kind.function()));
        known.map_or(Way::None, Way::Request)
    }

    /// `looked` is what the registers held, `written` how many of them are written already, one by one.
    pub(crate) fn way(&self, raw: &Raw, looked: Option<&[u16]>, block: &Block, written: u16) -> Way {
        match (raw, looked) {
            (Raw::Bit(bit), _) => self.first_known([
                RequestKind::WriteCoil { address: block.address, bit: *bit },
                RequestKind::WriteCoils { address: block.address, bits: vec![*bit] },
            ]),
            (Raw::Words(words), _) => self.words(words, block, written),
            (Raw::Masked(masked), Some(words)) => self.words(&merged(masked, words), block, written),
            (Raw::Masked(masked), None) => {
                let mut touched = (block.address..).zip(masked).filter(|(_, masked)| masked.mask != 0);
                match (touched.next(), touched.next()) {
                    (Some((address, Masked { mask, bits })), None) => {
                        let kind = RequestKind::MaskRegister { address, mask: *mask, bits: *bits };
                        if self.0.contains(&kind.function()) { Way::Look } else { Way::Request(kind) }
                    }
                    // One request for all of them: no reader sees half of it.
                    _ => Way::Look,
                }
            }
        }
    }

    fn words(&self, words: &[u16], block: &Block, written: u16) -> Way {
        let all = RequestKind::WriteRegisters { address: block.address, words: words.to_vec() };
        let next = words.get(usize::from(written)).copied().unwrap_or(0);
        let one = RequestKind::WriteRegister { address: block.address.saturating_add(written), word: next };
        if words.len() == 1 { self.first_known([one, all]) } else { self.first_known([all, one]) }
    }
}

fn merged(masked: &[Masked], words: &[u16]) -> Vec<u16> {
    masked.iter().zip(words).map(|(Masked { mask, bits }, word)| (word & !mask) | bits).collect()
}
