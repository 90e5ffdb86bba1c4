//! A proxy that cuts connections after a few milliseconds, often in one direction first.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::copy;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub struct Cutter {
    pub port: u16,
    pub cuts: Arc<AtomicUsize>,
    cutting: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Cutter {
    pub async fn start(to: u16, seed: u64) -> Cutter {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("an address").port();
        let (cuts, cutting) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(true)));
        let (counter, switch) = (Arc::clone(&cuts), Arc::clone(&cutting));
        let task = tokio::spawn(async move {
            let mut rng = fastrand::Rng::with_seed(seed);
            while let Ok((near, _)) = listener.accept().await {
                let life = if switch.load(Ordering::Relaxed) { rng.u64(3..60) } else { 3_600_000 };
                let first = rng.u8(0..3);
                let counter = Arc::clone(&counter);
                tokio::spawn(async move {
                    let far = TcpStream::connect(("127.0.0.1", to)).await.expect("the broker is there");
                    relay(near, far, Duration::from_millis(life), first).await;
                    counter.fetch_add(1, Ordering::Relaxed);
                });
            }
        });
        Cutter { port, cuts, cutting, task }
    }

    pub fn stop_cutting(&self) {
        self.cutting.store(false, Ordering::Relaxed);
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn relay(mut near: TcpStream, mut far: TcpStream, life: Duration, first: u8) {
    let (mut near_in, mut near_out) = near.split();
    let (mut far_in, mut far_out) = far.split();
    let (up, down) = (copy(&mut near_in, &mut far_out), copy(&mut far_in, &mut near_out));
    let early = life * 2 / 3;
    let (up_life, down_life) = match first {
        0 => (early, life),
        1 => (life, early),
        _ => (life, life),
    };
    let _cut = tokio::join!(timeout(up_life, up), timeout(down_life, down));
}
