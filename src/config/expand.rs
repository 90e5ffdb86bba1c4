//! `${NAME}`, `${NAME:-text}`, `${file:/path}` and `${credential:name}` in one text. Reads the files that
//! are named; never looks into what it inserts, so that a secret cannot bring a variable of its own.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::config::error::Problem;

/// A secret or a short text, not a document.
const REFERENCE_BYTES_MAX: u64 = 64 << 10;

/// What the configuration asks of the process around it; an argument, so that tests bring their own.
pub trait Environment {
    /// A variable of the environment; None where it is not set or not text.
    fn variable(&self, name: &str) -> Option<String>;
    /// What `gateway.id` is where the file does not say.
    fn host_name(&self) -> Option<String>;
}

/// The process's own environment.
#[derive(Debug, Clone, Copy)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn host_name(&self) -> Option<String> {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
        Some(name.trim().to_owned()).filter(|name| !name.is_empty())
    }
}

/// Whether [`expand`] has anything to do.
pub fn holds_variable(text: &str) -> bool {
    text.contains("${")
}

/// `$${` stands for a plain `${`. Relative paths start at `base_dir`.
pub fn expand(text: &str, base_dir: &Path, environment: &dyn Environment) -> Result<String, Problem> {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(escaped) = before.strip_suffix('$') {
            expanded.push_str(escaped);
            expanded.push_str("${");
            rest = after;
            continue;
        }
        expanded.push_str(before);
        let Some((reference, behind)) = after.split_once('}') else { return Err(Problem::UnclosedVariable) };
        expanded.push_str(&resolve(reference, base_dir, environment)?);
        rest = behind;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

fn resolve(reference: &str, base_dir: &Path, environment: &dyn Environment) -> Result<String, Problem> {
    if let Some(path) = reference.strip_prefix("file:") {
        return read_reference(&base_dir.join(path));
    }
    if let Some(name) = reference.strip_prefix("credential:") {
        return read_reference(&credential_path(name, environment)?);
    }
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    if !is_variable_name(name) {
        return Err(Problem::BadVariable(reference.into()));
    }
    // As in a shell, `:-` stands in for a variable that is set but empty too.
    match (environment.variable(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(Problem::UndefinedVariable(name.into())),
    }
}

fn is_variable_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    first && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// systemd passes credentials as files of one folder.
fn credential_path(name: &str, environment: &dyn Environment) -> Result<PathBuf, Problem> {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if !plain || name.is_empty() || name.starts_with('.') {
        return Err(Problem::BadCredentialName);
    }
    let folder = environment.variable("CREDENTIALS_DIRECTORY").ok_or(Problem::NoCredentials)?;
    Ok(Path::new(&folder).join(name))
}

fn read_reference(path: &Path) -> Result<String, Problem> {
    let file = || path.display().to_string().into_boxed_str();
    let bytes = read_bounded(path, REFERENCE_BYTES_MAX)
        .map_err(|error| Problem::ReferenceUnreadable { file: file(), kind: error.kind() })?
        .ok_or_else(|| Problem::ReferenceTooLarge { file: file(), bytes_max: REFERENCE_BYTES_MAX })?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(_) => Err(Problem::ReferenceNotUtf8 { file: file() }),
    }
}

/// None where the file is larger.
pub fn read_bounded(path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let read = File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    Ok(if read as u64 > bytes_max { None } else { Some(bytes) })
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::path::Path;

    use super::{Environment, expand};
    use crate::config::error::Problem;

    struct Fixed<'a>(&'a Path);

    impl Environment for Fixed<'_> {
        fn variable(&self, name: &str) -> Option<String> {
            match name {
                "NAME" => Some("plant-7".to_owned()),
                "EMPTY" => Some(String::new()),
                "EVIL" => Some("${NAME}\nkey: value".to_owned()),
                "CREDENTIALS_DIRECTORY" => Some(self.0.display().to_string()),
                _ => None,
            }
        }

        fn host_name(&self) -> Option<String> {
            None
        }
    }

    #[test]
    fn variables_files_and_credentials_are_inserted() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("secret"), "  s3cret\n").expect("a file");
        let missing = folder.path().join("none").display().to_string();
        let cases = [
            ("plain $ {text}", Ok("plain $ {text}")),
            ("${NAME}", Ok("plant-7")),
            ("a/${NAME}/b-${NAME}", Ok("a/plant-7/b-plant-7")),
            ("${NONE:-x}", Ok("x")),
            ("${NONE:-}", Ok("")),
            ("${EMPTY}", Ok("")),
            ("${EMPTY:-x}", Ok("x")),
            ("${EVIL}", Ok("${NAME}\nkey: value")),
            ("$${NAME}", Ok("${NAME}")),
            ("${file:secret}", Ok("s3cret")),
            ("${credential:secret}", Ok("s3cret")),
            ("${NONE}", Err(Problem::UndefinedVariable("NONE".into()))),
            ("${NAME", Err(Problem::UnclosedVariable)),
            ("${}", Err(Problem::BadVariable("".into()))),
            ("${7UP}", Err(Problem::BadVariable("7UP".into()))),
            ("${http:x}", Err(Problem::BadVariable("http:x".into()))),
            ("${credential:../secret}", Err(Problem::BadCredentialName)),
            (
                "${file:none}",
                Err(Problem::ReferenceUnreadable { file: missing.into(), kind: ErrorKind::NotFound }),
            ),
        ];
        for (text, expected) in cases {
            let expanded = expand(text, folder.path(), &Fixed(folder.path()));
            assert_eq!(expanded, expected.map(str::to_owned), "{text}");
        }
    }

    #[test]
    fn a_reference_is_a_short_text() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("large"), vec![b'x'; 65_537]).expect("a file");
        std::fs::write(folder.path().join("binary"), [0xff, 0xfe]).expect("a file");
        let problem = |text| expand(text, folder.path(), &Fixed(folder.path())).expect_err("refused");
        assert!(matches!(problem("${file:large}"), Problem::ReferenceTooLarge { .. }));
        assert!(matches!(problem("${file:binary}"), Problem::ReferenceNotUtf8 { .. }));
    }
}
