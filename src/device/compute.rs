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

#[cfg(test)]
mod tests {
    use super::{ComputeError, evaluate, tidied};
    use crate::config::expression::Expression;
    use crate::device::value::Value;

    /// With `a` = 6, `b` = -4, `zero` = 0, `on` = true, `mode` = auto.
    fn run(text: &str) -> Result<Value, ComputeError> {
        let expression = Expression::new(text).expect("an expression");
        let values = expression.names().iter().map(|name| match &*name.text {
            "a" => Value::Unsigned(6),
            "b" => Value::Signed(-4),
            "zero" => Value::Float(0.0),
            "on" => Value::Bool(true),
            "mode" => Value::Text("auto".into()),
            other => panic!("{other} has no value"),
        });
        let values: Vec<Value> = values.collect();
        evaluate(&expression, &values)
    }

    #[test]
    fn operators_bind_as_people_expect() {
        let cases = [
            ("1 + 2 * 3", 7.0),
            ("(1 + 2) * 3", 9.0),
            ("10 - 4 - 3", 3.0),
            ("64 / 4 / 2", 8.0),
            ("2 ^ 3 ^ 2", 512.0),
            ("-2 ^ 2", -4.0),
            ("2 ^ -1", 0.5),
            ("-30 % 360", 330.0),
            ("30 % -360", -330.0),
            ("5.5 % 2", 1.5),
            ("1.5e3 + .5", 1500.5),
            ("+a - -b", 2.0),
            ("min(a, b, 3)", -4.0),
            ("max(a, b, 3)", 6.0),
            ("abs(b) + sqrt(9) + pow(2, 10)", 1031.0),
            ("round(2.5) + round(-2.5) + floor(-1.5) + ceil(-1.5)", -3.0),
            ("if(a > b, 1, 2)", 1.0),
            ("a < b ? 1 : a < 9 ? 2 : 3", 2.0),
            ("(on ? a : b) * 2", 12.0),
            ("on + on", 2.0),
        ];
        for (text, number) in cases {
            assert_eq!(run(text), Ok(Value::Float(number)), "{text}");
        }
    }

    #[test]
    fn conditions_are_true_or_false() {
        let cases = [
            ("a == 6", true),
            ("a != 6", false),
            ("a >= 6 and b < 0", true),
            ("not a >= 6 or b < 0", true),
            ("not (a >= 6 or b < 0)", false),
            ("a and b", true),
            ("zero or false", false),
            ("mode == 'auto'", true),
            ("mode == \"manual\"", false),
            ("mode == 5", false),
            ("mode != 5", true),
            ("on == 1", true),
            ("on == true and not on == false", true),
        ];
        for (text, flag) in cases {
            assert_eq!(run(text), Ok(Value::Bool(flag)), "{text}");
        }
        assert_eq!(run("on ? mode : 'none'"), Ok(Value::Text("auto".into())));
    }

    #[test]
    fn what_cannot_be_calculated_says_why_and_only_where_it_is_calculated() {
        let cases = [
            ("a / zero", ComputeError::DivisionByZero),
            ("a % zero", ComputeError::DivisionByZero),
            ("zero ^ -1", ComputeError::DivisionByZero),
            ("sqrt(b)", ComputeError::NotFinite),
            ("b ^ 0.5", ComputeError::NotFinite),
            ("1e300 * 1e300", ComputeError::NotFinite),
            ("mode + 1", ComputeError::NotNumber),
            ("mode ? 1 : 2", ComputeError::NotNumber),
            ("mode < 'b'", ComputeError::NotNumber),
        ];
        for (text, error) in cases {
            assert_eq!(run(text), Err(error), "{text}");
        }
        assert_eq!(run("zero == 0 ? 0 : a / zero"), Ok(Value::Float(0.0)));
        assert_eq!(run("zero != 0 and a / zero > 1"), Ok(Value::Bool(false)));
        assert_eq!(run("zero == 0 or a / zero > 1"), Ok(Value::Bool(true)));
        assert_eq!(run("if(on, 1, a / zero)"), Ok(Value::Float(1.0)));
    }

    #[test]
    fn what_was_calculated_has_no_digits_that_say_nothing() {
        let sum = run("0.1 + 0.2").expect("a number");
        assert_eq!(tidied(sum.clone(), None), Value::Float(0.3));
        assert_eq!(tidied(sum, Some(0)), Value::Float(0.0));
        assert_eq!(tidied(Value::Bool(true), Some(1)), Value::Bool(true));
    }
}
