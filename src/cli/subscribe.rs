//! `tidegate sub`: prints what arrives. Connects again when the connection goes; a QoS 2 message is printed when it
//! is released, once. Acknowledges only what was printed.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::base::time::Clock;
use crate::cli::message_format::Format;
use crate::cli::mqtt_args::{ConnectArgs, parse_qos};
use crate::cli::mqtt_client::{Client, ClientError, Options};
use crate::cli::mqtt_stream::plain;
use crate::cli::mqtt_wire::{Incoming, Outgoing, Publish, Subscribe};
use crate::cli::{block_on, fail, wrong_usage};
use crate::mqtt::qos::QoS;
use crate::mqtt::topic::{TopicError, TopicFilter};

/// `mosquitto_sub` ends so when `-W` is over.
const EXIT_TIMED_OUT: u8 = 27;
const RECONNECT_AFTER: Duration = Duration::from_secs(1);
/// The only identifier that this client gives out.
const SUBSCRIBE_ID: u16 = 1;

#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    after_help = "Examples:
  tidegate sub -t 'devices/#' -v
  tidegate sub -t 'devices/+/status' -C 1 -W 10         one message, or exit code 27 after 10 s
  tidegate sub -t '#' -F '%t %q %p'
  tidegate sub -h broker.example.com -q 1 -i me -c -t a --json"
)]
pub struct SubscribeArgs {
    /// A topic filter to subscribe to; may be given several times
    #[arg(short, long, value_name = "FILTER", required = true, value_parser = parse_filter)]
    topic: Vec<TopicFilter>,
    /// The highest quality of service to receive with: 0, 1 or 2
    #[arg(short, long, value_name = "QOS", default_value = "0", value_parser = parse_qos)]
    qos: QoS,
    /// End after so many messages
    #[arg(short = 'C', value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after so many seconds, with exit code 27
    #[arg(short = 'W', value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    wait: Option<u64>,
    /// Print the topic before the message
    #[arg(short, long)]
    verbose: bool,
    /// Print after a format, like '%t %q %p'
    #[arg(short = 'F', value_name = "FORMAT", conflicts_with_all = ["verbose", "json"])]
    format: Option<Format>,
    /// Print a JSON object a message
    #[arg(long, conflicts_with = "verbose")]
    json: bool,
    /// No line break behind a message
    #[arg(short = 'N')]
    no_line_break: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

fn parse_filter(text: &str) -> Result<TopicFilter, TopicError> {
    TopicFilter::new(text)
}

#[derive(Debug)]
enum SubscribeError {
    Client(ClientError),
    /// No filter was granted; the reason of the first.
    Refused(String),
    Output(io::Error),
}

impl fmt::Display for SubscribeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(error) => error.fmt(f),
            Self::Refused(reason) => write!(f, "the subscription was refused: {reason}"),
            Self::Output(error) => write!(f, "cannot print: {}", plain(error)),
        }
    }
}

