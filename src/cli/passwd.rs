//! `tidegate passwd`: adds, changes or deletes a user of a password file. Hashes, and replaces the file in one step;
//! never prints or keeps a password.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use rustix::fs::{Gid, Uid};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::auth::password::{self, HashNotMade};
use crate::auth::passwords::{LineError, Passwords, is_user_name, with_user, without_user};
use crate::cli::{fail, wrong_usage};

/// MQTT 3.1.3.6: the length of a password is two bytes.
const PASSWORD_BYTES_MAX: u64 = 65_535;
/// Owner alone.
const NEW_FILE_MODE: u32 = 0o600;
/// A new file in a folder that its group may read, and nobody else.
const GROUP_MODE: u32 = 0o640;
/// What a file that is there keeps of its mode: nothing for others.
const KEPT_MODE: u32 = 0o660;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate passwd /etc/tidegate/passwords ann           asks for the password, twice
  tidegate passwd passwords sensor-7 --stdin < secret
  tidegate passwd passwords ann --delete
`systemctl reload tidegate` lets the running gateway read the file again.")]
pub struct PasswdArgs {
    /// The password file; it is made where it is missing
    file: PathBuf,
    /// The user's name
    user: String,
    /// Take the password from the first line of standard input
    #[arg(long, conflicts_with = "delete")]
    stdin: bool,
    /// Delete the user
    #[arg(long)]
    delete: bool,
}

/// Why a file was left as it was.
#[derive(Debug)]
enum PasswdError {
    Read(PathBuf, io::Error),
    Write(PathBuf, io::Error),
    Line(PathBuf, LineError),
    NoSuchUser(PathBuf),
    Input(io::Error),
    NoTerminal,
    Empty,
    TooLong,
    NotTheSame,
    Hash(HashNotMade),
}

impl fmt::Display for PasswdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(path, error) => write!(f, "{} cannot be read: {error}", path.display()),
            Self::Write(path, error) => write!(f, "{} cannot be written: {error}", path.display()),
            Self::Line(path, error) => write!(f, "{}: {error}", path.display()),
            Self::NoSuchUser(path) => write!(f, "{} has no such user", path.display()),
            Self::Input(error) => write!(f, "the password cannot be read: {error}"),
            Self::NoTerminal => f.write_str("there is no terminal to ask on (use --stdin)"),
            Self::Empty => f.write_str("the password is empty"),
            Self::TooLong => write!(f, "the password is longer than {PASSWORD_BYTES_MAX} bytes"),
            Self::NotTheSame => f.write_str("the two passwords are not the same"),
            Self::Hash(error) => error.fmt(f),
        }
    }
}

/// 0 it is done, 1 the file is as it was, 2 wrong usage.
pub fn run(args: &PasswdArgs) -> ExitCode {
    if !is_user_name(&args.user) {
        return wrong_usage(
            "a user's name is not empty, has no `:` or control character, and no `#` in front",
        );
    }
    match change(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error),
    }
}

fn change(args: &PasswdArgs) -> Result<(), PasswdError> {
    // Behind a link: the link stays.
    let path = fs::canonicalize(&args.file).unwrap_or_else(|_| args.file.clone());
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !args.delete => String::new(),
        Err(error) => return Err(PasswdError::Read(path, error)),
    };
    // A file that the gateway would refuse is more likely another file than one to add to.
    if let Err(errors) = Passwords::parse(&text)
        && let Some(error) = errors.first()
    {
        return Err(PasswdError::Line(path, *error));
    }
    let changed = if args.delete {
        without_user(&text, &args.user).ok_or_else(|| PasswdError::NoSuchUser(path.clone()))?
    } else {
        let password = if args.stdin { read_line(io::stdin().lock())? } else { ask_twice(&args.user)? };
        let hash = password::make(password.as_bytes()).map_err(PasswdError::Hash)?;
        with_user(&text, &args.user, &hash)
    };
    replace(&path, &changed).map_err(|error| PasswdError::Write(path, error))
}

