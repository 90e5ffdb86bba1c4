//! Our QoS as rumqttc's, which has a type of it for each version, and back.

use rumqttc::mqttbytes::QoS as QoSOfV4;
use rumqttc::v5::mqttbytes::QoS as QoSOfV5;

use crate::mqtt::qos::QoS;

pub const fn to_v4(qos: QoS) -> QoSOfV4 {
    match qos {
        QoS::AtMostOnce => QoSOfV4::AtMostOnce,
        QoS::AtLeastOnce => QoSOfV4::AtLeastOnce,
        QoS::ExactlyOnce => QoSOfV4::ExactlyOnce,
    }
}

pub const fn from_v4(qos: QoSOfV4) -> QoS {
    match qos {
        QoSOfV4::AtMostOnce => QoS::AtMostOnce,
        QoSOfV4::AtLeastOnce => QoS::AtLeastOnce,
        QoSOfV4::ExactlyOnce => QoS::ExactlyOnce,
    }
}

pub const fn to_v5(qos: QoS) -> QoSOfV5 {
    match qos {
        QoS::AtMostOnce => QoSOfV5::AtMostOnce,
        QoS::AtLeastOnce => QoSOfV5::AtLeastOnce,
        QoS::ExactlyOnce => QoSOfV5::ExactlyOnce,
    }
}

pub const fn from_v5(qos: QoSOfV5) -> QoS {
    match qos {
        QoSOfV5::AtMostOnce => QoS::AtMostOnce,
        QoSOfV5::AtLeastOnce => QoS::AtLeastOnce,
        QoSOfV5::ExactlyOnce => QoS::ExactlyOnce,
    }
}
