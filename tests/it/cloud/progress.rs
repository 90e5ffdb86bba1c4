//! Links that hardly carry anything: cut after some bytes, at any byte, again and again. The buffer drains all the same,
//! both ways, in order, and no message is taken for what breaks the link.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidegate::mqtt::qos::QoS;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::limits::{BOTH, Plant, first_of_each, numbers};
use super::strict::{Limits, Strict};

const MESSAGES: usize = 60;
const COMMANDS: usize = 20;
/// What a connection carries, both ways together: from nothing at all to some messages. 5 says more in its greeting.
const BYTES_MAX: [usize; 2] = [700, 400];

/// A relay whose connections end after so many bytes.
struct Miser {
    port: u16,
    cuts: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Miser {
    /// `bytes`: what the next connection may carry.
    async fn start(to: u16, mut bytes: impl FnMut() -> usize + Send + 'static) -> Miser {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("an address").port();
        let cuts = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&cuts);
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (counter, bytes) = (Arc::clone(&counter), bytes());
                tokio::spawn(async move {
                    let far = TcpStream::connect(("127.0.0.1", to)).await.expect("the server is there");
                    let _gone = relay(near, far, bytes).await;
                    counter.fetch_add(1, Ordering::Relaxed);
                });
            }
        });
        Miser { port, cuts, task }
    }
}

impl Drop for Miser {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn relay(mut near: TcpStream, mut far: TcpStream, mut left: usize) -> std::io::Result<()> {
    let (mut up, mut down) = ([0; 512], [0; 512]);
    while left > 0 {
        let (source, read) = tokio::select! {
            read = near.read(&mut up) => (true, read?),
            read = far.read(&mut down) => (false, read?),
        };
        let passing = read.min(left);
        left -= passing;
        if read == 0 {
            break;
        }
        if source {
            far.write_all(&up[..passing]).await?;
        } else {
            near.write_all(&down[..passing]).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_link_that_is_cut_at_any_byte_makes_progress_both_ways() {
    for ((protocol, _), bytes_max) in BOTH.into_iter().zip(BYTES_MAX) {
        let server = Strict::start(Limits::default()).await;
        let mut rng = fastrand::Rng::with_seed(7);
        let miser = Miser::start(server.port, move || rng.usize(0..bytes_max)).await;
        let keys = format!(
            "    protocol: {protocol}\n    forward: [{{ topic: 'x/#' }}]\n    receive: [{{ topic: 'down/#' }}]\n"
        );
        let mut plant = Plant::start_at(&format!("'mqtt://127.0.0.1:{}'", miser.port), &keys).await;
        plant.client.subscribe("down/#", QoS::AtMostOnce).await;
        let session = || server.seen(|seen| seen.subscribes.iter().any(|filter| filter == "down/#"));
        crate::gateway::client::until("it is subscribed", session).await;
        for number in 0..COMMANDS {
            server.publish("down/x", &number.to_string(), QoS::ExactlyOnce);
        }
        let mut commands = Vec::new();
        while commands.len() < COMMANDS {
            commands.push(String::from_utf8_lossy(&plant.client.message().await.1).into_owned());
        }
        assert_eq!(commands, numbers(COMMANDS), "{protocol}: each once, in order");
        plant.publish_mixed("x/1", MESSAGES).await;
        plant.until_drained().await;
        let payloads = server.seen(|seen| seen.payloads("x/1"));
        assert_eq!(first_of_each(payloads.clone()), numbers(MESSAGES), "{protocol}");
        let twice = numbers(MESSAGES)
            .into_iter()
            .skip(1)
            .step_by(2)
            .filter(|number| payloads.iter().filter(|p| *p == number).count() > 1);
        assert_eq!(twice.collect::<Vec<_>>(), Vec::<String>::new(), "{protocol}: QoS 2");
        let status = plant.status();
        assert_eq!((status.losses.total(), status.duplicates_possible), (0, 0));
        assert_eq!(server.owed(), 0);
        assert!(miser.cuts.load(Ordering::Relaxed) > 10, "{protocol}: it was no bad link");
        assert!(plant.status().degraded.is_empty(), "{:?}", plant.status().degraded);
        plant.stop().await;
    }
}
