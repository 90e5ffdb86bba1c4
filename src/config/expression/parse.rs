//! Reads an expression by descent, and writes its program on the way. Loosest first: `? :`, `or`, `and`, `not`,
//! comparison, `+ -`, `* / %`, sign, `^`.

use crate::config::expression::{
    Binary, EXPRESSION_BYTES_MAX, EXPRESSION_DEPTH_MAX, ErrorKind, ExpressionError, Function, Name, Step,
};

type Parsed = Result<(), ExpressionError>;

pub(super) struct Parser<'a> {
    text: &'a str,
    /// In bytes.
    at: usize,
    depth: usize,
    names: Vec<Name>,
    steps: Vec<Step>,
}

/// Longer ones first.
const COMPARISONS: [(&str, Binary); 6] = [
    ("==", Binary::Equal),
    ("!=", Binary::NotEqual),
    ("<=", Binary::LessOrEqual),
    (">=", Binary::GreaterOrEqual),
    ("<", Binary::Less),
    (">", Binary::Greater),
];
const SUMS: [(&str, Binary); 2] = [("+", Binary::Add), ("-", Binary::Subtract)];
const PRODUCTS: [(&str, Binary); 3] =
    [("*", Binary::Multiply), ("/", Binary::Divide), ("%", Binary::Remainder)];
/// How many values each takes.
const FUNCTIONS: [(&str, Function, Takes); 8] = [
    ("min", Function::Min, Takes::Some),
    ("max", Function::Max, Takes::Some),
    ("abs", Function::Abs, Takes::One),
    ("sqrt", Function::Sqrt, Takes::One),
    ("round", Function::Round, Takes::One),
    ("floor", Function::Floor, Takes::One),
    ("ceil", Function::Ceil, Takes::One),
    ("pow", Function::Pow, Takes::Two),
];

#[derive(Clone, Copy)]
enum Takes {
    One,
    Two,
    Some,
}

