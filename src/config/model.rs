//! The checked configuration: immutable, every value in range, every name resolved. Owns the shapes alone:
//! never reads a file and never meets a value that `check` has not seen.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::auth::Credentials;
use crate::auth::password::PasswordHash;
use crate::base::backoff::BackoffBounds;
use crate::base::time::Duration;
use crate::config::access::AccessRule;
use crate::config::batch::Batch;
use crate::config::instrument::Instrument;
use crate::config::limits::Limits;
use crate::config::listener::{Listener, ServerTls};
use crate::config::log::Log;
use crate::config::point::{Aggregate, BitField, Computed, Deadband, Label, WordOrder};
use crate::config::port::Port;
use crate::config::provider::Account;
use crate::config::secret::Secret;
use crate::config::sunspec::SunspecPoint;
use crate::config::template::TopicTemplate;
use crate::config::uplink::{BridgeUrl, Compression, Proxy, TlsFiles};
use crate::mqtt::packet::Version;
use crate::mqtt::qos::QoS;
use crate::mqtt::topic::{TopicFilter, TopicName};

/// Where the unit of systemd lets it write.
pub const DATA_DIR_DEFAULT: &str = "/var/lib/tidegate";

/// Everything that one gateway was told.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub gateway: Gateway,
    pub log: Log,
    /// None: no dashboard, API or metrics.
    pub http: Option<Http>,
    pub broker: Broker,
    /// Sorted by name.
    pub ports: Vec<Port>,
    /// Sorted by name. Large, so that who needs one shares it.
    pub devices: Vec<Arc<Device>>,
    /// Sorted by name, which is none of `devices`. Counted as devices behind them.
    pub instruments: Vec<Instrument>,
    /// Sorted by name.
    pub bridges: Vec<Bridge>,
    /// The file as JSON, to be shown: without secrets.
    pub written: Arc<str>,
    /// Files that are secret: nobody but the gateway and its group should read them.
    pub guarded: Arc<[PathBuf]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// `[A-Za-z0-9._-]+`
    pub id: Arc<str>,
    pub data_dir: PathBuf,
    pub durability: Durability,
    /// Bytes a day that may be written to flash; None: no limit.
    pub flash_budget_bytes: Option<u64>,
}

/// What a stored message survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// fsync before an acknowledgement.
    PowerLoss,
    /// A crash of the gateway, not of the machine.
    Process,
    /// Memory only.
    None,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// A loopback address where no `login` is set.
    pub address: SocketAddr,
    /// None: whoever is on this machine may look.
    pub login: Option<HttpLogin>,
    /// Asks for no client certificate. None: without encryption.
    pub tls: Option<ServerTls>,
}

/// The one user of dashboard and API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpLogin {
    pub username: Arc<str>,
    pub password_hash: PasswordHash,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    pub listeners: Vec<Listener>,
    pub anonymous: Anonymous,
    /// What clients that name a user, or bring a token, are held against.
    pub credentials: Credentials,
    /// The first rule that matches decides. None: everything is allowed.
    pub access: Option<Arc<[AccessRule]>>,
    pub limits: Limits,
    /// How often `$SYS` topics are published; None: never.
    pub sys_interval: Option<Duration>,
}

/// From where a client may connect that names no user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anonymous {
    Never,
    Loopback,
    Always,
}

impl Anonymous {
    pub const fn lets_in(self, loopback: bool) -> bool {
        match self {
            Self::Never => false,
            Self::Loopback => loopback,
            Self::Always => true,
        }
    }
}

/// A Modbus device. No two have the same link.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    /// `[A-Za-z0-9._-]+`
    pub name: Arc<str>,
    pub link: Link,
    /// How often a point is read that says nothing else; points hold their own already.
    pub poll: Duration,
    pub timeout: Duration,
    pub retries: u8,
    /// Failed polls in a row before the device counts as offline: at least 1.
    pub offline_after: u32,
    pub reconnect: BackoffBounds,
    /// Registers (or bits) between two points that are read along to spare a request.
    pub max_gap: u16,
    /// Registers in one request: 1 to 125. Bits have the standard's bound of 2000.
    pub max_registers: u16,
    /// Its points are announced to Home Assistant.
    pub homeassistant: bool,
    pub publish: Publish,
    /// In the order of the file; at least one.
    pub points: Vec<Point>,
    /// Each behind those that it is computed from.
    pub computed: Arc<[Computed]>,
}

