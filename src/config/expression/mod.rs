//! The expressions of computed points: text, parsed once into a short program for a stack. Bounded in length and in
//! depth; never knows points nor their values, and calculates nothing.

mod parse;

use std::fmt;
use std::sync::Arc;

use crate::config::expression::parse::Parser;

/// In bytes. It bounds the program and its stack too: every step was written with at least one of them.
pub const EXPRESSION_BYTES_MAX: usize = 1000;
/// Parentheses, calls and signs within each other.
pub const EXPRESSION_DEPTH_MAX: usize = 32;

/// A program whose every step finds on the stack what it takes, and whose jumps go forward.
#[derive(Debug, Clone, PartialEq)]
pub struct Expression {
    names: Vec<Name>,
    steps: Vec<Step>,
}

/// A name in an expression, each once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    pub text: Box<str>,
    /// Where it stands first, in characters from 1.
    pub column: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    Number(f64),
    Text(Arc<str>),
    Flag(bool),
    /// Its position among the names.
    Name(usize),
    Negate,
    Not,
    Binary(Binary),
    /// Takes so many values.
    Call(Function, usize),
    Jump(usize),
    /// Takes a value, and goes on there if it does not hold.
    JumpUnless(usize),
    /// Takes a value. If it does not hold, leaves false and goes on there.
    And(usize),
    /// Takes a value. If it holds, leaves true and goes on there.
    Or(usize),
    /// Makes true or false of the last value.
    Truth,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Power,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    Min,
    Max,
    Abs,
    Sqrt,
    Round,
    Floor,
    Ceil,
    Pow,
}

/// Why a text is no expression, and where, in characters from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpressionError {
    pub column: usize,
    pub kind: ErrorKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ErrorKind {
    TooLong,
    TooDeep,
    /// The text ends, or goes on with something else, where there should be …
    Wanted(&'static str),
    BadNumber,
    UnclosedText,
    /// `{` without its `}`.
    UnclosedName,
    UnknownFunction(Box<str>),
    /// A function that takes another number of values.
    Arguments {
        function: &'static str,
        takes: &'static str,
    },
    /// `a < b < c`
    ComparedTwice,
}

impl fmt::Display for ExpressionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column {}: ", self.column)?;
        match &self.kind {
            ErrorKind::TooLong => write!(f, "longer than {EXPRESSION_BYTES_MAX} bytes"),
            ErrorKind::TooDeep => write!(f, "nested deeper than {EXPRESSION_DEPTH_MAX} levels"),
            ErrorKind::Wanted(what) => write!(f, "want {what}"),
            ErrorKind::BadNumber => f.write_str("not a number"),
            ErrorKind::UnclosedText => f.write_str("text without its closing quote"),
            ErrorKind::UnclosedName => f.write_str("`{` without its `}`"),
            ErrorKind::UnknownFunction(name) => {
                write!(f, "unknown function `{name}` (min, max, abs, sqrt, round, floor, ceil, pow, if)")
            }
            ErrorKind::Arguments { function, takes } => write!(f, "{function} takes {takes}"),
            ErrorKind::ComparedTwice => f.write_str("a second comparison (put `and` between the two)"),
        }
    }
}

impl std::error::Error for ExpressionError {}

impl Expression {
    pub fn new(text: &str) -> Result<Self, ExpressionError> {
        let (names, steps) = Parser::new(text).parse()?;
        Ok(Self { names, steps })
    }

    pub fn names(&self) -> &[Name] {
        &self.names
    }

    pub fn steps(&self) -> &[Step] {
        &self.steps
    }
}
