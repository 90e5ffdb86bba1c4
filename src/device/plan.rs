//! Points that are due into the reads that cost their line least, and their answers into values. Pure: the same points
//! give the same reads.

use crate::config::model::{Device, Point, Table};
use crate::device::map::{self, Exponent, ValueError};
use crate::device::request::{RequestKind, Response};
use crate::device::value::Value;

/// Modbus Application Protocol 6.3, 6.4: registers in one read.
pub const REGISTERS_MAX: u16 = 125;
/// Modbus Application Protocol 6.1, 6.2: bits in one read.
pub const BITS_MAX: u16 = 2000;

/// One read and the points that it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    pub table: Table,
    pub address: u16,
    /// Registers, or bits.
    pub count: u16,
    /// Indices of the points, by address.
    pub points: Vec<usize>,
}

impl Block {
    pub fn span(&self) -> Span {
        let start = u32::from(self.address);
        Span { table: self.table, start, end: start + u32::from(self.count) }
    }

    pub fn request_kind(&self) -> RequestKind {
        RequestKind::Read { table: self.table, address: self.address, count: self.count }
    }

    /// A point's share of the block's answer, where its scale has this exponent.
    pub fn value_of(
        &self,
        point: &Point,
        response: &Response,
        exponent: Exponent,
    ) -> Result<Value, ValueError> {
        let start = point.source.address.checked_sub(self.address).ok_or(ValueError::WrongShape)?;
        let start = usize::from(start);
        match (self.table, response) {
            (Table::Coil | Table::Discrete, Response::Bits(bits)) => {
                let bit = bits.get(start).ok_or(ValueError::WrongShape)?;
                Ok(map::decode_bit(point, *bit))
            }
            (Table::Holding | Table::Input, Response::Words(words)) => {
                let end = start.saturating_add(usize::from(point.value_type.registers()));
                let words = words.get(start..end).ok_or(ValueError::WrongShape)?;
                map::decode_words(point, words, exponent)
            }
            _ => Err(ValueError::WrongShape),
        }
    }
}

/// What a request costs on a line, in microseconds: what decides whether a gap is read along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Price {
    /// All but the registers of its answer: frames around them, silences, the unit's own time.
    pub request: u64,
    /// A byte of registers or bits.
    pub byte: u64,
}

impl Price {
    /// Of a network: it is the turn that costs.
    pub const NETWORK: Price = Price { request: 2_000, byte: 1 };
}

/// What may be read together.
#[derive(Debug, Clone, Copy)]
pub struct Limits<'a> {
    /// Registers or bits between two points.
    pub gap_max: u16,
    /// Registers in one request.
    pub registers_max: u16,
    /// Bits in one request.
    pub bits_max: u16,
    pub price: Price,
    /// What a unit refuses to read as a whole.
    pub refused: &'a [Span],
}

impl Limits<'_> {
    /// As a device is configured, with nothing known of its unit and its line.
    pub fn of(device: &Device) -> Self {
        Self {
            gap_max: device.max_gap,
            registers_max: device.max_registers,
            bits_max: BITS_MAX,
            price: Price::NETWORK,
            refused: &[],
        }
    }

    fn count_max(&self, table: Table) -> u16 {
        match table {
            Table::Coil | Table::Discrete => self.bits_max.min(BITS_MAX),
            Table::Holding | Table::Input => self.registers_max.min(REGISTERS_MAX),
        }
    }

    fn price(&self, span: Span) -> u64 {
        let count = u64::from(span.end - span.start);
        let bytes = match span.table {
            Table::Coil | Table::Discrete => count.div_ceil(8),
            Table::Holding | Table::Input => count * 2,
        };
        self.price.request + bytes * self.price.byte
    }

    fn allows(&self, span: Span) -> bool {
        span.end - span.start <= u32::from(self.count_max(span.table))
            && !self.refused.iter().any(|refused| span.contains(*refused))
    }
}

/// Registers or bits of a table, from `start` up to before `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    pub table: Table,
    pub start: u32,
    pub end: u32,
}

impl Span {
    pub fn of_point(point: &Point) -> Self {
        let start = u32::from(point.source.address);
        Self { table: point.source.table, start, end: start + u32::from(point.value_type.registers()) }
    }

