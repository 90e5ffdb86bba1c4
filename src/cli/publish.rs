//! `tidegate pub`: publishes what is given and ends when the broker has acknowledged all of it. Never sends a
//! message twice: what an end of the connection leaves open is an error.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use bytes::Bytes;
use clap::Args;
use rumqttc::v5::mqttbytes::v5::PublishProperties;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::cli::mqtt_args::{ConnectArgs, parse_qos, parse_topic};
use crate::cli::mqtt_client::{Client, ClientError, Options};
use crate::cli::mqtt_stream::plain;
use crate::cli::mqtt_wire::{Incoming, Outgoing, PACKET_BYTES_MAX, Publish};
use crate::cli::{block_on, fail, wrong_usage};
use crate::mqtt::qos::QoS;
use crate::mqtt::topic::TopicName;

/// Messages without an acknowledgement; the server's receive maximum may lower it.
const INFLIGHT_MAX: usize = 100;
/// Lines that were read and wait to be sent.
const QUEUED_LINES_MAX: usize = 256;

#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    after_help = "Examples:
  tidegate pub -t devices/main-meter/setpoint/set -m 21.5 -q 1
  tidegate pub -h broker.example.com -p 8883 --cafile ca.crt -u me -P secret -t a -m hello
  tidegate pub -V 5 -t a -m '{}' -D publish content-type application/json
  tidegate pub -t lines -l < lines.txt                  a message a line"
)]
pub struct PublishArgs {
    /// The topic to publish to
    #[arg(short, long, value_name = "TOPIC", value_parser = parse_topic)]
    topic: TopicName,
    #[command(flatten)]
    source: SourceArgs,
    /// The quality of service: 0, 1 or 2
    #[arg(short, long, value_name = "QOS", default_value = "0", value_parser = parse_qos)]
    qos: QoS,
    /// Ask the broker to retain it
    #[arg(short, long)]
    retain: bool,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct SourceArgs {
    /// The message
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    message: Option<String>,
    /// Send a file's contents
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Send each line of stdin that is not empty as a message
    #[arg(short = 'l', long)]
    stdin_line: bool,
    /// Send all of stdin as one message
    #[arg(short = 's', long)]
    stdin_file: bool,
    /// Send an empty message
    #[arg(short, long)]
    null_message: bool,
}

#[derive(Debug)]
enum PublishError {
    Client(ClientError),
    Read { name: String, error: io::Error },
    TooLarge(u64),
    Unfinished { error: ClientError, open: usize },
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(error) => error.fmt(f),
            Self::Read { name, error } => write!(f, "cannot read {name}: {}", plain(error)),
            Self::TooLarge(bytes) => {
                write!(f, "a message of {bytes} bytes is more than MQTT carries ({PACKET_BYTES_MAX})")
            }
            Self::Unfinished { error, open } => {
                write!(f, "{error}; messages without an acknowledgement: {open}")
            }
        }
    }
}

