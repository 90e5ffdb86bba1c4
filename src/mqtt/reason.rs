//! Reason codes (MQTT 5 section 2.4) and the 3.1.1 return codes that they become.

macro_rules! reason_codes {
    ($($name:ident = $code:literal, $text:literal;)*) => {
        /// MQTT 5 section 2.4. `Success` is also Normal Disconnection and Granted QoS 0.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum ReasonCode { $($name = $code,)* }

        impl ReasonCode {
            pub const fn from_byte(byte: u8) -> Option<ReasonCode> {
                match byte { $($code => Some(ReasonCode::$name),)* _ => None }
            }
        }

        impl std::fmt::Display for ReasonCode {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $(ReasonCode::$name => $text,)* })
            }
        }
    };
}

reason_codes! {
    Success = 0x00, "success";
    GrantedQos1 = 0x01, "granted QoS 1";
    GrantedQos2 = 0x02, "granted QoS 2";
    DisconnectWithWill = 0x04, "disconnect with will message";
    NoMatchingSubscribers = 0x10, "no matching subscribers";
    NoSubscriptionExisted = 0x11, "no subscription existed";
    ContinueAuthentication = 0x18, "continue authentication";
    ReAuthenticate = 0x19, "re-authenticate";
    UnspecifiedError = 0x80, "unspecified error";
    MalformedPacket = 0x81, "malformed packet";
    ProtocolError = 0x82, "protocol error";
    ImplementationSpecificError = 0x83, "implementation specific error";
    UnsupportedProtocolVersion = 0x84, "unsupported protocol version";
    ClientIdentifierNotValid = 0x85, "client identifier not valid";
    BadUserNameOrPassword = 0x86, "bad user name or password";
    NotAuthorized = 0x87, "not authorized";
    ServerUnavailable = 0x88, "server unavailable";
    ServerBusy = 0x89, "server busy";
    Banned = 0x8a, "banned";
    ServerShuttingDown = 0x8b, "server shutting down";
    BadAuthenticationMethod = 0x8c, "bad authentication method";
    KeepAliveTimeout = 0x8d, "keep alive timeout";
    SessionTakenOver = 0x8e, "session taken over";
    TopicFilterInvalid = 0x8f, "topic filter invalid";
    TopicNameInvalid = 0x90, "topic name invalid";
    PacketIdentifierInUse = 0x91, "packet identifier in use";
    PacketIdentifierNotFound = 0x92, "packet identifier not found";
    ReceiveMaximumExceeded = 0x93, "receive maximum exceeded";
    TopicAliasInvalid = 0x94, "topic alias invalid";
    PacketTooLarge = 0x95, "packet too large";
    MessageRateTooHigh = 0x96, "message rate too high";
    QuotaExceeded = 0x97, "quota exceeded";
    AdministrativeAction = 0x98, "administrative action";
    PayloadFormatInvalid = 0x99, "payload format invalid";
    RetainNotSupported = 0x9a, "retain not supported";
    QosNotSupported = 0x9b, "QoS not supported";
    UseAnotherServer = 0x9c, "use another server";
    ServerMoved = 0x9d, "server moved";
    SharedSubscriptionsNotSupported = 0x9e, "shared subscriptions not supported";
    ConnectionRateExceeded = 0x9f, "connection rate exceeded";
    MaximumConnectTime = 0xa0, "maximum connect time";
    SubscriptionIdentifiersNotSupported = 0xa1, "subscription identifiers not supported";
    WildcardSubscriptionsNotSupported = 0xa2, "wildcard subscriptions not supported";
}

impl ReasonCode {
    pub const fn byte(self) -> u8 {
        self as u8
    }

    /// 0x80 and above end what they answer.
    pub const fn is_error(self) -> bool {
        self.byte() >= 0x80
    }
}

/// The CONNACK return code of MQTT 3 (table 3.1 of 3.1.1) that says the same. None where none fits: then the
/// connection is closed without CONNACK [MQTT-3.2.2-6 of 3.1.1].
pub const fn return_code_v3(reason: ReasonCode) -> Option<u8> {
    match reason {
        ReasonCode::Success => Some(0),
        ReasonCode::UnsupportedProtocolVersion => Some(1),
        ReasonCode::ClientIdentifierNotValid => Some(2),
        ReasonCode::ServerUnavailable
        | ReasonCode::ServerBusy
        | ReasonCode::ServerShuttingDown
        | ReasonCode::QuotaExceeded
        | ReasonCode::ConnectionRateExceeded
        | ReasonCode::UseAnotherServer
        | ReasonCode::ServerMoved => Some(3),
        ReasonCode::BadUserNameOrPassword => Some(4),
        ReasonCode::NotAuthorized | ReasonCode::Banned => Some(5),
        _ => None,
    }
}

/// What a CONNACK return code of MQTT 3 means; 6 and above are reserved.
pub const fn reason_of_return_code_v3(code: u8) -> Option<ReasonCode> {
    match code {
        0 => Some(ReasonCode::Success),
        1 => Some(ReasonCode::UnsupportedProtocolVersion),
        2 => Some(ReasonCode::ClientIdentifierNotValid),
        3 => Some(ReasonCode::ServerUnavailable),
        4 => Some(ReasonCode::BadUserNameOrPassword),
        5 => Some(ReasonCode::NotAuthorized),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{ReasonCode, reason_of_return_code_v3, return_code_v3};

    #[test]
    fn return_codes_of_3_1_1_survive_the_way_through_reason_codes() {
        for code in 0..=5 {
            assert_eq!(reason_of_return_code_v3(code).and_then(return_code_v3), Some(code));
        }
        assert_eq!(reason_of_return_code_v3(6), None);
    }

    #[test]
    fn busy_is_unavailable_and_a_protocol_error_has_no_return_code() {
        assert_eq!(return_code_v3(ReasonCode::ServerBusy), Some(3));
        assert_eq!(return_code_v3(ReasonCode::ProtocolError), None);
    }
}
