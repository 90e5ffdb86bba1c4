//! An agent for rumqttc, as `tests/interop/agents.py` describes it: lines on standard input and output. Drives the
//! library's clients of both protocol versions; judges nothing.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::io::{BufRead as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

/// Of requests that the library has not taken.
const REQUESTS_MAX: usize = 100;
const PACKET_BYTES_MAX: u32 = 1024 * 1024;
const KEEP_ALIVE: std::time::Duration = std::time::Duration::from_secs(60);
/// 3.1.1's return code of a refused subscription.
const REFUSED: i32 = 0x80;
/// The library does not tell.
const UNTOLD: i32 = -1;

/// One line that came: who is to be answered, what to do, and with what.
struct Request {
    id: String,
    verb: String,
    fields: HashMap<String, String>,
}

impl Request {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let (id, verb) = (words.next()?.to_owned(), words.next()?.to_owned());
        let fields = words.filter_map(|word| word.split_once('='));
        Some(Self { id, verb, fields: fields.map(|(key, value)| (key.into(), value.into())).collect() })
    }

    fn bytes(&self, key: &str) -> Option<Vec<u8>> {
        self.fields.get(key).map(|value| from_hex(value))
    }

    fn text(&self, key: &str) -> Option<String> {
        self.bytes(key).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    fn number<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        self.fields.get(key)?.parse().ok()
    }

    fn is(&self, key: &str) -> bool {
        self.fields.get(key).is_some_and(|value| value == "1")
    }

    fn user_properties(&self) -> Vec<(String, String)> {
        let pairs = self.fields.get("user").into_iter().flat_map(|pairs| pairs.split(','));
        let text = |hex: &str| String::from_utf8_lossy(&from_hex(hex)).into_owned();
        pairs.filter_map(|pair| pair.split_once(':')).map(|(key, value)| (text(key), text(value))).collect()
    }
}

fn from_hex(text: &str) -> Vec<u8> {
    let digit =
        |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok()).unwrap_or(0);
    text.as_bytes().chunks_exact(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn say(line: &str) {
    // Whoever reads may be gone.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Which request an acknowledgement answers. The library sends in the order of the requests.
#[derive(Default)]
struct Book {
    connect: Option<String>,
    disconnect: Option<String>,
    to_publish: VecDeque<String>,
    to_subscribe: VecDeque<String>,
    to_unsubscribe: VecDeque<String>,
    by_packet_id: HashMap<u16, String>,
}

type Shared = Arc<Mutex<Book>>;

fn open(book: &Shared) -> std::sync::MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Book {
    fn handle_sent(&mut self, packet_id: u16) {
        match self.to_publish.pop_front() {
            // QoS 0 has no acknowledgement.
            Some(id) if packet_id == 0 => answer(Some(id), 0),
            Some(id) => drop(self.by_packet_id.insert(packet_id, id)),
            None => {}
        }
    }

    fn handle_acknowledged(&mut self, packet_id: u16, reason: i32) {
        answer(self.by_packet_id.remove(&packet_id), reason);
    }
}

fn answer(id: Option<String>, reason: i32) {
    if let Some(id) = id {
        say(&format!("{id} done reason={reason}"));
    }
}

enum Client {
    V4(rumqttc::AsyncClient),
    V5(rumqttc::v5::AsyncClient),
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok()).unwrap_or(1883);
    let (sender, mut lines) = mpsc::channel(REQUESTS_MAX);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
        // The end of its input is the agent's end, whatever else it waits for.
        std::process::exit(0);
    });
    let book = Shared::default();
    let mut client = None;
    while let Some(line) = lines.recv().await {
        let Some(request) = Request::parse(&line) else { continue };
        if request.verb == "connect" {
            open(&book).connect = Some(request.id.clone());
            client = Some(if request.number("version") == Some(5) {
                Client::V5(v5::connect(&request, port, &book))
            } else {
                Client::V4(v4::connect(&request, port, &book))
            });
            continue;
        }
        note(&request, &mut open(&book));
        let is_taken = match &client {
            Some(Client::V4(client)) => v4::apply(client, &request).await.is_ok(),
            Some(Client::V5(client)) => v5::apply(client, &request).await.is_ok(),
            None => false,
        };
        if !is_taken {
            answer(Some(request.id), UNTOLD);
        }
    }
}

