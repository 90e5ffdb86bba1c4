//! What a bridge counts of its link, beside what a proxy on that link counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidegate::bridge::status::LinkState;
use tidegate::mqtt::packet::Version;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::client::{Client, config, connect, start, until, with_limits};

const MESSAGES: u64 = 50;

/// Bytes towards the server and back.
#[derive(Default)]
struct Proxied {
    up: AtomicU64,
    down: AtomicU64,
}

async fn relay(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, counter: &AtomicU64) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        // Before it is seen behind the proxy.
        counter.fetch_add(count as u64, Ordering::SeqCst);
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

async fn proxy(server: std::net::SocketAddr) -> (std::net::SocketAddr, Arc<Proxied>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let proxied = Arc::new(Proxied::default());
    let counted = proxied.clone();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(server).await.unwrap();
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            let (up, down) = (counted.clone(), counted.clone());
            tokio::spawn(async move { relay(near_in, far_out, &up.up).await });
            tokio::spawn(async move { relay(far_in, near_out, &down.down).await });
        }
    });
    (address, proxied)
}

#[tokio::test]
async fn a_bridge_counts_the_bytes_that_pass() {
    for (protocol, number) in [("3.1.1", 1), ("5", 2)] {
        let (dir, far) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let cloud = start(with_limits(far.path(), ""));
        let (address, proxied) = proxy(cloud.addresses()[0]).await;
        let rest = format!(
            "broker: {{ listeners: [{{ address: 127.0.0.1:0 }}], sys_interval: 0s }}
bridges:
  cloud:
    url: mqtt://{address}
    protocol: \"{protocol}\"
    forward: [{{ topic: \"up/#\" }}]
    receive: [{{ topic: \"down/#\" }}]"
        );
        let gateway = start(config(dir.path(), &rest));
        let link = || gateway.hub().status().links[0].clone();
        until("the link is up", || link().status.state == LinkState::Up).await;
        let mut client = Client::connect(gateway.addresses()[0], connect("client", Version::V5)).await;
        let mut operator = Client::connect(cloud.addresses()[0], connect("operator", Version::V5)).await;
        for message in 0..MESSAGES {
            client.publish(&format!("up/{}", message % 5), vec![b'x'; 200 + number]).await;
            operator.publish("down/x", "y").await;
        }
        until("both ways", || {
            let status = link().status;
            status.forwarded >= MESSAGES && status.received >= MESSAGES
        })
        .await;
        let same = || {
            let counted = link().traffic;
            let (up, down) = (proxied.up.load(Ordering::SeqCst), proxied.down.load(Ordering::SeqCst));
            (counted.sent_bytes, counted.received_bytes) == (up, down)
        };
        until("the counts are those of the proxy", same).await;
        let counted = link().traffic;
        assert_eq!(counted.sent_messages, link().status.forwarded + 1, "each was sent once, and the status");
        let each = counted.sent_bytes_per_message().unwrap();
        assert!((200.0..300.0).contains(&each), "{each} bytes a message");
        client.part().await;
        operator.part().await;
        gateway.stop().await.unwrap();
        cloud.stop().await.unwrap();
    }
}
