//! Commands from a cloud to a device: a broker as the cloud, a bridge, a Modbus unit that writes down what it is told.
//! Answers go where the cloud asked for them, and what came too late or is retained is answered and never done.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate::app::Gateway;
use tidegate::bridge::status::LinkState;
use tidegate::mqtt::message::MessageProperties;
use tidegate::mqtt::packet::ack::Ack;
use tidegate::mqtt::packet::publish::Publish;
use tidegate::mqtt::packet::{Packet, Version};
use tidegate::mqtt::qos::QoS;
use tidegate::mqtt::topic::TopicName;

use super::client::{Client, config, connect, publish, start, until, with_limits};
use super::commands::{Manner, Shared, unit};

const ANSWERS: &str = "sites/test/answers/operator";
const PLAIN: &str = "commands/plain/devices/m/relay/set";
const FRESH: &str = "commands/fresh/devices/m/relay/set";

struct Plant {
    folders: [tempfile::TempDir; 2],
    cloud: Gateway,
    unit: Shared,
    device: SocketAddr,
}

impl Plant {
    async fn new() -> Self {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let cloud = start(with_limits(folders[0].path(), ""));
        let (unit, device) = unit().await;
        unit.lock().unwrap().manner = Manner::Sound;
        Self { folders, cloud, unit, device }
    }

    /// With its link up.
    async fn gateway(&self) -> Gateway {
        let gateway = start(config(self.folders[1].path(), &self.settings()));
        let up = || gateway.hub().status().links[0].status.state == LinkState::Up;
        until("the link is up", up).await;
        gateway
    }

