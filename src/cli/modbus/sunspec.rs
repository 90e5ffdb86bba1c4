//! Where the points of a `SunSpec` unit lie, found by hand before they are read. Prints nothing.

use std::mem::take;

use crate::cli::modbus::ToolError;
use crate::cli::modbus::ask::Asker;
use crate::cli::modbus::target::Target;
use crate::config::model::{Point, Table};
use crate::config::sunspec::Map;
use crate::device::request::{RequestKind, Response};
use crate::device::sunspec::{Search, Step};

/// Gives the points of a target their addresses, and takes those out that the unit does not have.
pub async fn place(target: &mut Target, asker: &mut Asker) -> Result<Vec<Point>, ToolError> {
    let points = &mut target.device.points;
    if points.iter().all(|point| point.sunspec.is_none()) {
        return Ok(Vec::new());
    }
    let map = find(asker).await?;
    let shown = points.len().saturating_sub(target.hidden);
    let mut kept: Vec<(usize, Point)> = Vec::new();
    let mut missing = Vec::new();
    for (index, mut point) in take(points).into_iter().enumerate() {
        if map.place(&mut point) {
            kept.push((index, point));
        } else if index < shown {
            missing.push(point);
        }
    }
    target.hidden = kept.iter().filter(|(index, _)| *index >= shown).count();
    let position = |from: usize| kept.iter().position(|(index, _)| *index == from);
    *points = kept
        .iter()
        .map(|(_, point)| Point { scale_from: point.scale_from.and_then(position), ..point.clone() })
        .collect();
    Ok(missing)
}

async fn find(asker: &mut Asker) -> Result<Map, ToolError> {
    let mut search = Search::new(None);
    let mut ask = search.ask();
    loop {
        let kind = RequestKind::Read { table: Table::Holding, address: ask.address, count: ask.count };
        let step = match asker.call(kind).await? {
            Ok(Response::Words(words)) => search.handle_words(&words),
            _ => search.handle_refused(),
        };
        match step {
            Step::Read(next) => ask = next,
            Step::Found(map) => return Ok(map),
            Step::NotFound => {
                return Err(ToolError::Outcome("no SunSpec map at 40000, 50000 or 0".into()));
            }
        }
    }
}
