//! What a device's readings come to: points that are computed from others, and the scale that one point has from
//! another. Never asks the device.

use crate::config::model::Point;
use crate::config::point::{Computed, Input};
use crate::device::channel::Channel;
use crate::device::compute::{evaluate, tidied};
use crate::device::map::{Exponent, ValueError, exponent_of};
use crate::device::plan::Block;
use crate::device::polled::Polled;
use crate::device::reading::{BadReason, Quality, Reading};
use crate::device::request::Response;
use crate::device::value::{BitsValue, Value};

impl Polled {
    /// The power of ten that a point's value is multiplied by now.
    pub(crate) fn exponent_for(&self, point: &Point) -> Result<Exponent, ValueError> {
        let Some(from) = point.scale_from else { return Ok(0) };
        let reading = self.voice.channel(from).and_then(Channel::last);
        let value = reading.and_then(|reading| reading.value.as_ref());
        value.and_then(exponent_of).ok_or(ValueError::NoExponent)
    }

    /// Of the same answer, where that holds it: never the one of another time.
    pub(crate) fn exponent_within(
        &self,
        block: &Block,
        response: &Response,
        point: &Point,
    ) -> Result<Exponent, ValueError> {
        let from = point.scale_from.filter(|from| block.points.contains(from));
        let Some(scale) = from.and_then(|from| self.settings.points.get(from)) else {
            return self.exponent_for(point);
        };
        let value = block.value_of(scale, response, 0).map_err(|_| ValueError::NoExponent)?;
        exponent_of(&value).ok_or(ValueError::NoExponent)
    }
}

/// As good as the worst of its inputs, and as new as the newest. None: one of them was never read.
pub(crate) fn computed_reading<'a>(
    computed: &Computed,
    channel: impl Fn(usize) -> Option<&'a Channel>,
) -> Option<Reading> {
    let readings = computed.inputs.iter().map(|input| channel(input.point).and_then(Channel::last));
    let readings: Vec<&Reading> = readings.collect::<Option<_>>()?;
    let at = readings.iter().map(|reading| reading.at).max_by_key(|at| at.instant)?;
    let mut values = Vec::with_capacity(readings.len());
    for (input, reading) in computed.inputs.iter().zip(&readings) {
        let value = reading.value.as_ref().and_then(|value| value_of(input, value));
        let Some(value) = value else {
            let name = &channel(input.point)?.name;
            return Some(Reading::bad(BadReason::Input(name.clone()), at));
        };
        values.push(value);
    }
    let is_stale = readings.iter().any(|reading| reading.quality == Quality::Stale);
    Some(match evaluate(&computed.expression, &values) {
        Ok(value) => Reading {
            quality: if is_stale { Quality::Stale } else { Quality::Good },
            ..Reading::good(tidied(value, computed.round), at)
        },
        Err(error) => Reading::bad(BadReason::Compute(error), at),
    })
}

/// What an expression calculates with: the point's value, or one of its bits.
fn value_of(input: &Input, value: &Value) -> Option<Value> {
    let Some(bit) = &input.bit else { return Some(value.clone()) };
    let Value::Bits(parts) = value else { return None };
    let part = parts.iter().find(|part| part.name == *bit)?;
    Some(match part.value {
        BitsValue::Flag(flag) => Value::Bool(flag),
        BitsValue::Number(number) => Value::Unsigned(number),
    })
}
