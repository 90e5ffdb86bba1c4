//! Scale, offset and decimals of one reading, and the way back. Never knows registers.

use crate::config::model::Point;
use crate::device::map::encode::WriteError;
use crate::device::map::{Exponent, ValueError};
use crate::device::value::{Value, nearest_float, rounded, significant};

/// More decimals than this say that a factor is no decimal fraction at all.
const IMPLIED_DECIMALS_MAX: usize = 15;

/// value = raw * factor + offset
pub(super) struct Scale {
    factor: f64,
    offset: f64,
    round: Option<u8>,
}

impl Scale {
    pub(super) fn of(point: &Point, exponent: Exponent) -> Self {
        let factor = match exponent {
            0 => point.scale,
            // Through decimal text: 0.1 and -2 are 0.001, not the product of two that are a hair beside.
            _ => format!("{:e}", point.scale)
                .split_once('e')
                .and_then(|(digits, own)| {
                    Some(format!("{digits}e{}", own.parse::<i32>().ok()? + i32::from(exponent)))
                })
                .and_then(|text| text.parse().ok())
                .unwrap_or(point.scale),
        };
        Self { factor, offset: point.offset, round: point.round }
    }

    pub(super) fn integer(&self, raw: i128) -> Result<Value, ValueError> {
        if self.is_none() {
            return exact(raw).ok_or(ValueError::NotFinite);
        }
        if let (Some(factor), Some(offset)) = (whole(self.factor), whole(self.offset)) {
            let value = raw.checked_mul(factor).and_then(|scaled| scaled.checked_add(offset));
            if let Some(value) = value.and_then(exact) {
                return Ok(value);
            }
        }
        let value = nearest_float(raw) * self.factor + self.offset;
        finite(match self.round.map(usize::from).or_else(|| self.implied_decimals()) {
            Some(decimals) => rounded(value, decimals),
            None => significant(value),
        })
    }

    pub(super) fn float(&self, raw: f64) -> Result<Value, ValueError> {
        let value = raw * self.factor + self.offset;
        finite(match self.round {
            Some(decimals) => rounded(value, usize::from(decimals)),
            None if self.is_none() => raw,
            None => significant(value),
        })
    }

    /// What lies nearest in the register's own unit.
    pub(super) fn unscaled(&self, number: f64) -> f64 {
        (number - self.offset) / self.factor
    }

    pub(super) fn unscaled_integer(&self, value: &Value, number: f64) -> Result<i128, WriteError> {
        if !self.is_none() {
            return Ok(saturated(self.unscaled(number).round()));
        }
        match value.as_integer() {
            Some(integer) => Ok(integer),
            None if number.fract() == 0.0 => Ok(saturated(number)),
            None => Err(WriteError::NotWhole(value.clone())),
        }
    }

    fn is_none(&self) -> bool {
        // Both are written by hand: only the exact neutral elements count as none.
        (self.factor, self.offset) == (1.0, 0.0)
    }

    /// How many decimals an integer has after scale and offset: 0.1 and 0.25 give 2.
    fn implied_decimals(&self) -> Option<usize> {
        let decimals =
            |value: f64| format!("{value}").split_once('.').map_or(0, |(_, decimals)| decimals.len());
        let most = decimals(self.factor).max(decimals(self.offset));
        (most <= IMPLIED_DECIMALS_MAX).then_some(most)
    }
}

fn exact(value: i128) -> Option<Value> {
    if let Ok(value) = u64::try_from(value) {
        return Some(Value::Unsigned(value));
    }
    i64::try_from(value).ok().map(Value::Signed)
}

/// An integer that `f64` holds exactly.
#[allow(clippy::cast_possible_truncation)] // in range
fn whole(value: f64) -> Option<i128> {
    (value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0).then_some(value as i128)
}

fn finite(value: f64) -> Result<Value, ValueError> {
    if value.is_finite() { Ok(Value::Float(value)) } else { Err(ValueError::NotFinite) }
}

/// What lies beyond `i128` lies beyond every type.
#[allow(clippy::cast_possible_truncation)] // saturates
fn saturated(value: f64) -> i128 {
    value as i128
}
