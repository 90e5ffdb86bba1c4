//! Why a link ended or could not be made. Plain facts, cheap to copy; the brain never acts on their text.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use crate::bridge::provider::NoCredential;
use crate::mqtt::reason::ReasonCode;

#[derive(Debug, Clone)]
pub enum LinkFault {
    /// The transport could not be made.
    Unreachable(Arc<dyn Error + Send + Sync>),
    /// The server closed the transport without a word.
    Closed,
    /// The transport failed.
    Transport(std::io::ErrorKind),
    /// What the server sent, or what it was to be sent, is no MQTT packet.
    Malformed(Arc<dyn Error + Send + Sync>),
    /// Nothing could be written for the hand's whole patience.
    Stalled,
    /// CONNACK with a reason other than success.
    Refused(ReasonCode),
    /// DISCONNECT from the server.
    ServerLeft(ReasonCode),
    /// The server acknowledged nothing but that its quota is used up: what waits is kept.
    QuotaExceeded,
    /// The server refused a message, and not for ever perhaps.
    NotTaken(ReasonCode),
    NoConnack,
    NoSuback,
    NoPingresp,
    /// The oldest packet in flight was not acknowledged: the session is resumed on a new transport.
    NoAcknowledgement,
    /// What the cloud asks for in place of a password cannot be made now.
    NoCredential(NoCredential),
    /// The Sparkplug host that has to be there went away.
    HostOffline,
    /// Not a fault: a preferred server is there again.
    Returning,
    /// Not a fault: the certificates were renewed.
    Renewed,
    /// Not a fault: the credential will run out soon.
    CredentialRenewed,
    /// Not a fault: the server is greeted once more, as something else.
    OtherRole,
    /// A packet that a server never sends, or not in this phase.
    Unexpected(&'static str),
}

impl fmt::Display for LinkFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => why.fmt(f),
            Self::Closed => f.write_str("the server closed the connection"),
            Self::Transport(kind) => write!(f, "the connection failed: {kind}"),
            Self::Malformed(why) => write!(f, "malformed packet: {why}"),
            Self::Stalled => f.write_str("nothing can be sent: the connection stands still"),
            Self::Refused(reason) => write!(f, "the server refused the connection: {reason}"),
            Self::ServerLeft(reason) => write!(f, "the server ended the connection: {reason}"),
            Self::QuotaExceeded => f.write_str("the server's quota is exceeded"),
            Self::NotTaken(reason) => write!(f, "the server did not take a message: {reason}"),
            Self::NoConnack => f.write_str("the server did not answer CONNECT"),
            Self::NoSuback => f.write_str("the server did not answer SUBSCRIBE"),
            Self::NoPingresp => f.write_str("the server did not answer a ping"),
            Self::NoAcknowledgement => f.write_str("the server does not acknowledge"),
            Self::NoCredential(NoCredential::ClockNotSet) => {
                f.write_str("the clock is not set, and the credential says until when it is good")
            }
            Self::NoCredential(NoCredential::NotSigned) => f.write_str("the credential cannot be signed"),
            Self::HostOffline => f.write_str("the primary host is offline"),
            Self::Returning => f.write_str("back to a server that stands before this one in the list"),
            Self::Renewed => f.write_str("a new connection with the new certificates"),
            Self::CredentialRenewed => f.write_str("a new connection with a new credential"),
            Self::OtherRole => f.write_str("a new connection with another protocol level"),
            Self::Unexpected(packet) => write!(f, "the server sent an unexpected {packet}"),
        }
    }
}

impl Error for LinkFault {}
