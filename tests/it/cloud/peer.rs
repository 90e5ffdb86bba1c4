//! A subscriber in the cloud: rumqttc's own client, for as long as its connection holds.

use std::time::Duration;

use rumqttc::{AsyncClient, Event, MqttOptions, Packet, Publish, QoS};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;

const WAIT: Duration = Duration::from_secs(60);

pub struct Peer {
    received: UnboundedReceiver<Publish>,
    task: JoinHandle<()>,
}

impl Peer {
    /// Subscribed when it returns.
    pub async fn subscribe(port: u16, filter: &str) -> Peer {
        let (client, mut events) = AsyncClient::new(MqttOptions::new("peer", "127.0.0.1", port), 10);
        client.subscribe(filter, QoS::ExactlyOnce).await.expect("asks");
        let (sender, mut received) = unbounded_channel();
        let task = tokio::spawn(async move {
            let _keeps_it_open = client;
            while let Ok(event) = events.poll().await {
                match event {
                    // The subscription stands.
                    Event::Incoming(Packet::SubAck(_)) => {
                        let _ended = sender.send(Publish::new("", QoS::AtMostOnce, ""));
                    }
                    Event::Incoming(Packet::Publish(publish)) => {
                        let _ended = sender.send(publish);
                    }
                    _ => {}
                }
            }
        });
        tokio::time::timeout(WAIT, received.recv()).await.expect("SUBACK").expect("SUBACK");
        Peer { received, task }
    }

    pub async fn next(&mut self) -> Publish {
        tokio::time::timeout(WAIT, self.received.recv()).await.expect("a message").expect("a message")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
