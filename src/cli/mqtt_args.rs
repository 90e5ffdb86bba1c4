//! The flags that `pub` and `sub` share, named as `mosquitto_pub` and `mosquitto_sub` name them. Only reads them.

use std::path::PathBuf;

use bytes::Bytes;
use clap::{ArgAction, Args};

use crate::cli::mqtt_client::Options;
use crate::cli::mqtt_properties::Properties;
use crate::cli::mqtt_stream::{Server, Tls};
use crate::cli::mqtt_wire::{Connect, Version, Will};
use crate::mqtt::qos::QoS;
use crate::mqtt::topic::TopicName;

const PORT_DEFAULT: u16 = 1883;
const PORT_TLS_DEFAULT: u16 = 8883;
/// MQTT 5 3.1.2.11.2: the session does not expire.
const SESSION_FOR_EVER: u32 = u32::MAX;
const RANDOM_ID_CHARACTERS: usize = 12;

#[derive(Debug, Args)]
pub struct ConnectArgs {
    /// The broker's name or address
    #[arg(short = 'h', long, value_name = "HOST", default_value = "localhost")]
    pub host: String,
    /// The broker's port [default: 1883, with TLS 8883]
    #[arg(short, long, value_name = "PORT")]
    pub port: Option<u16>,
    /// The client identifier [default: a random one]
    #[arg(short, long = "id", value_name = "ID")]
    pub id: Option<String>,
    /// The user's name
    #[arg(short, long, value_name = "NAME")]
    pub username: Option<String>,
    /// The user's password
    #[arg(short = 'P', long = "pw", value_name = "PASSWORD", requires = "username")]
    pub password: Option<String>,
    /// The protocol version: 311 or 5 [default: 311, with -D 5]
    #[arg(short = 'V', long = "protocol-version", value_name = "VERSION", value_parser = parse_version)]
    pub version: Option<Version>,
    /// Seconds of silence before a ping; 0: never
    #[arg(short, long = "keepalive", value_name = "SECONDS", default_value_t = 60)]
    pub keep_alive: u16,
    /// Keep the session on the broker when this ends (needs -i)
    #[arg(short = 'c', long = "disable-clean-session", requires = "id")]
    pub keep_session: bool,
    /// The CA certificates that the broker's is signed with (PEM); switches TLS on
    #[arg(long, value_name = "FILE")]
    pub cafile: Option<PathBuf>,
    /// TLS with the CA certificates that the system trusts
    #[arg(long, conflicts_with = "cafile")]
    pub tls_use_os_certs: bool,
    /// The client's certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// The client certificate's private key (PEM)
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    #[command(flatten)]
    pub will: WillArgs,
    #[command(flatten)]
    pub properties: Properties,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    pub help: Option<bool>,
}

#[derive(Debug, Args)]
pub struct WillArgs {
    /// The topic of the last will
    #[arg(long, value_name = "TOPIC", value_parser = parse_topic)]
    pub will_topic: Option<TopicName>,
    /// What the last will says [default: nothing]
    #[arg(long, value_name = "TEXT", requires = "will_topic")]
    pub will_payload: Option<String>,
    /// The quality of service of the last will
    #[arg(long, value_name = "QOS", default_value = "0", value_parser = parse_qos)]
    pub will_qos: QoS,
    /// Retain the last will
    #[arg(long, requires = "will_topic")]
    pub will_retain: bool,
}

pub fn parse_version(text: &str) -> Result<Version, &'static str> {
    match text {
        "311" | "mqttv311" => Ok(Version::V311),
        "5" | "mqttv5" => Ok(Version::V5),
        _ => Err("311 or 5"),
    }
}

pub fn parse_qos(text: &str) -> Result<QoS, &'static str> {
    text.parse().ok().and_then(QoS::from_bits).ok_or("0, 1 or 2")
}

pub fn parse_topic(text: &str) -> Result<TopicName, crate::mqtt::topic::TopicError> {
    TopicName::new(text)
}

impl ConnectArgs {
    /// `name` begins a client identifier that is made up. The error is a wrong usage.
    pub fn options(&self, name: &str) -> Result<Options, &'static str> {
        let has_properties = !self.properties.is_empty();
        let version = self.version.unwrap_or(if has_properties { Version::V5 } else { Version::V311 });
        if version == Version::V311 && has_properties {
            return Err("-D needs MQTT 5 (-V 5)");
        }
        let has_tls = self.cafile.is_some() || self.tls_use_os_certs || self.cert.is_some();
        let tls = has_tls
            .then(|| Tls { ca: self.cafile.clone(), identity: self.cert.clone().zip(self.key.clone()) });
        let port = self.port.unwrap_or(if has_tls { PORT_TLS_DEFAULT } else { PORT_DEFAULT });
        let server = Server { host: self.host.clone(), port, tls };
        Ok(Options { server, version, connect: self.connect(name) })
    }

    fn connect(&self, name: &str) -> Connect {
        let mut properties = self.properties.connect.clone();
        if self.keep_session {
            let asked = properties.get_or_insert_default();
            asked.session_expiry_interval = asked.session_expiry_interval.or(Some(SESSION_FOR_EVER));
        }
        let password = self.password.clone().unwrap_or_default();
        let random = || (0..RANDOM_ID_CHARACTERS).map(|_| fastrand::alphanumeric()).collect::<String>();
        Connect {
            client_id: self.id.clone().unwrap_or_else(|| format!("{name}{}", random())),
            clean_start: !self.keep_session,
            keep_alive: self.keep_alive,
            credentials: self.username.clone().map(|username| (username, password)),
            will: self.will(),
            properties,
        }
    }

    fn will(&self) -> Option<Will> {
        let topic = self.will.will_topic.as_ref()?;
        Some(Will {
            topic: topic.as_str().to_owned(),
            payload: Bytes::from(self.will.will_payload.clone().unwrap_or_default()),
            qos: self.will.will_qos,
            retain: self.will.will_retain,
            properties: self.properties.will(),
        })
    }
}
