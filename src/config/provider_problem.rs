//! What can be wrong with a bridge to a cloud that has rules of its own. Owns the wording; decides nothing.

use std::fmt;

use crate::auth::signer::SignerError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProviderProblem {
    /// It speaks another version of MQTT alone.
    Version {
        provider: &'static str,
    },
    NeedsTls {
        provider: &'static str,
    },
    NeedsCertificate {
        provider: &'static str,
    },
    /// `form`: what it looks like.
    Name {
        provider: &'static str,
        form: &'static str,
    },
    /// The key, or what stands in its place.
    NoKey {
        what: &'static str,
    },
    Key(SignerError),
    /// A key of the configuration that says nothing here.
    Unused {
        provider: &'static str,
        why: &'static str,
    },
    /// `known`: the topics that it has.
    ToCloud {
        provider: &'static str,
        topic: Box<str>,
        known: Box<str>,
    },
    FromCloud {
        provider: &'static str,
        known: Box<str>,
    },
    TooDeep {
        provider: &'static str,
        slashes_max: usize,
    },
    TooLong {
        provider: &'static str,
        bytes_max: usize,
    },
    NoWill {
        provider: &'static str,
    },
}

impl fmt::Display for ProviderProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version { provider } => write!(f, "{provider} speaks MQTT 3.1.1 alone (protocol: 3.1.1)"),
            Self::NeedsTls { provider } => write!(f, "{provider} takes TLS alone (mqtts://…:8883)"),
            Self::NeedsCertificate { provider } => write!(
                f,
                "{provider} knows a client by its certificate (tls: {{ certificate: tls/plant-7.crt, private_key: tls/plant-7.key }})"
            ),
            Self::Name { provider, form } => write!(f, "not what {provider} has here ({form})"),
            Self::NoKey { what } => write!(f, "missing key ({what})"),
            Self::Key(error) => error.fmt(f),
            Self::Unused { provider, why } => write!(f, "{provider} has no use for it: {why} (leave it out)"),
            Self::ToCloud { provider, topic, known } => {
                write!(f, "yields `{topic}`, which {provider} does not take ({known})")
            }
            Self::FromCloud { provider, known } => {
                write!(f, "{provider} has nothing on these topics ({known})")
            }
            Self::TooDeep { provider, slashes_max } => {
                write!(
                    f,
                    "yields a topic of more levels than {provider} takes (at most {slashes_max} slashes)"
                )
            }
            Self::TooLong { provider, bytes_max } => {
                write!(f, "yields a topic longer than {provider} takes (at most {bytes_max} bytes)")
            }
            Self::NoWill { provider } => {
                write!(f, "{provider} takes no last will, so nobody would say `offline` (leave it out)")
            }
        }
    }
}
