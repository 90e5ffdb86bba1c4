//! The `broker.authentication` section: who may come in without a name, and what names are held against. Reads the
//! files that are named.

use std::path::Path;
use std::sync::Arc;

use crate::auth::Credentials;
use crate::auth::key::{Algorithm, Key};
use crate::auth::passwords::Passwords;
use crate::auth::token::Tokens;
use crate::config::error::Problem;
use crate::config::expand::read_bounded;
use crate::config::model::Anonymous;
use crate::config::raw::{Field, Section};

pub(super) const KEYS: &[&str] = &["anonymous", "password_file", "jwt"];
const JWT_KEYS: &[&str] = &["algorithm", "key", "username_claim"];
/// A hundred thousand users fit in.
const PASSWORD_FILE_BYTES_MAX: u64 = 32 << 20;
const KEY_BYTES_MAX: u64 = 64 << 10;
/// Faulty lines of a password file that are named one by one.
const LINES_NAMED_MAX: usize = 20;

pub(super) fn check(section: &Section<'_>, base_dir: &Path) -> (Anonymous, Credentials) {
    let known =
        [("never", Anonymous::Never), ("loopback", Anonymous::Loopback), ("always", Anonymous::Always)];
    let anonymous = section.read_or("anonymous", Anonymous::Loopback, |field| field.choice(&known));
    let passwords = section.read("password_file", |field| check_passwords(field, base_dir));
    let tokens = section.read("jwt", |field| check_tokens(&field.section(JWT_KEYS)?, base_dir));
    (anonymous, Credentials { passwords: passwords.map(Arc::new), tokens: tokens.map(Arc::new) })
}

fn check_passwords(field: &Field<'_>, base_dir: &Path) -> Option<Passwords> {
    let (file, bytes) = read(field, base_dir, PASSWORD_FILE_BYTES_MAX)?;
    let Ok(text) = String::from_utf8(bytes) else {
        field.fault(Problem::ReferenceNotUtf8 { file });
        return None;
    };
    let errors = match Passwords::parse(&text) {
        Ok(passwords) => return Some(passwords),
        Err(errors) => errors,
    };
    for error in errors.iter().take(LINES_NAMED_MAX) {
        field.fault(Problem::PasswordLine { file: file.clone(), error: *error });
    }
    let lines = errors.len().saturating_sub(LINES_NAMED_MAX);
    if lines > 0 {
        field.fault(Problem::MorePasswordLines { file, lines });
    }
    None
}

fn check_tokens(section: &Section<'_>, base_dir: &Path) -> Option<Tokens> {
    let known = [Algorithm::Hs256, Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa]
        .map(|algorithm| (algorithm.name(), algorithm));
    let algorithm = section.require("algorithm", "algorithm: RS256");
    let algorithm = algorithm.and_then(|field| field.choice(&known));
    let key = section.require("key", "key: tls/jwt.pub");
    let username_claim = section.read("username_claim", |field| field.filled_text().map(str::to_owned));
    let key = check_key(&key?, base_dir, algorithm)?;
    Some(Tokens { key, username_claim: username_claim.unwrap_or_else(|| "sub".to_owned()) })
}

/// Without an algorithm nobody knows what the file should hold; it has to be there all the same.
fn check_key(field: &Field<'_>, base_dir: &Path, algorithm: Option<Algorithm>) -> Option<Key> {
    let (file, bytes) = read(field, base_dir, KEY_BYTES_MAX)?;
    match Key::read(algorithm?, &bytes) {
        Ok(key) => Some(key),
        Err(error) => {
            field.fault(Problem::BadKey { file, error });
            None
        }
    }
}

fn read(field: &Field<'_>, base_dir: &Path, bytes_max: u64) -> Option<(Box<str>, Vec<u8>)> {
    let path = base_dir.join(field.filled_text()?);
    let file = path.display().to_string().into_boxed_str();
    let problem = match read_bounded(&path, bytes_max) {
        Ok(Some(bytes)) => return Some((file, bytes)),
        Ok(None) => Problem::ReferenceTooLarge { file, bytes_max },
        Err(error) => Problem::PathUnreadable { file, kind: error.kind() },
    };
    field.fault(problem);
    None
}