impl From<ClientError> for PublishError {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

/// 0 when everything was acknowledged, 1 when not.
pub fn run(args: &PublishArgs) -> ExitCode {
    let options = match args.connect.options("pub") {
        Ok(options) => options,
        Err(error) => return wrong_usage(error),
    };
    let outcome = block_on(publish(args, &options));
    let (published, refused) = match outcome {
        Ok(Ok(counts)) => counts,
        Ok(Err(error)) => return fail(error),
        Err(error) => return fail(error),
    };
    if args.json {
        // With stdout closed nobody waits for the line.
        let _ = writeln!(io::stdout(), "{{\"published\":{published},\"refused\":{refused}}}");
    }
    if refused == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// How many messages were taken and how many refused.
async fn publish(args: &PublishArgs, options: &Options) -> Result<(u64, u64), PublishError> {
    let mut payloads = args.source.open()?;
    let (mut client, connack) = Client::connect(options).await?;
    let mut flight = Flight {
        topic: args.topic.as_str().to_owned(),
        qos: args.qos,
        retain: args.retain,
        properties: args.connect.properties.publish.clone(),
        window: INFLIGHT_MAX.min(connack.receive_maximum.into()),
        open: BTreeMap::new(),
        last_id: 0,
        sent: 0,
        refused: 0,
    };
    flight.fly(&mut client, &mut payloads).await?;
    client.close().await?;
    Ok((flight.sent - flight.refused, flight.refused))
}

/// What is under way to the broker.
struct Flight {
    topic: String,
    qos: QoS,
    retain: bool,
    properties: PublishProperties,
    window: usize,
    /// By packet identifier, the number of the message from 1.
    open: BTreeMap<u16, u64>,
    last_id: u16,
    sent: u64,
    refused: u64,
}

impl Flight {
    async fn fly(
        &mut self,
        client: &mut Client,
        payloads: &mut Receiver<Result<Bytes, PublishError>>,
    ) -> Result<(), PublishError> {
        let mut has_ended = false;
        while !has_ended || !self.open.is_empty() {
            let has_room = self.open.len() < self.window;
            tokio::select! {
                payload = payloads.recv(), if !has_ended && has_room => match payload {
                    Some(payload) => self.send_batch(client, payloads, payload?).await?,
                    None => has_ended = true,
                },
                packet = client.next() => {
                    let packet = packet.map_err(|error| self.end_of(error))?;
                    self.handle_packet(client, packet).await?;
                }
            }
        }
        Ok(())
    }

    fn end_of(&self, error: ClientError) -> PublishError {
        match self.open.len() {
            0 => PublishError::Client(error),
            open => PublishError::Unfinished { error, open },
        }
    }

    /// Sends what is ready and fits the window, with one flush.
    async fn send_batch(
        &mut self,
        client: &mut Client,
        payloads: &mut Receiver<Result<Bytes, PublishError>>,
        first: Bytes,
    ) -> Result<(), PublishError> {
        let mut payload = first;
        loop {
            let publish = self.next_publish(payload);
            client.feed(Outgoing::Publish(Box::new(publish))).await?;
            if self.open.len() >= self.window {
                break;
            }
            let Ok(next) = payloads.try_recv() else { break };
            payload = next?;
        }
        Ok(client.flush().await?)
    }

    fn next_publish(&mut self, payload: Bytes) -> Publish {
        self.sent += 1;
        let id = if self.qos == QoS::AtMostOnce { 0 } else { self.take_id() };
        Publish {
            id,
            dup: false,
            qos: self.qos,
            retain: self.retain,
            topic: self.topic.clone(),
            payload,
            properties: self.properties.clone(),
        }
    }

    /// Ends: fewer are open than there are identifiers.
    fn take_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if !self.open.contains_key(&self.last_id) {
                self.open.insert(self.last_id, self.sent);
                return self.last_id;
            }
        }
    }

    async fn handle_packet(&mut self, client: &mut Client, packet: Incoming) -> Result<(), PublishError> {
        match packet {
            Incoming::Puback(id, verdict) => self.settle(id, verdict),
            // [MQTT-4.3.3-3]: only a PUBREC that takes the message is answered.
            Incoming::Pubrec(id, Ok(())) => {
                client.feed(Outgoing::Pubrel(id)).await?;
                client.flush().await?;
            }
            Incoming::Pubrec(id, refusal) => self.settle(id, refusal),
            Incoming::Pubcomp(id) => self.settle(id, Ok(())),
            // A kept session may hold messages for it: they stay there, unacknowledged.
            _ => {}
        }
        Ok(())
    }

    fn settle(&mut self, id: u16, verdict: Result<(), String>) {
        let Some(number) = self.open.remove(&id) else { return };
        if let Err(reason) = verdict {
            self.refused += 1;
            eprintln!("error: message {number} was refused: {reason}");
        }
    }
}

impl SourceArgs {
    /// The messages, in order; the end of the channel is the end of them.
    fn open(&self) -> Result<Receiver<Result<Bytes, PublishError>>, PublishError> {
        let (sender, payloads) = channel(QUEUED_LINES_MAX);
        if self.stdin_line {
            // A thread: a read of stdin cannot be given up, and must not hold the end of the process.
            std::thread::spawn(move || send_lines(&mut io::stdin().lock(), &sender));
            return Ok(payloads);
        }
        let payload = if let Some(text) = &self.message {
            Bytes::from(text.clone())
        } else if let Some(path) = &self.file {
            let unreadable = |error| PublishError::Read { name: path.display().to_string(), error };
            read_all(&mut std::fs::File::open(path).map_err(unreadable)?).map_err(unreadable)?
        } else if self.stdin_file {
            let unreadable = |error| PublishError::Read { name: "stdin".to_owned(), error };
            read_all(&mut io::stdin().lock()).map_err(unreadable)?
        } else {
            Bytes::new()
        };
        checked_size(&payload)?;
        // The channel is new: there is room, and its other end stands here.
        let _ = sender.try_send(Ok(payload));
        Ok(payloads)
    }
}

fn checked_size(payload: &Bytes) -> Result<(), PublishError> {
    let bytes = payload.len() as u64;
    if bytes > u64::from(PACKET_BYTES_MAX) { Err(PublishError::TooLarge(bytes)) } else { Ok(()) }
}

/// Stops one byte behind the bound, so that a source without an end is refused and not gathered.
fn read_all(source: &mut dyn Read) -> io::Result<Bytes> {
    let mut payload = Vec::new();
    source.take(u64::from(PACKET_BYTES_MAX) + 1).read_to_end(&mut payload)?;
    Ok(payload.into())
}

