//! What can be wrong with a serial instrument's keys beside what can be wrong with any, in words that name a way out.

use std::fmt;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SerialProblem {
    PortTaken {
        by: Box<str>,
    },
    PortShared {
        port: Box<str>,
    },
    NotBytes,
    /// In the words of the engine.
    BadPattern(Box<str>),
    NoSuchField {
        known: Box<str>,
    },
    BadJsonPath,
    BadNmeaField,
    NotHex,
    BadSeparator,
    SameColumn,
    NoValue,
    Unconfirmed,
    Idle,
}

impl fmt::Display for SerialProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PortTaken { by } => {
                return write!(
                    f,
                    "device `{by}` is on this port (a serial instrument has its port to itself)"
                );
            }
            Self::PortShared { port } => {
                return write!(
                    f,
                    "port `{port}` is shared, and a serial instrument has its port to itself (leave out \
                     ports.{port}.share)"
                );
            }
            Self::BadPattern(words) => return write!(f, "not a regular expression: {words}"),
            Self::NoSuchField { known } => return write!(f, "no such field ({known})"),
            Self::NotBytes => "a character beyond \\xFF (one character is one byte, as in \"\\x02\")",
            Self::BadJsonPath => "not a path in JSON (temperature, or sensor.0.value)",
            Self::BadNmeaField => {
                "not a field of NMEA 0183 (RMC.latitude, RMC.longitude; or by number as GGA.7, GPVTG.7)"
            }
            Self::NotHex => "not what a raw frame has (hex)",
            Self::BadSeparator => {
                "not a separator (one character, as \",\" or \"\\t\"; no letter, digit or quote)"
            }
            Self::SameColumn => "a column of this name stands before it (another name)",
            Self::NoValue => "no `{value}` in it (SET {value}\\r\\n)",
            Self::Unconfirmed => {
                "nothing would say that it was done (field: …, to read it back; or expect: '^OK')"
            }
            Self::Idle => "idle ends a frame already (leave `gap` out)",
        })
    }
}