/// Where a device answers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    /// Modbus RTU on `Config::ports[port]`; unit 1 to 247.
    Rtu { port: usize, unit: u8 },
    /// Modbus ASCII, the same way. The devices of one port all are of one kind.
    Ascii { port: usize, unit: u8 },
    /// Modbus TCP: `host:port`.
    Tcp { address: Arc<str>, unit: u8 },
    /// Modbus RTU frames on a TCP connection: `host:port`; unit 1 to 247.
    RtuOverTcp { address: Arc<str>, unit: u8 },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// With `{point}`: a message a point; without: one for the device.
    pub topic: TopicTemplate,
    pub format: Format,
    pub qos: QoS,
    pub retain: bool,
    pub when: When,
    /// With [`When::Change`]: say it again after so long. None: never.
    pub heartbeat: Option<Duration>,
    /// None: each reading is a message. With [`Format::Json`] alone, and never retained.
    pub batch: Option<Batch>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Json,
    Plain,
    /// Sparkplug B: the gateway is the edge node.
    Sparkplug,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    Change,
    Poll,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// `[A-Za-z0-9._-]+`
    pub name: Arc<str>,
    pub source: Source,
    /// [`ValueType::Bool`] for coils and discrete inputs, another one for registers.
    pub value_type: ValueType,
    /// Of the registers in a value of 32 or 64 bits.
    pub word_order: WordOrder,
    /// Of the bytes in a register.
    pub byte_order: Order,
    /// value = raw * scale + offset; never zero.
    pub scale: f64,
    /// The point, by its position, that says with which power of ten `scale` is to be multiplied.
    pub scale_from: Option<usize>,
    pub offset: f64,
    /// What stands for no value, as the bits of the type.
    pub invalid: Vec<u64>,
    /// Only with integers and bits. Empty: the value is the number.
    pub labels: Vec<Label>,
    /// Only with unsigned integers. Empty: the value is not taken apart.
    pub bits: Vec<BitField>,
    /// What the value is measured in.
    pub unit: Option<Arc<str>>,
    /// Decimal places, 0 to 15.
    pub round: Option<u8>,
    /// The least change that counts as one; None: any.
    pub deadband: Option<Deadband>,
    pub invert: bool,
    pub poll: Duration,
    pub aggregate: Option<Aggregate>,
    /// Said to the world, not only to other points.
    pub publish: bool,
    /// The point's own or its device's.
    pub heartbeat: Option<Duration>,
    /// Only ever with [`Table::Coil`] and [`Table::Holding`].
    pub writable: bool,
    pub min: Option<f64>,
    pub max: Option<f64>,
    /// It is named by its `SunSpec` model: source, type and sentinels are those of a unit that might be.
    pub sunspec: Option<Arc<SunspecPoint>>,
}

