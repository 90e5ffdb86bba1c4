//! What stands in a spool, in all and by rules, as one row keeps it. Counts nothing.

use crate::store::blob::{ENCODING, Reader, put_varint};
use crate::store::error::StoreError;
use crate::store::record::{RuleTotals, Seq};

/// What stands in a spool, so that a start need not count it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) last_seq: Seq,
}

pub(super) fn encode_totals(out: &mut Vec<u8>, totals: Totals) {
    out.push(ENCODING);
    for number in [totals.messages, totals.bytes, totals.last_seq.0] {
        put_varint(out, number);
    }
}

pub(super) fn decode_totals(data: &[u8]) -> Result<Totals, StoreError> {
    let mut reader = Reader::open(data)?;
    let totals =
        Totals { messages: reader.varint()?, bytes: reader.varint()?, last_seq: Seq(reader.varint()?) };
    reader.expect_end()?;
    Ok(totals)
}

/// What stands in a spool by the rules of its entries, beside its totals. An earlier version keeps the totals alone: then
/// neither their sums nor the last number agree, and the entries are counted anew.
pub(super) fn encode_rules(out: &mut Vec<u8>, last_seq: Seq, rules: &[RuleTotals]) {
    out.push(ENCODING);
    put_varint(out, last_seq.0);
    for totals in rules {
        for number in [totals.rule.into(), totals.messages, totals.bytes] {
            put_varint(out, number);
        }
    }
}

/// None: they are not those of these totals.
pub(super) fn decode_rules(data: &[u8], totals: Totals) -> Option<Vec<RuleTotals>> {
    let mut reader = Reader::open(data).ok()?;
    let last_seq = Seq(reader.varint().ok()?);
    let mut rules = Vec::new();
    let (mut messages, mut bytes) = (0u64, 0u64);
    while !reader.is_empty() {
        let rule: RuleTotals = RuleTotals {
            rule: reader.integer().ok()?,
            messages: reader.varint().ok()?,
            bytes: reader.varint().ok()?,
        };
        messages = messages.saturating_add(rule.messages);
        bytes = bytes.saturating_add(rule.bytes);
        rules.push(rule);
    }
    (last_seq == totals.last_seq && messages == totals.messages && bytes == totals.bytes).then_some(rules)
}

#[cfg(test)]
mod tests {
    use super::{Totals, decode_rules, decode_totals, encode_rules, encode_totals};
    use crate::store::record::{RuleTotals, Seq};

    #[test]
    fn totals_survive_and_hostile_bytes_do_not_panic() {
        let mut rng = fastrand::Rng::with_seed(4);
        for _ in 0..1000 {
            let totals = Totals { messages: rng.u64(..), bytes: rng.u64(..), last_seq: Seq(rng.u64(..)) };
            let mut blob = Vec::new();
            encode_totals(&mut blob, totals);
            assert_eq!(decode_totals(&blob), Ok(totals));
            let rule = RuleTotals { rule: rng.u16(..), messages: totals.messages, bytes: totals.bytes };
            let mut rules = Vec::new();
            encode_rules(&mut rules, totals.last_seq, &[rule]);
            assert_eq!(decode_rules(&rules, totals), Some(vec![rule]));
            for mut blob in [blob, rules] {
                let at = rng.usize(0..blob.len());
                blob[at] = rng.u8(..);
                blob.truncate(rng.usize(0..=blob.len()));
                let _ = (decode_totals(&blob), decode_rules(&blob, totals));
            }
        }
    }
}
