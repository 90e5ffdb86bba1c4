//! Points that are named by their `SunSpec` model, and the map that says where the models of a unit lie. Pure; never
//! asks a unit for its map.

pub mod models;

use std::fmt;
use std::sync::Arc;

use crate::config::model::{Device, Point, Source, Table};
use crate::config::sunspec::models::{Field, MODELS, Model, model};

/// More than any inverter has inputs; bounds what a number in the configuration can ask for.
pub const MODULES_MAX: u16 = 64;
/// Where a map begins that nobody has asked for.
pub const NOMINAL_BASE: u16 = 40_000;
/// `SunS`
pub const MARK: [u16; 2] = [0x5375, 0x6E53];
/// The number of the model that ends a map.
pub const END: u16 = 0xFFFF;
/// Number and length in front of each model, and the mark in front of all.
pub const HEADER_REGISTERS: u16 = 2;

/// A point by its model and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SunspecPoint {
    /// The first of these that a unit has is meant; at least one, each known.
    pub models: Vec<u16>,
    /// The module of a model that has them, from 1.
    pub module: Option<u16>,
    /// As the models call it.
    pub name: Arc<str>,
    pub role: Role,
}

/// Why a point is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The configuration names it.
    Named,
    /// Others are scaled with it.
    Factor,
    /// Number and length of the model: what is read together with them is what it is taken for.
    Header,
}

/// `103/102/101.W`, or `160.2.DCA`
impl fmt::Display for SunspecPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let models: Vec<String> = self.models.iter().map(u16::to_string).collect();
        write!(f, "{}.", models.join("/"))?;
        if let Some(module) = self.module {
            write!(f, "{module}.")?;
        }
        f.write_str(&self.name)
    }
}

/// Why a text names no point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SunspecProblem {
    NotOne,
    UnknownModel(Box<str>),
    NoModules(u16),
    BadModule,
    InModule { model: u16, name: Box<str> },
    UnknownPoint { model: u16, name: Box<str>, nearest: Option<&'static str> },
}

impl fmt::Display for SunspecProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOne => f.write_str("not a SunSpec point (103.W; 103/102/101.W; 160.1.DCA of a module)"),
            Self::UnknownModel(number) => {
                let known: Vec<String> = MODELS.iter().map(|model| model.number.to_string()).collect();
                write!(f, "no SunSpec model `{number}` is known ({})", known.join(", "))
            }
            Self::NoModules(model) => write!(f, "SunSpec model {model} has no modules ({model}.NAME)"),
            Self::BadModule => write!(f, "not a module (1 to {MODULES_MAX}, as in 160.1.DCA)"),
            Self::InModule { model, name } => {
                write!(f, "`{name}` is in the modules of SunSpec model {model} ({model}.1.{name})")
            }
            Self::UnknownPoint { model, name, nearest } => {
                write!(f, "SunSpec model {model} has no point `{name}` ")?;
                match nearest {
                    Some(nearest) => write!(f, "(did you mean `{nearest}`?)"),
                    None => f.write_str("(names as in the model: W, PhVphA, …)"),
                }
            }
        }
    }
}

impl SunspecPoint {
    pub fn parse(text: &str) -> Result<Self, SunspecProblem> {
        let mut parts = text.split('.');
        let (Some(numbers), Some(second)) = (parts.next(), parts.next()) else {
            return Err(SunspecProblem::NotOne);
        };
        let (module, name) = match (parts.next(), parts.next()) {
            (None, _) => (None, second),
            (Some(name), None) => {
                let module = second.parse().ok().filter(|module| (1..=MODULES_MAX).contains(module));
                (Some(module.ok_or(SunspecProblem::BadModule)?), name)
            }
            (Some(_), Some(_)) => return Err(SunspecProblem::NotOne),
        };
        let mut models = Vec::new();
        for number in numbers.split('/') {
            let known = number.parse().ok().and_then(model);
            let known = known.ok_or_else(|| SunspecProblem::UnknownModel(number.into()))?;
            check_name(known, module, name)?;
            models.push(known.number);
        }
        Ok(Self { models, module, name: name.into(), role: Role::Named })
    }

    /// In each of its models, in their order.
    pub fn fields(&self) -> impl Iterator<Item = (&'static Model, &'static Field)> {
        let known = self.models.iter().filter_map(|number| model(*number));
        known.filter_map(|model| Some((model, model.field(&self.name, self.module.is_some())?)))
    }
}

fn check_name(model: &Model, module: Option<u16>, name: &str) -> Result<(), SunspecProblem> {
    let number = model.number;
    if module.is_some() && model.module.is_empty() {
        return Err(SunspecProblem::NoModules(number));
    }
    if model.field(name, module.is_some()).is_some() {
        return Ok(());
    }
    if model.field(name, true).is_some() {
        return Err(SunspecProblem::InModule { model: number, name: name.into() });
    }
    let fields = if module.is_some() { model.module } else { model.points };
    let known = fields.iter().map(|field| field.name);
    let nearest = known.clone().find(|known| known.eq_ignore_ascii_case(name));
    let nearest = nearest.or_else(|| known.clone().find(|known| known.len() > 1 && known.starts_with(name)));
    Err(SunspecProblem::UnknownPoint { model: number, name: name.into(), nearest })
}