fn note(request: &Request, book: &mut Book) {
    let id = request.id.clone();
    match request.verb.as_str() {
        "publish" => book.to_publish.push_back(id),
        "subscribe" => book.to_subscribe.push_back(id),
        "unsubscribe" => book.to_unsubscribe.push_back(id),
        _ => book.disconnect = Some(id),
    }
}

mod v4 {
    //! MQTT 3.1.1.

    use rumqttc::{
        AsyncClient, ClientError, ConnectReturnCode, ConnectionError, Event, EventLoop, LastWill,
        MqttOptions, Outgoing, Packet, QoS, SubscribeReasonCode,
    };

    use super::{
        KEEP_ALIVE, PACKET_BYTES_MAX, REFUSED, REQUESTS_MAX, Request, Shared, UNTOLD, answer, open, say,
        to_hex,
    };

    pub(super) fn connect(request: &Request, port: u16, book: &Shared) -> AsyncClient {
        let mut options = MqttOptions::new(request.text("client").unwrap_or_default(), "127.0.0.1", port);
        let text = |key| request.text(key).unwrap_or_default();
        options
            .set_credentials(text("username"), text("password"))
            .set_clean_session(request.is("clean"))
            .set_keep_alive(KEEP_ALIVE)
            .set_max_packet_size(PACKET_BYTES_MAX as usize, PACKET_BYTES_MAX as usize);
        if let Some(topic) = request.text("will_topic") {
            options.set_last_will(LastWill::new(topic, text("will_payload"), QoS::AtLeastOnce, false));
        }
        let (client, events) = AsyncClient::new(options, REQUESTS_MAX);
        tokio::spawn(poll(events, Shared::clone(book)));
        client
    }

    pub(super) async fn apply(client: &AsyncClient, request: &Request) -> Result<(), ClientError> {
        let text = |key| request.text(key).unwrap_or_default();
        let qos = rumqttc::qos(request.number("qos").unwrap_or(0)).unwrap_or(QoS::AtMostOnce);
        match request.verb.as_str() {
            "publish" => {
                let payload = request.bytes("payload").unwrap_or_default();
                client.publish(text("topic"), qos, request.is("retain"), payload).await
            }
            "subscribe" => client.subscribe(text("filter"), qos).await,
            "unsubscribe" => client.unsubscribe(text("filter")).await,
            _ => client.disconnect().await,
        }
    }

    async fn poll(mut events: EventLoop, book: Shared) {
        loop {
            match events.poll().await {
                Ok(Event::Incoming(packet)) => handle_packet(packet, &book),
                Ok(Event::Outgoing(Outgoing::Publish(packet_id))) => open(&book).handle_sent(packet_id),
                Ok(Event::Outgoing(_)) => {}
                Err(error) => {
                    let mut book = open(&book);
                    answer(book.disconnect.take(), 0);
                    return answer(book.connect.take(), refusal(&error));
                }
            }
        }
    }

    fn refusal(error: &ConnectionError) -> i32 {
        match error {
            ConnectionError::ConnectionRefused(ConnectReturnCode::BadUserNamePassword) => 4,
            ConnectionError::ConnectionRefused(ConnectReturnCode::NotAuthorized) => 5,
            _ => UNTOLD,
        }
    }

    fn handle_packet(packet: Packet, book: &Shared) {
        let mut book = open(book);
        match packet {
            Packet::ConnAck(connack) => {
                if let Some(id) = book.connect.take() {
                    say(&format!("{id} done reason=0 present={}", u8::from(connack.session_present)));
                }
            }
            Packet::Publish(message) => say(&format!(
                "- message topic={} payload={} qos={} retain={}",
                to_hex(message.topic.as_bytes()),
                to_hex(&message.payload),
                message.qos as u8,
                u8::from(message.retain)
            )),
            Packet::PubAck(ack) => book.handle_acknowledged(ack.pkid, 0),
            Packet::PubComp(ack) => book.handle_acknowledged(ack.pkid, 0),
            Packet::SubAck(ack) => {
                let reason = match ack.return_codes.first() {
                    Some(SubscribeReasonCode::Success(qos)) => *qos as i32,
                    Some(SubscribeReasonCode::Failure) => REFUSED,
                    None => UNTOLD,
                };
                answer(book.to_subscribe.pop_front(), reason);
            }
            Packet::UnsubAck(_) => answer(book.to_unsubscribe.pop_front(), 0),
            _ => {}
        }
    }
}

