//! One connection of another master: frames in, answers out by their transactions, in whatever order they come. Ends
//! with what is no Modbus TCP, with silence, and with a master that does not read.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::debug;

use crate::base::time::Duration;
use crate::bus::share::SharedLine;
use crate::bus::share::mbap::{FRAME_BYTES_MAX, Frame};
use crate::device::share::queue::Master;
use crate::device::share::{Answer, Question};

/// A master that asks nothing for so long, and waits for nothing, is disconnected: its place may be needed.
const IDLE_MAX: Duration = Duration::from_secs(10 * 60);
/// How long a master may take to take an answer.
const WRITE_MAX: Duration = Duration::from_secs(10);
/// What is read at once: several frames.
const READ_BYTES: usize = FRAME_BYTES_MAX * 4;

/// A master's place.
pub(super) struct Seat {
    pub(super) line: Arc<SharedLine>,
    pub(super) master: Master,
    pub(super) answers: mpsc::Receiver<Answer>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.line.leave(self.master);
    }
}

impl Seat {
    pub(super) async fn serve(self, stream: TcpStream) {
        let ended = match stream.set_nodelay(true) {
            Ok(()) => self.talk(stream).await,
            Err(error) => Err(error),
        };
        debug!(?ended, "a connection of another master ended");
    }

    async fn talk(mut self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
        let (mut incoming, mut outgoing) = (Vec::new(), Vec::new());
        let mut bytes = [0; READ_BYTES];
        loop {
            tokio::select! {
                Some(answer) = self.answers.recv() => {
                    outgoing.extend(frame_of(answer));
                    while let Ok(answer) = self.answers.try_recv() {
                        outgoing.extend(frame_of(answer));
                    }
                }
                read = timeout(IDLE_MAX, stream.read(&mut bytes)) => {
                    let Ok(read) = read else { return Err(io::ErrorKind::TimedOut.into()) };
                    let count = read?;
                    if count == 0 {
                        return Ok(());
                    }
                    incoming.extend_from_slice(bytes.get(..count).unwrap_or_default());
                    self.take_in(&mut incoming, &mut outgoing)?;
                }
            }
            if !outgoing.is_empty() {
                let written = timeout(WRITE_MAX, stream.write_all(&outgoing)).await;
                written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
                outgoing.clear();
            }
        }
    }

    /// All frames that are whole.
    fn take_in(&self, incoming: &mut Vec<u8>, outgoing: &mut Vec<u8>) -> io::Result<()> {
        while let Some(frame) = Frame::cut(incoming).map_err(|_| io::ErrorKind::InvalidData)? {
            let Frame { transaction, unit, pdu } = frame;
            let question = Question { master: self.master, transaction, unit, pdu: &pdu };
            if let Some(pdu) = self.line.ask(question) {
                outgoing.extend(Frame { transaction, unit, pdu }.bytes());
            }
        }
        Ok(())
    }
}

fn frame_of(answer: Answer) -> Vec<u8> {
    let Answer { transaction, unit, pdu, .. } = answer;
    Frame { transaction, unit, pdu }.bytes()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::{IDLE_MAX, Seat, WRITE_MAX};
    use crate::base::time::{Clock, Duration};
    use crate::bus::Endpoint;
    use crate::bus::share::SharedLine;
    use crate::config::port::Share;
    use crate::device::LineSettings;

    fn seat(line: &Arc<SharedLine>) -> Seat {
        let (master, answers) = line.admit().expect("a place");
        Seat { line: Arc::clone(line), master, answers }
    }

    fn line() -> Arc<SharedLine> {
        let endpoint = Endpoint::RtuOverTcp { address: "127.0.0.1:1".into() };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let share = Share { address, cache: Duration::ZERO, writes: false };
        let settings = LineSettings { gateway: "g".into(), devices: Vec::new() };
        Arc::new(SharedLine::new(("p".into(), share), &endpoint, &settings, Clock::start()))
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_nothing_for_long_is_disconnected() {
        let line = line();
        let (mut master, far) = duplex(1024);
        let talk = tokio::spawn(seat(&line).talk(far));
        let refused = [0, 1, 0, 0, 0, 6, 7, 6, 0, 0, 0, 1];
        let mut answer = [0; 9];
        for _ in 0..3 {
            tokio::time::sleep(IDLE_MAX / 2).await;
            master.write_all(&refused).await.expect("open");
            master.read_exact(&mut answer).await.expect("open");
            assert_eq!(answer, [0, 1, 0, 0, 0, 3, 7, 0x86, 1]);
        }
        assert_eq!(line.status().connections, 1);
        tokio::time::sleep(IDLE_MAX + Duration::from_secs(1)).await;
        assert!(talk.await.expect("no panic").is_err());
        assert_eq!(line.status().connections, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_is_disconnected() {
        let line = line();
        let (mut master, far) = duplex(64);
        let talk = tokio::spawn(seat(&line).talk(far));
        let refused = [0, 1, 0, 0, 0, 6, 7, 6, 0, 0, 0, 1].repeat(20);
        let began = tokio::time::Instant::now();
        // Fails when the other end is gone.
        let _ = master.write_all(&refused).await;
        assert!(talk.await.expect("no panic").is_err());
        assert!(began.elapsed() >= WRITE_MAX);
    }

    #[tokio::test]
    async fn what_is_no_modbus_tcp_ends_the_connection() {
        let (mut master, far) = duplex(1024);
        let talk = tokio::spawn(seat(&line()).talk(far));
        master.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("open");
        assert_eq!(master.read(&mut [0; 16]).await.expect("closed"), 0);
        assert!(talk.await.expect("no panic").is_err());
    }
}