    fn settings(&self) -> String {
        format!(
            "broker: {{ listeners: [{{ address: 127.0.0.1:0 }}], sys_interval: 0s }}
devices:
  m:
    modbus: {{ tcp: \"{}\", unit: 1 }}
    poll: 1h
    timeout: 200ms
    retries: 0
    reconnect: {{ min: 100ms, max: 300ms }}
    points: {{ relay: {{ holding: 0, type: u16, writable: true }} }}
bridges:
  cloud:
    url: mqtt://{}
    reconnect: {{ min: 100ms, max: 200ms }}
    forward:
      - {{ topic: \"answers/#\", to: \"sites/{{gateway}}/{{topic}}\" }}
      - {{ topic: \"devices/#\", to: \"sites/{{gateway}}/{{topic}}\" }}
    receive:
      - {{ topic: \"commands/plain/#\", to: \"{{rest}}\", qos: 2 }}
      - {{ topic: \"commands/fresh/#\", to: \"{{rest}}\", qos: 2, expiry: 60s }}
",
            self.device,
            self.cloud.addresses()[0]
        )
    }

    async fn operator(&self) -> Operator {
        let mut client = Client::connect(self.cloud.addresses()[0], connect("operator", Version::V5)).await;
        client.subscribe("sites/test/answers/#", QoS::AtLeastOnce).await;
        Operator { client, early: VecDeque::new(), last: None }
    }

    fn written(&self) -> Vec<u16> {
        self.unit.lock().unwrap().written.clone()
    }
}

/// A command that is to be answered on `ANSWERS`, with its number as correlation data.
fn command(topic: &str, number: u16, payload: &str) -> Publish {
    let Packet::Publish(publish) = publish(topic, QoS::AtLeastOnce, number, payload.to_owned()) else {
        panic!("a publish")
    };
    let properties = MessageProperties {
        response_topic: Some(TopicName::new(ANSWERS).unwrap()),
        correlation_data: Some(number.to_be_bytes().to_vec().into()),
        ..MessageProperties::default()
    };
    Publish { properties: Some(Box::new(properties)), ..publish }
}

/// Who commands, at the cloud.
struct Operator {
    client: Client,
    /// That came before the acknowledgement of a command.
    early: VecDeque<Publish>,
    last: Option<(u16, Value)>,
}

impl Operator {
    /// To its acknowledgement.
    async fn say(&mut self, publish: Publish) {
        self.client.send(&[Packet::Publish(publish)]).await;
        loop {
            match self.client.next().await {
                Some(Packet::Puback(_)) => return,
                Some(Packet::Publish(publish)) => self.early.push_back(publish),
                other => panic!("no PUBACK but {other:?}"),
            }
        }
    }

    /// The number of the command that is answered next, and the answer. Over a restart of the gateway one may come again,
    /// as QoS 1 allows.
    async fn answer(&mut self) -> (u16, Value) {
        loop {
            let answer = self.next_answer().await;
            if self.last.replace(answer.clone()).is_none_or(|last| last != answer) {
                return answer;
            }
        }
    }

    async fn next_answer(&mut self) -> (u16, Value) {
        let publish = match self.early.pop_front() {
            Some(publish) => publish,
            None => match self.client.next().await {
                Some(Packet::Publish(publish)) => publish,
                other => panic!("no answer but {other:?}"),
            },
        };
        if let Some(id) = publish.packet_id {
            self.client.send(&[Packet::Puback(Ack::success(id))]).await;
        }
        assert_eq!(publish.topic.unwrap().as_str(), ANSWERS);
        let correlation = publish.properties.and_then(|properties| properties.correlation_data).unwrap();
        let number = u16::from_be_bytes(correlation.as_ref().try_into().unwrap());
        (number, serde_json::from_slice(&publish.payload).unwrap())
    }
}

fn refused(why: &str) -> Value {
    json!({"ok": false, "error": format!("relay: {why}")})
}

#[tokio::test]
async fn an_answer_goes_where_the_cloud_asked_for_it() {
    let plant = Plant::new().await;
    let gateway = plant.gateway().await;
    let mut operator = plant.operator().await;
    operator.say(command(PLAIN, 1, "5")).await;
    assert_eq!(operator.answer().await, (1, json!({"value": 5, "ok": true})));
    operator.say(command("commands/plain/devices/m/pump/set", 2, "5")).await;
    assert_eq!(
        operator.answer().await,
        (2, json!({"ok": false, "error": "devices/m/pump/set: no such point"}))
    );
    assert_eq!(plant.written(), [5]);
    operator.client.part().await;
    gateway.stop().await.unwrap();
    plant.cloud.stop().await.unwrap();
}

#[tokio::test]
async fn a_command_that_is_too_old_is_answered_and_not_done() {
    let plant = Plant::new().await;
    let gateway = plant.gateway().await;
    let mut operator = plant.operator().await;
    // By the rule: it says itself how old it is.
    operator.say(command(FRESH, 1, r#"{"value":1,"time":"2020-01-01T00:00:00Z"}"#)).await;
    assert_eq!(operator.answer().await, (1, refused("the command has expired")));
    assert_eq!(gateway.hub().status().links[0].status.losses.received_expired, 1);
    operator.say(command(FRESH, 2, "2")).await;
    assert_eq!(operator.answer().await, (2, json!({"value": 2, "ok": true})));

    // Behind a dead device, which comes back too late.
    plant.unit.lock().unwrap().manner = Manner::Silent;
    let short = Publish { expiry_interval: Some(1), ..command(PLAIN, 3, "3") };
    operator.say(short).await;
    let (number, said) = operator.answer().await;
    assert_eq!((number, &said["ok"]), (3, &json!(false)));
    assert!(said["error"].as_str().is_some_and(|error| error.contains("has expired")), "{said}");

    // In our own session: on the disk, while the gateway is away.
    let short = Publish { expiry_interval: Some(2), ..command(PLAIN, 4, "4") };
    let told = plant.unit.lock().unwrap().told;
    operator.say(short).await;
    let sent = Instant::now();
    until("it was begun", || plant.unit.lock().unwrap().told > told).await;
    // Else the cloud may send it again, as QoS 1 allows.
    until("the cloud has it acknowledged", || plant.cloud.hub().status().broker.inflight == 0).await;
    gateway.stop().await.unwrap();
    until("its time is over", || sent.elapsed() > Duration::from_secs(2)).await;
    plant.unit.lock().unwrap().manner = Manner::Sound;
    let gateway = plant.gateway().await;
    let (number, said) = operator.answer().await;
    assert_eq!((number, &said["ok"]), (4, &json!(false)));
    assert!(said["error"].as_str().is_some_and(|error| error.contains("has expired")), "{said}");

    // In the cloud's session: the cloud drops it, so that nobody is there to answer.
    gateway.stop().await.unwrap();
    operator.say(Publish { expiry_interval: Some(1), ..command(PLAIN, 5, "5") }).await;
    operator.say(command(PLAIN, 6, "6")).await;
    let sent = Instant::now();
    until("its time is over", || sent.elapsed() > Duration::from_secs(2)).await;
    let gateway = plant.gateway().await;
    assert_eq!(operator.answer().await, (6, json!({"value": 6, "ok": true})));
    assert_eq!(plant.written(), [2, 6]);
    operator.client.part().await;
    gateway.stop().await.unwrap();
    plant.cloud.stop().await.unwrap();
}

#[tokio::test]
async fn a_retained_command_of_the_cloud_is_answered_and_not_done() {
    let plant = Plant::new().await;
    let mut operator = plant.operator().await;
    operator.say(Publish { retain: true, ..command(PLAIN, 1, "5") }).await;
    let gateway = plant.gateway().await;
    assert_eq!(operator.answer().await, (1, refused("a retained command is refused")));
    assert_eq!(plant.written(), [0_u16; 0]);
    operator.client.part().await;
    gateway.stop().await.unwrap();
    plant.cloud.stop().await.unwrap();
}
