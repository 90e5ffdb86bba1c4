//! A cloud broker that grants less than asked, over real sockets and for both versions of MQTT. Keeps sessions, and ends
//! the connection of whoever goes beyond one of its `Limits`, as real ones do. Decides no verdict.

#![allow(clippy::unwrap_used)] // a panic here is a failed test

#[path = "strict/serve.rs"]
mod serve;
#[path = "strict/session.rs"]
mod session;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tidegate::mqtt::packet::connect::{Connect, Role};
use tidegate::mqtt::packet::control::{Disconnect, DisconnectProperties};
use tidegate::mqtt::packet::publish::Publish;
use tidegate::mqtt::packet::{Packet, Version};
use tidegate::mqtt::qos::QoS;
use tidegate::mqtt::reason::ReasonCode;
use tidegate::mqtt::topic::TopicName;
use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;

use session::Session;

/// After so long, what a test waits for does not come.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a publication that is not allowed is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// PUBACK or PUBREC with this reason; 3.1.1 has no place for it, and is disconnected.
    Acknowledge(ReasonCode),
    /// DISCONNECT with this reason where the version has it, and the end of the connection.
    Leave(ReasonCode),
}

/// How a 3.1.1 server meets a protocol level that says more than the version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Levels {
    /// CONNACK 1, whatever comes.
    Refuses,
    /// No CONNACK.
    Closes,
    /// Knows bridges and refuses the rest, as Mosquitto.
    KnowsBridges,
    /// Looks at the lower four bits.
    Overlooks,
}

/// What CONNECT is told in place of success.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub reason: ReasonCode,
    pub reference: Option<String>,
}

/// Each is one thing that a server may grant less of. The default grants everything.
#[derive(Debug, Clone)]
#[allow(clippy::struct_excessive_bools)] // each is a flag of CONNACK
pub struct Limits {
    /// MQTT 5: CONNACK says what the limits are.
    pub announces: bool,
    pub maximum_qos: QoS,
    pub receive_maximum: u16,
    pub packet_bytes_max: Option<u32>,
    pub retain: bool,
    pub wildcards: bool,
    pub shared: bool,
    pub subscription_identifiers: bool,
    pub topic_alias_maximum: u16,
    pub topic_slashes_max: usize,
    pub too_deep: Answer,
    /// Topics that nobody may publish to, and how that is met.
    pub forbidden: BTreeMap<String, Answer>,
    /// Filters that nobody may subscribe to.
    pub forbidden_filters: BTreeMap<String, ReasonCode>,
    /// Filters that end the connection of who asks for one, with this word or without any.
    pub closed_filters: BTreeMap<String, Option<ReasonCode>>,
    /// A SUBSCRIBE of a higher QoS ends the connection without a word.
    pub subscribe_qos: QoS,
    /// PUBACK of the client comes to nothing.
    pub deaf: bool,
    pub server_keep_alive: Option<u16>,
    pub assigned_client_id: Option<&'static str>,
    /// The most, in seconds.
    pub session_expiry: Option<u32>,
    /// So many messages are still refused with 0x97.
    pub over_quota: usize,
    /// So long a client has to stay away between two connections.
    pub connect_interval: Duration,
    pub refusals: VecDeque<Refusal>,
    pub levels: Levels,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            announces: true,
            maximum_qos: QoS::ExactlyOnce,
            receive_maximum: u16::MAX,
            packet_bytes_max: None,
            retain: true,
            wildcards: true,
            shared: true,
            subscription_identifiers: true,
            topic_alias_maximum: 0,
            topic_slashes_max: usize::MAX,
            too_deep: Answer::Acknowledge(ReasonCode::TopicNameInvalid),
            forbidden: BTreeMap::new(),
            forbidden_filters: BTreeMap::new(),
            closed_filters: BTreeMap::new(),
            subscribe_qos: QoS::ExactlyOnce,
            deaf: false,
            server_keep_alive: None,
            assigned_client_id: None,
            session_expiry: None,
            over_quota: 0,
            connect_interval: Duration::ZERO,
            refusals: VecDeque::new(),
            levels: Levels::Refuses,
        }
    }
}

