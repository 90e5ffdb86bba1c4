//! Points that are due into few block reads, and their answers into values. Pure: the same points give the
//! same blocks.

use crate::config::model::{Point, Table};
use crate::device::map::{self, ValueError};
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
    pub fn request_kind(&self) -> RequestKind {
        RequestKind::Read { table: self.table, address: self.address, count: self.count }
    }

    /// A point's share of the block's answer.
    pub fn value_of(&self, point: &Point, response: &Response) -> Result<Value, ValueError> {
        let start = point.source.address.checked_sub(self.address).ok_or(ValueError::WrongShape)?;
        let start = usize::from(start);
        match (self.table, response) {
            (Table::Coil | Table::Discrete, Response::Bits(bits)) => {
                let bit = bits.get(start).ok_or(ValueError::WrongShape)?;
                Ok(map::decode_bit(point, *bit))
            }
            (Table::Holding | Table::Input, Response::Words(words)) => {
                let end = start.saturating_add(usize::from(point.value_type.registers()));
                map::decode_words(point, words.get(start..end).ok_or(ValueError::WrongShape)?)
            }
            _ => Err(ValueError::WrongShape),
        }
    }
}

/// What may be read along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Registers or bits between two points.
    pub gap_max: u16,
    /// Registers in one request.
    pub registers_max: u16,
}

/// The reads for `due`, in the order of tables and addresses. Points for which `alone` holds share no read.
/// No value is split: one that is longer than `registers_max` gets a read of its own.
pub fn blocks(points: &[Point], due: &[usize], limits: Limits, alone: impl Fn(usize) -> bool) -> Vec<Block> {
    let mut ordered: Vec<(usize, &Point)> =
        due.iter().filter_map(|index| points.get(*index).map(|point| (*index, point))).collect();
    ordered.sort_by_key(|(index, point)| (point.source, *index));
    let mut blocks: Vec<Block> = Vec::new();
    let mut is_open = false;
    for (index, point) in ordered {
        let may_join = is_open && !alone(index);
        match blocks
            .last_mut()
            .filter(|_| may_join)
            .and_then(|block| joined(block, point, limits).map(|count| (block, count)))
        {
            Some((block, count)) => {
                block.count = count;
                block.points.push(index);
            }
            None => blocks.push(Block {
                table: point.source.table,
                address: point.source.address,
                count: point.value_type.registers(),
                points: vec![index],
            }),
        }
        is_open = !alone(index);
    }
    blocks
}

/// How long the block is with the point, if that may be.
fn joined(block: &Block, point: &Point, limits: Limits) -> Option<u16> {
    if block.table != point.source.table {
        return None;
    }
    let count_max = match block.table {
        Table::Coil | Table::Discrete => BITS_MAX,
        Table::Holding | Table::Input => limits.registers_max.min(REGISTERS_MAX),
    };
    // Sorted by address: a point never begins before its block.
    let start = point.source.address.checked_sub(block.address)?;
    let gap = start.saturating_sub(block.count);
    let count = start.checked_add(point.value_type.registers())?.max(block.count);
    (gap <= limits.gap_max && count <= count_max).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::{Block, Limits, blocks};
    use crate::config::model::{Point, Table, ValueType};
    use crate::device::fixture::point;

    /// Points, largest gap, most registers, blocks.
    type Case = (Vec<Point>, u16, u16, Vec<(Table, u16, u16, Vec<usize>)>);

    fn points(sources: &[(Table, u16, ValueType)]) -> Vec<Point> {
        sources.iter().map(|(table, address, value_type)| point("p", *table, *address, *value_type)).collect()
    }

    fn plan(points: &[Point], gap_max: u16, registers_max: u16) -> Vec<(Table, u16, u16, Vec<usize>)> {
        let due: Vec<usize> = (0..points.len()).collect();
        let as_tuple = |block: Block| (block.table, block.address, block.count, block.points);
        blocks(points, &due, Limits { gap_max, registers_max }, |_| false).into_iter().map(as_tuple).collect()
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
                vec![(Coil, 0, 2_000, vec![0, 1]), (Coil, 2_000, 1, vec![2]), (Discrete, 0, 1, vec![3])],
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

    #[test]
    fn a_point_that_stands_alone_shares_no_read() {
        let points = points(&[
            (Table::Holding, 0, ValueType::U16),
            (Table::Holding, 1, ValueType::U16),
            (Table::Holding, 2, ValueType::U16),
            (Table::Holding, 3, ValueType::U16),
        ]);
        let limits = Limits { gap_max: 8, registers_max: 125 };
        let found = blocks(&points, &[0, 1, 2, 3], limits, |index| index == 1);
        let groups: Vec<Vec<usize>> = found.into_iter().map(|block| block.points).collect();
        assert_eq!(groups, [vec![0], vec![1], vec![2, 3]]);
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
            let limits = Limits { gap_max: rng.u16(0..20), registers_max: rng.u16(1..=125) };
            let found = blocks(&points, &due, limits, |_| false);
            let mut seen: Vec<usize> = found.iter().flat_map(|block| block.points.clone()).collect();
            seen.sort_unstable();
            assert_eq!(seen, due);
            for block in &found {
                assert!(
                    block.count <= limits.registers_max
                        || block.points.len() == 1
                        || is_nested(&points, block)
                );
                for index in &block.points {
                    let (start, end) = (points[*index].source.address, points[*index].value_type.registers());
                    assert!(start >= block.address && start + end <= block.address + block.count);
                }
            }
        }
    }

    /// Points that lie within a long one are read with it.
    fn is_nested(points: &[Point], block: &Block) -> bool {
        block.points.iter().any(|index| points[*index].value_type.registers() == block.count)
    }
}
