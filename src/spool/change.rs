//! Other settings for a spool that holds messages: what waits stays as it is, and goes by the new terms. Drops nothing;
//! what is over a bound goes when the next message comes.

use std::collections::BTreeMap;

use crate::spool::packet_ids::PacketIds;
use crate::spool::queue::Spool;
use crate::spool::settings::{Bounds, Keeping, Terms};
use crate::spool::shares::Part;
use crate::spool::sweep::Sweep;

impl Spool {
    /// What may wait from now on. What is over it goes as its far end takes it.
    pub fn set_bounds(&mut self, messages_max: u64, bytes_max: u64) {
        (self.bounds.messages_max, self.bounds.bytes_max) = (messages_max, bytes_max);
    }

    /// While its far end is away. Entries keep the numbers of their rules: a rule that is gone leaves its part behind, for
    /// its number may come again.
    pub fn replace_settings(
        &mut self,
        keeping: Keeping,
        bounds: Bounds,
        mut ids: PacketIds,
        rules: &[Terms],
    ) {
        for id in self.identifiers() {
            ids.skip_past(id);
        }
        self.ids = ids;
        self.keeping = keeping;
        self.bounds = bounds;
        let Some(shares) = self.shares.as_deref_mut() else { return };
        let others = Terms::of_others(&bounds);
        let mut known = std::mem::take(&mut shares.parts).into_vec();
        let last = known.pop();
        let count = rules.len().max(known.len());
        let mut known = known.into_iter();
        let terms = (0..count).map(|number| *rules.get(number).unwrap_or(&others));
        let parts = terms.map(|terms| part_of(known.next(), terms)).collect::<Vec<_>>();
        let parts = parts.into_iter().chain([part_of(last, others)]);
        shares.set_parts(parts.collect());
        shares.whole = Sweep::default();
    }
}

fn part_of(known: Option<Part>, terms: Terms) -> Part {
    match known {
        Some(part) if part.terms.when_full == terms.when_full => Part { terms, ..part },
        // Judged anew, by another policy.
        Some(part) => Part { terms, sweep: Sweep::default(), latest: BTreeMap::new(), ..part },
        None => Part::new(terms),
    }
}
