//! What can be wrong with the profile that a device names: facts as variants, with their words. Never decides what is
//! wrong.

use std::fmt;
use std::io;

use crate::config::size::SizeText;
use crate::config::words::kind_words;

#[derive(Debug, Clone, PartialEq)]
pub enum ProfileProblem {
    /// None: what was written is not shown.
    Unknown {
        name: Option<Box<str>>,
        nearest: Option<Box<str>>,
    },
    Unreadable {
        file: Box<str>,
        kind: io::ErrorKind,
    },
    TooLarge {
        file: Box<str>,
        bytes_max: u64,
    },
    NotUtf8 {
        file: Box<str>,
    },
}

impl fmt::Display for ProfileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { name, nearest } => {
                match name {
                    Some(name) => write!(f, "unknown profile `{name}` ")?,
                    None => f.write_str("unknown profile ")?,
                }
                match nearest {
                    Some(nearest) => {
                        write!(f, "(did you mean `{nearest}`? `tidegate profiles` lists them)")
                    }
                    None => {
                        f.write_str("(`tidegate profiles` lists them; a path has a slash or ends with .yaml)")
                    }
                }
            }
            Self::Unreadable { file, kind } => {
                write!(f, "{file} cannot be read: {}", kind_words(*kind))
            }
            Self::TooLarge { file, bytes_max } => {
                write!(f, "{file} is too large (at most {})", SizeText(*bytes_max))
            }
            Self::NotUtf8 { file } => write!(f, "{file} is not UTF-8 text (save the file as UTF-8)"),
        }
    }
}