    pub fn contains(self, other: Span) -> bool {
        self.table == other.table && self.start <= other.start && other.end <= self.end
    }

    /// Both and what lies between.
    fn with(self, other: Span) -> Span {
        Span { table: self.table, start: self.start.min(other.start), end: self.end.max(other.end) }
    }
}

/// The reads for `due` that cost the line least, in the order of tables and addresses. No value is split: one that
/// is longer than the limits gets a read of its own.
pub fn blocks(points: &[Point], due: &[usize], limits: &Limits<'_>) -> Vec<Block> {
    let mut ordered: Vec<(usize, Span)> = due
        .iter()
        .filter_map(|index| points.get(*index).map(|point| (*index, Span::of_point(point))))
        .collect();
    ordered.sort_by_key(|(index, span)| (span.table, span.start, *index));
    let cuts = cheapest_cuts(&ordered, limits);
    let ends = cuts.iter().skip(1).copied().chain([ordered.len()]);
    cuts.iter().zip(ends).filter_map(|(from, to)| block_of(ordered.get(*from..to)?)).collect()
}

/// Where the reads begin among the points: for each of them it is known what it costs to have read up to it.
fn cheapest_cuts(ordered: &[(usize, Span)], limits: &Limits<'_>) -> Vec<usize> {
    // By the number of points: the least price, and where the last read begins.
    let mut best: Vec<(u64, usize)> = vec![(0, 0)];
    let mut reach = Vec::with_capacity(ordered.len());
    for (last, (_, span)) in ordered.iter().enumerate() {
        let before = last.checked_sub(1).and_then(|at| Some((ordered.get(at)?.1, *reach.get(at)?)));
        let reached =
            before.filter(|(before, _)| before.table == span.table).map_or(0, |(_, reached)| reached);
        reach.push(span.end.max(reached));
        let mut read = *span;
        let mut cheapest = None;
        for first in (0..=last).rev() {
            let Some((_, point)) = ordered.get(first) else { break };
            let whole = read.with(*point);
            if first < last && (point.table != span.table || !limits.allows(whole)) {
                break;
            }
            read = whole;
            let price = best.get(first).map_or(0, |(price, _)| *price) + limits.price(read);
            if cheapest.is_none_or(|(least, _)| price < least) {
                cheapest = Some((price, first));
            }
            // What lies between this point and the one before it.
            let gap = first
                .checked_sub(1)
                .and_then(|at| reach.get(at))
                .map_or(0, |end| point.start.saturating_sub(*end));
            if gap > u32::from(limits.gap_max) {
                break;
            }
        }
        best.push(cheapest.unwrap_or_default());
    }
    let mut cuts = Vec::new();
    let mut end = ordered.len();
    while let Some((_, first)) = best.get(end).filter(|_| end > 0) {
        cuts.push(*first);
        end = *first;
    }
    cuts.reverse();
    cuts
}

/// One read of points that are ordered by address.
fn block_of(points: &[(usize, Span)]) -> Option<Block> {
    let span = points.iter().map(|(_, span)| *span).reduce(Span::with)?;
    Some(Block {
        table: span.table,
        address: u16::try_from(span.start).ok()?,
        count: u16::try_from(span.end - span.start).ok()?,
        points: points.iter().map(|(index, _)| *index).collect(),
    })
}

/// A read that was refused, in two: at its widest gap, which is where a unit has nothing, or else in the middle.
/// With them comes what must be refused where both halves are answered. None: one point cannot be split.
pub fn halves(block: &Block, points: &[Point]) -> Option<(Block, Block, Span)> {
    let spans: Vec<(usize, Span)> = block
        .points
        .iter()
        .filter_map(|index| points.get(*index).map(|point| (*index, Span::of_point(point))))
        .collect();
    let mut reach = 0;
    let mut widest = (0, spans.len() / 2);
    for (at, (_, span)) in spans.iter().enumerate() {
        let gap = if at == 0 { 0 } else { span.start.saturating_sub(reach) };
        if gap > widest.0 {
            widest = (gap, at);
        }
        reach = reach.max(span.end);
    }
    let (gap, at) = widest;
    let (first, second) = spans.split_at_checked(at)?;
    let (first, second, last, next) =
        (block_of(first)?, block_of(second)?, first.last()?.1, second.first()?.1);
    let pair = if gap > 0 {
        Span { table: block.table, start: next.start - gap, end: next.start }
    } else {
        last.with(next)
    };
    Some((first, second, pair))
}