/// What happened, in order.
#[derive(Debug, Default)]
pub struct Seen {
    /// Messages that the server took, QoS 2 ones once.
    pub delivered: Vec<Publish>,
    pub connects: Vec<(Instant, Connect)>,
    /// CONNECTs that `Levels` turned away: they are not among the others.
    pub turned_away: Vec<Role>,
    /// CONNACK said that the session is there.
    pub resumed: usize,
    /// What ended a connection.
    pub violations: Vec<String>,
    pub subscribes: Vec<String>,
    /// Topics of messages that were not taken.
    pub tries: Vec<String>,
    /// Filters that ended a connection.
    pub closed: Vec<String>,
    /// Refused with 0x97.
    pub quota_refusals: Vec<Instant>,
    pub unacknowledged_max: usize,
    pub pings: usize,
}

impl Seen {
    /// Payloads of one topic, in order.
    pub fn payloads(&self, topic: &str) -> Vec<String> {
        let of = self.delivered.iter().filter(|p| p.topic.as_ref().is_some_and(|t| t.as_str() == topic));
        of.map(|publish| String::from_utf8_lossy(&publish.payload).into_owned()).collect()
    }
}

/// To a connection that stands.
enum Order {
    Send(Packet),
    Close,
}

#[derive(Default)]
struct State {
    limits: Limits,
    seen: Seen,
    sessions: BTreeMap<Arc<str>, Session>,
    /// By client: the connection that has its session, and its number.
    connected: BTreeMap<Arc<str>, (u64, UnboundedSender<Order>)>,
    connections: u64,
    last_end: Option<Instant>,
}

type Shared = Arc<Mutex<State>>;

fn lock(state: &Shared) -> MutexGuard<'_, State> {
    state.lock().expect("no panic inside")
}

pub struct Strict {
    pub port: u16,
    state: Shared,
    task: JoinHandle<()>,
}

impl Strict {
    pub async fn start(limits: Limits) -> Strict {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state: Shared = Arc::new(Mutex::new(State { limits, ..State::default() }));
        let task = tokio::spawn(serve::accept(listener, Arc::clone(&state)));
        Strict { port, state, task }
    }

    pub fn change(&self, change: impl FnOnce(&mut Limits)) {
        change(&mut lock(&self.state).limits);
    }

    pub fn seen<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&lock(&self.state).seen)
    }

    pub async fn until(&self, what: &str, holds: impl Fn(&Seen) -> bool) {
        let waited = tokio::time::timeout(PATIENCE, async {
            while !self.seen(&holds) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        if waited.await.is_err() {
            self.seen(|seen| {
                let payloads: Vec<_> = seen.delivered.iter().map(|p| (&p.topic, &p.payload)).collect();
                let (violations, connects) = (&seen.violations, seen.connects.len());
                panic!("waited in vain: {what}\n{payloads:?}\n{violations:?}\n{connects} connects");
            });
        }
    }

    /// All sessions are gone, as after a server's restart without persistence.
    pub fn lose_sessions(&self) {
        lock(&self.state).sessions.clear();
    }

    /// Every connection ends with these words.
    pub fn disconnect(&self, reason: ReasonCode, reference: Option<&str>) {
        let server_reference = reference.map(Into::into);
        let properties =
            reference.map(|_| Box::new(DisconnectProperties { server_reference, ..Default::default() }));
        let packet = Packet::Disconnect(Disconnect { reason, properties });
        for (_, connection) in lock(&self.state).connected.values() {
            let _gone = connection.send(Order::Send(packet.clone()));
            let _gone = connection.send(Order::Close);
        }
    }

    /// Every connection ends without a word.
    pub fn cut(&self) {
        for (_, connection) in lock(&self.state).connected.values() {
            let _gone = connection.send(Order::Close);
        }
    }

    /// To every session that subscribes.
    pub fn publish(&self, topic: &str, payload: &str, qos: QoS) {
        let topic = TopicName::new(topic).unwrap();
        let mut state = lock(&self.state);
        let state = &mut *state;
        for (client, session) in &mut state.sessions {
            let Some(packet) = session.publish(&topic, payload, qos) else { continue };
            if let Some((_, connection)) = state.connected.get(client) {
                let _gone = connection.send(Order::Send(packet));
            }
        }
    }

    /// How many messages no session has acknowledged.
    pub fn owed(&self) -> usize {
        lock(&self.state).sessions.values().map(Session::owed).sum()
    }
}

impl Drop for Strict {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whether the version tells reasons.
fn tells(version: Version) -> bool {
    version == Version::V5
}