impl From<ClientError> for SubscribeError {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

/// How it ended where nothing failed.
enum End {
    Done,
    TimedOut,
}

/// 0 after `-C` messages or a signal, 27 after `-W` seconds, 1 when it failed.
pub fn run(args: &SubscribeArgs) -> ExitCode {
    let options = match args.connect.options("sub") {
        Ok(options) => options,
        Err(error) => return wrong_usage(error),
    };
    match block_on(subscribe(args, &options)) {
        Ok(Ok(End::Done)) => ExitCode::SUCCESS,
        Ok(Ok(End::TimedOut)) => ExitCode::from(EXIT_TIMED_OUT),
        Ok(Err(error)) => fail(error),
        Err(error) => fail(error),
    }
}

async fn subscribe(args: &SubscribeArgs, options: &Options) -> Result<End, SubscribeError> {
    let mut printer = Printer::new(args);
    let timed_out = async {
        match args.wait {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            None => std::future::pending().await,
        }
    };
    let mut ending = std::pin::pin!(async {
        tokio::select! {
            () = timed_out => End::TimedOut,
            // Where signals cannot be watched, they end the process by themselves.
            Ok(()) = tokio::signal::ctrl_c() => End::Done,
        }
    });
    let mut session =
        Session { filters: filters(args), released_later: BTreeMap::new(), was_connected: false };
    loop {
        let ended = session.listen(args, options, &mut printer, ending.as_mut()).await;
        match ended {
            Err(SubscribeError::Client(error)) if session.was_connected && error.is_passing() => {
                eprintln!("error: {error}; connecting again");
            }
            Err(SubscribeError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                return Ok(End::Done);
            }
            ended => return ended,
        }
        tokio::select! {
            () = tokio::time::sleep(RECONNECT_AFTER) => {}
            end = ending.as_mut() => return Ok(end),
        }
    }
}

fn filters(args: &SubscribeArgs) -> Vec<String> {
    args.topic.iter().map(|filter| filter.as_str().to_owned()).collect()
}

struct Session {
    filters: Vec<String>,
    /// QoS 2 messages that wait for their PUBREL, by packet identifier: at most as many as there are identifiers.
    released_later: BTreeMap<u16, Publish>,
    /// A first connection that fails is an error and no reason to wait.
    was_connected: bool,
}

impl Session {
    /// One connection: until it goes, the count is reached or `ending` is.
    async fn listen(
        &mut self,
        args: &SubscribeArgs,
        options: &Options,
        printer: &mut Printer,
        mut ending: std::pin::Pin<&mut impl Future<Output = End>>,
    ) -> Result<End, SubscribeError> {
        let connected = tokio::select! {
            connected = Client::connect(options) => connected?,
            end = ending.as_mut() => return Ok(end),
        };
        let (mut client, connack) = connected;
        if !connack.session_present {
            self.released_later.clear();
        }
        let properties = args.connect.properties.subscribe.clone();
        let filters = self.filters.clone();
        client
            .feed(Outgoing::Subscribe(Subscribe { id: SUBSCRIBE_ID, filters, qos: args.qos, properties }))
            .await?;
        client.flush().await?;
        let end = loop {
            let packet = tokio::select! {
                packet = client.next() => packet?,
                end = ending.as_mut() => break end,
            };
            self.handle_packet(&mut client, packet, printer).await?;
            if printer.is_done() {
                break End::Done;
            }
        };
        // What was printed is acknowledged already: a failing farewell changes nothing.
        let _ = client.close().await;
        Ok(end)
    }

    async fn handle_packet(
        &mut self,
        client: &mut Client,
        packet: Incoming,
        printer: &mut Printer,
    ) -> Result<(), SubscribeError> {
        let answer = match packet {
            Incoming::Publish(message) => match message.qos {
                QoS::AtMostOnce => return printer.print(&message),
                QoS::AtLeastOnce => {
                    printer.print(&message)?;
                    Outgoing::Puback(message.id)
                }
                QoS::ExactlyOnce => {
                    let id = message.id;
                    self.released_later.insert(id, *message);
                    Outgoing::Pubrec(id)
                }
            },
            Incoming::Pubrel(id) => {
                if let Some(message) = self.released_later.remove(&id) {
                    printer.print(&message)?;
                }
                Outgoing::Pubcomp(id)
            }
            Incoming::Suback(SUBSCRIBE_ID, verdicts) => {
                self.was_connected = true;
                return check_granted(&self.filters, &verdicts);
            }
            _ => return Ok(()),
        };
        client.feed(answer).await?;
        Ok(client.flush().await?)
    }
}

/// A filter that is refused beside others is told and leaves the rest; an error is when none is left.
fn check_granted(filters: &[String], verdicts: &[Result<(), String>]) -> Result<(), SubscribeError> {
    let refused =
        filters.iter().zip(verdicts).filter_map(|(filter, verdict)| Some((filter, verdict.as_ref().err()?)));
    let refused: Vec<_> = refused.collect();
    if let (Some((_, reason)), true) = (refused.first(), refused.len() >= filters.len()) {
        return Err(SubscribeError::Refused((*reason).clone()));
    }
    for (filter, reason) in refused {
        eprintln!("error: the subscription to {filter} was refused: {reason}");
    }
    Ok(())
}

struct Printer {
    out: Box<dyn Write>,
    format: Format,
    ending: &'static [u8],
    left: Option<u64>,
    clock: Clock,
    line: Vec<u8>,
}

impl Printer {
    fn new(args: &SubscribeArgs) -> Self {
        let format = match &args.format {
            Some(format) => format.clone(),
            None if args.json => Format::json(),
            None if args.verbose => Format::topic_and_payload(),
            None => Format::payload(),
        };
        let ending = if args.no_line_break { b"".as_slice() } else { b"\n" };
        let out = Box::new(io::stdout());
        Self { out, format, ending, left: args.count, clock: Clock::start(), line: Vec::new() }
    }