mod v5 {
    //! MQTT 5.

    use std::fmt::Write as _;

    use rumqttc::Outgoing;
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::{
        ConnectReturnCode, Filter, LastWill, Packet, PubAckReason, PubRecReason, Publish, PublishProperties,
        SubscribeProperties, SubscribeReasonCode, UnsubAckReason,
    };
    use rumqttc::v5::{AsyncClient, ClientError, ConnectionError, Event, EventLoop, MqttOptions};

    use super::{
        KEEP_ALIVE, PACKET_BYTES_MAX, REFUSED, REQUESTS_MAX, Request, Shared, UNTOLD, answer, open, say,
        to_hex,
    };

    const NO_MATCHING_SUBSCRIBERS: i32 = 0x10;
    const NO_SUBSCRIPTION_EXISTED: i32 = 0x11;
    const BAD_USER_NAME_OR_PASSWORD: i32 = 0x86;
    const NOT_AUTHORIZED: i32 = 0x87;

    pub(super) fn connect(request: &Request, port: u16, book: &Shared) -> AsyncClient {
        let mut options = MqttOptions::new(request.text("client").unwrap_or_default(), "127.0.0.1", port);
        let text = |key| request.text(key).unwrap_or_default();
        options
            .set_credentials(text("username"), text("password"))
            .set_clean_start(request.is("clean"))
            .set_keep_alive(KEEP_ALIVE)
            .set_session_expiry_interval(request.number("expiry"))
            .set_max_packet_size(Some(PACKET_BYTES_MAX));
        if let Some(topic) = request.text("will_topic") {
            options.set_last_will(LastWill::new(topic, text("will_payload"), QoS::AtLeastOnce, false, None));
        }
        let (client, events) = AsyncClient::new(options, REQUESTS_MAX);
        tokio::spawn(poll(events, Shared::clone(book)));
        client
    }

    pub(super) async fn apply(client: &AsyncClient, request: &Request) -> Result<(), ClientError> {
        let text = |key| request.text(key).unwrap_or_default();
        let qos = match request.number("qos") {
            Some(1) => QoS::AtLeastOnce,
            Some(2) => QoS::ExactlyOnce,
            _ => QoS::AtMostOnce,
        };
        match request.verb.as_str() {
            "publish" => {
                let payload = request.bytes("payload").unwrap_or_default();
                let properties = publish_properties(request);
                client
                    .publish_with_properties(text("topic"), qos, request.is("retain"), payload, properties)
                    .await
            }
            "subscribe" => {
                let mut filter = Filter::new(text("filter"), qos);
                filter.nolocal = request.is("no_local");
                match request.number("identifier") {
                    Some(id) => {
                        let properties = SubscribeProperties { id: Some(id), user_properties: vec![] };
                        client.subscribe_many_with_properties([filter], properties).await
                    }
                    None => client.subscribe_many([filter]).await,
                }
            }
            "unsubscribe" => client.unsubscribe(text("filter")).await,
            _ => client.disconnect().await,
        }
    }

    fn publish_properties(request: &Request) -> PublishProperties {
        PublishProperties {
            payload_format_indicator: None,
            message_expiry_interval: request.number("expiry"),
            topic_alias: request.number("alias"),
            response_topic: request.text("response_topic"),
            correlation_data: request.bytes("correlation").map(Into::into),
            user_properties: request.user_properties(),
            subscription_identifiers: vec![],
            content_type: request.text("content_type"),
        }
    }

