//! Gateways that are bridged to each other: a message goes to each of them once, and round no further.

use std::net::SocketAddr;

use tidegate::app::Gateway;
use tidegate::bridge::loops::echo;
use tidegate::bridge::status::LinkState;
use tidegate::mqtt::packet::Version;
use tidegate::mqtt::qos::QoS;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::client::{Client, config, connect, start, until};

const MESSAGES: usize = 20;

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// Each forwards all that is below `x` to those at `to`.
fn ring(folders: &[tempfile::TempDir], to: &[Vec<usize>]) -> Vec<Gateway> {
    let ports: Vec<u16> = folders.iter().map(|_| free_port()).collect();
    let gateways = folders.iter().enumerate().map(|(own, folder)| {
        let bridges = to[own].iter().map(|other| {
            let port = ports[*other];
            format!(
                "  to-{other}:\n    url: mqtt://127.0.0.1:{port}\n    client_id: from-{own}\n    status_topic: ''\n    \
                 reconnect: {{ min: 100ms, max: 200ms }}\n    forward: [{{ topic: 'x/#' }}]\n"
            )
        });
        let bridges: String = bridges.collect();
        let broker =
            format!("broker: {{ listeners: [{{ address: '127.0.0.1:{}' }}], sys_interval: 0s }}", ports[own]);
        start(config(folder.path(), &format!("{broker}\nbridges:\n{bridges}")))
    });
    gateways.collect()
}

async fn check_ring(to: &[Vec<usize>]) {
    let folders: Vec<_> = to.iter().map(|_| tempfile::tempdir().expect("a folder")).collect();
    let gateways = ring(&folders, to);
    for gateway in &gateways {
        let up = || gateway.hub().status().links.iter().all(|link| link.status.state == LinkState::Up);
        until("its links are up", up).await;
    }
    let mut viewers = Vec::new();
    for gateway in &gateways {
        let mut viewer = Client::connect(gateway.addresses()[0], connect("viewer", Version::V5)).await;
        viewer.subscribe("x/#", QoS::AtLeastOnce).await;
        viewers.push(viewer);
    }
    let mut publisher = Client::connect(gateways[0].addresses()[0], connect("publisher", Version::V5)).await;
    for number in 0..MESSAGES {
        publisher.publish("x/1", number.to_string()).await;
    }
    for viewer in &mut viewers {
        for number in 0..MESSAGES {
            assert_eq!(viewer.message().await, ("x/1".to_owned(), number.to_string().into()));
        }
    }
    // What comes back is dropped where it began; behind it, nothing more is on its way.
    let returned = || gateways[0].hub().status().broker.returned >= MESSAGES as u64;
    until("they came back", returned).await;
    publisher.publish("x/1", "last").await;
    for viewer in &mut viewers {
        assert_eq!(viewer.message().await, ("x/1".to_owned(), "last".into()));
    }
    publisher.part().await;
    for viewer in viewers {
        viewer.part().await;
    }
    for gateway in gateways {
        gateway.stop().await.expect("ends");
    }
}

#[tokio::test]
async fn two_gateways_that_forward_to_each_other() {
    check_ring(&[vec![1], vec![0]]).await;
}

#[tokio::test]
async fn three_gateways_in_a_ring() {
    check_ring(&[vec![1], vec![2], vec![0]]).await;
}

/// A server of 3.1.1 that knows no bridges: what goes through here to the gateway says so only when it says no more than
/// the version.
async fn serve_plainly(listener: TcpListener, behind: SocketAddr) {
    /// Where CONNECT has its protocol level, behind one byte of length.
    const LEVEL: usize = 8;
    while let Ok((mut near, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut first = vec![0; LEVEL + 1];
            near.read_exact(&mut first).await.expect("a CONNECT");
            if first[LEVEL] & 0xf0 != 0 {
                near.write_all(&[0x20, 2, 0, 1]).await.expect("writes");
                return;
            }
            let mut far = TcpStream::connect(behind).await.expect("connects");
            far.write_all(&first).await.expect("writes");
            let _ended = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        });
    }
}

/// A bridge that receives what it forwards gets each message back from a server that has neither No Local nor a place for a
/// mark: once and no further, and is warned of.
#[tokio::test]
async fn an_echo_over_3_1_1_goes_round_no_further_and_is_warned_of() {
    let (near, far) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let cloud =
        start(config(far.path(), "broker: { listeners: [{ address: '127.0.0.1:0' }], sys_interval: 0s }"));
    let plain = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let plain_port = plain.local_addr().expect("an address").port();
    let server = tokio::spawn(serve_plainly(plain, cloud.addresses()[0]));
    let port = cloud.addresses()[0].port();
    for (protocol, port, copies) in [("3.1.1", plain_port, 2), ("3.1.1", port, 1), ("5", port, 1)] {
        let bridge = format!(
            "broker: {{ listeners: [{{ address: '127.0.0.1:0' }}], sys_interval: 0s }}\nbridges:\n  cloud:\n    \
             url: mqtt://127.0.0.1:{port}\n    protocol: {protocol}\n    forward: [{{ topic: 'x/#' }}]\n    \
             receive: [{{ topic: 'x/+' }}]"
        );
        let config = config(near.path(), &bridge);
        let warning = echo(&config.bridges[0], "test");
        assert_eq!(warning.is_some(), protocol == "3.1.1", "{warning:?}");
        let gateway = start(config);
        let up = || gateway.hub().status().links.iter().all(|link| link.status.state == LinkState::Up);
        until("the link is up", up).await;
        let mut viewer = Client::connect(gateway.addresses()[0], connect("viewer", Version::V5)).await;
        viewer.subscribe("x/#", QoS::AtLeastOnce).await;
        let mut publisher = Client::connect(gateway.addresses()[0], connect("publisher", Version::V5)).await;
        for number in 0..MESSAGES {
            publisher.publish("x/1", number.to_string()).await;
        }
        let mut counts = [0; MESSAGES];
        for _ in 0..MESSAGES * copies {
            let (_, payload) = viewer.message().await;
            counts[String::from_utf8_lossy(&payload).parse::<usize>().expect("a number")] += 1;
        }
        assert_eq!(counts, [copies; MESSAGES]);
        let status = gateway.hub().status().links[0].status.clone();
        assert_eq!(status.forwarded, MESSAGES as u64, "none of them left again");
        viewer.ping().await;
        publisher.part().await;
        viewer.part().await;
        gateway.stop().await.expect("ends");
    }
    server.abort();
    cloud.stop().await.expect("ends");
}
