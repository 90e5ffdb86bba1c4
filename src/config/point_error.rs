//! What can be wrong with what a point means: facts as variants, with their words. Never decides what is wrong.

use std::fmt;

use crate::config::expression::ExpressionError;

#[derive(Debug, Clone, PartialEq)]
pub enum PointProblem {
    BadPercentage,
    BadBits,
    BadLabelKey {
        min: i128,
        max: i128,
    },
    BadExpression(ExpressionError),
    NoPointNamed,
    AggregateNeedsNumber,
    UnknownPoint {
        name: Option<Box<str>>,
        nearest: Option<Box<str>>,
    },
    /// A name in an expression.
    UnknownInput {
        name: Box<str>,
        column: usize,
        nearest: Option<Box<str>>,
    },
    NoScalePoint,
    ComputedInCircle,
}

impl fmt::Display for PointProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadPercentage => "not a percentage (deadband: 1%)",
            Self::BadBits => "not a bit or a range of them (3, or 4-6)",
            Self::NoPointNamed => "names no point (voltage * current)",
            Self::AggregateNeedsNumber => "only of numbers (last)",
            Self::NoScalePoint => {
                "no point that holds an exponent (a whole number without scale, labels or bits)"
            }
            Self::ComputedInCircle => "is computed from itself, by way of others (leave one of them out)",
            Self::BadLabelKey { min, max } => {
                return write!(f, "no number that it can hold ({min} to {max})");
            }
            Self::BadExpression(error) => return error.fmt(f),
            Self::UnknownPoint { name, nearest } => {
                return fmt_unknown(f, (name.as_deref(), nearest.as_deref()), "another point of this device");
            }
            Self::UnknownInput { name, column, nearest } => {
                write!(f, "column {column}: ")?;
                let hint = "another point of this device; {in-braces} where its name holds a `-`";
                return fmt_unknown(f, (Some(name), nearest.as_deref()), hint);
            }
        })
    }
}

fn fmt_unknown(
    f: &mut fmt::Formatter<'_>,
    (name, nearest): (Option<&str>, Option<&str>),
    hint: &str,
) -> fmt::Result {
    match name {
        Some(name) => write!(f, "unknown point `{name}` ")?,
        None => f.write_str("unknown point ")?,
    }
    match nearest {
        Some(nearest) => write!(f, "(did you mean `{nearest}`?)"),
        None => write!(f, "({hint})"),
    }
}