/// A model as it lies in a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    pub number: u16,
    /// Behind its header.
    pub address: u16,
    /// Without its header.
    pub length: u16,
}

impl Placed {
    /// What its header reads as one number.
    pub fn header(self) -> u64 {
        u64::from(self.number) << 16 | u64::from(self.length)
    }
}

/// What a unit has, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    /// Where the mark stands.
    pub base: u16,
    pub models: Vec<Placed>,
}

impl Map {
    /// What a unit might have that has all these points: as good as any, while nobody has asked.
    pub fn nominal(points: &[Point]) -> Self {
        let wanted = points.iter().filter_map(|point| point.sunspec.as_deref());
        let mut modules: Vec<(u16, u16)> = vec![(1, 0)];
        for point in wanted {
            let Some(number) = point.models.first() else { continue };
            let module = point.module.unwrap_or(0);
            match modules.iter_mut().find(|(known, _)| known == number) {
                Some((_, count)) => *count = module.max(*count),
                None => modules.push((*number, module)),
            }
        }
        let mut address = NOMINAL_BASE + HEADER_REGISTERS;
        let placed = modules.into_iter().filter_map(|(number, modules)| {
            let (fixed, module) = model(number)?.lengths;
            let length = fixed + module * modules;
            address += HEADER_REGISTERS;
            let placed = Placed { number, address, length };
            address += length;
            Some(placed)
        });
        Self { base: NOMINAL_BASE, models: placed.collect() }
    }

    /// Behind the last model: where its end is marked.
    pub fn end(&self) -> u16 {
        let last = self.models.last();
        last.map_or(self.base.saturating_add(HEADER_REGISTERS), |last| {
            last.address.saturating_add(last.length)
        })
    }

    /// Where a point lies. None: the unit has none of its models, or not as much of it.
    fn find(&self, point: &SunspecPoint) -> Option<(u16, &'static Field)> {
        point.fields().find_map(|(model, field)| {
            let placed = self.models.iter().find(|placed| placed.number == model.number)?;
            let start = match point.module {
                Some(module) => model.lengths.0 + model.lengths.1 * (module - 1),
                None => 0,
            };
            let offset = start + field.offset;
            let fits = offset + field.kind.value_type().registers() <= placed.length;
            if fits { Some((placed.address.checked_add(offset)?, field)) } else { None }
        })
    }

    /// The model whose header a point of [`Role::Header`] is.
    pub fn headed(&self, point: &SunspecPoint) -> Option<Placed> {
        point
            .models
            .iter()
            .find_map(|number| self.models.iter().find(|placed| placed.number == *number))
            .copied()
    }

    /// Gives a point its address, and the type that it has there. False: the unit does not have it.
    pub fn place(&self, point: &mut Point) -> bool {
        if let Some(header) = point.sunspec.as_deref().filter(|sunspec| sunspec.role == Role::Header) {
            let Some(placed) = self.headed(header) else { return false };
            let address = placed.address.saturating_sub(HEADER_REGISTERS);
            point.source = Source { table: Table::Holding, address };
            return true;
        }
        let Some((address, field)) = point.sunspec.as_deref().and_then(|sunspec| self.find(sunspec)) else {
            return point.sunspec.is_none();
        };
        point.source = Source { table: Table::Holding, address };
        point.value_type = field.kind.value_type();
        point.invalid = field.kind.not_implemented().into_iter().collect();
        if field.scale.is_none() {
            point.scale_from = None;
        }
        true
    }
}

impl Point {
    /// It is read for the sake of others, and nobody has named it.
    pub fn is_hidden(&self) -> bool {
        self.sunspec.as_deref().is_some_and(|sunspec| sunspec.role != Role::Named)
    }
}

impl Device {
    /// Those that the configuration names.
    pub fn points_named(&self) -> usize {
        self.points.iter().filter(|point| !point.is_hidden()).count() + self.computed.len()
    }

    /// Where its points lie is found out at run time.
    pub fn has_sunspec(&self) -> bool {
        self.points.iter().any(|point| point.sunspec.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::{SunspecPoint, SunspecProblem};

    #[test]
    fn points_are_models_and_names() {
        for text in ["103.W", "103/102/101.PhVphA", "160.2.DCA", "160.N", "1.Mn"] {
            assert_eq!(SunspecPoint::parse(text).map(|point| point.to_string()), Ok(text.to_owned()));
        }
        let bad = [
            ("W", SunspecProblem::NotOne),
            ("", SunspecProblem::NotOne),
            ("160.1.2.DCA", SunspecProblem::NotOne),
            ("104.W", SunspecProblem::UnknownModel("104".into())),
            ("103/.W", SunspecProblem::UnknownModel("".into())),
            ("103.1.W", SunspecProblem::NoModules(103)),
            ("160.0.DCA", SunspecProblem::BadModule),
            ("160.65.DCA", SunspecProblem::BadModule),
            ("160.DCA", SunspecProblem::InModule { model: 160, name: "DCA".into() }),
            ("103.w", SunspecProblem::UnknownPoint { model: 103, name: "w".into(), nearest: Some("W") }),
            ("103/160.W", SunspecProblem::UnknownPoint { model: 160, name: "W".into(), nearest: None }),
        ];
        for (text, problem) in bad {
            assert_eq!(SunspecPoint::parse(text), Err(problem), "{text}");
        }
    }
}
