//! Computed points: runs an expression over the values of other points. Bounded by the expression's own length; never
//! knows where the values come from.

use std::fmt;
use std::sync::Arc;

use crate::config::expression::{Binary, Expression, Function, Step};
use crate::device::value::{Value, rounded, significant};

/// Why an expression has no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ComputeError {
    DivisionByZero,
    /// Too large, or no real number, like the square root of -1.
    NotFinite,
    /// Text or named bits where a number is wanted.
    NotNumber,
}

impl fmt::Display for ComputeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DivisionByZero => "division by zero",
            Self::NotFinite => "the result is not a finite number",
            Self::NotNumber => "a number is wanted where the expression has none",
        })
    }
}

impl std::error::Error for ComputeError {}

/// What an expression calculates with.
#[derive(Debug, Clone, PartialEq)]
enum Scalar {
    /// Always finite.
    Number(f64),
    Flag(bool),
    Text(Arc<str>),
}

/// The value of an expression whose names have these `values`, in the order of [`Expression::names`].
pub fn evaluate(expression: &Expression, values: &[Value]) -> Result<Value, ComputeError> {
    let steps = expression.steps();
    let mut stack = Stack(Vec::new());
    let mut at = 0;
    // Jumps go forward: it ends.
    while let Some(step) = steps.get(at) {
        at += 1;
        match step {
            Step::Number(number) => stack.push(Scalar::Number(*number)),
            Step::Text(text) => stack.push(Scalar::Text(Arc::clone(text))),
            Step::Flag(flag) => stack.push(Scalar::Flag(*flag)),
            Step::Name(index) => stack.push(scalar(values.get(*index).ok_or(ComputeError::NotNumber)?)?),
            Step::Negate => {
                let number = stack.pop_number()?;
                stack.push(Scalar::Number(-number));
            }
            Step::Not => {
                let flag = stack.pop_flag()?;
                stack.push(Scalar::Flag(!flag));
            }
            Step::Truth => {
                let flag = stack.pop_flag()?;
                stack.push(Scalar::Flag(flag));
            }
            Step::Binary(operator) => {
                let (right, left) = (stack.pop()?, stack.pop()?);
                stack.push(binary(*operator, &left, &right)?);
            }
            Step::Call(function, count) => {
                let result = stack.call(*function, *count)?;
                stack.push(result);
            }
            Step::Jump(target) => at = *target,
            Step::JumpUnless(target) => {
                if !stack.pop_flag()? {
                    at = *target;
                }
            }
            Step::And(target) => {
                if !stack.pop_flag()? {
                    stack.push(Scalar::Flag(false));
                    at = *target;
                }
            }
            Step::Or(target) => {
                if stack.pop_flag()? {
                    stack.push(Scalar::Flag(true));
                    at = *target;
                }
            }
        }
    }
    Ok(match stack.pop()? {
        Scalar::Number(number) => Value::Float(number),
        Scalar::Flag(flag) => Value::Bool(flag),
        Scalar::Text(text) => Value::Text(text),
    })
}

/// What was calculated, with so many decimals, or as many as mean anything.
pub fn tidied(value: Value, round: Option<u8>) -> Value {
    match (value, round) {
        (Value::Float(number), Some(decimals)) => Value::Float(rounded(number, usize::from(decimals))),
        (Value::Float(number), None) => Value::Float(significant(number)),
        (other, _) => other,
    }
}

struct Stack(Vec<Scalar>);

impl Stack {
    fn push(&mut self, scalar: Scalar) {
        self.0.push(scalar);
    }

    /// The parser leaves no step without its values.
    fn pop(&mut self) -> Result<Scalar, ComputeError> {
        self.0.pop().ok_or(ComputeError::NotNumber)
    }

    fn pop_number(&mut self) -> Result<f64, ComputeError> {
        number(&self.pop()?)
    }

    /// A number holds unless it is 0.
    fn pop_flag(&mut self) -> Result<bool, ComputeError> {
        Ok(self.pop_number()? != 0.0)
    }

    fn call(&mut self, function: Function, count: usize) -> Result<Scalar, ComputeError> {
        let last = self.pop_number()?;
        let result = match function {
            Function::Min | Function::Max => {
                let mut result = last;
                for _ in 1..count {
                    let other = self.pop_number()?;
                    result = if function == Function::Min { result.min(other) } else { result.max(other) };
                }
                result
            }
            Function::Abs => last.abs(),
            Function::Sqrt => last.sqrt(),
            Function::Round => last.round(),
            Function::Floor => last.floor(),
            Function::Ceil => last.ceil(),
            Function::Pow => return power(self.pop_number()?, last),
        };
        finite(result)
    }
}

fn scalar(value: &Value) -> Result<Scalar, ComputeError> {
    match value {
        Value::Bool(flag) => Ok(Scalar::Flag(*flag)),
        Value::Text(text) => Ok(Scalar::Text(Arc::clone(text))),
        Value::Unsigned(_) | Value::Signed(_) | Value::Float(_) | Value::Bits(_) => {
            Ok(Scalar::Number(value.as_number().ok_or(ComputeError::NotNumber)?))
        }
    }
}

/// A flag counts as 1 or 0.
fn number(scalar: &Scalar) -> Result<f64, ComputeError> {
    match scalar {
        Scalar::Number(number) => Ok(*number),
        Scalar::Flag(flag) => Ok(f64::from(u8::from(*flag))),
        Scalar::Text(_) => Err(ComputeError::NotNumber),
    }
}

fn finite(number: f64) -> Result<Scalar, ComputeError> {
    if number.is_finite() { Ok(Scalar::Number(number)) } else { Err(ComputeError::NotFinite) }
}

fn binary(operator: Binary, left: &Scalar, right: &Scalar) -> Result<Scalar, ComputeError> {
    if let Binary::Equal | Binary::NotEqual = operator {
        return Ok(Scalar::Flag(is_equal(left, right) == (operator == Binary::Equal)));
    }
    let (a, b) = (number(left)?, number(right)?);
    match operator {
        Binary::Add => finite(a + b),
        Binary::Subtract => finite(a - b),
        Binary::Multiply => finite(a * b),
        Binary::Divide | Binary::Remainder if b == 0.0 => Err(ComputeError::DivisionByZero),
        Binary::Divide => finite(a / b),
        Binary::Remainder => finite(remainder(a, b)),
        Binary::Power => power(a, b),
        Binary::Less => Ok(Scalar::Flag(a < b)),
        Binary::LessOrEqual => Ok(Scalar::Flag(a <= b)),
        Binary::Greater => Ok(Scalar::Flag(a > b)),
        Binary::GreaterOrEqual => Ok(Scalar::Flag(a >= b)),
        Binary::Equal | Binary::NotEqual => Err(ComputeError::NotNumber),
    }
}

/// Of two kinds, a text equals nothing.
#[allow(clippy::float_cmp)] // that is what was asked for
fn is_equal(left: &Scalar, right: &Scalar) -> bool {
    match (left, right) {
        (Scalar::Text(left), Scalar::Text(right)) => left == right,
        _ => matches!((number(left), number(right)), (Ok(left), Ok(right)) if left == right),
    }
}

/// With the sign of the divisor: -30 % 360 is 330.
fn remainder(a: f64, b: f64) -> f64 {
    let rest = a % b;
    if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest }
}

fn power(base: f64, exponent: f64) -> Result<Scalar, ComputeError> {
    if base == 0.0 && exponent < 0.0 {
        return Err(ComputeError::DivisionByZero);
    }
    finite(base.powf(exponent))
}