/// The new text stands in the file whole, or not at all. Owner and group stay, so that the gateway can go on reading.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = PathBuf::from(name);
    let written = write_new(path, &new, text).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        // What is left of it is of no use; the error that counts is the first.
        let _ = fs::remove_file(&new);
    }
    written?;
    File::open(folder_of(path))?.sync_all()
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The group of a folder that is closed to all others, as `/etc/tidegate` is: the gateway's, which reads what is there.
fn group_of_closed(folder: &Path) -> io::Result<Option<Gid>> {
    let folder = fs::metadata(folder)?;
    Ok((folder.mode() & 0o077 == 0o050).then(|| Gid::from_raw(folder.gid())))
}

fn write_new(path: &Path, new: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(NEW_FILE_MODE).open(new)?;
    if let Ok(old) = fs::metadata(path) {
        let fresh = file.metadata()?;
        if (fresh.uid(), fresh.gid()) != (old.uid(), old.gid()) {
            rustix::fs::fchown(&file, Some(Uid::from_raw(old.uid())), Some(Gid::from_raw(old.gid())))?;
        }
        file.set_permissions(fs::Permissions::from_mode(old.mode() & KEPT_MODE))?;
    } else if let Some(group) = group_of_closed(folder_of(path))? {
        // Whoever may not give a file to that group keeps it to himself.
        if rustix::fs::fchown(&file, None, Some(group)).is_ok() {
            file.set_permissions(fs::Permissions::from_mode(GROUP_MODE))?;
        }
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn ask_twice(user: &str) -> Result<String, PasswdError> {
    let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty");
    let terminal = terminal.map_err(|_| PasswdError::NoTerminal)?;
    let once = ask(&terminal, &format!("Password of {user}: "))?;
    if once == ask(&terminal, "The same again: ")? { Ok(once) } else { Err(PasswdError::NotTheSame) }
}

fn ask(mut terminal: &File, words: &str) -> Result<String, PasswdError> {
    // Silent first: what is typed at the sight of the words is not thrown away.
    let silent = Silence::begin(terminal).map_err(PasswdError::Input)?;
    terminal.write_all(words.as_bytes()).map_err(PasswdError::Input)?;
    let line = read_line(BufReader::new(terminal));
    drop(silent);
    terminal.write_all(b"\n").map_err(PasswdError::Input)?;
    line
}

/// A terminal that does not show what is typed, as long as this lives.
struct Silence<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Silence<'a> {
    fn begin(terminal: &'a File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(terminal, OptionalActions::Flush, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        // Nothing more can be done for a terminal that is gone.
        let _ = tcsetattr(self.terminal, OptionalActions::Now, &self.before);
    }
}

/// One line without its end.
fn read_line(input: impl BufRead) -> Result<String, PasswdError> {
    let mut line = String::new();
    input.take(PASSWORD_BYTES_MAX + 2).read_line(&mut line).map_err(PasswdError::Input)?;
    let line = line.strip_suffix('\n').unwrap_or(&line);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() {
        return Err(PasswdError::Empty);
    }
    if line.len() as u64 > PASSWORD_BYTES_MAX { Err(PasswdError::TooLong) } else { Ok(line.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::{PasswdError, read_line};

    #[test]
    fn a_password_is_one_line_without_its_end() {
        for (input, wanted) in [("secret\n", "secret"), ("pass word \r\nmore", "pass word "), ("x", "x")] {
            assert_eq!(read_line(input.as_bytes()).expect("a line"), wanted);
        }
        for input in ["", "\n", "\r\n"] {
            assert!(matches!(read_line(input.as_bytes()), Err(PasswdError::Empty)));
        }
        let (most, more) = ("x".repeat(65_535), "x".repeat(65_536));
        assert_eq!(read_line(format!("{most}\n").as_bytes()).expect("a line"), most);
        assert!(matches!(read_line(more.as_bytes()), Err(PasswdError::TooLong)));
        assert!(matches!(read_line(&b"\xff\n"[..]), Err(PasswdError::Input(_))));
    }
}
