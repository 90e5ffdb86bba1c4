//! A small MQTT client for `pub` and `sub`: connects, keeps the connection alive, sends and receives packets. Never
//! acknowledges and never reconnects: the command decides.

use std::fmt;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::codec::Framed;

use crate::cli::mqtt_stream::{self, Server, Stream, StreamError, plain};
use crate::cli::mqtt_wire::{Connack, Connect, Incoming, Outgoing, Version, WireCodec, WireError};

/// For the CONNACK.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// For the server to close after DISCONNECT.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// For what was sent to leave, and for a PINGRESP.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// Where to, as what, and with which words.
#[derive(Debug, Clone)]
pub struct Options {
    pub server: Server,
    pub version: Version,
    pub connect: Connect,
}

#[derive(Debug)]
pub enum ClientError {
    Connect {
        address: String,
        error: StreamError,
    },
    /// The server's reason in words.
    Refused {
        address: String,
        reason: String,
    },
    NoAnswer,
    NotMqtt(WireError),
    /// The connection ended, and why where it is known.
    Lost(Option<String>),
    /// The server said DISCONNECT.
    SentAway(String),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect { address, error } => {
                write!(f, "cannot connect to {address}: {error}{}", hint(error))
            }
            Self::Refused { address, reason } => write!(f, "{address} refused the connection: {reason}"),
            Self::NoAnswer => write!(f, "the server does not answer within {} s", ANSWER_TIMEOUT.as_secs()),
            Self::NotMqtt(error) => write!(f, "the server does not speak MQTT as expected: {error}"),
            Self::Lost(None) => f.write_str("the server closed the connection"),
            Self::Lost(Some(reason)) => write!(f, "the connection was lost: {reason}"),
            Self::SentAway(reason) => write!(f, "the server ended the connection: {reason}"),
        }
    }
}

/// What to look at first.
fn hint(error: &StreamError) -> &'static str {
    match error {
        StreamError::Connect(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            " (nobody listens there)"
        }
        StreamError::Connect(error) if error.to_string().contains("lookup") => {
            " (is the name right, and does a name server answer?)"
        }
        StreamError::Connect(_) | StreamError::TimedOut => " (is the address right, and the network up?)",
        _ => "",
    }
}

impl ClientError {
    /// Whether another try may do better: the network's faults, not the user's.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Lost(_) | Self::NoAnswer => true,
            Self::Connect { error, .. } => matches!(error, StreamError::Connect(_) | StreamError::TimedOut),
            Self::SentAway(reason) => reason.contains("shutting down") || reason.contains("busy"),
            Self::Refused { reason, .. } => reason.contains("unavailable") || reason.contains("busy"),
            Self::NotMqtt(_) => false,
        }
    }
}

impl From<WireError> for ClientError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Io(error) => Self::Lost(Some(plain(&error))),
            error => Self::NotMqtt(error),
        }
    }
}

pub struct Client {
    framed: Framed<Box<dyn Stream>, WireCodec>,
    keep_alive: Option<Duration>,
    last_sent: Instant,
    /// When the PINGREQ left that has no answer yet.
    ping_sent: Option<Instant>,
}

impl Client {
    /// Connects and waits for the CONNACK; a refusal is an error.
    pub async fn connect(options: &Options) -> Result<(Client, Connack), ClientError> {
        let Server { host, port, .. } = &options.server;
        let address = format!("{host}:{port}");
        let stream = match mqtt_stream::connect(&options.server).await {
            Ok(stream) => stream,
            Err(error) => return Err(ClientError::Connect { address, error }),
        };
        Self::greet(stream, options, address).await
    }

    async fn greet(
        stream: Box<dyn Stream>,
        options: &Options,
        address: String,
    ) -> Result<(Client, Connack), ClientError> {
        let framed = Framed::new(stream, WireCodec::new(options.version));
        let mut client = Client { framed, keep_alive: None, last_sent: Instant::now(), ping_sent: None };
        client.feed(Outgoing::Connect(Box::new(options.connect.clone()))).await?;
        client.flush().await?;
        let answer = timeout(ANSWER_TIMEOUT, client.next_packet()).await;
        match answer.map_err(|_| ClientError::NoAnswer)?? {
            Incoming::Connack(connack) => {
                if let Err(reason) = connack.verdict {
                    return Err(ClientError::Refused { address, reason });
                }
                let seconds = connack.keep_alive.unwrap_or(options.connect.keep_alive);
                client.keep_alive = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
                Ok((client, connack))
            }
            _ => Err(ClientError::NoAnswer),
        }
    }

    /// Puts a packet into the buffer, which is written when it is full or flushed.
    pub async fn feed(&mut self, packet: Outgoing) -> Result<(), ClientError> {
        let fed = timeout(FLUSH_TIMEOUT, self.framed.feed(packet)).await;
        Ok(fed.map_err(|_| stalled())??)
    }

    pub async fn flush(&mut self) -> Result<(), ClientError> {
        self.last_sent = Instant::now();
        let flushed = timeout(FLUSH_TIMEOUT, self.framed.flush()).await;
        Ok(flushed.map_err(|_| stalled())??)
    }