    async fn poll(mut events: EventLoop, book: Shared) {
        loop {
            match events.poll().await {
                Ok(Event::Incoming(packet)) => handle_packet(packet, &book),
                Ok(Event::Outgoing(Outgoing::Publish(packet_id))) => open(&book).handle_sent(packet_id),
                Ok(Event::Outgoing(_)) => {}
                Err(error) => {
                    let mut book = open(&book);
                    answer(book.disconnect.take(), 0);
                    return answer(book.connect.take(), refusal(&error));
                }
            }
        }
    }

    fn refusal(error: &ConnectionError) -> i32 {
        match error {
            ConnectionError::ConnectionRefused(ConnectReturnCode::BadUserNamePassword) => {
                BAD_USER_NAME_OR_PASSWORD
            }
            ConnectionError::ConnectionRefused(ConnectReturnCode::NotAuthorized) => NOT_AUTHORIZED,
            _ => UNTOLD,
        }
    }

    fn handle_packet(packet: Packet, book: &Shared) {
        let mut book = open(book);
        match packet {
            Packet::ConnAck(connack) => {
                if let Some(id) = book.connect.take() {
                    say(&format!("{id} done reason=0 present={}", u8::from(connack.session_present)));
                }
            }
            Packet::Publish(message) => say(&message_line(&message)),
            Packet::PubAck(ack) => {
                let reason = match ack.reason {
                    PubAckReason::Success => 0,
                    PubAckReason::NoMatchingSubscribers => NO_MATCHING_SUBSCRIBERS,
                    PubAckReason::NotAuthorized => NOT_AUTHORIZED,
                    _ => REFUSED,
                };
                book.handle_acknowledged(ack.pkid, reason);
            }
            // The others go on with PUBREL and end with PUBCOMP.
            Packet::PubRec(ack) if ack.reason == PubRecReason::NotAuthorized => {
                book.handle_acknowledged(ack.pkid, NOT_AUTHORIZED);
            }
            Packet::PubComp(ack) => book.handle_acknowledged(ack.pkid, 0),
            Packet::SubAck(ack) => {
                let reason = match ack.return_codes.first() {
                    Some(SubscribeReasonCode::Success(qos)) => *qos as i32,
                    Some(SubscribeReasonCode::NotAuthorized) => NOT_AUTHORIZED,
                    Some(_) => REFUSED,
                    None => UNTOLD,
                };
                answer(book.to_subscribe.pop_front(), reason);
            }
            Packet::UnsubAck(ack) => {
                let reason = match ack.reasons.first() {
                    Some(UnsubAckReason::Success) => 0,
                    Some(UnsubAckReason::NoSubscriptionExisted) => NO_SUBSCRIPTION_EXISTED,
                    Some(_) => REFUSED,
                    None => UNTOLD,
                };
                answer(book.to_unsubscribe.pop_front(), reason);
            }
            _ => {}
        }
    }

    fn message_line(message: &Publish) -> String {
        let mut line = format!(
            "- message topic={} payload={} qos={} retain={}",
            to_hex(&message.topic),
            to_hex(&message.payload),
            message.qos as u8,
            u8::from(message.retain)
        );
        let Some(given) = &message.properties else { return line };
        let text = |text: &Option<String>| text.as_ref().map(|text| to_hex(text.as_bytes()));
        let identifiers: Vec<String> = given.subscription_identifiers.iter().map(usize::to_string).collect();
        let pairs = given.user_properties.iter();
        let pairs: Vec<String> = pairs
            .map(|(key, value)| format!("{}:{}", to_hex(key.as_bytes()), to_hex(value.as_bytes())))
            .collect();
        let fields = [
            ("content_type", text(&given.content_type)),
            ("response_topic", text(&given.response_topic)),
            ("correlation", given.correlation_data.as_ref().map(|data| to_hex(data))),
            ("expiry", given.message_expiry_interval.map(|seconds| seconds.to_string())),
            ("identifier", (!identifiers.is_empty()).then(|| identifiers.join(","))),
            ("user", (!pairs.is_empty()).then(|| pairs.join(","))),
        ];
        for (key, value) in fields {
            if let Some(value) = value {
                let _ = write!(line, " {key}={value}");
            }
        }
        line
    }
}