    fn print(&mut self, message: &Publish) -> Result<(), SubscribeError> {
        if self.is_done() {
            return Ok(());
        }
        self.line.clear();
        self.format.render(&mut self.line, message, self.clock.now().wall);
        self.line.extend_from_slice(self.ending);
        let printed = self.out.write_all(&self.line).and_then(|()| self.out.flush());
        printed.map_err(SubscribeError::Output)?;
        self.left = self.left.map(|left| left.saturating_sub(1));
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.left == Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::{Format, Printer, Session, check_granted};
    use crate::base::time::Clock;
    use crate::cli::mqtt_client::tests::connected;
    use std::collections::BTreeMap;
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn qos_2_is_printed_at_its_release_and_once() {
        let paper = Paper::default();
        let mut printer = Printer {
            out: Box::new(paper.clone()),
            format: Format::topic_and_payload(),
            ending: b"\n",
            left: Some(2),
            clock: Clock::start(),
            line: Vec::new(),
        };
        let mut session = Session { filters: vec![], released_later: BTreeMap::new(), was_connected: true };
        let (mut client, mut peer) = connected().await;
        let publish_dup = [0x3c, 6, 0, 1, b't', 0, 7, b'x'];
        let exchanges: [(&[u8], &[u8]); 4] = [
            (&[0x34, 6, 0, 1, b't', 0, 7, b'x'], &[0x50, 2, 0, 7]),
            (&publish_dup, &[0x50, 2, 0, 7]),
            (&[0x62, 2, 0, 7], &[0x70, 2, 0, 7]),
            (&[0x62, 2, 0, 7], &[0x70, 2, 0, 7]),
        ];
        for (said, heard) in exchanges {
            peer.say(said).await;
            let packet = client.next().await.expect("a packet");
            session.handle_packet(&mut client, packet, &mut printer).await.expect("answered");
            peer.hear(heard).await;
        }
        assert_eq!(paper.0.lock().expect("no panic").as_slice(), b"t x\n");
        // QoS 1 is printed, then acknowledged; then the count is reached.
        peer.say(&[0x32, 6, 0, 1, b'u', 0, 8, b'y']).await;
        let packet = client.next().await.expect("a packet");
        session.handle_packet(&mut client, packet, &mut printer).await.expect("answered");
        peer.hear(&[0x40, 2, 0, 8]).await;
        assert!(printer.is_done());
        assert_eq!(paper.0.lock().expect("no panic").as_slice(), b"t x\nu y\n");
    }

    #[test]
    fn only_a_subscription_without_a_filter_left_is_an_error() {
        let filters = ["a".to_owned(), "b".to_owned()];
        let no = || Err("not authorized".to_owned());
        assert!(check_granted(&filters, &[Ok(()), no()]).is_ok());
        let error = check_granted(&filters, &[no(), no()]).expect_err("none is left");
        assert_eq!(error.to_string(), "the subscription was refused: not authorized");
    }
}