    /// The next packet; pings while it waits. Cancel-safe: a packet is lost in no case.
    pub async fn next(&mut self) -> Result<Incoming, ClientError> {
        loop {
            let deadline = self.next_deadline();
            let is_due = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            let packet = tokio::select! {
                packet = self.framed.next() => match packet {
                    None => return Err(ClientError::Lost(None)),
                    Some(packet) => packet?,
                },
                () = is_due => {
                    self.handle_deadline().await?;
                    continue;
                }
            };
            match packet {
                Incoming::Pingresp => self.ping_sent = None,
                Incoming::Disconnect(reason) => return Err(ClientError::SentAway(reason)),
                packet => return Ok(packet),
            }
        }
    }

    async fn next_packet(&mut self) -> Result<Incoming, ClientError> {
        match self.framed.next().await {
            None => Err(ClientError::Lost(None)),
            Some(packet) => Ok(packet?),
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        match self.ping_sent {
            Some(sent) => Some(sent + FLUSH_TIMEOUT),
            None => self.keep_alive.map(|period| self.last_sent + period),
        }
    }

    // [MQTT-3.1.2-20], with all of the half that the server adds to spare.
    async fn handle_deadline(&mut self) -> Result<(), ClientError> {
        if self.ping_sent.is_some() {
            return Err(ClientError::Lost(Some("no answer to a ping".to_owned())));
        }
        self.ping_sent = Some(Instant::now());
        self.feed(Outgoing::Pingreq).await?;
        self.flush().await
    }

    /// Says DISCONNECT and waits until the server has read it: a reset would take what it has not read yet.
    pub async fn close(mut self) -> Result<(), ClientError> {
        self.feed(Outgoing::Disconnect).await?;
        self.flush().await?;
        let wait_for_end = async {
            // What fails from here on fails after the server has everything.
            let _ = self.framed.close().await;
            while let Some(Ok(_)) = self.framed.next().await {}
        };
        let _ = timeout(CLOSE_TIMEOUT, wait_for_end).await;
        Ok(())
    }
}

fn stalled() -> ClientError {
    ClientError::Lost(Some(format!("nothing could be sent for {} s", FLUSH_TIMEOUT.as_secs())))
}

#[cfg(test)]
pub mod tests {
    use super::{Client, ClientError, Options};
    use crate::cli::mqtt_stream::Server;
    use crate::cli::mqtt_wire::{Connack, Connect, Version};
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::timeout;

    /// A broker whose every byte the test writes.
    pub struct Peer(DuplexStream);

    impl Peer {
        pub async fn say(&mut self, bytes: &[u8]) {
            self.0.write_all(bytes).await.expect("the client reads");
        }

        /// Waits for exactly these bytes.
        pub async fn hear(&mut self, bytes: &[u8]) {
            let mut heard = vec![0; bytes.len()];
            let all = timeout(Duration::from_secs(10), self.0.read_exact(&mut heard)).await;
            all.expect("in time").expect("as many bytes");
            assert_eq!(heard, bytes);
        }
    }

    const CONNECT_311: &[u8] = &[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 1, 0, 1, b'i'];

    async fn greet(connack: &[u8]) -> (Result<(Client, Connack), ClientError>, Peer) {
        let (near, far) = duplex(4096);
        let mut peer = Peer(far);
        let connect = Connect {
            client_id: "i".to_owned(),
            clean_start: true,
            keep_alive: 1,
            credentials: None,
            will: None,
            properties: None,
        };
        let server = Server { host: "peer".to_owned(), port: 1883, tls: None };
        let options = Options { server, version: Version::V311, connect };
        peer.say(connack).await;
        let greeted = Client::greet(Box::new(near), &options, "peer:1883".to_owned()).await;
        peer.hear(CONNECT_311).await;
        (greeted, peer)
    }

    /// A client of MQTT 3.1.1 and its broker, connected.
    pub async fn connected() -> (Client, Peer) {
        let (greeted, peer) = greet(&[0x20, 2, 0, 0]).await;
        (greeted.expect("a connection").0, peer)
    }

    #[tokio::test]
    async fn a_refusal_is_told_in_words() {
        let (greeted, _peer) = greet(&[0x20, 2, 0, 5]).await;
        let error = greeted.err().expect("refused").to_string();
        assert_eq!(error, "peer:1883 refused the connection: not authorized");
    }

    #[tokio::test]
    async fn silence_is_broken_by_a_ping_and_the_end_by_a_disconnect() {
        let (mut client, mut peer) = connected().await;
        let waiting = tokio::spawn(async move {
            let ended = client.next().await;
            (client, ended)
        });
        peer.hear(&[0xc0, 0]).await;
        peer.say(&[0xd0, 0, 0x40, 2, 0, 9]).await;
        let (client, packet) = waiting.await.expect("no panic");
        assert!(packet.is_ok(), "{packet:?}");
        let closing = tokio::spawn(client.close());
        peer.hear(&[0xe0, 0]).await;
        drop(peer);
        assert!(closing.await.expect("no panic").is_ok());
    }
}
