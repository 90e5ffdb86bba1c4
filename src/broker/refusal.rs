//! Why a client did not come in: what it is told, what is counted, and who is to know where it came from.

use std::fmt;

use crate::mqtt::reason::ReasonCode;

/// Why a connection never became a client's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NotAdmitted {
    /// `limits.connections` are there.
    TooManyConnections,
    /// More logins wait than can be checked in time.
    TooManyLogins,
    /// Wrong user name, password or token; or a name where no names are known.
    WrongLogin,
    /// Nobody may come in without a name.
    Nameless,
    /// Its will may not be published.
    WillNotAllowed,
    /// Its will is to be retained, and nothing is.
    RetainedWill,
    /// No client identifier where one is needed.
    NoClientId,
    /// It takes no packet that is as large as its CONNACK.
    PacketSize,
    /// It wants to authenticate by a method, and there is none.
    AuthenticationMethod,
    /// A version that is not spoken here.
    Version,
    /// No CONNECT came in time.
    Silent,
}

impl NotAdmitted {
    pub const ALL: [NotAdmitted; 11] = [
        Self::TooManyConnections,
        Self::TooManyLogins,
        Self::WrongLogin,
        Self::Nameless,
        Self::WillNotAllowed,
        Self::RetainedWill,
        Self::NoClientId,
        Self::PacketSize,
        Self::AuthenticationMethod,
        Self::Version,
        Self::Silent,
    ];

    /// What CONNACK says; a 3.x client gets the return code that fits best.
    pub const fn reason(self) -> ReasonCode {
        match self {
            Self::TooManyConnections | Self::TooManyLogins => ReasonCode::ServerBusy,
            Self::WrongLogin => ReasonCode::BadUserNameOrPassword,
            Self::Nameless | Self::WillNotAllowed => ReasonCode::NotAuthorized,
            Self::RetainedWill => ReasonCode::RetainNotSupported,
            Self::NoClientId => ReasonCode::ClientIdentifierNotValid,
            Self::PacketSize => ReasonCode::PacketTooLarge,
            Self::AuthenticationMethod => ReasonCode::BadAuthenticationMethod,
            Self::Version => ReasonCode::UnsupportedProtocolVersion,
            Self::Silent => ReasonCode::KeepAliveTimeout,
        }
    }

    /// What metrics call it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::TooManyConnections => "connections",
            Self::TooManyLogins => "logins",
            Self::WrongLogin => "login",
            Self::Nameless => "no_name",
            Self::WillNotAllowed => "will",
            Self::RetainedWill => "retained_will",
            Self::NoClientId => "client_id",
            Self::PacketSize => "packet_size",
            Self::AuthenticationMethod => "authentication_method",
            Self::Version => "version",
            Self::Silent => "no_connect",
        }
    }
}

impl fmt::Display for NotAdmitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooManyConnections => "limits.connections clients are connected",
            Self::TooManyLogins => "too many logins wait to be checked",
            Self::WrongLogin => "its user name, password or token is wrong",
            Self::Nameless => "it names no user, and authentication.anonymous does not let it in from there",
            Self::WillNotAllowed => "no access rule allows its will",
            Self::RetainedWill => "its will is to be retained, and limits.retained_messages is 0",
            Self::NoClientId => "it has no client identifier",
            Self::PacketSize => "it takes no packet as large as CONNACK",
            Self::AuthenticationMethod => "it asks for an authentication method, and there is none",
            Self::Version => "it speaks a version of MQTT that is not spoken here",
            Self::Silent => "it sent no CONNECT in time",
        })
    }
}

/// Counts, by [`NotAdmitted`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Refused([u64; NotAdmitted::ALL.len()]);

impl Refused {
    pub(super) fn count(&mut self, why: NotAdmitted) {
        self.0[why as usize] += 1;
    }

    pub fn of(&self, why: NotAdmitted) -> u64 {
        self.0[why as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::NotAdmitted;

    #[test]
    fn each_has_its_place() {
        for (index, why) in NotAdmitted::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, index);
        }
    }
}