fn send_lines(source: &mut dyn BufRead, payloads: &Sender<Result<Bytes, PublishError>>) {
    loop {
        let mut line = Vec::new();
        let read = (&mut *source).take(u64::from(PACKET_BYTES_MAX) + 1).read_until(b'\n', &mut line);
        let payload = match read {
            Ok(0) => return,
            Ok(_) => Ok(Bytes::copy_from_slice(line.strip_suffix(b"\n").unwrap_or(&line))),
            Err(error) => Err(PublishError::Read { name: "stdin".to_owned(), error }),
        };
        let payload = payload.and_then(|payload| checked_size(&payload).map(|()| payload));
        let is_last = payload.is_err();
        let is_blank = payload.as_ref().is_ok_and(Bytes::is_empty);
        // A closed channel: nobody publishes any more.
        if !is_blank && (payloads.blocking_send(payload).is_err() || is_last) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Flight, PublishError, PublishProperties, send_lines};
    use crate::cli::mqtt_client::tests::connected;
    use crate::mqtt::qos::QoS;
    use std::collections::BTreeMap;

    #[test]
    fn lines_become_messages_and_blank_ones_do_not() {
        let (sender, mut payloads) = tokio::sync::mpsc::channel(8);
        send_lines(&mut b"one\n\n\xff\r\nlast".as_slice(), &sender);
        drop(sender);
        let mut read = Vec::new();
        while let Some(payload) = payloads.blocking_recv() {
            read.push(payload.expect("a line").to_vec());
        }
        assert_eq!(read, [b"one".to_vec(), b"\xff\r".to_vec(), b"last".to_vec()]);
    }

    fn flight(qos: QoS, window: usize) -> Flight {
        Flight {
            topic: "t".to_owned(),
            qos,
            retain: false,
            properties: PublishProperties::default(),
            window,
            open: BTreeMap::new(),
            last_id: 0,
            sent: 0,
            refused: 0,
        }
    }

    fn payloads(texts: &[&'static str]) -> super::Receiver<Result<super::Bytes, PublishError>> {
        let (sender, payloads) = tokio::sync::mpsc::channel(texts.len());
        for text in texts {
            sender.try_send(Ok((*text).into())).expect("room");
        }
        payloads
    }

    #[tokio::test]
    async fn qos_2_is_released_once_and_the_window_is_kept() {
        let (mut client, mut peer) = connected().await;
        let mut payloads = payloads(&["x", "y"]);
        let flying = tokio::spawn(async move {
            let mut flight = flight(QoS::ExactlyOnce, 1);
            flight.fly(&mut client, &mut payloads).await.map(|()| flight.sent)
        });
        peer.hear(&[0x34, 6, 0, 1, b't', 0, 1, b'x']).await;
        peer.say(&[0x50, 2, 0, 1]).await;
        // Nothing else in between: the second has to wait for the PUBCOMP.
        peer.hear(&[0x62, 2, 0, 1]).await;
        peer.say(&[0x70, 2, 0, 1]).await;
        peer.hear(&[0x34, 6, 0, 1, b't', 0, 2, b'y']).await;
        peer.say(&[0x50, 2, 0, 2]).await;
        peer.hear(&[0x62, 2, 0, 2]).await;
        peer.say(&[0x70, 2, 0, 2]).await;
        assert_eq!(flying.await.expect("no panic").expect("all acknowledged"), 2);
    }

    #[tokio::test]
    async fn what_is_open_when_the_connection_goes_is_counted() {
        let (mut client, mut peer) = connected().await;
        let mut payloads = payloads(&["x", "y"]);
        let flying =
            tokio::spawn(async move { flight(QoS::AtLeastOnce, 9).fly(&mut client, &mut payloads).await });
        peer.hear(&[0x32, 6, 0, 1, b't', 0, 1, b'x', 0x32, 6, 0, 1, b't', 0, 2, b'y']).await;
        peer.say(&[0x40, 2, 0, 1]).await;
        drop(peer);
        let error = flying.await.expect("no panic").expect_err("one is open").to_string();
        assert_eq!(error, "the server closed the connection; messages without an acknowledgement: 1");
    }

    #[test]
    fn identifiers_go_round_and_pass_by_those_in_use() {
        let mut flight = flight(QoS::AtLeastOnce, 3);
        flight.open = BTreeMap::from([(1, 1)]);
        flight.last_id = u16::MAX - 1;
        let ids: Vec<u16> = (0..2).map(|_| flight.next_publish("x".into()).id).collect();
        assert_eq!(ids, [u16::MAX, 2]);
        flight.settle(2, Err("quota exceeded".to_owned()));
        flight.settle(2, Ok(()));
        assert_eq!((flight.refused, flight.open.len()), (1, 2));
    }
}
