//! WebSocket listeners: the handshake and its refusals, messages split and joined, what ends a connection.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::rustls::version::TLS13;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderValue, header};
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::client::{
    CONNECT, DISCONNECT, Framed, PATIENCE, PINGREQ, PINGRESP, Wire, connect, converse, receive, tcp, tls,
    tls_config,
};
use super::gateway::start;
use crate::cloud::authority::Authority;

const LISTENER: &str = "{ address: \"127.0.0.1:0\", transport: websocket }";

/// The stream and the subprotocol that was agreed on, or the status of the refusal.
async fn open<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    path: &str,
    headers: &[(header::HeaderName, &'static str)],
) -> Result<(WebSocketStream<S>, String), u16> {
    let mut request = format!("ws://localhost{path}").into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().append(name, HeaderValue::from_static(value));
    }
    match tokio::time::timeout(PATIENCE, client_async(request, stream)).await.expect("an answer") {
        Ok((stream, response)) => {
            let agreed = response.headers().get(header::SEC_WEBSOCKET_PROTOCOL).unwrap();
            Ok((stream, agreed.to_str().unwrap().to_owned()))
        }
        Err(Error::Http(response)) => Err(response.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

async fn client(address: SocketAddr) -> WebSocketStream<TcpStream> {
    let offer = [(header::SEC_WEBSOCKET_PROTOCOL, "mqtt")];
    open(tcp(address).await, "/mqtt", &offer).await.unwrap().0
}

async fn next(stream: &mut WebSocketStream<TcpStream>) -> Option<Result<Message, Error>> {
    tokio::time::timeout(PATIENCE, stream.next()).await.expect("an answer")
}

/// The code that the broker closes with; the stream ends after it.
async fn close_code(stream: &mut WebSocketStream<TcpStream>) -> CloseCode {
    let Some(Ok(Message::Close(Some(frame)))) = next(stream).await else { panic!("no close") };
    while next(stream).await.is_some_and(|result| result.is_ok()) {}
    frame.code
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_carry_mqtt_with_and_without_tls() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "ca");
    authority.issue("server", "localhost");
    let secure = "{ address: \"[::1]:0\", transport: websocket, path: /a/b, \
                  tls: { certificate: server.crt, private_key: server.key } }";
    let gateway = start(folder.path(), &format!("{LISTENER}, {secure}"), "always");
    let [plain, secure] = gateway.addresses()[..] else { panic!("two listeners") };
    let mut framed = Framed(client(plain).await);
    converse(&mut framed).await;
    let stream = tls(secure, tls_config(&authority.ca, &[&TLS13], None)).await.unwrap();
    let offer = [(header::SEC_WEBSOCKET_PROTOCOL, "mqtt")];
    let (stream, _) = open(stream, "/a/b?token=x", &offer).await.unwrap();
    converse(&mut Framed(stream)).await;
    gateway.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_are_answered() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = start(folder.path(), LISTENER, "loopback");
    let address = gateway.addresses()[0];
    let offer = header::SEC_WEBSOCKET_PROTOCOL;
    // Path, headers; status or subprotocol, and the return code of CONNACK.
    let cases = [
        ("/mqtt", vec![(offer.clone(), "mqtt")], Ok(("mqtt", 0))),
        ("/mqtt", vec![(offer.clone(), "mqttv3.1")], Ok(("mqttv3.1", 0))),
        ("/mqtt", vec![(offer.clone(), "mqttv3.1, mqtt")], Ok(("mqtt", 0))),
        ("/mqtt", vec![], Err(400)),
        ("/mqtt", vec![(offer.clone(), "chat")], Err(400)),
        ("/", vec![(offer.clone(), "mqtt")], Err(404)),
        ("/mqtt/", vec![(offer.clone(), "mqtt")], Err(404)),
        ("/mqtt", vec![(offer.clone(), "mqtt"), (header::ORIGIN, "http://localhost:8080")], Ok(("mqtt", 0))),
        ("/mqtt", vec![(offer.clone(), "mqtt"), (header::ORIGIN, "http://evil.example")], Ok(("mqtt", 5))),
    ];
    for (path, headers, wanted) in cases {
        let text = format!("{path} {headers:?}");
        match open(tcp(address).await, path, &headers).await {
            Ok((stream, agreed)) => {
                let code = connect(&mut Framed(stream)).await.unwrap();
                assert_eq!(Ok((agreed.as_str(), code)), wanted, "{text}");
            }
            Err(status) => assert_eq!(Err(status), wanted, "{text}"),
        }
    }
    // No HTTP at all, and a request that does not end, come to nothing.
    for request in [CONNECT.to_vec(), vec![b'x'; 100_000]] {
        let mut stream = tcp(address).await;
        stream.send(&request).await;
        assert_eq!(receive(&mut stream, 1).await, b"");
    }
    gateway.stop().await.unwrap();
}

/// [MQTT-6.0.0-2]
#[tokio::test(flavor = "multi_thread")]
async fn packets_are_split_and_joined_over_messages() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = start(folder.path(), LISTENER, "always");
    let mut framed = Framed(client(gateway.addresses()[0]).await);
    for byte in CONNECT {
        framed.send(&[*byte]).await;
    }
    assert_eq!(receive(&mut framed, 4).await, b"\x20\x02\x00\x00");
    framed.send(&[PINGREQ, PINGREQ, &PINGREQ[..1]].concat()).await;
    framed.send(b"").await;
    framed.send(&PINGREQ[1..]).await;
    assert_eq!(receive(&mut framed, 6).await, [PINGRESP, PINGRESP, PINGRESP].concat());
    // One message in two frames, with a ping between them.
    let stream = &mut framed.0;
    let first = Frame::message(PINGREQ[..1].to_vec(), OpCode::Data(Data::Binary), false);
    let last = Frame::message(PINGREQ[1..].to_vec(), OpCode::Data(Data::Continue), true);
    stream.feed(Message::Frame(first)).await.unwrap();
    stream.feed(Message::Ping(b"hi".to_vec().into())).await.unwrap();
    stream.send(Message::Frame(last)).await.unwrap();
    let (mut pong, mut answer) = (false, Vec::new());
    while !pong || answer.len() < 2 {
        match next(stream).await {
            Some(Ok(Message::Pong(bytes))) => pong = bytes[..] == *b"hi",
            Some(Ok(Message::Binary(bytes))) => answer.extend(bytes),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(answer, PINGRESP);
    gateway.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_end_with_a_word() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = start(folder.path(), LISTENER, "always");
    let address = gateway.addresses()[0];
    // [MQTT-6.0.0-1]
    let mut framed = Framed(client(address).await);
    assert_eq!(connect(&mut framed).await, Some(0));
    framed.0.send(Message::Text("hello".into())).await.unwrap();
    assert_eq!(close_code(&mut framed.0).await, CloseCode::Unsupported);
    // Larger than any packet may be.
    let mut stream = client(address).await;
    let head = Frame::message(vec![0; 2 << 20], OpCode::Data(Data::Binary), true);
    let _sent = stream.send(Message::Frame(head)).await;
    while next(&mut stream).await.is_some_and(|result| result.is_ok()) {}
    // The client says goodbye first, in MQTT or not.
    for goodbye in [DISCONNECT, b""] {
        let mut framed = Framed(client(address).await);
        assert_eq!(connect(&mut framed).await, Some(0));
        if goodbye.is_empty() {
            framed.0.send(Message::Close(None)).await.unwrap();
        } else {
            framed.send(goodbye).await;
        }
        let Some(Ok(Message::Close(_))) = next(&mut framed.0).await else { panic!("no close") };
        assert!(next(&mut framed.0).await.is_none());
    }
    gateway.stop().await.unwrap();
}

/// An end that nobody announces is an end.
#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_that_breaks_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = start(folder.path(), LISTENER, "always");
    let mut framed = Framed(client(gateway.addresses()[0]).await);
    assert_eq!(connect(&mut framed).await, Some(0));
    assert_eq!(gateway.hub().status().broker.connections, 1);
    drop(framed);
    let gone = async {
        while gateway.hub().status().broker.connections > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("noticed");
    gateway.stop().await.unwrap();
}