#[cfg(test)]
mod tests {
    use super::{BITS_MAX, Block, Limits, Price, Span, blocks, halves};
    use crate::config::model::{Point, Table, ValueType};
    use crate::device::fixture::point;

    /// Points, largest gap, most registers, blocks.
    type Case = (Vec<Point>, u16, u16, Vec<(Table, u16, u16, Vec<usize>)>);

    fn points(sources: &[(Table, u16, ValueType)]) -> Vec<Point> {
        sources.iter().map(|(table, address, value_type)| point("p", *table, *address, *value_type)).collect()
    }

    fn limits(gap_max: u16, registers_max: u16, refused: &[Span]) -> Limits<'_> {
        Limits { gap_max, registers_max, bits_max: BITS_MAX, price: Price::NETWORK, refused }
    }

    fn plan(points: &[Point], gap_max: u16, registers_max: u16) -> Vec<(Table, u16, u16, Vec<usize>)> {
        let due: Vec<usize> = (0..points.len()).collect();
        let as_tuple = |block: Block| (block.table, block.address, block.count, block.points);
        blocks(points, &due, &limits(gap_max, registers_max, &[])).into_iter().map(as_tuple).collect()
    }

    #[test]
    fn neighbours_share_a_read() {
        use Table::{Coil, Discrete, Holding, Input};
        use ValueType::{Bool, F32, U16, U64};
        let text = ValueType::String { registers: 20 };
        let cases: [Case; 11] = [
            (points(&[(Input, 0, F32), (Input, 2, F32)]), 0, 125, vec![(Input, 0, 4, vec![0, 1])]),
            (points(&[(Input, 2, F32), (Input, 0, F32)]), 0, 125, vec![(Input, 0, 4, vec![1, 0])]),
            (points(&[(Input, 0, F32), (Input, 10, F32)]), 8, 125, vec![(Input, 0, 12, vec![0, 1])]),
            (
                points(&[(Input, 0, F32), (Input, 11, F32)]),
                8,
                125,
                vec![(Input, 0, 2, vec![0]), (Input, 11, 2, vec![1])],
            ),
            (
                points(&[(Input, 0, F32), (Holding, 2, F32)]),
                8,
                125,
                vec![(Holding, 2, 2, vec![1]), (Input, 0, 2, vec![0])],
            ),
            (
                points(&[(Holding, 0, U64), (Holding, 4, U64), (Holding, 8, U64)]),
                0,
                10,
                vec![(Holding, 0, 8, vec![0, 1]), (Holding, 8, 4, vec![2])],
            ),
            (
                points(&[(Holding, 0, U16), (Holding, 1, text), (Holding, 21, U16)]),
                0,
                10,
                vec![(Holding, 0, 1, vec![0]), (Holding, 1, 20, vec![1]), (Holding, 21, 1, vec![2])],
            ),
            (points(&[(Holding, 5, U64), (Holding, 6, U16)]), 0, 125, vec![(Holding, 5, 4, vec![0, 1])]),
            (
                points(&[(Holding, 0, U16), (Holding, 125, U16)]),
                500,
                125,
                vec![(Holding, 0, 1, vec![0]), (Holding, 125, 1, vec![1])],
            ),
            (
                points(&[(Coil, 0, Bool), (Coil, 1_999, Bool), (Coil, 2_000, Bool), (Discrete, 0, Bool)]),
                2_000,
                10,
                vec![(Coil, 0, 1, vec![0]), (Coil, 1_999, 2, vec![1, 2]), (Discrete, 0, 1, vec![3])],
            ),
            (
                points(&[(Holding, 65_532, U64), (Holding, 65_535, U16)]),
                8,
                125,
                vec![(Holding, 65_532, 4, vec![0, 1])],
            ),
        ];
        for (points, gap_max, registers_max, expected) in cases {
            assert_eq!(plan(&points, gap_max, registers_max), expected);
        }
    }

    fn words(addresses: &[u16]) -> Vec<Point> {
        addresses.iter().map(|at| point("p", Table::Holding, *at, ValueType::U16)).collect()
    }

    fn spans(points: &[Point], limits: &Limits<'_>) -> Vec<(u32, u32)> {
        let due: Vec<usize> = (0..points.len()).collect();
        blocks(points, &due, limits).iter().map(|block| (block.span().start, block.span().end)).collect()
    }

    #[test]
    fn a_gap_is_read_along_where_that_is_cheaper() {
        let points = words(&[0, 10, 21]);
        // Gaps of 9 and 10 registers, of two bytes each.
        let cases =
            [(21, vec![(0, 22)]), (19, vec![(0, 11), (21, 22)]), (17, vec![(0, 1), (10, 11), (21, 22)])];
        for (request, expected) in cases {
            let price = Price { request, byte: 1 };
            assert_eq!(spans(&points, &Limits { price, ..limits(125, 125, &[]) }), expected, "{request}");
        }
        // Where it must be cut, the widest gap is left out.
        assert_eq!(spans(&words(&[0, 1, 8, 9]), &limits(125, 9, &[])), [(0, 2), (8, 10)]);
    }

    #[test]
    fn what_a_unit_refuses_is_in_no_read_but_its_own() {
        let span = |start, end| Span { table: Table::Holding, start, end };
        let points = words(&[0, 1, 2, 3]);
        let cases = [
            (vec![span(1, 2)], vec![(0, 1), (1, 2), (2, 4)]),
            (vec![span(1, 3)], vec![(0, 2), (2, 4)]),
            (vec![span(0, 3), span(1, 4)], vec![(0, 2), (2, 4)]),
            (vec![Span { table: Table::Input, ..span(1, 2) }], vec![(0, 4)]),
        ];
        for (refused, expected) in cases {
            let mut found = spans(&points, &limits(8, 125, &refused));
            found.sort_unstable();
            assert_eq!(found.len(), expected.len(), "{refused:?} {found:?}");
            let read = |(start, end): &(u32, u32)| span(*start, *end);
            assert!(found.iter().map(read).all(|read| {
                read.end - read.start == 1 || !refused.iter().any(|refused| read.contains(*refused))
            }));
        }
    }

    #[test]
    fn a_read_is_split_at_its_widest_gap() {
        let cases = [
            (vec![0, 1, 5, 7], Some(((0, 2), (5, 8), (2, 5)))),
            (vec![0, 1, 2, 3], Some(((0, 2), (2, 4), (1, 3)))),
            (vec![0, 3], Some(((0, 1), (3, 4), (1, 3)))),
            (vec![0], None),
        ];
        for (addresses, expected) in cases {
            let points = words(&addresses);
            let due: Vec<usize> = (0..points.len()).collect();
            let whole = blocks(&points, &due, &limits(125, 125, &[])).remove(0);
            let ends = |span: Span| (span.start, span.end);
            let found = halves(&whole, &points);
            let found = found.map(|(a, b, cause)| (ends(a.span()), ends(b.span()), ends(cause)));
            assert_eq!(found, expected, "{addresses:?}");
        }
    }

    /// Every due point is in exactly one block, whole, whatever the map looks like.
    #[test]
    fn every_point_is_read_whole_and_once() {
        let mut rng = fastrand::Rng::with_seed(11);
        for _ in 0..2_000 {
            let types = [ValueType::U16, ValueType::F32, ValueType::U64, ValueType::String { registers: 60 }];
            let points: Vec<Point> = (0..rng.usize(1..40))
                .map(|_| point("p", Table::Input, rng.u16(0..400), types[rng.usize(0..types.len())]))
                .collect();
            let due: Vec<usize> = (0..points.len()).filter(|_| rng.bool()).collect();
            let limits = limits(rng.u16(0..20), rng.u16(1..=125), &[]);
            let found = blocks(&points, &due, &limits);
            let mut seen: Vec<usize> = found.iter().flat_map(|block| block.points.clone()).collect();
            seen.sort_unstable();
            assert_eq!(seen, due);
            for block in &found {
                assert!(block.count <= limits.registers_max || block.points.len() == 1);
                for index in &block.points {
                    let (start, end) = (points[*index].source.address, points[*index].value_type.registers());
                    assert!(start >= block.address && start + end <= block.address + block.count);
                }
            }
        }
    }
}
