//! Expressions of computed points. Any text is an expression or says where it is none, and what is one never panics
//! and yields nothing but finite numbers. A tree that chance grew, written down with few brackets, is calculated as an
//! oracle calculates that walks the tree.

use arbitrary::{Arbitrary, Result, Unstructured};
use tidegate::config::expression::{EXPRESSION_BYTES_MAX, EXPRESSION_DEPTH_MAX, Expression};
use tidegate::device::compute::{ComputeError, evaluate};
use tidegate::device::value::Value;

/// Deep enough for every mixture of operators.
const TREE_LEVELS: usize = 5;
const NAMES: [&str; 3] = ["a", "b.c", "{l-1}"];

/// The first byte picks: text as it is, or a tree.
pub fn check(input: &[u8]) {
    let Some((choice, rest)) = input.split_first() else { return };
    if choice & 1 == 0 {
        check_text(&String::from_utf8_lossy(rest));
    } else {
        let mut unstructured = Unstructured::new(rest);
        // Bytes that are over yield the simplest tree.
        let _: Result<()> = check_tree(&mut unstructured);
    }
}

fn check_text(text: &str) {
    match Expression::new(text) {
        Ok(expression) => {
            for number in [0.0, -1.5, 1e300] {
                let values = vec![Value::Float(number); expression.names().len()];
                assert_sound(&evaluate(&expression, &values));
            }
            let texts = vec![Value::Text("on".into()); expression.names().len()];
            assert_sound(&evaluate(&expression, &texts));
        }
        Err(error) => assert!((1..=text.chars().count() + 1).contains(&error.column), "{error}: {text}"),
    }
}

fn assert_sound(result: &std::result::Result<Value, ComputeError>) {
    if let Ok(Value::Float(number)) = result {
        assert!(number.is_finite(), "{number}");
    }
}

fn check_tree(unstructured: &mut Unstructured<'_>) -> Result<()> {
    let tree = Tree::grow(unstructured, TREE_LEVELS)?;
    let values: [i8; 3] = Arbitrary::arbitrary(unstructured)?;
    let mut text = String::new();
    tree.write(0, &mut text);
    let expression = match Expression::new(&text) {
        Ok(expression) => expression,
        // The bounds are its own; every level takes a bracket or a sign at the most, and each may be a branch.
        Err(error) => {
            let is_bound = text.len() > EXPRESSION_BYTES_MAX || TREE_LEVELS * 3 > EXPRESSION_DEPTH_MAX;
            assert!(is_bound, "{text}: {error}");
            return Ok(());
        }
    };
    let value_of = |name: &str| {
        let at = NAMES.iter().position(|known| known.trim_matches(['{', '}']) == name).expect("a name");
        Value::Float(f64::from(values[at]) / 4.0)
    };
    let given: Vec<Value> = expression.names().iter().map(|name| value_of(&name.text)).collect();
    let calculated = match evaluate(&expression, &given) {
        Ok(Value::Float(number)) => Some(number),
        Ok(Value::Bool(flag)) => Some(f64::from(u8::from(flag))),
        Ok(other) => panic!("{text} is {other}"),
        Err(_) => None,
    };
    let wanted = tree.walk(&values.map(|value| f64::from(value) / 4.0));
    assert_eq!(calculated, wanted, "{text} with {values:?} quarters");
    Ok(())
}

