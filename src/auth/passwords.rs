//! A password file: `name:hash` a line, as `tidegate passwd` and `mosquitto_passwd` write it. Reads text, names every
//! faulty line, and changes one user's line; never opens a file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::sync::Arc;

use ring::digest;

use crate::auth::password::{HashError, PasswordHash};

/// Users of one file.
pub const USERS_MAX: usize = 100_000;
/// MQTT 1.5.4: the length of a string is two bytes.
const NAME_BYTES_MAX: usize = 65_535;

/// What is wrong with one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineProblem {
    NoColon,
    BadName,
    Duplicate { first_line: usize },
    TooMany,
    BadHash(HashError),
}

/// A line that cannot be read; its number from 1. Never holds what stands in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineError {
    pub line: usize,
    pub problem: LineProblem,
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: ", self.line)?;
        match self.problem {
            LineProblem::NoColon => f.write_str("no `:` (name:hash)"),
            LineProblem::BadName => f.write_str("the name is empty, too long, or has control characters"),
            LineProblem::Duplicate { first_line } => {
                write!(f, "this user is in line {first_line} already")
            }
            LineProblem::TooMany => write!(f, "too many users (at most {USERS_MAX})"),
            LineProblem::BadHash(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for LineError {}

/// Users and their hashes.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Passwords {
    users: BTreeMap<Arc<str>, PasswordHash>,
    /// In the order of the file: what an unknown user's password is held against.
    decoys: Vec<Arc<str>>,
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} users", self.users.len())
    }
}

impl Passwords {
    /// Empty lines and those that begin with `#` say nothing. All faulty lines are named.
    pub fn parse(text: &str) -> Result<Self, Vec<LineError>> {
        let mut passwords = Self::default();
        let mut lines: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        let mut errors = Vec::new();
        for (line, content) in (1..).zip(text.lines()) {
            match parse_line(content) {
                Ok(None) => {}
                Ok(Some(_)) if passwords.users.len() >= USERS_MAX => {
                    errors.push(LineError { line, problem: LineProblem::TooMany });
                    break;
                }
                Ok(Some((name, hash))) => {
                    let name: Arc<str> = name.into();
                    if let Some(&first_line) = lines.get(&name) {
                        errors.push(LineError { line, problem: LineProblem::Duplicate { first_line } });
                        continue;
                    }
                    lines.insert(name.clone(), line);
                    passwords.decoys.push(name.clone());
                    passwords.users.insert(name, hash);
                }
                Err(problem) => errors.push(LineError { line, problem }),
            }
        }
        if errors.is_empty() { Ok(passwords) } else { Err(errors) }
    }

    /// Whether this is the user's password. An unknown user costs what a known one does.
    pub fn check(&self, user: &str, password: &[u8]) -> bool {
        if let Some(hash) = self.users.get(user) {
            return hash.verify(password);
        }
        if let Some(hash) = self.decoy(user) {
            // The result is of no use to anybody; the time that it took is.
            std::hint::black_box(hash.verify(password));
        }
        false
    }

    /// Users that the newer file does not have, or has with another hash.
    pub fn lost_in(&self, newer: Option<&Passwords>) -> BTreeSet<Arc<str>> {
        let kept = |user: &Arc<str>, hash| newer.is_some_and(|newer| newer.users.get(user) == Some(hash));
        let lost = self.users.iter().filter(|(user, hash)| !kept(user, hash));
        lost.map(|(user, _)| user.clone()).collect()
    }

    /// Always the same for a name, so that asking twice tells nothing.
    fn decoy(&self, user: &str) -> Option<&PasswordHash> {
        let digest = digest::digest(&digest::SHA256, user.as_bytes());
        let number = digest.as_ref().iter().take(8).fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
        let place = number.checked_rem(self.decoys.len() as u64)?;
        self.users.get(self.decoys.get(usize::try_from(place).ok()?)?)
    }
}

/// Whether a user can have this name.
pub fn is_user_name(name: &str) -> bool {
    let good = |c: char| c != ':' && !c.is_control();
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.starts_with('#') && name.chars().all(good)
}

/// The file with the user's line replaced or added, every other line as it was.
pub fn with_user(text: &str, user: &str, hash: &str) -> String {
    let mut written = false;
    let mut out = String::with_capacity(text.len() + user.len() + hash.len() + 2);
    for line in text.lines() {
        if is_line_of(line, user) {
            if !written {
                // Writing to a String cannot fail.
                let _ = writeln!(out, "{user}:{hash}");
            }
            written = true;
        } else {
            let _ = writeln!(out, "{line}");
        }
    }
    if !written {
        let _ = writeln!(out, "{user}:{hash}");
    }
    out
}

/// The file without the user's line. None: there was none.
pub fn without_user(text: &str, user: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut found = false;
    for line in text.lines() {
        if is_line_of(line, user) {
            found = true;
        } else {
            let _ = writeln!(out, "{line}");
        }
    }
    found.then_some(out)
}

fn is_line_of(line: &str, user: &str) -> bool {
    line.strip_prefix(user).is_some_and(|rest| rest.starts_with(':'))
}