/// Where a point's bits or registers begin. All of them lie below 65,536.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    pub table: Table,
    /// Zero-based, as on the wire.
    pub address: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Table {
    Coil,
    Discrete,
    Holding,
    Input,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueType {
    Bool,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F32,
    F64,
    /// Binary coded decimal: a digit in each four bits.
    Bcd16,
    Bcd32,
    Bcd64,
    /// Two characters a register: 1 to 125 registers.
    String {
        registers: u16,
    },
}

impl ValueType {
    /// How many registers a value takes; for a coil or discrete input: bits.
    pub const fn registers(self) -> u16 {
        match self {
            Self::Bool | Self::U16 | Self::I16 | Self::Bcd16 => 1,
            Self::U32 | Self::I32 | Self::F32 | Self::Bcd32 => 2,
            Self::U64 | Self::I64 | Self::F64 | Self::Bcd64 => 4,
            Self::String { registers } => registers,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Big,
    Little,
}

/// A link to a cloud broker. No two have the same URL and client id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// `[A-Za-z0-9._-]+`
    pub name: Arc<str>,
    /// The server that is preferred.
    pub url: BridgeUrl,
    /// Those that are tried after it, in this order. With TLS where `url` is.
    pub fallbacks: Vec<BridgeUrl>,
    pub proxy: Option<Proxy>,
    /// 3.1.1 or 5.
    pub protocol: Version,
    pub client_id: Arc<str>,
    pub username: Option<Arc<str>>,
    pub password: Option<Secret>,
    /// What the cloud asks for in their place, where it has rules of its own.
    pub account: Account,
    /// All empty where the URL is without TLS.
    pub tls: TlsFiles,
    /// Whole seconds; zero: off.
    pub keep_alive: Duration,
    /// Unacknowledged messages at once: at least 1.
    pub inflight: u16,
    /// It stands in the file: then it counts for a 3.1.1 server too, which cannot say how many it takes.
    pub inflight_is_written: bool,
    /// Whole seconds.
    pub session_expiry: Duration,
    pub reconnect: BackoffBounds,
    /// Retained `online` and `offline`. None: nothing is said.
    pub status_topic: Option<TopicName>,
    /// The Sparkplug host without which nothing is sent.
    pub primary_host: Option<Arc<str>>,
    /// Local to cloud; every rule that matches applies.
    pub forward: Vec<ForwardRule>,
    /// Cloud to local.
    pub receive: Vec<ReceiveRule>,
    pub buffer: Buffer,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardRule {
    /// Never a shared one.
    pub filter: TopicFilter,
    pub to: TopicTemplate,
    /// The most it is sent with; None: as published.
    pub qos: Option<QoS>,
    pub retain: Retain,
    /// What happens to its messages where there is no room for them.
    pub when_full: WhenFull,
    /// Of the buffer, for this rule; None: no share of its own.
    pub size_bytes: Option<u64>,
    /// What is older when its turn comes is dropped. None: never.
    pub expiry: Option<Duration>,
    pub priority: Priority,
    pub order: ForwardOrder,
}

/// Which messages go first where some wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Priority {
    High,
    #[default]
    Normal,
    Low,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ForwardOrder {
    /// The messages of a topic stay in order.
    #[default]
    Topic,
    /// New ones go at once, and what had to wait behind them.
    LiveFirst,
}

/// What becomes of the retain flag on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retain {
    Keep,
    Clear,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiveRule {
    /// What the cloud is asked for.
    pub filter: TopicFilter,
    pub to: TopicTemplate,
    /// What the cloud is asked for; the default, 2, means as published.
    pub qos: QoS,
    /// What is older is refused. None: never.
    pub expiry: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buffer {
    pub size_bytes: u64,
    pub age: Duration,
    pub when_full: WhenFull,
    /// Of the file system, whatever `size_bytes` says.
    pub keep_free_bytes: u64,
    /// The longest that a message waits in memory before it is on disk.
    pub commit: Duration,
    pub compress: Compression,
    /// Buffered messages a second after an outage. None: as fast as the link takes.
    pub replay_rate: Option<NonZeroU32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    DropOldest,
    DropNewest,
    /// The publisher is told.
    Reject,
    /// Of each topic the newest stays.
    KeepLast,
    /// Of each topic every other one goes, the oldest first.
    Thin,
}

impl Config {
    /// `2 devices, 9 points, 1 bridge`
    pub fn summary(&self) -> String {
        let of_devices: usize = self.devices.iter().map(|device| device.points_named()).sum();
        let of_instruments: usize =
            self.instruments.iter().map(|device| device.points.len() + device.computed.len()).sum();
        format!(
            "{}, {}, {}",
            counted(self.devices.len() + self.instruments.len(), "device"),
            counted(of_devices + of_instruments, "point"),
            counted(self.bridges.len(), "bridge")
        )
    }
}

fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::counted;
    use crate::config::secret::Secret;

    #[test]
    fn counts_agree_with_their_nouns() {
        assert_eq!(counted(0, "bridge"), "0 bridges");
        assert_eq!(counted(1, "device"), "1 device");
        assert_eq!(counted(9, "point"), "9 points");
    }

    #[test]
    fn a_secret_never_shows() {
        let secret = Secret::new("s3cret");
        assert_eq!(format!("{secret:?}"), "***");
        assert_eq!(secret.reveal(), "s3cret");
    }
}