impl<'a> Parser<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0, depth: 0, names: Vec::new(), steps: Vec::new() }
    }

    pub(super) fn parse(mut self) -> Result<(Vec<Name>, Vec<Step>), ExpressionError> {
        if self.text.len() > EXPRESSION_BYTES_MAX {
            return Err(self.error(ErrorKind::TooLong));
        }
        self.choice()?;
        self.skip_blanks();
        if self.rest().is_empty() { Ok((self.names, self.steps)) } else { Err(self.wanted("an operator")) }
    }

    /// `c ? a : b`
    fn choice(&mut self) -> Parsed {
        self.enter()?;
        self.either()?;
        if self.take("?") {
            let branch = self.push_branch();
            self.choice()?;
            self.require(":", "`:`")?;
            let end = self.end_branch(branch);
            self.choice()?;
            self.land(end);
        }
        self.leave();
        Ok(())
    }

    fn either(&mut self) -> Parsed {
        self.both()?;
        while self.take_word("or") {
            let at = self.push(Step::Or(0));
            self.both()?;
            self.push(Step::Truth);
            self.land(at);
        }
        Ok(())
    }

    fn both(&mut self) -> Parsed {
        self.inverse()?;
        while self.take_word("and") {
            let at = self.push(Step::And(0));
            self.inverse()?;
            self.push(Step::Truth);
            self.land(at);
        }
        Ok(())
    }

    fn inverse(&mut self) -> Parsed {
        if !self.take_word("not") {
            return self.comparison();
        }
        self.enter()?;
        self.inverse()?;
        self.push(Step::Not);
        self.leave();
        Ok(())
    }

    fn comparison(&mut self) -> Parsed {
        self.sum()?;
        if let Some(operator) = self.take_one(&COMPARISONS) {
            self.sum()?;
            self.push(Step::Binary(operator));
            let second = self.at;
            if self.take_one(&COMPARISONS).is_some() {
                self.at = second;
                self.skip_blanks();
                return Err(self.error(ErrorKind::ComparedTwice));
            }
        }
        Ok(())
    }

    fn sum(&mut self) -> Parsed {
        self.product()?;
        while let Some(operator) = self.take_one(&SUMS) {
            self.product()?;
            self.push(Step::Binary(operator));
        }
        Ok(())
    }

    fn product(&mut self) -> Parsed {
        self.signed()?;
        while let Some(operator) = self.take_one(&PRODUCTS) {
            self.signed()?;
            self.push(Step::Binary(operator));
        }
        Ok(())
    }

    fn signed(&mut self) -> Parsed {
        let negative = self.take("-");
        if !negative && !self.take("+") {
            return self.power();
        }
        self.enter()?;
        self.signed()?;
        if negative {
            self.push(Step::Negate);
        }
        self.leave();
        Ok(())
    }

    /// Binds tighter than a sign before it, and takes one behind: `-2 ^ -1` is `-(2 ^ (-1))`.
    fn power(&mut self) -> Parsed {
        self.primary()?;
        if self.take("^") {
            self.enter()?;
            self.signed()?;
            self.push(Step::Binary(Binary::Power));
            self.leave();
        }
        Ok(())
    }

    fn primary(&mut self) -> Parsed {
        self.skip_blanks();
        match self.rest().chars().next() {
            Some('(') => {
                self.at += 1;
                self.choice()?;
                self.require(")", "`)`")
            }
            Some('{') => self.braced_name(),
            Some(quote @ ('"' | '\'')) => self.quoted(quote),
            Some(c) if c.is_ascii_digit() || c == '.' => self.number(),
            Some(c) if is_first_of_word(c) => self.word(),
            _ => Err(self.wanted("a value")),
        }
    }

    fn number(&mut self) -> Parsed {
        let bytes = self.rest().as_bytes();
        let digits = |from: usize| bytes.iter().skip(from).take_while(|b| b.is_ascii_digit()).count();
        let mut length = digits(0);
        if bytes.get(length) == Some(&b'.') {
            length += 1 + digits(length + 1);
        }
        if matches!(bytes.get(length), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(length + 1), Some(b'+' | b'-')));
            length += 1 + sign + digits(length + 1 + sign);
        }
        let number = self.rest().get(..length).and_then(|text| text.parse::<f64>().ok());
        let follows = self.rest().get(length..).and_then(|rest| rest.chars().next());
        match number.filter(|number| number.is_finite() && !follows.is_some_and(is_of_word)) {
            Some(number) => {
                self.at += length;
                self.push(Step::Number(number));
                Ok(())
            }
            None => Err(self.error(ErrorKind::BadNumber)),
        }
    }

    fn quoted(&mut self, quote: char) -> Parsed {
        let inside = self.rest().get(1..).unwrap_or("");
        let Some(length) = inside.find(quote) else { return Err(self.error(ErrorKind::UnclosedText)) };
        let text = inside.get(..length).unwrap_or("").into();
        self.at += length + 2;
        self.push(Step::Text(text));
        Ok(())
    }

    /// Any point's name; without braces `-` would be a minus.
    fn braced_name(&mut self) -> Parsed {
        let Some(length) = self.rest().find('}') else { return Err(self.error(ErrorKind::UnclosedName)) };
        let column = self.column();
        let name = self.rest().get(1..length).unwrap_or("").trim();
        self.at += length + 1;
        self.push_name(name, column);
        Ok(())
    }

    fn word(&mut self) -> Parsed {
        let column = self.column();
        let start = self.at;
        let text = self.rest();
        let length = text.find(|c| !is_of_word(c) && c != '.').unwrap_or(text.len());
        let word = text.get(..length).unwrap_or("");
        match word {
            "true" | "false" => {
                self.at += length;
                self.push(Step::Flag(word == "true"));
                return Ok(());
            }
            "and" | "or" | "not" => return Err(self.wanted("a value")),
            _ => self.at += length,
        }
        if !self.take("(") {
            self.push_name(word, column);
            return Ok(());
        }
        if word == "if" {
            return self.conditional(column);
        }
        let Some((name, function, takes)) = FUNCTIONS.iter().find(|(name, ..)| *name == word) else {
            self.at = start;
            return Err(self.error(ErrorKind::UnknownFunction(word.into())));
        };
        let count = self.arguments()?;
        let takes = match (takes, count) {
            (Takes::One, 1) | (Takes::Two, 2) | (Takes::Some, _) => {
                self.push(Step::Call(*function, count));
                return Ok(());
            }
            (Takes::One, _) => "one value",
            (Takes::Two, _) => "two values",
        };
        Err(ExpressionError { column, kind: ErrorKind::Arguments { function: name, takes } })
    }

    /// At least one.
    fn arguments(&mut self) -> Result<usize, ExpressionError> {
        let mut count = 1;
        self.choice()?;
        while self.take(",") {
            self.choice()?;
            count += 1;
        }
        self.require(")", "`,` or `)`")?;
        Ok(count)
    }

    /// `if(c, a, b)`
    fn conditional(&mut self, column: usize) -> Parsed {
        let three = ErrorKind::Arguments { function: "if", takes: "three values: if(condition, then, else)" };
        self.choice()?;
        let branch = self.push_branch();
        for end in [false, true] {
            if !self.take(",") {
                return Err(ExpressionError { column, kind: three });
            }
            if !end {
                self.choice()?;
            }
        }
        let end = self.end_branch(branch);
        self.choice()?;
        self.land(end);
        if self.take(")") { Ok(()) } else { Err(ExpressionError { column, kind: three }) }
    }

    /// After a condition; what follows is calculated where it holds.
    fn push_branch(&mut self) -> usize {
        self.push(Step::JumpUnless(0))
    }

    /// What follows is calculated where it does not hold.
    fn end_branch(&mut self, branch: usize) -> usize {
        let end = self.push(Step::Jump(0));
        self.land(branch);
        end
    }

    fn push(&mut self, step: Step) -> usize {
        self.steps.push(step);
        self.steps.len() - 1
    }

    /// The jump at `at` goes to what is pushed next.
    fn land(&mut self, at: usize) {
        let here = self.steps.len();
        if let Some(Step::Jump(target) | Step::JumpUnless(target) | Step::And(target) | Step::Or(target)) =
            self.steps.get_mut(at)
        {
            *target = here;
        }
    }

    fn push_name(&mut self, text: &str, column: usize) {
        let known = self.names.iter().position(|name| *name.text == *text);
        let index = known.unwrap_or_else(|| {
            self.names.push(Name { text: text.into(), column });
            self.names.len() - 1
        });
        self.push(Step::Name(index));
    }

    fn enter(&mut self) -> Parsed {
        self.depth += 1;
        if self.depth > EXPRESSION_DEPTH_MAX { Err(self.error(ErrorKind::TooDeep)) } else { Ok(()) }
    }

    fn leave(&mut self) {
        self.depth -= 1;
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn skip_blanks(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    fn take(&mut self, sign: &str) -> bool {
        self.skip_blanks();
        let is_next = self.rest().starts_with(sign);
        self.at += if is_next { sign.len() } else { 0 };
        is_next
    }

    fn take_word(&mut self, word: &str) -> bool {
        self.skip_blanks();
        let after = self.rest().strip_prefix(word);
        let is_next = after.is_some_and(|rest| !rest.starts_with(|c| is_of_word(c) || c == '.'));
        self.at += if is_next { word.len() } else { 0 };
        is_next
    }

    fn take_one(&mut self, operators: &[(&str, Binary)]) -> Option<Binary> {
        operators.iter().find(|(sign, _)| self.take(sign)).map(|(_, operator)| *operator)
    }

    fn require(&mut self, sign: &str, wants: &'static str) -> Parsed {
        if self.take(sign) { Ok(()) } else { Err(self.wanted(wants)) }
    }

    fn column(&self) -> usize {
        self.text.get(..self.at).unwrap_or("").chars().count() + 1
    }

    fn wanted(&self, what: &'static str) -> ExpressionError {
        self.error(ErrorKind::Wanted(what))
    }

    fn error(&self, kind: ErrorKind) -> ExpressionError {
        ExpressionError { column: self.column(), kind }
    }
}

fn is_first_of_word(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_'
}

fn is_of_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use crate::config::expression::{EXPRESSION_BYTES_MAX, Expression};

    #[test]
    fn what_is_no_expression_says_where_and_why() {
        let deep = |count| format!("{}1{}", "(".repeat(count), ")".repeat(count));
        let cases = [
            ("", "column 1: want a value"),
            ("  ", "column 3: want a value"),
            ("1 +", "column 4: want a value"),
            ("1 2", "column 3: want an operator"),
            ("a b", "column 3: want an operator"),
            ("(a", "column 3: want `)`"),
            ("a)", "column 2: want an operator"),
            ("é + 1", "column 1: want a value"),
            ("\"é\" + *", "column 7: want a value"),
            ("1.2.3", "column 4: want an operator"),
            ("1e", "column 1: not a number"),
            ("1e999", "column 1: not a number"),
            ("2x", "column 1: not a number"),
            (".", "column 1: not a number"),
            ("\"a", "column 1: text without its closing quote"),
            ("{a", "column 1: `{` without its `}`"),
            ("a == b == c", "column 8: a second comparison (put `and` between the two)"),
            ("a < b <= c", "column 7: a second comparison (put `and` between the two)"),
            ("a and or b", "column 7: want a value"),
            ("not", "column 4: want a value"),
            ("a ? b", "column 6: want `:`"),
            ("sin(a)", "column 1: unknown function `sin` (min, max, abs, sqrt, round, floor, ceil, pow, if)"),
            ("1 + sqrt(a, b)", "column 5: sqrt takes one value"),
            ("pow(2)", "column 1: pow takes two values"),
            ("min()", "column 5: want a value"),
            ("min(1, 2", "column 9: want `,` or `)`"),
            ("if(a, b)", "column 1: if takes three values: if(condition, then, else)"),
            ("if(a, b, c, d)", "column 1: if takes three values: if(condition, then, else)"),
            ("a = b", "column 3: want an operator"),
            ("a && b", "column 3: want an operator"),
        ];
        for (text, error) in cases {
            let found = Expression::new(text).map_err(|error| error.to_string());
            assert_eq!(found, Err(error.to_owned()), "{text}");
        }
        assert!(Expression::new(&deep(31)).is_ok());
        let too_deep = Expression::new(&deep(32)).map_err(|error| error.to_string());
        assert_eq!(too_deep, Err("column 33: nested deeper than 32 levels".to_owned()));
        for chain in ["-", "not ", "2^", "1?1:"] {
            let nested = format!("{}1", chain.repeat(200));
            assert!(
                Expression::new(&nested).is_err_and(|error| error.to_string().contains("nested")),
                "{chain}"
            );
        }
        let long = |count| format!("1{}", "+1".repeat(count));
        assert!(Expression::new(&long(EXPRESSION_BYTES_MAX / 2 - 1)).is_ok(), "a long sum is no deep one");
        assert!(Expression::new(&long(EXPRESSION_BYTES_MAX / 2)).is_err());
    }

    #[test]
    fn names_are_listed_once_with_their_first_column() {
        let expression = Expression::new("{l1-voltage} + b.c * _x1 + b.c").expect("an expression");
        let names: Vec<_> = expression.names().iter().map(|name| (&*name.text, name.column)).collect();
        assert_eq!(names, [("l1-voltage", 1), ("b.c", 16), ("_x1", 22)]);
    }
}