#[derive(Debug)]
enum Tree {
    Number(u8),
    Name(usize),
    Negate(Box<Tree>),
    Not(Box<Tree>),
    /// Its sign, how tight it binds, and whether it binds to the right.
    Pair(&'static str, u8, Box<Tree>, Box<Tree>),
    Call(&'static str, Vec<Tree>),
    Choice(Box<Tree>, Box<Tree>, Box<Tree>),
}

/// How tight each binds.
const CHOICE: u8 = 0;
const NOT: u8 = 3;
const COMPARISON: u8 = 4;
const NEGATE: u8 = 7;
const POWER: u8 = 8;
const TIGHTEST: u8 = 9;
const PAIRS: [(&str, u8); 14] = [
    ("or", 1),
    ("and", 2),
    ("==", COMPARISON),
    ("!=", COMPARISON),
    ("<", COMPARISON),
    ("<=", COMPARISON),
    (">", COMPARISON),
    (">=", COMPARISON),
    ("+", 5),
    ("-", 5),
    ("*", 6),
    ("/", 6),
    ("%", 6),
    ("^", POWER),
];
const CALLS: [(&str, usize); 10] = [
    ("min", 2),
    ("max", 3),
    ("abs", 1),
    ("sqrt", 1),
    ("round", 1),
    ("floor", 1),
    ("ceil", 1),
    ("pow", 2),
    ("if", 3),
    ("min", 1),
];

impl Tree {
    fn grow(from: &mut Unstructured<'_>, levels: usize) -> Result<Self> {
        let kind = if levels == 0 { from.int_in_range(0..=1)? } else { from.int_in_range(0..=9)? };
        let below = |from: &mut Unstructured<'_>| Self::grow(from, levels - 1).map(Box::new);
        Ok(match kind {
            0 => Self::Number(from.arbitrary()?),
            1 => Self::Name(from.choose_index(NAMES.len())?),
            2 => Self::Negate(below(from)?),
            3 => Self::Not(below(from)?),
            4 => Self::Choice(below(from)?, below(from)?, below(from)?),
            5 => {
                let (name, count) = *from.choose(&CALLS)?;
                let arguments = (0..count).map(|_| Self::grow(from, levels - 1)).collect::<Result<_>>()?;
                Self::Call(name, arguments)
            }
            _ => {
                let (sign, binds) = *from.choose(&PAIRS)?;
                Self::Pair(sign, binds, below(from)?, below(from)?)
            }
        })
    }

    fn binds(&self) -> u8 {
        match self {
            Self::Number(_) | Self::Name(_) | Self::Call(..) => TIGHTEST,
            Self::Negate(_) => NEGATE,
            Self::Not(_) => NOT,
            Self::Pair(_, binds, ..) => *binds,
            Self::Choice(..) => CHOICE,
        }
    }

    /// In brackets only where it binds less than `least`.
    fn write(&self, least: u8, out: &mut String) {
        if self.binds() < least {
            out.push('(');
            self.write(0, out);
            out.push(')');
            return;
        }
        match self {
            Self::Number(number) => out.push_str(&(f64::from(*number) / 4.0).to_string()),
            Self::Name(index) => out.push_str(NAMES[*index]),
            Self::Negate(of) => {
                out.push('-');
                of.write(NEGATE, out);
            }
            Self::Not(of) => {
                out.push_str("not ");
                of.write(NOT, out);
            }
            Self::Pair(sign, binds, left, right) => {
                // A comparison has none beside it; a power binds to the right, and takes a sign there.
                let (left_least, right_least) = match *binds {
                    COMPARISON => (COMPARISON + 1, COMPARISON + 1),
                    POWER => (TIGHTEST, NEGATE),
                    binds => (binds, binds + 1),
                };
                left.write(left_least, out);
                out.push_str(&[" ", *sign, " "].concat());
                right.write(right_least, out);
            }
            Self::Call(name, arguments) => {
                out.push_str(name);
                for (index, argument) in arguments.iter().enumerate() {
                    out.push_str(if index == 0 { "(" } else { ", " });
                    argument.write(0, out);
                }
                out.push(')');
            }
            Self::Choice(condition, then, or_else) => {
                condition.write(CHOICE + 1, out);
                out.push_str(" ? ");
                then.write(CHOICE, out);
                out.push_str(" : ");
                or_else.write(CHOICE, out);
            }
        }
    }

    /// None: nothing finite. Flags are 0 and 1.
    #[allow(clippy::float_cmp)] // that is what was asked for
    fn walk(&self, names: &[f64; 3]) -> Option<f64> {
        let flag = |flag: bool| f64::from(u8::from(flag));
        let number = match self {
            Self::Number(number) => f64::from(*number) / 4.0,
            Self::Name(index) => names[*index],
            Self::Negate(of) => -of.walk(names)?,
            Self::Not(of) => flag(of.walk(names)? == 0.0),
            Self::Choice(condition, then, or_else) => {
                if condition.walk(names)? == 0.0 {
                    or_else.walk(names)?
                } else {
                    then.walk(names)?
                }
            }
            Self::Call("if", parts) => {
                if parts[0].walk(names)? == 0.0 {
                    parts[2].walk(names)?
                } else {
                    parts[1].walk(names)?
                }
            }
            Self::Call(name, arguments) => {
                let values: Vec<f64> =
                    arguments.iter().map(|argument| argument.walk(names)).collect::<Option<_>>()?;
                match *name {
                    "min" => values.into_iter().reduce(f64::min)?,
                    "max" => values.into_iter().reduce(f64::max)?,
                    "abs" => values[0].abs(),
                    "sqrt" => values[0].sqrt(),
                    "round" => {
                        // A sum would round by itself where there are no halves any more.
                        let (whole, part) = (values[0].trunc(), values[0].fract());
                        if part.abs() < 0.5 { whole } else { whole + 1f64.copysign(part) }
                    }
                    "floor" => values[0].floor(),
                    "ceil" => values[0].ceil(),
                    _ => values[0].powf(values[1]),
                }
            }
            Self::Pair("and", _, left, right) => flag(left.walk(names)? != 0.0 && right.walk(names)? != 0.0),
            Self::Pair("or", _, left, right) => flag(left.walk(names)? != 0.0 || right.walk(names)? != 0.0),
            Self::Pair(sign, _, left, right) => {
                let (a, b) = (left.walk(names)?, right.walk(names)?);
                match *sign {
                    "==" => flag(a == b),
                    "!=" => flag(a != b),
                    "<" => flag(a < b),
                    "<=" => flag(a <= b),
                    ">" => flag(a > b),
                    ">=" => flag(a >= b),
                    "+" => a + b,
                    "-" => a - b,
                    "*" => a * b,
                    "/" => a / b,
                    "%" => {
                        let rest = a % b;
                        if rest != 0.0 && rest.signum() != b.signum() { rest + b } else { rest }
                    }
                    _ => a.powf(b),
                }
            }
        };
        number.is_finite().then_some(number)
    }
}