fn parse_line(line: &str) -> Result<Option<(&str, PasswordHash)>, LineProblem> {
    if line.trim().is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (name, hash) = line.split_once(':').ok_or(LineProblem::NoColon)?;
    if !is_user_name(name) {
        return Err(LineProblem::BadName);
    }
    let hash = PasswordHash::parse(hash.trim_end()).map_err(LineProblem::BadHash)?;
    Ok(Some((name, hash)))
}

#[cfg(test)]
mod tests {
    use super::{LineError, LineProblem, Passwords, is_user_name, with_user, without_user};
    use crate::auth::password::HashError;

    const ANN: &str =
        "ann:$argon2id$v=19$m=64,t=2,p=1$c29tZXNhbHQxMjM0NTY3OA$b+AoQQgrexWdHzM/euu5auTJURsxAqB0wpAUlq+h2Ew";
    const BOB: &str = "bob:$6$AOAiZ42r7mtIJWMw$ReDysK1xZsVXylX0EtE7UOumhmK2cIs7gzjV+OfIbFAtDVhF1RcUqcMqjj36Zsb+Z9h+N5R4K+yxAmrYQpSvuw==";

    #[test]
    fn a_file_of_several_kinds_is_read() {
        let text = format!("# plant 7\n{ANN}\r\n\n{BOB}\n");
        let passwords = Passwords::parse(&text).expect("a good file");
        let cases = [
            ("ann", "secret", true),
            ("bob", "pass word", true),
            ("ann", "pass word", false),
            ("bob", "secret", false),
            ("Ann", "secret", false),
            ("carl", "secret", false),
            ("", "", false),
        ];
        for (user, password, good) in cases {
            assert_eq!(passwords.check(user, password.as_bytes()), good, "{user} {password}");
        }
        assert_eq!(format!("{passwords:?}"), "2 users");
        assert!(!Passwords::default().check("ann", b"secret"));
    }

    #[test]
    fn an_unknown_user_is_held_against_a_hash_of_the_file() {
        let passwords = Passwords::parse(&format!("{ANN}\n{BOB}")).expect("a good file");
        let names = ["carl", "dora", "eve", "x1", "x2", "x3", "x4", "x5"];
        let decoys: Vec<_> = names.iter().map(|name| passwords.decoy(name).expect("a decoy")).collect();
        assert!(decoys.contains(&&passwords.users["ann"]) && decoys.contains(&&passwords.users["bob"]));
        assert_eq!(passwords.decoy("carl"), passwords.decoy("carl"));
    }

    #[test]
    fn every_faulty_line_is_named_and_none_is_shown() {
        let text = format!("{ANN}\nno colon\n:x\n{ANN}\ncarl:s3cret\nda\tn:x\n{BOB}x\n");
        let errors = Passwords::parse(&text).expect_err("faulty");
        let expected = [
            (2, LineProblem::NoColon),
            (3, LineProblem::BadName),
            (4, LineProblem::Duplicate { first_line: 1 }),
            (5, LineProblem::BadHash(HashError::UnknownKind)),
            (6, LineProblem::BadName),
            (7, LineProblem::BadHash(HashError::Malformed)),
        ];
        assert_eq!(errors, expected.map(|(line, problem)| LineError { line, problem }));
        assert!(errors.iter().all(|error| !error.to_string().contains("s3cret")));
    }

    #[test]
    fn who_is_gone_or_has_another_hash_is_lost() {
        let parse = |text: &str| Passwords::parse(text).expect("a good file");
        let other = BOB.replace("bob:", "ann:");
        let both = format!("{ANN}\n{BOB}");
        let cases: [(&str, Option<&str>, &[&str]); 5] = [
            (&both, Some(&format!("{BOB}\n{ANN}\n{}", BOB.replace("bob:", "carl:"))), &[]),
            (&both, Some(BOB), &["ann"]),
            (&both, Some(&format!("{other}\n{BOB}")), &["ann"]),
            (&both, None, &["ann", "bob"]),
            ("", Some(BOB), &[]),
        ];
        for (old, newer, lost) in cases {
            let newer = newer.map(parse);
            let found: Vec<_> = parse(old).lost_in(newer.as_ref()).into_iter().collect();
            assert_eq!(found.iter().map(|user| &**user).collect::<Vec<_>>(), lost, "{old}");
        }
    }

    #[test]
    fn one_users_line_changes_and_no_other() {
        let text = "# all\nann:x\nbob:y";
        assert_eq!(with_user(text, "ann", "z"), "# all\nann:z\nbob:y\n");
        assert_eq!(with_user(text, "an", "z"), "# all\nann:x\nbob:y\nan:z\n");
        assert_eq!(with_user("ann:1\nann:2\n", "ann", "z"), "ann:z\n");
        assert_eq!(with_user("", "ann", "z"), "ann:z\n");
        assert_eq!(without_user(text, "bob").as_deref(), Some("# all\nann:x\n"));
        assert_eq!(without_user(text, "carl"), None);
        assert!(is_user_name("sensor 7/ä@plant"));
        for name in ["", "a:b", "a\nb", "#a", "a\0"] {
            assert!(!is_user_name(name), "{name:?}");
        }
    }
}
